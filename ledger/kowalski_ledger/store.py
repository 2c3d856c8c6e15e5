"""The ledger of a running node: events on disk before anybody else hears of them.

One connection writes, another reads beside it; both are threads of aiosqlite (see `connection`).
A group of events is one transaction, committed with `synchronous=FULL`. What follows from there
being one writer is kept in memory: the head of every feed and the newest position. They change
after the commit alone, so whoever reads them sees only what is durable.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from kowalski_protocol.feeds import Event, Feed, Head, encode_frame
from kowalski_protocol.ids import Author, ClusterId, EventHash
from kowalski_protocol.limits import LIMITS, Limits

from .chain import Broken, ChainReader
from .connection import Connection, asyncio_loop, open_connection, plain_errors
from .file import CHUNK_ROWS_FIRST, CHUNK_ROWS_MAX, CLUSTER_KEY, next_chunk, prepare
from .group import Group, Statement
from .port import Sample
from .rows import (
    HEADER_SIZE_BYTES_MAX,
    HLC_MASK,
    SELECT_ATTACHMENT,
    SELECT_CHUNK,
    SELECT_EVENT,
    SELECT_FRAME,
    SELECT_HASH,
    SELECT_HEADS,
    SELECT_NEW,
    SELECT_RANGE,
    EventRow,
    checked_rows,
    unpack_new,
    unpack_range,
)
from .samples import SampleTable
from .schema import corrupt
from .writer import Writer

_SET_META: Final = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_DROP_ROWS: Final = 500
"""Attachments dropped in one transaction, so that commits wait a few milliseconds at most."""


class Store:
    """An open ledger; made by `open_store`. See `port.EventStore` for what each method promises."""

    def __init__(self, path: Path, writer: Connection, reader: Connection, limits: Limits) -> None:
        self.path = path
        self._writer = Writer(writer)
        self._reader = reader
        self._limits = limits
        self._samples = SampleTable(self._writer, reader)
        self._cluster: ClusterId | None = None
        self._position = 0
        self._heads: dict[Feed, Head] = {}
        self._feed_ids: dict[Feed, int] = {}
        self._feeds: dict[int, Feed] = {}

    @property
    def cluster(self) -> ClusterId | None:
        """The cluster whose events these are."""
        return self._cluster

    @property
    def position(self) -> int:
        """The position of the newest event."""
        return self._position

    # Writing.

    async def found(self, cluster: ClusterId, events: Sequence[Event] = ()) -> int:
        """Makes this the ledger of a cluster, with its first events, in one transaction."""
        async with self._writer.lock:
            assert self._cluster in (None, cluster), "a ledger belongs to one cluster"
            await self._write(events, [(_SET_META, [CLUSTER_KEY, cluster])])
            self._cluster = cluster
            return self._position

    async def append(self, events: Sequence[Event]) -> int:
        """Makes the events durable in one transaction; returns the position of the last."""
        async with self._writer.lock:
            await self._write(events, [])
            return self._position

    async def _write(self, events: Sequence[Event], more: list[Statement]) -> None:
        group = Group(events, self._heads, self._feed_ids, self._position)
        await self._writer.commit(more + group.statements, group.size_bytes)
        self._position = group.position
        self._heads.update(group.heads)
        for feed, id in group.feed_ids.items():
            self._feed_ids[feed] = id
            self._feeds[id] = feed

    async def drop_attachments(
        self, *, before_hlc: int | None = None, events: Sequence[tuple[Feed, int]] = ()
    ) -> int:
        """Forgets the bytes beside these events, or beside all before a time; returns how many."""
        dropped = 0
        for feed, seq in events:
            rows = await self._row(feed, seq, "SELECT position FROM events WHERE feed=? AND seq=?")
            dropped += await self._drop([row[0] for row in rows])
        position = 0
        while before_hlc is not None:
            rows = await self._reader.run(
                "SELECT position FROM events WHERE position > ? AND position <= ?"
                " AND attachment IS NOT NULL AND hlc >= 0 AND hlc < ? ORDER BY position LIMIT ?",
                (position, self._position, min(before_hlc, (1 << 63) - 1), _DROP_ROWS),
            )
            if not rows:
                break
            dropped += await self._drop([row[0] for row in rows])
            position = rows[-1][0]
        return dropped

    async def _drop(self, positions: list[int]) -> int:
        statement = (
            "UPDATE events SET attachment = NULL WHERE attachment IS NOT NULL"
            " AND position IN (SELECT value FROM json_each(?)) RETURNING position"
        )
        async with self._writer.lock:
            values = [msgspec.json.encode(positions).decode()]
            return len(await self._writer.commit([(statement, values)], 4096 * len(positions)))

    async def set_meta(self, key: str, value: bytes) -> None:
        """Keeps a small value durably."""
        assert key != CLUSTER_KEY, "the cluster is set by `found`"
        async with self._writer.lock:
            await self._writer.commit([(_SET_META, [key, value])], len(value))

    async def get_meta(self, key: str) -> bytes | None:
        """A value that the device keeps beside its events."""
        rows = await self._reader.run("SELECT value FROM meta WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    async def add_telemetry(self, samples: Sequence[Sample]) -> int:
        """Keeps samples for a while; returns how many could be kept."""
        return await self._samples.add(samples)

    async def telemetry(
        self, *, author: Author | None = None, since_ms: int = 0, limit: int = 1000
    ) -> list[Sample]:
        """The newest samples, newest first."""
        return await self._samples.newest(author, since_ms, limit)

    # Reading.

    async def load(self, chunk: int = CHUNK_ROWS_MAX) -> AsyncIterator[list[Event]]:
        """All events in order of arrival without attachments, chains verified."""
        if self._cluster is None:
            return
        chain = ChainReader(self._cluster, self._feeds)
        end, position, rows_max = self._position, 0, min(chunk, CHUNK_ROWS_FIRST)
        while position < end:
            rows = await self._reader.run(SELECT_CHUNK, (position, end, rows_max))
            try:
                if not rows:
                    raise Broken(None, 0, f"no row follows position {position}")
                events = chain.read(checked_rows(rows))
            except (Broken, msgspec.ValidationError) as error:
                raise corrupt(self.path, str(error)) from error
            yield events
            position = chain.position
            rows_max = next_chunk(rows, chunk)

    async def heads(self) -> dict[Feed, Head]:
        """How far each feed reaches, durably."""
        return dict(self._heads)

    async def read_range(
        self, feed: Feed, after_seq: int, size_bytes_max: int, events_max: int
    ) -> list[Event]:
        """The longest run after `after_seq` that can be served as one frame within the bounds."""
        id = self._feed_ids.get(feed)
        if id is None or not 0 <= after_seq < self._heads[feed].seq:
            return []
        size_bytes_limit = self._limits.frame_size_bytes_max
        events_limit = self._limits.frame_events_max
        bounds = {
            "feed": id,
            "after": after_seq,
            "size_bytes_max": min(size_bytes_max, size_bytes_limit) - HEADER_SIZE_BYTES_MAX,
            "events_max": min(events_max, events_limit),
        }
        events = unpack_range(feed, (await self._reader.run(SELECT_RANGE, bounds))[0][0])
        if events:
            return events
        # Not one frame fits. The author's own is served whole all the same.
        bounds = {"feed": id, "after": after_seq, "events_max": events_limit}
        events = unpack_range(feed, (await self._reader.run(SELECT_FRAME, bounds))[0][0])
        if not events or events[-1].signature is None or self._cluster is None:
            return []
        return events if len(encode_frame(self._cluster, events)) <= size_bytes_limit else []

    async def hash_at(self, feed: Feed, seq: int) -> EventHash | None:
        """The hash of one event."""
        head = self._heads.get(feed)
        if head is not None and head.seq == seq:
            return head.hash
        rows = await self._row(feed, seq, SELECT_HASH)
        return EventHash(rows[0][0]) if rows else None

    async def event(self, feed: Feed, seq: int) -> Event | None:
        """One event with its attachment."""
        rows = await self._row(feed, seq, SELECT_EVENT)
        if not rows:
            return None
        hlc, kind, hash, signature, body, attachment = rows[0]
        author, topic, hlc = feed.author, feed.topic, hlc & HLC_MASK
        return Event(author, topic, seq, hlc, kind, body, EventHash(hash), attachment, signature)

    async def attachment(self, feed: Feed, seq: int) -> bytes | None:
        """The bytes beside one event."""
        rows = await self._row(feed, seq, SELECT_ATTACHMENT)
        return rows[0][0] if rows else None

    async def _row(self, feed: Feed, seq: int, statement: str) -> list[Any]:
        id = self._feed_ids.get(feed)
        if id is None or not 1 <= seq <= self._heads[feed].seq:
            return []
        return await self._reader.run(statement, (id, seq))

    async def events_after(self, position: int, limit: int) -> list[tuple[int, Event]]:
        """The next events in order of arrival, with their positions and without attachments."""
        if position >= self._position or limit < 1:
            return []
        values = (position, self._position, min(limit, CHUNK_ROWS_MAX))
        packed = (await self._reader.run(SELECT_NEW, values))[0][0]
        return [(row[0], self._event(row)) for row in unpack_new(packed)]

    def _event(self, row: EventRow) -> Event:
        _, id, seq, hlc, kind, hash, signature, body = row
        author, topic, hlc = self._feeds[id].author, self._feeds[id].topic, hlc & HLC_MASK
        return Event(author, topic, seq, hlc, kind, body, EventHash(hash), None, signature)

    # Opening.

    async def take_stock(self) -> None:
        """Reads what is kept in memory; done once, by `open_store`."""
        cluster = await self.get_meta(CLUSTER_KEY)
        if cluster is not None:
            self._cluster = ClusterId(cluster)
        rows = await self._reader.run("SELECT ifnull(max(position), 0) FROM events")
        self._position = rows[0][0]
        if self._position > 0 and self._cluster is None:
            raise corrupt(self.path, "it holds events and names no cluster")
        for id, author, topic, seq, hash, is_signed in await self._reader.run(SELECT_HEADS):
            feed = Feed(Author(author), topic)
            self._feed_ids[feed] = id
            self._feeds[id] = feed
            if seq is None or not is_signed:
                raise corrupt(
                    self.path, f"the end of the feed {author.hex()[:16]}/{topic} is missing"
                )
            self._heads[feed] = Head(seq, EventHash(hash))

    async def keep_log_short(self) -> None:
        """Makes checkpoints when they are due; run by `open_store`."""
        await self._writer.keep_log_short()


@asynccontextmanager
async def open_store(path: Path, *, limits: Limits = LIMITS) -> AsyncGenerator[Store]:
    """The ledger at `path`, made where there is none; raises `Problem` where it can't be used.

    Owns an asyncio loop (unless the caller has one open), two connections with a thread each, and
    a task that makes the checkpoints; all have ended when the block is left, and the log is then
    part of the file.
    """
    await trio.to_thread.run_sync(prepare, path)
    with plain_errors():
        async with (
            asyncio_loop() as loop,
            open_connection(path, loop, read_only=False) as writer,
            open_connection(path, loop, read_only=True) as reader,
            trio.open_nursery() as nursery,
        ):
            store = Store(path, writer, reader, limits)
            await store.take_stock()
            nursery.start_soon(store.keep_log_short)
            try:
                yield store
            finally:
                nursery.cancel_scope.cancel()
