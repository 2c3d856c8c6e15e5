"""A progress bar for what takes longer than a second: how far, how fast, how long still."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task, TaskID

SHOW_AFTER_S: Final = 1.0


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self._unit}/s", "cyan")


class Bar:
    """Draws nothing during the first second."""

    def __init__(self, console: Console, title: str, unit: str) -> None:
        self._began = time.monotonic()
        self._title = title
        self._task: TaskID | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            _Speed(unit),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            expand=True,
        )

    def update(self, done: int, total: int | None) -> None:
        """Shows how much is done, of how much where that is known."""
        if self._task is None:
            if time.monotonic() - self._began < SHOW_AFTER_S:
                return
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=total)
        self._progress.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Takes the bar from the screen."""
        if self._task is not None:
            self._progress.stop()
