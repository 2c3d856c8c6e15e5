"""A blob on its way to the disk: a file that grows beside its place, hashed as it grows.

What comes is gathered to about a mebibyte, and one worker thread's turn hashes and writes that,
while the event loop goes on receiving. The kernel is told to begin writing at once, so that making
the whole durable at the end is short however large the blob is.

Going on with a part that was left hashes what is there. Nothing else about it was ever written
down, so nothing else can be wrong; and bytes that a failing power left wrong show in the hash.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import trio

from kowalski_protocol.errors import Problem
from kowalski_protocol.limits import LIMITS

Given = ParamSpec("Given")
Result = TypeVar("Result")

PIECE_BYTES: Final = 1024 * 1024
"""What one worker thread's turn reads or writes: a turn costs 0.1 ms, its work about 1 ms."""
STEP_BYTES: Final = 16 * PIECE_BYTES
"""How often room is made, writing begun, and a long hashing can be cancelled."""

Room = Callable[[int, int], None]
"""(bytes there, bytes to come): called in a worker thread before these are written. May raise
Problem."""


class Part:
    """An open file that is appended to. `close` it in any case."""

    def __init__(self, path: Path, file: int, room: Room) -> None:
        self.path = path
        self._file = file
        self._room = room
        self._digest = hashlib.sha256()
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._roomy_bytes = 0
        self._begun_bytes = 0
        self._written_bytes = 0
        self.expected_bytes = LIMITS.blob_size_bytes_max
        """Where it will end at the latest: more is refused, and no room is made for more."""

    @classmethod
    async def open(cls, path: Path, room: Room) -> Part:
        """The part at `path`, new or as far as it came. Raises Problem disk_full."""
        file = await on_disk(_open, path)
        part = cls(path, file, room)
        taken_up = False
        try:
            while await on_disk(part._take_up):
                pass
            taken_up = True
        finally:
            if not taken_up:
                part.close()
        return part

    @property
    def size_bytes(self) -> int:
        """How much there is, written or not yet."""
        return self._written_bytes + self._gathered_bytes

    @property
    def name(self) -> str:
        """The hex SHA-256 of what is written."""
        assert not self._gathered
        return self._digest.hexdigest()

    async def add(self, piece: bytes) -> None:
        """Appends, now or with what comes next. Raises Problem too_large, and disk_full, after
        which the part is of no more use."""
        if self.size_bytes + len(piece) > self.expected_bytes:
            raise Problem("too_large", f"The blob is larger than {self.expected_bytes} bytes.")
        self._gathered.append(piece)
        self._gathered_bytes += len(piece)
        if self._gathered_bytes >= PIECE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """All that was added is written."""
        if self._gathered:
            gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
            await on_disk(self._write, gathered)

    async def restart(self) -> None:
        """The part is empty again."""
        self._gathered, self._gathered_bytes = [], 0
        await on_disk(os.ftruncate, self._file, 0)
        self._digest = hashlib.sha256()
        self._roomy_bytes = self._begun_bytes = self._written_bytes = 0

    async def sync(self) -> None:
        """What is written is durable."""
        await on_disk(os.fsync, self._file)

    def close(self) -> None:
        """Gives up the file; what was not flushed is lost."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # In a worker thread.

    def _take_up(self) -> bool:
        """Hashes a step of what is there already; False at its end."""
        for _ in range(0, STEP_BYTES, PIECE_BYTES):
            data = os.pread(self._file, PIECE_BYTES, self._written_bytes)
            if not data:
                return False
            self._digest.update(data)
            self._written_bytes += len(data)
            self._roomy_bytes = self._begun_bytes = self._written_bytes
        return True

    def _write(self, gathered: list[bytes]) -> None:
        for piece in gathered:
            with memoryview(piece) as view:
                if self._written_bytes + len(view) > self._roomy_bytes:
                    left = self.expected_bytes - self._written_bytes
                    step = min(max(STEP_BYTES, len(view)), left)
                    self._room(self._written_bytes, step)
                    self._roomy_bytes = self._written_bytes + step
                at = 0
                while at < len(view):
                    at += os.pwrite(self._file, view[at:], self._written_bytes + at)
                self._digest.update(view)
                self._written_bytes += len(view)
        begun = self._written_bytes - self._begun_bytes
        if begun >= STEP_BYTES:
            _begin_writing(self._file, self._begun_bytes, begun)
            self._begun_bytes = self._written_bytes


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _begin_writing(file: int, start: int, size_bytes: int) -> None:
    """Linux begins to write pages that it is told are not needed, and waits for nothing."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, start, size_bytes, os.POSIX_FADV_DONTNEED)


async def on_disk(
    action: Callable[Given, Result], *given: Given.args, **named: Given.kwargs
) -> Result:
    """What a blocking `action` returns, from a worker thread. Raises Problem disk_full."""
    try:
        return await trio.to_thread.run_sync(partial(action, *given, **named))
    except OSError as error:
        raise Problem("disk_full", f"The blob can't be written: {error.strerror}.") from None
