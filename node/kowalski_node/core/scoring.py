"""How good a device is for a task, as a number.

The formula is that of the requirements (001, part 2.5): a weighted sum of load, latency, cost and
specialization, with weights per task kind (002, part 3.3) that may be changed at run time. Every
part is between 0 and 1 and total: zeros, missing sensors and NaN give a number, never an error.
Load counts what was placed on the device as well as its memory, because placements arrive faster
than samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

LATENCY_HALF_MS: Final = 50.0
"""A round trip at which the latency part is one half (002, part 3.3)."""

DEFAULT_WEIGHTS: Final[dict[str, dict[str, float]]] = {
    "code": {"load": 0.3, "latency": 0.4, "cost": 0.0, "specialization": 0.3},
    "tool": {"load": 0.4, "latency": 0.4, "cost": 0.1, "specialization": 0.1},
}
WEIGHT_MAX: Final = 1e6
"""So that no sum of weights runs over."""
PARTS: Final = ("load", "latency", "cost", "specialization")


def _part(value: float) -> float:
    """Bounds a part to 0..1; what is not a number counts as the worst."""
    return 0.0 if math.isnan(value) else min(1.0, max(0.0, value))


def load_part(used_fraction: float, occupancy: float) -> float:
    """1 for an idle device: (1 - memory used / memory total) x (1 - placed / places)."""
    return _part(1.0 - _part(used_fraction)) * _part(1.0 - _part(occupancy))


def latency_part(round_trip_ms: float) -> float:
    """1 / (1 + ms / 50)."""
    if math.isnan(round_trip_ms) or round_trip_ms < 0:
        return 0.0
    return 1.0 / (1.0 + round_trip_ms / LATENCY_HALF_MS)


def cost_part(cost: float) -> float:
    """1 / (1 + cost per run), in the owner's unit."""
    if math.isnan(cost) or cost < 0:
        return 0.0
    return 1.0 / (1.0 + cost)


def memory_fraction(sample: Mapping[str, object] | None) -> float:
    """How much of the memory a sample says is in use; 0 where no sensor says so."""
    if not sample:
        return 0.0
    used, total = sample.get("memory_used_bytes"), sample.get("memory_total_bytes")
    if not isinstance(used, int | float) or not isinstance(total, int | float) or total <= 0:
        return 0.0
    return _part(used / total)


def usable(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights that can be counted with: what is no number or below zero weighs nothing."""
    return {
        name: min(weight, WEIGHT_MAX)
        for name, weight in weights.items()
        if math.isfinite(weight) and weight > 0
    }
