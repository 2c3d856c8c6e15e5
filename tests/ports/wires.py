"""Networks for the wire's conformance suite: libp2p over loopback, and the simulator's wire.

A `Wires` starts processes; a `Station` is one process from its start to its end, and keeps a diary
of what it was told, in order. The real ones are networks of this test's own process; the simulated
ones stand on one agenda, which moves whenever somebody waits.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol, cast

import msgspec
import trio

from kowalski_node.core.effects import FetchBlob, Pull
from kowalski_node.core.inputs import Input, PullEnded
from kowalski_node.network import Network, NetworkError
from kowalski_protocol.feeds import Feed
from kowalski_protocol.ids import Author
from kowalski_protocol.limits import LAN, Timers
from simulations.agenda import Agenda
from simulations.requests import Requests
from simulations.wire import Wire
from tests.live.network_world import IDENTITIES, Recorder, gossips, network, until

REQUEST_TIMEOUT_S = 60.0
"""Far longer than any test waits: a request that fails in time does so for another reason."""
DIAL_TIMEOUT_S = 5.0
WAIT_S = 20.0
STEP_S = 0.0005
"""Of the simulated time, between two looks at a predicate."""


def key_of(number: int) -> Author:
    """The public key of the numbered identity."""
    return Author(bytes(IDENTITIES[number].author))


class Place(NamedTuple):
    """Whom to dial, and where."""

    key: Author
    addresses: tuple[str, ...] = ()


class Entry(NamedTuple):
    """One line of a diary."""

    what: str
    """connected | disconnected | heard"""
    peer: Author
    data: bytes = b""


class Diary:
    """What a process was told, in the order in which it was."""

    def __init__(self, key: Author) -> None:
        self.key = key
        self.entries: list[Entry] = []
        self.gossip: list[bytes] = []
        self.asked: list[bytes] = []
        """Requests that it was asked to answer."""

    def told_of(self, peer: Author) -> list[str]:
        """What it was told of a peer's coming and going."""
        return [e.what for e in self.entries if e.peer == peer and e.what != "heard"]

    def believes_in(self, peer: Author) -> bool:
        """Whether it was told last that the peer is there."""
        return self.told_of(peer)[-1:] == ["connected"]

    def heard_from(self, peer: Author) -> list[bytes]:
        """What came on a peer's lane."""
        return [e.data for e in self.entries if e.peer == peer and e.what == "heard"]


class Station(Protocol):
    """One process on a network."""

    key: Author
    entries: list[Entry]
    gossip: list[bytes]
    asked: list[bytes]

    def told_of(self, peer: Author) -> list[str]: ...

    def believes_in(self, peer: Author) -> bool: ...

    def heard_from(self, peer: Author) -> list[bytes]: ...

    @property
    def place(self) -> Place:
        """Where it may be dialled."""
        ...

    def reaches(self, peer: Author) -> bool:
        """Whether its gossip goes to this peer directly."""
        ...

    async def dial(self, place: Place) -> bool: ...

    def send(self, peer: Author, data: bytes) -> None: ...

    def publish(self, data: bytes) -> None: ...

    async def request(self, peer: Author, data: bytes) -> bytes | None:
        """The answer, or None where the request failed."""
        ...

    async def end(self) -> None:
        """The process goes away."""
        ...


class Wires(Protocol):
    """A network on which processes can be started."""

    async def start(self, number: int, *, answers: bool = True) -> Station:
        """A process with the numbered identity, which listens; one life is over before the next.

        Without `answers` it takes requests and never answers them.
        """
        ...

    async def start_unnoticed(self, station: Station, number: int) -> Station:
        """The same identity in a new process, while its peers still hold the old connections."""
        ...

    def nobody(self, number: int) -> Place:
        """Where nobody listens."""
        ...

    async def until(self, happened: Callable[[], object]) -> None:
        """Returns when the predicate is true; fails the test when it isn't in time."""
        ...


async def meet(wires: Wires, a: Station, b: Station) -> None:
    """Connects two, and waits until both know."""
    assert await a.dial(b.place)
    await wires.until(lambda: a.believes_in(b.key) and b.believes_in(a.key))


async def meet_to_gossip(wires: Wires, a: Station, b: Station) -> None:
    """Connects two, and waits until gossip goes both ways."""
    await meet(wires, a, b)
    await wires.until(lambda: a.reaches(b.key) and b.reaches(a.key))


# The real one.


class _Told(Recorder):
    """Writes what the network tells into a diary."""

    def __init__(self, diary: Diary, *, answers: bool) -> None:
        super().__init__()
        self._diary = diary
        self._answers = answers

    def peer_connected(self, peer: bytes, address: str) -> None:
        self._diary.entries.append(Entry("connected", Author(peer)))

    def peer_disconnected(self, peer: bytes) -> None:
        self._diary.entries.append(Entry("disconnected", Author(peer)))

    def lane_received(self, peer: bytes, data: bytes) -> None:
        self._diary.entries.append(Entry("heard", Author(peer), data))

    def gossip_received(self, topic: str, source: bytes | None, data: bytes) -> None:
        self._diary.gossip.append(data)

    async def answer(self, peer: bytes, request: bytes) -> bytes:
        self._diary.asked.append(request)
        if not self._answers:
            await trio.sleep_forever()
        return await super().answer(peer, request)


class _RealStation(Diary):
    def __init__(self, number: int, *, answers: bool) -> None:
        super().__init__(key_of(number))
        self.network: Network = network(number, _Told(self, answers=answers))
        self._ending = trio.Event()
        self._ended = trio.Event()

    async def live(self, *, task_status: trio.TaskStatus[None]) -> None:
        # In a task of its own: processes end in any order.
        async with self.network:
            task_status.started()
            await self._ending.wait()
        self._ended.set()

    @property
    def place(self) -> Place:
        return Place(self.key, tuple(self.network.addresses))

    def reaches(self, peer: Author) -> bool:
        known = self.network._peers.get(peer)
        return known is not None and bool(known.reached) and gossips(self.network, peer)

    async def dial(self, place: Place) -> bool:
        return await self.network.dial(place.key, place.addresses, DIAL_TIMEOUT_S)

    def send(self, peer: Author, data: bytes) -> None:
        self.network.send(peer, data)

    def publish(self, data: bytes) -> None:
        self.network.publish("task", data)

    async def request(self, peer: Author, data: bytes) -> bytes | None:
        try:
            return await self.network.request(peer, data, REQUEST_TIMEOUT_S)
        except NetworkError:
            return None

    async def end(self) -> None:
        self._ending.set()
        await self._ended.wait()


class RealWires:
    """Networks over loopback, each with its own libp2p host."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._stations: list[_RealStation] = []

    async def start(self, number: int, *, answers: bool = True) -> Station:
        station = _RealStation(number, answers=answers)
        await self._nursery.start(station.live)
        self._stations.append(station)
        return station

    async def start_unnoticed(self, station: Station, number: int) -> Station:
        # The old one goes on, as after a laptop was restored elsewhere: nobody hears of an end.
        return await self.start(number)

    def nobody(self, number: int) -> Place:
        return Place(key_of(number), ("/ip4/127.0.0.1/tcp/1",))

    async def until(self, happened: Callable[[], object]) -> None:
        await until(happened, WAIT_S)

    async def end_all(self) -> None:
        for station in self._stations:
            await station.end()


@asynccontextmanager
async def real_wires() -> AsyncIterator[Wires]:
    """The network that nodes have."""
    async with trio.open_nursery() as nursery:
        wires = RealWires(nursery)
        yield wires
        await wires.end_all()


# The simulated one.


class _SimulatedWorld(NamedTuple):
    """What of a world a request looks at."""

    wire: Wire
    agenda: Agenda
    timers: Timers


class _SimulatedDevice:
    """What the wire knows as a station: one device through all its lives."""

    def __init__(self, author: Author) -> None:
        self.author = author
        self.process: _SimulatedStation | None = None

    @property
    def is_up(self) -> bool:
        return self.process is not None

    @property
    def is_listening(self) -> bool:
        return self.is_up

    @property
    def running(self) -> _SimulatedStation:
        assert self.process is not None, "nobody is told anything who is not there"
        return self.process

    def connected(self, peer: Author) -> None:
        self.running.connected(peer)

    def disconnected(self, peer: Author) -> None:
        self.running.disconnected(peer)

    def give(self, input: Input) -> None:
        self.running.give(input)

    def hear(self, peer: Author, data: bytes) -> None:
        self.running.entries.append(Entry("heard", peer, data))

    def serve(self, asker: Any, number: tuple[int, int], pull: Pull) -> None:
        self.running.serve(asker, number, pull)

    def serve_blob(self, asker: Any, number: tuple[int, int], fetch: FetchBlob) -> None:
        raise AssertionError("nobody asks for a blob")


class _SimulatedStation(Diary):
    """A process as `simulations.device` has it: all that it does goes over the wire."""

    life = 1

    def __init__(self, wires: SimulatedWires, device: _SimulatedDevice, *, answers: bool) -> None:
        super().__init__(device.author)
        self.author = self.key
        self.world = wires.world
        self.requests = Requests(cast(Any, self))
        self._wires = wires
        self._wire = wires.world.wire
        self._answers = answers
        self._ended: dict[Feed, PullEnded] = {}
        self._device = device
        device.process = self

    # What its device hands on.

    def connected(self, peer: Author) -> None:
        self.entries.append(Entry("connected", peer))

    def disconnected(self, peer: Author) -> None:
        self.entries.append(Entry("disconnected", peer))
        self.requests.peer_gone(peer)

    def do(self, what: Callable[..., object], *details: Any) -> None:
        what(*details)

    def give(self, input: Input) -> None:
        assert isinstance(input, PullEnded)
        assert input.feed not in self._ended, "a request ends once"
        self._ended[input.feed] = input

    def serve(self, asker: Any, number: tuple[int, int], pull: Pull) -> None:
        data = bytes.fromhex(pull.feed.topic)
        self.asked.append(data)
        if self._answers:
            frames = (b"answer to " + data,)
            over = asker.requests.pull_over
            self._wire.send(self.key, asker.key, len(frames[0]), over, number, frames)

    # As a station of the suite.

    @property
    def place(self) -> Place:
        return Place(self.key)

    def reaches(self, peer: Author) -> bool:
        return self._wire.is_connected(self.key, peer)

    async def dial(self, place: Place) -> bool:
        ended: list[bool] = []
        self._wire.dial(self.key, place.key, ended.append)
        await self._wires.until(lambda: ended)
        (connected,) = ended
        return connected

    def send(self, peer: Author, data: bytes) -> None:
        there = self._wire.stations.get(peer)
        if isinstance(there, _SimulatedDevice):
            self._wire.send(self.key, peer, len(data), there.hear, self.key, data)

    def publish(self, data: bytes) -> None:
        def heard(station: Any) -> None:
            station.running.gossip.append(data)

        self._wire.publish(self.key, len(data), heard)

    async def request(self, peer: Author, data: bytes) -> bytes | None:
        pull = Pull(peer, Feed(peer, data.hex()), 0)
        self.requests.pull(pull)
        await self._wires.until(lambda: pull.feed in self._ended)
        frames = self._ended[pull.feed].frames
        return frames[0] if frames is not None else None

    async def end(self) -> None:
        self._device.process = None
        self.requests.clear()
        self._wire.went_down(self.key)
        await trio.lowlevel.checkpoint()


class SimulatedWires:
    """The network of simulated worlds, in fair weather."""

    def __init__(self) -> None:
        agenda = Agenda()
        timers = msgspec.structs.replace(LAN, pull_timeout_s=REQUEST_TIMEOUT_S)
        self.world = _SimulatedWorld(Wire(agenda, random.Random(7)), agenda, timers)

    async def start(self, number: int, *, answers: bool = True) -> Station:
        await trio.lowlevel.checkpoint()
        author = key_of(number)
        device = self.world.wire.stations.get(author)
        if device is None:
            device = _SimulatedDevice(author)
            self.world.wire.add(device)
        assert isinstance(device, _SimulatedDevice)
        assert not device.is_up, "one life is over before the next"
        return _SimulatedStation(self, device, answers=answers)

    async def start_unnoticed(self, station: Station, number: int) -> Station:
        # Cut off, so that its end is not heard; then the cable is put back.
        others = [author for author in self.world.wire.stations if author != station.key]
        cut = [(station.key, other) for other in others] + [(o, station.key) for o in others]
        self.world.wire.block(cut)
        await station.end()
        self.world.wire.unblock(cut)
        return await self.start(number)

    def nobody(self, number: int) -> Place:
        return Place(key_of(number))

    async def until(self, happened: Callable[[], object]) -> None:
        last_s = self.world.agenda.now_s + WAIT_S
        while not happened():
            assert self.world.agenda.now_s < last_s, "it does not happen"
            self.world.agenda.run_until(self.world.agenda.now_s + STEP_S)
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def simulated_wires() -> AsyncIterator[Wires]:
    """The network that simulated devices have."""
    yield SimulatedWires()
