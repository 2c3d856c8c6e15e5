"""What every way of holding a program has in common, so that one supervisor serves them all.

A `Confinement` is made once and says how strong it is. For each run it opens a `Cell`: a way to
start the driver in it, to find all its processes from outside, and to end all of them, whatever
they did to get away. A cell is closed when nothing runs in it any more, and then nothing of it is
left.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from kowalski_executors.input_files import Input
from kowalski_executors.limits import Limits

KILLED = 137
"""The status of what was killed before it could say one: 128 + SIGKILL."""


class Ends(NamedTuple):
    """The program's ends of its pipes, as descriptors of this process; their maker closes them."""

    stdin: int
    stdout: int
    stderr: int
    request: int
    result: int


class Cell(Protocol):
    """The place in which one program runs."""

    kernel_counts_processes: bool
    """Whether RLIMIT_NPROC, set inside, counts this program's processes alone."""

    async def start(self, ends: Ends, options: Sequence[str]) -> None:
        """Starts the driver with these ends and options (see `driver.main`).

        Raises OSError where the device can't. Not cancelled half-way: it has started or not.
        """
        ...

    async def stands(self) -> None:
        """Waits until the processes in the cell can be found; asked once the driver has spoken."""
        ...

    async def wait(self) -> int:
        """Returns when nothing runs in the cell, with the driver's exit status (128 + the number
        of a signal).

        May be cancelled and called again.
        """
        ...

    # The next two are asked once the cell stands: before, a process may still see what the
    # device sees, and would be counted with everything that runs there.

    def process_folders(self) -> list[Path]:
        """Returns the folders in /proc of what runs in the cell. Never raises OSError."""
        ...

    def volumes(self) -> Sequence[int]:
        """Returns descriptors of the writable file systems in memory, which the cell keeps."""
        ...

    def interrupt(self) -> int | None:
        """Has the program and its process group sent SIGINT.

        Returns a descriptor, which the cell keeps, on which one byte comes once that is done; None
        where nothing runs any more.
        """
        ...

    def kill(self, *, insist: bool = False) -> None:
        """Sees to it that everything in the cell ends now. Harmless when repeated.

        `insist` is set when a first call had no effect in time."""
        ...


class Confinement(Protocol):
    """One way of holding programs."""

    strength: str
    """As in `Capabilities.sandbox`."""

    def open(
        self, limits: Limits, inputs: Sequence[Input] = ()
    ) -> AbstractAsyncContextManager[Cell]:
        """Opens a cell for one program, with these files in its work folder."""
        ...
