"""The numbers that the page on placement works through are those that the code computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kowalski_node.core.placement import Candidate
from kowalski_node.core.scoring import DEFAULT_WEIGHTS, PARTS, cost_part, latency_part, load_part
from kowalski_protocol.ids import Author

PAGE = Path(__file__).resolve().parents[2] / "docs" / "concepts" / "leader-and-placement.md"
TITLE = "| device | memory used | placed of places | round trip | load | latency | score |"


def rows() -> list[list[str]]:
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index(TITLE) :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_the_worked_score_is_the_computed_one(row: list[str]) -> None:
    _, memory, places, round_trip, load, latency, shown = row
    used = float(memory.removesuffix(" %")) / 100
    placed, of = map(int, places.split(" of "))
    parts = {
        "load": load_part(used, placed / of),
        "latency": latency_part(float(round_trip.removesuffix(" ms"))),
        "cost": cost_part(0.0),
        "specialization": 1.0,
    }
    weights = DEFAULT_WEIGHTS["code"]
    assert f"{parts['load']:.4f}" == load
    assert f"{parts['latency']:.4f}" == latency
    mean = sum(weights[name] * parts[name] for name in PARTS) / sum(weights.values())
    assert f"{mean:.4f}" == shown
    fixed = sum(weights[name] * parts[name] for name in PARTS if name != "load")
    candidate = Candidate(Author(bytes(32)), of, fixed, 1.0 - used, weights["load"])
    assert f"{candidate.score(placed, of):.4f}" == shown


def test_the_page_names_the_default_weights() -> None:
    text = PAGE.read_text(encoding="utf-8")
    said = re.search(r"Weights of `code`: (.*?)\.\s", text)
    assert said is not None
    pairs = (part.rsplit(" ", 1) for part in said[1].split(", "))
    assert {name: float(value) for name, value in pairs} == DEFAULT_WEIGHTS["code"]
