"""Finds the code that a language model's answer holds, so that it can be run.

A model answers in Markdown, more or less: fences of any length, in lists and quotes, indented as a
whole, never closed, or no fence at all and the whole answer a program. `find_blocks` returns what
is code in it, exactly as it is to be run, with the language as far as it was said or is beyond
doubt. It reads and never executes; no text makes it raise, and its time is linear in the text's
length.
"""

from __future__ import annotations

from .block import CodeBlock, Kind
from .finding import find_blocks

__all__ = ["CodeBlock", "Kind", "find_blocks"]
