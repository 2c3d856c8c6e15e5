"""Running a program of the system for its output: bounded in time and size, in the C locale."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from typing import Final

COMMAND_TIMEOUT_S: Final = 5.0
OUTPUT_SIZE_BYTES_MAX: Final = 4 * 1024 * 1024
"""`ioreg` tells some hundred kilobytes of a GPU."""


def output_of(command: Sequence[str], *, timeout_s: float = COMMAND_TIMEOUT_S) -> bytes | None:
    """What the program wrote to its standard output; None if it can't be run, failed or was killed.

    Blocks: for a sensor's thread. The program, and what it started, is killed at the deadline and
    when it writes too much."""
    try:
        running = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
            start_new_session=True,
        )
    except OSError:
        return None
    deadline = threading.Timer(timeout_s, _kill, (running.pid,))
    deadline.start()
    assert running.stdout is not None
    with running.stdout:
        output = running.stdout.read(OUTPUT_SIZE_BYTES_MAX + 1)
    # From here on the timer must not fire: once waited for, the number may be another program's.
    deadline.cancel()
    deadline.join()
    if len(output) > OUTPUT_SIZE_BYTES_MAX:
        _kill(running.pid)
    try:
        failed = running.wait(timeout_s) != 0
    except subprocess.TimeoutExpired:  # it closed its output and went on
        _kill(running.pid)
        failed = running.wait() != 0
    return None if failed or len(output) > OUTPUT_SIZE_BYTES_MAX else output


def _kill(group: int) -> None:
    """Kills the program and what it started: a child that lives on would hold the pipe."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
