"""One run of the benchmark: what the groups share.

A group gets the session, measures with clusters of its own in a folder of its own, and reports each
figure as soon as it has it, so that a long run shows what it has found and an interrupted one has
not measured in vain. Progress goes to stderr; stdout belongs to the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from kowalski_gateway.local_cluster import LocalCluster

from .figures import Figure, judged
from .quantiles import rounded


class Unmeasurable(Exception):
    """A group can't measure here; the text says why."""


class Skipped(Unmeasurable):
    """What the group compares with is not there; that is no failure."""


class Session:
    """What a group needs to know and to tell."""

    def __init__(
        self,
        folder: Path,
        wanted: frozenset[str],
        *,
        quick: bool,
        tell: Callable[[Figure], None],
    ) -> None:
        self.folder = folder
        self.quick = quick
        self.figures: dict[str, Figure] = {}
        self.failed = False
        """Whether a figure that could be measured here was not."""
        self._wanted = wanted
        self._tell = tell
        self._clusters = 0

    def wants(self, *names: str) -> bool:
        """Whether one of these figures was asked for."""
        return not self._wanted.isdisjoint(names)

    def times(self, many: int, few: int) -> int:
        """How often to repeat: the first number, or the second in a quick run."""
        return few if self.quick else many

    def cluster(
        self, *options: str, mdns: bool = False, host: str = "127.0.0.1"
    ) -> AbstractAsyncContextManager[LocalCluster]:
        """A new cluster of local nodes in a folder of its own."""
        self._clusters += 1
        folder = self.folder / f"cluster-{self._clusters}"
        return LocalCluster(folder, options=options, mdns=mdns, host=host)

    def report(self, name: str, value: float, **detail: Any) -> None:
        """Judges a figure and tells it, if it was asked for."""
        self._put(judged(name, rounded(value, 4), detail))

    def give_up(self, names: Sequence[str], reason: str) -> None:
        """Tells of figures that could not be measured."""
        for name in names:
            if name not in self.figures:
                self._put(judged(name, None, {"reason": reason}))

    def _put(self, figure: Figure) -> None:
        self.figures[figure.figure] = figure
        if self.wants(figure.figure):
            self._tell(figure)

    def value(self, name: str) -> float | None:
        """What was measured earlier in this run."""
        figure = self.figures.get(name)
        return figure.value if figure is not None else None

    def say(self, text: str) -> None:
        """A line of progress."""
        sys.stderr.write(f"  {text}\n")
        sys.stderr.flush()
