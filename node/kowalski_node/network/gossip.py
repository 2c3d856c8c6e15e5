"""The three gossipsub topics: a queue that never waits, and messages that are full.

Publishing never waits: an item goes into a bounded queue that one task empties a moment later, in
bundles when items come fast. libp2p drops a message
for a peer whose queue of 32 is full, and says nothing; so the task waits until the queues have
room again, but never for a peer that takes nothing, which pulls later.

How libp2p's own classes are kept from harm is the business of `pubsub`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.score import ScoreParams
from libp2p.tools.anyio_service import background_trio_service

from .border import told
from .bundle import bundled, unbundled
from .identity import public_key_of
from .interface import NetworkOptions
from .pubsub import Counted, GuardedPubsub, MessageIds, Reaches, SparingGossipSub

PROTOCOLS: Final = tuple(
    TProtocol(f"/meshsub/{version}") for version in ("1.1.0", "1.0.0", "1.2.0", "1.3.0")
)
"""Ours among themselves speak the first; any of them is accepted from other programs."""
QUEUE_ROOM: Final = 24
"""Of libp2p's 32 places per peer; control messages need some."""
GRACE_S: Final = 0.25
"""A peer whose queue stays full for longer is not waited for until half of it is sent."""
POLL_S: Final = 0.002
ANNOUNCE_EVERY_S: Final = 10.0
TOPICS: Final = ("task", "result", "telemetry")
MEMBERS_MAX: Final = 128

Received = Callable[[str, bytes | None, bytes], None]


class Gossip:
    """The cluster's topics on a host."""

    def __init__(
        self,
        host: BasicHost,
        names: dict[str, str],
        *,
        received: Received,
        counted: Counted,
        reaches: Reaches,
        anybody: Callable[[], bool],
        options: NetworkOptions,
    ) -> None:
        self._options = options
        self._anybody = anybody
        self._received = received
        self._names = names
        self._topics = {name: topic for topic, name in names.items()}
        self._own_id = host.get_id().to_bytes()
        self._queues: dict[str, deque[bytes]] = {topic: deque() for topic in names}
        self._queued_bytes = 0
        self._wake = trio.Event()
        self._slow: set[ID] = set()
        self.dropped_items = 0
        """Items never sent: the queue was full, or the item too large."""
        self._router = SparingGossipSub(
            protocols=PROTOCOLS,
            # Whoever is connected is in the mesh at once; `SparingGossipSub`
            # sees to it that a message still crosses each link once.
            degree=MEMBERS_MAX,
            degree_low=MEMBERS_MAX,
            degree_high=2 * MEMBERS_MAX,
            direct_peers=None,
            time_to_live=60,
            gossip_window=3,
            gossip_history=5,
            heartbeat_initial_delay=0.1,
            heartbeat_interval=options.gossip_heartbeat_s,  # pyright: ignore[reportArgumentType]
            direct_connect_initial_delay=86400.0,
            direct_connect_interval=86400,
            do_px=False,
            px_peers_count=0,
            prune_back_off=5,
            unsubscribe_back_off=1,
            score_params=ScoreParams(),
            max_idontwant_messages=64,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            max_messages_per_topic_per_second=1e9,
            eclipse_protection_enabled=False,
            min_mesh_diversity_ips=0,
            my_extensions=None,
            max_pending_messages_per_peer=8,
            pending_messages_ttl=5.0,
        )
        self._pubsub = GuardedPubsub(
            host=host,
            router=self._router,
            cache_size=None,
            seen_ttl=120,
            sweep_interval=60,
            strict_signing=False,  # `GuardedPubsub` signs, and checks what was relayed
            msg_id_constructor=MessageIds(),
            max_concurrent_validator_count=1,
            validation_cache_ttl=1,
            validation_cache_size=16,
            validation_timeout=1.0,
            max_subscriptions_per_rpc=16,
            max_subscriptions_per_peer=16,
            max_inbound_rpc_size=2 * options.gossip_message_bytes,
            allowed_topics=frozenset(names.values()),
        )
        self._router.reaches = reaches
        self._pubsub.counter = time.time_ns()
        self._pubsub.opening = {}
        self._pubsub.key = host.get_private_key()
        self._pubsub.deliver = self._deliver
        self._pubsub.count = counted
        self._pubsub.window_bytes = options.lane_window_bytes

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """The topics are joined inside, and the queue is being emptied."""
        async with (
            background_trio_service(self._pubsub),
            background_trio_service(self._router),
            trio.open_nursery() as nursery,
        ):
            try:
                await self._pubsub.wait_until_ready()
                for name in self._names.values():
                    await self._pubsub.subscribe(name)
                nursery.start_soon(self._publish_queued)
                nursery.start_soon(self._keep_tidy)
                yield
            finally:
                nursery.cancel_scope.cancel()
                self._pubsub.seen_messages.stop()

    def publish(self, topic: str, data: bytes) -> None:
        """Queues one item; never waits. The oldest items give way where the queue is full."""
        if len(data) > self._options.gossip_message_bytes:
            self.dropped_items += 1
            return
        if not self._anybody():
            return  # who comes later pulls; who is just coming is sent the last three seconds
        self._queues[topic].append(data)
        self._queued_bytes += len(data)
        while self._queued_bytes > self._options.gossip_queue_bytes:
            longest = max(self._queues.values(), key=len)
            self._queued_bytes -= len(longest.popleft())
            self.dropped_items += 1
        self._wake.set()

    def knows(self, peer: ID) -> bool:
        """Whether a peer's subscriptions have arrived and a stream to it is open."""
        return peer in self._pubsub.peers and all(
            peer in self._pubsub.peer_topics.get(name, ()) for name in self._names.values()
        )

    def unsent(self) -> bool:
        """Whether anything waits to be published or sent."""
        return bool(self._queued_bytes) or any(map(len, self._pubsub.peer_queues.values()))

    def reached(self) -> frozenset[bytes]:
        """The peers to which this node sends its gossip on every topic."""
        meshes = [self._router.mesh.get(name, set[ID]()) for name in self._names.values()]
        keys = (public_key_of(peer) for peer in set[ID].intersection(*meshes))
        return frozenset(key for key in keys if key is not None)

    def let_go(self, peer: ID) -> None:
        """Nothing is left of a peer whose connection has ended."""
        self._pubsub.forget_if_gone(peer)

    def _deliver(self, message: rpc_pb2.Message) -> None:
        topic = self._topics.get(message.topicIDs[0])
        if topic is None or message.from_id == self._own_id:
            return
        source = public_key_of(ID(message.from_id))
        for item in unbundled(message.data):
            told("gossip_received", self._received, topic, source, item)

    async def _publish_queued(self) -> None:
        while True:
            await self._wake.wait()
            # What is urgent goes by lanes; here more items share a message, and meanwhile the
            # processor is free for the lanes: a message costs each node most of a millisecond.
            await trio.sleep(self._options.gossip_linger_s)
            self._wake = trio.Event()
            while any(self._queues.values()):
                for topic, queue in self._queues.items():
                    if queue:
                        await self._wait_for_room()
                        items = self._take(queue)
                        if items:
                            await self._pubsub.publish(self._names[topic], bundled(items))

    def _take(self, queue: deque[bytes]) -> Sequence[bytes]:
        """The items for one message: the first, and what fits beside it into a bundle."""
        items: list[bytes] = []
        size_bytes = 1
        while queue:
            size_bytes += 4 + len(queue[0])
            if items and size_bytes > self._options.gossip_bundle_bytes:
                break
            items.append(queue.popleft())
        self._queued_bytes -= sum(map(len, items))
        return items

    async def _wait_for_room(self) -> None:
        """Returns when every peer that keeps up has room in its queue."""
        deadline_s = trio.current_time() + GRACE_S
        while full := self._full_queues():
            if trio.current_time() >= deadline_s:
                self._slow |= full
                return
            await trio.sleep(POLL_S)

    def _full_queues(self) -> set[ID]:
        """Peers without room in their queues, other than those found slow."""
        queues = self._pubsub.peer_queues
        self._slow = {peer for peer in self._slow if len(queues.get(peer, ())) > QUEUE_ROOM // 2}
        return {
            peer
            for peer, queue in queues.items()
            if len(queue) >= QUEUE_ROOM and peer not in self._slow
        }

    async def _keep_tidy(self) -> None:
        """Empties what libp2p only ever fills, and repeats our subscriptions to those who lost
        them."""
        announced_s = trio.current_time()
        while True:
            await trio.sleep(self._options.gossip_heartbeat_s)
            self._router.equivocation_detection.clear()
            self._router.recent_message_deliveries.clear()
            for peer in list(self._pubsub.peers):
                self._pubsub.forget_if_gone(peer)
            if trio.current_time() - announced_s >= ANNOUNCE_EVERY_S:
                announced_s = trio.current_time()
                hello = self._pubsub.get_hello_packet()
                await self._pubsub.message_all_peers(hello.SerializeToString())
