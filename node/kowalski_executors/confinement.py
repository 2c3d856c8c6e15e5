"""What every way of holding a program has in common, so that one supervisor serves them all.

A `Confinement` is made once and says how strong it is. For each run it opens a `Cell`: the command
that starts the driver in it, a way to find all its processes from outside, and a way to end all of
them, whatever they did to get away. A cell is closed when nothing runs in it any more, and then
nothing of it is left.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from kowalski_executors.limits import Limits


class Cell(Protocol):
    """The place in which one program runs."""

    command: Sequence[str]
    """The interpreter, and what must come before it so that it runs in the cell."""
    lifeline: int
    """The end of the lifeline that the command inherits, for the warden."""
    descriptors: Sequence[int]
    """What the command needs to inherit."""
    environment: Mapping[str, str]
    """The whole environment of the command."""
    directory: Path | None
    """Where the command starts; None where it goes there by itself."""
    kernel_counts_processes: bool
    """Whether RLIMIT_NPROC, set inside, counts this program's processes alone."""

    def started(self, process: subprocess.Popen[bytes]) -> None:
        """Is told which process the command became; gives up what only that process needed."""
        ...

    def root(self) -> int | None:
        """Returns a pidfd that becomes readable when everything in the cell has ended; the cell
        keeps it.

        None where that is the command's own process, or while the cell has no other.
        """
        ...

    # The next two are asked once the driver stands: before, a process may still see what the
    # device sees, and would be counted with everything that runs there.

    def process_folders(self) -> list[Path]:
        """Returns the folders in /proc of what runs in the cell. Never raises OSError."""
        ...

    def volumes(self) -> Sequence[int]:
        """Returns descriptors of the writable file systems in memory, which the cell keeps."""
        ...

    def kill(self, *, insist: bool = False) -> None:
        """Sees to it that everything in the cell ends now. Harmless when repeated.

        `insist` is set when a first call had no effect in time."""
        ...


class Confinement(Protocol):
    """One way of holding programs."""

    strength: str
    """As in `Capabilities.sandbox`."""

    def open(self, limits: Limits) -> AbstractAsyncContextManager[Cell]:
        """Opens a cell for one program."""
        ...
