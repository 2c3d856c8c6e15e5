"""What happens when: the one clock of a world, and what is due.

Things due at the same instant happen in the order in which they were put down, so a run has one
order. Time jumps from one to the next; nothing ever waits.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Agenda:
    """Simulated seconds since the world began, and what is due at them."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.done = 0
        """How many things have happened."""
        self._due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, time_s: float, what: Callable[..., object], *details: Any) -> None:
        """Lets `what(*details)` happen at a time, or now where that has passed."""
        self._count += 1
        now_s = self.now_s
        heappush(self._due, (time_s if time_s > now_s else now_s, self._count, what, details))

    def after(self, wait_s: float, what: Callable[..., object], *details: Any) -> None:
        """Lets something happen in so many seconds."""
        self._count += 1
        heappush(self._due, (self.now_s + wait_s, self._count, what, details))

    def run_until(self, time_s: float) -> None:
        """Lets everything happen that is due up to a time; it is that time afterwards."""
        due, pop = self._due, heappop
        while due and due[0][0] <= time_s:
            self.now_s, _, what, details = pop(due)
            self.done += 1
            what(*details)
        self.now_s = time_s
