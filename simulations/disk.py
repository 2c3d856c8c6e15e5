"""A store whose disk is a list.

It keeps the promises of `kowalski_ledger.port.EventStore`, and passes the same conformance suite as
the SQLite store. What was made durable lives in a `MemoryDisk`, which outlives the store as a file
outlives a process. No method ever waits, so the simulator, which has no event loop, runs them with
`done`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from kowalski_ledger.port import Sample
from kowalski_ledger.rows import EVENT_OVERHEAD_BYTES, HEADER_SIZE_BYTES_MAX
from kowalski_protocol.errors import Problem
from kowalski_protocol.feeds import Event, Feed, Head, encode_frame, event_hash, genesis
from kowalski_protocol.ids import Author, ClusterId, EventHash
from kowalski_protocol.limits import LIMITS, Limits

T = TypeVar("T")


def done(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


class MemoryDisk:
    """What survives a crash."""

    def __init__(self) -> None:
        self.cluster: ClusterId | None = None
        self.events: list[Event] = []
        self.meta: dict[str, bytes] = {}
        self.samples: list[Sample] = []
        self.is_full = False
        self.is_failing = False
        self.is_synchronous = True
        """Whether a commit is on the disk when it returns; else it is once `sync` is called."""
        self.synced = 0
        """How many of the events a power cut leaves."""
        self.commits: list[int] = []
        """Where each commit ended."""

    def sync(self) -> None:
        """What was written is on the disk."""
        self.synced = len(self.events)

    def cut_power(self) -> int:
        """Loses what was not on the disk yet; returns how many events that were."""
        lost = len(self.events) - self.synced
        self._keep_first(self.synced)
        return lost

    def set_back(self, share: float) -> bool:
        """Becomes what it was when it held this share of its events; False where it is that."""
        count = max((end for end in self.commits if end <= share * len(self.events)), default=0)
        if not 0 < count < len(self.events):
            return False
        self._keep_first(count)
        self.sync()
        return True

    def _keep_first(self, count: int) -> None:
        del self.events[count:]
        while self.commits and self.commits[-1] > count:
            self.commits.pop()


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
        self._feeds: dict[tuple[Author, str], list[Event]] = {}
        self._heads: dict[Feed, Head] = {}
        self._keep(self.disk.events)

    def _keep(self, events: Sequence[Event]) -> None:
        touched: dict[tuple[Author, str], Event] = {}
        feeds = self._feeds
        for event in events:
            place = (event.author, event.topic)
            touched[place] = event
            run = feeds.get(place)
            if run is None:
                run = feeds[place] = []
            run.append(event)
        for place, event in touched.items():
            self._heads[Feed(*place)] = Head(event.seq, event.hash)

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
        last: dict[tuple[Author, str], Event] = {}
        for event in events:
            place = (event.author, event.topic)
            before = last.get(place)
            if before is None and (run := self._feeds.get(place)):
                before = run[-1]
            assert event.seq == (before.seq if before else 0) + 1, f"{event!r} does not follow"
            last[place] = event
        for event in last.values():
            assert event.signature is not None, f"{event!r} ends no frame"
        self._check_disk()
        self.disk.events.extend(events)
        self._keep(events)
        if events:
            self.disk.commits.append(len(self.disk.events))
        if self.disk.is_synchronous:
            self.disk.sync()

    async def load(self, chunk: int = 5000) -> AsyncIterator[list[Event]]:
        end = self.position
        self._verify()
        for begin in range(0, end, chunk):
            run = self.disk.events[begin : min(end, begin + chunk)]
            yield [_copy(event, with_attachment=False) for event in run]

    def _verify(self) -> None:
        for (author, topic), run in self._feeds.items():
            assert self.disk.cluster is not None
            hash = genesis(self.disk.cluster, author, topic)
            for seq, event in enumerate(run, 1):
                hash = event_hash(hash, seq, event.hlc, event.kind, event.body)
                if hash != event.hash:
                    raise Problem("ledger_corrupt", f"{event!r} is not what was written.")

    @property
    def heads_now(self) -> dict[Feed, Head]:
        """How far each feed reaches; not a copy."""
        return self._heads

    async def heads(self) -> dict[Feed, Head]:
        return dict(self._heads)

    async def read_range(
        self, feed: Feed, after_seq: int, size_bytes_max: int, events_max: int
    ) -> list[Event]:
        if after_seq < 0:
            return []
        limits = self._limits
        room = min(size_bytes_max, limits.frame_size_bytes_max) - HEADER_SIZE_BYTES_MAX
        events_max = min(events_max, limits.frame_events_max)
        rest = self._feeds.get((feed.author, feed.topic), [])[
            after_seq : after_seq + limits.frame_events_max + 1
        ]
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
        run = self._feeds.get((feed.author, feed.topic), [])
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
