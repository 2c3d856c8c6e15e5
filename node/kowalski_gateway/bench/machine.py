"""The machine under the figures: a number is worth nothing without it.

Beside processor, memory and versions it says what the disk does: how long an fsync takes decides
what "durable" costs, and on a file system in memory it costs nothing. The load before the start
tells whether the machine was busy with something else.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Final

import msgspec

from .quantiles import median, rounded

_SYNCS: Final = 25
_PAGE: Final = bytes(4096)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What the figures were measured on."""

    processor: str
    cores: int
    memory_gib: float
    system: str
    python: str
    sqlite: str
    file_system: str
    fsync_ms: float
    """Median of writing 4 KiB and fsync, in the folder of the nodes' homes."""
    load: float
    """Load average of the last minute, before the start."""

    def line(self) -> str:
        """As one line for people."""
        return (
            f"{self.processor}, {self.cores} cores, {self.memory_gib:g} GiB; {self.system};"
            f" Python {self.python}, SQLite {self.sqlite}; {self.file_system}, fsync"
            f" {self.fsync_ms:g} ms; load before the start {self.load:g}"
        )


def describe(folder: Path) -> Machine:
    """This machine, with the disk under `folder`."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(),
        memory_gib=rounded(pages / 2**30),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        file_system=_file_system(folder),
        fsync_ms=rounded(_fsync_ms(folder)),
        load=rounded(os.getloadavg()[0]),
    )


def _cores() -> int:
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return " ".join(value.split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the file system: of all mount points above the folder, the nearest one's."""
    found = ("", "unknown file system")
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return found[1]
    for line in mounts:
        _, point, kind, *_ = line.split(" ")
        if folder.resolve().is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]


def _fsync_ms(folder: Path) -> float:
    times_ms: list[float] = []
    path = folder / "fsync"
    with path.open("wb", buffering=0) as file:
        for _ in range(_SYNCS):
            began_s = time.perf_counter()
            file.write(_PAGE)
            os.fsync(file.fileno())
            times_ms.append((time.perf_counter() - began_s) * 1000.0)
    path.unlink()
    return median(times_ms)


def commit() -> str:
    """The commit that is measured, marked where files differ from it; the release elsewhere."""
    from kowalski_node import __version__

    folder = Path(__file__).resolve().parent
    try:
        named = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            check=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return f"release {__version__}"
    return named.stdout.decode("utf-8", "replace").strip()
