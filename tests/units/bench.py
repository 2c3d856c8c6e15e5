"""One core on the bench: a real node, told of others by what they would have sent.

The others are writers with keys of their own. What they write reaches the node as frames, they are
heard by heartbeats, and everything that the node wants done is there to be looked at. Commits
succeed when the test says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from kowalski_ledger.state import State
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.node import Node, NodeConfig
from kowalski_protocol.events import CancelRequested, CapabilitiesAdvertised
from kowalski_protocol.feeds import Event, Feed, Head, encode_frame, signed_message
from kowalski_protocol.ids import Author, EventHash
from kowalski_protocol.limits import LIMITS, LOCAL, Limits, Timers
from kowalski_protocol.telemetry import Heartbeat, encode_datagram
from kowalski_protocol.topics import TASK
from tests.units.histories import History, Writer

START_MS = 1_790_000_000_000
Of = TypeVar("Of")


def advert(name: str = "device", **changes: Any) -> CapabilitiesAdvertised:
    """What an ordinary device offers, with these changes."""
    ordinary = CapabilitiesAdvertised(
        1,
        name,
        ("code", "tool"),
        ("echo", "sleep"),
        {"python": "3"},
        "bubblewrap",
        2,
        4,
        8 << 30,
        (),
        {},
        platform="linux/x86_64",
    )
    return msgspec.structs.replace(ordinary, **changes)


def sign(writer: Writer, events: Sequence[Event]) -> bytes:
    """These events of a writer as a frame."""
    events[-1].signature = writer.identity.sign(signed_message(events[-1].hash))
    return encode_frame(writer.cluster, events)


class Bench:
    """A node among `others`; device 0 founded the cluster and `me` is the node's own number."""

    def __init__(
        self,
        devices: int = 3,
        *,
        me: int = 0,
        admins: bool = False,
        timers: Timers = LOCAL,
        limits: Limits = LIMITS,
        alive: bool = True,
        slots: int = 2,
    ) -> None:
        self.history = History(devices)
        self.history.admit_all("admin" if admins else "member")
        self.me = self.history.devices[me]
        self.others = [d for d in self.history.devices if d is not self.me]
        self.timers = timers
        self.now = ins.Now(1000.0, START_MS)
        self.counters: dict[Author, int] = {}
        config = NodeConfig(self.me.author, self.me.name, 1, timers, slots, limits)
        self.node = Node(config, State(self.history.cluster), self.now)
        sign(self.history.founder, self.history.founder.feeds[TASK])
        self.node.load(self.history.written)
        self.node.loaded()
        self.out = fx.Outbox()
        self.done: list[fx.Effect] = []
        self.own: list[Event] = []
        self.give(ins.Advertise(advert(self.me.name)))
        if alive:
            for other in self.others:
                self.give(ins.PeerConnected(other.author, "memory"))
                self.give(ins.HeadsReceived(other.author, {}, False))
                self.hear(other)
            self.tick()
            self.commit()
            for other in self.others:
                self.hear(other)
            self.pass_time(timers.suspect_s + 0.5)

    # Giving and looking.

    def give(self, *inputs: ins.Input) -> fx.Outbox:
        """Steps on these inputs; returns only what they brought."""
        out = fx.Outbox()
        for input in inputs:
            self.node.step(input, self.now, out)
        self.out.append += out.append
        self.out.then += out.then
        self.done += out.at_once
        return out

    def commit(self) -> list[fx.Effect]:
        """What was written is on the disk now; returns what waited for it."""
        out, self.out = self.out, fx.Outbox()
        self.own += [event for event in out.append if event.author == self.me.author]
        heads = {Feed(e.author, e.topic): Head(e.seq, e.hash) for e in out.append}
        self.done += out.then
        if heads:
            self.give(ins.Committed(heads))
        return out.then

    def tick(self, seconds: float = 0.0) -> fx.Outbox:
        """Time passes at once, and the node looks at its deadlines."""
        self.now = ins.Now(self.now.mono_s + seconds, self.now.wall_ms + int(seconds * 1000))
        return self.give(ins.Tick())

    def pass_time(self, seconds: float, *, heard: bool = True) -> None:
        """Time passes tick by tick; unless said otherwise, the others go on being heard."""
        steps = round(seconds / self.timers.tick_s)
        for step in range(steps):
            self.tick(self.timers.tick_s)
            if heard and step % 4 == 0:
                for other in self.others:
                    self.hear(other)
            self.commit()

    def kinds(self) -> list[str]:
        """The kinds of the own events so far, committed or not."""
        own = [*self.own, *(e for e in self.out.append if e.author == self.me.author)]
        return [event.kind for event in own]

    def effects(self, kind: type[Of]) -> list[Of]:
        """All effects of a kind so far."""
        every = [*self.done, *self.out.then]
        return [effect for effect in every if isinstance(effect, kind)]

    def answer(self, ticket: int) -> fx.Answer | None:
        return next((a for a in self.effects(fx.Answer) if a.ticket == ticket), None)

    def code(self, ticket: int) -> str | None:
        """The code with which a request was refused."""
        answer = self.answer(ticket)
        return answer.problem.code if answer is not None and answer.problem else None

    @property
    def state(self) -> State:
        return self.node.state

    # What others send.

    def frame(self, writer: Writer, first: int = 1, last: int | None = None) -> bytes:
        """A part of a writer's task feed as a frame."""
        return sign(writer, writer.feeds[TASK][first - 1 : last])

    def receive(self, writer: Writer, first: int = 1, last: int | None = None) -> fx.Outbox:
        return self.give(ins.FrameReceived(writer.author, self.frame(writer, first, last)))

    def heartbeat(self, writer: Writer, **changes: Any) -> Heartbeat:
        counter = self.counters[writer.author] = self.counters.get(writer.author, 0) + 1
        peers = self.node.peers
        echo = ((self.me.author[:8], peers.boot, peers.counter, 0),) if peers.counter else ()
        ordinary = Heartbeat(
            7, counter, self.now.wall_ms, echo, 0, 0, self.node.book.heads_hash(), b"", 0, 0, False
        )
        return msgspec.structs.replace(ordinary, **changes)

    def hear(self, writer: Writer, **changes: Any) -> fx.Outbox:
        """The node hears a heartbeat of this member."""
        said = self.heartbeat(writer, **changes)
        data = encode_datagram(self.history.cluster, writer.author, writer.identity.sign, said)
        return self.give(ins.DatagramReceived(writer.author, data))


class Follower(Bench):
    """A plain member, and what a founder has written that it may not have heard of yet."""

    def __init__(self, devices: int = 3, **options: Any) -> None:
        super().__init__(devices, me=1, **options)
        self.founder = self.history.founder
        self.third = self.others[1]
        self.feed = Feed(self.founder.author, TASK)
        self.told = len(self.founder.feeds[TASK])

    def write(self, count: int = 1) -> int:
        """The founder writes what the node has not heard of; the seq of the last event."""
        for _ in range(count):
            self.founder.write(CancelRequested(bytes(16)))
        return len(self.founder.feeds[TASK])

    def reach(self, feed: Feed | None = None) -> int:
        return self.node.book.end(feed or self.feed).seq

    def reasons(self) -> list[str]:
        return [charge.reason for charge in self.effects(fx.Charge)]

    def pulls(self) -> list[tuple[Author, int]]:
        return [(p.peer, p.after_seq) for p in self.effects(fx.Pull) if p.feed == self.feed]

    def heads(self, peer: Writer, seq: int, *, feed: Feed | None = None) -> fx.Outbox:
        head = {feed or self.feed: Head(seq, EventHash(bytes(32)))}
        return self.give(ins.HeadsReceived(peer.author, head, False))

    def pulled(self, peer: Writer, *frames: bytes) -> fx.Outbox:
        return self.give(ins.PullEnded(peer.author, self.feed, frames))
