"""Blobs: bytes named by their SHA-256, one file each in the home folder.

A blob is written beside its place, hashed on the way, and moved there only when it is whole and
durable, so what has a name is right. What comes from another device is checked against the name it
was asked by.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from kowalski_protocol.errors import Problem

CHUNK_SIZE_BYTES = 64 * 1024


def is_blob_hash(text: str) -> bool:
    """Whether a text is the hex form of a SHA-256."""
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)


class Blobs:
    """The blobs of one device."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in folder.glob("*.part"):
                left.unlink(missing_ok=True)
        except OSError as error:
            raise Problem(
                "home_unusable", f"The folder of blobs {folder} can't be used: {error.strerror}."
            ) from None

    def path(self, blob_hash: str) -> Path | None:
        """Where a blob stands; None where it isn't here."""
        if not is_blob_hash(blob_hash):
            raise Problem(
                "bad_request", "A blob is named by the 64 hexadecimal digits of its SHA-256."
            )
        path = self._folder / blob_hash
        return path if path.is_file() else None

    async def store(
        self, chunks: AsyncIterator[bytes], *, expected: str | None = None
    ) -> tuple[str, int]:
        """Keeps the bytes durably; returns their hex SHA-256 and size. `expected` refuses any
        others.
        """
        part = self._folder / f"{secrets.token_hex(8)}.part"
        digest = hashlib.sha256()
        size = 0
        try:
            async with await trio.open_file(part, "wb") as file:
                async for chunk in chunks:
                    digest.update(chunk)
                    size += len(chunk)
                    await file.write(chunk)
                await file.flush()
                await trio.to_thread.run_sync(os.fsync, file.fileno())
            name = digest.hexdigest()
            if expected is not None and name != expected:
                raise Problem("not_found", "A member sent other bytes than the blob's name says.")
            await trio.to_thread.run_sync(self._keep, part, self._folder / name)
        except OSError as error:
            raise Problem("disk_full", f"The blob can't be written: {error.strerror}.") from None
        finally:
            part.unlink(missing_ok=True)
        return name, size

    def _keep(self, part: Path, place: Path) -> None:
        part.chmod(0o400)
        part.replace(place)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    async def store_bytes(self, data: bytes) -> str:
        """Keeps bytes that are in memory."""

        async def once() -> AsyncIterator[bytes]:
            yield data

        return (await self.store(once()))[0]

    async def read(
        self, blob_hash: str, offset: int = 0
    ) -> tuple[int, AsyncIterator[bytes]] | None:
        """A blob's size and its bytes from `offset` on; None where it isn't here."""
        path = self.path(blob_hash)
        if path is None:
            return None
        return path.stat().st_size, _read_file(path, offset)


async def _read_file(path: Path, offset: int) -> AsyncIterator[bytes]:
    async with await trio.open_file(path, "rb") as file:
        await file.seek(offset)
        while chunk := await file.read(CHUNK_SIZE_BYTES):
            yield chunk


async def read_file(path: Path) -> AsyncIterator[bytes]:
    """A file's bytes in chunks."""
    async for chunk in _read_file(path, 0):
        yield chunk
