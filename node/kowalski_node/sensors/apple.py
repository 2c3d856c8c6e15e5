"""The GPU of a Mac, from the registry of its drivers (`ioreg`), which needs no rights.

On Apple's own chips the GPU shares the machine's memory: its total is the machine's, its use what
the driver holds of it. Heat and power are told to root alone, so they are null.
"""

from __future__ import annotations

import plistlib
from collections.abc import Callable
from typing import Any, Final, cast
from xml.parsers.expat import ExpatError

from .command import output_of
from .reading import GPUS_MAX, PERCENT, Gpu, device_name, number, whole_bytes

PACE_S: Final = 10.0
"""One call of `ioreg` takes some 20 ms of a core."""
COMMAND: Final = ["/usr/sbin/ioreg", "-a", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator"]
MEBIBYTE: Final = 1024 * 1024


class Apple:
    """The GPUs of this Mac."""

    pace_s = PACE_S

    def __init__(
        self,
        memory_total_bytes: int | None,
        *,
        run: Callable[[list[str]], bytes | None] = output_of,
    ) -> None:
        self._memory_total_bytes = memory_total_bytes
        self._run = run

    def read(self) -> tuple[Gpu, ...]:
        return parse_ioreg(self._run(COMMAND) or b"", self._memory_total_bytes)


def parse_ioreg(output: bytes, memory_total_bytes: int | None) -> tuple[Gpu, ...]:
    """The GPUs in the property list that `ioreg -a` writes for accelerators."""
    try:
        listed: object = plistlib.loads(output, fmt=plistlib.FMT_XML)
    # What plistlib raises for text that is not such a list depends on where it breaks.
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        ExpatError,
        RecursionError,
    ):
        return ()
    gpus: list[Gpu] = []
    for entry in cast("list[object]", listed) if isinstance(listed, list) else []:
        if not isinstance(entry, dict) or len(gpus) == GPUS_MAX:
            continue
        properties = cast("dict[Any, Any]", entry)
        said = properties.get("PerformanceStatistics")
        statistics = cast("dict[Any, Any]", said) if isinstance(said, dict) else {}
        own = whole_bytes(properties.get("VRAM,totalMB"), unit_bytes=MEBIBYTE) or None
        used = whole_bytes(
            statistics.get("In use system memory" if own is None else "vramUsedBytes")
        )
        name = device_name(_text(properties.get("model")), "Apple GPU")
        gpus.append(
            Gpu(
                vendor="apple",
                name=name,
                use_percent=number(statistics.get("Device Utilization %"), PERCENT),
                vram_used_bytes=used,
                vram_total_bytes=own or memory_total_bytes,
            )
        )
    return tuple(gpus)


def _text(said: object) -> object:
    """A registry text: newer drivers give strings, older ones bytes that end in a zero."""
    return said.rstrip(b"\0") if isinstance(said, bytes) else said
