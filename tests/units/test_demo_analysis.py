"""The demo's work: the facts of a source, the program that carries them, the merged report."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from kowalski_gateway.demo.report import lines_of, merged
from kowalski_gateway.demo.source_facts import facts_of
from kowalski_gateway.demo.sources import find_sources, packed, program, specs
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.tasks import parse_task

SOURCE = '''
"""A module."""
from __future__ import annotations
import os.path, sys
from collections.abc import Sequence
from . import sibling

class Thing:
    """Documented."""

    async def run(self, items):
        if items and self:
            for item in items:
                yield item

def long():
    a = 1
    b = 2
    c = 3
    return a + b + c
'''


def test_facts_are_counted_and_extremes_named() -> None:
    assert facts_of(SOURCE) == {
        "lines": SOURCE.count("\n"),
        "functions": 2,
        "coroutines": 1,
        "classes": 1,
        "documented": 1,
        "imports": ["collections", "os", "sys"],
        "longest": ["long", 5],
        "branchiest": ["run", 3],
    }


def test_an_empty_source_has_no_extremes() -> None:
    facts = facts_of("")
    assert (facts["longest"], facts["branchiest"], facts["functions"]) == (None, None, 0)


def test_the_program_gives_the_facts_of_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last line is an expression, whose value the executor takes for the result."""
    body, _, last = program().rstrip().rpartition("\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(packed(SOURCE)))
    names: dict[str, Any] = {}
    exec(compile(body, "<task>", "exec"), names)
    assert eval(compile(last, "<task>", "eval"), names) == facts_of(SOURCE)


def test_sources_are_read_in_their_encoding_and_what_is_no_library_is_left_out(
    tmp_path: Path,
) -> None:
    (tmp_path / "plain.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"))
    (tmp_path / "broken.py").write_bytes(b"\xff\xfe")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "check.py").write_text("x = 1\n", encoding="utf-8")
    found = find_sources(10, tmp_path)
    assert [source.name for source in found.chosen] == ["latin.py", "plain.py"]
    assert "é" in found.chosen[0].text
    assert found.too_large == 0


def test_a_source_that_fits_into_no_payload_is_counted(tmp_path: Path) -> None:
    digits = "".join(f"{(number * 2654435761) % 2**32:08x}\n" for number in range(20_000))
    (tmp_path / "large.py").write_text(f'x = """{digits}"""\n', encoding="utf-8")
    (tmp_path / "small.py").write_text("x = 1\n", encoding="utf-8")
    found = find_sources(10, tmp_path)
    assert [source.name for source in found.chosen] == ["small.py"]
    assert found.too_large == 1


def test_every_source_that_is_chosen_makes_a_task_that_a_node_takes() -> None:
    found = find_sources(2000)
    assert len(found.chosen) > 100, "the standard library's sources are on this machine"
    largest = max(found.chosen, key=lambda source: len(packed(source.text)))
    for spec in specs([largest, found.chosen[0]]):
        assert parse_task(spec).spec.payload_size_bytes <= LIMITS.payload_size_bytes_max


def test_fewer_sources_are_spread_over_all(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"m{number}.py").write_text("x = 1\n", encoding="utf-8")
    assert [s.name for s in find_sources(4, tmp_path).chosen] == [
        "m0.py",
        "m2.py",
        "m5.py",
        "m7.py",
    ]


def test_the_report_merges_what_the_sources_say() -> None:
    report = merged({"a.py": facts_of(SOURCE), "b.py": facts_of("import os\n")})
    assert (report.files, report.functions, report.classes, report.coroutines) == (2, 2, 1, 1)
    assert report.documented_percent == 33.3
    assert report.imported_most[0] == ("os", 2)
    assert report.longest is not None
    assert (report.longest.function, report.longest.source) == ("long", "a.py")
    told = lines_of(report)
    assert told["longest function"] == "long in a.py, 5 lines"
    assert told["imported most"] == "os (2), collections (1), sys (1)"
