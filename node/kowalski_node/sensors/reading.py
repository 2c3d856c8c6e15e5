"""What a sensor said, made safe: every value is a plausible number or nothing.

Sensors lie in many ways: `N/A`, NaN, minus one for "don't know", absolute zero, the greatest number
of 64 bits, a counter that wrapped, text cut short. A wrong number would steer placement, so each
kind of value has a range that hardware can have, and what lies outside is null. Names are cleaned
like any foreign text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from ..names import clean_name

GPUS_MAX: Final = 16
"""The largest machines have this many; bounds the sample."""
TEXT_SIZE_BYTES_MAX: Final = 64 * 1024
"""A sensor's text is a line; the longest file read, a cgroup's statistics, has a few KB."""

Range = tuple[float, float]

PERCENT: Final[Range] = (0.0, 100.0)
CELSIUS: Final[Range] = (1.0, 130.0)
"""A running chip is warmer than ice and colder than its own melting solder; 0 means "no sensor"."""
WATTS: Final[Range] = (0.0, 5_000.0)
BYTES: Final[Range] = (0.0, 2.0**50)
LOAD: Final[Range] = (0.0, 1e6)

_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,3})?")


class Gpu(msgspec.Struct, frozen=True):
    """One accelerator now. Null where it has no such sensor or the sensor made no sense."""

    vendor: str
    """nvidia | amd | intel | apple"""
    name: str
    use_percent: float | None = None
    vram_used_bytes: int | None = None
    vram_total_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None


class Battery(msgspec.Struct, frozen=True):
    """How full the device's battery is and whether the device lives on it."""

    percent: float | None = None
    discharging: bool | None = None


class Disk(msgspec.Struct, frozen=True):
    """The file system that holds the node's home."""

    free_bytes: int | None
    total_bytes: int | None


def number(said: object, plausible: Range, *, scale: float = 1.0) -> float | None:
    """What a sensor said, times `scale`, if it is a number within the range, to two decimals."""
    if isinstance(said, str):
        said = said.strip()
        if not _NUMBER.fullmatch(said):
            return None
        said = float(said)
    if isinstance(said, bool) or not isinstance(said, int | float):
        return None
    try:
        value = float(said) * scale
    except OverflowError:
        return None
    if not plausible[0] <= value <= plausible[1]:  # also where it is not a number
        return None
    return round(value, 2)


def whole_bytes(said: object, *, unit_bytes: int = 1) -> int | None:
    """A number of bytes that a memory or disk could have."""
    value = number(said, BYTES, scale=unit_bytes)
    return None if value is None else int(value)


def device_name(said: object, otherwise: str) -> str:
    """The name of a device as it may be shown; `otherwise` where it has none."""
    if isinstance(said, bytes):
        said = said.decode("utf-8", "replace")
    name = clean_name(said) if isinstance(said, str) else ""
    return name or otherwise


def text_of(path: Path) -> str | None:
    """The text of a file of the system, bounded; None where it is not there or can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(TEXT_SIZE_BYTES_MAX).decode("utf-8", "replace").strip()
    except OSError:
        return None
