"""A hybrid logical clock: wall time where it can be trusted, a counter where it can't.

A reading is one integer, 48 bits of Unix milliseconds and 16 bits of counter, so readings compare
as integers. The clock rises strictly on one device, also when its wall clock steps back, and
follows what it hears, but only within `max_ahead_ms`: a member whose clock says 2100 is stored and
folded like any other and never drags the cluster along. The source is Kulkarni et al., "Logical
Physical Clocks" (2014).
"""

from __future__ import annotations

from typing import Final

COUNTER_BITS: Final = 16
COUNTER_MAX: Final = (1 << COUNTER_BITS) - 1
HLC_MAX: Final = (1 << 64) - 1
WALL_MAX_MS: Final = (1 << 48) - 1


def wall_ms(hlc: int) -> int:
    """The Unix milliseconds of a reading."""
    return hlc >> COUNTER_BITS


def unix_s(hlc: int) -> float:
    """The Unix seconds of a reading, for people."""
    return (hlc >> COUNTER_BITS) / 1000.0


class HybridClock:
    """The clock of one node. `last` is its newest reading; it starts from the newest own event."""

    __slots__ = ("last", "max_ahead_ms")

    def __init__(self, *, max_ahead_ms: int, last: int = 0) -> None:
        self.last = last
        self.max_ahead_ms = max_ahead_ms

    def tick(self, now_ms: int) -> int:
        """A reading greater than all before it, at `now_ms` if the wall clock allows."""
        wall = min(max(now_ms, 0), WALL_MAX_MS) << COUNTER_BITS
        self.last = wall if wall > self.last else self.last + 1
        return self.last

    def observe(self, hlc: int, now_ms: int) -> bool:
        """Follows a reading heard from a member.

        False where it is too far ahead and was ignored.
        """
        if wall_ms(hlc) > now_ms + self.max_ahead_ms:
            return False
        if hlc > self.last:
            self.last = hlc
        return True
