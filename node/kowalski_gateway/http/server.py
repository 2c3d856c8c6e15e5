"""The HTTP server: a small shell of trio around h11, and the ASGI application behind it.

A server of its own rather than Hypercorn, for three things that were measured there: a client that
doesn't read its answer keeps Hypercorn from ever stopping, because its writes are shielded without
a deadline; HTTP/2 and WebSocket, which nothing here uses, can't be switched off and are open to
whoever can connect; and connections are not bounded. The grammar of HTTP is h11's in both.

`serve_api` runs until it is cancelled, then stops gracefully: nothing new is taken, streams end,
and requests in flight have `stop_s` to finish.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from kowalski_protocol.errors import Problem

from .bounds import BOUNDS, HttpBounds
from .connection import Connection
from .exchange import Clock

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from kowalski_node.port import NodePort

_log = logging.getLogger("kowalski.http")


async def serve_api(
    port: NodePort,
    *,
    host: str = "127.0.0.1",
    port_number: int = 52420,
    token: str | None = None,
    bounds: HttpBounds = BOUNDS,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves the node's HTTP API on host:port_number until cancelled; reports its URL once it
    listens.

    Port 0 takes a free one. Raises `Problem`: token_required for an address that others can reach
    without a token, port_busy, bad_request for a host that is none of this device's.
    """
    from .application import application

    if token is not None and not token.strip():
        raise Problem("token_required", "The API token is empty.")
    if token is None and not _is_loopback(host):
        raise Problem(
            "token_required",
            f"The API at {host} can be reached from other devices, so it needs a token.",
            mend="kowalski-node --api-token TOKEN",
        )
    listeners = await _listen(host, port_number)
    bound_port: int = listeners[0].socket.getsockname()[1]
    stopping = trio.Event()
    app = application(port, host, bound_port, token, bounds, stopping)
    task_status.started(f"http://{f'[{host}]' if ':' in host else host}:{bound_port}")
    await serve(app, listeners, bounds, stopping)


async def serve(
    app: ASGIApp,
    listeners: Sequence[trio.SocketListener],
    bounds: HttpBounds,
    stopping: trio.Event,
) -> None:
    """Serves an ASGI application until cancelled, then gracefully stops; `stopping` is set at that
    point."""
    accepting = trio.CancelScope()
    # Shielded: the cancellation that stops the server must not cut the answers that it lets finish.
    working = trio.CancelScope(shield=True)
    connections: dict[Connection, None] = {}
    clock = Clock()
    refusing = trio.CapacityLimiter(bounds.refusals_max)

    async def refuse(connection: Connection) -> None:
        try:
            refusing.acquire_nowait()
        except trio.WouldBlock:  # a flood: not even an answer
            connection.close()
            return
        try:
            sentence = f"This node serves {bounds.connections_max} requests at a time."
            await connection.refuse(Problem("too_many_requests", sentence))
        finally:
            refusing.release()

    async def handle(stream: trio.SocketStream) -> None:
        connection = Connection(app, stream, bounds, clock, stopping)
        if len(connections) >= bounds.connections_max:
            oldest = next((one for one in connections if one.idle), None)
            if oldest is None:
                await refuse(connection)
                return
            connections.pop(oldest)
            oldest.close()
        connections[connection] = None
        try:
            await connection.run()
        finally:
            connections.pop(connection, None)

    async def work() -> None:
        with working:
            async with trio.open_nursery() as nursery:
                with accepting:
                    await trio.serve_listeners(handle, [*listeners], handler_nursery=nursery)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        try:
            await trio.sleep_forever()
        finally:
            stopping.set()
            accepting.cancel()  # before the close, which a waiting accept would report as an error
            for listener in listeners:
                listener.socket.close()
            working.deadline = trio.current_time() + bounds.stop_s
            for connection in list(connections):
                if connection.idle:
                    connection.close()


async def _listen(host: str, port_number: int) -> list[trio.SocketListener]:
    try:
        if not 0 <= port_number <= 65535:  # the system would take it modulo 65536
            raise OSError("no port")
        return await trio.open_tcp_listeners(port_number, host=host)
    except OSError as error:
        number = error.errno
        if number == errno.EADDRINUSE:
            raise Problem(
                "port_busy",
                f"Another process listens on {host}:{port_number}.",
                mend=f"kowalski-node --api {host}:{port_number + 10}",
            ) from None
        if number in (errno.EACCES, errno.EPERM):
            sentence = f"This user may not listen on port {port_number}."
            raise Problem(
                "bad_request", sentence, mend="kowalski-node --api 127.0.0.1:52420"
            ) from None
        raise Problem(
            "bad_request",
            f"{host}:{port_number} is no address of this device.",
            mend="kowalski-node --api 127.0.0.1:52420",
        ) from None


def _is_loopback(host: str) -> bool:
    """Whether only this device can reach the address; a name other than localhost could be
    anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
