"""Heat and battery of a Linux device, from sysfs.

Heat is the hottest sensor of the processor: hwmon chips that are known to sit in one, else thermal
zones of that kind. Other chips (disks, Wi-Fi, voltage regulators) run hotter without meaning
anything for placement. A battery counts if it drives the device: those of mice and keyboards say
`scope: Device`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .reading import CELSIUS, PERCENT, Battery, number, text_of

HEAT_PACE_S: Final = 10.0
BATTERY_PACE_S: Final = 30.0
SENSORS_MAX: Final = 512
"""Sensor files looked at: a machine with 256 cores has one for each."""

PROCESSOR_CHIPS: Final = frozenset(
    {"coretemp", "k10temp", "k8temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal"}
)
PROCESSOR_ZONES: Final = ("x86_pkg_temp", "cpu", "soc", "acpitz")
"""Beginnings of zone types, best first; the last is the board's, better than nothing."""


class Heat:
    """The processor's temperature in degrees Celsius."""

    pace_s = HEAT_PACE_S

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self) -> float | None:
        found = [
            celsius
            for chip in _children(self._root / "sys/class/hwmon")
            if text_of(chip / "name") in PROCESSOR_CHIPS
            for celsius in _inputs(chip)
        ]
        return max(found, default=None) or self._zones()

    def _zones(self) -> float | None:
        by_kind: dict[str, list[float]] = {}
        for zone in _children(self._root / "sys/class/thermal"):
            kind = (text_of(zone / "type") or "").lower()
            celsius = number(text_of(zone / "temp"), CELSIUS, scale=0.001)
            wanted = next((each for each in PROCESSOR_ZONES if kind.startswith(each)), None)
            if wanted is not None and celsius is not None:
                by_kind.setdefault(wanted, []).append(celsius)
        return next((max(by_kind[kind]) for kind in PROCESSOR_ZONES if kind in by_kind), None)


class Power:
    """The device's battery; None where it has none."""

    pace_s = BATTERY_PACE_S

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self) -> Battery | None:
        percents: list[float] = []
        states: list[str] = []
        plugs: list[bool] = []
        for supply in _children(self._root / "sys/class/power_supply"):
            kind = text_of(supply / "type")
            if kind in ("Mains", "USB", "Wireless"):
                plugs.append(text_of(supply / "online") == "1")
            elif kind == "Battery" and text_of(supply / "scope") != "Device":
                states.append(text_of(supply / "status") or "")
                percent = number(text_of(supply / "capacity"), PERCENT)
                if percent is not None:
                    percents.append(percent)
        if not states:
            return None
        return Battery(
            percent=round(sum(percents) / len(percents), 2) if percents else None,
            discharging=_discharging(states, plugs),
        )


def _discharging(states: list[str], plugs: list[bool]) -> bool | None:
    """Whether the device lives on its battery: a plug in use says no, else the batteries tell."""
    if any(plugs):
        return False
    if "Discharging" in states:
        return True
    if any(state in ("Charging", "Full", "Not charging") for state in states):
        return False
    return True if plugs else None


def _inputs(chip: Path) -> Iterator[float]:
    for path in sorted(chip.glob("temp*_input"))[:SENSORS_MAX]:
        celsius = number(text_of(path), CELSIUS, scale=0.001)
        if celsius is not None:
            yield celsius


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())[:SENSORS_MAX]
    except OSError:
        return []
