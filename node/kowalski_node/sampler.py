"""How busy, full, hot and charged this device is: one sample every two seconds, for placement and
people.

What the kernel keeps ready (processor time, load, memory, swap) is read on the spot in a fraction
of a millisecond. What may block (GPUs, heat, battery, the disk) is read by threads at a slower
pace, and the sample takes their last word if it is not too old (`sensors.paced`). So `sample` never
waits, and costs well under 0.5 % of a core at its usual pace. A sensor that is missing or talks
nonsense is null.

A sample holds numbers and the names of GPU models: never the name of the host or of a user, never a
path. `python -m kowalski_node.sampler` prints one.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self, cast

import msgspec
import psutil

from .sensors import cgroup, nvidia
from .sensors.apple import Apple
from .sensors.drm import Drm
from .sensors.linux import Heat, Power
from .sensors.nvidia import Nvidia
from .sensors.paced import Paced, Source
from .sensors.reading import (
    GPUS_MAX,
    LOAD,
    PERCENT,
    Battery,
    Disk,
    Gpu,
    number,
    whole_bytes,
)

DISK_PACE_S: Final = 10.0
FIRST_READ_S: Final = 5.0
"""How long a slow sensor's first word is waited for; a waking NVIDIA driver takes two seconds."""


class Sample(msgspec.Struct, frozen=True):
    """This device now. Null where there is no sensor."""

    cpu_percent: float | None
    """Of all cores together, since the sample before."""
    load1: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    """Of the container or service that this node runs in, where it is limited to less."""
    swap_used_bytes: int | None
    swap_total_bytes: int | None
    disk_free_bytes: int | None
    disk_total_bytes: int | None
    """Of the file system that holds the node's home."""
    gpus: tuple[Gpu, ...]
    temperature_c: float | None
    """The processor's hottest sensor."""
    battery_percent: float | None
    on_battery: bool | None


class Accelerator(msgspec.Struct, frozen=True):
    """A GPU as it is advertised: what does not change while the node runs."""

    vendor: str
    name: str
    vram_total_bytes: int | None


class Hardware(msgspec.Struct, frozen=True):
    """What this device has for the node: read once, at its start."""

    cores_physical: int
    cores_logical: int
    """What this process may use of them: by its affinity and its control groups' quota."""
    memory_total_bytes: int | None
    accelerators: tuple[Accelerator, ...]
    platform: str
    """System and processor: `linux-x86_64`."""
    python: str


class Sampler:
    """Takes samples until closed. `sample` is for one thread and never blocks.

    Args:
        home: the node's home folder, whose file system is told.
        root: where `proc`, `sys` and `dev` are; another folder in tests.
        gpus: the sources of GPU readings; those of this device by default.
    """

    def __init__(
        self,
        home: Path,
        *,
        root: Path = Path("/"),
        gpus: Sequence[Source[tuple[Gpu, ...]]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._machine_bytes = _machine_memory_bytes()
        self._group = cgroup.memory_group(root, self._machine_bytes or 0)
        self._times = _processor_times()
        found = gpu_sources(root, self._machine_bytes) if gpus is None else gpus
        self._gpus = [Paced(source, clock=clock) for source in found]
        self._heat: Paced[float] = Paced(Heat(root), clock=clock)
        self._battery: Paced[Battery] = Paced(_battery_source(root), clock=clock)
        self._disk: Paced[Disk] = Paced(_DiskSource(home), clock=clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets the sensors' threads end."""
        for paced in (*self._gpus, self._heat, self._battery, self._disk):
            paced.close()

    def warm_up(self, timeout_s: float = FIRST_READ_S) -> None:
        """Blocks until every slow sensor had its first word, at most `timeout_s`."""
        end_s = time.monotonic() + timeout_s
        for paced in (*self._gpus, self._heat, self._battery, self._disk):
            paced.latest()
        for paced in (*self._gpus, self._heat, self._battery, self._disk):
            paced.first(max(0.0, end_s - time.monotonic()))

    def sample(self) -> Sample:
        """This device as it is now, and since the sample before."""
        before, self._times = self._times, _processor_times()
        memory_used, memory_total = self._memory()
        swap = _swap()
        disk = self._disk.latest()
        battery = self._battery.latest()
        return Sample(
            cpu_percent=processor_percent(before, self._times),
            load1=_load1(),
            memory_used_bytes=memory_used,
            memory_total_bytes=memory_total,
            swap_used_bytes=swap[0],
            swap_total_bytes=swap[1],
            disk_free_bytes=disk.free_bytes if disk else None,
            disk_total_bytes=disk.total_bytes if disk else None,
            gpus=tuple(gpu for paced in self._gpus for gpu in paced.latest() or ())[:GPUS_MAX],
            temperature_c=self._heat.latest(),
            battery_percent=battery.percent if battery else None,
            on_battery=battery.discharging if battery else None,
        )

    def _memory(self) -> tuple[int | None, int | None]:
        """Used and total bytes: the control group's where one limits us, else the machine's."""
        if self._group is not None:
            return cgroup.memory_used_bytes(self._group), self._group.limit_bytes
        try:
            memory = psutil.virtual_memory()
        except (OSError, ValueError, KeyError):
            return None, self._machine_bytes
        return whole_bytes(max(0, memory.total - memory.available)), whole_bytes(memory.total)


def hardware(
    *, root: Path = Path("/"), gpus: Sequence[Source[tuple[Gpu, ...]]] | None = None
) -> Hardware:
    """What this device has. Blocks, up to `FIRST_READ_S` if a GPU's driver hangs: for a thread."""
    machine_bytes = _machine_memory_bytes()
    group = cgroup.memory_group(root, machine_bytes or 0)
    found = gpu_sources(root, machine_bytes) if gpus is None else gpus
    paced = [Paced(source) for source in found]
    for each in paced:
        each.latest()
    read = [gpu for each in paced for gpu in each.first(FIRST_READ_S) or ()]
    for each in paced:
        each.close()
    logical = usable_cores(_affinity(), cgroup.cpu_quota_cores(root))
    return Hardware(
        cores_physical=min(psutil.cpu_count(logical=False) or logical, logical),
        cores_logical=logical,
        memory_total_bytes=group.limit_bytes if group else machine_bytes,
        accelerators=tuple(
            Accelerator(gpu.vendor, gpu.name, gpu.vram_total_bytes) for gpu in read[:GPUS_MAX]
        ),
        platform=f"{platform.system()}-{platform.machine()}".lower(),
        python=platform.python_version(),
    )


def gpu_sources(root: Path, memory_bytes: int | None) -> list[Source[tuple[Gpu, ...]]]:
    """The sources for the GPUs that this device seems to have; none costs nothing."""
    sources: list[Source[tuple[Gpu, ...]]] = []
    if nvidia.present(root):
        sources.append(Nvidia())
    drm = Drm(root)
    if drm.present:
        sources.append(drm)
    if sys.platform == "darwin":
        sources.append(Apple(memory_bytes))
    return sources


def usable_cores(affinity: int, quota_cores: float | None) -> int:
    """Whole cores that a process may use: a quota of one and a half lets two run at once."""
    return max(1, affinity if quota_cores is None else min(affinity, math.ceil(quota_cores)))


def processor_percent(
    before: tuple[float, float] | None, after: tuple[float, float] | None
) -> float | None:
    """The busy share of processor time between two readings of (idle, total) seconds.

    Null where no time passed between them, or where the kernel's counters went backwards, as they
    do after a suspend on some machines."""
    if before is None or after is None:
        return None
    idle, total = after[0] - before[0], after[1] - before[1]
    if total <= 0 or idle < 0:
        return None
    return number(100.0 * (1.0 - min(idle, total) / total), PERCENT)


class _DiskSource:
    """The free space for this user on the file system of a folder."""

    pace_s = DISK_PACE_S

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> Disk:
        usage = shutil.disk_usage(self._folder)
        return Disk(whole_bytes(usage.free), whole_bytes(usage.total))


class _SaidBattery(Protocol):
    percent: float
    power_plugged: bool | None


class _PsutilBattery:
    """The battery where there is no sysfs: a Mac's, as `pmset` would tell it."""

    pace_s = 30.0

    def read(self) -> Battery | None:
        said = cast("_SaidBattery | None", psutil.sensors_battery())  # pyright: ignore[reportUnknownMemberType]
        if said is None:
            return None
        plugged = said.power_plugged
        return Battery(number(said.percent, PERCENT), None if plugged is None else not plugged)


def _battery_source(root: Path) -> Source[Battery]:
    if sys.platform != "linux" and hasattr(psutil, "sensors_battery"):
        return _PsutilBattery()
    return Power(root)


def _processor_times() -> tuple[float, float] | None:
    """Seconds that all cores together idled and lived through."""
    try:
        times = psutil.cpu_times()
    except (OSError, ValueError):
        return None
    # Time for guests is counted in user time already.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return times.idle + getattr(times, "iowait", 0.0), total


def _load1() -> float | None:
    try:
        return number(os.getloadavg()[0], LOAD)
    except (OSError, AttributeError):
        return None


def _swap() -> tuple[int | None, int | None]:
    try:
        swap = psutil.swap_memory()
    except (OSError, ValueError, KeyError, RuntimeError):
        return None, None
    return whole_bytes(swap.used), whole_bytes(swap.total)


def _machine_memory_bytes() -> int | None:
    try:
        return whole_bytes(psutil.virtual_memory().total)
    except (OSError, ValueError, KeyError):
        return None


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _main() -> None:
    """Prints one sample of this device as JSON."""
    with Sampler(Path.home()) as sampler:
        sampler.warm_up()
        time.sleep(0.25)  # processor time is a difference: something must have happened
        encoded = msgspec.json.format(msgspec.json.encode(sampler.sample()), indent=2)
        sys.stdout.write(encoded.decode() + "\n")


if __name__ == "__main__":
    _main()
