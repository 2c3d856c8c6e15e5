"""`docs/benchmarks.md`: the figures as a table that is written by the run that measured them.

Nobody edits the page by hand, so a figure on it is always one that was measured, with the machine
and the commit that it belongs to.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from .figures import CATALOGUE, Figure, target_text
from .machine import Machine

_THEORY = (
    "Written by `make bench`, which measures all of it anew. Nodes are real `kowalski-node`",
    "processes on one machine that speak libp2p over loopback; every event is signed, committed",
    "with `synchronous=FULL` and held by all nodes. Nothing here is a test: a machine that is busy",
    "with something else misses targets.",
)
_VERDICTS = {True: "met", False: "**missed**", None: ""}


def number(value: float | None) -> str:
    """A value as people read it: thousands apart, no more digits than mean something."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:,.3g}"


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run; what --json prints."""

    figures: list[Figure]
    machine: Machine
    commit: str
    date: datetime
    quick: bool
    """Whether it repeated less than a full run."""


def page(document: Document) -> str:
    """The whole page, as Markdown."""
    figures = document.figures
    met = sum(figure.ok is True for figure in figures)
    judged = sum(figure.ok is not None for figure in figures)
    lines = [
        "# Benchmarks",
        "",
        *_THEORY,
        "",
        f"- Machine: {_cell(document.machine.line())}",
        f"- Date: {document.date:%Y-%m-%d %H:%M} UTC{', a quick run' if document.quick else ''}",
        f"- Commit: {_cell(document.commit)}",
        f"- Targets met: {met} of {judged}",
        "",
        "| Figure | Target | Measured | | How |",
        "| --- | --- | --- | --- | --- |",
        *(_row(figure) for figure in figures),
        "",
    ]
    return "\n".join(lines)


def _row(figure: Figure) -> str:
    definition = CATALOGUE[figure.figure]
    measured = f"{number(figure.value)} {figure.unit}".strip()
    how = definition.how
    if figure.value is None:
        measured = "not measured"
        how = str(figure.detail.get("reason", "")) or how
    cells = (
        definition.what,
        target_text(definition) or "",
        measured,
        _VERDICTS[figure.ok],
        how,
    )
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    """The text without what would end a cell or a line of the table."""
    return " ".join(text.replace("|", "\\|").split())
