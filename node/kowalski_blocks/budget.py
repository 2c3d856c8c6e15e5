"""How much work one text may cause beyond a single pass over it.

The pass is linear by itself. What is tried on top of it is not: to parse a candidate as Python, to
look for a later closing fence, to look whether a fence that stands too deep is closed at all. Each
attempt may fail and be followed by the next, so all attempts on one text draw on one budget of
constant size. Once it is spent, nothing more is tried: blocks end where CommonMark ends them, and
untagged ones stay without a language. Answers of models are far smaller than that.
"""

from __future__ import annotations

from typing import Final

PARSED_CHARACTERS_MAX: Final = 128 * 1024
"""Characters parsed as Python for one text, about a microsecond each: an eighth of a second."""
PARSES_MAX: Final = 512
"""Attempts to parse for one text; each costs some microseconds even if it fails at once."""
LOOKAHEAD_COST_MAX: Final = 1024 * 1024
"""Characters looked at for a closing fence beyond the one that CommonMark sees."""
LOOKAHEAD_LINE_COST: Final = 32
"""What a line costs besides its characters, so that very short lines are not free."""


class Budget:
    """What is left of the work that one text may cause."""

    def __init__(self) -> None:
        self._characters = PARSED_CHARACTERS_MAX
        self._parses = PARSES_MAX
        self._lookahead = LOOKAHEAD_COST_MAX

    def allows_parse(self, size: int) -> bool:
        """Takes the cost of one parse of so many characters; False, and nothing is taken, where
        that is more than is left.
        """
        if size > self._characters or not self._parses:
            return False
        self._characters -= size
        self._parses -= 1
        return True

    def allows_look(self, line: str) -> bool:
        """Takes the cost of looking at one more line ahead; False once that is spent."""
        self._lookahead -= len(line) + LOOKAHEAD_LINE_COST
        return self._lookahead >= 0
