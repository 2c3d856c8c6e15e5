"""The network of a world: connections with lanes, gossip beside them, and what goes wrong on both.

A connection is like the real one: in order, nothing lost while it stands, noticed by both sides
when it closes. A blocked direction keeps what is sent on it for later, and past `STALL_S` the
connection is gone, as a socket's would be. A lane whose reader is too far behind is emptied, and
the peer pulls. Gossip crosses the connections that stand, from device to device, and may lose
anything.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from kowalski_node.core.effects import FetchBlob, Pull
from kowalski_node.core.inputs import Input
from kowalski_protocol.ids import Author

from .agenda import Agenda

STALL_S = 15.0
"""After so long without any progress a connection is closed, by whoever waits to send on it."""
DIAL_TIMEOUT_S = 5.0
LANE_MESSAGES_MAX = 4096
"""Of one direction that is blocked; past it the lane is emptied."""


class Station(Protocol):
    """A device as the wire sees it."""

    @property
    def author(self) -> Author: ...

    @property
    def is_up(self) -> bool: ...

    @property
    def is_listening(self) -> bool:
        """Whether it completes handshakes: it runs, and is not frozen."""
        ...

    def connected(self, peer: Author) -> None: ...

    def disconnected(self, peer: Author) -> None: ...

    def give(self, input: Input) -> None:
        """Something came for it."""
        ...

    def serve(self, asker: Any, number: tuple[int, int], pull: Pull) -> None:
        """A peer asks it for a range of a feed."""
        ...

    def serve_blob(self, asker: Any, number: tuple[int, int], fetch: FetchBlob) -> None:
        """A peer asks it for a blob."""
        ...


class Weather(NamedTuple):
    """How the network is at the moment."""

    latency_s: float = 0.001
    jitter_s: float = 0.0005
    gossip_loss: float = 0.0
    """The share of gossip messages that do not arrive, per receiver."""
    duplicates: float = 0.0
    """The share of messages that arrive twice, the second time later."""
    reorder_s: float = 0.0
    """How much later than others a message of gossip may come."""


class _Lane:
    """One direction of a connection."""

    __slots__ = ("free_at_s", "stalled", "stalled_since_s")

    def __init__(self) -> None:
        self.free_at_s = 0.0
        self.stalled: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.stalled_since_s = 0.0


class Connection:
    """Two devices that have shaken hands; it belongs to one life of each."""

    __slots__ = ("is_open", "lanes")

    def __init__(self, a: Author, b: Author) -> None:
        self.is_open = True
        self.lanes = {a: _Lane(), b: _Lane()}
        """By the sender."""


class Wire:
    """All links of a world."""

    def __init__(self, agenda: Agenda, chance: random.Random) -> None:
        self._agenda = agenda
        self._chance = chance
        self.weather = Weather()
        self.stations: dict[Author, Station] = {}
        self._connections: dict[frozenset[Author], Connection] = {}
        self._peers: dict[Author, dict[Author, Connection]] = {}
        self._told: dict[Author, dict[Author, Connection]] = {}
        """Of whom each device's process believes that it is there. A connection that takes an
        unnoticed one's place is no news to it, and what it was told dies with it.
        """
        self._lives: dict[Author, int] = {}
        """How many processes of each device have ended: a handshake is with one of them."""
        self._blocked: dict[tuple[Author, Author], int] = {}
        """Directions that let nothing through, and by how many faults each is blocked."""
        self.messages = 0
        self.size_bytes = 0

    def add(self, station: Station) -> None:
        """A device that may be reached."""
        self.stations[station.author] = station
        self._peers[station.author] = {}
        self._told[station.author] = {}
        self._lives.setdefault(station.author, 0)

    # What goes wrong.

    def block(self, directions: Iterable[tuple[Author, Author]]) -> None:
        """Lets nothing through in these directions until `unblock`."""
        for direction in directions:
            self._blocked[direction] = self._blocked.get(direction, 0) + 1

    def unblock(self, directions: Iterable[tuple[Author, Author]]) -> None:
        """Ends one `block` of these directions; what waited goes on."""
        for direction in directions:
            left = self._blocked[direction] - 1
            if left:
                self._blocked[direction] = left
                continue
            del self._blocked[direction]
            connection = self._connections.get(frozenset(direction))
            if connection is not None:
                self._flush(direction, connection)

    def is_blocked(self, sender: Author, to: Author) -> bool:
        """Whether a direction lets nothing through."""
        return (sender, to) in self._blocked

    def reset(self, a: Author, b: Author) -> None:
        """Closes a connection; both sides notice at once."""
        connection = self._connections.get(frozenset((a, b)))
        if connection is not None:
            self._close(a, b, connection)

    def went_down(self, author: Author) -> None:
        """A device's process has ended: its peers notice, where the network lets them."""
        for peer, connection in list(self._peers[author].items()):
            self._forget(author, peer, connection)
            wait_s = self._delay() if (author, peer) not in self._blocked else STALL_S
            self._agenda.after(wait_s, self._notice, peer, author, connection)
        self._told[author].clear()
        self._lives[author] += 1

    def _notice(self, here: Author, gone: Author, connection: Connection) -> None:
        # By now another connection may stand in its place, or another process here.
        if self._told[here].get(gone) is connection:
            del self._told[here][gone]
            self.stations[here].disconnected(gone)

    # Connections.

    def dial(self, author: Author, peer: Author, ended: Callable[[bool], object]) -> None:
        """Tries to connect; `ended` is called with how it went."""
        there = self.stations.get(peer)
        blocked = (author, peer) in self._blocked or (peer, author) in self._blocked
        if there is None or blocked or (there.is_up and not there.is_listening):
            self._agenda.after(DIAL_TIMEOUT_S, ended, False)
        elif not there.is_up:
            self._agenda.after(2 * self._delay(), ended, False)
        else:
            lives = (self._lives[author], self._lives[peer])
            self._agenda.after(4 * self._delay(), self._shake_hands, author, peer, lives, ended)

    def _shake_hands(
        self, author: Author, peer: Author, lives: tuple[int, int], ended: Callable[[bool], object]
    ) -> None:
        here, there = self.stations[author], self.stations[peer]
        blocked = (author, peer) in self._blocked or (peer, author) in self._blocked
        same = lives == (self._lives[author], self._lives[peer])
        if blocked or not (same and here.is_up and there.is_up and there.is_listening):
            ended(False)
            return
        if peer not in self._peers[author]:
            connection = Connection(author, peer)
            self._connections[frozenset((author, peer))] = connection
            self._peers[author][peer] = self._peers[peer][author] = connection
            sides = ((author, peer), (peer, author))
            news = [(one, other) for one, other in sides if other not in self._told[one]]
            self._told[author][peer] = self._told[peer][author] = connection
            for one, other in news:
                self.stations[one].connected(other)
        ended(True)

    def peers(self, author: Author) -> Iterable[Author]:
        """To whom a device is connected."""
        return self._peers[author]

    def is_connected(self, a: Author, b: Author) -> bool:
        """Whether two devices are connected."""
        return b in self._peers[a]

    def _forget(self, a: Author, b: Author, connection: Connection) -> None:
        connection.is_open = False
        self._connections.pop(frozenset((a, b)), None)
        self._peers[a].pop(b, None)
        self._peers[b].pop(a, None)

    def _close(self, a: Author, b: Author, connection: Connection) -> None:
        self._forget(a, b, connection)
        self._notice(a, b, connection)
        self._notice(b, a, connection)

    # Lanes.

    def _delay(self) -> float:
        weather = self.weather
        return weather.latency_s + weather.jitter_s * self._chance.random()

    def send(
        self,
        sender: Author,
        to: Author,
        size_bytes: int,
        deliver: Callable[..., object],
        *details: Any,
    ) -> bool:
        """Sends on the lane of two connected devices; False where there is none."""
        connection = self._peers[sender].get(to)
        if connection is None:
            return False
        self.messages += 1
        self.size_bytes += size_bytes
        lane = connection.lanes[sender]
        if lane.stalled or (self._blocked and (sender, to) in self._blocked):
            direction = (sender, to)
            if not lane.stalled:
                lane.stalled_since_s = self._agenda.now_s
                self._agenda.after(STALL_S, self._stall, direction, connection)
            elif len(lane.stalled) >= LANE_MESSAGES_MAX:
                lane.stalled.clear()
            lane.stalled.append((deliver, details))
            return True
        # As `_pass_on`, written out: half of all that happens in a world comes by here.
        at_s = self._agenda.now_s + self._delay()
        if at_s > lane.free_at_s:
            lane.free_at_s = at_s
        self._agenda.at(lane.free_at_s, self._arrive, connection, deliver, details)
        return True

    def _pass_on(
        self,
        connection: Connection,
        lane: _Lane,
        deliver: Callable[..., object],
        details: tuple[Any, ...],
    ) -> None:
        lane.free_at_s = max(self._agenda.now_s + self._delay(), lane.free_at_s)
        self._agenda.at(lane.free_at_s, self._arrive, connection, deliver, details)

    def _arrive(
        self, connection: Connection, deliver: Callable[..., object], details: tuple[Any, ...]
    ) -> None:
        if connection.is_open:
            deliver(*details)

    def _flush(self, direction: tuple[Author, Author], connection: Connection) -> None:
        lane = connection.lanes[direction[0]]
        while lane.stalled:
            self._pass_on(connection, lane, *lane.stalled.popleft())

    def _stall(self, direction: tuple[Author, Author], connection: Connection) -> None:
        lane = connection.lanes[direction[0]]
        if not connection.is_open or not lane.stalled:
            return
        left_s = lane.stalled_since_s + STALL_S - self._agenda.now_s
        if left_s > 1e-9:
            self._agenda.after(left_s, self._stall, direction, connection)
            return
        self._close(*direction, connection)

    # Gossip.

    def publish(
        self, author: Author, size_bytes: int, deliver: Callable[..., object], *details: Any
    ) -> None:
        """Sends to all whom gossip reaches over the connections that stand now: each that hears it
        gets `deliver(station, *details)`.
        """
        weather, chance, blocked = self.weather, self._chance, self._blocked
        reached: dict[Author, float] = {author: 0.0}
        waiting = deque((author,))
        connected = sum(map(bool, self._peers.values()))
        while waiting and len(reached) < connected:
            relay = waiting.popleft()
            for peer in self._peers[relay]:
                if peer in reached or (blocked and (relay, peer) in blocked):
                    continue
                if weather.gossip_loss and chance.random() < weather.gossip_loss:
                    continue
                delay_s = reached[relay] + self._delay()
                reached[peer] = delay_s
                if self.stations[peer].is_listening:
                    waiting.append(peer)
                if weather.reorder_s:
                    delay_s += chance.random() * weather.reorder_s
                self.messages += 1
                self.size_bytes += size_bytes
                self._agenda.after(delay_s, self._hear, peer, deliver, details)
                if weather.duplicates and chance.random() < weather.duplicates:
                    again_s = delay_s + self._delay()
                    self._agenda.after(again_s, self._hear, peer, deliver, details)

    def _hear(self, peer: Author, deliver: Callable[..., object], details: tuple[Any, ...]) -> None:
        station = self.stations[peer]
        if station.is_up:
            deliver(station, *details)
