"""The node's own hand in the ledger: the state, the heads of all feeds, and writing in one's own.

An own event is chained, dated and folded at once, and joins the step's `append`; whatever is
decided from it in the same step joins the same commit. `heads` runs ahead of the disk by what is
not committed yet; `committed` follows it, and only committed heads are ever told to others.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence

from kowalski_ledger.fold import fold
from kowalski_ledger.state import State, Task
from kowalski_protocol.clock import HybridClock
from kowalski_protocol.codec import encode
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import Body
from kowalski_protocol.feeds import Event, Feed, Head, event_hash, genesis
from kowalski_protocol.ids import Author, EventHash
from kowalski_protocol.limits import Limits
from kowalski_protocol.topics import FEED_TOPICS, RESULT, TASK

from .attempts import has_end
from .effects import Outbox
from .inputs import Now


class FeedEnd:
    """The last event of a feed as far as it was folded, and the hashes just before it."""

    __slots__ = ("hash", "hlc", "recent", "seq")

    def __init__(self, seq: int, hash: EventHash, hlc: int, recent_max: int) -> None:
        self.seq = seq
        self.hash = hash
        self.hlc = hlc
        self.recent: deque[EventHash] = deque((hash,), maxlen=recent_max)

    def advance(self, event: Event) -> None:
        """The feed has grown by this event."""
        self.seq = event.seq
        self.hash = event.hash
        self.hlc = event.hlc
        self.recent.append(event.hash)

    def hash_at(self, seq: int) -> EventHash | None:
        """The hash of a recent event, or of the place before the first one."""
        back = self.seq - seq
        return self.recent[-1 - back] if 0 <= back < len(self.recent) else None


class Book:
    """The state and the feeds of one node."""

    def __init__(self, self_: Author, state: State, clock: HybridClock, limits: Limits) -> None:
        self.author = self_
        self.state = state
        self.clock = clock
        self.limits = limits
        self.ends: dict[Feed, FeedEnd] = {}
        self.committed: dict[Feed, Head] = {}
        self._heads_hash: bytes | None = None
        self._in_order: list[tuple[Feed, bytes]] = []
        """The feeds of `committed` and their names as hashed; a feed that is there stays."""
        self.may_write = False
        """False while the node asks the others how far its own feeds reach, and while the disk is
        full.
        """
        self.written: set[str] = set()
        """The topics in which this run has written: of those feeds nobody else can know more. What
        was lost of the other one can still be taken back.
        """
        self._own = {topic: Feed(self_, topic) for topic in FEED_TOPICS}

    def end(self, feed: Feed) -> FeedEnd:
        """How far a feed reaches here, committed or about to be."""
        end = self.ends.get(feed)
        if end is None:
            start = genesis(self.state.cluster, feed.author, feed.topic)
            end = self.ends[feed] = FeedEnd(0, start, 0, self.limits.recent_hashes_max)
        return end

    def own_feed(self, topic: str) -> Feed:
        """The own feed of a topic."""
        return self._own[topic]

    def load(self, events: Sequence[Event]) -> None:
        """Takes in events that the ledger file holds; only at start."""
        ends: dict[tuple[Author, str], FeedEnd] = {}
        for event in events:
            fold(self.state, event)
            place = (event.author, event.topic)
            end = ends.get(place)
            if end is None:
                end = ends[place] = self.end(Feed(*place))
            end.advance(event)
            if event.author == self.author:
                self.clock.last = max(self.clock.last, event.hlc)
        for place, end in ends.items():
            self.committed[Feed(*place)] = Head(end.seq, end.hash)

    def take(self, event: Event, out: Outbox) -> None:
        """Counts in a received event whose place in its feed has been checked."""
        if event.author == self.author:
            # An own event that was lost here: the next one must be later, whatever its time says.
            self.clock.last = max(self.clock.last, event.hlc)
        self.end(Feed(event.author, event.topic)).advance(event)
        fold(self.state, event)
        out.append.append(event)

    def write(self, body: Body, now: Now, out: Outbox, attachment: bytes | None = None) -> Event:
        """Writes a fact into the own feed and folds it; Problem where it is too large."""
        assert self.may_write
        topic = body.topic
        end = self.end(self._own[topic])
        kind = type(body).__name__
        data = encode(body)
        if len(data) > self.limits.body_size_bytes_max:
            # All others would refuse it and all that follows: rather none is written at all.
            sentence = f"A {kind} of {len(data):,} bytes is more than nodes take."
            raise Problem("bad_request", sentence)
        self.written.add(topic)
        hlc = self.clock.tick(now.wall_ms)
        seq = end.seq + 1
        hash = event_hash(end.hash, seq, hlc, kind, data)
        event = Event(self.author, topic, seq, hlc, kind, data, hash, attachment)
        end.advance(event)
        fold(self.state, event)
        out.append.append(event)
        out.has_own = True
        return event

    def commit(self, heads: dict[Feed, Head]) -> None:
        """These heads have become durable."""
        self.committed.update(heads)
        self._heads_hash = None

    def is_committed(self, author: Author, topic: str, seq: int) -> bool:
        """Whether an event is durable here."""
        head = self.committed.get(Feed(author, topic))
        return head is not None and head.seq >= seq

    def is_settled(self, task: Task) -> bool:
        """Whether a task's end is durable here, with the result that it goes by.

        The state runs ahead of the disk by one commit.
        """
        settled = task.settled
        if settled is None or not has_end(task):
            return False
        attempt = task.attempt(settled.attempt)
        return self.is_committed(settled.author, TASK, settled.seq) and (
            attempt is None
            or attempt.end is None
            or self.is_committed(attempt.device, RESULT, attempt.end.seq)
        )

    def own_committed(self, topic: str) -> int:
        """How far the own feed of a topic is durable."""
        head = self.committed.get(self._own[topic])
        return head.seq if head else 0

    def heads_hash(self) -> bytes:
        """One hash of all committed heads: equal on nodes that hold the same events."""
        if self._heads_hash is None:
            digest = hashlib.sha256()
            if len(self._in_order) != len(self.committed):
                self._in_order = [(f, f.author + f.topic.encode()) for f in sorted(self.committed)]
            for feed, name in self._in_order:
                digest.update(name + self.committed[feed].hash)
            self._heads_hash = digest.digest()[:16]
        return self._heads_hash
