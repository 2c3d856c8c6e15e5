"""Hedging: which tasks get a second attempt because their first one takes far longer than others.

Only a task that asks for it is hedged, once. What runs long follows from how long completed runs of
its class took, as this node has seen; that a task was hedged follows from its record, where one
attempt was placed before another had ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from kowalski_ledger.state import Attempt, Task
from kowalski_protocol.ids import TaskId

from .attempts import Attempts, class_of

SLOWER: Final = 3.0
"""How many times longer than nearly all (95 %) of its class a run must take: one in twenty takes
longer than that mark, and few of those three times as long unless their device is the reason.
"""
LONG_S_MIN: Final = 1.0
"""Shorter runs are not worth a second one: placing it and stopping the other costs as much."""
_LOOK_S: Final = 0.1
_NEVER: Final = 1 << 63


class _Watched(NamedTuple):
    task: Task
    attempt: Attempt
    since_s: float
    """When this node learned that it runs."""


def was_hedged(attempts: Sequence[Attempt]) -> bool:
    """Whether one of a task's attempts was placed before another had ended."""
    ends_hlc = 0
    for attempt in sorted(attempts, key=lambda attempt: attempt.hlc):
        if attempt.hlc < ends_hlc:
            return True
        ended = [place.hlc for place in (attempt.end, attempt.lost) if place is not None]
        ends_hlc = max(ends_hlc, min(ended, default=_NEVER))
    return False


def _to_watch(task: Task) -> Attempt | None:
    """The one attempt of a task that runs and may be hedged."""
    if task.cancel is not None:
        return None
    running = [attempt for attempt in task.attempts if attempt.is_open]
    if len(running) != 1 or running[0].started_hash is None or was_hedged(task.attempts):
        return None
    return running[0]


class Hedges:
    """The runs that may be hedged."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._watched: dict[TaskId, _Watched] = {}
        self._look_at_s = 0.0

    def clear(self) -> None:
        """Forgets everything: what changed while this node did not lead it has not looked at."""
        self._watched.clear()

    def note(self, task: Task, now_s: float) -> None:
        """Looks at a task whose record has changed."""
        spec = task.spec
        if spec is None or not spec.hedge:
            self._watched.pop(task.id, None)
            return
        attempt = _to_watch(task)
        if attempt is None:
            self._watched.pop(task.id, None)
        elif task.id not in self._watched or self._watched[task.id].attempt is not attempt:
            self._watched[task.id] = _Watched(task, attempt, now_s)

    def due(self, now_s: float) -> list[Task]:
        """The tasks whose attempt runs too long, the longest first."""
        if not self._watched or now_s < self._look_at_s:
            return []
        self._look_at_s = now_s + _LOOK_S
        bounds: dict[str, float | None] = {}
        found: list[Task] = []
        for task, _, since_s in sorted(self._watched.values(), key=lambda one: one.since_s):
            name = class_of(task)
            if name not in bounds:
                bounds[name] = self._attempts.slow_s(name)
            slow_s = bounds[name]
            if slow_s is not None and now_s - since_s > max(LONG_S_MIN, SLOWER * slow_s):
                found.append(task)
        return found
