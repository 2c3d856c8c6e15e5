"""Work over HTTP: submitting, waiting for, listing and ending tasks.

A task is named by its id or by any beginning of it that is unique. A wait is served at once where
the task settles soon (the usual case, and the one whose latency counts); a longer one also watches
for the client's hanging up, so that an abandoned wait holds nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import trio
from starlette.responses import Response

from kowalski_node.views import Accepted, OutputChunk, SessionView, TaskView, WhyView
from kowalski_protocol.errors import Problem
from kowalski_protocol.ids import TASK_ID_SIZE_BYTES
from kowalski_protocol.limits import LIMITS

from .answers import json_answer
from .bounds import BOUNDS
from .calls import EVENTS, JSON, Call, Route
from .event_stream import EventStream
from .inputs import (
    BatchAnswer,
    NoQuery,
    OutputQuery,
    ResultsAnswer,
    ResultsRequest,
    TaskRequest,
    TasksQuery,
    TaskSubmission,
    Waiting,
    WaitQuery,
)
from .sources import closing

_HEX: Final = frozenset("0123456789abcdef")
_ID_LENGTH: Final = 2 * TASK_ID_SIZE_BYTES


class TaskPage(msgspec.Struct, frozen=True):
    """GET /api/tasks."""

    tasks: list[TaskView]
    next: str | None
    """What to give as `after` for the next page; null on the last."""


async def submit(call: Call[NoQuery, dict[str, Any]]) -> Response:
    spec = call.body
    waiting = _waiting(spec)
    if waiting.wait_s is not None and waiting.min_replicas is None:
        first_s = min(waiting.wait_s, call.site.bounds.watch_after_s)
        view = await call.node.submit_and_wait(spec, first_s)
        return json_answer(await _wait_on(call, view, waiting.wait_s - first_s))
    accepted = (await call.node.submit([spec], min_replicas=waiting.min_replicas))[0]
    if waiting.wait_s is None:
        return json_answer(accepted, 202)
    return json_answer(await _wait(call, accepted.id, waiting.wait_s))


def _waiting(spec: dict[str, Any]) -> Waiting:
    """Takes the request's own fields out of the spec."""
    taken = {name: spec.pop(name) for name in ("wait_s", "min_replicas") if name in spec}
    if not taken:
        return Waiting()
    try:
        return msgspec.convert(taken, Waiting)
    except msgspec.ValidationError as error:
        raise Problem("bad_request", f"The body is not as it should be: {error}.") from None


async def submit_batch(call: Call[NoQuery, list[dict[str, Any]]]) -> Response:
    specs = call.body
    if len(specs) > LIMITS.tasks_per_batch_max:
        raise Problem(
            "too_large",
            f"One batch holds at most {LIMITS.tasks_per_batch_max:,} tasks, not {len(specs):,}.",
            mend="kowalski batch FILE.jsonl",
        )
    if not specs:
        return json_answer(BatchAnswer([], 0), 202)
    accepted = await call.node.submit(specs)
    answer = BatchAnswer([one.id for one in accepted], min(one.replicas for one in accepted))
    return json_answer(answer, 202)


async def results(call: Call[NoQuery, ResultsRequest]) -> Response:
    """Looks at all of the tasks, and waits where none has settled."""
    wait_until = trio.current_time() + call.body.wait_s
    while True:
        settled: list[msgspec.Raw] = []
        waiting_for = None
        size_bytes = 0
        for task_id in call.body.ids:
            view = await call.node.task(_full_id(call, task_id))
            if view.state != "settled":
                waiting_for = view.id
                continue
            settled.append(msgspec.Raw(msgspec.json.encode(view)))
            size_bytes += len(settled[-1])
            if size_bytes > call.site.bounds.results_size_bytes:
                break
        left_s = wait_until - trio.current_time()
        if settled or waiting_for is None or left_s <= 0 or call.site.stopping.is_set():
            return json_answer({"tasks": settled, "open": len(call.body.ids) - len(settled)})
        await call.node.wait(waiting_for, min(left_s, call.site.bounds.results_look_s))


async def list_tasks(call: Call[TasksQuery, None]) -> Response:
    query = call.query
    after = None if query.after is None else _full_id(call, query.after)
    tasks = await call.node.tasks(
        state=query.state, limit=query.limit, after=after, dead=query.dead
    )
    more = len(tasks) == query.limit
    return json_answer(TaskPage(tasks, tasks[-1].id if more else None))


async def list_sessions(call: Call[NoQuery, None]) -> Response:
    return json_answer(call.node.sessions())


async def get_task(call: Call[WaitQuery, None]) -> Response:
    task_id = _full_id(call, call.path["id"])
    if call.query.wait_s:
        return json_answer(await _wait(call, task_id, call.query.wait_s))
    return json_answer(await call.node.task(task_id))


async def cancel_task(call: Call[NoQuery, None]) -> Response:
    return json_answer(await call.node.cancel(_full_id(call, call.path["id"])), 202)


async def resubmit_task(call: Call[NoQuery, None]) -> Response:
    return json_answer(await call.node.resubmit(_full_id(call, call.path["id"])), 202)


async def why_task(call: Call[NoQuery, None]) -> Response:
    return json_answer(await call.node.why(_full_id(call, call.path["id"])))


async def task_output(call: Call[OutputQuery, None]) -> Response:
    task_id = _full_id(call, call.path["id"])
    ended: list[TaskView] = [await call.node.task(task_id)]

    async def output() -> AsyncIterator[OutputChunk]:
        async with closing(call.node.output(task_id, follow=call.query.follow)) as chunks:
            async for chunk in chunks:
                yield chunk
        ended[0] = await call.node.task(task_id)

    return EventStream(call.site, output(), lambda _: None, lambda: ended[0])


def _full_id(call: Call[Any, Any], given: str) -> str:
    """The id that is meant; Problem not_found or ambiguous_id."""
    wanted = given.lower()
    if not wanted or len(wanted) > _ID_LENGTH or not _HEX.issuperset(wanted):
        raise Problem("not_found", "A task's id is 32 hex digits, or the first few of them.")
    return wanted if len(wanted) == _ID_LENGTH else call.node.task_id(wanted)


async def _wait(call: Call[Any, Any], task_id: str, wait_s: float) -> TaskView:
    first_s = min(wait_s, call.site.bounds.watch_after_s)
    return await _wait_on(call, await call.node.wait(task_id, first_s), wait_s - first_s)


async def _wait_on(call: Call[Any, Any], view: TaskView, wait_s: float) -> TaskView:
    """Goes on waiting, unless the client hangs up or the node stops."""
    if view.state == "settled" or wait_s <= 0:
        return view
    problem: Problem | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when_gone, call, nursery.cancel_scope)
        nursery.start_soon(_cancel_when_stopping, call, nursery.cancel_scope)
        try:
            view = await call.node.wait(view.id, wait_s)
        except Problem as raised:  # it leaves by itself, not inside the nursery's group
            problem = raised
        nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem
    return view


async def _cancel_when_gone(call: Call[Any, Any], scope: trio.CancelScope) -> None:
    while (await call.request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _cancel_when_stopping(call: Call[Any, Any], scope: trio.CancelScope) -> None:
    await call.site.stopping.wait()
    scope.cancel()


GROUP: Final = "Work"
_ID_ERRORS: Final = ("not_found", "ambiguous_id")
_SUBMIT_ERRORS: Final = (
    "bad_request", "unknown_kind", "unknown_language", "unknown_tool", "not_supported",
    "impossible_requirement", "spec_too_large", "too_large", "key_conflict", "too_many_tasks",
    "not_allowed", "disk_full", "stopping", "not_ready", "unsupported_media_type",
)  # fmt: skip

TASK_ROUTES: Final[tuple[Route[Any, Any], ...]] = (
    Route(
        method="POST",
        path="/api/tasks",
        name="submit_task",
        group=GROUP,
        summary="Submits a task; answers once it is durable, or with wait_s once it has settled.",
        handler=submit,
        body=dict[str, Any],
        body_bytes_max=BOUNDS.task_body_bytes_max,
        body_media=JSON,
        documented_body=TaskSubmission,
        status=202,
        reply=Accepted,
        reply_200=TaskView,
        errors=_SUBMIT_ERRORS,
    ),
    Route(
        method="GET",
        path="/api/tasks",
        name="list_tasks",
        group=GROUP,
        summary="Tasks, newest first, a page at a time.",
        handler=list_tasks,
        query=TasksQuery,
        reply=TaskPage,
        errors=("bad_request", *_ID_ERRORS),
    ),
    Route(
        method="GET",
        path="/api/sessions",
        name="list_sessions",
        group=GROUP,
        summary="The sessions, the one that was used last first.",
        handler=list_sessions,
        reply=list[SessionView],
    ),
    Route(
        method="POST",
        path="/api/tasks/batch",
        name="submit_batch",
        group=GROUP,
        summary="Submits many tasks at once: all are accepted, or none.",
        handler=submit_batch,
        body=list[dict[str, Any]],
        body_bytes_max=BOUNDS.batch_body_bytes_max,
        body_media=JSON,
        documented_body=list[TaskRequest],
        status=202,
        reply=BatchAnswer,
        errors=_SUBMIT_ERRORS,
    ),
    Route(
        method="POST",
        path="/api/tasks/results",
        name="results",
        group=GROUP,
        summary="Those of many tasks that have settled; with wait_s it waits for the first.",
        handler=results,
        body=ResultsRequest,
        body_bytes_max=BOUNDS.small_body_bytes_max,
        body_media=JSON,
        reply=ResultsAnswer,
        errors=("bad_request", "too_large", "unsupported_media_type", *_ID_ERRORS),
    ),
    Route(
        method="GET",
        path="/api/tasks/{id}",
        name="get_task",
        group=GROUP,
        summary="A task and its result; with wait_s it answers when the task has settled.",
        handler=get_task,
        query=WaitQuery,
        reply=TaskView,
        errors=("bad_request", *_ID_ERRORS),
    ),
    Route(
        method="DELETE",
        path="/api/tasks/{id}",
        name="cancel_task",
        group=GROUP,
        summary="Asks for the end of a task; its device stops at once.",
        handler=cancel_task,
        status=202,
        reply=TaskView,
        errors=("already_settled", "not_allowed", "disk_full", *_ID_ERRORS),
    ),
    Route(
        method="POST",
        path="/api/tasks/{id}/resubmit",
        name="resubmit_task",
        group=GROUP,
        summary="Submits a task that has ended once more, as a new one.",
        handler=resubmit_task,
        status=202,
        reply=Accepted,
        errors=("not_settled", *_SUBMIT_ERRORS, *_ID_ERRORS),
    ),
    Route(
        method="GET",
        path="/api/tasks/{id}/why",
        name="why_task",
        group=GROUP,
        summary="The story of a task, told from the ledger.",
        handler=why_task,
        reply=WhyView,
        errors=_ID_ERRORS,
    ),
    Route(
        method="GET",
        path="/api/tasks/{id}/output",
        name="task_output",
        group=GROUP,
        summary="What the task prints, live; the last event, `end`, carries the task.",
        handler=task_output,
        query=OutputQuery,
        reply=OutputChunk,
        reply_media=EVENTS,
        errors=("bad_request", *_ID_ERRORS),
    ),
)  # fmt: skip
