"""The node as its surfaces see it: `NodePort` over the core, the store and the blobs.

Requests become inputs with a ticket; the core's answer comes back through the pipeline after the
commit that it depends on. Reading goes straight to the state, which is always a consistent whole
between two steps.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec
import trio

from kowalski_ledger.port import EventStore
from kowalski_ledger.state import Task
from kowalski_protocol.codec import Malformed, decode, decode_body
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import DEAD_OUTCOMES, Result, TaskSubmitted
from kowalski_protocol.feeds import Feed
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.tasks import Submission, TaskSpec, again, decode_spec, parse_task
from kowalski_protocol.topics import RESULT, TASK

from .attachments import Attachments
from .blobs import Blobs
from .core.effects import Answer
from .core.inputs import Admit, Cancel, Input, SetWeights, Submit
from .core.node import Node
from .core.scoring import DEFAULT_WEIGHTS, PARTS
from .door import Door
from .graph_views import graph_views
from .outputs import Outputs
from .pipeline import Pipeline
from .viewing import (
    cluster_view,
    event_view,
    result_view,
    session_views,
    shown_attempt,
    task_view,
)
from .views import (
    Accepted,
    ClusterView,
    ErrorView,
    EventView,
    GraphTaskView,
    InviteView,
    OutputChunk,
    SessionView,
    TaskView,
    WhyView,
)
from .why import story

SPECS_MAX = 20_000
SUBMIT_CHUNK = 500
"""Tasks handed to the core at once; between chunks heartbeats and others get their turn."""
ANSWER_TIMEOUT_S = 60.0
EVENTS_PAGE = 500

_result_decoder = msgspec.msgpack.Decoder(Result)


class Service:
    """Implements `port.NodePort`."""

    def __init__(
        self,
        node: Node,
        pipeline: Pipeline,
        store: EventStore,
        blobs: Blobs,
        door: Door,
        outputs: Outputs,
        network: Any,
        problems: dict[str, ErrorView],
    ) -> None:
        self._node = node
        self._pipeline = pipeline
        self._store = store
        self._blobs = blobs
        self._door = door
        self._outputs = outputs
        self._network = network
        self._problems = problems
        """What is wrong with this device, by what it concerns; shown as warnings."""
        self.attachments = Attachments()
        self._specs: OrderedDict[TaskId, TaskSpec] = OrderedDict()
        self._tickets: dict[int, tuple[trio.Event, list[Answer]]] = {}
        self._ticket = 0
        self.refused = 0
        """What others sent that was no good, since the start."""
        self._waiters: dict[TaskId, trio.Event] = {}
        self._grown = trio.Event()

    # What the pipeline tells.

    def answered(self, answer: Answer) -> None:
        """The core has answered a request."""
        waiting = self._tickets.get(answer.ticket)
        if waiting is not None:
            waiting[1].append(answer)
            waiting[0].set()

    def settled(self, task: TaskId) -> None:
        """A task's end is durable."""
        waiter = self._waiters.pop(task, None)
        if waiter is not None:
            waiter.set()

    def ledger_grew(self) -> None:
        """Events were committed."""
        self._grown.set()
        self._grown = trio.Event()

    async def _ask(self, input: Input, ticket: int) -> Any:
        arrived = trio.Event()
        answers: list[Answer] = []
        self._tickets[ticket] = (arrived, answers)
        try:
            self._pipeline.feed(input)
            with trio.move_on_after(ANSWER_TIMEOUT_S):
                await arrived.wait()
        finally:
            del self._tickets[ticket]
        if not answers:
            raise Problem("internal", "The node did not answer in time; the log may say why.")
        if answers[0].problem is not None:
            raise answers[0].problem
        return answers[0].value

    def _next_ticket(self) -> int:
        self._ticket += 1
        return self._ticket

    # Tasks.

    def ready(self) -> bool:
        return self._node.open and not self._node.stopping

    async def submit(
        self, specs: Sequence[Mapping[str, Any]], *, min_replicas: int | None = None
    ) -> list[Accepted]:
        answers = await self._submit(specs, min_replicas, wait_for_replica=True)
        return [Accepted(id.hex(), replicas) for id, replicas in answers]

    async def submit_and_wait(self, spec: Mapping[str, Any], wait_s: float) -> TaskView:
        """One task, answered when it is settled or the time is over."""
        (answer,) = await self._submit([spec], None, wait_for_replica=False)
        return await self.wait(answer[0].hex(), wait_s)

    async def _submit(
        self,
        specs: Sequence[Mapping[str, Any]],
        min_replicas: int | None,
        *,
        wait_for_replica: bool,
    ) -> list[tuple[TaskId, int]]:
        limits = self._node.config.limits
        if len(specs) > limits.tasks_per_batch_max:
            raise Problem(
                "spec_too_large",
                f"A batch holds at most {limits.tasks_per_batch_max:,} tasks, not {len(specs):,}.",
            )
        submissions: list[Submission] = []
        for index, spec in enumerate(specs):
            try:
                submissions.append(parse_task(spec, limits))
            except Problem as problem:
                where = f"Task {index} of the list: " if len(specs) > 1 else ""
                raise Problem(problem.code, where + problem.sentence, mend=problem.mend) from None
            if index % SUBMIT_CHUNK == SUBMIT_CHUNK - 1:
                await trio.lowlevel.checkpoint()
        return await self._accept(submissions, min_replicas, wait_for_replica=wait_for_replica)

    async def _accept(
        self,
        submissions: Sequence[Submission],
        min_replicas: int | None,
        *,
        wait_for_replica: bool,
    ) -> list[tuple[TaskId, int]]:
        ticket = self._next_ticket()
        keys = _cut(secrets.token_bytes(16 * len(submissions)), 16)
        answer: list[tuple[TaskId, int]] = await self._ask(
            Submit(ticket, submissions, keys, min_replicas, wait_for_replica), ticket
        )
        for (id, _), submission in zip(answer, submissions, strict=True):
            self._specs[id] = submission.spec
        while len(self._specs) > SPECS_MAX:
            self._specs.popitem(last=False)
        return answer

    def _task(self, task_id: str) -> Task:
        try:
            task = self._node.state.tasks.get(TaskId(bytes.fromhex(task_id)))
        except ValueError:
            task = None
        if task is None or task.submitted_hash is None:
            raise Problem("not_found", f"There is no task {task_id[:40]!r} in this ledger.")
        return task

    async def wait(self, task_id: str, wait_s: float) -> TaskView:
        task = self._task(task_id)
        if not self._node.book.is_settled(task):
            waiter = self._waiters.setdefault(task.id, trio.Event())
            with trio.move_on_after(max(0.0, wait_s)):
                await waiter.wait()
        return await self._view(task)

    def task_id(self, prefix: str) -> str:
        if len(prefix) == 32:
            return self._task(prefix).id.hex()
        if len(prefix) < 4 or any(c not in "0123456789abcdef" for c in prefix):
            raise Problem(
                "not_found", "A task is named by its id, or at least its first 4 characters."
            )
        found = [
            id.hex()
            for id, task in self._node.state.tasks.items()
            if task.submitted_hash is not None and id.hex().startswith(prefix)
        ]
        if not found:
            raise Problem("not_found", f"No task begins with {prefix!r}.")
        if len(found) > 1:
            raise Problem(
                "ambiguous_id", f"{len(found)} tasks begin with {prefix!r}; say more of it."
            )
        return found[0]

    def sessions(self) -> list[SessionView]:
        return session_views(self._node)

    async def task(self, task_id: str) -> TaskView:
        return await self._view(self._task(task_id))

    async def resubmit(self, task_id: str) -> Accepted:
        task = self._task(task_id)
        if task.settled is None:
            raise Problem("not_settled", "The task is still under way, so it is not run again.")
        event = await self._store.event(Feed(task.submitter, TASK), task.submitted_seq)
        if event is None or event.attachment is None:
            raise Problem("not_found", "The task's payload is no longer in this ledger.")
        submission = again(await self._spec(task), event.attachment)
        [(id, replicas)] = await self._accept([submission], None, wait_for_replica=True)
        return Accepted(id.hex(), replicas)

    async def tasks(
        self, *, state: str | None, limit: int, after: str | None, dead: bool = False
    ) -> list[TaskView]:
        from .viewing import task_state

        views: list[TaskView] = []
        passed = after is None
        for task in reversed(self._node.state.tasks.values()):
            if not passed:
                passed = task.id.hex() == after
                continue
            if task.submitted_hash is None or (state and task_state(self._node, task) != state):
                continue
            if dead and (task.settled is None or task.settled.outcome not in DEAD_OUTCOMES):
                continue
            views.append(await self._view(task, with_result=False))
            if len(views) >= limit:
                break
        return views

    async def _spec(self, task: Task) -> TaskSpec:
        spec = task.spec or self._specs.get(task.id)
        if spec is None:
            event = await self._store.event(Feed(task.submitter, TASK), task.submitted_seq)
            body = decode_body(event.kind, event.body) if event else None
            spec = decode_spec(body.spec) if isinstance(body, TaskSubmitted) else None
        return spec or TaskSpec("?", "?", b"", 0)

    async def _view(self, task: Task, *, with_result: bool = True) -> TaskView:
        spec = await self._spec(task)
        result, missing = (await self._result(task)) if with_result else (None, None)
        replicas = 2 if len(self._node.state.members) > 1 else 1
        if task.submitter == self._node.config.author:
            replicas = self._node.submissions.replicas(task.submitted_seq)
        return task_view(self._node, task, spec, result_view(result, task, missing), replicas)

    async def _result(self, task: Task) -> tuple[Result | None, str | None]:
        """What the task brought, or the blob that it is and that no connected member could send."""
        attempt = shown_attempt(task)
        end = attempt.end if attempt else None
        if attempt is None or end is None or end.kind == "declined":
            return None, None
        if end.is_blob:
            data = await self._small_blob(end.result_hash.hex())
        else:
            data = self.attachments.get(attempt.device, RESULT, end.seq)
            if data is None:
                data = await self._store.attachment(Feed(attempt.device, RESULT), end.seq)
        if data is None:
            return None, end.result_hash.hex() if end.is_blob else None
        try:
            return decode(data, _result_decoder), None
        except Malformed:
            return None, None

    async def _small_blob(self, blob_hash: str) -> bytes | None:
        try:
            _, chunks = await self.open_blob(blob_hash)
        except Problem:
            return None
        return b"".join([chunk async for chunk in chunks])

    async def cancel(self, task_id: str) -> TaskView:
        task = self._task(task_id)
        if task.settled is not None:
            raise Problem("already_settled", f"The task has ended: {task.settled.outcome}.")
        if self._node.disk_full:
            raise Problem("disk_full", "The ledger's disk is full, so the wish can't be written.")
        self._waiters.setdefault(task.id, trio.Event())
        self._pipeline.feed(Cancel(task.id))
        return await self.wait(task_id, 1.0)

    async def why(self, task_id: str) -> WhyView:
        task = self._task(task_id)
        steps = await story(self._node.state, task, self._store.event)
        view = await self._view(task, with_result=False)
        graph = await self._graph(task) if view.kind == "graph" else []
        return WhyView(task.id.hex(), view.state, view.outcome, steps, view.waiting, graph)

    async def _graph(self, task: Task) -> list[GraphTaskView]:
        found = self._node.state.children.get(task.id, {})
        children = [((await self._spec(child)).step, child) for child in found.values()]
        payload = await self._store.attachment(Feed(task.submitter, TASK), task.submitted_seq)
        return graph_views(self._node, task, children, payload)

    async def output(self, task_id: str, *, follow: bool) -> AsyncIterator[OutputChunk]:
        task = self._task(task_id)
        seen: set[EventHash] = set()
        while True:
            attempt = shown_attempt(task)
            if attempt is not None and attempt.hash not in seen:
                seen.add(attempt.hash)
                printed = False
                if attempt.is_open:
                    async for chunk in self._outputs.read(
                        attempt.device, attempt.hash, follow=follow
                    ):
                        printed = True
                        yield chunk
                if follow and task.settled is None:
                    await self.wait(task_id, 3600.0)
                if not printed:
                    for chunk in await self._recorded(task):
                        yield chunk
            if not follow or task.settled is not None:
                return
            await self.wait(task_id, 0.2)

    async def _recorded(self, task: Task) -> list[OutputChunk]:
        result, _ = await self._result(task)
        if result is None:
            return []
        chunks: list[OutputChunk] = []
        for stream, text in (("stdout", result.stdout), ("stderr", result.stderr)):
            if text:
                chunks.append(OutputChunk(stream, text, 0))
        return chunks

    # The cluster and its ledger.

    def cluster(self) -> ClusterView:
        return cluster_view(self._node, time.monotonic(), self._network.traffic(), self._warnings())

    def _warnings(self) -> list[ErrorView]:
        node = self._node
        warnings = list(self._problems.values())
        offset_s = node.peers.clock_offset_s()
        if abs(offset_s) > node.config.timers.clock_warn_s:
            warnings.append(
                ErrorView("clock_off", f"This device's clock is {offset_s:+.0f} s off the others'.")
            )
        for author, peer in node.peers.by_author.items():
            if (
                author in node.state.members
                and peer.offset_ms is not None
                and author in node.peers.alive
            ):
                off_s = peer.offset_ms / 1000 + offset_s
                if abs(off_s) > node.config.timers.clock_warn_s:
                    name = node.state.members[author].name
                    warnings.append(
                        ErrorView("clock_off", f"The clock of {name} is {off_s:+.0f} s off.")
                    )
        if node.disk_full:
            warnings.append(
                ErrorView("disk_full", "The disk is full: nothing new is written here.")
            )
        advert = node.state.adverts.get(node.config.author)
        if advert is not None:
            warnings += [ErrorView("sandbox_unavailable", p) for p in advert.body.problems]
        admins = sum(m.role == "admin" for m in node.state.members.values())
        if admins == 1 and len(node.state.members) > 1:
            warnings.append(
                ErrorView(
                    "one_admin",
                    "Only one device is an admin: if it is lost, nobody can let others in.",
                    "kowalski invite --role admin",
                )
            )
        return warnings

    async def events(self, *, after: int, follow: bool) -> AsyncIterator[EventView]:
        while True:
            grown = self._grown
            page = await self._store.events_after(after, EVENTS_PAGE)
            for position, event in page:
                after = position
                yield event_view(self._node, position, event, decode_body(event.kind, event.body))
            if page:
                continue
            if not follow:
                return
            await grown.wait()

    # Blobs.

    async def store_blob(self, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
        return await self._blobs.store(chunks)

    def keeps_blob(self, blob_hash: str) -> bool:
        return self._blobs.keeps(blob_hash)

    async def open_blob(self, blob_hash: str) -> tuple[int, AsyncIterator[bytes]]:
        opening = True
        self._blobs.hold(blob_hash, lambda: opening)  # others' transfers must not push it out
        try:
            await self._outputs.bring_blob(blob_hash)
            found = await self._blobs.read(blob_hash)
        finally:
            opening = False
        if found is None:
            raise Problem("not_found", "No live member has this blob.")
        return found

    # Membership and weights.

    async def invite(self, role: str) -> InviteView:
        me = self._node.state.members.get(self._node.config.author)
        if me is None or me.role != "admin":
            raise Problem("not_allowed", "Only an admin's device can make invites.")
        token, expires = await self._door.invite(role)
        return InviteView(token, expires, role)

    async def admit(self, member: Author, name: str, role: str, invite: bytes) -> None:
        """Writes an admission, durably; the door calls it."""
        ticket = self._next_ticket()
        await self._ask(Admit(ticket, member, name, role, invite), ticket)

    def weights(self) -> dict[str, dict[str, float]]:
        chosen = self._node.state.weights()
        return {kind: dict(chosen.get(kind, w)) for kind, w in DEFAULT_WEIGHTS.items()}

    async def set_weights(
        self, kind: str, weights: Mapping[str, float]
    ) -> dict[str, dict[str, float]]:
        if kind not in DEFAULT_WEIGHTS:
            raise Problem("unknown_kind", f"Weights are kept for {', '.join(DEFAULT_WEIGHTS)}.")
        for name, value in weights.items():
            if name not in PARTS or isinstance(value, bool) or not 0 <= value <= 1e6:
                raise Problem(
                    "bad_request", f"A weight is one of {', '.join(PARTS)} and a number from 0 up."
                )
        whole = {**self.weights()[kind], **{k: float(v) for k, v in weights.items()}}
        if not any(whole.values()):
            raise Problem("bad_request", "At least one weight must be above 0.")
        ticket = self._next_ticket()
        await self._ask(SetWeights(ticket, kind, whole), ticket)
        return self.weights()

    # Metrics.

    def metrics(self) -> Sequence[tuple[str, str, str, Mapping[str, str], float]]:
        from .metrics import rows

        return list(rows(self._node, self._pipeline, self._store, self._network, self.refused))


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]
