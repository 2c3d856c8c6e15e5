"""Members as the fetching of blobs sees them, scripted: right, wrong, lying and breaking off."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from kowalski_node.network import BlobTooShort, NetworkError

PIECE = 1000


def named(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Member:
    """What one member sends of any blob: of the `blobs` that it has, or of `sends` whatever was
    asked for."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    sends: bytes | None = None
    says: int | None = None
    """The size that it says, where that is not the true one."""
    breaks_after: int | None = None
    """How many bytes one transfer brings."""
    away: bool = False
    left_after: int | None = None
    """How many transfers it takes until it is away."""


@dataclass
class Sent:
    """A blob being fetched."""

    size_bytes: int
    data: bytes
    breaks: bool

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), PIECE):
            await trio.lowlevel.checkpoint()
            yield self.data[start : start + PIECE]
        if self.breaks:
            raise NetworkError("connection lost")


class Members:
    """Stands for the network; keeps who was asked for what offset."""

    def __init__(self, **members: Member) -> None:
        self.members = members
        self.asked: list[tuple[str, int]] = []

    def connected(self) -> list[bytes]:
        return [name.encode() for name, member in self.members.items() if not member.away]

    @asynccontextmanager
    async def fetch_blob(self, peer: bytes, blob_hash: bytes, offset: int) -> AsyncIterator[Sent]:
        await trio.lowlevel.checkpoint()
        self.asked.append((peer.decode(), offset))
        member = self.members[peer.decode()]
        if member.left_after is not None:
            member.left_after -= 1
            member.away = member.left_after <= 0
        data = member.blobs.get(blob_hash.hex()) if member.sends is None else member.sends
        if data is None:
            raise NetworkError("the peer doesn't have the blob")
        size = len(data) if member.says is None else member.says
        if 0 <= size < offset:
            raise BlobTooShort("ends before")
        end = len(data) if member.breaks_after is None else offset + member.breaks_after
        yield Sent(size, data[offset:end], end < len(data) or size > len(data))
