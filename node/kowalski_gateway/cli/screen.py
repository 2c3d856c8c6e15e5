"""What is printed: tables and text for people, one JSON document for programs, errors on stderr.

Text from other devices goes through `wording.safe` and reaches rich as plain text, never as
markup. Colours are for terminals alone (rich minds NO_COLOR); piped output has neither colours nor
frames, and a table keeps its columns however narrow the terminal is: long cells fold or are cut at
their end.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from kowalski_protocol.errors import Problem

from .settings import settings
from .wording import safe, safe_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

GAP: Final = 2
NOTHING: Final = "–"
"""What stands in a cell without a value."""
CUT_WIDTH_MIN: Final = 12
FOLDED_WIDTH_MIN: Final = 24
WRITE_CODES: Final = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EIO: "disk_failed",
    errno.EFBIG: "bad_request",
    errno.EBADF: "bad_request",
}
"""What the system says of a stream that can't be written, and our code for it."""


def console() -> Console:
    """Stdout for people: plain where it isn't a terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 10_000
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=False, width=width)


def print_json(value: Any) -> None:
    """The one document of --json; what isn't ASCII is escaped, so that no terminal obeys it."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(value, indent=indent))


def wants_json() -> bool:
    return settings().as_json


def say(text: str) -> None:
    """A line for people, which may hold text of others."""
    click.echo(safe(text))


def styled(text: object, style: str = "") -> Text:
    """One cell or line with text of others in it."""
    from rich.text import Text

    return Text(safe(text), style)


def tinted(text: str, *, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
    """Own words in a colour; click takes it away again where the output isn't a terminal."""
    if os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=fg, bold=bold or None, dim=dim or None)


class Column:
    """A column of a table. One that may be `cut` or may `fold` gives way first where the screen is
    narrow; then columns are left out, those with the highest `spare` first."""

    def __init__(
        self,
        title: str,
        *,
        right: bool = False,
        cut: bool = False,
        fold: bool = False,
        spare: int = 0,
    ) -> None:
        self.title = title
        self.right = right
        self.cut = cut
        self.fold = fold
        self.spare = spare


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
    """Rows under their titles; a column in which nothing stands is left out."""
    from rich.table import Table

    cells = [[_cell(value) for value in row] for row in rows]
    screen = console()
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    widths = _widths(columns, cells, screen.width)
    for index, width in widths.items():
        column = columns[index]
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.fold,
            overflow="ellipsis" if column.cut else "fold",
            width=width,
        )
    for row in cells:
        table.add_row(*(row[index] for index in widths))
    _print_without_trailing_blanks(table)


def _least(column: Column, width: int) -> int:
    """How narrow a column of this width may get."""
    if column.fold:
        return min(width, FOLDED_WIDTH_MIN)
    return min(width, CUT_WIDTH_MIN) if column.cut else width


def _widths(
    columns: Sequence[Column], cells: Sequence[Sequence[Text]], width_max: int
) -> dict[int, int]:
    """How wide each column that is shown may be, so that all of them fit on the screen."""
    widths = {
        index: max(len(column.title), *(row[index].cell_len for row in cells), 1)
        for index, column in enumerate(columns)
        if index == 0 or any(row[index].plain not in ("", NOTHING) for row in cells)
    }
    room = width_max + GAP
    least = {index: _least(columns[index], width) for index, width in widths.items()}
    while sum(least[index] + GAP for index in widths) > room:
        spare = max(widths, key=lambda index: columns[index].spare)
        if columns[spare].spare == 0:
            return {index: least[index] for index in widths}  # so narrow a screen gets what fits
        del widths[spare]
    while sum(widths.values()) + GAP * len(widths) > room:
        flexible = [index for index in widths if widths[index] > least[index]]
        widths[max(flexible, key=widths.__getitem__)] -= 1
    return widths


def _cell(value: Any) -> Text:
    from rich.text import Text

    return value if isinstance(value, Text) else Text(safe(value))


def _print_without_trailing_blanks(table: Any) -> None:
    screen = console()
    with screen.capture() as captured:
        screen.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_facts(facts: Mapping[str, Any]) -> None:
    """Names and values in two columns."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, _cell(value))
    _print_without_trailing_blanks(table)


def print_output(text: str, *, error: bool = False) -> None:
    """What a task printed, without what a terminal would obey."""
    click.echo(safe_lines(text), nl=False, err=error)


def print_value(value: Any) -> None:
    """A task's value: a text as its lines, everything else as JSON."""
    if isinstance(value, str):
        click.echo(safe_lines(value))
    elif value is not None:
        click.echo(json.dumps(value, indent=2 if isinstance(value, dict | list) else None))


def tell_problem(problem: Problem, as_json: bool) -> None:
    """An error where the caller looks for it."""
    if as_json:
        error = {"code": problem.code, "message": problem.sentence}
        if problem.mend:
            error["mend"] = problem.mend
        print_json({"error": error})
        return
    error_line(problem.sentence, problem.mend, code=problem.code)


def cannot_write(what: str, error: OSError) -> Problem:
    """What the system said when a command wrote its output."""
    code = WRITE_CODES.get(error.errno or 0, "bad_request")
    return Problem(code, f"{what} can't be written: {error.strerror or error}.")


def error_line(
    sentence: str,
    mend: str | None = None,
    *,
    code: str | None = None,
    shown: Callable[[str], str] = safe,
) -> None:
    """`error [code]: sentence` and the command that mends it, on stderr.

    What has no code of the catalogue, such as what a device says is missing there, goes without
    one.
    """
    label = "error: " if code is None else f"error [{safe(code)}]: "
    click.echo(tinted(label, fg="red"), err=True, nl=False)
    click.echo(shown(sentence), err=True)
    if mend:
        click.echo(f"mend: {safe(mend)}", err=True)


@contextmanager
def progress(title: str, unit: str = "") -> Iterator[Any]:
    """Yields `update(done, total)`, which draws a bar on a terminal's stderr once a second has
    passed."""
    if not sys.stderr.isatty():
        yield _no_update
        return
    from rich.console import Console

    from .bars import Bar

    bar = Bar(Console(stderr=True, markup=False, highlight=False), title, unit)
    try:
        yield bar.update
    finally:
        bar.close()


def _no_update(done: int, total: int | None) -> None:
    del done, total
