"""Numbers out of repetitions: the middle, the tail, and what else a figure's detail shows.

Percentiles are nearest-rank: the smallest sample that at least so many of all are not above. It is
always a value that was measured, and for few samples it does not flatter: the 99th percentile of
twenty is the largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of at least one sample; `percent` from 0 to 100."""
    ordered = sorted(samples)
    rank = math.ceil(percent / 100.0 * len(ordered))
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def median(samples: Sequence[float]) -> float:
    """The middle of at least one sample; of an even number the mean of the two in the middle."""
    ordered = sorted(samples)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2.0


def spread(samples: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Count, smallest, median, 99th percentile and largest, rounded to significant digits."""
    return {
        "runs": len(samples),
        "min": rounded(min(samples), digits),
        "median": rounded(median(samples), digits),
        "p99": rounded(percentile(samples, 99), digits),
        "max": rounded(max(samples), digits),
    }


def rounded(value: float, digits: int = 3) -> float:
    """The value to so many significant digits; whole numbers of more digits stay whole."""
    if value == 0 or not math.isfinite(value):
        return value
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return round(value, max(places, 0))
