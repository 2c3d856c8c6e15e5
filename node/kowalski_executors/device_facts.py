"""What a device is made of, in facts that name neither it nor its owner.

Read from the kernel's own files, since a few small reads are quicker and surer than vendors' tools;
what the kernel does not show is left out. Host name, user, addresses and serial numbers are none of
these facts.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any, Final

_NVIDIA: Final = Path("/proc/driver/nvidia/gpus")
_AMD: Final = Path("/sys/class/kfd/kfd/topology/nodes")
_ACCELERATORS_MAX: Final = 64


def device_facts() -> dict[str, Any]:
    """Returns system, architecture, Python, cores, memory and accelerators of this device. Blocks
    briefly."""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return {
        "system": platform.system(),
        "system_release": platform.release(),
        "machine": platform.machine(),
        "python_version": platform.python_version(),
        "python_implementation": platform.python_implementation(),
        "cores": os.cpu_count() or 1,
        "cores_usable": usable,
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "accelerators": accelerators(),
    }


def accelerators(nvidia: Path = _NVIDIA, amd: Path = _AMD) -> list[dict[str, str]]:
    """Returns vendor and model of each accelerator whose kernel driver is loaded."""
    found: list[dict[str, str]] = []
    for folder in _folders(nvidia):
        model = _line_value(folder / "information", "Model:") or "unknown"
        found.append({"vendor": "nvidia", "model": model})
    for folder in _folders(amd):
        # The processor is a node as well, one without compute units.
        units = _line_value(folder / "properties", "simd_count ")
        if units is not None and units != "0":
            found.append({"vendor": "amd", "model": _first_line(folder / "name") or "unknown"})
    if sys.platform == "darwin" and platform.machine() == "arm64":
        found.append({"vendor": "apple", "model": "integrated"})
    return found[:_ACCELERATORS_MAX]


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(parent.iterdir())
    except OSError:
        return []


def _line_value(file: Path, start: str) -> str | None:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line[len(start) :].strip() for line in lines if line.startswith(start)), None)


def _first_line(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0].strip() or None
    except OSError:
        return None
