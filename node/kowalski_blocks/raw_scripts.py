"""An answer that is nothing but a program, without a fence.

A shebang line says so, and in which language. Without one only Python is recognised: the whole text
must parse, and look like a program (`looks_like_program`), since much prose of one or two words
parses too. A first line that is Python's name and nothing else is what remains of a fence that was
lost in copying; it is no part of the program.
"""

from __future__ import annotations

from .block import CodeBlock
from .budget import PARSED_CHARACTERS_MAX, Budget
from .languages import canonical, shebang_language
from .lines import BLANK, Lines
from .python_source import has_triple_quote, looks_like_program, parse


def raw_script(lines: Lines, budget: Budget) -> CodeBlock | None:
    """The program that the whole text is; None where it is something else."""
    contents = lines.contents
    filled = (number for number, line in enumerate(contents) if line.strip(BLANK))
    first = next(filled, None)
    if first is None:
        return None
    last = next(n for n in range(len(contents) - 1, -1, -1) if contents[n].strip(BLANK))
    language = shebang_language(contents[first])
    if language is None:
        if first < last and canonical(contents[first].strip(BLANK)) == "python":
            first = next(filled)
        if lines.end(last) - lines.starts[first] > PARSED_CHARACTERS_MAX:
            return None
        if not _is_python(contents[first : last + 1], budget):
            return None
    return CodeBlock(
        code="\n".join(contents[first : last + 1]) + "\n",
        language=language or "python",
        info="",
        is_inferred=language is None,
        kind="raw",
        start=lines.starts[first],
        end=lines.end(last),
        first_line=first + 1,
        last_line=last + 1,
        is_closed=True,
    )


def _is_python(contents: list[str], budget: Budget) -> bool:
    source = "\n".join(contents) + "\n"
    if not has_triple_quote(source) and any(
        line.lstrip(BLANK).startswith(("```", "~~~")) for line in contents
    ):
        # A fence outside of a string: Markdown, which need not be parsed to know it.
        return False
    tree = parse(source, budget)
    return tree is not None and looks_like_program(tree)
