"""How events from others come in: checked, put in order, and asked for where they are missing.

A frame is looked at in the order of what costs least: header, known author, whether it is new at
all, then the signature, then the chain. What does not fit yet (a gap, an author whose admission is
not here) is held for a while, bounded, and what is missing is pulled from a member that says it has
it. Gossip and lanes may drop anything; heads that differ are the truth, and pulls repair them.
"""

from __future__ import annotations

from collections.abc import Mapping

from kowalski_ledger.fold import cluster_id
from kowalski_protocol.attachments import named_bytes
from kowalski_protocol.codec import Malformed
from kowalski_protocol.feeds import (
    Event,
    Feed,
    FrameHeader,
    Head,
    Verify,
    check_signature,
    decode_header,
    open_frame,
)
from kowalski_protocol.ids import Author
from kowalski_protocol.limits import Limits, Timers
from kowalski_protocol.topics import FEED_TOPICS, RESULT, TASK

from .book import Book, FeedEnd
from .effects import Acknowledge, Charge, Outbox, Pull, SendHeads
from .inputs import Now
from .peers import Peers


class _Held:
    __slots__ = ("header", "since_s", "size_bytes")

    def __init__(self, header: FrameHeader, size_bytes: int, since_s: float) -> None:
        self.header = header
        self.size_bytes = size_bytes
        self.since_s = since_s


class _Lag:
    """A feed of which somebody has more than this node."""

    __slots__ = ("by_peer", "pull_from", "pull_until_s", "since_s")

    def __init__(self, since_s: float) -> None:
        self.by_peer: dict[Author, int] = {}
        self.since_s = since_s
        self.pull_from: Author | None = None
        self.pull_until_s = 0.0


class Sync:
    """The receiving side of all feeds."""

    def __init__(
        self, book: Book, peers: Peers, timers: Timers, limits: Limits, verifier: Verify
    ) -> None:
        self._book = book
        self._peers = peers
        self._timers = timers
        self._limits = limits
        self._verify = verifier
        self._held: dict[Feed, dict[int, _Held]] = {}
        self.held_size_bytes = 0
        """What waits for gaps to be filled."""
        self._ends: dict[Author, tuple[FeedEnd, FeedEnd]] = {}
        """The two feeds of each member that was heard."""
        self._lags: dict[Feed, _Lag] = {}
        self._later: dict[Feed, _Lag] = {}
        """The same of authors that are no members, as far as is known; looked at when one is
        admitted, and never on the way: anybody can make up a key.
        """
        self.founder_hint: Author | None = None
        """Whose feed may come before any member is known: set while a newcomer has nothing yet."""
        self._next_compare_s = 0.0
        self._compare_turn = 0

    # Frames.

    def receive(self, data: bytes, peer: Author | None, now: Now, out: Outbox) -> None:
        """Takes in a frame from anybody.

        A bad one is charged to who sent it and changes nothing.
        """
        try:
            header = decode_header(data, self._book.state.cluster, self._limits)
            self._place(header, data, peer, now, out)
        except Malformed as error:
            out.at_once.append(Charge(peer, str(error)))

    def _place(
        self, header: FrameHeader, data: bytes, peer: Author | None, now: Now, out: Outbox
    ) -> None:
        author = Author(header.author)
        feed = Feed(author, header.topic)
        end = self._book.end(feed) if self._is_known(feed) else None
        last_seq = header.first_seq + header.count - 1
        if end is not None and last_seq <= end.seq:
            known = end.hash_at(last_seq)
            if known not in (None, header.last_hash) and check_signature(header, self._verify):
                raise Malformed("fork: two events of one author, topic and seq")
            return
        if author == self._book.author and header.topic in self._book.written:
            # Somebody holds more of our own feed than we do: a restored backup or a second process,
            # and not the doing of who passed it on.
            if not check_signature(header, self._verify):
                raise Malformed("signature")
            out.at_once.append(Charge(None, "a frame of our own feed that this node did not write"))
            return
        if end is None or header.first_seq > end.seq + 1:
            self._hold(feed, header, data, now)
            if peer is not None:
                self.note(peer, feed, last_seq, now)
            return
        self._accept(header, feed, peer, now, out)
        self._try_held(feed, now, out)

    def _is_known(self, feed: Feed) -> bool:
        """Whether a feed can be counted in here; a newcomer begins with the founder's tasks."""
        if feed.author in self._book.state.members:
            return True
        return feed.author == self.founder_hint and feed.topic == TASK

    def _accept(
        self, header: FrameHeader, feed: Feed, peer: Author | None, now: Now, out: Outbox
    ) -> None:
        end = self._book.end(feed)
        prev = end.hash_at(header.first_seq - 1)
        if prev is None:
            # It overlaps with what is long gone from memory: what follows our head can be pulled.
            if peer is not None:
                self.note(peer, feed, header.first_seq + header.count - 1, now)
            return
        if not check_signature(header, self._verify):
            raise Malformed("signature")
        follows = header.first_seq == end.seq + 1
        events = open_frame(header, prev, end.hlc if follows else 0, self._limits)
        if not follows:
            overlap = end.seq - header.first_seq
            if events[overlap].hash != end.hash:
                raise Malformed("fork: two events of one author, topic and seq")
            events = events[overlap + 1 :]
        if self._book.state.founder is None and not self._founds(header, events[0].body):
            raise Malformed("a first event that does not found this cluster")
        self._check_attachments(events, direct=peer == feed.author, peer=peer, out=out)
        for event in events:
            self._book.take(event, out)
        last = events[-1]
        self._book.clock.observe(last.hlc, now.wall_ms)
        out.then.append(Acknowledge(feed.author, feed.topic, last.seq))
        lag = self._lags.get(feed)
        if lag is not None:
            lag.since_s = now.mono_s

    def _check_attachments(
        self, events: list[Event], *, direct: bool, peer: Author | None, out: Outbox
    ) -> None:
        """Attachments ride beside what is signed, so whoever passed a frame on may have changed
        them.

        Then the frame is refused and comes from another. Where the author itself sent wrong bytes
        they are left out: its feed must go on for everybody.
        """
        for event in events:
            if event.attachment is None:
                continue
            named = named_bytes(event.kind, event.body)
            if named is not None and named.matches(event.attachment):
                continue
            if named is not None and not direct:
                raise Malformed("an attachment that is not what its event says")
            event.attachment = None
            out.at_once.append(Charge(peer, "an attachment that is not what its event says"))

    def _founds(self, header: FrameHeader, body: bytes) -> bool:
        return (
            header.first_seq == 1
            and header.topic == TASK
            and cluster_id(body) == self._book.state.cluster
        )

    def _hold(self, feed: Feed, header: FrameHeader, data: bytes, now: Now) -> None:
        room = self._limits.held_size_bytes_max
        if not self._is_known(feed):
            # Strangers have half of the room at most: anybody can make up a key.
            room //= 2
            if feed not in self._held and len(self._held) >= self._limits.members_max:
                return
        held = self._held.get(feed, {})
        full = len(held) >= self._limits.held_frames_per_author_max
        if full or header.first_seq in held or self.held_size_bytes + len(data) > room:
            return
        if not check_signature(header, self._verify):
            raise Malformed("signature")
        self.held_size_bytes += len(data)
        self._held.setdefault(feed, {})[header.first_seq] = _Held(header, len(data), now.mono_s)

    def _take_out(self, feed: Feed, first_seq: int) -> _Held:
        frame = self._held[feed].pop(first_seq)
        self.held_size_bytes -= frame.size_bytes
        return frame

    def _try_held(self, feed: Feed, now: Now, out: Outbox) -> None:
        held = self._held.get(feed)
        while held:
            end = self._book.end(feed)
            first = min(held)
            if first > end.seq + 1:
                return
            frame = self._take_out(feed, first)
            if frame.header.first_seq + frame.header.count - 1 > end.seq:
                try:
                    self._accept(frame.header, feed, None, now, out)
                except Malformed as error:
                    out.at_once.append(Charge(None, str(error)))
        self._held.pop(feed, None)

    def members_changed(self, now: Now, out: Outbox) -> None:
        """Frames of authors that were unknown may fit now."""
        for feed in list(self._held):
            if self._is_known(feed):
                self._try_held(feed, now, out)
        for feed in [feed for feed in self._later if self._is_known(feed)]:
            self._lags[feed] = self._later.pop(feed)

    # What others have.

    def note_own(self, author: Author, task_seq: int, result_seq: int, now: Now) -> None:
        """A member says how far its own feeds reach, as each of its heartbeats does."""
        ends = self._ends.get(author)
        if ends is None:
            end = self._book.end
            ends = self._ends[author] = (end(Feed(author, TASK)), end(Feed(author, RESULT)))
        tasks, results = ends
        # Nearly always it has no more than what is here.
        if task_seq > tasks.seq:
            self.note(author, Feed(author, TASK), task_seq, now)
        if result_seq > results.seq:
            self.note(author, Feed(author, RESULT), result_seq, now)

    def note(self, peer: Author, feed: Feed, seq: int, now: Now) -> None:
        """A member is known to hold a feed up to `seq`."""
        end = self._book.ends.get(feed)
        if feed.topic not in FEED_TOPICS or seq <= (end.seq if end else 0):
            return
        if feed.author == self._book.author and feed.topic in self._book.written:
            return  # A second process with our key, or a backup restored: nothing to pull any more.
        lags = self._lags if self._is_known(feed) else self._later
        lag = lags.get(feed)
        if lag is None:
            if lags is self._later and not self._has_room(now):
                return
            lag = lags[feed] = _Lag(now.mono_s)
        lag.by_peer[peer] = max(seq, lag.by_peer.get(peer, 0))

    def _has_room(self, now: Now) -> bool:
        if len(self._later) < 4 * self._limits.members_max:
            return True
        oldest = next(iter(self._later))
        if now.mono_s - self._later[oldest].since_s <= self._limits.held_s:
            return False
        del self._later[oldest]
        return True

    def heads(
        self, peer: Author, heads: Mapping[Feed, Head], wants_answer: bool, now: Now, out: Outbox
    ) -> None:
        """A member told all of its heads: pull at once what is missing here."""
        self._peers.peer(peer).heads_at_s = now.mono_s
        for feed, head in heads.items():
            self.note(peer, feed, head.seq, now)
            lag = self._lags.get(feed)
            if lag is not None:
                lag.since_s = now.mono_s - self._timers.lag_s
        if wants_answer:
            out.at_once.append(SendHeads(peer, dict(self._book.committed), False))
        self._pull_what_lags(now, out)

    def pull_ended(
        self, peer: Author, feed: Feed, frames: tuple[bytes, ...] | None, now: Now, out: Outbox
    ) -> None:
        """A pull brought frames, or nothing."""
        lag = self._lags.get(feed)
        if lag is not None:
            lag.pull_from = None
            if not frames:
                # It does not have what it said, or is gone: ask another, or wait for its next word.
                lag.by_peer.pop(peer, None)
        before = self._book.ends[feed].seq if feed in self._book.ends else 0
        for frame in frames or ():
            self.receive(frame, peer, now, out)
        if lag is not None and frames:
            if feed in self._book.ends and self._book.ends[feed].seq > before:
                lag.since_s = now.mono_s - self._timers.lag_s
            else:
                lag.by_peer.pop(peer, None)  # What it sends can't be used.
        self._pull_what_lags(now, out)

    def lagging(self, feed: Feed) -> bool:
        """Whether somebody is known to have more of this feed."""
        return feed in self._lags or feed in self._later

    def is_behind(self) -> bool:
        """Whether anything at all is known to be missing here."""
        return bool(self._lags)

    def _pull_what_lags(self, now: Now, out: Outbox) -> None:
        if not self._lags:
            return
        in_flight = 0
        for feed, lag in list(self._lags.items()):
            end = self._book.ends.get(feed)
            seq = end.seq if end else 0
            for peer in [p for p, s in lag.by_peer.items() if s <= seq]:
                del lag.by_peer[peer]
            if not lag.by_peer:
                del self._lags[feed]
                continue
            if lag.pull_from is not None:
                if now.mono_s < lag.pull_until_s:
                    in_flight += 1
                    continue
                lag.by_peer.pop(lag.pull_from, None)
                lag.pull_from = None
        for feed, lag in self._lags.items():
            if in_flight >= self._limits.pulls_in_flight_max:
                return
            if lag.pull_from is not None or now.mono_s - lag.since_s < self._timers.lag_s:
                continue
            peer = self._choose(lag)
            if peer is None:
                continue
            end = self._book.end(feed)
            lag.pull_from = peer
            lag.pull_until_s = now.mono_s + 2 * self._timers.pull_timeout_s
            in_flight += 1
            out.at_once.append(Pull(peer, feed, end.seq))

    def _drop_held(self, now: Now) -> None:
        for feed, held in list(self._held.items()):
            for first, frame in list(held.items()):
                if now.mono_s - frame.since_s > self._limits.held_s:
                    self._take_out(feed, first)
            if not held:
                del self._held[feed]

    def _choose(self, lag: _Lag) -> Author | None:
        """Who is asked: of those connected that have most of it, the nearest."""
        best: tuple[int, float] | None = None
        chosen: Author | None = None
        for author, seq in lag.by_peer.items():
            peer = self._peers.by_author.get(author)
            if peer is None or not peer.connected:
                continue
            rank = (-seq, peer.round_trip_s or 0.0)
            if best is None or rank < best:
                best, chosen = rank, author
        return chosen

    def tick(self, now: Now, out: Outbox) -> None:
        """Drops what was held too long, asks for what lags, and compares heads with one member at a
        time.
        """
        if self._held:
            self._drop_held(now)
        self._pull_what_lags(now, out)
        if now.mono_s < self._next_compare_s:
            return
        self._next_compare_s = now.mono_s + self._timers.anti_entropy_s
        own = self._book.heads_hash()
        differing = [
            author
            for author, peer in self._peers.by_author.items()
            if peer.connected and peer.heartbeat is not None and peer.heartbeat.heads_hash != own
        ]
        if differing:
            self._compare_turn += 1
            peer = differing[self._compare_turn % len(differing)]
            out.at_once.append(SendHeads(peer, dict(self._book.committed), True))
