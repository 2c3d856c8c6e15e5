"""What a found piece of code is.

One value says it all: the source, what is known of its language and how, and where it stood in the
text, so that a caller can run it, show it in place or cut it out.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["fenced", "indented", "raw", "inline"]


class CodeBlock(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of code and its place in the text that it was found in."""

    code: str
    """The source as it is to be run: without fences, list indentation and quote marks. Its lines
    end with a line feed, whatever ended them in the text; so does the last one, except in inline
    code. Empty for an empty block.
    """
    language: str | None
    """The canonical name ("python", "javascript", "bash", "rust", "java", ...); None where it is
    not known, and for transcripts and plain text, which are no programs.
    """
    info: str
    """What stands behind the opening fence, as written, without blanks around it; empty for the
    other kinds.
    """
    is_inferred: bool
    """Whether the language was judged from the code. False where the info string or the code's own
    shebang line says it, and where `language` is None.
    """
    kind: Kind
    """`fenced`; `indented` by four columns; `raw`, the whole text is one program; `inline`, a code
    span within a paragraph.
    """
    start: int
    """Offset, in characters, of the block's first character: that of the opening fence, of the
    first line's indentation, of the program, of the opening backtick.
    """
    end: int
    """Offset behind the block's last character: behind the closing fence, or behind the last line
    where nothing closes it; the line's end is not part of it.
    """
    first_line: int
    """The line of `start`, counted from 1."""
    last_line: int
    """The line of the last character, counted from 1."""
    is_closed: bool
    """False for a fence that no fence closes: the code may be cut short."""
