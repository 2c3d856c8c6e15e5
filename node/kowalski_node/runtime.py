"""A running node: the core and everything around it, put together and owned by one `async with`.

What comes from the network, the executors, the sensors and the surfaces is turned into inputs for
the pipeline; effects are carried out here, each in a line or two. Nothing is decided in this file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from kowalski_ledger.port import Sample
from kowalski_ledger.store import Store
from kowalski_protocol.codec import Malformed, encode
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import CapabilitiesAdvertised
from kowalski_protocol.feeds import Event, Feed, encode_frame
from kowalski_protocol.identity import Identity, author_of, peer_id
from kowalski_protocol.ids import Author
from kowalski_protocol.invites import JoinAnswer
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.messages import (
    ACK,
    DATAGRAM,
    FRAME,
    HEADS,
    OutputRequest,
    RangeRequest,
    ack_message,
    datagram_message,
    decode_ack,
    decode_frames,
    decode_heads,
    decode_request,
    frame_message,
    heads_message,
)
from kowalski_protocol.telemetry import encode_datagram
from kowalski_protocol.topics import TASK, TELEMETRY

from . import addresses as own_addresses
from .adverts import Advert, cluster_tag
from .blobs import Blobs
from .core import effects as fx
from .core import inputs as ins
from .core.node import Node
from .discovery import Discovery
from .door import Door
from .executor import Executor, Recorded
from .interfaces import interface_addresses
from .network import Network, NetworkError
from .options import NodeOptions
from .outputs import Outputs
from .pauses import SettledObjects
from .pipeline import Pipeline
from .runner import Runner
from .sampler import Sampler
from .service import Service
from .session_history import recorded_cells
from .steps import Steps
from .views import ErrorView

_log = logging.getLogger("kowalski.node")

DIAL_TIMEOUT_S = 5.0
ADDRESSES_META = "addresses"
ADDRESSES_EVERY_S = 1.0
"""A node that is killed moments after it met another must find it again."""
CHARGES_LOGGED_PER_S = 1.0


class Runtime:
    """The shell of one node.

    Made by `open_runtime`; `stopped` is set when the core has finished.
    """

    def __init__(
        self,
        node: Node,
        store: Store,
        identity: Identity,
        options: NodeOptions,
        blobs: Blobs,
        executors: Sequence[Executor],
    ) -> None:
        self.node = node
        self.stopped = trio.Event()
        self._objects = SettledObjects()
        self._store = store
        self._identity = identity
        self._options = options
        self._blobs = blobs
        self._nursery: trio.Nursery | None = None
        self.problems: dict[str, ErrorView] = {}
        self.pipeline = Pipeline(node, store, identity, self)
        self.runner = Runner(
            executors,
            blobs,
            LIMITS,
            self.pipeline.feed,
            self._payload,
            self._open_blob,
            self._recorded,
            Steps(self.pipeline.feed, lambda id: self.service.task(id)),
        )
        self.network = Network(
            seed=identity.seed,
            listen=options.listen,
            ports_tried=options.ports_tried,
            cluster=node.state.cluster,
            handler=self,
        )
        self.outputs = Outputs(identity.author, self.runner, blobs, lambda: self.network)
        self.door = Door(
            identity, join_listeners(options.listen), self._admit, self._welcome, self._reachable
        )
        self.service = Service(
            node,
            self.pipeline,
            store,
            blobs,
            self.door,
            self.outputs,
            self.network,
            self.problems,
        )
        self._last_charge_logged_s = 0.0

    # The network's handler.

    def is_member(self, peer: bytes) -> bool:
        members = self.node.state.members
        return peer in members or (not members and peer in self.node.peers.by_author)

    def peer_connected(self, peer: bytes, address: str) -> None:
        self.pipeline.feed(ins.PeerConnected(Author(peer), address))

    def peer_disconnected(self, peer: bytes) -> None:
        self.pipeline.feed(ins.PeerDisconnected(Author(peer)))

    def gossip_received(self, topic: str, source: bytes | None, data: bytes) -> None:
        if topic == TELEMETRY:
            self.pipeline.feed(ins.DatagramReceived(None, data))
        else:
            self.pipeline.feed(ins.FrameReceived(None, data))

    def lane_received(self, peer: bytes, data: bytes) -> None:
        author = Author(peer)
        tag = data[0] if data else 0
        try:
            if tag == FRAME:
                self.pipeline.feed(ins.FrameReceived(author, data[1:]))
            elif tag == DATAGRAM:
                self.pipeline.feed(ins.DatagramReceived(author, data[1:]))
            elif tag == ACK:
                self.pipeline.feed(ins.AckReceived(author, *decode_ack(data)))
            elif tag == HEADS:
                heads, wants_answer = decode_heads(data)
                self.pipeline.feed(ins.HeadsReceived(author, heads, wants_answer))
            # Anything else is of a newer release: not ours to judge.
        except Malformed as error:
            self._charge(author, str(error))

    def lane_overflowed(self, peer: bytes) -> None:
        """It will see from our heartbeats what it lacks, and pull."""

    async def answer(self, peer: bytes, request: bytes) -> bytes:
        try:
            wanted = decode_request(request)
        except Malformed as error:
            self._charge(Author(peer), str(error))
            return b""
        if isinstance(wanted, OutputRequest):
            return encode(self.outputs.answer(wanted))
        return encode(await self._range(wanted))

    async def _range(self, wanted: RangeRequest) -> list[bytes]:
        if len(wanted.author) != 32 or wanted.after_seq < 0:
            return []
        limits = self.node.config.limits
        events = await self._store.read_range(
            Feed(Author(wanted.author), wanted.topic),
            wanted.after_seq,
            limits.pull_size_bytes_max // 2,
            limits.frame_events_max,
        )
        return [encode_frame(self.node.state.cluster, events)] if events else []

    async def serve_blob(
        self, peer: bytes, blob_hash: bytes, offset: int
    ) -> tuple[int, AsyncIterator[bytes]] | None:
        return await self._blobs.read(blob_hash.hex(), offset) if len(blob_hash) == 32 else None

    # The pipeline's carrier.

    def received(self, events: Sequence[Event]) -> None:
        self.service.attachments.keep(events)

    def committed(self, events: Sequence[Event], position: int) -> None:
        self.service.ledger_grew()
        self._objects.grew(len(events))

    def publish(self, topic: str, frame: bytes) -> None:
        message = frame_message(frame)
        for peer in self.network.connected():
            self.network.send(peer, message)
        self.network.publish(topic, frame)

    def carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Start():
                self.runner.start(effect)
            case fx.Settled():
                self.service.settled(effect.task)
            case fx.Acknowledge():
                self.network.send(effect.peer, ack_message(effect.topic, effect.seq))
            case fx.Answer():
                self.service.answered(effect)
            case fx.SendHeartbeat():
                self._heartbeat(effect)
            case fx.StopAttempt():
                self.runner.stop(effect.attempt)
            case fx.StepEnded() | fx.StepRefused():
                self.runner.steps.ended(effect)
            case fx.SendHeads():
                self.network.send(effect.peer, heads_message(effect.heads, effect.wants_answer))
            case fx.Pull():
                self._start(self._pull, effect)
            case fx.Dial():
                self._start(self._dial, effect)
            case fx.FetchBlob():
                self._start(self._fetch, effect)
            case fx.Charge():
                self._charge(effect.peer, effect.reason)
            case fx.Stopped():
                self.stopped.set()

    def _start(self, task: Callable[[Any], Awaitable[None]], effect: fx.Effect) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(task, effect)

    def _heartbeat(self, effect: fx.SendHeartbeat) -> None:
        datagram = encode_datagram(
            self.node.state.cluster, self._identity.author, self._identity.sign, effect.heartbeat
        )
        message = datagram_message(datagram)
        for peer in self.network.connected():
            self.network.send(peer, message)
        if effect.gossip:
            self.network.publish(TELEMETRY, datagram)

    async def _pull(self, pull: fx.Pull) -> None:
        request = encode(RangeRequest(pull.feed.author, pull.feed.topic, pull.after_seq))
        frames: tuple[bytes, ...] | None = None
        try:
            timeout_s = self.node.config.timers.pull_timeout_s
            frames = decode_frames(await self.network.request(pull.peer, request, timeout_s))
        except (NetworkError, Malformed) as error:
            _log.debug("a pull failed: %s", error)
        self.pipeline.feed(ins.PullEnded(pull.peer, pull.feed, frames))

    async def _dial(self, dial: fx.Dial) -> None:
        connected = await self.network.dial(dial.peer, dial.addresses, DIAL_TIMEOUT_S)
        self.pipeline.feed(ins.DialEnded(dial.peer, connected))

    async def _fetch(self, fetch: fx.FetchBlob) -> None:
        try:
            ok = await self.outputs.bring_blob(fetch.blob.hex(), fetch.device)
        except Exception:  # guard: a failed fetch is told to the core, which asks again
            _log.exception("a blob could not be fetched")
            ok = False
        self.pipeline.feed(ins.BlobArrived(fetch.blob, fetch.task, ok))

    def _charge(self, peer: Author | None, reason: str) -> None:
        self.service.refused += 1
        now_s = time.monotonic()
        if now_s - self._last_charge_logged_s > CHARGES_LOGGED_PER_S:
            self._last_charge_logged_s = now_s
            _log.warning("refused from %s: %s", peer_id(peer)[-8:] if peer else "gossip", reason)

    # Executors and blobs.

    async def _payload(self, start: fx.Start) -> bytes | None:
        kept = self.service.attachments.get(start.submitter, TASK, start.submitted_seq)
        if kept is not None:
            return kept
        return await self._store.attachment(Feed(start.submitter, TASK), start.submitted_seq)

    async def _recorded(self, start: fx.Start) -> Sequence[Recorded]:
        return await recorded_cells(self.node.state, self._store, start)

    async def _open_blob(self, blob_hash: str) -> Path:
        return await self.outputs.open_blob(blob_hash)

    # Invites.

    async def _admit(self, member: Author, name: str, role: str, invite: bytes) -> None:
        await self.service.admit(member, name, role, invite)

    def _welcome(self) -> JoinAnswer:
        state = self.node.state
        assert state.founder is not None
        members: list[tuple[bytes, tuple[str, ...]]] = [
            (self._identity.author, self.node.heartbeats.addresses)
        ]
        members += [
            (author, peer.addresses)
            for author, peer in self.node.peers.by_author.items()
            if author in state.members and peer.addresses
        ]
        return JoinAnswer(state.cluster, state.founder.author, state.name, tuple(members))

    def _reachable(self, listening: Sequence[str]) -> Sequence[str]:
        return reachable(listening)

    # Loops.

    @asynccontextmanager
    async def running(
        self,
        capabilities: CapabilitiesAdvertised,
        more: Callable[[], Awaitable[CapabilitiesAdvertised]],
    ) -> AsyncIterator[None]:
        """The node at work: listening, sampling, discovering, ticking.

        It offers `capabilities` at once, and what `more` finds out when that has come.
        """
        async with self.network, trio.open_nursery() as nursery:
            self._nursery = nursery
            self.node.heartbeats.addresses = tuple(reachable(self.network.addresses))[:16]
            await nursery.start(self.runner.run)
            await nursery.start(self.pipeline.run)
            await nursery.start(self.door.run)
            self.pipeline.feed(ins.Advertise(capabilities))
            await self._know_addresses()
            nursery.start_soon(self._tick)
            nursery.start_soon(self._sample)
            nursery.start_soon(self._keep_addresses)
            if self._options.mdns:
                nursery.start_soon(self._discover)
            nursery.start_soon(self._offer, more)
            yield
            nursery.cancel_scope.cancel()

    async def _offer(self, more: Callable[[], Awaitable[CapabilitiesAdvertised]]) -> None:
        self.pipeline.feed(ins.Advertise(await more()))

    async def _tick(self) -> None:
        while True:
            self.pipeline.feed(ins.Tick())
            await trio.sleep(self.node.config.timers.tick_s)

    async def _sample(self) -> None:
        with Sampler(self._options.home) as sampler:
            while True:
                sample = msgspec.to_builtins(sampler.sample())
                self.pipeline.feed(ins.SampleTaken(sample))
                kept = [Sample(self._identity.author, time.time_ns() // 1_000_000, sample)]
                try:
                    await self._store.add_telemetry(kept)
                except Problem as problem:
                    # What keeps samples from the disk is told where events are committed.
                    _log.warning("samples are not kept: %s", problem)
                await trio.sleep(self.node.config.timers.sample_s)

    async def _discover(self) -> None:
        tag = cluster_tag(self.node.state.cluster)

        def found(advert: Advert) -> None:
            author = author_of(advert.peer)
            if advert.cluster_tag == tag and author is not None and self.is_member(author):
                self.pipeline.feed(ins.AddressesLearned(author, advert.addresses, fresh=True))

        port = port_of(self.network.addresses)
        async with Discovery(
            peer=self._identity.peer_id,
            cluster=self.node.state.cluster,
            port=port,
            name=self._options.name,
            found=found,
            hosts=lambda: own_addresses.listened_on(interface_addresses(), self.network.addresses),
        ) as discovery:
            while True:
                if discovery.problem is not None:
                    self.problems["discovery"] = ErrorView("no_discovery", discovery.problem)
                else:
                    self.problems.pop("discovery", None)
                await trio.sleep(5.0)

    async def _know_addresses(self) -> None:
        """Where members were last seen, and what the owner said on the command line."""
        kept = await self._store.get_meta(ADDRESSES_META)
        if kept is not None:
            for author, addresses in msgspec.msgpack.decode(
                kept, type=list[tuple[bytes, tuple[str, ...]]]
            ):
                self._learn(Author(author), addresses)
        for address in self._options.peers:
            _, named, id = address.rpartition("/p2p/")
            author = author_of(id) if named else None
            for member in [author] if author else list(self.node.state.members):
                if member != self._identity.author:
                    self._learn(member, (address,))

    def _learn(self, author: Author, addresses: Sequence[str]) -> None:
        self.pipeline.feed(ins.AddressesLearned(author, tuple(addresses), fresh=True))

    async def _keep_addresses(self) -> None:
        """Remembers where members are, so that a restart finds them without discovery."""
        kept: bytes | None = None
        while True:
            await trio.sleep(ADDRESSES_EVERY_S)
            known = [
                (bytes(author), peer.addresses)
                for author, peer in self.node.peers.by_author.items()
                if peer.addresses and author in self.node.state.members
            ]
            now = encode(known)
            if now != kept:
                try:
                    await self._store.set_meta(ADDRESSES_META, now)
                except Problem as problem:
                    _log.warning("addresses are not kept: %s", problem)
                else:
                    kept = now


def port_of(listening: Sequence[str]) -> int:
    """The TCP port that a node listens on."""
    return next((own_addresses.parse_multiaddr(address).port for address in listening), 0)


def reachable(listening: Sequence[str]) -> list[str]:
    """What others may dial: wildcard addresses replaced by those of the interfaces."""
    found: list[str] = []
    for text in listening:
        address = own_addresses.parse_multiaddr(text)
        if address.host in ("0.0.0.0", "::"):
            family = ":" in address.host
            hosts = [
                a for a in own_addresses.offered(interface_addresses()) if (":" in a.ip) == family
            ]
            found += own_addresses.multiaddrs(hosts, address.port)
        else:
            found.append(text.rpartition("/p2p/")[0] or text)
    return list(dict.fromkeys(found))


def join_listeners(listen: Sequence[str]) -> list[str]:
    """Where newcomers knock: the same interfaces, any free port."""
    found: list[str] = []
    for text in listen:
        address = own_addresses.parse_multiaddr(text)
        family = "ip6" if ":" in address.host else "ip4"
        found.append(f"/{family}/{address.host}/tcp/0")
    return list(dict.fromkeys(found))
