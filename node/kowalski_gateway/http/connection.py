"""One client's connection: requests one after another, each answered by the application, until
either ends it.

A connection is *idle* while it waits for the head of a request; then the server may close it at
any instant, to make room or to stop. What an application raises ends one answer and never more
than that. A request that was refused before its body was read ends the connection: the rest of the
body is read away for a moment, because a reset would take the answer from the client.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import h11
import trio

from kowalski_protocol.errors import Problem

from .answers import raw_error
from .exchange import RECEIVE_SIZE_BYTES, ClientGone, Clock, Exchange

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from .bounds import HttpBounds

_log = logging.getLogger("kowalski.http")
LINGER_SIZE_BYTES_MAX: Final = 8 * 1024 * 1024
"""More of a refused body is not worth reading: it comes at the cost of those who behave."""


class Connection:
    """Serves one connection; `run` returns once it is closed."""

    def __init__(
        self,
        app: ASGIApp,
        stream: trio.SocketStream,
        bounds: HttpBounds,
        clock: Clock,
        stopping: trio.Event,
    ) -> None:
        self._app = app
        self._stream = stream
        self._bounds = bounds
        self._clock = clock
        self._stopping = stopping
        self._http = h11.Connection(
            h11.SERVER, max_incomplete_event_size=bounds.head_size_bytes_max
        )
        self.idle = True

    def close(self) -> None:
        """Closes the socket at once; `run` then returns."""
        self._stream.socket.close()

    async def run(self) -> None:
        """Answers requests until the client, a deadline or the node's stop ends the connection."""
        try:
            client = _address(self._stream.socket.getpeername())
            server = _address(self._stream.socket.getsockname())
            wait_s = self._bounds.head_s
            while not self._stopping.is_set():
                request = await self._next_request(wait_s)
                if request is None:
                    break
                self.idle = False
                kept = await self._answer(request, client, server)
                self.idle = True
                if not kept:
                    await self._linger()
                    break
                self._http.start_next_cycle()
                wait_s = self._bounds.idle_s
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
            pass  # the client is gone or speaks something else than HTTP: nobody is left to tell
        finally:
            self.close()

    async def refuse(self, problem: Problem) -> None:
        """Answers whatever was asked with a problem, unread, and closes."""
        try:
            with trio.move_on_after(self._bounds.linger_s):
                await self._send_refusal(problem)
                await self._linger()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
            pass
        finally:
            self.close()

    async def _next_request(self, wait_s: float) -> h11.Request | None:
        begun = bool(self._http.trailing_data[0])  # a pipelined one
        with trio.move_on_after(self._bounds.head_s if begun else wait_s) as wait:
            while True:
                try:
                    event = self._http.next_event()
                except h11.RemoteProtocolError as error:
                    await self._refuse_head(error)
                    return None
                if isinstance(event, h11.Request):
                    problem = self._problem_with(event)
                    if problem is None:
                        return event
                    await self._send_refusal(problem)
                    await self._linger()
                    return None
                if event is not h11.NEED_DATA:
                    return None
                received = await self._stream.receive_some(self._bounds.head_size_bytes_max)
                if not begun:
                    begun = True
                    wait.deadline = trio.current_time() + self._bounds.head_s
                self._http.receive_data(received)
        return None

    def _problem_with(self, request: h11.Request) -> Problem | None:
        """What h11 lets through and this server doesn't."""
        size_bytes = len(request.target)
        framings = 0
        for name, value in request.headers:
            size_bytes += len(name) + len(value)
            framings += name in (b"content-length", b"transfer-encoding")
        if size_bytes > self._bounds.head_size_bytes_max:
            return Problem("too_large", "The request's head is larger than this node reads.")
        if request.http_version not in (b"1.1", b"1.0"):
            return Problem("bad_request", "This node speaks HTTP/1.1.")
        if framings > 1:
            # Two readers could find two different ends, and a body be taken for a request.
            return Problem("bad_request", "A request has one length.")
        return None

    async def _refuse_head(self, error: h11.RemoteProtocolError) -> None:
        if error.error_status_hint == 431:
            problem = Problem("too_large", "The request's head is larger than this node reads.")
        else:
            problem = Problem("bad_request", "That is not HTTP/1.1.")
        await self._send_refusal(problem)
        await self._linger()

    async def _send_refusal(self, problem: Problem) -> None:
        status, headers, body = raw_error(problem)
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        head = h11.Response(status_code=status, headers=[*headers, (b"connection", b"close")])
        out = [self._http.send(head), self._http.send(h11.Data(data=body))]
        with trio.move_on_after(self._bounds.linger_s):
            await self._stream.send_all(b"".join(part for part in out if part))

    async def _answer(
        self, request: h11.Request, client: tuple[str, int], server: tuple[str, int]
    ) -> bool:
        """Answers one request; returns whether another may follow on this connection."""
        exchange = Exchange(
            self._http, self._stream, request, self._bounds, self._clock, self._stopping
        )
        try:
            await self._app(exchange.scope(client, server), exchange.receive, exchange.send)
        except Problem as problem:
            if not exchange.answering:
                await exchange.refuse(raw_error(problem))
        except Exception:  # guard: one broken handler must cost one answer, never the node
            if exchange.gone:
                raise ClientGone from None
            _log.exception("A request handler failed.")
            if not exchange.answering:
                await exchange.refuse(raw_error(Problem("internal", "This node made a mistake.")))
        return (
            exchange.answered
            and self._http.our_state is h11.DONE
            and self._http.their_state is h11.DONE
            and not self._stopping.is_set()
        )

    async def _linger(self) -> None:
        """Tells the client that no more comes, and reads what it still sends for a moment."""
        if self._http.their_state not in (h11.SEND_BODY, h11.ERROR, h11.IDLE):
            return
        with trio.move_on_after(self._bounds.linger_s):
            await self._stream.send_eof()
            left = LINGER_SIZE_BYTES_MAX
            while left > 0:
                received = await self._stream.receive_some(RECEIVE_SIZE_BYTES)
                if not received:
                    return
                left -= len(received)


def _address(name: tuple[object, ...] | str) -> tuple[str, int]:
    return (str(name[0]), int(str(name[1]))) if isinstance(name, tuple) else (name, 0)
