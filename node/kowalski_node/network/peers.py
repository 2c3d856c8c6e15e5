"""Which members there is a connection to: one each, told once, and cleared away before the next.

A `Peer` exists from the end of its handshake to the end of its last connection. Its `Claim` (see
`gate`) is the connection that stands for it. A connection goes through three moments: *opened*,
when libp2p can carry streams; *lost*, when the kernel reports its end, which is told at once;
*released*, some 0.2 s later, when libp2p and its pubsub have cleared it away. The gate lets the
next connection to the same peer in only after the release, because libp2p's pubsub takes a new
connection's streams for the old one's.

Where one connection replaces another (both sides dialled at the same moment), the node hears
nothing of it: to the node the peer was there all the time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee, IRawConnection
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from .gate import Claim
from .host import Connection
from .identity import public_key_of
from .interface import NetworkOptions
from .lanes import LaneQueue

RELEASE_S: Final = 2.0
"""libp2p clears a closed connection away in 0.2 s; a starved device needs longer."""


class Peer:
    """One member with a connection, or with one being made."""

    def __init__(self, key: bytes, options: NetworkOptions) -> None:
        self.key = key
        self.claim: Claim | None = None
        self.conn: INetConn | None = None
        """Set while streams can be opened."""
        self.announced = False
        self.queue = LaneQueue(options.lane_queue_bytes)
        self.refuses_lane = False
        """The last try to open our lane to it failed: it may be a plain gossipsub program."""
        self.reader = trio.CancelScope()
        """Of the task that reads the peer's lane."""
        self.reached: frozenset[bytes] = frozenset()
        """Whom its gossip reaches without our help, as it says."""

    @property
    def connection(self) -> Connection | None:
        """The connection that stands for the peer, whatever its state."""
        raw = None if self.claim is None else self.claim.raw
        assert raw is None or isinstance(raw, Connection)
        return raw


class Peers(INotifee):
    """The peers with a connection, kept in step with libp2p."""

    def __init__(
        self,
        own_key: bytes,
        options: NetworkOptions,
        *,
        is_member: Callable[[bytes], bool],
        opened: Callable[[Peer, INetConn, bool], None],
        ended: Callable[[Peer], None],
        cleared: Callable[[ID], None],
    ) -> None:
        self._own_key = own_key
        self._options = options
        self._is_member = is_member
        self._opened = opened
        """(peer, connection, whether the peer is new)"""
        self._ended = ended
        self._cleared = cleared
        """Takes care that nothing in libp2p holds on to a closed connection's streams."""
        self._peers: dict[bytes, Peer] = {}

    def get(self, key: bytes) -> Peer | None:
        return self._peers.get(key)

    def announced(self) -> list[Peer]:
        """The peers that the node was told of."""
        return [peer for peer in self._peers.values() if peer.announced]

    def anybody(self) -> bool:
        """Whether there is any connection."""
        return any(peer.announced for peer in self._peers.values())

    def is_up(self, key: bytes) -> bool:
        """Whether streams to the peer can be opened."""
        peer = self._peers.get(key)
        return peer is not None and peer.conn is not None

    async def settled(self, key: bytes) -> bool:
        """Whether there is a connection, once none is being made any more."""
        while (peer := self._peers.get(key)) is not None and peer.conn is None:
            claim = peer.claim
            if claim is None:
                break
            await claim.decided.wait()
        return self.is_up(key)

    def unsent(self) -> bool:
        """Whether anything waits to be sent to anybody."""
        return any(
            peer.queue.size_bytes or (peer.connection and peer.connection.wire.pending_bytes)
            for peer in self.announced()
        )

    async def close_all(self, timeout_s: float) -> None:
        """Closes every connection, and waits for libp2p to have cleared them away."""
        claims = [peer.claim for peer in self._peers.values() if peer.claim is not None]
        for claim in claims:
            await claim.raw.close()
        with trio.move_on_after(timeout_s):
            for claim in claims:
                await claim.released.wait()

    async def admit(self, key: bytes, raw: IRawConnection, dialled: bool) -> str | None:
        """The gate's decision about an authenticated peer: None, or the reason to refuse it."""
        if key == self._own_key or not self._is_member(key):
            return "not a member"
        peer = self._peers.get(key)
        if peer is None and len(self._peers) >= self._options.connections_max:
            return "too many connections"
        while peer is not None and (claim := peer.claim) is not None:
            if not claim.yields_to(dialled=dialled, own_dials_win=self._own_key < key):
                return "the other connection is kept"
            if not claim.lost:
                claim.replaced = True
                await claim.raw.close()
            with trio.move_on_after(RELEASE_S) as waiting:
                await claim.released.wait()
            if waiting.cancelled_caught:
                return "the old connection is still being cleared away"
            peer = self._peers.get(key)
        assert isinstance(raw, Connection)
        if raw.wire.closed:
            return "the connection is gone"
        peer = self._peers.setdefault(key, Peer(key, self._options))
        peer.claim = Claim(raw, dialled=dialled)
        raw.wire.on_lost = partial(self._lost, peer, peer.claim)
        return None

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        """libp2p has a new connection, ready for streams."""
        key = public_key_of(conn.muxed_conn.peer_id)
        peer = None if key is None else self._peers.get(key)
        if peer is None or peer.claim is None or peer.claim.lost:
            return
        peer.conn = conn
        is_new, peer.announced = not peer.announced, True
        peer.claim.decided.set()
        self._opened(peer, conn, is_new)

    def _lost(self, peer: Peer, claim: Claim) -> None:
        """The connection has ended, as the kernel says; libp2p doesn't know yet."""
        claim.lost = True
        peer.conn = None
        peer.reader.cancel()
        peer.reached = frozenset()
        if not claim.replaced:
            self._end(peer)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        """libp2p has cleared a connection away; once the rest has too, the peer may come again."""
        key = public_key_of(conn.muxed_conn.peer_id)
        peer = None if key is None else self._peers.get(key)
        claim = None if peer is None else peer.claim
        if peer is None or claim is None or not claim.lost:
            return
        self._cleared(conn.muxed_conn.peer_id)
        self._release(peer, claim)

    def failed(self, connection: Connection) -> None:
        """A connection did not come up."""
        for peer in list(self._peers.values()):
            if peer.claim is not None and peer.claim.raw is connection:
                self._release(peer, peer.claim)

    def _release(self, peer: Peer, claim: Claim) -> None:
        claim.decided.set()
        claim.released.set()
        if peer.claim is not claim:
            return
        peer.claim = None
        if not claim.replaced:
            self._end(peer)
        if not peer.announced and self._peers.get(peer.key) is peer:
            del self._peers[peer.key]

    def _end(self, peer: Peer) -> None:
        if peer.announced:
            peer.announced = False
            peer.queue.clear()
            self._ended(peer)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None: ...

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None: ...
