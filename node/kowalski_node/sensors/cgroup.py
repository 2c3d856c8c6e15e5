"""What of the machine this process may use: the limits of its control groups.

A container or a service sees the whole machine in `/proc`, but is stopped at its group's quota and
killed at its group's memory limit; a node that advertised the machine would be given work that
kills it. Limits stand in the group and in each of its ancestors, in files of version 2 (one tree)
or version 1 (one tree per controller); the least one counts. Inside a container the own group is
often mounted as the root, so a path that does not exist there is read as far as it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from .reading import number, text_of, whole_bytes

DEPTH_MAX: Final = 32
"""Levels of groups looked at; systemd makes about six."""
CORES: Final = (0.001, 100_000.0)


class MemoryGroup(msgspec.Struct, frozen=True):
    """The group whose memory limit is the least: the limit, and where its use is told."""

    limit_bytes: int
    usage_file: str
    stat_file: str
    cache_key: str
    """The line of the statistics that counts file cache, which the kernel takes back at need."""


def cpu_quota_cores(root: Path) -> float | None:
    """How many cores' time the groups of this process allow; None where they don't limit it."""
    least: float | None = None
    for folder, version in _folders(root, "cpu"):
        if version == 2:
            quota, _, period = (text_of(folder / "cpu.max") or "").partition(" ")
        else:
            quota = text_of(folder / "cpu.cfs_quota_us") or ""
            period = text_of(folder / "cpu.cfs_period_us") or ""
        allowed, every = number(quota, (1.0, 1e15)), number(period, (1.0, 1e15))
        if allowed is not None and every is not None:
            cores = number(allowed / every, CORES)
            if cores is not None and (least is None or cores < least):
                least = cores
    return least


def memory_group(root: Path, machine_bytes: int) -> MemoryGroup | None:
    """The group that limits this process's memory below the machine's, if one does."""
    least: MemoryGroup | None = None
    for folder, version in _folders(root, "memory"):
        if version == 2:
            limit, usage, cache = "memory.max", "memory.current", "inactive_file"
        else:
            limit, usage, cache = (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        limit_bytes = whole_bytes(text_of(folder / limit))
        if limit_bytes and limit_bytes < (least.limit_bytes if least else machine_bytes):
            least = MemoryGroup(
                limit_bytes, str(folder / usage), str(folder / "memory.stat"), cache
            )
    return least


def memory_used_bytes(group: MemoryGroup) -> int | None:
    """What a group uses of its memory, without the file cache that it would give back."""
    used = whole_bytes(text_of(Path(group.usage_file)))
    if used is None:
        return None
    cache = 0
    for line in (text_of(Path(group.stat_file)) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == group.cache_key:
            cache = whole_bytes(value) or 0
    return max(0, used - cache)


def _folders(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """The folders of our group and its ancestors for one controller, and their version."""
    mounted = root / "sys/fs/cgroup"
    for line in (text_of(root / "proc/self/cgroup") or "").splitlines()[:64]:
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.split(",")
        if hierarchy == "0" and not controllers:
            base, version = mounted, 2
        elif controller in names:
            base = mounted / controller
            if not base.is_dir():
                base = mounted / controllers
            version = 1
        else:
            continue
        parts = [part for part in path.split("/") if part]
        if ".." in parts or len(parts) > DEPTH_MAX:
            parts = []  # a group outside of what this process may see
        for depth in range(len(parts), -1, -1):
            yield base.joinpath(*parts[:depth]), version
