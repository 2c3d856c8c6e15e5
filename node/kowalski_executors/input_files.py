"""The files that a program starts with: brought to this device, checked, and laid out.

In a sandbox the blob's own file is bound into the work folder, read-only, so a program with
gigabytes of input starts at once and nothing of them is copied. Without a sandbox the program is
the node's own user, who may change any file of the node's whatever its mode: there each input is a
copy, made by the file system itself where it can (`copy_file_range`, which shares the blocks on
some), and never more than a piece of it in memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from kowalski_node.executor import Context
from kowalski_protocol.errors import Problem
from kowalski_protocol.task_files import InputFile, shown_path

_STEP_BYTES: Final = 64 << 20
"""What one turn of a worker thread copies: a cancelled run waits for no more."""
_PIECE_BYTES: Final = 1 << 20
"""The same where it has to pass through memory."""
_SPARED_BYTES: Final = 256 << 20
"""What copies leave of the disk, as blobs do."""
_READABLE: Final = 0o444


@dataclass(frozen=True, slots=True)
class Input:
    """A file of this device, and where it lies in the work folder."""

    path: str
    source: Path


async def fetch_inputs(inputs: Sequence[InputFile], context: Context) -> list[Input]:
    """The inputs, all of them here; the context keeps them while the attempt runs.

    Raises Problem: `not_found` where no live member has one, `bad_request` where one is not as
    large as the task says.
    """
    fetched: list[Input] = []
    for one in inputs:
        source = await context.open_blob(one.blob)
        size_bytes = (await trio.to_thread.run_sync(source.stat)).st_size
        if size_bytes != one.size_bytes:
            raise Problem(
                "bad_request",
                f"The input {shown_path(one.path)} is said to have {one.size_bytes:,} bytes, and"
                f" its blob has {size_bytes:,}.",
            )
        fetched.append(Input(one.path, source))
    return fetched


def make_readable(inputs: Sequence[Input]) -> None:
    """Lets other users read the blobs' files, for programs that run as one.

    They stand in folders that no other user can enter, and a program's sandbox shows it its own
    inputs alone.
    """
    for one in inputs:
        one.source.chmod(_READABLE)


async def copy_inputs(inputs: Sequence[Input], folder: Path) -> None:
    """Lays copies of the inputs into a folder. Raises Problem `disk_full`."""
    for one in inputs:
        target = folder / one.path
        try:
            await _copy(one.source, target)
        except OSError as error:
            raise Problem(
                "disk_full",
                f"The input {shown_path(one.path)} can't be copied: {error.strerror}.",
            ) from None


async def _copy(source: Path, target: Path) -> None:
    def begin() -> tuple[int, int]:
        target.parent.mkdir(parents=True, exist_ok=True)
        read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size_bytes = os.fstat(read).st_size
            if size_bytes + _SPARED_BYTES > shutil.disk_usage(target.parent).free:
                raise Problem("disk_full", "The disk has no room for a copy of the inputs.")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            return read, os.open(target, flags, _READABLE)
        except BaseException:  # guard: whatever it was, nobody else closes this
            os.close(read)
            raise

    read, write = await trio.to_thread.run_sync(begin)
    try:
        while await trio.to_thread.run_sync(_copy_step, read, write):
            pass
    finally:
        os.close(read)
        os.close(write)


def _copy_step(read: int, write: int) -> int:
    """Copies some more, where the files' offsets stand; returns how much, 0 at the end."""
    with suppress(OSError):  # the two file systems, or this kernel, can't; a full disk says so next
        return os.copy_file_range(read, write, _STEP_BYTES)
    view = memoryview(os.read(read, _PIECE_BYTES))
    size_bytes = len(view)
    while view:
        view = view[os.write(write, view) :]
    return size_bytes
