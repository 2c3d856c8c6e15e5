"""A store whose disk is a list: what the conformance suite compares with and the simulator runs on.

It keeps the promises of `kowalski_ledger.port.EventStore` and nothing of SQLite. What was made
durable lives in a `MemoryDisk`, which outlives the store as a file outlives a process. No method
ever waits, so a simulator without an event loop can step them by hand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from kowalski_ledger.group import Group
from kowalski_ledger.port import Sample
from kowalski_ledger.rows import EVENT_OVERHEAD_BYTES, HEADER_SIZE_BYTES_MAX
from kowalski_protocol.errors import Problem
from kowalski_protocol.feeds import Event, Feed, Head, encode_frame
from kowalski_protocol.ids import Author, ClusterId, EventHash
from kowalski_protocol.limits import LIMITS, Limits


class MemoryDisk:
    """What survives a crash."""

    def __init__(self) -> None:
        self.cluster: ClusterId | None = None
        self.events: list[Event] = []
        self.meta: dict[str, bytes] = {}
        self.samples: list[Sample] = []
        self.is_full = False
        self.is_failing = False


def _copy(event: Event, *, with_attachment: bool) -> Event:
    return Event(
        event.author,
        event.topic,
        event.seq,
        event.hlc,
        event.kind,
        event.body,
        event.hash,
        event.attachment if with_attachment else None,
        event.signature,
    )


class MemoryStore:
    """The double of `kowalski_ledger.store.Store`."""

    def __init__(self, disk: MemoryDisk | None = None, limits: Limits = LIMITS) -> None:
        self.disk = disk if disk is not None else MemoryDisk()
        self._limits = limits
        self._has_failed = False
        self._feeds: dict[Feed, list[Event]] = {}
        for event in self.disk.events:
            self._feeds.setdefault(Feed(event.author, event.topic), []).append(event)

    def _check_disk(self) -> None:
        self._has_failed = self._has_failed or self.disk.is_failing
        if self._has_failed:
            raise Problem("disk_failed", "The disk reported an error: nothing new is written.")
        if self.disk.is_full:
            raise Problem("disk_full", "The disk is full: nothing new is written.")

    @property
    def cluster(self) -> ClusterId | None:
        return self.disk.cluster

    @property
    def position(self) -> int:
        return len(self.disk.events)

    async def found(self, cluster: ClusterId, events: Sequence[Event] = ()) -> int:
        assert self.disk.cluster in (None, cluster), "a ledger belongs to one cluster"
        self._write(events)
        self.disk.cluster = cluster
        return self.position

    async def append(self, events: Sequence[Event]) -> int:
        self._write(events)
        return self.position

    def _write(self, events: Sequence[Event]) -> None:
        heads = {feed: Head(run[-1].seq, run[-1].hash) for feed, run in self._feeds.items()}
        ids = {feed: number for number, feed in enumerate(self._feeds, 1)}
        Group(events, heads, ids, self.position)  # for its assertions
        self._check_disk()
        for event in events:
            kept = _copy(event, with_attachment=True)
            self.disk.events.append(kept)
            self._feeds.setdefault(Feed(event.author, event.topic), []).append(kept)

    async def load(self, chunk: int = 5000) -> AsyncIterator[list[Event]]:
        end = self.position
        for begin in range(0, end, chunk):
            run = self.disk.events[begin : min(end, begin + chunk)]
            yield [_copy(event, with_attachment=False) for event in run]

    async def heads(self) -> dict[Feed, Head]:
        return {feed: Head(run[-1].seq, run[-1].hash) for feed, run in self._feeds.items()}

    async def read_range(
        self, feed: Feed, after_seq: int, size_bytes_max: int, events_max: int
    ) -> list[Event]:
        if after_seq < 0:
            return []
        limits = self._limits
        room = min(size_bytes_max, limits.frame_size_bytes_max) - HEADER_SIZE_BYTES_MAX
        events_max = min(events_max, limits.frame_events_max)
        rest = self._feeds.get(feed, [])[after_seq:]
        end = 0
        for count, event in enumerate(rest[:events_max], 1):
            room -= len(event.kind) + len(event.body) + len(event.attachment or b"")
            room -= EVENT_OVERHEAD_BYTES
            if room < 0:
                break
            if event.signature is not None:
                end = count
        if end == 0:
            signed = (n for n, event in enumerate(rest, 1) if event.signature is not None)
            end = next(signed, 0)
            if end == 0 or end > limits.frame_events_max or self.cluster is None:
                return []
            if len(encode_frame(self.cluster, rest[:end])) > limits.frame_size_bytes_max:
                return []
        return [_copy(event, with_attachment=True) for event in rest[:end]]

    def _at(self, feed: Feed, seq: int) -> Event | None:
        run = self._feeds.get(feed, [])
        return run[seq - 1] if 1 <= seq <= len(run) else None

    async def hash_at(self, feed: Feed, seq: int) -> EventHash | None:
        event = self._at(feed, seq)
        return event.hash if event is not None else None

    async def event(self, feed: Feed, seq: int) -> Event | None:
        event = self._at(feed, seq)
        return _copy(event, with_attachment=True) if event is not None else None

    async def attachment(self, feed: Feed, seq: int) -> bytes | None:
        event = self._at(feed, seq)
        return event.attachment if event is not None else None

    async def events_after(self, position: int, limit: int) -> list[tuple[int, Event]]:
        begin = max(0, position)
        run = self.disk.events[begin : begin + max(0, limit)]
        return [
            (at, _copy(event, with_attachment=False)) for at, event in enumerate(run, begin + 1)
        ]

    async def drop_attachments(
        self, *, before_hlc: int | None = None, events: Sequence[tuple[Feed, int]] = ()
    ) -> int:
        named = [self._at(feed, seq) for feed, seq in events]
        if before_hlc is not None:
            named += [event for event in self.disk.events if event.hlc < before_hlc]
        dropped = 0
        for event in named:
            if event is not None and event.attachment is not None:
                event.attachment = None
                dropped += 1
        return dropped

    async def add_telemetry(self, samples: Sequence[Sample]) -> int:
        self._check_disk()
        self.disk.samples.extend(samples)
        return len(samples)

    async def telemetry(
        self, *, author: Author | None = None, since_ms: int = 0, limit: int = 1000
    ) -> list[Sample]:
        wanted = [
            sample
            for sample in reversed(self.disk.samples)
            if sample.taken_ms >= since_ms and author in (None, sample.author)
        ]
        wanted.sort(key=lambda sample: -sample.taken_ms)
        return wanted[:limit]

    async def get_meta(self, key: str) -> bytes | None:
        return self.disk.meta.get(key)

    async def set_meta(self, key: str, value: bytes) -> None:
        self._check_disk()
        self.disk.meta[key] = value
