"""Keeping the interpreter's own pauses out of the latency.

Two of them. The garbage collector: the ledger's state is hundreds of thousands of long-lived
objects without cycles, and a full collection walks them all. Measured at 100,000 tasks, that is a
third of the fold's time and pauses of 110 ms. Moving what has survived out of the collector's sight
every so often brings the longest pause to 2 ms. What is garbage at that moment was collected just
before; a cycle that dies later among what was moved is not freed, which costs kilobytes, because
the state itself is freed by reference counts.

And the interpreter lock: a thread that wants it back, as the ledger's does after each commit, waits
up to the switch interval while the node's own thread computes. Of the default 5 ms a task that
needs four commits would lose 20.
"""

from __future__ import annotations

import gc
import sys
from typing import Final

EVENTS_BETWEEN: Final = 20_000
SWITCH_INTERVAL_S: Final = 0.001


class SettledObjects:
    """Counts events, and now and then takes the state's objects out of the collector's work."""

    def __init__(self) -> None:
        self._events = 0
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.set_threshold(10_000, 20, 10)
        gc.collect()
        gc.freeze()

    def grew(self, events: int) -> None:
        """So many events have joined the state."""
        self._events += events
        if self._events >= EVENTS_BETWEEN:
            self._events = 0
            gc.collect(1)
            gc.freeze()
