"""The fold of what is said of tasks: what each event adds to a task's record.

A record only collects: each slot has one writer (then the first word in that writer's feed counts)
or takes the least of several by (time, hash). An event that names another one which has not arrived
waits in the record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from kowalski_protocol.events import (
    OUTCOMES,
    AttemptLost,
    Body,
    CancelRequested,
    SessionRebuilt,
    StepTaken,
    TaskCompleted,
    TaskDeclined,
    TaskFailed,
    TaskOwnershipMoved,
    TaskPlaced,
    TaskSettled,
    TaskStarted,
    TaskSubmitted,
)
from kowalski_protocol.feeds import Event
from kowalski_protocol.ids import HASH_SIZE_BYTES, TASK_ID_SIZE_BYTES, Author, EventHash, TaskId
from kowalski_protocol.tasks import KEY_SIZE_BYTES_MAX, decode_spec, parent_attempt, task_id

from .state import (
    Attempt,
    Child,
    End,
    Place,
    Rebuilding,
    Session,
    Settlement,
    State,
    Task,
)


def _record(state: State, id: bytes) -> Task | None:
    if len(id) != TASK_ID_SIZE_BYTES:
        return None
    task = state.tasks.get(TaskId(id))
    if task is None:
        task = state.tasks[TaskId(id)] = Task(TaskId(id))
    return task


def _place(event: Event) -> Place:
    return Place(event.hash, event.author, event.seq, event.hlc)


def _wait(task: Task, name: bytes, event: Event, body: Body) -> None:
    if task.early is None:
        task.early = {}
    task.early.setdefault(name, []).append((event, body))


def _release(state: State, task: Task, name: bytes) -> None:
    """The attempt or tenure of this name is known now: goes on with what waited for it, and with
    what waited for the tenures that this makes known. Empty is the tenure of the first owner.
    """
    if not task.early:
        return
    known = deque((name,))
    while known and task.early:
        name = known.popleft()
        for event, body in task.early.pop(name, ()):
            if isinstance(body, TaskOwnershipMoved):
                # It may name thousands of tasks; it waited here for this one alone.
                if _move_one(state, event, task, name, body):
                    known.append(event.hash)
            else:
                TASK_HANDLERS[event.kind](state, event, body)


def _submitted(state: State, event: Event, body: TaskSubmitted) -> None:
    spec = decode_spec(body.spec)
    if spec is None or len(body.owner) != HASH_SIZE_BYTES or len(body.key) > KEY_SIZE_BYTES_MAX:
        state.find(event, "TaskSubmitted with a spec, owner or key of no known form")
        return
    id = task_id(body.owner, body.key, body.spec)
    task = state.tasks.get(id)
    if task is None:
        task = state.tasks[id] = Task(id)
    if task.submitted_hash is None:
        task.owner = Author(body.owner)
        task.spec = spec
        if spec.session:
            task.session = (spec.need, spec.session)
            session = state.sessions.setdefault(task.session, Session())
            for attempt in task.attempts:
                session.ran(task, attempt)
        if spec.parent and (by := parent_attempt(body.key)):
            task.child = Child(TaskId(spec.parent), EventHash(by), spec.memo)
            state.children.setdefault(task.child.parent, {})[id] = task
            state.memos.setdefault(spec.memo, {})[id] = task
        state.open[id] = task
        if body.key[:1] == b"k":
            key = (body.owner, body.key)
            state.keys[key] = min(id, state.keys.get(key, id))
    elif (event.hlc, event.hash) >= (task.submitted_hlc, task.submitted_hash):
        return
    else:
        _count_open(state, task.submitter, -1 if task.settled is None else 0)
    task.submitted_hash = event.hash
    task.submitted_hlc = event.hlc
    task.submitted_seq = event.seq
    task.submitter = event.author
    if task.settled is None:
        _count_open(state, event.author, 1)
    state.touch(task)
    _release(state, task, b"")


def _count_open(state: State, submitter: Author, change: int) -> None:
    state.open_by_submitter[submitter] = state.open_by_submitter.get(submitter, 0) + change


def _placed(state: State, event: Event, body: TaskPlaced) -> None:
    task = _record(state, body.task)
    if task is None or len(body.device) != HASH_SIZE_BYTES:
        return
    task.attempts.append(
        Attempt(
            event.hash,
            body.number,
            Author(body.device),
            EventHash(body.claim),
            event.author,
            event.hlc,
            event.seq,
            body.cell,
            body.after_task,
            body.after,
        )
    )
    state.touch(task)
    _release(state, task, event.hash)


def _attempt_lost(state: State, event: Event, body: AttemptLost) -> None:
    task = _record(state, body.task)
    if task is None:
        return
    attempt = task.attempt(body.attempt)
    if attempt is None:
        _wait(task, body.attempt, event, body)
        return
    if attempt.lost is None or event.hash < attempt.lost.hash:
        attempt.lost = _place(event)
        state.touch(task)


def _attempt_of(
    state: State, event: Event, body: Body, task_id: bytes, attempt_hash: bytes
) -> tuple[Task, Attempt] | None:
    """The attempt that a device speaks of, if it is the device that was named."""
    task = _record(state, task_id)
    if task is None:
        return None
    attempt = task.attempt(attempt_hash)
    if attempt is None:
        _wait(task, attempt_hash, event, body)
        return None
    if attempt.device != event.author:
        state.find(event, f"{event.kind} for an attempt that was placed on another device")
        return None
    return task, attempt


def _started(state: State, event: Event, body: TaskStarted) -> None:
    found = _attempt_of(state, event, body, body.task, body.attempt)
    if found is None or found[1].started_hash is not None:
        return
    task, attempt = found
    attempt.started_hash = event.hash
    attempt.started_ms = body.started_ms
    attempt.started_seq = event.seq
    state.touch(task)


def _end(
    state: State, event: Event, body: TaskCompleted | TaskFailed | TaskDeclined, end: End
) -> None:
    found = _attempt_of(state, event, body, body.task, body.attempt)
    if found is None:
        return
    task, attempt = found
    if attempt.end is not None:
        state.find(event, "a second result of one attempt")
        return
    attempt.end = end
    if task.session is not None:
        state.sessions[task.session].ran(task, attempt)
    state.touch(task)


def _completed(state: State, event: Event, body: TaskCompleted) -> None:
    end = End(
        "completed",
        event.hash,
        event.hlc,
        event.seq,
        "",
        body.result_hash,
        body.result_size_bytes,
        body.is_blob,
        body.started_ms,
        body.run_us,
        body.files,
    )
    _end(state, event, body, end)


def _failed(state: State, event: Event, body: TaskFailed) -> None:
    end = End(
        "failed",
        event.hash,
        event.hlc,
        event.seq,
        body.code,
        body.result_hash,
        body.result_size_bytes,
        body.is_blob,
        body.started_ms,
        body.run_us,
    )
    _end(state, event, body, end)


def _declined(state: State, event: Event, body: TaskDeclined) -> None:
    end = End("declined", event.hash, event.hlc, event.seq, body.reason)
    _end(state, event, body, end)


def _session_rebuilt(state: State, event: Event, body: SessionRebuilt) -> None:
    found = _attempt_of(state, event, body, body.task, body.attempt)
    if found is None or found[1].rebuilt is not None:
        return
    task, attempt = found
    attempt.rebuilt = Rebuilding(
        event.hash, event.seq, body.replayed, body.diverged, body.passed_over
    )
    state.touch(task)


def _step_taken(state: State, event: Event, body: StepTaken) -> None:
    found = _attempt_of(state, event, body, body.task, body.attempt)
    if found is None:
        return
    task, attempt = found
    attempt.taken = (*attempt.taken, _place(event))
    state.touch(task)


def _cancel_requested(state: State, event: Event, body: CancelRequested) -> None:
    task = _record(state, body.task)
    if task is None:
        return
    if task.cancel is None or (event.hlc, event.hash) < (task.cancel.hlc, task.cancel.hash):
        task.cancel = _place(event)
        state.touch(task)


def _has_word(state: State, event: Event, body: Body, task: Task, tenure: bytes) -> bool:
    """Whether the event's author is the owner under the tenure that it names, now."""
    if task.submitted_hash is None or (tenure != task.tenure and tenure not in task.tenures_past):
        _wait(task, tenure, event, body)
        return False
    if tenure != task.tenure or event.author != task.owner or task.settled is not None:
        state.find(event, f"{event.kind} by one who does not own the task, or no longer does")
        return False
    return True


def _ownership_moved(state: State, event: Event, body: TaskOwnershipMoved) -> None:
    for id, tenure in body.tasks:
        task = _record(state, id)
        if task is not None and _move_one(state, event, task, tenure, body):
            _release(state, task, event.hash)


def _move_one(
    state: State, event: Event, task: Task, tenure: bytes, body: TaskOwnershipMoved
) -> bool:
    """Whether the task has a new owner by this; what waited for the tenure is not released yet."""
    if len(body.to) != HASH_SIZE_BYTES or not _has_word(state, event, body, task, tenure):
        return False
    task.tenures_past = (*task.tenures_past, task.tenure)
    task.tenure = event.hash
    task.moves = (*task.moves, _place(event))
    task.owner = Author(body.to)
    state.touch(task)
    return True


def _settled(state: State, event: Event, body: TaskSettled) -> None:
    task = _record(state, body.task)
    if task is None or body.outcome not in OUTCOMES:
        return
    if not _has_word(state, event, body, task, body.tenure):
        return
    task.settled = Settlement(
        event.hash,
        event.hlc,
        event.author,
        event.seq,
        body.outcome,
        EventHash(body.attempt),
        body.code,
    )
    task.spec = None
    del state.open[task.id]
    _count_open(state, task.submitter, -1)
    state.settled[body.outcome] = state.settled.get(body.outcome, 0) + 1
    state.touch(task)


Handler = Callable[[State, Event, Any], None]

TASK_HANDLERS: Final[dict[str, Handler]] = {
    kind.__name__: handler
    for kind, handler in (
        (TaskSubmitted, _submitted),
        (TaskPlaced, _placed),
        (AttemptLost, _attempt_lost),
        (CancelRequested, _cancel_requested),
        (TaskOwnershipMoved, _ownership_moved),
        (TaskSettled, _settled),
        (TaskStarted, _started),
        (TaskCompleted, _completed),
        (TaskFailed, _failed),
        (TaskDeclined, _declined),
        (SessionRebuilt, _session_rebuilt),
        (StepTaken, _step_taken),
    )
}
"""What each kind of event does to a task's record."""
