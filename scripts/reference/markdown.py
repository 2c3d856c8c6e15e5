"""The few forms that the pages are written in: tables, cells, code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NOTICE = "<!-- Written by `make reference` from the code. Do not edit: change the code instead. -->"


def page(title: str, *blocks: str) -> str:
    """A whole page: its title, the notice, and blocks with an empty line between them."""
    return "\n\n".join([f"# {title}", NOTICE, *(b.strip("\n") for b in blocks if b.strip())]) + "\n"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; columns in which nothing stands are left out."""
    cells = [[cell(text) for text in row] for row in rows]
    used = [i for i, _ in enumerate(titles) if i == 0 or any(row[i] for row in cells)]
    lines = [
        "| " + " | ".join(titles[i] for i in used) + " |",
        "| " + " | ".join("---" for _ in used) + " |",
    ]
    lines += ["| " + " | ".join(row[i] for i in used) + " |" for row in cells]
    return "\n".join(lines)


def cell(text: str) -> str:
    """A text without what would end a cell or a row."""
    return " ".join(text.replace("|", "\\|").split())


def code(text: object) -> str:
    """A text as code."""
    return f"`{text}`" if str(text) else ""


def fence(text: str, language: str = "") -> str:
    """A block of code."""
    return f"```{language}\n{text.strip(chr(10))}\n```"
