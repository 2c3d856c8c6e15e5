"""How the libp2p host is put together: every option of libp2p that matters, at one call site.

The host is built from libp2p's parts and not by `new_host`, because what `new_host` adds is what
we must not have: SECIO, PLAINTEXT and TLS next to Noise, mplex next to yamux, a resource manager
of its own defaults, listeners that share their port with any other process (SO_REUSEPORT), a
dialer with a cache of failed peers, and a count of inbound connections that never goes down. The
host has no transport at all: `sockets` listens and dials, and `Host.upgrade` hands the raw
connection to the swarm. So nothing in libp2p opens a connection on a schedule of its own.

A handler that raises would end the whole swarm, and nothing counts a peer's streams; libp2p's
stream handler is wrapped with both. Of libp2p's own protocols none is served but identify, and
that only where asked for, since other implementations ask for it before anything else; ours is
never asked.
"""

from __future__ import annotations

import logging
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from libp2p.abc import INetStream, IRawConnection
from libp2p.crypto.keys import KeyPair
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import identify_handler_for
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from .border import attempt
from .gate import Admission, GatedNoise
from .identity import libp2p_id, public_key_of
from .interface import NetworkError, NetworkOptions
from .stream import BufferedStream
from .wire import Wire

NEGOTIATION_S: Final = 10
ANYWHERE: Final = "/ip4/0.0.0.0/tcp/0"
"""What libp2p is told as the address that a connection came in at: it only logs it."""

Served = Callable[[bytes, BufferedStream], Awaitable[None]]


class Connection(RawConnection):
    """A raw connection whose wire is known to be ours."""

    def __init__(self, wire: Wire, *, dialled: bool) -> None:
        super().__init__(wire, dialled)
        self.wire = wire


class _NoAutoConnector(AutoConnector):
    """libp2p dials whomever it knows until it has half its maximum; we dial on our own schedule."""

    async def run_background_task(self, nursery: trio.Nursery) -> None: ...

    async def maybe_connect(self) -> None: ...


class Host:
    """A libp2p host that speaks Noise and yamux, admits whom `admit` admits, and never dials by
    itself."""

    def __init__(self, identity: KeyPair, admit: Admission, options: NetworkOptions) -> None:
        # libp2p's loggers have no handler and don't propagate: Python's last resort would print.
        logging.getLogger("libp2p").addHandler(logging.NullHandler())
        self._options = options
        self._admit = admit
        self._streams: dict[ID, int] = {}
        self.id = ID.from_pubkey(identity.public_key)
        peerstore = PeerStore()
        peerstore.add_key_pair(self.id, identity)
        self.swarm = Swarm(
            peer_id=self.id,
            peerstore=peerstore,
            upgrader=TransportUpgrader(
                secure_transports_by_protocol={NOISE: GatedNoise(identity, self._gate)},
                muxer_transports_by_protocol={TProtocol(YAMUX): Yamux},
                negotiate_timeout=int(options.handshake_timeout_s),
            ),
            transports=[],
            retry_config=RetryConfig(max_retries=0),
            connection_config=ConnectionConfig(
                max_connections=options.connections_max,
                min_connections=0,
                low_watermark=0,
                high_watermark=options.connections_max,
                max_connections_per_peer=2,
                inbound_upgrade_timeout=options.handshake_timeout_s,
                outbound_upgrade_timeout=options.handshake_timeout_s,
                outbound_stream_protocol_negotiation_timeout=NEGOTIATION_S,
                inbound_stream_protocol_negotiation_timeout=NEGOTIATION_S,
                auto_connect_interval=86400.0,
                enable_health_monitoring=False,
            ),
            psk=None,
            metric_send_channel=None,
        )
        self.swarm.auto_connector = _NoAutoConnector(self.swarm, auto_connect_interval=86400.0)
        self.libp2p = BasicHost(
            network=self.swarm,
            enable_mDNS=False,
            enable_upnp=False,
            bootstrap=None,
            default_protocols=OrderedDict[TProtocol, StreamHandlerFn](),
            negotiate_timeout=NEGOTIATION_S,
            resource_manager=None,
            # Addresses travel in our own telemetry; libp2p would sign and check its list often.
            announce_addrs=[],
            disable_identify_address_discovery=True,
        )
        # An empty list of protocols means identify, identify push and ping to it.
        self.libp2p.multiselect.handlers.clear()
        self._negotiate_and_handle = self.swarm.common_stream_handler
        self.swarm.set_stream_handler(self._handle)

    def serve(self, protocol: str, handler: Served) -> None:
        """Streams of `protocol` go to `handler`, with the public key of the peer that opened
        them."""

        async def handle(stream: INetStream) -> None:
            assert isinstance(stream, BufferedStream)
            peer = public_key_of(stream.muxed_conn.peer_id)
            assert peer is not None
            await handler(peer, stream)

        self.libp2p.set_stream_handler(TProtocol(protocol), handle)

    def serve_identify(self) -> None:
        """Other implementations are told who this is and what it speaks."""
        self.libp2p.set_stream_handler(
            IDENTIFY, identify_handler_for(self.libp2p, use_varint_format=True)
        )

    async def _gate(self, peer: bytes, raw: IRawConnection, dialled: bool) -> str | None:
        reason = await self._admit(peer, raw, dialled)
        if reason is None:
            # libp2p takes a peer with a known protocol for identified, and won't ask it.
            self.libp2p.get_peerstore().add_protocols(libp2p_id(peer), [str(PING)])
        return reason

    def connection(
        self, connected: socket.socket, nursery: trio.Nursery, *, dialled: bool
    ) -> Connection:
        """A raw connection over a socket, which it owns from now on. Raises NetworkError."""
        try:
            wire = Wire(
                connected,
                nursery,
                buffer_bytes=self._options.write_buffer_bytes,
                stall_s=self._options.write_stall_s,
            )
        except OSError as error:
            connected.close()
            raise NetworkError(f"connection lost: {error}") from error
        return Connection(wire, dialled=dialled)

    async def upgrade(self, connection: Connection, peer: bytes | None) -> None:
        """Handshake, gate, muxer: the connection is up afterwards, or closed and NetworkError
        raised.

        `peer` is whom we dialled, None where we were."""
        timeout_s = self._options.handshake_timeout_s
        up = False
        try:
            if peer is None:
                inbound = self.swarm.upgrade_inbound_raw_conn
                await attempt("a handshake", timeout_s, inbound, connection, Multiaddr(ANYWHERE))
            else:
                outbound = self.swarm.upgrade_outbound_raw_conn
                await attempt("a handshake", timeout_s, outbound, connection, libp2p_id(peer))
            up = True
        finally:
            if not up:
                connection.wire.cut()

    async def _handle(self, stream: INetStream) -> None:
        """Any stream that a peer opened, from the agreement on its protocol on."""
        peer = stream.muxed_conn.peer_id
        if self._streams.get(peer, 0) >= self._options.streams_per_peer_max:
            await stream.reset()
            return
        self._streams[peer] = self._streams.get(peer, 0) + 1
        try:
            await attempt("a stream", None, self._negotiate_and_handle, BufferedStream(stream))
        except NetworkError:
            await stream.reset()
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]
