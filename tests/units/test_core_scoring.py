"""How good a device is for a task: the formula of the requirements, worked by hand, and its edges.

The formula is 001, part 2.5, with the latency half of 002, part 3.3: load, latency, cost and
specialization, each between 0 and 1, weighed and divided by the sum of the weights. How they add up
for a device is in `test_core_placement_choice.py`.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

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

NAN, INF = math.nan, math.inf
any_number = st.floats(allow_nan=True, allow_infinity=True)


@pytest.mark.parametrize(
    ("used_fraction", "occupancy", "part"),
    [
        (0.0, 0.0, 1.0),
        (0.25, 0.0, 0.75),
        (0.0, 0.5, 0.5),
        (0.5, 0.5, 0.25),
        (1.0, 0.0, 0.0),
        (0.0, 1.0, 0.0),
        (1.5, 0.0, 0.0),
        (-1.0, -1.0, 1.0),
        (0.0, 3.0, 0.0),
        (NAN, 0.0, 1.0),
        (INF, 0.0, 0.0),
    ],
)
def test_load_is_what_is_free_of_memory_times_what_is_free_of_places(
    used_fraction: float, occupancy: float, part: float
) -> None:
    assert load_part(used_fraction, occupancy) == part


@pytest.mark.parametrize(
    ("round_trip_ms", "part"),
    [
        (0.0, 1.0),
        (50.0, 0.5),
        (100.0, 1 / 3),
        (150.0, 0.25),
        (450.0, 0.1),
        (INF, 0.0),
        (NAN, 0.0),
        (-1.0, 0.0),
    ],
)
def test_latency_is_one_half_at_fifty_milliseconds(round_trip_ms: float, part: float) -> None:
    assert latency_part(round_trip_ms) == pytest.approx(part)


@pytest.mark.parametrize(
    ("cost", "part"),
    [(0.0, 1.0), (1.0, 0.5), (3.0, 0.25), (INF, 0.0), (NAN, 0.0), (-0.5, 0.0)],
)
def test_cost_is_one_half_at_one_unit(cost: float, part: float) -> None:
    assert cost_part(cost) == part


@pytest.mark.parametrize(
    ("sample", "fraction"),
    [
        ({"memory_used_bytes": 2 << 30, "memory_total_bytes": 8 << 30}, 0.25),
        ({"memory_used_bytes": 9 << 30, "memory_total_bytes": 8 << 30}, 1.0),
        ({"memory_used_bytes": 0, "memory_total_bytes": 8 << 30}, 0.0),
        ({"memory_used_bytes": -5, "memory_total_bytes": 8 << 30}, 0.0),
        ({"memory_used_bytes": (1 << 64) - 1, "memory_total_bytes": 5e-324}, 1.0),
        (None, 0.0),
        ({}, 0.0),
        ({"memory_used_bytes": 1}, 0.0),
        ({"memory_total_bytes": 1}, 0.0),
        ({"memory_used_bytes": None, "memory_total_bytes": 8 << 30}, 0.0),
        ({"memory_used_bytes": "much", "memory_total_bytes": "all"}, 0.0),
        ({"memory_used_bytes": 1, "memory_total_bytes": 0}, 0.0),
        ({"memory_used_bytes": 1, "memory_total_bytes": -8}, 0.0),
        ({"memory_used_bytes": NAN, "memory_total_bytes": 8}, 0.0),
        ({"memory_used_bytes": 1, "memory_total_bytes": NAN}, 0.0),
        ({"memory_used_bytes": INF, "memory_total_bytes": INF}, 0.0),
    ],
)
def test_a_sample_without_a_sensor_says_that_nothing_is_used(
    sample: dict[str, object] | None, fraction: float
) -> None:
    assert memory_fraction(sample) == fraction


@given(any_number, any_number)
def test_every_part_is_between_zero_and_one_whatever_is_measured(a: float, b: float) -> None:
    sample: dict[str, object] = {"memory_used_bytes": a, "memory_total_bytes": b}
    for part in (load_part(a, b), latency_part(a), cost_part(a), memory_fraction(sample)):
        assert 0.0 <= part <= 1.0


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_nearer_or_cheaper_device_is_never_the_worse_one(a: float, b: float) -> None:
    less, more = min(a, b), max(a, b)
    assert latency_part(less) >= latency_part(more)
    assert cost_part(less) >= cost_part(more)
    assert load_part(less, 0.0) >= load_part(more, 0.0)
    assert load_part(0.0, less) >= load_part(0.0, more)


# Weights.


def test_weights_that_are_no_number_or_not_above_zero_weigh_nothing() -> None:
    weights = {"load": NAN, "latency": -1.0, "cost": 0.0, "specialization": INF, "more": 2.0}
    assert usable(weights) == {"more": 2.0}
    assert usable({}) == {}
    assert usable({"load": 1e300}) == {"load": WEIGHT_MAX}


@given(st.dictionaries(st.sampled_from(PARTS), any_number))
def test_the_sum_of_usable_weights_is_always_a_number(weights: dict[str, float]) -> None:
    kept = usable(weights)
    assert math.isfinite(sum(kept.values()))
    assert all(0 < weight <= WEIGHT_MAX for weight in kept.values())


@pytest.mark.parametrize(
    ("kind", "weights"), [("code", (0.3, 0.4, 0.0, 0.3)), ("tool", (0.4, 0.4, 0.1, 0.1))]
)
def test_each_kind_is_weighed_as_the_requirements_say(
    kind: str, weights: tuple[float, ...]
) -> None:
    assert DEFAULT_WEIGHTS[kind] == dict(zip(PARTS, weights, strict=True))
    assert sum(weights) == pytest.approx(1.0)


def test_only_the_kinds_of_this_release_are_weighed() -> None:
    assert sorted(DEFAULT_WEIGHTS) == ["code", "tool"]
