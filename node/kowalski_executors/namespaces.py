"""What can be seen from outside of a program that runs in namespaces of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

WORK_FOLDER: Final = "/task"
"""Where a program starts, and the only folder that is its own."""

WRITABLE: Final = (WORK_FOLDER, "/tmp", "/dev/shm")
"""The file systems that a program may write to."""


class Namespaces:
    """The namespaces of one program, by their process 1."""

    def __init__(self, first: int, descriptor: int) -> None:
        self.descriptor = descriptor
        """A pidfd of process 1, kept here: readable when everything in them has ended."""
        self._first = first
        self._volumes: list[int] | None = None

    def process_folders(self) -> list[Path]:
        """Returns the folders in /proc of all processes. Never raises OSError."""
        # Process 1's own view of /proc shows exactly the processes of its namespace.
        folder = Path("/proc", str(self._first), "root", "proc")
        try:
            return [folder / name for name in os.listdir(folder) if name.isdecimal()]  # noqa: PTH208
        except OSError:
            return []

    def volumes(self) -> Sequence[int]:
        """Returns descriptors of the writable file systems, which are kept here."""
        if self._volumes is None:
            self._volumes = []
            base = Path("/proc", str(self._first), "root")
            with suppress(OSError):
                for path in WRITABLE:
                    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                    self._volumes.append(os.open(f"{base}{path}", flags))
        return self._volumes

    def close(self) -> None:
        """Gives all descriptors back."""
        for descriptor in (self.descriptor, *(self._volumes or ())):
            os.close(descriptor)
        self._volumes = []
