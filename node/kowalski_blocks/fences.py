"""The two lines of a fence: what opens a block and what closes it."""

from __future__ import annotations

from typing import Final

import msgspec

from .lines import BLANK, indent

FENCE_LENGTH_MIN: Final = 3
OPENING_INDENT_MAX: Final = 3
"""Four columns are indented code, in CommonMark."""


class Fence(msgspec.Struct, frozen=True):
    """An opening fence."""

    mark: str
    """The fence's characters: three or more backticks, or as many tildes."""
    info: str
    indent: int
    """Columns of blanks before it; each line of the content loses up to so many."""

    def is_closed_by(self, rest: str, column: int, indent_max: int = OPENING_INDENT_MAX) -> bool:
        """Whether a line, without its containers, closes the block."""
        stripped = rest.lstrip(BLANK)
        if not stripped.startswith(self.mark):
            return False
        return not stripped.lstrip(self.mark[0]).strip(BLANK) and indent(rest, column) <= indent_max


def opening(stripped: str, width: int) -> Fence | None:
    """The fence that a line opens, given without its `width` columns of blanks; else None."""
    character = stripped[:1]
    if character not in ("`", "~") or not stripped.startswith(character * FENCE_LENGTH_MIN):
        return None
    info = stripped.lstrip(character)
    if character == "`" and "`" in info:
        # Code within a line, not a block.
        return None
    mark = stripped[: len(stripped) - len(info)]
    return Fence(mark, info.strip(BLANK), width)
