"""Reads a fenced block to its end, and knows when the first closing fence is not the one.

CommonMark ends a block at the first line that can close it. A Python program may hold such a line:
in a docstring, or in a text that it writes. So where a block that is, or may be, Python is closed
while a string of three quotes is open, the later closing fences are tried in turn: the first that
stands outside of any string is taken if the source up to it parses. If it does not, or no fence is
left, the block ends where CommonMark ends it.

Fences in lists are mended likewise: where the content lacks the item's indentation from its first
line on, CommonMark takes the item, and so the block, for ended, and the closing fence for one that
opens. There the block goes on to the next fence, if that one could close it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from .block import Kind
from .budget import Budget
from .fences import OPENING_INDENT_MAX, Fence, opening
from .languages import read_info
from .lines import BLANK, Lines, dedent, indent
from .python_source import OpenString, has_triple_quote, looks_like_program, parse

CLOSINGS_TRIED_MAX: Final = 32
"""Closing fences tried for one block: more than a docstring has examples."""
_DEEP_INDENT_MAX: Final = 1000

Row = tuple[str, int]
"""A line without its containers, and its column."""


@dataclass(slots=True, kw_only=True)
class Found:
    """A block of code, before its language is judged. Line numbers count from 0."""

    kind: Kind
    first: int
    last: int
    start: int
    end: int = 0
    info: str = ""
    is_closed: bool = True
    body: list[str] = field(default_factory=list[str])
    """The lines of the code."""
    ragged: list[str] | None = None
    """The same before the fence's indentation was taken away, where not all of them had it."""


class Containers(Protocol):
    """What the reader asks about the containers that are open."""

    def match(self, line: str) -> tuple[str, int, int]: ...

    def depth(self) -> int: ...

    def is_in_lists_only(self) -> bool: ...


@dataclass(slots=True)
class _Stretch:
    """Lines up to one that may close a block."""

    rows: list[Row]
    stop: int
    """The line that closes the block; else the first one that is not the block's."""
    closing: Row | None


class FenceReader:
    """Reads the fenced blocks of one text."""

    def __init__(self, lines: Lines, budget: Budget, *, is_strict: bool) -> None:
        self._lines = lines
        self._budget = budget
        self._is_strict = is_strict

    def read(
        self, containers: Containers, number: int, stripped: str, fence: Fence
    ) -> tuple[Found, int]:
        """The block that the line opens, and the number of the first line behind it."""
        stretch = self._stretch(containers, number + 1, fence)
        if self._is_strict:
            return self._found(number, stripped, fence, stretch)
        if stretch.closing is None:
            stretch = self._mended(containers, number, fence, stretch)
        else:
            stretch = self._waited(containers, fence, stretch)
        return self._found(number, stripped, fence, stretch)

    def read_deep(
        self, containers: Containers, number: int, stripped: str, fence: Fence
    ) -> tuple[Found, int] | None:
        """The same for a fence that is indented too deep; None where none as deep closes it."""
        stretch = self._stretch(containers, number + 1, fence, is_deep=True, is_look=True)
        if stretch.closing is None:
            return None
        stretch = self._waited(containers, fence, stretch, is_deep=True)
        return self._found(number, stripped, fence, stretch)

    def _stretch(
        self,
        containers: Containers,
        number: int,
        fence: Fence,
        *,
        is_deep: bool = False,
        is_look: bool = False,
    ) -> _Stretch:
        contents, mark, depth = self._lines.contents, fence.mark, containers.depth()
        rows: list[Row] = []
        while number < len(contents):
            line = contents[number]
            if is_look and not self._budget.allows_look(line):
                break
            if depth:
                rest, column, matched = containers.match(line)
                if matched < depth:
                    break
            else:
                rest, column = line, 0
            if mark in rest and _closes(fence, rest, column, is_deep=is_deep):
                return _Stretch(rows, number, (rest, column))
            rows.append((rest, column))
            number += 1
        return _Stretch(rows, number, None)

    def _found(
        self, number: int, stripped: str, fence: Fence, stretch: _Stretch
    ) -> tuple[Found, int]:
        lines, rows, width = self._lines, stretch.rows, fence.indent
        body = [dedent(rest, column, width)[0] for rest, column in rows] if width else None
        block = Found(
            kind="fenced",
            first=number,
            last=stretch.stop if stretch.closing else number + len(rows),
            start=lines.offset(number, stripped),
            info=fence.info,
            is_closed=stretch.closing is not None,
            body=[rest for rest, _ in rows] if body is None else body,
        )
        if width and any(rest.strip(BLANK) and indent(rest, at) < width for rest, at in rows):
            block.ragged = [rest for rest, _ in rows]
        block.end = lines.end(block.last)
        if stretch.closing is not None:
            rest = stretch.closing[0]
            block.end -= len(rest) - len(rest.rstrip(BLANK))
        return block, stretch.stop + (stretch.closing is not None)

    # --------------------------------------------------------------- closings that are none

    def _waited(
        self, containers: Containers, fence: Fence, stretch: _Stretch, *, is_deep: bool = False
    ) -> _Stretch:
        """The stretch up to the closing fence that stands outside of the source's strings."""
        said = read_info(fence.info)
        if said.language != "python" and not said.is_untagged:
            return stretch
        source = _source(stretch.rows, fence)
        if not has_triple_quote(source):
            return stretch
        string = OpenString()
        string.feed(source)
        longer = _Stretch(list(stretch.rows), stretch.stop, stretch.closing)
        pieces = [source]
        for _ in range(CLOSINGS_TRIED_MAX):
            if not string.is_open or longer.closing is None:
                break
            more = self._stretch(containers, longer.stop + 1, fence, is_deep=is_deep, is_look=True)
            rows = [longer.closing, *more.rows]
            pieces.append(_source(rows, fence))
            string.feed(pieces[-1])
            longer.rows += rows
            longer.stop, longer.closing = more.stop, more.closing
        if len(pieces) == 1 or string.is_open or longer.closing is None:
            return stretch
        tree = parse("".join(pieces), self._budget)
        if tree is None or (said.is_untagged and not looks_like_program(tree)):
            return stretch
        return longer

    def _mended(
        self, containers: Containers, number: int, fence: Fence, stretch: _Stretch
    ) -> _Stretch:
        """The stretch of a block in a list whose content lacks the list's indentation."""
        contents = self._lines.contents
        if (
            stretch.stop >= len(contents)
            or not containers.is_in_lists_only()
            or any(rest.strip(BLANK) for rest, _ in stretch.rows)
        ):
            return stretch
        for stop in range(stretch.stop, len(contents)):
            line = contents[stop]
            if not self._budget.allows_look(line):
                break
            if fence.mark not in line:
                continue
            other = opening(line.lstrip(BLANK), 0)
            if other is not None and other.mark.startswith(fence.mark):
                if other.info:
                    break
                rows: list[Row] = [(rest, 0) for rest in contents[number + 1 : stop]]
                blanks = [indent(rest, 0) for rest, _ in rows if rest.strip(BLANK)]
                width = min(blanks, default=0)
                rows = [dedent(rest, 0, width) for rest, _ in rows]
                return _Stretch(rows, stop, (line, 0))
        return stretch


def _closes(fence: Fence, rest: str, column: int, *, is_deep: bool) -> bool:
    if is_deep:
        return indent(rest, column) > OPENING_INDENT_MAX and fence.is_closed_by(
            rest, column, _DEEP_INDENT_MAX
        )
    return fence.is_closed_by(rest, column)


def _source(rows: list[Row], fence: Fence) -> str:
    return "".join(dedent(rest, column, fence.indent)[0] + "\n" for rest, column in rows)
