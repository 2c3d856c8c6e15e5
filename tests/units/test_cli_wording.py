"""Words for people: shortened ids, times, sizes, tables that fit, and text that a terminal won't
obey."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_gateway.cli.screen import Column, _cell, _widths
from kowalski_gateway.cli.wording import (
    ago,
    duration,
    peer_end,
    safe,
    safe_lines,
    short_ids,
    size,
)

HOSTILE = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b31m",
    "a\rb",
    "a\nb",
    "a\tb",
    "a\x08b",
    "\u202eevil",
    "\u2066evil\u2069",
    "\u200fx",
    "a\u2028b",
    "zero\u200bwidth",
    "\ufeffbom",
    "\U000e0041tag",
    "lone\ud800surrogate",
    "soft\u00adhyphen",
    "\x00",
    "\x7f",
    "\u061c",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_terminal_or_a_reader_would_obey_is_shown_instead(text: str) -> None:
    shown = safe(text)
    assert "\\" in shown
    assert shown.isprintable()
    shown.encode()  # nothing that can't be written


@given(st.text())
def test_no_text_brings_a_control_character_through(text: str) -> None:
    for shown, allowed in ((safe(text), ""), (safe_lines(text), "\n\t")):
        for character in shown:
            category = unicodedata.category(character)
            assert category not in ("Cc", "Cs") or character in allowed
            assert unicodedata.bidirectional(character) not in (
                "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
            )  # fmt: skip


@pytest.mark.parametrize("text", ["plain", "Grüße, 世界", "emoji 🎉", "שלום", "naïve café", ""])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert safe(text) == text


def test_output_keeps_its_lines() -> None:
    assert safe_lines("a\n\tb\r\nc\rd\x1b[0m") == "a\n\tb\nc\\x0dd\\x1b[0m"


def test_a_very_long_text_is_cut() -> None:
    assert safe("x" * 20_000, 10) == "x" * 9 + "…"


def test_ids_are_short_and_still_differ() -> None:
    assert short_ids(["a" * 32, "b" * 32]) == {"a" * 32: "a" * 12, "b" * 32: "b" * 12}
    twins = ["a" * 12 + "1" * 20, "a" * 12 + "2" * 20]
    assert [len(one) for one in short_ids(twins).values()] == [16, 16]
    assert short_ids(["a" * 32] * 2) == {"a" * 32: "a" * 12}
    assert short_ids([]) == {}


def test_a_peer_is_known_by_the_end_of_its_id() -> None:
    assert peer_end("12D3KooWABCDEFGH12345678") == "…12345678"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0.0 ms"),
        (0.00052, "0.5 ms"),
        (0.25, "250 ms"),
        (1.24, "1.2 s"),
        (59.99, "1 min"),
        (600.0, "10 min"),
        (7200.0, "2.0 h"),
        (200_000.0, "2.3 d"),
    ],
)
def test_durations_have_the_unit_that_fits(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (None, "–"),
        (1000.0, "just now"),
        (990.0, "10 s ago"),
        (1600.0, "in 10 min"),
        (1000.0 - 7200, "2 h ago"),
        (1000.0 - 86400 * 3, "3 d ago"),
    ],
)
def test_moments_are_told_from_now(then: float | None, words: str) -> None:
    assert ago(then, 1000.0) == words


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**40, "5.0 TiB")],
)
def test_sizes_have_the_unit_that_fits(size_bytes: float | None, words: str) -> None:
    assert size(size_bytes) == words


COLUMNS = [
    Column("NAME", cut=True),
    Column("ID"),
    Column("EXTRA", spare=1),
    Column("MORE", spare=2),
    Column("EMPTY"),
    Column("STORY", fold=True),
]
ROW = ["n" * 30, "i" * 9, "e" * 20, "m" * 10, "–", "s" * 60]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_table_fits_on_the_screen_with_its_fixed_columns_whole(width: int) -> None:
    widths = _widths(COLUMNS, [[_cell(value) for value in ROW]], width)
    assert sum(widths.values()) + 2 * (len(widths) - 1) <= width
    assert widths[1] == 9
    assert 4 not in widths
    assert widths[0] >= 12
    assert widths[5] >= 24


def test_columns_give_way_before_others_are_left_out() -> None:
    cells = [[_cell(value) for value in ROW]]
    assert _widths(COLUMNS, cells, 200) == {0: 30, 1: 9, 2: 20, 3: 10, 5: 60}
    assert set(_widths(COLUMNS, cells, 85)) == {0, 1, 2, 3, 5}
    assert set(_widths(COLUMNS, cells, 80)) == {0, 1, 2, 5}
    assert set(_widths(COLUMNS, cells, 60)) == {0, 1, 5}
