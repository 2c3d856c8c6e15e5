"""What a node asks of whatever keeps its events: the SQLite store, or the simulator's disk in
memory.

One conformance suite (tests/ports/test_store_conformance.py) runs on both, so that what the
simulator proves of a node holds for the node on a real disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from kowalski_protocol.feeds import Event, Feed, Head
from kowalski_protocol.ids import Author, ClusterId, EventHash


class Sample(msgspec.Struct, frozen=True):
    """One telemetry sample of a device, as kept for a while."""

    author: Author
    taken_ms: int
    """Unix milliseconds, by the clock of the device that keeps it."""
    values: Mapping[str, Any]


class EventStore(Protocol):
    """An append-only set of feeds on something durable. Errors are `Problem`s.

    Cancelling a call that has begun to write waits until what it writes is durable or refused.
    """

    @property
    def cluster(self) -> ClusterId | None:
        """The cluster whose events these are; None before `found`."""
        ...

    @property
    def position(self) -> int:
        """The position of the newest event; 0 where there is none."""
        ...

    async def found(self, cluster: ClusterId, events: Sequence[Event] = ()) -> int:
        """Makes this the store of a cluster, with its first events, in one transaction; done
        once.
        """
        ...

    async def append(self, events: Sequence[Event]) -> int:
        """Makes the events durable, all or none; returns the position of the last.

        They follow what is stored: each feed goes on where it ended, and its last event here is
        signed. Events of several feeds and frames may be mixed. After `Problem` disk_full nothing
        is stored, reading goes on, and a later append may succeed; after disk_failed none will.
        """
        ...

    def load(self, chunk: int = ...) -> AsyncIterator[list[Event]]:
        """All events in order of arrival without attachments, at most `chunk` at a time, chains
        verified.
        """
        ...

    async def heads(self) -> dict[Feed, Head]:
        """How far each feed reaches."""
        ...

    async def read_range(
        self, feed: Feed, after_seq: int, size_bytes_max: int, events_max: int
    ) -> list[Event]:
        """The events after `after_seq` that can be served as one frame: they end at a signed
        event.

        As many as fit both bounds; at least one author's frame where that is within the
        protocol's limits, even if it is beyond the bounds. Empty where there is nothing after
        `after_seq`.
        """
        ...

    async def hash_at(self, feed: Feed, seq: int) -> EventHash | None:
        """The hash of one event; None where it is not here."""
        ...

    async def event(self, feed: Feed, seq: int) -> Event | None:
        """One event with its attachment; None where it is not here."""
        ...

    async def attachment(self, feed: Feed, seq: int) -> bytes | None:
        """The bytes beside one event; None where there are none, or no longer."""
        ...

    async def events_after(self, position: int, limit: int) -> list[tuple[int, Event]]:
        """The next events in order of arrival, with their positions and without attachments."""
        ...

    async def drop_attachments(
        self, *, before_hlc: int | None = None, events: Sequence[tuple[Feed, int]] = ()
    ) -> int:
        """Forgets the bytes beside these events, or beside all before a time; returns how many.

        Bodies, hashes and chains stay.
        """
        ...

    async def add_telemetry(self, samples: Sequence[Sample]) -> int:
        """Keeps samples for a while; returns how many could be kept. Never part of the state."""
        ...

    async def telemetry(
        self, *, author: Author | None = None, since_ms: int = 0, limit: int = ...
    ) -> list[Sample]:
        """The newest samples, newest first."""
        ...

    async def get_meta(self, key: str) -> bytes | None:
        """A value that the device keeps beside its events."""
        ...

    async def set_meta(self, key: str, value: bytes) -> None:
        """Keeps a small value durably."""
        ...
