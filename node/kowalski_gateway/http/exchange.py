"""One request and its answer: HTTP/1.1 as h11 sees it on one side, an ASGI application on the
other.

h11 is the whole grammar of HTTP and does no I/O; here it is fed from a trio stream and what it
produces is written there. Nothing is sent before the application's first body message, so that a
small answer is one write. A client is never waited for without a deadline: a body must come at a
minimum pace, and each piece of an answer must be taken within its time.

What the client does wrong is a `Problem` for the application to answer with; that the client is
gone is a `ClientGone`, after which nothing can be answered.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import h11
import trio

from kowalski_protocol.errors import Problem

if TYPE_CHECKING:
    from starlette.types import Message, Scope

    from .bounds import HttpBounds

RECEIVE_SIZE_BYTES: Final = 64 * 1024
"""One read of the socket: a whole small request, and bounded memory for each connection."""
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
"""A whole small answer: status, headers, body."""


class ClientGone(OSError):
    """The client hung up or stopped taking the answer; an OSError, as ASGI wants of `send`."""


class Clock:
    """The Date header, formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def date(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True).encode()
        return self._text


class Exchange:
    """One request being answered: `receive` and `send` are what the ASGI application gets."""

    def __init__(
        self,
        http: h11.Connection,
        stream: trio.SocketStream,
        request: h11.Request,
        bounds: HttpBounds,
        clock: Clock,
        stopping: trio.Event,
    ) -> None:
        self._http = http
        self._stream = stream
        self._request = request
        self._bounds = bounds
        self._clock = clock
        self._stopping = stopping
        self._began = trio.current_time()
        self._body_bytes = 0
        self._body_read = False
        self._start: Message | None = None
        self.answering = False
        """Whether bytes of an answer may have left."""
        self.answered = False
        """Whether the answer is complete."""
        self.gone = False
        """Whether the client is."""

    def scope(self, client: tuple[str, int], server: tuple[str, int]) -> Scope:
        """The ASGI scope of the request; Problem bad_request for a target that is not a path."""
        target = self._request.target
        if not target.startswith(b"/"):
            raise Problem("bad_request", "The request's target must be a path.")
        path, _, query = target.partition(b"?")
        return {
            "type": "http",
            # 2.3: `receive` tells of the hang-up, which is what a stream without output waits on.
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self._request.http_version.decode(),
            "method": self._request.method.decode(),
            "scheme": "http",
            "path": unquote(path.decode()),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": list(self._request.headers),
            "client": client,
            "server": server,
        }

    # What comes in.

    async def receive(self) -> Message:
        """The next piece of the body, or, after its end, the client's hanging up."""
        if self._body_read:
            await self._until_gone()
            return {"type": "http.disconnect"}
        if self._http.they_are_waiting_for_100_continue:
            await self._write(
                self._http.send(h11.InformationalResponse(status_code=100, headers=[]))
            )
        event = await self._body_event()
        if isinstance(event, h11.Data):
            data = bytes(event.data)
            self._body_bytes += len(data)
            # Most bodies come with their head: their end is known without another read.
            self._body_read = self._ended()
            return {"type": "http.request", "body": data, "more_body": not self._body_read}
        if isinstance(event, h11.EndOfMessage):
            self._body_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        self.gone = True
        return {"type": "http.disconnect"}

    async def _body_event(self) -> object:
        pace = self._body_bytes / self._bounds.body_rate_bytes_s_min
        with trio.CancelScope(deadline=self._began + self._bounds.body_grace_s + pace):
            while True:
                event = self._next_event()
                if event is not h11.NEED_DATA:
                    return event
                try:
                    received = await self._stream.receive_some(RECEIVE_SIZE_BYTES)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return None
                if not received:
                    return None
                self._http.receive_data(received)
        raise Problem("too_slow", "The body came slower than this node waits for.")

    def _next_event(self) -> object:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise Problem("bad_request", f"The body is not valid HTTP: {error}.") from None

    def _ended(self) -> bool:
        """Whether what has been received ends the body. Never loses a piece of it."""
        if self._http.their_state is h11.SEND_BODY and self._http.trailing_data[0] == b"":
            # Nothing is buffered: the next event is the end of a body of known length, or more is
            # to come.
            return isinstance(self._next_event(), h11.EndOfMessage)
        return self._http.their_state is h11.DONE

    async def _until_gone(self) -> None:
        """Returns when the client has hung up; a pipelined request that comes meanwhile is kept."""
        while not self.gone:
            if self._http.trailing_data[0]:
                await trio.sleep_forever()  # reading on would buffer without a bound
            try:
                received = await self._stream.receive_some(RECEIVE_SIZE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                received = b""
            if received:
                self._http.receive_data(received)
            else:
                self.gone = True

    # What goes out.

    async def send(self, message: Message) -> None:
        """Writes a piece of the answer; raises `ClientGone` where nobody takes it."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        more: bool = message.get("more_body", False)
        body: bytes = message.get("body", b"")
        out = b"" if self._start is None else self._head(self._start)
        if body and self._request.method != b"HEAD":
            out += self._http.send(h11.Data(data=body)) or b""
        if not more:
            out += self._http.send(h11.EndOfMessage()) or b""
        await self._write(out)
        self.answered = not more

    def _head(self, start: Message) -> bytes:
        self._start = None
        self.answering = True
        status: int = start["status"]
        headers: list[tuple[bytes, bytes]] = [*start.get("headers", ())]
        headers.append((b"date", self._clock.date()))
        if self._stopping.is_set() or not self._whole_request_is_here():
            headers.append((b"connection", b"close"))
        return (
            self._http.send(
                h11.Response(
                    status_code=status, headers=headers, reason=_REASONS.get(status, b"Unknown")
                )
            )
            or b""
        )

    def _whole_request_is_here(self) -> bool:
        """Whether the connection can be kept: a small body that nobody read is read away here."""
        while self._http.their_state is h11.SEND_BODY:
            if self._http.they_are_waiting_for_100_continue:
                return False
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError:
                return False
            if event is h11.NEED_DATA:
                return False
        # Whoever asks for the body after its end was read here waits for the hanging up, no more.
        self._body_read = self._body_read or self._http.their_state is h11.DONE
        return self._http.their_state is h11.DONE

    async def _write(self, data: bytes | None) -> None:
        for at in range(0, len(data or b""), self._bounds.send_piece_bytes):
            piece = memoryview(data or b"")[at : at + self._bounds.send_piece_bytes]
            with trio.move_on_after(self._bounds.send_s) as taken:
                try:
                    await self._stream.send_all(piece)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self.gone = True
            if taken.cancelled_caught or self.gone:
                self.gone = True
                raise ClientGone("the client is gone")

    async def refuse(self, answer: Answer) -> None:
        """Answers in the application's stead, where nothing has been sent yet."""
        status, headers, body = answer
        self._start = None
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
