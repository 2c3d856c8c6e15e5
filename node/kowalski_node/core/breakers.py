"""Circuit breakers: a device that fails tasks of a kind by itself gets none for a time.

A breaker belongs to a device and a task kind. It opens after several failures in a row that tell of
the device and not of the task, for a time that doubles; then one task at a time is tried, and a
success closes it. Every node learns from the results that it folds, so a new leader knows as much
as it has seen. Whether a device is being tried follows from what is under way on it and is stored
nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from kowalski_ledger.state import State
from kowalski_protocol.identity import peer_id
from kowalski_protocol.ids import Author, TaskId

from .attempts import DEVICE_CODES, Attempts, Ended
from .placement import Candidate, Waiting

FAILURES_MAX: Final = 5
"""Different tasks that fail in a row: one bad moment takes as many as run side by side on a small
device, and what is broken fails them all. One task that is tried again and again counts once, as it
may be what breaks its executor.
"""
OPEN_S: Final = 10.0
"""The first pause: what mends itself, such as a disk that is cleared, often does so by then."""
OPEN_S_MAX: Final = 300.0
"""The longest pause: a device that somebody has mended is back at work five minutes later."""
BREAKERS_MAX: Final = 1024
"""Eight kinds on each of as many members as there may be; a kind is what its submitter wrote."""
_SHOWN_MAX: Final = 3

TASK_CODES: Final = frozenset(
    {
        "code_failed",
        "graph_failed",
        "interpreter_lost",
        "out_of_memory",
        "output_too_large",
        "tool_failed",
    }
)
"""Failures that tell of the task: its device ran it as it should. All others, such as a time limit
or a cancellation, tell of neither.
"""


class Pause(NamedTuple):
    """A breaker that is open, for people."""

    kind: str
    code: str
    failures: int
    until_s: float
    """Until then it gets nothing; afterwards one task at a time."""


class _Breaker:
    __slots__ = ("code", "failures", "openings", "tasks", "until_s")

    def __init__(self) -> None:
        self.code = ""
        self.failures = 0
        self.tasks: set[TaskId] = set()
        """Those that failed in a row, while it is closed."""
        self.openings = 0
        self.until_s = 0.0

    def failed(self, task: TaskId, code: str, now_s: float) -> None:
        if task in self.tasks:
            return
        self.failures += 1
        self.code = code
        if self.openings:
            if now_s < self.until_s:
                return  # It was placed before: what it tells is known.
        else:
            self.tasks.add(task)
            if len(self.tasks) < FAILURES_MAX:
                return
        self.until_s = now_s + min(OPEN_S_MAX, OPEN_S * 2.0 ** min(self.openings, 20))
        self.openings += 1
        self.tasks.clear()


class Breakers:
    """The breakers of all devices."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._breakers: dict[tuple[Author, str], _Breaker] = {}
        self.open_count = 0

    def learn(self, now_s: float) -> None:
        """Takes in the attempts that have ended since the last time."""
        ended, self._attempts.ended = self._attempts.ended, []
        for one in ended:
            self._take(one, now_s)

    def _take(self, ended: Ended, now_s: float) -> None:
        key = (ended.device, ended.kind)
        breaker = self._breakers.get(key)
        if ended.code in DEVICE_CODES:
            if breaker is None:
                if len(self._breakers) >= BREAKERS_MAX:
                    return
                breaker = self._breakers[key] = _Breaker()
            was_open = breaker.openings > 0
            breaker.failed(ended.task, ended.code, now_s)
            self.open_count += breaker.openings > 0 and not was_open
        elif breaker is not None and (not ended.code or ended.code in TASK_CODES):
            self.open_count -= breaker.openings > 0
            del self._breakers[key]

    def _open(self, device: Author, kind: str) -> _Breaker | None:
        breaker = self._breakers.get((device, kind))
        return breaker if breaker is not None and breaker.openings else None

    def may_have(self, device: Author, kind: str, now_s: float) -> bool:
        """Whether a device may get a task of this kind now, be it to try it."""
        breaker = self._open(device, kind)
        if breaker is None:
            return True
        return now_s >= breaker.until_s and not self._attempts.has_any(device, kind)

    def usable(
        self, state: State, live: list[Candidate], kind: str, now_s: float
    ) -> list[Candidate] | Waiting:
        """Those of the live devices that may get a task of this kind now."""
        found = [c for c in live if self.may_have(c.author, kind, now_s)]
        return found or Waiting(self._sentence(state, live, kind))

    def reason(self, state: State, live: list[Candidate], kind: str) -> str | None:
        """Why a task of this kind waits, as a sentence, where it is because of breakers alone."""
        if any(self._open(c.author, kind) is None for c in live):
            return None
        return self._sentence(state, live, kind)

    def _sentence(self, state: State, live: list[Candidate], kind: str) -> str:
        told = [
            f"{state.members[author].name or peer_id(author)[-8:]}, which failed"
            f" {breaker.failures} {kind[:40]} tasks in a row ({breaker.code})"
            for author in (c.author for c in live)
            if (breaker := self._open(author, kind)) is not None
        ]
        more = f"; and {len(told) - _SHOWN_MAX} more" if len(told) > _SHOWN_MAX else ""
        shown = "; ".join(told[:_SHOWN_MAX])
        return f"waits for {shown}{more}; each is tried again with one task at a time"

    def pauses(self, device: Author) -> Iterator[Pause]:
        """The open breakers of a device."""
        for (author, kind), breaker in sorted(self._breakers.items()):
            if author == device and breaker.openings:
                yield Pause(kind, breaker.code, breaker.failures, breaker.until_s)
