"""What a run is: its seed and everything else that decides what happens in it.

Same options and same commit, same run. What the seed decides is drawn from a stream of its own per
purpose, so that leaving out one fault (as the shrinker does) changes nothing else that is drawn.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from kowalski_protocol.limits import LAN, LOCAL, WAN, Timers

PRESETS: dict[str, Timers] = {"local": LOCAL, "lan": LAN, "wan": WAN}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the world."""

    seed: int
    nodes: int | None = None
    """How many devices there are from the start; None: drawn."""
    minutes: float = 10.0
    """How long the safety phase lasts, in simulated minutes."""
    preset: str | None = None
    """The timers; None: drawn."""
    faults: tuple[str, ...] | None = None
    """The kinds of fault that may happen; None: a subset is drawn."""
    left_out: tuple[int, ...] = ()
    """Faults of the drawn schedule, by their numbers, that do not happen: how runs are shrunk."""
    bug: str | None = None
    """A planted bug; see `bugs`."""

    def stream(self, name: str) -> random.Random:
        """The random numbers of one purpose."""
        return random.Random(f"{self.seed}/{name}")

    def with_(self, **changes: Any) -> Options:
        """The same run with something changed."""
        return msgspec.structs.replace(self, **changes)

    def command(self) -> str:
        """The command that replays this run."""
        words = [f"python -m simulations run --seed {self.seed}"]
        if self.nodes is not None:
            words.append(f"--nodes {self.nodes}")
        if self.minutes != 10.0:
            words.append(f"--hours {self.minutes / 60!r}")
        if self.preset is not None:
            words.append(f"--preset {self.preset}")
        if self.faults is not None:
            words.append(f"--faults {','.join(self.faults) or 'none'}")
        if self.left_out:
            words.append(f"--leave-out {','.join(map(str, self.left_out))}")
        if self.bug is not None:
            words.append(f"--bug {self.bug}")
        return " ".join(words)
