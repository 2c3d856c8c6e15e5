"""Blobs: bytes named by their SHA-256, one file each in the home folder.

A blob is written beside its place, hashed on the way, and moved there only when it is whole and
durable, so what has a name is right. What this device made, was given or owes to its own tasks
lies in the folder itself and stays; what it only fetched lies in `cache/`, which has a quota (see
`blob_cache`). What has begun to come from others is named too, so that it is gone on with after a
break or a restart, and is checked against its name at its end.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from kowalski_protocol.errors import Problem
from kowalski_protocol.limits import LIMITS

from .blob_cache import PART, BlobCache, Held
from .blob_parts import PIECE_BYTES, Part, on_disk


def is_blob_hash(text: str) -> bool:
    """Whether a text is the hex form of a SHA-256."""
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)


class Blobs:
    """The blobs of one device. `quota_bytes` bounds those that it only fetched; None: by the
    disk."""

    def __init__(self, folder: Path, *, quota_bytes: int | None = None) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in folder.glob(f"*{PART}"):
                left.unlink(missing_ok=True)
            self._cache = BlobCache(folder / "cache", quota_bytes)
            self._cache.sweep()
        except OSError as error:
            raise Problem(
                "home_unusable", f"The folder of blobs {folder} can't be used: {error.strerror}."
            ) from None

    def path(self, blob_hash: str) -> Path | None:
        """Where a blob stands, which counts as a use of it; None where it isn't here.

        The file may be thrown away at any time unless the name is held.
        """
        if not is_blob_hash(blob_hash):
            raise Problem(
                "bad_request", "A blob is named by the 64 hexadecimal digits of its SHA-256."
            )
        own, cached = self._folder / blob_hash, self._cache.place(blob_hash)
        if own.is_file():
            return own
        self._cache.use(cached)
        return cached if cached.is_file() else None

    def keeps(self, blob_hash: str) -> bool:
        """Whether the blob is here, and for good."""
        return is_blob_hash(blob_hash) and (self._folder / blob_hash).is_file()

    def hold(self, blob_hash: str, held: Held) -> None:
        """The blob, here already or still to come, keeps its path while `held` is true."""
        self._cache.hold(blob_hash, held)

    async def store(self, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
        """Keeps the bytes durably and for good; returns their hex SHA-256 and size.

        Raises Problem too_large, and disk_full.
        """
        part = await Part.open(self._folder / (secrets.token_hex(8) + PART), self._own_room)
        try:
            async for chunk in chunks:
                await part.add(chunk)
            await part.flush()
            await self.keep(part, pinned=True)
            return part.name, part.size_bytes
        finally:
            await _drop(part)

    async def store_bytes(self, data: bytes) -> str:
        """Keeps bytes that are in memory; writes nothing where they are here already."""
        name = (await trio.to_thread.run_sync(hashlib.sha256, data)).hexdigest()
        if await self.pin(name):
            return name

        async def once() -> AsyncIterator[bytes]:
            yield data

        return (await self.store(once()))[0]

    @asynccontextmanager
    async def growing(self, blob_hash: str) -> AsyncIterator[Part]:
        """What is here of a blob that is being fetched, to be added to and `keep`-ed when whole.

        It is there again next time, unless it was left by a Problem. One at a time for each blob.
        """
        open_now = [blob_hash]
        path = self._cache.part(blob_hash)
        self._cache.hold(path.name, lambda: bool(open_now))
        try:
            part = await Part.open(path, self._cached_room)
            try:
                yield part
            except Problem:
                await _drop(part)
                raise
            finally:
                part.close()
                if not part.size_bytes:
                    path.unlink(missing_ok=True)
        finally:
            open_now.clear()

    async def keep(self, part: Part, *, pinned: bool) -> None:
        """The part, which is whole, is durable under the name of what is in it."""
        here = await self.pin(part.name) if pinned else self.path(part.name) is not None
        if here:
            await _drop(part)
            return
        place = self._folder / part.name if pinned else self._cache.place(part.name)
        await part.sync()
        await on_disk(_move, part.path, place)

    async def pin(self, blob_hash: str) -> bool:
        """Whether the blob is here, and for good."""
        own = self._folder / blob_hash
        if own.is_file():
            return True
        try:
            await trio.to_thread.run_sync(_move, self._cache.place(blob_hash), own)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Problem("disk_full", f"The blob can't be kept: {error.strerror}.") from None
        return True

    async def check_room(self, size_bytes: int) -> None:
        """Raises Problem disk_full where so much could not be written, whatever was thrown away."""
        if size_bytes > max(_SMALL_BYTES, await on_disk(self._cache.could_spare_bytes)):
            raise _no_room()

    async def read(
        self, blob_hash: str, offset: int = 0
    ) -> tuple[int, AsyncIterator[bytes]] | None:
        """A blob's size and its bytes from `offset` on; None where it isn't here.

        The file is open from here on until its end is read, or `aclose` called.
        """
        path = self.path(blob_hash)
        if path is None:
            return None
        try:
            reader = await trio.to_thread.run_sync(BlobReader, path, offset)
        except FileNotFoundError:
            return None
        return reader.size_bytes, reader

    def _own_room(self, there_bytes: int, more_bytes: int) -> None:
        if there_bytes + more_bytes > _SMALL_BYTES and not self._cache.spare(more_bytes):
            raise _no_room()

    def _cached_room(self, there_bytes: int, more_bytes: int) -> None:
        self._cache.make_room(more_bytes)
        self._own_room(there_bytes, more_bytes)


class BlobReader:
    """An open blob, read from `offset` to its end; the file system is asked in a worker thread."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._file = path.open("rb", buffering=0)
        self._offset = offset
        self.size_bytes = os.fstat(self._file.fileno()).st_size
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def __aiter__(self) -> BlobReader:
        return self

    async def __anext__(self) -> bytes:
        if self._file.closed:
            raise StopAsyncIteration
        data = await trio.to_thread.run_sync(
            os.pread, self._file.fileno(), PIECE_BYTES, self._offset
        )
        self._offset += len(data)
        if not data:
            self._file.close()
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        self._file.close()


async def read_file(path: Path) -> AsyncIterator[bytes]:
    """A file's bytes in chunks."""
    reader = await trio.to_thread.run_sync(BlobReader, path)
    try:
        async for chunk in reader:
            yield chunk
    finally:
        await reader.aclose()


_SMALL_BYTES = LIMITS.result_size_bytes_max
"""Results may take the last of the disk, as the ledger may: they are what work is lost with."""


def _no_room() -> Problem:
    return Problem("disk_full", "The disk has no room for a blob of this size.")


def _move(source: Path, place: Path) -> None:
    source.chmod(0o400)
    source.replace(place)
    for folder in {source.parent, place.parent}:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


async def _drop(part: Part) -> None:
    """The part is gone. In a thread and in any case: it takes long for a large one."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(_unlink_and_close, part)


def _unlink_and_close(part: Part) -> None:
    part.path.unlink(missing_ok=True)
    part.close()
