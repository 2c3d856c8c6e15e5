"""The score of a device: the formula of the requirements, and a number for every input."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_ledger.state import State
from kowalski_node.core.placement import Candidate, Measure, Waiting, candidates
from kowalski_node.core.scoring import (
    DEFAULT_WEIGHTS,
    PARTS,
    WEIGHT_MAX,
    cost_part,
    latency_part,
    load_part,
    memory_fraction,
    usable,
)
from kowalski_protocol.tasks import TaskSpec
from tests.units.bench import advert
from tests.units.histories import History, folded

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("used", "occupancy", "part"),
    [
        (0.0, 0.0, 1.0),
        (0.5, 0.0, 0.5),
        (0.0, 0.5, 0.5),
        (0.5, 0.5, 0.25),
        (1.0, 0.0, 0.0),
        (0.0, 1.0, 0.0),
        (2.0, 0.0, 0.0),
        (-1.0, -1.0, 1.0),
        (NAN, 0.0, 1.0),
        (INF, 0.0, 0.0),
    ],
)
def test_load_is_free_memory_times_free_places(used: float, occupancy: float, part: float) -> None:
    assert load_part(used, occupancy) == part


@pytest.mark.parametrize(
    ("ms", "part"),
    [(0, 1.0), (50, 0.5), (150, 0.25), (450, 0.1), (INF, 0.0), (NAN, 0.0), (-1, 0.0)],
)
def test_latency_is_one_half_at_fifty_milliseconds(ms: float, part: float) -> None:
    assert latency_part(ms) == part


@pytest.mark.parametrize(
    ("cost", "part"), [(0, 1.0), (1, 0.5), (3, 0.25), (INF, 0.0), (NAN, 0.0), (-2, 0.0)]
)
def test_cost_is_one_half_at_one(cost: float, part: float) -> None:
    assert cost_part(cost) == part


@pytest.mark.parametrize(
    ("sample", "fraction"),
    [
        (None, 0.0),
        ({}, 0.0),
        ({"memory_used_bytes": 1}, 0.0),
        ({"memory_used_bytes": 1, "memory_total_bytes": 4}, 0.25),
        ({"memory_used_bytes": 9, "memory_total_bytes": 4}, 1.0),
        ({"memory_used_bytes": -9, "memory_total_bytes": 4}, 0.0),
        ({"memory_used_bytes": 1, "memory_total_bytes": 0}, 0.0),
        ({"memory_used_bytes": None, "memory_total_bytes": 4}, 0.0),
        ({"memory_used_bytes": "1", "memory_total_bytes": 4}, 0.0),
        ({"memory_used_bytes": 1, "memory_total_bytes": NAN}, 0.0),
        ({"memory_used_bytes": NAN, "memory_total_bytes": 4}, 0.0),
        ({"memory_used_bytes": (1 << 64) - 1, "memory_total_bytes": 5e-324}, 1.0),
    ],
)
def test_memory_in_use_is_what_a_sample_says(sample: dict[str, Any], fraction: float) -> None:
    assert memory_fraction(sample) == fraction


def test_weights_that_are_no_weights_weigh_nothing() -> None:
    odd = {"load": NAN, "latency": INF, "cost": -1.0, "specialization": 0.0, "other": 2.0}
    assert usable(odd) == {"other": 2.0}
    assert usable({"load": 1e300}) == {"load": WEIGHT_MAX}


def test_the_default_weights_are_those_of_the_requirements() -> None:
    assert DEFAULT_WEIGHTS["code"] == {
        "load": 0.3,
        "latency": 0.4,
        "cost": 0.0,
        "specialization": 0.3,
    }
    assert DEFAULT_WEIGHTS["tool"] == {
        "load": 0.4,
        "latency": 0.4,
        "cost": 0.1,
        "specialization": 0.1,
    }
    for weights in DEFAULT_WEIGHTS.values():
        assert set(weights) == set(PARTS)
        assert sum(weights.values()) == pytest.approx(1.0)


def one(
    weights: dict[str, float], *, measure: Measure | None = None, **changes: Any
) -> tuple[Candidate, State]:
    """The only device of a cluster as a candidate for an `echo`."""
    history = History(1)
    history.write(history.founder, advert(**changes))
    state = folded(history, history.written)
    author = history.founder.author
    spec = TaskSpec("tool", "echo", bytes(32), 0)
    measures = {author: measure} if measure else {}
    found = candidates(state, spec, author, [author], measures, weights)
    assert not isinstance(found, Waiting)
    return found[0], state


def test_the_whole_score_is_the_weighted_sum_of_its_parts() -> None:
    sample = {"memory_used_bytes": 1, "memory_total_bytes": 4}
    weights = {"load": 0.4, "latency": 0.3, "cost": 0.2, "specialization": 0.1}
    candidate, _ = one(weights, measure=Measure(50.0, sample), costs={"tool": 3.0})
    # load 0.75 x (1 - 1/4 places), latency 0.5, cost 0.25, specialization 1
    expected = 0.4 * 0.75 * 0.75 + 0.3 * 0.5 + 0.2 * 0.25 + 0.1
    assert candidate.score(1, 4) == pytest.approx(expected)


def test_weights_count_by_their_proportion() -> None:
    sample = {"memory_used_bytes": 1, "memory_total_bytes": 2}
    small, _ = one({"load": 1.0, "latency": 3.0}, measure=Measure(50.0, sample))
    large, _ = one({"load": 100.0, "latency": 300.0}, measure=Measure(50.0, sample))
    assert small.score(0, 4) == pytest.approx(large.score(0, 4))


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"load": 0.0},
        {"load": NAN},
        {"load": INF},
        {"load": -1.0, "latency": -5.0},
        {"load": 1e308, "latency": 1e308, "cost": 1e308, "specialization": 1e308},
        {"unheard of": 1.0},
    ],
)
def test_whatever_the_weights_are_a_score_is_a_number_from_zero_to_one(
    weights: dict[str, float],
) -> None:
    candidate, _ = one(weights)
    for placed in (0, 1, 5, 1000):
        assert 0.0 <= candidate.score(placed, 4) <= 1.0 + 1e-9


numbers = st.one_of(
    st.none(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(), st.text(max_size=3)
)


@given(
    st.dictionaries(st.sampled_from(PARTS), st.floats()),
    st.floats(),
    st.dictionaries(st.sampled_from(("memory_used_bytes", "memory_total_bytes")), numbers),
    st.floats(),
    st.integers(-5, 1 << 62),
    st.integers(0, 1 << 62),
)
def test_no_input_makes_a_score_anything_but_a_number(
    weights: dict[str, float],
    round_trip_ms: float,
    sample: dict[str, Any],
    cost: float,
    slots: int,
    placed: int,
) -> None:
    measure = Measure(round_trip_ms, sample)
    candidate, _ = one(weights, measure=measure, costs={"tool": cost}, slots=slots)
    assert 0.0 <= candidate.score(placed, candidate.slots) <= 1.0 + 1e-9
