"""What is known of each other member, and whether it is alive.

Alive is mutual: I hear it, recently, and it echoes a recent counter of mine. A closed connection
suspects at once and a grace gives it time to come back; a frozen or cut-off member is suspected by
silence. A node that was itself starved counts the time it slept as nobody's silence: all deadlines
move by what it lost.

A member that says it is stopping is *present* for as long as it is heard, so what it still runs is
not lost, and no longer *alive*: it is given nothing new.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from kowalski_protocol.ids import Author
from kowalski_protocol.limits import Timers
from kowalski_protocol.telemetry import Heartbeat

PREFIX_BYTES = 8
"""How much of a key names its member in echoes."""


class Peer:
    """One member other than this node."""

    __slots__ = (
        "acked",
        "address",
        "addresses",
        "boot",
        "came_at_s",
        "connected",
        "counter",
        "dial_at_s",
        "dial_wait_s",
        "dialling",
        "disconnected_at_s",
        "echoed_at_s",
        "forgiven",
        "heads_at_s",
        "heard_at_s",
        "heartbeat",
        "offset_ms",
        "round_trip_s",
        "sample",
    )

    def __init__(self) -> None:
        self.connected = False
        self.address: str | None = None
        self.disconnected_at_s: float | None = None
        self.came_at_s = 0.0
        """When the newest datagram came."""
        self.heard_at_s: float | None = None
        """The same, moved by what this node slept since: what its silence is counted from."""
        self.forgiven = False
        self.echoed_at_s: float | None = None
        """When the datagram of ours that it last echoed was sent."""
        self.boot = 0
        self.counter = 0
        self.heartbeat: Heartbeat | None = None
        self.sample: dict[str, object] | None = None
        self.round_trip_s: float | None = None
        self.offset_ms: int | None = None
        self.acked: dict[str, int] = {}
        self.addresses: tuple[str, ...] = ()
        self.dialling = False
        self.dial_at_s = 0.0
        self.dial_wait_s = 0.0
        self.heads_at_s: float | None = None
        """When it last told all of its heads."""


class Peers:
    """All other members, as this node sees them now."""

    def __init__(self, self_: Author, boot: int, timers: Timers) -> None:
        self._self = self_
        self._prefix = self_[:PREFIX_BYTES]
        self.boot = boot
        self._timers = timers
        self.by_author: dict[Author, Peer] = {}
        self.counter = 0
        self._sent: deque[tuple[int, float]] = deque(maxlen=256)
        self.scale = 1.0
        """How much rarer heartbeats are than the timers say, and longer the silence that suspects.
        """
        self.alive: frozenset[Author] = frozenset({self_})
        """Who was alive at the last refresh, this node included."""
        self.present: frozenset[Author] = self.alive
        """Those, and who was stopping and still there: what runs on these is not lost."""
        self.writers: frozenset[Author] = self.alive
        """Those alive that can write, and so lead and run; this node answers for itself."""
        self.alive_version = 0
        self._look_at_s = 0.0
        """When somebody who is present may cease to be, or did or came."""

    def peer(self, author: Author) -> Peer:
        """The record of a member, made when it is first heard of."""
        peer = self.by_author.get(author)
        if peer is None:
            peer = self.by_author[author] = Peer()
        return peer

    def next_counter(self, now_s: float) -> int:
        """The counter of the datagram that is sent now."""
        self.counter += 1
        self._sent.append((self.counter, now_s))
        return self.counter

    def connected(self, author: Author, address: str) -> None:
        """A connection to the member is up."""
        peer = self.peer(author)
        self._look_at_s = 0.0  # A connected member is suspected after less silence.
        peer.connected = True
        peer.address = address
        peer.dialling = False
        peer.dial_wait_s = 0.0

    def disconnected(self, author: Author, now_s: float) -> None:
        """The last connection to the member has closed."""
        peer = self.peer(author)
        self._look_at_s = now_s
        peer.connected = False
        peer.address = None
        peer.disconnected_at_s = now_s
        peer.dial_at_s = now_s

    def heard(self, author: Author, heartbeat: Heartbeat, now_s: float, now_ms: int) -> bool:
        """Takes in a datagram; False where it is not the newest of its author."""
        peer = self.by_author.get(author) or self.peer(author)
        boot, counter = heartbeat.boot, heartbeat.counter
        if boot < peer.boot or (boot == peer.boot and counter <= peer.counter):
            return False
        before = peer.heartbeat
        if (
            author not in self.present
            or before is None
            or before.stopping != heartbeat.stopping
            or before.writes != heartbeat.writes
        ):
            self._look_at_s = now_s
        peer.boot = boot
        peer.counter = counter
        peer.heard_at_s = peer.came_at_s = now_s
        peer.forgiven = False
        peer.heartbeat = heartbeat
        peer.offset_ms = heartbeat.wall_ms - now_ms
        if heartbeat.sample is not None:
            peer.sample = heartbeat.sample
        if heartbeat.addresses:
            peer.addresses = heartbeat.addresses[:16]
        for prefix, own_boot, own_counter, since_us in heartbeat.echoes:
            if prefix == self._prefix and own_boot == self.boot:
                self._echoed(peer, own_counter, since_us / 1e6, now_s)
        return True

    def _echoed(self, peer: Peer, counter: int, since_s: float, now_s: float) -> None:
        back = self.counter - counter
        if not 0 <= back < len(self._sent):
            return
        sent_at_s = self._sent[-1 - back][1]
        if peer.echoed_at_s is None or sent_at_s > peer.echoed_at_s:
            peer.echoed_at_s = sent_at_s
        sample_s = now_s - sent_at_s - since_s
        if 0 <= sample_s < 10.0:
            old = peer.round_trip_s
            peer.round_trip_s = sample_s if old is None else 0.8 * old + 0.2 * sample_s

    def echoes(self, now_s: float) -> tuple[tuple[bytes, int, int, int], ...]:
        """Whom this node has heard of late, for its own datagram."""
        return tuple(
            [
                (
                    author[:PREFIX_BYTES],
                    peer.boot,
                    peer.counter,
                    int((now_s - peer.came_at_s) * 1e6),
                )
                for author, peer in self.by_author.items()
                if peer.heard_at_s is not None and now_s - peer.came_at_s < 10.0
            ]
        )

    def forgive(self, lost_s: float, now_s: float) -> None:
        """This node did not run for so long: nobody else was silent in that time.

        Each member is forgiven once until it is heard again, and never beyond now: a node that is
        starved all the time, or slept for hours, must still notice who is gone.
        """
        self._look_at_s = now_s
        for peer in self.by_author.values():
            if peer.forgiven or peer.heard_at_s is None:
                continue
            peer.forgiven = True
            closed_at_s = peer.disconnected_at_s
            if closed_at_s is not None and peer.heard_at_s <= closed_at_s:
                # What was heard before it closed stays so. A member that was heard since, by
                # gossip, must not seem to have closed just now.
                peer.disconnected_at_s = min(now_s, closed_at_s + lost_s)
            peer.heard_at_s = min(now_s, peer.heard_at_s + lost_s)
            if peer.echoed_at_s is not None:
                peer.echoed_at_s = min(now_s, peer.echoed_at_s + lost_s)

    def is_present(self, author: Author, now_s: float) -> bool:
        """Whether the member is heard and hears, stopping or not."""
        return author == self._self or now_s < self._present_until_s(author)

    def _present_until_s(self, author: Author) -> float:
        """When the member ceases to be present if nothing more is heard of it."""
        peer = self.by_author.get(author)
        if peer is None or peer.heard_at_s is None or peer.heartbeat is None:
            return -math.inf
        if peer.echoed_at_s is None:
            return -math.inf
        window_s = self._timers.suspect_s * self.scale
        grace_until_s = math.inf
        if not peer.connected:
            closed_at_s = peer.disconnected_at_s
            if closed_at_s is not None and peer.heard_at_s <= closed_at_s:
                # It has a grace to come back, and who was silent before has none.
                grace_until_s = closed_at_s + self._timers.disconnect_grace_s
            else:
                window_s = max(window_s, 3.0 * self._timers.gossip_heartbeat_s * self.scale)
        # Its echo is as old as its heartbeat plus the interval of ours.
        silent_s = min(peer.heard_at_s + window_s, peer.echoed_at_s + 2.0 * window_s)
        return min(silent_s, grace_until_s)

    def may_have_changed(self, now_s: float) -> bool:
        """Whether time or news may have changed who is alive since the last `refresh`."""
        return now_s >= self._look_at_s

    def refresh(self, members: Iterable[Author], now_s: float) -> tuple[set[Author], set[Author]]:
        """Computes anew who is alive; returns those who came and those who went."""
        present, alive, writers = {self._self}, {self._self}, {self._self}
        self._look_at_s = math.inf
        for author in members:
            if author == self._self:
                continue
            until_s = self._present_until_s(author)
            if now_s >= until_s:
                continue
            self._look_at_s = min(self._look_at_s, until_s)
            present.add(author)
            heartbeat = self.by_author[author].heartbeat
            if heartbeat is not None and not heartbeat.stopping:
                alive.add(author)
                if heartbeat.writes:
                    writers.add(author)
        before = self.alive
        if present ^ self.present:
            self.present = frozenset(present)
        if not (alive ^ before or writers ^ self.writers):
            return set(), set()
        self.alive = frozenset(alive)
        self.writers = frozenset(writers)
        self.alive_version += 1
        return alive - before, set(before - alive)

    @property
    def is_anybody_arriving(self) -> bool:
        """Whether somebody is dialled or connected who was never yet heard both ways."""
        return any(
            peer.echoed_at_s is None and (peer.dialling or peer.connected)
            for peer in self.by_author.values()
        )

    def clock_offset_s(self) -> float:
        """How far this device's wall clock is ahead of the median of all members it hears."""
        offsets = sorted(
            [0, *(p.offset_ms for p in self.by_author.values() if p.offset_ms is not None)]
        )
        return -offsets[len(offsets) // 2] / 1000.0 if len(offsets) > 1 else 0.0
