"""Runs programs without a sandbox, because the owner of the device said so.

What is left is order, not protection: limits on one process's memory, time and files, a folder of
its own that is removed afterwards, an environment without the node's variables, and a warden (see
`warden.py`) that leaves nothing running. The program can read and write whatever the node's user
can.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from kowalski_executors.interpreter import Interpreter
from kowalski_executors.limits import Limits

FOLDER_PREFIX: Final = "run-"
"""How the folders of runs are called, so that those which a killed node left can be found."""


class Unsandboxed:
    """Runs programs as ordinary processes of the node's user."""

    strength = "unsandboxed"

    def __init__(self, interpreter: Interpreter, work_root: Path) -> None:
        self._interpreter = interpreter
        self._work_root = work_root

    def sweep(self) -> None:
        """Removes what runs of a node that was killed left behind."""
        for folder in self._work_root.glob(FOLDER_PREFIX + "*"):
            _remove(folder)

    @asynccontextmanager
    async def open(self, limits: Limits) -> AsyncIterator[UnsandboxedCell]:
        """Opens a cell with a folder of its own."""
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=self._work_root))
        try:
            with ExitStack() as closing:
                lifeline_read, lifeline_write = os.pipe2(os.O_CLOEXEC)
                cell = UnsandboxedCell(folder, lifeline_read, lifeline_write)
                closing.callback(cell.close)
                cell.command = [str(self._interpreter.executable)]
                yield cell
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_remove, folder)


class UnsandboxedCell:
    """One warden and its descendants."""

    kernel_counts_processes = False

    def __init__(self, folder: Path, lifeline_read: int, lifeline_write: int) -> None:
        self.command: Sequence[str] = ()
        self.descriptors: Sequence[int] = (lifeline_read,)
        self.directory: Path | None = folder
        self.environment: Mapping[str, str] = {
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "MALLOC_ARENA_MAX": "2",
            "PATH": os.defpath,
            "TMPDIR": str(folder),
        }
        self.lifeline = lifeline_read
        self._open = [lifeline_write, lifeline_read]
        self._warden: subprocess.Popen[bytes] | None = None

    def started(self, process: subprocess.Popen[bytes]) -> None:
        self._warden = process
        os.close(self._open.pop())

    def root(self) -> int | None:
        return None

    def process_folders(self) -> list[Path]:
        if self._warden is None or self._warden.returncode is not None:
            return []
        found: list[Path] = []
        waiting = [self._warden.pid]
        while waiting:
            folder = Path("/proc", str(waiting.pop()))
            with suppress(OSError):
                for thread in (folder / "task").iterdir():
                    children = [int(child) for child in (thread / "children").read_text().split()]
                    waiting += children
                    found += [Path("/proc", str(child)) for child in children]
        return found

    def volumes(self) -> Sequence[int]:
        return ()

    def kill(self, *, insist: bool = False) -> None:
        # The warden does the killing when its line is cut: were it killed, its charges would be
        # free.
        if self._warden is not None and self._open:
            os.close(self._open.pop())
        if not insist:
            return
        # It does not come to it, so all that can be found from here is killed.
        for folder in self.process_folders():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(folder.name), signal.SIGKILL)
        if self._warden is not None and self._warden.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._warden.pid, signal.SIGKILL)

    def close(self) -> None:
        """Gives the descriptors back."""
        while self._open:
            os.close(self._open.pop())


def _remove(folder: Path) -> None:
    # Nested deeper than Python's own stack allows: a program that did this on purpose had the whole
    # disk to itself anyway, and the folder goes with the next start's sweep or by hand.
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
