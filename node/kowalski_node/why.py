"""The story of a task, told from the ledger alone: `kowalski why`.

The state's record points at every event that counted for the task; they are read again, put in the
order of their times, and each becomes a sentence. A node that was not there tells the same story.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from kowalski_ledger.state import State, Task
from kowalski_protocol.clock import unix_s
from kowalski_protocol.codec import decode_body
from kowalski_protocol.events import (
    AttemptLost,
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
from kowalski_protocol.feeds import Event, Feed
from kowalski_protocol.identity import peer_id
from kowalski_protocol.ids import Author
from kowalski_protocol.tasks import TaskSpec, decode_spec
from kowalski_protocol.topics import RESULT, TASK

from .viewing import plain
from .views import WhyStep

_CELLS_SHOWN = 20

Read = Callable[[Feed, int], Awaitable[Event | None]]


def places(task: Task) -> list[tuple[Feed, int]]:
    """Where the events stand that counted for a task."""
    found = [(Feed(task.submitter, TASK), task.submitted_seq)]
    for attempt in task.attempts:
        found.append((Feed(attempt.leader, TASK), attempt.placed_seq))
        if attempt.started_seq:
            found.append((Feed(attempt.device, RESULT), attempt.started_seq))
        found += [(Feed(attempt.device, RESULT), taken.seq) for taken in attempt.taken]
        if attempt.rebuilt is not None:
            found.append((Feed(attempt.device, RESULT), attempt.rebuilt.seq))
        if attempt.end is not None:
            found.append((Feed(attempt.device, RESULT), attempt.end.seq))
        if attempt.lost is not None:
            found.append((Feed(attempt.lost.author, TASK), attempt.lost.seq))
    for place in (task.cancel, *task.moves):
        if place is not None:
            found.append((Feed(place.author, TASK), place.seq))
    if task.settled is not None:
        found.append((Feed(task.settled.author, TASK), task.settled.seq))
    return list(dict.fromkeys(found))


async def story(state: State, task: Task, read: Read) -> list[WhyStep]:
    """The steps of a task's life, oldest first."""
    events = [e for e in [await read(feed, seq) for feed, seq in places(task)] if e is not None]
    events.sort(key=lambda e: (e.hlc, e.hash))
    teller = _Teller(state, task)
    return [step for event in events if (step := teller.tell(event)) is not None]


def _rebuilt(body: SessionRebuilt) -> str:
    cells = "cell" if body.replayed == 1 else "cells"
    parts = [f"made the session's interpreter anew from {body.replayed} {cells}"]
    if body.diverged:
        parts.append(f"other results than before: {_cells(body.diverged)}")
    if body.passed_over:
        parts.append(f"not run again, being stopped before their end: {_cells(body.passed_over)}")
    return "; ".join(parts)


def _cells(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_CELLS_SHOWN]))
    more = f" and {len(numbers) - _CELLS_SHOWN} more" if len(numbers) > _CELLS_SHOWN else ""
    return f"{'cell' if len(numbers) == 1 else 'cells'} {shown}{more}"


class _Teller:
    def __init__(self, state: State, task: Task) -> None:
        self._state = state
        self._task = task
        self._numbers = {a.hash: a.number for a in task.attempts}

    def name(self, author: bytes) -> str:
        """What people call a device."""
        advert = self._state.adverts.get(Author(author))
        member = self._state.members.get(Author(author))
        if advert is not None and advert.body.device_name:
            return advert.body.device_name
        if member is not None and member.name:
            return member.name
        return peer_id(author)[-8:] if len(author) == 32 else author.hex()

    def _name_of_prefix(self, prefix: bytes) -> str:
        for author in self._state.members:
            if author.startswith(prefix):
                return self.name(author)
        return prefix.hex()

    def tell(self, event: Event) -> WhyStep | None:
        body = decode_body(event.kind, event.body)
        if body is None:
            return None
        sentence, details = self._sentence(body)
        return WhyStep(unix_s(event.hlc), event.kind, self.name(event.author), sentence, details)

    def _sentence(self, body: Any) -> tuple[str, dict[str, Any]]:
        match body:
            case TaskSubmitted():
                return self._submitted(body)
            case TaskPlaced():
                scores = {self._name_of_prefix(p): s for p, s in body.considered}
                shown = ", ".join(
                    f"{n} {s:.3f}" for n, s in sorted(scores.items(), key=lambda x: -x[1])
                )
                cell = f", as cell {body.cell} of its session" if body.cell else ""
                return (
                    (
                        f"attempt {body.number} placed on {self.name(body.device)}{cell}"
                        f" (score {body.score:.3f}; considered: {shown})"
                    ),
                    {"device": peer_id(body.device), "score": body.score, "considered": scores},
                )
            case StepTaken():
                done = "took over from an earlier attempt"
                return f"step {body.step}: {done} (task {body.child.hex()[:12]})", plain(body)
            case SessionRebuilt():
                return _rebuilt(body), plain(body)
            case TaskStarted():
                return f"attempt {self._number(body)} is running", {}
            case TaskCompleted():
                return (
                    (
                        f"attempt {self._number(body)} completed in {body.run_us / 1000:.1f} ms,"
                        f" {body.result_size_bytes:,} bytes of result"
                    ),
                    plain(body),
                )
            case TaskFailed():
                return (
                    (
                        f"attempt {self._number(body)} failed: {body.code}, after"
                        f" {body.run_us / 1000:.1f} ms"
                    ),
                    plain(body),
                )
            case TaskDeclined():
                return f"attempt {self._number(body)} given back: {body.reason}", plain(body)
            case AttemptLost():
                return f"attempt {self._number(body)} given up: {body.reason}", plain(body)
            case CancelRequested():
                return "asked for its end", {}
            case TaskOwnershipMoved():
                return f"handed the task over to {self.name(body.to)}", {"to": peer_id(body.to)}
            case TaskSettled():
                number = f" by attempt {self._number(body)}" if body.attempt else ""
                code = f" ({body.code})" if body.code else ""
                return f"settled as {body.outcome}{number}{code}", plain(body)
            case _:
                return "", {}

    def _number(self, body: Any) -> int:
        return self._numbers.get(body.attempt, 0)

    def _submitted(self, body: TaskSubmitted) -> tuple[str, dict[str, Any]]:
        spec = decode_spec(body.spec) or TaskSpec("?", "?", b"", 0)
        need = "" if spec.need == spec.kind else f" {spec.need}"
        parts = [f"submitted {spec.kind}{need}"]
        if spec.step:
            parts.append(f"step {spec.step} of task {spec.parent.hex()[:12]}")
        if spec.session:
            parts.append(f"session {spec.session}")
        if spec.priority:
            parts.append(f"priority {spec.priority}")
        if spec.requires:
            wanted = ", ".join(f"{k}={v}" for k, v in spec.requires.items())
            parts.append(f"requires {wanted}")
        if spec.device_filter != "all":
            parts.append(f"devices: {spec.device_filter}")
        return ", ".join(parts) + f"; owner {self.name(body.owner)}", {
            "spec": plain(spec),
            "owner": peer_id(body.owner),
        }
