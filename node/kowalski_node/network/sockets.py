"""Sockets: listening, accepting with bounds, and connecting to the first address that works.

libp2p's TCP listener shares its port with whoever asks (SO_REUSEPORT), so that two nodes started
on one port would both believe to have it; ours fails. An IPv6 socket takes IPv6 alone, so that
both families listen on one port number. Unfinished handshakes are counted, in all and per source
address, before any byte of theirs is read.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import trio

from kowalski_protocol.errors import Problem

from ..addresses import ADDRESSES_MAX, Address, parse_multiaddr
from ..resolving import resolve
from .interface import NetworkError, NetworkOptions

BACKLOG: Final = 128
PORT_MAX: Final = 65535
NEXT_ADDRESS_S: Final = 0.25
"""How long an address is tried before the next is tried beside it (RFC 8305)."""
PATIENCE_S: Final = 1.0
"""How long one address' handshake keeps the next one's waiting: if both succeed, one is lost."""
OUT_OF_FILES_S: Final = 0.1

_NO_SUCH_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def open_listeners(multiaddrs: Sequence[str], ports_tried: int = 1) -> list[socket.socket]:
    """Listening sockets, without those of a family that the machine lacks.

    Where a port is taken, the next number is tried for all addresses together, `ports_tried`
    numbers in all. Each is tried by listening on it: whoever looks first and listens later can be
    overtaken. Raises Problem port_busy or bad_request."""
    for step in range(ports_tried):
        try:
            return _open_all(multiaddrs, step)
        except Problem as problem:
            if problem.code != "port_busy" or step == ports_tried - 1:
                raise
    raise AssertionError("no port was to be tried")


def _open_all(multiaddrs: Sequence[str], step: int) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    try:
        for text in multiaddrs:
            address = _next_port(parse_multiaddr(text), step)
            try:
                listeners.append(_listener(address))
            except OSError as error:
                if error.errno in _NO_SUCH_FAMILY and address.host in ("::", "::1"):
                    continue
                raise _cannot_listen(address, error) from error
        if multiaddrs and not listeners:
            raise Problem("bad_request", "This machine has none of the addresses to listen on.")
    except BaseException:  # guard: raised again; nobody else would close the socket
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _next_port(address: Address, step: int) -> Address:
    port = address.port + step if address.port else 0
    if port > PORT_MAX:
        raise Problem("port_busy", f"No port up to {PORT_MAX} is free.")
    return msgspec.structs.replace(address, port=port)


def _listener(address: Address) -> socket.socket:
    family = socket.AF_INET6 if address.family == "ip6" else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # where the same option means what SO_REUSEPORT means elsewhere
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        where = socket.getaddrinfo(
            address.dial_host, address.port, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST
        )[0][4]
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:  # guard: raised again; nobody else would close the socket
        listener.close()
        raise
    return listener


def _cannot_listen(address: Address, error: OSError) -> Problem:
    if error.errno == errno.EADDRINUSE:
        return Problem(
            "port_busy",
            f"Another process listens on {address}.",
            mend=f"kowalski-node --listen /{address.family}/{address.host}/tcp/0",
        )
    return Problem("bad_request", f"Can't listen on {address}: {error.strerror}.")


def listening_address(listener: socket.socket) -> Address:
    """Where a socket listens, with its real port."""
    host, port = listener.getsockname()[:2]
    host, _, zone = str(host).partition("%")
    family = "ip6" if listener.family == socket.AF_INET6 else "ip4"
    return Address(family, host, int(port), zone or None)


class Acceptor:
    """Accepts connections and runs `handle` for each, within the bounds on handshakes."""

    def __init__(
        self,
        handle: Callable[[socket.socket], Awaitable[None]],
        options: NetworkOptions,
    ) -> None:
        self._handle = handle
        self._options = options
        self._waiting: dict[str, int] = {}
        self._waiting_total = 0

    async def accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        """Accepts until the listener is closed.

        `handle` owns the socket and returns when the handshake is over."""
        while listener.fileno() >= 0:
            try:
                await trio.lowlevel.wait_readable(listener)
                connection, remote = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except trio.ClosedResourceError:
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    continue
                await trio.sleep(OUT_OF_FILES_S)
                continue
            host = str(remote[0])
            if (
                self._waiting_total >= self._options.handshakes_max
                or self._waiting.get(host, 0) >= self._options.handshakes_per_address_max
            ):
                connection.close()
                continue
            nursery.start_soon(self._counted, connection, host)

    async def _counted(self, connection: socket.socket, host: str) -> None:
        self._waiting_total += 1
        self._waiting[host] = self._waiting.get(host, 0) + 1
        try:
            await self._handle(connection)
        finally:
            self._waiting_total -= 1
            self._waiting[host] -= 1
            if not self._waiting[host]:
                del self._waiting[host]


async def connect_any(
    multiaddrs: Sequence[str], use: Callable[[socket.socket], Awaitable[None]]
) -> None:
    """Returns when `use` has succeeded with a connection to one of the addresses, else
    NetworkError.

    They are tried beside each other, each a little after the one before; `use` owns the socket,
    runs for one address at a time, and raises NetworkError to have the next one tried."""
    using = trio.Lock()
    succeeded = trio.Event()
    failures: list[NetworkError] = [NetworkError("no address")]

    async def one(multiaddr: str, ended: trio.Event) -> None:
        try:
            with await connect(multiaddr) as connection:
                with trio.move_on_after(PATIENCE_S):
                    await using.acquire()
                try:
                    await use(socket.socket(fileno=connection.detach()))
                finally:
                    if using.statistics().owner is trio.lowlevel.current_task():
                        using.release()
        except NetworkError as error:
            failures.append(NetworkError(f"{multiaddr}: {error}"))
        else:
            succeeded.set()
            nursery.cancel_scope.cancel()
        ended.set()

    async with trio.open_nursery() as nursery:
        for multiaddr in multiaddrs[:ADDRESSES_MAX]:
            ended = trio.Event()
            nursery.start_soon(one, multiaddr, ended)
            with trio.move_on_after(NEXT_ADDRESS_S):
                await ended.wait()
            if succeeded.is_set():
                break
    if not succeeded.is_set():
        raise failures[-1]


async def connect(multiaddr: str) -> socket.socket:
    """A connected socket to one address; raises NetworkError. The caller sets the deadline."""
    try:
        targets = await resolve(multiaddr)
    except Problem as problem:
        raise NetworkError(problem.sentence) from problem
    failure = "the name leads nowhere"
    for target in targets:
        address = parse_multiaddr(target)
        try:
            return await _connect(address)
        except OSError as error:
            failure = f"{address}: {error.strerror or error}"
    raise NetworkError(failure)


async def _connect(address: Address) -> socket.socket:
    family = socket.AF_INET6 if address.family == "ip6" else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_STREAM) as connecting:
        await connecting.connect((address.dial_host, address.port))
        return socket.socket(fileno=connecting.detach())
