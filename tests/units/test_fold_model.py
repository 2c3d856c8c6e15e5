"""The fold against a second, naive reading of the rules: slow, without state, from the whole set.

The model asks every question anew of the set of all events: who is reached by admissions, which
claim a chain of claims leads to, and, for each task, from owner to owner, which word of the present
owner comes first in its feed. It shares no code with the fold.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings

from kowalski_ledger.state import State, Task
from kowalski_protocol import events as e
from kowalski_protocol.feeds import Event
from kowalski_protocol.tasks import TaskSpec, task_id
from tests.units.histories import History, folded, histories, interleave

OUTCOMES = {
    *("completed", "failed", "cancelled", "timed_out", "refused", "outcome_unknown", "dead"),
}


def read(event: Event) -> Any:
    """The body, if it is of a kind that belongs on the event's topic and has its form."""
    kind = getattr(e, event.kind, None)
    if kind is None or kind.topic != event.topic:
        return None
    try:
        return msgspec.msgpack.decode(event.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


class Model:
    """What a set of events means."""

    def __init__(self, history: History) -> None:
        every = [(event, body) for event in history.written if (body := read(event)) is not None]
        admitted = [(v, b) for v, b in every if isinstance(b, e.MemberAdmitted)]
        admitted = [(v, b) for v, b in admitted if b.role in ("admin", "member")]
        founder = history.founder.author
        self.roles: dict[bytes, str] = {founder: "admin"}
        for _ in history.written:
            for event, body in admitted:
                if self.roles.get(event.author) == "admin" and (
                    self.roles.get(body.member) != "admin"
                ):
                    self.roles[body.member] = body.role
        self.ranks: dict[bytes, tuple[int, int, bytes]] = {founder: (0, 0, b"")}
        for _ in history.written:
            for event, body in admitted:
                if self.roles.get(event.author) == "admin" and event.author in self.ranks:
                    rank = (self.ranks[event.author][0] + 1, event.hlc, event.hash)
                    if body.member != founder:
                        self.ranks[body.member] = min(rank, self.ranks.get(body.member, rank))
        self.counted = [(v, b) for v, b in every if v.author in self.roles]

    def of(self, kind: type[Any]) -> list[tuple[Event, Any]]:
        return [(v, b) for v, b in self.counted if isinstance(b, kind)]

    def leader(self) -> bytes | None:
        claims: dict[bytes, Any] = {v.hash: (v, b) for v, b in self.of(e.LeaderClaimed)}

        def stands(hash: bytes) -> bool:
            if hash not in claims:
                return False
            body = claims[hash][1]
            if not body.previous:
                return body.epoch == 1
            before = claims.get(body.previous)
            return (
                before is not None and stands(body.previous) and body.epoch == before[1].epoch + 1
            )

        standing = [hash for hash in claims if stands(hash)]
        return min(
            standing,
            key=lambda h: (-claims[h][1].epoch, self.ranks[claims[h][0].author], h),
            default=None,
        )

    def weights(self) -> dict[str, Any]:
        last: dict[tuple[bytes, str], tuple[int, int, bytes, Any]] = {}
        for event, body in self.of(e.WeightsChanged):
            word = (event.seq, event.hlc, event.hash, body.weights)
            name = (event.author, body.kind)
            if name not in last or last[name][0] < event.seq:
                last[name] = word
        chosen: dict[str, tuple[int, bytes, Any]] = {}
        for (author, kind), (_, hlc, hash, weights) in last.items():
            if self.roles[author] == "admin" and (hlc, hash) > chosen.get(kind, (0, b""))[:2]:
                chosen[kind] = (hlc, hash, weights)
        return {kind: weights for kind, (_, _, weights) in chosen.items()}

    def submissions(self) -> dict[bytes, list[tuple[Event, Any]]]:
        found: dict[bytes, list[tuple[Event, Any]]] = {}
        for event, body in self.of(e.TaskSubmitted):
            try:
                msgspec.msgpack.decode(body.spec, type=TaskSpec)
            except msgspec.MsgspecError:
                continue
            if len(body.owner) == 32:
                id = task_id(body.owner, body.key, body.spec)
                found.setdefault(id, []).append((event, body))
        return found

    def end_of(self, id: bytes, first_owner: bytes) -> tuple[bytes, bytes, Event | None]:
        """(owner, tenure, settlement): from word to word of whoever owns it at the time."""
        owner, tenure = first_owner, b""
        while True:
            words = sorted(
                (event.seq, event.hash, body)
                for event, body in self.of(e.TaskOwnershipMoved) + self.of(e.TaskSettled)
                if event.author == owner and self._says(body, id, tenure)
            )
            if not words:
                return owner, tenure, None
            _, hash, body = words[0]
            if isinstance(body, e.TaskSettled):
                return owner, tenure, next(v for v, _ in self.counted if v.hash == hash)
            owner, tenure = body.to, hash

    @staticmethod
    def _says(body: Any, id: bytes, tenure: bytes) -> bool:
        if isinstance(body, e.TaskSettled):
            return body.task == id and body.tenure == tenure and body.outcome in OUTCOMES
        return len(body.to) == 32 and (id, tenure) in body.tasks

    def attempts(self, id: bytes) -> dict[bytes, tuple[bytes | None, bytes | None, bytes | None]]:
        """Attempt -> (started, end, lost), as hashes of the events that say so."""
        found: dict[bytes, tuple[bytes | None, bytes | None, bytes | None]] = {}
        for event, body in self.of(e.TaskPlaced):
            if body.task != id or len(body.device) != 32:
                continue

            def said(*kinds: type[Any], by: bytes, attempt: bytes) -> list[Event]:
                return [
                    v
                    for kind in kinds
                    for v, b in self.of(kind)
                    if (b.task, b.attempt) == (id, attempt) and (not by or v.author == by)
                ]

            started = said(e.TaskStarted, by=body.device, attempt=event.hash)
            kinds = (e.TaskCompleted, e.TaskFailed, e.TaskDeclined)
            ended = said(*kinds, by=body.device, attempt=event.hash)
            lost = said(e.AttemptLost, by=b"", attempt=event.hash)
            found[event.hash] = (
                min(started, key=lambda v: v.seq).hash if started else None,
                min(ended, key=lambda v: v.seq).hash if ended else None,
                min((v.hash for v in lost), default=None),
            )
        return found


def check_task(model: Model, task: Task, submissions: list[tuple[Event, Any]]) -> None:
    assert model.attempts(task.id) == {
        a.hash: (a.started_hash, a.end and a.end.hash, a.lost and a.lost.hash)
        for a in task.attempts
    }
    cancels = [(v.hlc, v.hash) for v, b in model.of(e.CancelRequested) if b.task == task.id]
    assert min(cancels)[1] == task.cancel.hash if task.cancel else not cancels
    if not submissions:
        assert task.submitted_hash is None
        assert task.settled is None
        return
    first, body = min(submissions, key=lambda s: (s[0].hlc, s[0].hash))
    assert (task.submitted_hash, task.submitter) == (first.hash, first.author)
    owner, tenure, settled = model.end_of(task.id, body.owner)
    assert (task.owner, task.tenure) == (owner, tenure)
    assert (task.settled and task.settled.hash) == (settled and settled.hash)


def check(model: Model, state: State) -> None:
    assert {author: member.role for author, member in state.members.items()} == model.roles
    by_rank = sorted(state.members, key=lambda author: model.ranks[author])
    assert list(state.members) == by_rank
    assert (state.leader and state.leader.hash) == model.leader()
    assert state.weights() == model.weights()
    submissions = model.submissions()
    assert set(submissions) == {i for i, t in state.tasks.items() if t.submitted_hash is not None}
    for id, task in state.tasks.items():
        check_task(model, task, submissions.get(id, []))


@settings(max_examples=400, deadline=None)
@given(histories(steps_max=40))
def test_the_fold_agrees_with_a_naive_reading_of_the_rules(history: History) -> None:
    model = Model(history)
    check(model, folded(history, history.written))
    check(model, folded(history, interleave(history.feeds, 7)))
