"""Where HTML begins and ends among Markdown's blocks: nothing in it is code.

CommonMark knows seven beginnings. The first five (scripts and the like, comments, instructions,
declarations, CDATA) end with a mark of their own, and what stands in them is not shown as code
anywhere. The last two end at the next blank line: element names of blocks, and any tag that stands
alone on its line. Those are honoured in strict reading only, and so is the beginning of HTML that
nothing ends: `<script> tags are dangerous` begins a sentence, not a script.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from .lines import BLANK

_BLOCK_NAMES: Final = (
    "address|article|aside|base|basefont|blockquote|body|caption|center|col|colgroup|dd|details"
    "|dialog|dir|div|dl|dt|fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head"
    "|header|hr|html|iframe|legend|li|link|main|menu|menuitem|nav|noframes|ol|optgroup|option|p"
    "|param|search|section|summary|table|tbody|td|tfoot|th|thead|title|tr|track|ul"
)
_ATTRIBUTE: Final = r"\s+[A-Za-z_:][\w.:-]*(?:\s*=\s*(?:[^\s\"'=<>`]+|'[^']*'|\"[^\"]*\"))?"

_ENDS: Final[tuple[tuple[re.Pattern[str], re.Pattern[str]], ...]] = (
    (
        re.compile(r"<(?:script|pre|style|textarea)(?=[\s>]|\Z)", re.IGNORECASE),
        re.compile(r"</(?:script|pre|style|textarea)>", re.IGNORECASE),
    ),
    (re.compile(r"<!--"), re.compile(r"-->")),
    (re.compile(r"<\?"), re.compile(r"\?>")),
    (re.compile(r"<![A-Za-z]"), re.compile(r">")),
    (re.compile(r"<!\[CDATA\["), re.compile(r"\]\]>")),
)
_BLOCK: Final = re.compile(rf"</?(?:{_BLOCK_NAMES})(?=\s|/?>|\Z)", re.IGNORECASE)
_LONE_TAG: Final = re.compile(
    rf"(?:<[A-Za-z][A-Za-z0-9-]*(?:{_ATTRIBUTE})*\s*/?>|</[A-Za-z][A-Za-z0-9-]*\s*>)\s*\Z"
)


def _is_blank(line: str) -> bool:
    return not line.strip(BLANK)


class HtmlEnds:
    """Where in a text HTML of each kind ends last, so that what nothing ends is known as that."""

    def __init__(self, contents: Sequence[str]) -> None:
        self._contents = contents
        self._last: dict[re.Pattern[str], int] = {}

    def come_later(self, ends: re.Pattern[str], number: int) -> bool:
        """Whether the line or one behind it holds an end."""
        last = self._last.get(ends)
        if last is None:
            lines = self._contents
            held = (n for n in range(len(lines) - 1, -1, -1) if ends.search(lines[n]))
            last = self._last[ends] = next(held, -1)
        return number <= last


def html_end(
    stripped: str, number: int, later: HtmlEnds | None, *, in_paragraph: bool
) -> Callable[[str], bool] | None:
    """What tells the last line of the HTML that begins here; None where none begins.

    Args:
      stripped: the line from its first character that is no blank.
      number: the line's number.
      later: where the text's HTML ends; None in strict reading, in which what nothing ends goes to
        the end of the text, and in which the kinds that end at a blank line are honoured.
      in_paragraph: whether a paragraph is open, which a lone tag does not interrupt.
    """
    for begins, ends in _ENDS:
        if begins.match(stripped):
            if later is not None and not later.come_later(ends, number):
                return None
            return lambda line: ends.search(line) is not None
    if later is None and (
        _BLOCK.match(stripped) or (not in_paragraph and _LONE_TAG.match(stripped))
    ):
        return _is_blank
    return None
