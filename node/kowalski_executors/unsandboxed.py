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
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Final

import trio

from kowalski_executors.bootstrap import Bootstrap
from kowalski_executors.input_files import Input, copy_inputs
from kowalski_executors.interpreter import ENVIRONMENT, Interpreter
from kowalski_executors.limits import Limits
from kowalski_executors.process_cell import ProcessCell

FOLDER_PREFIX: Final = "run-"
"""How the folders of runs are called, so that those which a killed node left can be found."""


class Unsandboxed:
    """Runs programs as ordinary processes of the node's user."""

    strength = "unsandboxed"

    def __init__(self, bootstrap: Bootstrap, interpreter: Interpreter, work_root: Path) -> None:
        self._bootstrap = bootstrap
        self._interpreter = interpreter
        self._work_root = work_root

    def sweep(self) -> None:
        """Removes what runs of a node that was killed left behind."""
        for folder in self._work_root.glob(FOLDER_PREFIX + "*"):
            _remove(folder)

    @asynccontextmanager
    async def open(
        self, limits: Limits, inputs: Sequence[Input] = ()
    ) -> AsyncIterator[UnsandboxedCell]:
        """Opens a cell with a folder of its own."""
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=self._work_root))
        try:
            await copy_inputs(inputs, folder)
            with closing(
                UnsandboxedCell(self._bootstrap, self._interpreter.executable, folder)
            ) as cell:
                yield cell
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_remove, folder)


class UnsandboxedCell(ProcessCell):
    """One warden and its descendants."""

    kernel_counts_processes = False

    def __init__(self, bootstrap: Bootstrap, executable: Path, folder: Path) -> None:
        super().__init__(bootstrap)
        self.command = [str(executable)]
        self.directory = folder
        self.environment = {
            **ENVIRONMENT,
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "MALLOC_ARENA_MAX": "2",
            "PATH": os.defpath,
            "TMPDIR": str(folder),
        }

    def process_folders(self) -> list[Path]:
        warden = self.process
        if warden is None or warden.returncode is not None:
            return []
        found: list[Path] = []
        waiting = [warden.pid]
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
        if self.process is not None:
            super().kill()
        if not insist:
            return
        # It does not come to it, so all that can be found from here is killed.
        for folder in self.process_folders():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(folder.name), signal.SIGKILL)
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def _remove(folder: Path) -> None:
    # Nested deeper than Python's own stack allows: a program that did this on purpose had the whole
    # disk to itself anyway, and the folder goes with the next start's sweep or by hand.
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
