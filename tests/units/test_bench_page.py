"""The page of benchmarks, written from figures that are given."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kowalski_gateway.bench.figures import CATALOGUE, judged
from kowalski_gateway.bench.machine import Machine
from kowalski_gateway.bench.page import Document, number, page

MACHINE = Machine(
    processor="Processor | with a bar",
    cores=2,
    memory_gib=23.5,
    system="Linux 6.1",
    python="3.11.7",
    sqlite="3.40.1",
    file_system="ext4",
    fsync_ms=0.9,
    load=0.12,
)


def document(*, quick: bool = False) -> Document:
    return Document(
        figures=[
            judged("throughput", 3308.4, {"rates": [3308.4]}),
            judged("latency_p99", 29.61, {}),
            judged("throughput_dask", 624.0, {}),
            judged("discovery", None, {"reason": "no network\nhere | at all"}),
        ],
        machine=MACHINE,
        commit="c85c1ee-dirty",
        date=datetime(2026, 3, 4, 5, 6, tzinfo=UTC),
        quick=quick,
    )


def rows(text: str) -> list[list[str]]:
    """The cells of the table's rows, as a reader of Markdown cuts them."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")] for line in lines
    ]


def test_every_figure_is_a_row_with_target_value_and_verdict() -> None:
    table = rows(page(document()))
    assert table[0] == ["Figure", "Target", "Measured", "", "How"]
    assert {len(row) for row in table} == {5}
    assert table[2][1:4] == ["at least 2,500 tasks/s", "3,308 tasks/s", "met"]
    assert table[2][0] == CATALOGUE["throughput"].what
    assert table[2][4] == CATALOGUE["throughput"].how
    assert table[3][1:4] == ["at most 20 ms", "29.6 ms", "**missed**"]
    assert table[4][1:4] == ["", "624 tasks/s", ""]
    assert table[5][1:] == ["at most 500 ms", "not measured", "", "no network here ¦ at all"]


def test_the_page_says_where_when_and_on_what_it_was_measured() -> None:
    text = page(document())
    assert "- Date: 2026-03-04 05:06 UTC\n" in text
    assert "- Commit: c85c1ee-dirty\n" in text
    assert "Processor \\| with a bar, 2 cores, 23.5 GiB; Linux 6.1; Python 3.11.7" in text
    assert "ext4, fsync 0.9 ms; load before the start 0.12" in text
    assert "- Targets met: 1 of 2\n" in text
    assert "a quick run" not in text


def test_a_quick_run_is_marked() -> None:
    assert "05:06 UTC, a quick run\n" in page(document(quick=True))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0"),
        (0.0456, "0.0456"),
        (2.156, "2.16"),
        (57.11, "57.1"),
        (101.3, "101"),
        (3308.4, "3,308"),
        (100_053.0, "100,053"),
    ],
)
def test_numbers_are_short_and_readable(value: float | None, shown: str) -> None:
    assert number(value) == shown
