"""Where a list item begins, and by how much its content is indented."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from .lines import BLANK, dedent, indent

_MARKER: Final = re.compile(r"(?:[-+*]|([0-9]{1,9})[.)])(?=[ \t]|\Z)")


class ItemStart(msgspec.Struct, frozen=True):
    """The beginning of a list item."""

    width: int
    """Columns from the marker's first character to the content."""
    rest: str
    column: int


def item_start(stripped: str, column: int, interrupts: bool) -> ItemStart | None:
    """The item that a line begins in `column`; None where it begins none.

    Args:
      stripped: the line from its first character that is no blank.
      interrupts: whether a paragraph is open there, which only an item that is not empty, and is
        the first where they are numbered, ends.
    """
    marker = _MARKER.match(stripped)
    if marker is None:
        return None
    behind = stripped[marker.end() :]
    is_blank = not behind.strip(BLANK)
    if interrupts and (is_blank or (marker[1] is not None and int(marker[1]) != 1)):
        return None
    column += marker.end()
    if is_blank:
        return ItemStart(marker.end() + 1, "", column)
    blanks = indent(behind, column)
    # Five columns or more: the content is indented code, one column behind the marker.
    padding = blanks if blanks <= 4 else 1
    rest, column = dedent(behind, column, padding)
    return ItemStart(marker.end() + padding, rest, column)
