"""The reference says what the code says: each page is written anew and compared."""

from __future__ import annotations

from typing import Any

import pytest

from kowalski_gateway.http.bounds import HttpBounds
from kowalski_protocol.errors import CODES
from kowalski_protocol.limits import PRESETS, Limits, Timers
from scripts.reference.limits_page import number, unit
from scripts.reference.pages import PAGES, ROOT
from scripts.reference.source import fields, mends

FOLDER = ROOT / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_code_says(name: str) -> None:
    written = (FOLDER / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), f"docs/reference/{name} is stale. Mend: make reference"


def test_the_folder_holds_these_pages_alone() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(PAGES)


def test_every_error_code_has_a_row() -> None:
    page = PAGES["errors.md"]()
    assert [code for code in CODES if f"| `{code}` |" not in page] == []


def test_the_mends_that_the_code_names_are_found() -> None:
    assert "kowalski invite" in mends()["bad_token"]
    assert any(command.startswith("chmod 600") for command in mends()["key_exposed"])


@pytest.mark.parametrize("holder", [Limits, Timers, HttpBounds])
def test_every_bound_has_its_reason(holder: type[Any]) -> None:
    assert [said.name for said in fields(holder) if not said.doc] == []


def test_every_timer_of_every_preset_is_shown() -> None:
    page = PAGES["limits.md"]()
    for said in fields(type(PRESETS["lan"])):
        values = [f"{getattr(PRESETS[name], said.name):g}" for name in ("local", "lan", "wan")]
        row = next(line for line in page.splitlines() if line.startswith(f"| `{said.name}` |"))
        assert [cell.strip(" *") for cell in row.split("|")[2:5]] == values


@pytest.mark.parametrize(
    ("name", "value", "shown", "word"),
    [
        ("frame_size_bytes_max", 1 << 20, "1 Mi", "bytes"),
        ("attachment_size_bytes_max", 65536, "64 Ki", "bytes"),
        ("body_rate_bytes_s_min", 16384, "16 Ki", "bytes per second"),
        ("timeout_s_max", 604800.0, "604,800", "seconds"),
        ("tasks_open_per_author_max", 20_000, "20,000", "count"),
        ("label_length_max", 128, "128", "characters"),
    ],
)
def test_values_and_units(name: str, value: float, shown: str, word: str) -> None:
    assert (number(name, value), unit(name)) == (shown, word)
