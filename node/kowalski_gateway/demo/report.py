"""What the analysis found, merged from the results of all tasks: the reason why anybody ran it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec


class Extreme(msgspec.Struct, frozen=True):
    """The function that has most of something."""

    function: str
    source: str
    count: int


class LibraryReport(msgspec.Struct, frozen=True):
    """The library in a few numbers."""

    files: int
    lines: int
    functions: int
    coroutines: int
    classes: int
    documented_percent: float
    """Of functions and classes, those with a docstring."""
    longest: Extreme | None
    branchiest: Extreme | None
    imported_most: list[tuple[str, int]]
    """Modules and in how many of the files they are imported."""


def merged(results: Mapping[str, Mapping[str, Any]]) -> LibraryReport:
    """The report over facts by source."""
    facts = results.values()
    definitions = sum(one["functions"] + one["classes"] for one in facts)
    documented = sum(one["documented"] for one in facts)
    imported = Counter(module for one in facts for module in one["imports"])
    return LibraryReport(
        files=len(results),
        lines=sum(one["lines"] for one in facts),
        functions=sum(one["functions"] for one in facts),
        coroutines=sum(one["coroutines"] for one in facts),
        classes=sum(one["classes"] for one in facts),
        documented_percent=round(100.0 * documented / definitions, 1) if definitions else 0.0,
        longest=_most(results, "longest"),
        branchiest=_most(results, "branchiest"),
        imported_most=sorted(imported.items(), key=lambda pair: (-pair[1], pair[0]))[:5],
    )


def _most(results: Mapping[str, Mapping[str, Any]], what: str) -> Extreme | None:
    found = [
        Extreme(one[what][0], name, one[what][1]) for name, one in results.items() if one[what]
    ]
    return max(found, key=lambda extreme: (extreme.count, extreme.source), default=None)


def lines_of(report: LibraryReport) -> dict[str, str]:
    """The report as names and texts, for people."""
    told = {
        "sources": f"{report.files:,} files, {report.lines:,} lines",
        "definitions": f"{report.functions:,} functions ({report.coroutines:,} async),"
        f" {report.classes:,} classes, {report.documented_percent:g} % with a docstring",
    }
    if report.longest is not None:
        told["longest function"] = _told(report.longest, "lines")
    if report.branchiest is not None:
        told["most branches"] = _told(report.branchiest, "branches")
    told["imported most"] = ", ".join(f"{name} ({count})" for name, count in report.imported_most)
    return told


def _told(extreme: Extreme, unit: str) -> str:
    return f"{extreme.function} in {extreme.source}, {extreme.count:,} {unit}"
