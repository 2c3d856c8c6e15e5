"""A member that means harm, as real nodes meet it, and what is looked at while it does.

It was let in through the door and speaks lanes, gossip and pulls as nodes do, but says only what a
test gives it: no heartbeats, no acknowledgements, nothing that is true by itself. Beside it stands
what the catalogue asks of every attack: honest work at a steady pace, and the node's memory.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psutil
import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_ledger.audit import audit
from kowalski_ledger.replay import replay
from kowalski_node.network import Network
from kowalski_node.runtime import CHARGES_LOGGED_PER_S
from kowalski_protocol.codec import encode
from kowalski_protocol.events import Body
from kowalski_protocol.feeds import Event, encode_frame, event_hash, genesis, signed_message
from kowalski_protocol.identity import Identity, author_of
from kowalski_protocol.ids import Author, ClusterId, EventHash
from kowalski_protocol.messages import frame_message
from kowalski_protocol.topics import TASK
from tests.live.evidence import settled, tool
from tests.live.network_world import LOOPBACK, Recorder
from tests.live.outsider import admitted

WAIT_S = 20.0
GROWTH_BYTES_MAX = 64 * 1024 * 1024
"""What a node's memory may grow by under attack."""
QUEUED_BYTES = 1024 * 1024
ROUNDS = 8
PACE_S = 0.1
"""Honest work comes in small rounds at a pace that nodes are far from being busy with."""
AT_LEAST = 0.8
"""Of the normal rate."""
SLACK_S = 2.0
"""For a machine that does other things as well: what is measured is the work, not the machine."""


class Forger:
    """One feed, whose every field can be said wrongly."""

    def __init__(self, identity: Identity, cluster: ClusterId, topic: str = TASK) -> None:
        self.identity = identity
        self.cluster = cluster
        self.topic = topic
        self.seq = 0
        self.hlc = 0
        self.last: EventHash = genesis(cluster, identity.author, topic)

    def event(self, kind: str, data: bytes, hlc: int | None = None) -> Event:
        """The next event of the feed."""
        now = (time.time_ns() // 1_000_000) << 16
        self.hlc = max(now, self.hlc + 1) if hlc is None else hlc
        self.seq += 1
        self.last = event_hash(self.last, self.seq, self.hlc, kind, data)
        author = self.identity.author
        return Event(author, self.topic, self.seq, self.hlc, kind, data, self.last)

    def frame(self, events: Sequence[Event]) -> bytes:
        """Events that follow each other as a signed frame."""
        last = events[-1]
        last.signature = self.identity.sign(signed_message(last.hash))
        return encode_frame(self.cluster, events)

    def says(self, body: Body) -> bytes:
        """The next event as a frame of its own."""
        return self.frame([self.event(type(body).__name__, encode(body))])

    def mark(self) -> bytes:
        """The next event, of a kind that nobody knows: stored everywhere, folded nowhere.

        Lanes keep their order, so who holds it has read all that was sent before it.
        """
        return self.frame([self.event("Mark", b"")])


class Outlaw:
    """The member on the network."""

    def __init__(self, network: Network, heard: Recorder, forger: Forger) -> None:
        self.network = network
        self.heard = heard
        self.forger = forger
        self.identity = forger.identity
        self.cluster = forger.cluster

    async def tell(self, node: LocalNode, *messages: bytes) -> None:
        """Sends lane messages, as fast as the node reads them."""
        key = key_of(node)
        peer = self.network._peers.get(key)
        assert peer is not None
        queue = peer.queue
        for message in messages:
            while queue.size_bytes > QUEUED_BYTES:
                await trio.sleep(0.002)  # poll: the lane's writer
            assert self.network.send(key, message)

    async def heard_out(self, *nodes: LocalNode) -> None:
        """Waits until the nodes have read all that they were told."""
        mark = frame_message(self.forger.mark())
        for node in nodes:
            await self.tell(node, mark)
        for node in nodes:
            await until_head(node, self.identity.peer_id, self.forger.topic, self.forger.seq)


class Hearing(Recorder):
    """Takes anybody for a member, and keeps what it is told."""

    def is_member(self, peer: bytes) -> bool:
        return True


def key_of(node: LocalNode) -> Author:
    """The public key of a node."""
    author = author_of(node.peer)
    assert author is not None
    return author


@asynccontextmanager
async def outlaw(*nodes: LocalNode) -> AsyncIterator[Outlaw]:
    """A member let in by the first of the nodes and connected to all of them."""
    identity, answer = await admitted(nodes[0], "outlaw")
    heard = Hearing()
    cluster = ClusterId(answer.cluster)
    async with Network(
        seed=identity.seed, listen=[LOOPBACK], cluster=cluster, handler=heard
    ) as network:
        for node in nodes:
            await _connect(network, node)
        yield Outlaw(network, heard, Forger(identity, cluster))


async def _connect(network: Network, node: LocalNode) -> None:
    view = await node.client.cluster()
    addresses = next(device.addresses for device in view.devices if device.id == node.peer)
    with trio.fail_after(WAIT_S):
        # Another node refuses until it, too, has the admission.
        while key_of(node) not in network.connected():
            await network.dial(key_of(node), addresses, 1.0)
            await trio.sleep(0.01)  # poll: the admission, and the connection


async def until_head(node: LocalNode, author: str, topic: str, seq: int) -> None:
    """Waits until the node holds a feed up to `seq`."""
    with trio.fail_after(WAIT_S):
        while True:
            heads = (await node.client.cluster()).heads
            if any((h.author, h.topic) == (author, topic) and h.seq >= seq for h in heads):
                return
            await trio.sleep(0.01)  # poll: what the node holds


async def digests(cluster: LocalCluster) -> set[str]:
    """What the nodes show now, without waiting for them to agree."""
    return {(await node.client.cluster()).digest for node in cluster.living()}


def charged(node: LocalNode, who: str) -> list[str]:
    """For what the node's log says that it refused somebody's word."""
    marker = f"refused from {who}: "
    lines = node.log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.partition(marker)[2] for line in lines if marker in line]


async def until_charged(outlaw: Outlaw, node: LocalNode, message: bytes, reason: str) -> None:
    """Sends what is refused until the log, which tells one refusal a second, tells this one."""
    with trio.fail_after(WAIT_S):
        while reason not in charged(node, outlaw.identity.peer_id[-8:]):
            await outlaw.tell(node, message)
            await trio.sleep(CHARGES_LOGGED_PER_S / 5)  # poll: the log


async def honest_work(node: LocalNode, rounds: int = ROUNDS) -> tuple[float, list[str]]:
    """Gives the node five tasks every tenth of a second, whatever becomes of those before.

    Returns how long it took until all were settled, and their ids.
    """
    ids: list[str] = []

    async def one_round() -> None:
        handles = await node.client.batch([tool("echo", value=n) for n in range(5)])
        new = [handle.id for handle in handles]
        ids.extend(new)
        views = await settled(node, new)
        assert {view.outcome for view in views.values()} == {"completed"}

    begun_s = time.monotonic()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(rounds):
                nursery.start_soon(one_round)
                await trio.sleep(PACE_S)  # poll: the pace of the work, no wait for anything
    assert len(ids) == 5 * rounds
    return time.monotonic() - begun_s, ids


class Memory:
    """By how much a node's process has grown since."""

    def __init__(self, node: LocalNode) -> None:
        self._process = psutil.Process(node.pid)
        self._at_first = self._process.memory_info().rss

    def grown_bytes(self) -> int:
        return self._process.memory_info().rss - self._at_first


class Watch:
    """What the attacked nodes did while they were watched."""

    def __init__(self) -> None:
        self.grown_bytes = 0
        self.ids: list[str] = []


@asynccontextmanager
async def watched(
    honest: LocalNode, *attacked: LocalNode, slack_s: float = SLACK_S
) -> AsyncIterator[Watch]:
    """Honest work goes on while the attack in the block does, and no attacked node grows.

    The work is measured without an attack too, in the same way.
    """
    watch = Watch()
    normal_s, before = await honest_work(honest)
    took_s = 0.0
    memories = [Memory(node) for node in attacked]

    async def look() -> None:
        while True:
            grown = (memory.grown_bytes() for memory in memories)
            watch.grown_bytes = max(watch.grown_bytes, *grown)
            await trio.sleep(0.02)  # poll: the process's memory

    async def work() -> None:
        nonlocal took_s
        took_s, during = await honest_work(honest)
        watch.ids += before + during

    async with trio.open_nursery() as looking:
        looking.start_soon(look)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            yield watch
        for node in attacked:
            assert await node.answers()
        looking.cancel_scope.cancel()
    if took_s > normal_s / AT_LEAST + slack_s:
        # The machine itself may have become slower since the work was measured without an attack.
        later_s, after = await honest_work(honest)
        watch.ids += after
        assert took_s <= later_s / AT_LEAST + slack_s, (normal_s, took_s, later_s)
    assert watch.grown_bytes < GROWTH_BYTES_MAX


async def assert_files_sound(cluster: LocalCluster) -> None:
    """Stops all nodes: their files are sound, and say the same.

    For where a member's wrong word is kept as evidence, which an audit finds.
    """
    digest = await cluster.one_digest()
    nodes = cluster.living()
    for node in nodes:
        await node.kill()
    for node in nodes:
        path = node.home / "ledger.db"
        checked = audit(path)
        assert (checked.ok, checked.problems) == (True, [])
        assert replay(path).digest == digest
