"""The files that a program left, on their way out of its cell: checked, and kept as blobs.

What comes over the result pipe was sent by the collector (see `collector.py`) or forged by the
program, which shares the pipe; so names, patterns, counts and sizes are held to their bounds again
here, and whatever breaks the form ends the run. Files go to a folder of the node's, piece by piece,
and become blobs once the program has ended well and all of them have come: a refused run leaves
nothing in the store.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from kowalski_executors.collector import matches
from kowalski_node.executor import Context, OutputFile
from kowalski_protocol.errors import Problem
from kowalski_protocol.task_files import (
    OUTPUT_FILES_MAX,
    clash,
    path_flaw,
    shown_path,
)

_HEAD_BYTES_MAX: Final = 16
"""A tag, a length and a line feed."""
_NAME_BYTES_MAX: Final = 1 << 14
"""Of a file's name as it may come; what is too long for a path is refused by its sentence."""
_DATA_BYTES_MAX: Final = 1 << 16
_SENTENCE_BYTES_MAX: Final = 1 << 10
"""What the driver may say instead of a value."""
_TURN_BYTES: Final = 1 << 20
"""What one turn of a worker thread writes."""
_STORED_AT_ONCE: Final = 8
"""Blobs that become durable together: each waits for the disk several times."""
_OWN_TAGS: Final = b"OUDNBZ"


@dataclass(slots=True)
class _Left:
    """A file that has come, or comes."""

    path: str
    place: Path
    size_bytes: int = 0


class OutputFiles:
    """What is received of one program's files. `folder` is its own, and removed by its maker."""

    def __init__(
        self, patterns: Sequence[str], folder: Path, bytes_max: int, value_bytes_max: int
    ) -> None:
        self.problem: Problem | None = None
        """Why the files are refused; nothing more is read then."""
        self.bytes_max: Final = bytes_max
        self._patterns = patterns
        self._folder = folder
        self._value_bytes_max = value_bytes_max
        self.built_bytes_max = 0
        """How much the driver may send of what it built."""
        self._unread = bytearray()
        self._left: list[_Left] = []
        self._matched: set[str] = set()
        self._open: int | None = None
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._size_bytes = 0
        self._is_complete = False

    @property
    def request(self) -> bytes:
        """What the collector is asked for."""
        bounds = f"{OUTPUT_FILES_MAX} {self.bytes_max}"
        return "\0".join([bounds, *self._patterns]).encode()

    async def take(self, chunk: bytes) -> bytes:
        """Takes in the next bytes of the pipe; returns what of them is the driver's own frame, in
        the form that it has where no files are asked for."""
        self._unread += chunk
        own: list[bytes] = []
        try:
            while self.problem is None and (frame := self._next_frame()) is not None:
                tag, body = frame
                if tag in _OWN_TAGS:
                    await self._take_frame(tag, body)
                elif tag == ord("P"):
                    own.append(b"P%d\n" % len(body) + body)
                else:
                    own.append(bytes([tag]) + body)
        except Problem as problem:
            self.problem = problem
        except OSError as error:
            self.problem = Problem("disk_full", f"The files can't be kept: {error.strerror}.")
        return b"".join(own)

    def close(self) -> None:
        """Closes what is open."""
        if self._open is not None:
            os.close(self._open)
            self._open = None

    async def store(self, context: Context) -> list[OutputFile]:
        """Keeps the files as blobs. Raises Problem where not all came, or not what was asked
        for."""
        if not self._is_complete:
            raise Problem("code_failed", "The files that the program left did not come whole.")
        for pattern in self._patterns:
            if pattern not in self._matched:
                raise Problem(
                    "code_failed",
                    f"The program ended well and left no file that matches {shown_path(pattern)}"
                    " (links and unchanged inputs don't count).",
                )
        blobs: dict[str, str] = {}
        problems: list[Problem] = []
        waiting = iter(self._left)

        async def store_some() -> None:
            for left in waiting:
                try:
                    blobs[left.path] = await context.store_blob(left.place)
                except Problem as problem:
                    problems.append(problem)
                if problems:
                    return
                await trio.to_thread.run_sync(left.place.unlink)

        async with trio.open_nursery() as nursery:
            for _ in range(_STORED_AT_ONCE):
                nursery.start_soon(store_some)
        if problems:
            raise problems[0]
        return [OutputFile(left.path, blobs[left.path], left.size_bytes) for left in self._left]

    def _next_frame(self) -> tuple[int, bytes] | None:
        """The next whole frame; None while it has not come. Raises Problem."""
        unread = self._unread
        end = unread.find(b"\n", 0, _HEAD_BYTES_MAX)
        if end < 0:
            if len(unread) >= _HEAD_BYTES_MAX:
                raise _garbled()
            return None
        digits = bytes(unread[1:end])
        if not digits.isdigit():
            raise _garbled()
        tag, size_bytes = unread[0], int(digits)
        if size_bytes > self._body_bytes_max(tag):
            raise _garbled()
        if len(unread) < end + 1 + size_bytes:
            return None
        body = bytes(unread[end + 1 : end + 1 + size_bytes])
        del unread[: end + 1 + size_bytes]
        return tag, body

    def _body_bytes_max(self, tag: int) -> int:
        if tag in b"OU":
            return _NAME_BYTES_MAX
        if tag in _OWN_TAGS:
            return _DATA_BYTES_MAX
        own_bytes_max = self.built_bytes_max if tag == ord("P") else self._value_bytes_max
        return own_bytes_max + _SENTENCE_BYTES_MAX

    async def _take_frame(self, tag: int, body: bytes) -> None:
        if self._is_complete:
            raise _garbled()
        if tag == ord("D"):
            await self._add(body)
            return
        await self._end_file()
        if tag == ord("O"):
            await self._begin_file(body)
        elif tag == ord("U"):
            shown = shown_path(body.decode("utf-8", "backslashreplace"))
            raise Problem("code_failed", f"The program left the file {shown}, which can't be read.")
        elif tag == ord("N"):
            raise _too_many()
        elif tag == ord("B"):
            raise self._too_large()
        elif clash([left.path for left in self._left]):
            raise _garbled()
        else:
            self._is_complete = True

    async def _begin_file(self, name: bytes) -> None:
        path = _path(name)
        if len(self._left) >= OUTPUT_FILES_MAX:
            raise _too_many()
        matched = {pattern for pattern in self._patterns if matches(path, pattern)}
        self._matched |= matched
        if not matched:
            raise Problem(
                "code_failed", f"The program sent {shown_path(path)}, which was not asked for."
            )
        place = self._folder / str(len(self._left))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._open = await trio.to_thread.run_sync(os.open, place, flags, 0o600)
        self._left.append(_Left(path, place))

    async def _add(self, data: bytes) -> None:
        if self._open is None:
            raise _garbled()
        self._size_bytes += len(data)
        if self._size_bytes > self.bytes_max:
            raise self._too_large()
        self._left[-1].size_bytes += len(data)
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes >= _TURN_BYTES:
            await self._write()

    async def _write(self) -> None:
        assert self._open is not None
        gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
        await trio.to_thread.run_sync(_write_all, self._open, gathered)

    async def _end_file(self) -> None:
        if self._gathered:
            await self._write()
        self.close()

    def _too_large(self) -> Problem:
        return Problem(
            "output_too_large",
            f"The files that match are more than {self.bytes_max >> 20} MiB together.",
        )


def _write_all(file: int, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[os.write(file, view) :]


def _path(name: bytes) -> str:
    try:
        path = name.decode()
    except UnicodeDecodeError:
        shown = shown_path(name.decode("utf-8", "backslashreplace"))
        raise Problem(
            "code_failed", f"The program left a file whose name is not Unicode: {shown}."
        ) from None
    flaw = path_flaw(path)
    if flaw is not None:
        raise Problem(
            "code_failed", f"The program left a file whose path {flaw}: {shown_path(path)}."
        )
    return path


def _too_many() -> Problem:
    return Problem(
        "output_too_large",
        f"More than {OUTPUT_FILES_MAX:,} files match; put them into an archive.",
    )


def _garbled() -> Problem:
    return Problem(
        "code_failed", "What came beside the program's files is not of the form that it must have."
    )
