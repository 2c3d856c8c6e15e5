"""From a text to its blocks: the order in which things are looked for, and what is said of each.

A text that is a program as a whole is that and nothing else: its indented lines and the fences in
its strings are no blocks. Otherwise the scanner finds the blocks, and each gets its language: from
the info string, from its own shebang line, or, only where nothing is said, by inference. What reads
as a transcript of a prompt is none, whatever the info string says.
"""

from __future__ import annotations

import textwrap

from .block import CodeBlock
from .budget import Budget
from .code_spans import Paragraphs
from .fence_reader import FenceReader, Found
from .inference import infer_language
from .languages import is_transcript, read_info, shebang_language
from .lines import Lines
from .python_source import parses
from .raw_scripts import raw_script
from .scanner import Scanner


def find_blocks(text: str, *, inline: bool = False, strict: bool = False) -> list[CodeBlock]:
    """The code in a text, in the order in which it stands there; blocks never overlap.

    Nothing of the text is executed, and no text makes this raise. The time is linear in the text's
    length: about a tenth of a second for a megabyte of Markdown.

    Args:
      text: what a model answered: Markdown, or a program without any.
      inline: whether code spans within lines are found too, as blocks of kind `inline`.
      strict: whether blocks are those of CommonMark and no others. Otherwise also raw programs,
        fenced blocks that are indented as a whole, content that lacks its list's indentation, and
        fences right behind HTML tags are understood, and a Python block does not end within a
        string.

    Returns:
      For each block its code as it is to be run, its language and its place.
    """
    lines = Lines(text)
    if not strict:
        # With a budget of its own: a text that merely begins like a program leaves all of the
        # other to its blocks.
        script = raw_script(lines, Budget())
        if script is not None:
            return [script]
    budget = Budget()
    paragraphs = Paragraphs(lines)
    scanner = Scanner(
        lines,
        FenceReader(lines, budget, is_strict=strict),
        is_strict=strict,
        prose=paragraphs.add if inline else None,
    )
    blocks = [_judged(found, budget, is_strict=strict) for found in scanner.scan()]
    if inline:
        blocks = sorted([*blocks, *paragraphs.spans()], key=lambda block: block.start)
    return blocks


def _judged(found: Found, budget: Budget, *, is_strict: bool) -> CodeBlock:
    code = "".join(f"{line}\n" for line in found.body)
    said = read_info(found.info)
    language, is_inferred = said.language, False
    if language == "python" and not is_strict:
        code = _straightened(code, found, budget)
    if is_transcript(code, language):
        language = None
    elif language is None and said.is_untagged:
        language = shebang_language(code)
        if language is None:
            language = infer_language(code, budget)
            is_inferred = language is not None
    return CodeBlock(
        code=code,
        language=language,
        info=found.info,
        is_inferred=is_inferred,
        kind=found.kind,
        start=found.start,
        end=found.end,
        first_line=found.first + 1,
        last_line=found.last + 1,
        is_closed=found.is_closed,
    )


def _straightened(code: str, found: Found, budget: Budget) -> str:
    """Python whose lines are all indented, or not all as their fence, as it parses."""
    begins_indented = code.lstrip("\n")[:1] in (" ", "\t")
    if not (begins_indented or found.ragged is not None) or parses(code, budget):
        return code
    lines = found.body if found.ragged is None else found.ragged
    straight = textwrap.dedent("".join(f"{line}\n" for line in lines))
    return straight if straight != code and parses(straight, budget) else code
