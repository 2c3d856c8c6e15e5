"""How much faster than real time the simulator is: 5 devices, the timers of a home, one core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from .options import Options
from .running import Report, run

NODES: Final = 5
SEEDS: Final = range(12)


class Speed(msgspec.Struct, frozen=True):
    """What all these worlds took together."""

    worlds: int
    simulated_s: float
    core_s: float
    times_real: float
    """Simulated seconds per second of one core."""
    slowest: float
    fastest: float


def measure(
    minutes: float = 10.0, told: Callable[[Report], object] = lambda _report: None
) -> Speed:
    """Runs worlds one after the other, with the faults and people that their seeds draw."""
    reports: list[Report] = []
    for seed in SEEDS:
        report = run(Options(seed=seed, nodes=NODES, preset="lan", minutes=minutes))
        if not report.ok:
            raise RuntimeError(f"seed {seed}: {report.check}: {report.sentence}")
        told(report)
        reports.append(report)
    simulated_s = sum(report.simulated_s for report in reports)
    core_s = sum(report.core_s for report in reports)
    each = sorted(report.simulated_s / report.core_s for report in reports)
    return Speed(
        len(reports),
        simulated_s,
        core_s,
        simulated_s / core_s,
        each[0],
        each[-1],
    )
