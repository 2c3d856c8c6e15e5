"""What a terminal shows of a running batch, on one line: how far, how fast, how deep, how long
still, and how many failed.

The speed is that of the last seconds, and the time that is left follows from it: an average since
the beginning would go on telling of a start or a pause that is long over.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from .batch_run import Standing
from .wording import clock

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SHOW_AFTER_S: Final = 1.0
SPEED_OVER_S: Final = 10.0
SAMPLE_S: Final = 0.2
DRAWN_PER_S: Final = 5
ECHO_WIDTH: Final = 3
BAR_WIDTH_MIN: Final = 8
BAR_WIDTH_MAX: Final = 40


class Speed:
    """How many settle in a second, over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, now: float, settled: int) -> None:
        """So many have settled by now."""
        samples = self._samples
        if len(samples) > 1 and now - samples[-2][0] < SAMPLE_S:
            samples[-1] = (now, settled)
        else:
            samples.append((now, settled))
        while len(samples) > 2 and samples[1][0] <= now - SPEED_OVER_S:
            samples.popleft()

    @property
    def per_s(self) -> float | None:
        """None where too little was seen to say."""
        if not self._samples:
            return None
        (began, before), (now, settled) = self._samples[0], self._samples[-1]
        return (settled - before) / (now - began) if now - began >= SAMPLE_S else None


def words(standing: Standing, per_s: float | None) -> Iterator[tuple[str, str]]:
    """What stands right of the bar, each with its colour; while it waits for the node, that stands
    instead of a speed."""
    yield f"{standing.settled:,}/{standing.total:,}", ""
    if not standing.note:
        rate = "–" if per_s is None else f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.1f}"
        yield f"{rate} tasks/s", "cyan"
    yield f"{standing.under_way:,} under way", ""
    if not standing.note:
        left = standing.total - standing.settled
        yield f"{clock(left / per_s if per_s else None)} left", "cyan"
    if standing.failed:
        yield f"{standing.failed:,} failed", "red"
    if standing.note:
        yield standing.note, "yellow"


class Screen:
    """The line on a terminal; nothing during the first second."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._began = time.monotonic()
        self._speed = Speed()
        self._standing: Standing | None = None
        self._per_s: float | None = None
        self._live = Live(
            console=console,
            get_renderable=self._drawn,
            refresh_per_second=DRAWN_PER_S,
            transient=True,
        )

    def update(self, standing: Standing) -> None:
        """Shows how far it is."""
        now = time.monotonic()
        self._speed.note(now, standing.settled)
        self._standing, self._per_s = standing, self._speed.per_s
        if not self._live.is_started and (standing.note or now - self._began >= SHOW_AFTER_S):
            self._live.start()

    def say(self, text: str) -> None:
        """A sentence that stays, above the line."""
        self._console.print(text)

    def close(self) -> None:
        """Takes the line from the screen."""
        if self._live.is_started:
            self._live.stop()

    def _drawn(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self._standing is None:
            return ""
        parts = words(self._standing, self._per_s)
        said = Text("  ").join(Text(text, style) for text, style in parts)
        # A terminal shows ^C where the cursor is: beyond the last column that would be on another
        # line, which the next drawing would not find.
        room = self._console.width - ECHO_WIDTH
        bar_width = min(room - said.cell_len - 2, BAR_WIDTH_MAX)
        if bar_width < BAR_WIDTH_MIN:
            said.truncate(room, overflow="ellipsis")
            return said
        line = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        line.add_column(width=bar_width)
        line.add_column(no_wrap=True)
        total = max(self._standing.total, 1)
        bar = ProgressBar(total=total, completed=self._standing.settled, width=bar_width)
        line.add_row(bar, said)
        return line


Show = tuple[Callable[[Standing], None], Callable[[str], None]]


@contextmanager
def display() -> Iterator[Show]:
    """What to tell how far the batch is, and what to tell sentences; without a terminal only these
    are shown."""
    if not sys.stderr.isatty():
        yield _ignore, _say
        return
    from rich.console import Console

    screen = Screen(Console(stderr=True, markup=False, highlight=False, emoji=False))
    try:
        yield screen.update, screen.say
    finally:
        screen.close()


def _ignore(standing: Standing) -> None:
    del standing


def _say(text: str) -> None:
    click.echo(text, err=True)
