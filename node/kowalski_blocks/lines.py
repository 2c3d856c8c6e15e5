"""A text as lines, with the place of each, and the arithmetic of tabs.

Lines end as CommonMark says: with a line feed, a carriage return, or both. Python's `splitlines`
knows more ends (form feeds, U+2028), which are characters of the code here. A tab reaches to the
next column that four divides, counted from the line's beginning and not from the container's; so
what is left of a line is always a pair (rest, column), and a tab of which a container took a part
is left as the spaces that remain of it.
"""

from __future__ import annotations

import re
from typing import Final

_END: Final = re.compile(r"\r\n?|\n")
_INDENT_MAX: Final = 1000
"""Where counting a line's indentation stops: no rule asks for more than a few columns."""

BLANK: Final = " \t"


class Lines:
    """The lines of a text, without their ends, and the offset of each one's first character."""

    def __init__(self, text: str) -> None:
        self.contents: list[str]
        self.starts: list[int]
        if "\r" in text:
            ends = list(_END.finditer(text))
            self.starts = [0, *(end.end() for end in ends)]
            stops = [*(end.start() for end in ends), len(text)]
            self.contents = [text[a:b] for a, b in zip(self.starts, stops, strict=True)]
        else:
            self.contents = text.split("\n")
            self.starts = []
            start = 0
            for line in self.contents:
                self.starts.append(start)
                start += len(line) + 1
        if not self.contents[-1]:
            # Behind the last line's end there is no further line.
            self.contents.pop()
            self.starts.pop()

    def __len__(self) -> int:
        return len(self.contents)

    def end(self, number: int) -> int:
        """The offset behind a line's last character."""
        return self.starts[number] + len(self.contents[number])

    def offset(self, number: int, rest: str) -> int:
        """The offset of `rest`, which is the end of a line."""
        return self.end(number) - len(rest)


def indent(rest: str, column: int) -> int:
    """How many columns of blanks `rest` begins with, where it begins in `column`."""
    spaces = len(rest) - len(rest.lstrip(" "))
    if rest[spaces : spaces + 1] != "\t":
        return spaces
    at = column
    for character in rest[:_INDENT_MAX]:
        if character == " ":
            at += 1
        elif character == "\t":
            at += 4 - at % 4
        else:
            break
    return at - column


def dedent(rest: str, column: int, width: int) -> tuple[str, int]:
    """Takes up to `width` columns of blanks away; returns what remains and its column."""
    if rest[:width] == " " * width:
        return rest[width:], column + width
    at, target = column, column + width
    for place, character in enumerate(rest):
        if at >= target:
            return " " * (at - target) + rest[place:], target
        if character == " ":
            at += 1
        elif character == "\t":
            at += 4 - at % 4
        else:
            return rest[place:], at
    return (" " * (at - target), target) if at > target else ("", at)
