"""Server-sent events: a stream of JSON that a browser, curl and a program can follow and take up
again.

Each event carries its position as `id:`, so that a client that was cut off goes on with
`Last-Event-ID`. What is ready goes out in one write; a quiet stream says `: keep-alive` now and
then, so that proxies keep it and a lost client is noticed. A stream ends when its source ends
(`event: end`), on a problem (`event: error`), when the client hangs up, or at once when the node
stops.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from starlette.responses import Response

from kowalski_protocol.errors import Problem

from .answers import SAFETY_HEADERS, error_bytes
from .calls import EVENTS
from .sources import closing

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from .calls import Site

WRITE_SIZE_BYTES: Final = 64 * 1024
"""Ready events share a write up to this: a long replay costs few writes, and none waits long."""
QUEUED_EVENTS_MAX: Final = 256
"""Between the source and the socket; past it the source waits for the client."""

_encode: Final = msgspec.json.Encoder().encode


def event_bytes(data: bytes, *, kind: str = "", position: int | None = None) -> bytes:
    """One event in the stream's form; JSON holds no line breaks, so one data line is enough."""
    head = b"" if position is None else b"id: %d\n" % position
    if kind:
        head += b"event: " + kind.encode() + b"\n"
    return head + b"data: " + data + b"\n\n"


class EventStream(Response):
    """An answer that goes on: `source` mapped to events, then one `end` event with `last()`."""

    media_type = EVENTS

    def __init__(
        self,
        site: Site,
        source: AsyncIterator[Any],
        position: Callable[[Any], int | None],
        last: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__(None, 200, SAFETY_HEADERS, EVENTS)
        # A streamed answer has no length; Starlette sets one for the empty body.
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        self._site = site
        self._source = source
        self._position = position
        self._last = last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await send({"type": "http.response.body", "body": b": open\n\n", "more_body": True})
        events_in, events_out = trio.open_memory_channel[bytes](QUEUED_EVENTS_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, events_in)
            nursery.start_soon(_until, self._site.stopping.wait, nursery.cancel_scope)
            nursery.start_soon(_until_hung_up, receive, nursery.cancel_scope)
            await self._write(events_out, send)
            nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, events_in: trio.MemorySendChannel[bytes]) -> None:
        async with events_in:
            try:
                async with closing(self._source) as source:
                    async for item in source:
                        data = event_bytes(_encode(item), position=self._position(item))
                        await events_in.send(data)
                last: Any = None if self._last is None else self._last()
                await events_in.send(event_bytes(_encode(last), kind="end"))
            except Problem as problem:
                await events_in.send(event_bytes(error_bytes(problem), kind="error"))

    async def _write(self, events_out: trio.MemoryReceiveChannel[bytes], send: Send) -> None:
        while True:
            body = b": keep-alive\n\n"
            with trio.move_on_after(self._site.bounds.keep_alive_s):
                try:
                    body = await events_out.receive()
                except trio.EndOfChannel:
                    return
                pieces = [body]
                size = len(body)
                while size < WRITE_SIZE_BYTES:
                    try:
                        piece = events_out.receive_nowait()
                    except (trio.WouldBlock, trio.EndOfChannel):
                        break
                    pieces.append(piece)
                    size += len(piece)
                body = b"".join(pieces)
            await send({"type": "http.response.body", "body": body, "more_body": True})


async def _until(happened: Callable[[], Any], scope: trio.CancelScope) -> None:
    await happened()
    scope.cancel()


async def _until_hung_up(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
