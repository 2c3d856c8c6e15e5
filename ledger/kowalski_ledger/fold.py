"""The fold: how one more event changes the state.

`fold` is total (no event makes it raise) and independent of order: feeds may arrive interleaved in
any way, each in its own order, and equal sets of events give equal states. Three things make it so.
Membership is computed first, and what an author wrote before its admission arrived waits for it. A
task's record only
collects: each slot has one writer (then the first word in that writer's feed counts) or takes the
least of several by (time, hash). And an event that names another one which has not arrived waits in
the task's record.

It reads no clock, no liveness and no order of arrival. What does not count (an unknown kind, a body
that does not decode, a result from a device that the placement does not name) changes nothing but
`findings`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from kowalski_protocol.codec import decode_body
from kowalski_protocol.events import (
    MEMBERSHIP_KINDS,
    OUTCOMES,
    ROLES,
    AttemptLost,
    Body,
    CancelRequested,
    CapabilitiesAdvertised,
    ClusterFounded,
    InviteUsed,
    LeaderClaimed,
    MemberAdmitted,
    SessionRebuilt,
    TaskCompleted,
    TaskDeclined,
    TaskFailed,
    TaskOwnershipMoved,
    TaskPlaced,
    TaskSettled,
    TaskStarted,
    TaskSubmitted,
    WeightsChanged,
)
from kowalski_protocol.feeds import Event
from kowalski_protocol.identity import is_weak_key
from kowalski_protocol.ids import (
    HASH_SIZE_BYTES,
    TASK_ID_SIZE_BYTES,
    Author,
    ClusterId,
    EventHash,
    TaskId,
)
from kowalski_protocol.tasks import KEY_SIZE_BYTES_MAX, decode_spec, task_id

from .membership import Admission, Member
from .state import (
    Advert,
    Attempt,
    Claim,
    End,
    Place,
    Rebuilding,
    Session,
    Settlement,
    State,
    Task,
    WeightsChoice,
)


def cluster_id(founding_body: bytes) -> ClusterId:
    """The id of the cluster that this `ClusterFounded` body founds."""
    return ClusterId(hashlib.sha256(b"kowalski/cluster/1" + founding_body).digest())


def fold(state: State, event: Event) -> None:
    """Counts one event in. Events of one feed must come in order, each once; repetitions are
    ignored.
    """
    feed = (event.author, event.topic)
    seq = state.folded.get(feed, 0)
    if event.seq <= seq:
        return
    assert event.seq == seq + 1, f"{event!r} after {seq}"
    state.folded[feed] = event.seq
    if event.kind in MEMBERSHIP_KINDS:
        _fold_membership(state, event)
    if event.author in state.members:
        _count(state, event)
    else:
        state.waiting.setdefault(event.author, []).append(event)


def _count(state: State, event: Event) -> None:
    entry = _HANDLERS.get(event.kind)
    if entry is None:
        return
    topic, handler = entry
    if event.topic != topic:
        state.find(event, f"{event.kind} on the wrong topic")
        return
    body = decode_body(event.kind, event.body)
    if body is None:
        state.find(event, f"{event.kind} does not decode")
        return
    state.counted += 1
    handler(state, event, body)


# Membership comes first: its events are read whether or not their author is known yet.


def _fold_membership(state: State, event: Event) -> None:
    body = decode_body(event.kind, event.body)
    if body is None or event.topic != body.topic:
        return
    if isinstance(body, ClusterFounded):
        if (
            event.seq != 1
            or body.founder != event.author
            or cluster_id(event.body) != state.cluster
        ):
            return
        state.name = body.name
        state.founder = Member(event.author, body.device_name, "admin", 0, event.hlc, event.hash)
    else:
        assert isinstance(body, MemberAdmitted)
        if is_weak_key(body.member) or body.role not in ROLES:
            return
        state.admissions[event.hash] = Admission(
            event.author,
            Author(body.member),
            body.device_name,
            body.role,
            event.hlc,
            event.hash,
        )
        admitter = state.members.get(event.author)
        if admitter is None or admitter.role != "admin":
            # It counts if its author is found to be an admin, and then it is looked at.
            return
    for author in state.resolve_members():
        for waiting in state.waiting.pop(author, ()):
            _count(state, waiting)


def _nothing_more(_state: State, _event: Event, _body: Any) -> None:
    """Membership events are counted; what they do was done in `_fold_membership`."""


def _invite_used(state: State, event: Event, body: InviteUsed) -> None:
    if len(body.invite) != HASH_SIZE_BYTES or len(body.member) != HASH_SIZE_BYTES:
        return
    member = Author(body.member)
    state.invites_used[body.invite] = min(member, state.invites_used.get(body.invite, member))


# Capabilities, leadership, weights.


def _capabilities(state: State, event: Event, body: CapabilitiesAdvertised) -> None:
    state.adverts[event.author] = Advert(event.hash, event.hlc, body)
    state.adverts_version += 1


def _leader_claimed(state: State, event: Event, body: LeaderClaimed) -> None:
    # A loop and no recursion: a chain of claims that came backwards may be of any length.
    claims = [(event, body)]
    for event, body in claims:
        if _claim(state, event, body):
            claims += state.claims_waiting.pop(event.hash, ())


def _claim(state: State, event: Event, body: LeaderClaimed) -> bool:
    if body.previous:
        before = state.claims.get(EventHash(body.previous))
        if before is None:
            state.claims_waiting.setdefault(body.previous, []).append((event, body))
            return False
        if body.epoch != before.epoch + 1:
            state.find(event, "a claim whose epoch does not follow the one it names")
            return False
    elif body.epoch != 1:
        state.find(event, "a claim that names no claim before it")
        return False
    state.claim(Claim(event.hash, event.author, body.epoch, event.hlc, event.seq))
    return True


def _weights_changed(state: State, event: Event, body: WeightsChanged) -> None:
    state.weights_choices[(body.kind, event.author)] = WeightsChoice(
        event.author, event.hlc, event.hash, body.weights
    )


# Tasks.


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
    known = deque((name,))
    while known and task.early:
        name = known.popleft()
        for event, body in task.early.pop(name, ()):
            if isinstance(body, TaskOwnershipMoved):
                # It may name thousands of tasks; it waited here for this one alone.
                if _move_one(state, event, task, name, body):
                    known.append(event.hash)
            else:
                _HANDLERS[event.kind][1](state, event, body)


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


_Handler = Callable[[State, Event, Any], None]

_HANDLERS: Final[dict[str, tuple[str, _Handler]]] = {
    kind.__name__: (kind.topic, handler)
    for kind, handler in (
        (ClusterFounded, _nothing_more),
        (MemberAdmitted, _nothing_more),
        (InviteUsed, _invite_used),
        (CapabilitiesAdvertised, _capabilities),
        (LeaderClaimed, _leader_claimed),
        (WeightsChanged, _weights_changed),
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
    )
}

__all__ = ["cluster_id", "fold"]
