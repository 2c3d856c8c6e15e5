"""A program that is only a py-libp2p gossipsub client, with a member's key.

It was let in through the join door and then speaks nothing but gossipsub: no lanes, no pulls, none
of our network code. What it publishes is made with `kowalski_protocol` alone; anything else that
speaks gossipsub could do the same.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from kowalski_gateway.local_cluster import LocalNode
from kowalski_node.door import join
from kowalski_node.network.bundle import unbundled
from kowalski_node.views import TaskView
from kowalski_protocol.clock import HybridClock
from kowalski_protocol.codec import Malformed, decode_body, encode
from kowalski_protocol.events import Body, TaskSubmitted
from kowalski_protocol.feeds import (
    Event,
    check_signature,
    decode_header,
    encode_frame,
    event_hash,
    genesis,
    signed_message,
)
from kowalski_protocol.identity import Identity, author_of
from kowalski_protocol.ids import ClusterId, EventHash, TaskId
from kowalski_protocol.invites import JoinAnswer
from kowalski_protocol.tasks import parse_task, task_id
from kowalski_protocol.telemetry import decode_datagram
from kowalski_protocol.topics import TASK, TELEMETRY, TOPICS, wire_name

HEAR_S = 20.0


class Writer:
    """The client's own task feed."""

    def __init__(self, identity: Identity, cluster: ClusterId) -> None:
        self.identity = identity
        self.cluster = cluster
        self._clock = HybridClock(max_ahead_ms=30_000)
        self._seq = 0
        self._last: EventHash = genesis(cluster, identity.author, TASK)

    def frame(self, body: Body, attachment: bytes | None = None) -> bytes:
        """The next event of the feed, as a signed frame of its own."""
        self._seq += 1
        kind, data = type(body).__name__, encode(body)
        hlc = self._clock.tick(time.time_ns() // 1_000_000)
        self._last = event_hash(self._last, self._seq, hlc, kind, data)
        author = self.identity.author
        event = Event(author, TASK, self._seq, hlc, kind, data, self._last, attachment)
        event.signature = self.identity.sign(signed_message(self._last))
        return encode_frame(self.cluster, [event])

    def task(self, spec: dict[str, Any], owner: str, key: bytes) -> tuple[TaskId, bytes]:
        """A task's id and the frame that submits it, with `owner` to settle it."""
        submission = parse_task(spec)
        settles = author_of(owner)
        assert settles is not None
        body = TaskSubmitted(settles, key, submission.spec_bytes)
        id = task_id(settles, key, submission.spec_bytes)
        return id, self.frame(body, submission.payload)


class Heard:
    """What a client has heard, each topic's items apart, whole and checked."""

    def __init__(self, cluster: ClusterId) -> None:
        self.cluster = cluster
        self.events: list[tuple[str, bytes, str, Any]] = []
        """(topic, author, kind, body)"""
        self.seqs: dict[tuple[str, bytes], set[int]] = {}
        """(topic, author) -> which events of that feed."""
        self.beats: set[bytes] = set()
        """Authors of signed telemetry."""
        self.faults: list[str] = []

    def take(self, topic: str, message: bytes) -> None:
        """One gossip message of a topic."""
        for item in unbundled(message):
            try:
                if topic == TELEMETRY:
                    author, _ = decode_datagram(item, self.cluster)
                    self.beats.add(author)
                else:
                    self._frame(topic, item)
            except Malformed as error:
                self.faults.append(f"{topic}: {error}")

    def _frame(self, topic: str, data: bytes) -> None:
        header = decode_header(data, self.cluster)
        assert header.topic == topic
        assert check_signature(header)
        seqs = self.seqs.setdefault((topic, header.author), set())
        seqs.update(range(header.first_seq, header.first_seq + header.count))
        # The client came later and has nothing before this frame: the chain in it can't be checked
        # from the genesis, so its events are read for what they say.
        for kind, body in _wire_bodies(header.events):
            self.events.append((topic, header.author, kind, decode_body(kind, body)))

    def of(self, kind: str, task: bytes) -> list[bytes]:
        """Who wrote an event of the kind about the task."""
        return [
            author
            for _, author, said, body in self.events
            if said == kind and getattr(body, "task", None) == task
        ]


def _wire_bodies(events: bytes) -> list[tuple[str, bytes]]:
    wire = msgspec.msgpack.decode(events, type=list[tuple[int, str, bytes, bytes | None]])
    return [(kind, body) for _, kind, body, _ in wire]


class Gossiper:
    """A plain libp2p host with gossipsub, connected to one node."""

    def __init__(self, pubsub: Pubsub, heard: Heard) -> None:
        self._pubsub = pubsub
        self.heard = heard

    def name(self, topic: str) -> str:
        return wire_name(self.heard.cluster, topic)

    async def publish(self, topic: str, data: bytes) -> None:
        await self._pubsub.publish(self.name(topic), data)


@asynccontextmanager
async def gossiper(
    identity: Identity, node: LocalNode, cluster: ClusterId, *protocols: str
) -> AsyncIterator[Gossiper]:
    """Connects a gossipsub program as py-libp2p's documentation has it, with its defaults."""
    host = new_host(key_pair=create_new_key_pair(identity.seed))
    router = GossipSub(protocols=protocols, degree=3, degree_low=2, degree_high=4)  # pyright: ignore
    pubsub = Pubsub(host, router)
    client = Gossiper(pubsub, Heard(cluster))
    view = await node.client.cluster()
    address = next(device.addresses[0] for device in view.devices if device.id == node.peer)
    there = info_from_p2p_addr(Multiaddr(f"{address}/p2p/{node.peer}"))
    async with (
        host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]),
        background_trio_service(pubsub),
        background_trio_service(router),
        trio.open_nursery() as nursery,
    ):
        await pubsub.wait_until_ready()

        async def listen(topic: str, subscription: Any) -> None:
            while True:
                message = await subscription.get()
                if message.from_id != host.get_id().to_bytes():
                    client.heard.take(topic, message.data)

        for topic in TOPICS:
            nursery.start_soon(listen, topic, await pubsub.subscribe(client.name(topic)))
        with trio.fail_after(HEAR_S):
            await host.connect(there)
            for topic in TOPICS:
                await pubsub.wait_for_subscription(there.peer_id, client.name(topic))
            # The node has taken in whom it talks to once the client hears its telemetry.
            await until(lambda: author_of(node.peer) in client.heard.beats)
        yield client
        nursery.cancel_scope.cancel()


async def until(happened: Callable[[], object], wait_s: float = HEAR_S) -> None:
    with trio.fail_after(wait_s):
        while not happened():
            await trio.sleep(0.01)  # poll: what the client hears


async def shown(node: LocalNode, id: TaskId) -> TaskView:
    """The task once the node shows it as settled."""
    with trio.fail_after(HEAR_S):
        while id.hex() not in {view.id for view in (await node.client.tasks()).tasks}:
            await trio.sleep(0.02)  # poll: the frame crosses two processes
        return await node.client.result(id.hex())


async def admitted(node: LocalNode, name: str) -> tuple[Identity, JoinAnswer]:
    """A key drawn here and let in through the node's door."""
    identity = Identity(secrets.token_bytes(32))
    invite = await node.client.invite()
    _, answer = await join(identity, invite.token, name)
    return identity, answer
