"""The statistics under the benchmark's figures, on numbers whose answers are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_gateway.bench.quantiles import median, percentile, rounded, spread

SAMPLES = st.lists(st.floats(0, 1e9, allow_nan=False), min_size=1, max_size=200)


@pytest.mark.parametrize(
    ("samples", "percent", "expected"),
    [
        ([15, 20, 35, 40, 50], 30, 20),
        ([15, 20, 35, 40, 50], 40, 20),
        ([15, 20, 35, 40, 50], 50, 35),
        ([15, 20, 35, 40, 50], 100, 50),
        ([15, 20, 35, 40, 50], 0, 15),
        ([50, 15, 40, 20, 35], 99, 50),
        ([7], 1, 7),
        ([7], 99, 7),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 501)), 99, 495),
    ],
)
def test_a_percentile_is_the_nearest_rank(
    samples: list[float], percent: float, expected: float
) -> None:
    assert percentile(samples, percent) == expected


def test_the_99th_percentile_of_twenty_is_the_largest() -> None:
    assert percentile([1.0] * 19 + [9.0], 99) == 9.0


@given(SAMPLES, st.floats(0, 100))
def test_a_percentile_is_a_sample_that_so_many_do_not_exceed(
    samples: list[float], percent: float
) -> None:
    value = percentile(samples, percent)
    assert value in samples
    assert sum(sample <= value for sample in samples) >= percent / 100 * len(samples) - 1e-6


@pytest.mark.parametrize(
    ("samples", "expected"), [([3], 3), ([3, 1, 2], 2), ([4, 1, 3, 2], 2.5), ([1, 1, 9, 9], 5)]
)
def test_the_median_is_the_middle(samples: list[float], expected: float) -> None:
    assert median(samples) == expected


@given(SAMPLES)
def test_the_median_lies_within_the_samples(samples: list[float]) -> None:
    assert min(samples) <= median(samples) <= max(samples)


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (0.0123456, 3, 0.0123),
        (1.23456, 3, 1.23),
        (12.3456, 4, 12.35),
        (7421.6, 3, 7422),
        (123456.7, 4, 123457),
        (0, 3, 0),
        (-0.04567, 2, -0.046),
        (float("inf"), 3, float("inf")),
    ],
)
def test_rounding_keeps_digits_that_mean_something(
    value: float, digits: int, expected: float
) -> None:
    assert rounded(value, digits) == expected


def test_a_spread_names_count_and_extremes() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"runs": 3, "min": 1.0, "median": 2.0, "p99": 3.0, "max": 3.0}
