"""How much one program may use: the bounds of the `code` executor, each with its unit and its
reason.

The defaults are meant for the smallest device that the project supports. A task may ask for more
memory through `requires.memory_mb`; its time is the task's own `timeout_s`. What the kernel can
hold to by itself (address space, processor time, files, processes) it holds to, so that the bounds
stand even while the node is stopped; the rest is watched from outside (see `usage.py`).
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kowalski_protocol.errors import Problem

MEBIBYTE: Final = 1 << 20

MEMORY_DEFAULT_MB: Final = 512
"""Memory of all processes of a program and of the files that it keeps, in MiB."""

MEMORY_MIN_MB: Final = 32
"""An interpreter that has just started uses about 10 MiB: below this nothing useful runs."""

ADDRESS_SPACE_SLACK_BYTES: Final = 64 * MEBIBYTE
"""What one process may map above its memory: the interpreter's own image and the stacks of
threads."""

PROCESSES_MAX: Final = 64
"""Processes and threads together: a thread pool of the standard library takes 32 at most by
default."""

OPEN_FILES_MAX: Final = 256
"""Per process: enough for real programs, and it bounds what 64 processes can hold in kernel
buffers."""

STACK_BYTES: Final = 8 * MEBIBYTE
"""Of a thread, as Linux gives it by default; it is no way around the bound on memory."""

WORK_FOLDER_BYTES: Final = 256 * MEBIBYTE
"""The work folder lies in memory, so this also counts as memory."""

SCRATCH_BYTES: Final = 64 * MEBIBYTE
"""/tmp and /dev/shm, each."""

FILES_MAX: Final = 20_000
"""Files and folders that a program may keep: each one costs the kernel about 1 KiB, even when
empty."""

OUTPUT_BYTES_MAX: Final = MEBIBYTE
"""Of stdout and of stderr, each: past it the program is stopped."""

VALUE_BYTES_MAX: Final = MEBIBYTE
"""Of the value, as JSON. Larger results belong in a blob."""

CODE_BYTES_MAX: Final = MEBIBYTE
"""Of the source text, in UTF-8."""

STDIN_BYTES_MAX: Final = 4 * MEBIBYTE
"""Of the standard input, in UTF-8. Larger input belongs in a blob."""

ARGUMENTS_MAX: Final = 1_000
"""How many arguments a program may get."""

VARIABLES_MAX: Final = 256
"""How many variables a task may add to its program's environment."""

ARGUMENTS_BYTES_MAX: Final = 128 << 10
"""All arguments together, and all variables, in UTF-8: what one argument of a process may have on
Linux."""

SESSION_IDLE_S: Final = 1_800.0
"""After which time without a cell the interpreter of a session is ended. It is made anew from its
cells when the next one comes, so that this costs time and nothing else."""

SESSIONS_MAX: Final = 16
"""How many interpreters of sessions a device keeps: each may hold as much memory as a program."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use."""

    wall_s: float
    memory_bytes: int
    processes: int = PROCESSES_MAX
    files: int = FILES_MAX
    output_bytes: int = OUTPUT_BYTES_MAX
    value_bytes: int = VALUE_BYTES_MAX

    @property
    def address_space_bytes(self) -> int:
        """How much one process may map."""
        return self.memory_bytes + ADDRESS_SPACE_SLACK_BYTES

    @property
    def cpu_s(self) -> int:
        """Processor seconds of one process.

        The deadline comes first while the node lives; this is the kernel's bound for the time in
        which the node is frozen or starved, so it leaves room for every core to be used until the
        deadline.
        """
        return math.ceil(self.wall_s) * (os.cpu_count() or 1) + 1

    @property
    def work_folder_bytes(self) -> int:
        """The size of the work folder. It is memory, so it is never larger than the memory."""
        return min(WORK_FOLDER_BYTES, self.memory_bytes)

    @property
    def scratch_bytes(self) -> int:
        """The size of /tmp, and that of /dev/shm."""
        return min(SCRATCH_BYTES, self.memory_bytes)


def kernel_counts_by_namespace() -> bool:
    """Whether RLIMIT_NPROC in a user namespace counts the processes in it alone (Linux 5.14)."""
    release = platform.release().split("-")[0].split(".")
    try:
        return (int(release[0]), int(release[1])) >= (5, 14)
    except (IndexError, ValueError):
        return False


def device_memory_bytes() -> int:
    """Returns the memory that this device has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def limits_for(requires: Mapping[str, Any], timeout_s: float) -> Limits:
    """Returns the limits of one attempt.

    Args:
      requires: what the task requires; `memory_mb` is read.
      timeout_s: how long the attempt may take.

    Raises:
      Problem: `bad_request` where `memory_mb` is no sensible number, `impossible_requirement` where
        it is more than the device has.
    """
    memory_mb = requires.get("memory_mb", MEMORY_DEFAULT_MB)
    if isinstance(memory_mb, bool) or not isinstance(memory_mb, int | float):
        raise Problem("bad_request", "requires.memory_mb must be a number of MiB.")
    if not memory_mb >= MEMORY_MIN_MB:  # also true for NaN
        raise Problem("bad_request", f"requires.memory_mb must be at least {MEMORY_MIN_MB}.")
    device_mb = device_memory_bytes() // MEBIBYTE
    if memory_mb > device_mb:
        raise Problem(
            "impossible_requirement",
            f"requires.memory_mb asks for more than the {device_mb} MiB of this device.",
        )
    return Limits(wall_s=max(timeout_s, 0.0), memory_bytes=int(memory_mb * MEBIBYTE))
