"""The join door: a listener of its own for strangers, and the caller's side of it.

The main host's gate has no exception, so whoever was not admitted meets this listener instead. It
exists only while an invite or a pairing is open, speaks `/kowalski/join/1` and nothing else, and
gives each caller one exchange: one request, one response, at most 64 KiB each, within ten seconds
from the first byte to the last, and then the connection is closed. At most eight callers are
served at once, and a source address has a budget of calls that refills slowly, so a guesser of
invites gets a few tries a minute. Noise proves each side's key to the other: the door learns who
asks, and the caller is sure to have reached its inviter.
"""

from __future__ import annotations

import logging
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Final

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee, IRawConnection
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from kowalski_protocol.identity import peer_id

from .border import asked, attempt
from .host import Connection, Host
from .identity import key_pair, public_key_of
from .interface import KIBIBYTE, NetworkError, NetworkOptions
from .sockets import Acceptor, connect_any, listening_address, open_listeners
from .stream import BufferedStream, framed, open_stream

logger = logging.getLogger("kowalski.network")

JOIN: Final = "/kowalski/join/1"
MESSAGE_BYTES_MAX: Final = 64 * KIBIBYTE
CALL_S: Final = 10.0
"""One whole call, handshake included."""
CALLS_AT_ONCE_MAX: Final = 8
CALLS_IN_A_ROW_MAX: Final = 10
CALL_EVERY_S: Final = 6.0
"""A source may call ten times at once and then ten times a minute."""
SOURCES_MAX: Final = 1024

OPTIONS: Final = NetworkOptions(
    connections_max=2 * CALLS_AT_ONCE_MAX,
    streams_per_peer_max=2,
    handshakes_max=CALLS_AT_ONCE_MAX,
    handshakes_per_address_max=CALLS_AT_ONCE_MAX,
    connection_memory_bytes=KIBIBYTE * KIBIBYTE,
)

Answer = Callable[[bytes, bytes], Awaitable[bytes]]
"""(the caller's public key, its request) -> the response"""


class Budget:
    """How often each source may call: a bucket of calls that refills with time."""

    def __init__(self) -> None:
        self._used: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Source -> (calls in use, when that was true)"""

    def take(self, source: str, now_s: float) -> bool:
        """Whether the source may call now; counts the call if so."""
        used, when_s = self._used.pop(source, (0.0, now_s))
        used = max(0.0, used - (now_s - when_s) / CALL_EVERY_S)
        allowed = used + 1.0 <= CALLS_IN_A_ROW_MAX
        self._used[source] = (used + 1.0 if allowed else used, now_s)
        while len(self._used) > SOURCES_MAX:
            self._used.popitem(last=False)
        return allowed


class JoinListener:
    """The door. It is open inside the `async with` block."""

    def __init__(self, *, seed: bytes, listen: Sequence[str], answer: Answer) -> None:
        identity = key_pair(seed)
        self._key = identity.public_key.to_bytes()
        self._listen = tuple(listen)
        self._answer = answer
        self._host = Host(identity, _anybody, OPTIONS)
        self._host.serve(JOIN, self._serve)
        self._budget = Budget()
        self._addresses: list[str] = []
        self._nursery: trio.Nursery | None = None
        self._running: AbstractAsyncContextManager[None] | None = None

    async def __aenter__(self) -> JoinListener:
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
            await self._running.__aexit__(None, None, None)
            return False
        return await self._running.__aexit__(kind, error, traceback)

    @property
    def addresses(self) -> list[str]:
        """Where the door is, with real ports and the peer ID; wildcards stay wildcards."""
        return list(self._addresses)

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        listeners = open_listeners(self._listen)
        self._addresses = [
            f"{listening_address(listener)}/p2p/{peer_id(self._key)}" for listener in listeners
        ]
        acceptor = Acceptor(self._accepted, OPTIONS)
        try:
            async with background_trio_service(self._host.swarm), trio.open_nursery() as nursery:
                self._nursery = nursery
                for listener in listeners:
                    nursery.start_soon(acceptor.accept, listener, nursery)
                try:
                    yield
                finally:
                    for listener in listeners:
                        trio.lowlevel.notify_closing(listener)
                    nursery.cancel_scope.cancel()
        finally:
            for listener in listeners:
                listener.close()

    async def _accepted(self, connected: socket.socket) -> None:
        """One caller, from its first byte until it has gone or its time is up."""
        assert self._nursery is not None
        try:
            connection = self._host.connection(connected, self._nursery, dialled=False)
        except NetworkError:
            return
        source = connection.wire.get_remote_address()
        gone = trio.Event()
        connection.wire.on_lost = gone.set
        try:
            if source is None or not self._budget.take(source[0], trio.current_time()):
                return
            with trio.move_on_after(CALL_S):
                await self._host.upgrade(connection, None)
                await gone.wait()
        except NetworkError as error:
            logger.debug("a caller was not served: %s", error)
        finally:
            connection.wire.cut()

    async def _serve(self, peer: bytes, stream: BufferedStream) -> None:
        request = await attempt("reading a call", CALL_S, stream.read_message, MESSAGE_BYTES_MAX)
        response = await asked("the join door", CALL_S, self._answer, peer, request)
        assert len(response) <= MESSAGE_BYTES_MAX
        await attempt("answering a call", CALL_S, stream.write, framed(response))
        await stream.close()


async def ask_to_join(
    seed: bytes, peer: bytes, addresses: Sequence[str], request: bytes, timeout_s: float
) -> bytes:
    """The response of the join door of `peer` at one of the addresses. Raises NetworkError."""
    assert len(request) <= MESSAGE_BYTES_MAX
    caller = _Caller(seed, peer)
    with trio.move_on_after(timeout_s):
        return await caller.call(addresses, request)
    raise NetworkError(f"the inviter did not answer within {timeout_s} s")


class _Caller(INotifee):
    """A host for one call."""

    def __init__(self, seed: bytes, peer: bytes) -> None:
        self._peer = peer
        self._host = Host(key_pair(seed), self._admit, OPTIONS)
        self._host.swarm.register_notifee(self)
        self._conn: INetConn | None = None

    async def _admit(self, key: bytes, raw: IRawConnection, dialled: bool) -> str | None:
        return None if key == self._peer else "not the inviter"

    async def call(self, addresses: Sequence[str], request: bytes) -> bytes:
        async with background_trio_service(self._host.swarm), trio.open_nursery() as nursery:
            try:
                outcome = await self._exchange(nursery, addresses, request)
            except NetworkError as error:
                outcome = error  # raised outside of the nurseries, which would make a group of it
            nursery.cancel_scope.cancel()
        if isinstance(outcome, NetworkError):
            raise outcome
        return outcome

    async def _exchange(
        self, nursery: trio.Nursery, addresses: Sequence[str], request: bytes
    ) -> bytes:
        await connect_any(addresses, partial(self._connect, nursery))
        assert self._conn is not None
        stream = await attempt("the join door", None, open_stream, self._conn, JOIN)
        await attempt("the join door", None, stream.write, framed(request))
        return await attempt("the join door", None, stream.read_message, MESSAGE_BYTES_MAX)

    async def _connect(self, nursery: trio.Nursery, connected: socket.socket) -> None:
        connection: Connection = self._host.connection(connected, nursery, dialled=True)
        await self._host.upgrade(connection, self._peer)

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        if public_key_of(conn.muxed_conn.peer_id) == self._peer:
            self._conn = conn

    async def disconnected(self, network: INetwork, conn: INetConn) -> None: ...

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None: ...

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None: ...


async def _anybody(key: bytes, raw: IRawConnection, dialled: bool) -> str | None:
    return None
