"""Bringing a blob here from the members that have it, from wherever the last transfer broke.

One member after the other is asked for what is still missing. A connection that breaks loses
nothing: the next member, or the same one once it is back, is asked for the rest, also after this
device was started again. No member is believed: the size that it says bounds what is written, and
the hash decides at the end.

Wrong bytes of a member that sent the whole blob are its own doing, and it is not asked for this
blob again for a while. Where several had a hand in it, or this device's disk, nobody can say whose
they were: then all are thrown away, and one member at a time is asked for the whole, whose bytes
nobody else's are mixed with. It is the same where a member's blob ends before what is here, once
nobody else could go on.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import trio

from kowalski_protocol.errors import Problem
from kowalski_protocol.limits import LIMITS

from .blob_parts import Part
from .blobs import Blobs
from .network import BlobTooShort, NetworkError, PeerLied

_log = logging.getLogger("kowalski.blobs")

RESUME_WAIT_S: Final = 10.0
"""How long a transfer that broke waits for somebody to go on with it: a node that was killed is
back in less, and who asked is still waiting. What came is kept beyond that."""
LOOK_S: Final = 0.25
"""Between two looks at who is connected meanwhile: the first wait before a member is dialled."""
AVOID_S: Final = 600.0
"""How long a member that sent wrong bytes is not asked for that blob: long against a retry, short
against the repair of a disk."""
TURNS_MAX: Final = 16
"""How often a member may break off that alone is listened to: a bad link, and not a game."""
AVOIDED_MAX: Final = 1024
"""Such pairs of member and blob; past it the oldest is forgotten."""


class BlobFetches:
    """Fetches blobs into this device's store."""

    def __init__(self, blobs: Blobs, network: Callable[[], Any]) -> None:
        self._blobs = blobs
        self._network = network
        self._avoided: OrderedDict[tuple[bytes, str], float] = OrderedDict()

    async def fetch(self, blob_hash: str, first: bytes | None, *, pinned: bool) -> bool:
        """Whether the blob is here now; asks `first` before the other connected members.

        Raises Problem disk_full where only this device's disk stands in the way.
        """
        async with self._blobs.growing(blob_hash) as part:
            fetch = _Fetch(self, blob_hash, first, part)
            if await fetch.done():
                await self._blobs.keep(part, pinned=pinned)
                return True
        if fetch.no_room is not None:
            raise fetch.no_room
        return False

    def members(self, blob_hash: str, first: bytes | None) -> list[bytes]:
        """Whom to ask now, `first` first."""
        now_s = trio.current_time()
        connected: list[bytes] = list(self._network().connected())
        connected.sort(key=lambda peer: peer != first)
        return [peer for peer in connected if self._avoided.get((peer, blob_hash), 0) <= now_s]

    def avoid(self, peer: bytes, blob_hash: str) -> None:
        """The member is not asked for this blob for a while."""
        self._avoided.pop((peer, blob_hash), None)
        self._avoided[peer, blob_hash] = trio.current_time() + AVOID_S
        if len(self._avoided) > AVOIDED_MAX:
            self._avoided.popitem(last=False)

    def open(self, peer: bytes, blob_hash: str, offset: int) -> Any:
        """The blob from `offset` on, as the network gives it."""
        return self._network().fetch_blob(peer, bytes.fromhex(blob_hash), offset)

    async def check_room(self, size_bytes: int) -> None:
        """Raises Problem disk_full where so much could never be written."""
        await self._blobs.check_room(size_bytes)


class _Fetch:
    """One blob's way here: at first from anybody, and after a mishap from one member at a time.

    It ends, since each throwing away of what is here is the last chance of one member at least.
    """

    def __init__(
        self, fetches: BlobFetches, blob_hash: str, first: bytes | None, part: Part
    ) -> None:
        self._fetches = fetches
        self._hash = blob_hash
        self._first = first
        self._part = part
        self._too_short: set[bytes] = set()
        self._given_up: set[bytes] = set()
        self._advanced_s: float | None = None
        self._restarted = False
        self._alone = False
        """All that is here comes from `source`, and nobody else adds to it."""
        self._source: bytes | None = None
        self._turns = 0
        self.no_room: Problem | None = None

    async def done(self) -> bool:
        """Whether the part is whole and right."""
        if self._part.name == self._hash:
            return True  # whole when this device stopped, and not yet named
        while True:
            self._restarted = False
            for peer in self._members():
                if self._may_add(peer) and await self._ask(peer):
                    return True
            if self._restarted:
                continue
            advanced_s = self._advanced_s
            if advanced_s is not None and trio.current_time() - advanced_s < RESUME_WAIT_S:
                await trio.sleep(LOOK_S)
            elif self._alone and self._source and set(self._members()) - {self._source}:
                await self._give_up(self._source)
            elif self._too_short and not self._alone:
                self._alone = True
                await self._restart()
            else:
                await self._part.sync()
                return False

    def _members(self) -> list[bytes]:
        listed = self._fetches.members(self._hash, self._first)
        return [peer for peer in listed if peer not in self._given_up]

    def _may_add(self, peer: bytes) -> bool:
        return not self._alone or self._source in (None, peer)

    async def _ask(self, peer: bytes) -> bool:
        """Asks one member for what is missing; whether the blob is here."""
        begun = self._part.size_bytes
        its_own = self._alone or not begun
        try:
            complete = await self._take(peer)
        except PeerLied as error:
            await self._convict(peer, str(error), restart=its_own)
            return False
        if self._alone and self._part.size_bytes:
            self._source = peer
            self._turns += 1
        if complete and self._part.name == self._hash:
            return True
        if complete and its_own:
            await self._convict(peer, "it sent other bytes", restart=True)
        elif complete:
            self._alone = True
            await self._restart()
        elif self._turns >= TURNS_MAX:
            await self._give_up(peer)
        return False

    async def _convict(self, peer: bytes, why: str, *, restart: bool) -> None:
        _log.warning("a member is not asked for a blob again: %s", why)
        self._fetches.avoid(peer, self._hash)
        self._given_up.add(peer)
        if restart:
            await self._restart()

    async def _give_up(self, peer: bytes) -> None:
        self._given_up.add(peer)
        await self._restart()

    async def _restart(self) -> None:
        self._source, self._turns, self._restarted = None, 0, True
        self._advanced_s = None  # what was no progress is not waited for to go on
        await self._part.restart()

    async def _take(self, peer: bytes) -> bool:
        """Adds what the member sends; whether it sent all that it said. Raises PeerLied."""
        part = self._part
        begun = part.size_bytes
        size_bytes = -1
        try:
            async with self._fetches.open(peer, self._hash, begun) as blob:
                size_bytes = int(blob.size_bytes)
                if not 0 <= size_bytes <= LIMITS.blob_size_bytes_max:
                    raise PeerLied(f"a blob of {size_bytes} bytes")
                if size_bytes <= begun and begun:
                    raise BlobTooShort("all of it is here, and is not the blob")
                if not await self._has_room(size_bytes - begun):
                    return False
                part.expected_bytes = size_bytes
                async for piece in blob:
                    if part.size_bytes + len(piece) > size_bytes:
                        raise PeerLied("more bytes than it said")
                    await part.add(piece)
        except PeerLied:
            raise
        except BlobTooShort:
            self._too_short.add(peer)
            return False
        except NetworkError as error:
            _log.debug("a blob did not come whole: %s", error)
        finally:
            await part.flush()
            if part.size_bytes > begun:
                self._advanced_s = trio.current_time()
        return part.size_bytes == size_bytes

    async def _has_room(self, size_bytes: int) -> bool:
        try:
            await self._fetches.check_room(size_bytes)
        except Problem as problem:
            self.no_room = problem  # it may be a lie, and another member may say less
            return False
        return True
