"""The block structure of Markdown, as far as it decides what is code.

One pass over the lines, as CommonMark describes it: a line first continues the containers that are
open (quotes and list items), then opens new ones, and what is left of it is a leaf. Of leaves only
code is kept; of the others it matters whether a paragraph is open, since indented code can't
interrupt one, and whether HTML is, since nothing is code in it. `markdown-it-py` answers the same
question in about five times the time, and its last word is a tree; what is tolerated here, and
where a Python block ends, has to be decided while lines are read. So the scanner is the project's
own, and the tests hold it against markdown-it-py, which is their oracle.

Where `is_strict` is off it deviates in what models get wrong and a reader sees at once:

- A fenced block that is indented as a whole, too deep for CommonMark, is a block if it is closed.
- A fenced block in a list whose lines lack the list's indentation goes on to its closing fence.
- HTML blocks that end at a blank line, or that nothing ends, hide no fence: `<answer>` stands right
  before many.
- A Python block does not end within a string (`fence_reader`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .fence_reader import FenceReader, Found
from .fences import opening
from .html_blocks import HtmlEnds, html_end
from .lines import BLANK, Lines, dedent, indent
from .list_items import item_start

QUOTE: Final = 0
"""A quote among the open containers; a list item is the columns that its content is indented."""
DEPTH_MAX: Final = 32
"""Containers open at once; what would open one more is text."""

_SPECIAL: Final = frozenset(" \t>`~#<-+*_=0123456789")
"""What a line begins with that may be anything but a paragraph's text."""

Prose = Callable[[int, str, bool], None]
"""Told of each line that is text, in order: its number, its text, and whether it begins another
paragraph.
"""


class Scanner:
    """Reads a text once; `scan` returns the code that it found, in order."""

    def __init__(
        self, lines: Lines, reader: FenceReader, *, is_strict: bool, prose: Prose | None = None
    ) -> None:
        self._lines = lines
        self._reader = reader
        self._is_strict = is_strict
        self._prose = prose
        self._containers: list[int] = []
        self._tip_is_empty = False
        """Whether the innermost container is a list item without any content yet."""
        self._paragraph = False
        """Whether the innermost open leaf is a paragraph."""
        self._html_end: Callable[[str], bool] | None = None
        self._later = None if is_strict else HtmlEnds(lines.contents)
        self._indented: Found | None = None
        self._found: list[Found] = []

    def scan(self) -> list[Found]:
        """The code blocks of the text."""
        contents, special, tell = self._lines.contents, _SPECIAL, self._prose
        number, count = 0, len(contents)
        was_empty = False
        while number < count:
            line = contents[number]
            if not line and was_empty and not (self._indented or self._html_end):
                # The first empty line has closed what one can close.
                number += 1
                continue
            was_empty = not line
            if self._containers or self._indented or self._html_end or line[:1] in special:
                number = self._line(number, line)
                continue
            # Outside of everything, a plain line is text and an empty one ends it.
            if tell is not None and line:
                tell(number, line, not self._paragraph)
            self._paragraph = bool(line)
            number += 1
        self._close_indented()
        return self._found

    # ------------------------------------------------------------------ what continues a line

    def match(self, line: str) -> tuple[str, int, int]:
        """What is left of a line behind the open containers, its column, and how many go on."""
        rest, column = line, 0
        for depth, width in enumerate(self._containers):
            if not rest:
                return "", column, self._items_from(depth)
            if width == QUOTE:
                stripped = rest.lstrip(BLANK)
                blanks = 0 if stripped == rest else indent(rest, column)
                if not stripped.startswith(">") or blanks > 3:
                    return rest, column, depth
                rest, column = dedent(stripped[1:], column + blanks + 1, 1)
            elif indent(rest, column) >= width:
                rest, column = dedent(rest, column, width)
            elif not rest.strip(BLANK):
                rest = ""
            else:
                return rest, column, depth
        matched = len(self._containers)
        if self._tip_is_empty and not rest.strip(BLANK):
            # A list item may begin with one blank line, not with two.
            matched -= 1
        return rest, column, matched

    def _items_from(self, depth: int) -> int:
        """How many containers an empty rest continues: all up to the next quote."""
        containers = self._containers
        if QUOTE in containers[depth:]:
            return containers.index(QUOTE, depth)
        return len(containers) - self._tip_is_empty

    def depth(self) -> int:
        """How many containers are open."""
        return len(self._containers)

    def is_in_lists_only(self) -> bool:
        """Whether a list item is open, and no quote."""
        return bool(self._containers) and QUOTE not in self._containers

    # ------------------------------------------------------------------------- one line's work

    def _line(self, number: int, line: str) -> int:
        """Takes in one line, and those of the fenced block that it opens; returns the next."""
        rest, column, matched = self.match(line) if self._containers else (line, 0, 0)
        goes_on = matched == len(self._containers)
        if self._html_end is not None:
            if goes_on:
                if self._html_end(rest):
                    self._html_end = None
                return number + 1
            self._html_end = None
        if not rest.strip(BLANK):
            self._blank(number, rest, column, matched, goes_on)
            return number + 1
        if self._indented is not None:
            if goes_on and indent(rest, column) >= 4:
                self._continue_indented(number, rest, column)
                return number + 1
            self._close_indented()
        return self._open(number, rest, column, matched)

    def _blank(self, number: int, rest: str, column: int, matched: int, goes_on: bool) -> None:
        if self._indented is not None and goes_on:
            self._indented.body.append(dedent(rest, column, 4)[0])
        elif self._indented is not None:
            self._close_indented()
        if not goes_on:
            self._keep(matched)
        self._paragraph = False

    def _keep(self, matched: int) -> None:
        """Closes the containers that do not go on; something begins in the innermost that does."""
        del self._containers[matched:]
        self._tip_is_empty = False

    def _open(self, number: int, rest: str, column: int, matched: int) -> int:
        """Opens what the rest of a line opens, containers first."""
        paragraph = self._paragraph
        goes_on = matched == len(self._containers)
        while True:
            stripped = rest.lstrip(BLANK)
            blanks = 0 if stripped == rest else indent(rest, column)
            if not stripped:
                # An item or a quote that begins with a blank line.
                return number + 1
            if blanks >= 4:
                return self._open_deep(number, rest, column, matched, paragraph)
            first = stripped[0]
            if first not in _SPECIAL:
                break
            if first == ">":
                if len(self._containers[:matched]) >= DEPTH_MAX:
                    break
                rest, column = dedent(stripped[1:], column + blanks + 1, 1)
                self._push(matched, QUOTE)
            elif first in "`~":
                fence = opening(stripped, blanks)
                if fence is None:
                    break
                self._keep(matched)
                self._paragraph = False
                block, following = self._reader.read(self, number, stripped, fence)
                self._found.append(block)
                return following
            elif self._is_other_leaf(stripped, number, matched, paragraph and goes_on):
                return number + 1
            else:
                item = item_start(stripped, column + blanks, paragraph and goes_on)
                if item is None or len(self._containers[:matched]) >= DEPTH_MAX:
                    break
                rest, column = item.rest, item.column
                self._push(matched, blanks + item.width)
                self._tip_is_empty = not rest.strip(BLANK)
            matched += 1
            goes_on, paragraph = True, False
            self._paragraph = False
        self._text(number, stripped, matched, paragraph)
        return number + 1

    def _push(self, matched: int, container: int) -> None:
        self._keep(matched)
        self._containers.append(container)

    def _text(self, number: int, stripped: str, matched: int, paragraph: bool) -> None:
        """A line of a paragraph; it continues an open one also where its containers do not."""
        if self._prose is not None:
            self._prose(number, stripped, not paragraph)
        if not paragraph:
            self._keep(matched)
        self._paragraph = True

    def _open_deep(self, number: int, rest: str, column: int, matched: int, paragraph: bool) -> int:
        """Takes a line that is indented by four columns or more."""
        stripped = rest.lstrip(BLANK)
        if not self._is_strict:
            fence = opening(stripped, indent(rest, column))
            if fence is not None:
                kept = self._containers
                self._containers = kept[:matched]
                read = self._reader.read_deep(self, number, stripped, fence)
                if read is not None:
                    self._keep(matched)
                    self._paragraph = False
                    self._found.append(read[0])
                    return read[1]
                self._containers = kept
        if paragraph:
            self._text(number, stripped, matched, paragraph=True)
            return number + 1
        self._keep(matched)
        self._indented = Found(
            kind="indented", first=number, last=number, start=self._before_blanks(number, stripped)
        )
        self._continue_indented(number, rest, column)
        return number + 1

    def _before_blanks(self, number: int, stripped: str) -> int:
        line = self._lines.contents[number]
        before = line[: len(line) - len(stripped)]
        return self._lines.starts[number] + len(before.rstrip(BLANK))

    def _continue_indented(self, number: int, rest: str, column: int) -> None:
        assert self._indented is not None
        self._indented.body.append(dedent(rest, column, 4)[0])
        self._indented.last = number

    def _close_indented(self) -> None:
        block, self._indented = self._indented, None
        if block is not None:
            # Blank lines at its end are not part of it.
            del block.body[block.last - block.first + 1 :]
            block.end = self._lines.end(block.last)
            self._found.append(block)

    def _is_other_leaf(self, stripped: str, number: int, matched: int, interrupts: bool) -> bool:
        """Takes a line that is a heading, a rule or the beginning of HTML."""
        first = stripped[0]
        if first == "<":
            found = html_end(stripped, number, self._later, in_paragraph=self._paragraph)
            if found is None:
                return False
            self._keep(matched)
            self._html_end = None if found(stripped) else found
        elif first == "#":
            marks = len(stripped) - len(stripped.lstrip("#"))
            if marks > 6 or stripped[marks : marks + 1] not in ("", " ", "\t"):
                return False
            self._keep(matched)
            if self._prose is not None:
                self._prose(number, stripped, True)
        elif first in "=-" and interrupts and not stripped.rstrip(BLANK).strip(first):
            # It makes a heading of the paragraph before it.
            self._keep(matched)
        elif first in "-*_" and _is_rule(stripped, first):
            self._keep(matched)
        else:
            return False
        self._paragraph = False
        return True


def _is_rule(stripped: str, mark: str) -> bool:
    marks = stripped.replace(" ", "").replace("\t", "")
    return len(marks) >= 3 and not marks.strip(mark)
