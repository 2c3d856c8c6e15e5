"""What the processes of a cell use together, measured from outside.

The kernel's own limits (RLIMIT_AS and its kin) hold for one process at a time; sixty-four processes
of 512 MiB are 32 GiB. So the sum is watched ten to forty times a second. It is first taken the
cheap way, which counts pages that processes share once for each of them and so is never too low;
only when that is over the limit are the exact figures read, for which the kernel walks the page
tables.

Files in a cell's file systems are memory too. A page of a file that a process has mapped is both in
the file system and in the process's share, so the larger of the two counts. What the kernel keeps
on a program's behalf (pipes, sockets, page tables) is not seen here; the limits on processes and
open files bound it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# Of /proc/PID/stat, counted after the command's closing parenthesis.
_FIELD_THREADS: Final = 17
_FIELD_RESIDENT: Final = 21


@dataclass(frozen=True, slots=True)
class Usage:
    """What a cell uses: memory in bytes, processes and threads together, files and folders."""

    memory_bytes: int
    tasks: int
    files: int


def measure(folders: Sequence[Path], volumes: Sequence[int], memory_limit_bytes: int) -> Usage:
    """Returns what a cell uses. The memory is an upper bound where that is below the limit, else
    exact."""
    tasks = 0
    resident_bytes = 0
    for folder in folders:
        counted = _threads_and_resident(folder)
        if counted is not None:
            tasks += counted[0]
            resident_bytes += counted[1]
    stored_bytes, files = _stored(volumes)
    memory_bytes = resident_bytes + stored_bytes
    if memory_bytes > memory_limit_bytes:
        memory_bytes = _exact_memory_bytes(folders, stored_bytes)
    return Usage(memory_bytes, tasks, files)


def _threads_and_resident(folder: Path) -> tuple[int, int] | None:
    """Returns a process's threads and resident bytes, or None where it is gone."""
    try:
        text = (folder / "stat").read_bytes()
    except OSError:
        return None
    # The command's name may hold anything, parentheses included; the last one ends it.
    fields = text[text.rfind(b")") + 2 :].split()
    if len(fields) <= _FIELD_RESIDENT:
        return None
    return int(fields[_FIELD_THREADS]), int(fields[_FIELD_RESIDENT]) * _PAGE_BYTES


def _stored(volumes: Sequence[int]) -> tuple[int, int]:
    """Returns the bytes and the files that lie in the file systems."""
    stored_bytes = files = 0
    for volume in volumes:
        state = os.fstatvfs(volume)
        stored_bytes += (state.f_blocks - state.f_bfree) * state.f_frsize
        files += state.f_files - state.f_ffree
    return stored_bytes, files


def _exact_memory_bytes(folders: Sequence[Path], stored_bytes: int) -> int:
    """Returns the memory with each shared page counted once."""
    private_bytes = shared_bytes = 0
    for folder in folders:
        try:
            text = (folder / "smaps_rollup").read_bytes()
        except OSError:
            # Gone, or it made itself unreadable: then what it has counts in full.
            counted = _threads_and_resident(folder)
            private_bytes += counted[1] if counted is not None else 0
            continue
        shares = dict(_kilobytes(text))
        shared = shares.get(b"Pss_Shmem:", 0)
        private_bytes += shares.get(b"Pss_Anon:", shares.get(b"Pss:", 0) - shared)
        shared_bytes += shared
    return private_bytes + max(shared_bytes, stored_bytes)


def _kilobytes(text: bytes) -> list[tuple[bytes, int]]:
    """Returns the names and bytes of the lines `Name: number kB`."""
    rows = (line.split() for line in text.splitlines())
    return [(row[0], int(row[1]) << 10) for row in rows if len(row) == 3 and row[2] == b"kB"]
