"""Where the demo shows what happens: a terminal, a pipe, or nowhere.

The story calls `note` when something happens and `show` a few times a second. A terminal gets a bar
and a table of the devices that stay below the lines that pass; a pipe gets lines alone, with the
progress every tenth; `--json` gets nothing before its document.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_STEPS = 10
_STYLES = {"leads": "bold cyan", "killed": "bold red", "returns": "yellow"}


class DeviceLine(NamedTuple):
    """What is shown of one device."""

    name: str
    state: str
    """leads | works | killed | returns"""
    running: int
    queued: int
    done: int


class Stage(Protocol):
    """What the story needs of its audience."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def note(self, text: str, style: str = "") -> None:
        """Something happened."""
        ...

    def show(self, done: int, total: int, devices: Sequence[DeviceLine]) -> None:
        """How far it is, and what each device does."""
        ...


class SilentStage:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def note(self, text: str, style: str = "") -> None: ...

    def show(self, done: int, total: int, devices: Sequence[DeviceLine]) -> None: ...


class LineStage(SilentStage):
    """Lines on stdout, for pipes and files."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._step = 0

    def note(self, text: str, style: str = "") -> None:
        del style
        self._print(text)

    def show(self, done: int, total: int, devices: Sequence[DeviceLine]) -> None:
        step = _STEPS * done // total if total else 0
        if step > self._step:
            self._step = step
            told = ", ".join(f"{one.name} {one.done:,}" for one in devices)
            self._print(f"{done:,} of {total:,} tasks settled ({told})")

    def _print(self, text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self._began_s:6.1f} s  {text}\n")
        sys.stdout.flush()


class TerminalStage:
    """A bar and a table that stay below the lines."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live
        from rich.text import Text

        self._began_s = time.monotonic()
        self._console = console
        self._shown: tuple[int, int, Sequence[DeviceLine]] = (0, 0, ())
        self._live = Live(
            Text(""),
            console=console,
            refresh_per_second=10,
            transient=True,
            get_renderable=self._render,
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def note(self, text: str, style: str = "") -> None:
        from rich.table import Table
        from rich.text import Text

        line = Table.grid(padding=(0, 2, 0, 0))  # so that a long line goes on under its beginning
        line.add_column(no_wrap=True)
        line.add_column(overflow="fold")
        clock = f"{time.monotonic() - self._began_s:6.1f} s"
        line.add_row(Text(clock, "dim"), Text(text, style))
        self._console.print(line)

    def show(self, done: int, total: int, devices: Sequence[DeviceLine]) -> None:
        self._shown = (done, total, devices)

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        done, total, devices = self._shown
        if not total:
            return Text("")
        return Group(Text(""), _bar(done, total), Text(""), _table(devices), Text(""))


def _bar(done: int, total: int) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    settled = Text(f"{done:,} of {total:,} tasks settled")
    row.add_row(Text(" "), ProgressBar(total=total, completed=done), settled)
    return row


def _table(devices: Sequence[DeviceLine]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("   DEVICE")
    table.add_column("", min_width=8)
    table.add_column("RUNNING", min_width=12)
    table.add_column("QUEUED", justify="right", min_width=6)
    table.add_column("DONE", justify="right", min_width=5)
    for one in devices:
        style = _STYLES.get(one.state, "")
        gone = one.state in ("killed", "returns")
        table.add_row(
            Text(f"   {one.name}", style),
            Text(one.state, style),
            Text("–" if gone else "■" * one.running or "·", "green"),
            Text("–" if gone else f"{one.queued:,}"),
            Text(f"{one.done:,}"),
        )
    return table
