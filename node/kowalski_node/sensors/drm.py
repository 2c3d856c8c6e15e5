"""AMD and Intel GPUs, from what their Linux drivers tell in sysfs; no library and no rights needed.

amdgpu tells its use, memory, heat and power directly. Intel's drivers (i915, xe) tell how long each
engine group has idled, so use is what is left of the time between two reads, and a counter of
energy, so power is its rise over that time; integrated ones have no memory of their own. A GPU that
the kernel has put to sleep is named and not touched: to read its sensors would wake it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .reading import (
    CELSIUS,
    GPUS_MAX,
    PERCENT,
    WATTS,
    Gpu,
    device_name,
    number,
    text_of,
    whole_bytes,
)

PACE_S: Final = 5.0
VENDORS: Final = {"0x1002": "amd", "0x8086": "intel"}
COUNTER: Final = (0.0, 2.0**63)
IDLE_COUNTERS: Final = (
    "device/tile*/gt*/gtidle/idle_residency_ms",
    "gt/gt*/rc6_residency_ms",
    "power/rc6_residency_ms",
)
"""Where a driver tells how long the GPU idled, the newest driver's place first."""

_CARD: Final = re.compile(r"card[0-9]{1,3}")
_DEVICE_ID: Final = re.compile(r"0x[0-9a-f]{4}")


class Drm:
    """All AMD and Intel GPUs of this device."""

    pace_s = PACE_S

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cards = [
            (card, VENDORS[vendor])
            for card in _cards(root)
            if (vendor := text_of(card / "device/vendor") or "") in VENDORS
        ]
        self._clock = clock
        self._counters: dict[Path, tuple[float, float]] = {}

    @property
    def present(self) -> bool:
        """Whether this device has such a GPU at all."""
        return bool(self._cards)

    def read(self) -> tuple[Gpu, ...]:
        return tuple(self._read(card, vendor) for card, vendor in self._cards)

    def _read(self, card: Path, vendor: str) -> Gpu:
        device = card / "device"
        name = device_name(text_of(device / "product_name"), _fallback_name(device, vendor))
        if text_of(device / "power/runtime_status") in ("suspended", "suspending"):
            return Gpu(vendor, name)
        # The first heat sensor is the chip's own; its hot spot and its memory come after it.
        sensors = next(iter(sorted(device.glob("hwmon/hwmon*"))), device / "hwmon/none")
        use = number(text_of(device / "gpu_busy_percent"), PERCENT)
        return Gpu(
            vendor=vendor,
            name=name,
            use_percent=self._use_by_idling(card) if use is None else use,
            vram_used_bytes=whole_bytes(text_of(device / "mem_info_vram_used")),
            vram_total_bytes=whole_bytes(text_of(device / "mem_info_vram_total")) or None,
            temperature_c=next(
                (
                    celsius
                    for path in sorted(sensors.glob("temp*_input"))[:8]
                    if (celsius := number(text_of(path), CELSIUS, scale=0.001)) is not None
                ),
                None,
            ),
            power_w=self._power(sensors),
        )

    def _use_by_idling(self, card: Path) -> float | None:
        """The busiest engine group's share of the time since the last read that it did not idle."""
        for pattern in IDLE_COUNTERS:
            uses = [
                number(100.0 * max(0.0, 1.0 - idle_ms_per_s / 1000.0), PERCENT)
                for path in sorted(card.glob(pattern))[:8]
                if (idle_ms_per_s := self._rise_per_s(path)) is not None
            ]
            found = [use for use in uses if use is not None]
            if found:
                return max(found)
        return None

    def _power(self, sensors: Path) -> float | None:
        for file in ("power1_average", "power1_input"):
            watts = number(text_of(sensors / file), WATTS, scale=1e-6)
            if watts is not None:
                return watts
        microjoules_per_s = self._rise_per_s(sensors / "energy1_input")
        return None if microjoules_per_s is None else number(microjoules_per_s, WATTS, scale=1e-6)

    def _rise_per_s(self, path: Path) -> float | None:
        """How fast a counter rose since it was last read; None at first and where it fell."""
        value = number(text_of(path), COUNTER)
        before = self._counters.pop(path, None)
        if value is None:
            return None
        now_s = self._clock()
        self._counters[path] = (value, now_s)
        if before is None or value < before[0] or now_s <= before[1]:
            return None
        return (value - before[0]) / (now_s - before[1])


def _cards(root: Path) -> list[Path]:
    """The GPUs' folders; those of their connectors (`card0-DP-1`) are left out."""
    try:
        entries = sorted((root / "sys/class/drm").iterdir())
    except OSError:
        return []
    return [entry for entry in entries if _CARD.fullmatch(entry.name)][:GPUS_MAX]


def _fallback_name(device: Path, vendor: str) -> str:
    """A name made of the PCI device's number, as drivers rarely know what it is sold as."""
    number_text = (text_of(device / "device") or "").lower()
    known = number_text if _DEVICE_ID.fullmatch(number_text) else "GPU"
    return f"{'AMD' if vendor == 'amd' else 'Intel'} {known}"
