"""The network as the node sees it: members' connections, and what flows over them.

Everything runs in one nursery, owned by the `async with` block; leaving the block closes all
within a second. What is sent never waits: `send` and `publish` put into bounded queues, and
`request`, `fetch_blob` and `dial` are the only calls that take time, each with its deadline.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Final

import trio
from libp2p.abc import INetConn
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service

from kowalski_protocol.identity import peer_id

from . import exchange
from .border import attempt, told
from .gossip import TOPICS, Gossip
from .host import Connection, Host
from .identity import key_pair, public_key_of
from .interface import PURPOSES, Blob, Handler, NetworkError, NetworkOptions, Purpose, Traffic
from .lanes import LANE, read_lane, write_lane
from .peers import Peer, Peers
from .sockets import Acceptor, connect_any, listening_address, open_listeners
from .stream import BufferedStream, open_stream

logger = logging.getLogger("kowalski.network")

LAST_S: Final = 0.25
CLOSE_S: Final = 0.5
POLL_S: Final = 0.002
LANE_OPEN_S: Final = 10.0
LANE_RETRY_MIN_S: Final = 0.1
LANE_RETRY_MAX_S: Final = 5.0
KEY_BYTES: Final = 32
NOTE_AGAIN_S: Final = 10.0


class Network:
    """The members that this node is connected to. Enter it to listen."""

    def __init__(
        self,
        *,
        seed: bytes,
        listen: Sequence[str],
        cluster: bytes,
        handler: Handler,
        options: NetworkOptions | None = None,
        ports_tried: int = 1,
    ) -> None:
        self._options = options or NetworkOptions()
        self._handler = handler
        self._listen = tuple(listen)
        self._ports_tried = ports_tried
        identity = key_pair(seed)
        self._key = identity.public_key.to_bytes()
        self._peers = Peers(
            self._key,
            self._options,
            is_member=handler.is_member,
            opened=self._opened,
            ended=self._ended,
            cleared=self._cleared,
        )
        self._host = Host(identity, self._peers.admit, self._options)
        self._gossip = Gossip(
            self._host.libp2p,
            {topic: f"/kowalski/{cluster.hex()[:16]}/{topic}" for topic in TOPICS},
            received=handler.gossip_received,
            counted=self._count_gossip,
            reaches=self._reaches,
            anybody=self._peers.anybody,
            options=self._options,
        )
        self._host.swarm.register_notifee(self._peers)
        self._host.serve_identify()
        self._host.serve(LANE, self._serve_lane)
        self._host.serve(exchange.PULL, self._serve_pull)
        self._host.serve(exchange.BLOB, self._serve_blob)
        self._dialling: dict[bytes, trio.Event] = {}
        self._traffic: dict[bytes, dict[Purpose, Traffic]] = {}
        self._addresses: list[str] = []
        self._reached: frozenset[bytes] = frozenset()
        self._nursery: trio.Nursery | None = None
        self._running: AbstractAsyncContextManager[None] | None = None

    # ------------------------------------------------------------------ being in the network

    async def __aenter__(self) -> Network:
        self._running = self._run()
        await self._running.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._running is not None
        if isinstance(error, Exception):
            # The caller's own error: libp2p's nurseries would wrap it in as many groups.
            await self._running.__aexit__(None, None, None)
            return False
        return await self._running.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        listeners = open_listeners(self._listen, self._ports_tried)
        self._addresses = [
            f"{listening_address(listener)}/p2p/{peer_id(self._key)}" for listener in listeners
        ]
        acceptor = Acceptor(self._accepted, self._options)
        try:
            async with (
                background_trio_service(self._host.swarm),
                self._gossip.run(),
                trio.open_nursery() as nursery,
            ):
                self._nursery = nursery
                for listener in listeners:
                    nursery.start_soon(acceptor.accept, listener, nursery)
                nursery.start_soon(self._keep_noting)
                try:
                    yield
                finally:
                    with trio.CancelScope(shield=True):
                        await self._send_last()
                        for listener in listeners:
                            trio.lowlevel.notify_closing(listener)
                            listener.close()
                        await self._peers.close_all(CLOSE_S)
                    nursery.cancel_scope.cancel()
        finally:
            for listener in listeners:
                listener.close()

    async def _send_last(self) -> None:
        """A moment for what was sent just before leaving; who takes nothing gets no more."""
        quiet_looks = 0
        with trio.move_on_after(LAST_S):
            while quiet_looks < 2:  # what was just taken from one queue is not yet in the next
                waiting = self._peers.unsent() or self._gossip.unsent()
                quiet_looks = 0 if waiting else quiet_looks + 1
                await trio.sleep(POLL_S)

    @property
    def addresses(self) -> list[str]:
        """Where this node listens, with real ports and the peer ID; wildcards stay wildcards."""
        return list(self._addresses)

    # -------------------------------------------------------------------------- what is sent

    def send(self, peer: bytes, data: bytes) -> bool:
        """Puts a message on the peer's lane; never waits. False if it won't arrive."""
        known = self._peers.get(peer)
        if known is None or not known.announced or known.refuses_lane:
            return False
        if len(data) > self._options.lane_message_bytes:
            return False
        if known.queue.put(data):
            return True
        self._tell_overflow(peer)
        return False

    def publish(self, topic: str, data: bytes) -> None:
        """Puts an item on a topic's queue; never waits."""
        self._gossip.publish(topic, data)

    async def request(self, peer: bytes, data: bytes, timeout_s: float) -> bytes:
        """The peer's response to a request. Raises NetworkError."""
        count = partial(self._count, peer, "pull")
        return await exchange.ask(self._conn(peer), data, timeout_s, self._options, count)

    @asynccontextmanager
    async def fetch_blob(self, peer: bytes, blob_hash: bytes, offset: int) -> AsyncIterator[Blob]:
        """A blob's bytes from `offset` on, in constant memory. Raises NetworkError."""
        count = partial(self._count, peer, "blob")
        conn = self._conn(peer)
        async with exchange.fetch(conn, blob_hash, offset, self._options, count) as blob:
            yield blob

    # --------------------------------------------------------------------------- connections

    def connected(self) -> list[bytes]:
        """The members with a connection."""
        return [peer.key for peer in self._peers.announced()]

    async def dial(self, peer: bytes, addresses: Sequence[str], timeout_s: float) -> bool:
        """Whether there is a connection to the peer now. Tries the addresses beside each other."""
        with trio.move_on_after(timeout_s):
            while peer in self._dialling:
                await self._dialling[peer].wait()
            if self._peers.is_up(peer):
                return True
            ended = self._dialling[peer] = trio.Event()
            try:
                await connect_any(addresses, partial(self._upgrade, peer))
            except NetworkError as error:
                logger.debug("dialling failed: %s", error)
                # The peer may have refused ours because its own dial is winning.
                await self._peers.settled(peer)
            finally:
                del self._dialling[peer]
                ended.set()
        return self._peers.is_up(peer)

    async def disconnect(self, peer: bytes) -> None:
        """Closes the connection to a peer, if there is one."""
        known = self._peers.get(peer)
        if known is not None and known.connection is not None:
            known.connection.wire.cut()

    def _conn(self, peer: bytes) -> INetConn:
        known = self._peers.get(peer)
        if known is None or known.conn is None:
            raise NetworkError("not connected")
        return known.conn

    async def _accepted(self, connected: socket.socket) -> None:
        try:
            await self._upgrade(None, connected)
        except NetworkError as error:
            logger.debug("a connection was not accepted: %s", error)

    async def _upgrade(self, peer: bytes | None, connected: socket.socket) -> None:
        assert self._nursery is not None
        connection = self._host.connection(connected, self._nursery, dialled=peer is not None)
        up = False
        try:
            await self._host.upgrade(connection, peer)
            up = True
        finally:
            if not up:
                self._peers.failed(connection)

    def _opened(self, peer: Peer, conn: INetConn, is_new: bool) -> None:
        assert self._nursery is not None
        connection = peer.connection
        assert connection is not None
        connection.wire.on_megabyte = partial(self._check_memory, conn, connection)
        if is_new:
            host, port = connection.wire.get_remote_address() or ("", 0)
            address = f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}"
            told("peer_connected", self._handler.peer_connected, peer.key, address)
        self._nursery.start_soon(self._keep_lane, peer, conn)

    def _ended(self, peer: Peer) -> None:
        told("peer_disconnected", self._handler.peer_disconnected, peer.key)

    def _cleared(self, id: ID) -> None:
        self._gossip.let_go(id)
        self._note_reached()

    def _check_memory(self, conn: INetConn, connection: Connection) -> None:
        """Cuts a peer that sends more than its windows allow: libp2p only logs that."""
        assert isinstance(conn.muxed_conn, Yamux)
        held = sum(len(buffer) for buffer in conn.muxed_conn.stream_buffers.values())
        if held > self._options.connection_memory_bytes:
            logger.warning("a peer is cut: %d bytes of it wait to be read", held)
            connection.wire.cut()

    # --------------------------------------------------------------------------------- lanes

    async def _keep_lane(self, peer: Peer, conn: INetConn) -> None:
        """Our lane to a peer, opened again whenever it ends while the connection stays."""
        delay_s = LANE_RETRY_MIN_S
        while peer.conn is conn:
            try:
                stream = await attempt("opening a lane", LANE_OPEN_S, open_stream, conn, LANE)
                delay_s = LANE_RETRY_MIN_S
                peer.refuses_lane = False
                await self._write_lane(peer, stream)
            except NetworkError as error:
                if peer.conn is conn and not peer.refuses_lane:
                    peer.refuses_lane = True
                    if peer.queue.clear():
                        self._tell_overflow(peer.key)
                logger.debug("no lane: %s", error)
            if peer.conn is not conn:
                return
            await trio.sleep(delay_s)
            delay_s = min(2 * delay_s, LANE_RETRY_MAX_S)

    async def _write_lane(self, peer: Peer, stream: BufferedStream) -> None:
        count = partial(self._count, peer.key, "lane")
        self._note(peer)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_end, stream, nursery.cancel_scope)
                try:
                    await write_lane(stream, peer.queue, self._options, lambda n: count(n, 0))
                except NetworkError as error:  # here, where it is not yet part of a group
                    logger.debug("a lane ended: %s", error)
                nursery.cancel_scope.cancel()
        finally:
            # What the stream had taken may not have arrived, so the peer must ask.
            peer.queue.clear()
            if peer.announced:
                self._tell_overflow(peer.key)
            await stream.reset()

    async def _serve_lane(self, key: bytes, stream: BufferedStream) -> None:
        peer = self._peers.get(key)
        if peer is None:
            return
        peer.reader.cancel()  # a lane that is opened anew takes the old one's place
        peer.reader = reader = trio.CancelScope()
        traffic = self._of(key, "lane")

        def received(message: bytes) -> None:
            traffic.received_bytes += len(message)
            told("lane_received", self._handler.lane_received, key, message)

        def noted(note: bytes) -> None:
            starts = range(0, len(note), KEY_BYTES)
            peer.reached = frozenset(note[start : start + KEY_BYTES] for start in starts)

        with reader:
            await read_lane(stream, self._options, received, noted)
        await stream.reset()

    def _tell_overflow(self, peer: bytes) -> None:
        # Later, not now: the node is in the middle of a `send`.

        def tell() -> None:
            told("lane_overflowed", self._handler.lane_overflowed, peer)

        trio.lowlevel.current_trio_token().run_sync_soon(tell)

    # ------------------------------------------------------------------- whom gossip reaches

    def _reaches(self, one: ID, other: ID) -> bool:
        one_key = public_key_of(one)
        peer = None if one_key is None else self._peers.get(one_key)
        return peer is not None and public_key_of(other) in peer.reached

    async def _keep_noting(self) -> None:
        """Tells the others whom our gossip reaches: when that changes, and now and then."""
        noted_s = trio.current_time()
        while True:
            await trio.sleep(self._options.gossip_heartbeat_s)
            changed = self._gossip.reached() != self._reached
            if changed or trio.current_time() - noted_s >= NOTE_AGAIN_S:
                noted_s = trio.current_time()
                self._note_reached()

    def _note_reached(self) -> None:
        self._reached = self._gossip.reached()
        for peer in self._peers.announced():
            if not peer.refuses_lane:
                self._note(peer)

    def _note(self, peer: Peer) -> None:
        peer.queue.put(b"".join(sorted(self._reached)), note=True)

    # ------------------------------------------------------------------------------- serving

    async def _serve_pull(self, peer: bytes, stream: BufferedStream) -> None:
        count = partial(self._count, peer, "pull")
        await exchange.answer(stream, peer, self._handler, self._options, count)

    async def _serve_blob(self, peer: bytes, stream: BufferedStream) -> None:
        count = partial(self._count, peer, "blob")
        await exchange.serve(stream, peer, self._handler, self._options, count)

    # ------------------------------------------------------------------------------- traffic

    def traffic(self) -> dict[bytes, dict[Purpose, Traffic]]:
        """Payload bytes per peer and purpose, also of peers that have gone."""
        return self._traffic

    def _of(self, peer: bytes, purpose: Purpose) -> Traffic:
        if peer not in self._traffic:
            self._traffic[peer] = {purpose: Traffic() for purpose in PURPOSES}
        return self._traffic[peer][purpose]

    def _count(self, peer: bytes, purpose: Purpose, sent_bytes: int, received_bytes: int) -> None:
        traffic = self._of(peer, purpose)
        traffic.sent_bytes += sent_bytes
        traffic.received_bytes += received_bytes

    def _count_gossip(self, id: ID, sent_bytes: int, received_bytes: int) -> None:
        key = public_key_of(id)
        if key is not None:
            self._count(key, "gossip", sent_bytes, received_bytes)


async def _until_end(stream: BufferedStream, writer: trio.CancelScope) -> None:
    """Ends the writer when the peer ends the stream: it says nothing on our lane, so any read
    will do."""
    try:
        await attempt("a lane", None, stream.read_piece)
    except NetworkError:
        pass
    writer.cancel()
