"""A node's HTTP API on a real socket, for tests: served in the test's own trio loop or in a thread
of its own.

`Wire` speaks HTTP by hand (bytes out, h11 in), because what is tested includes what a well-behaved
client library would never send.
"""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import h11
import trio

from kowalski_gateway.http.bounds import BOUNDS, HttpBounds
from kowalski_gateway.http.server import serve_api
from kowalski_node.port import NodePort
from tests.ports.scripted_node import ScriptedNode

T = TypeVar("T")
PATIENCE_S = 10.0


@asynccontextmanager
async def serving(
    node: NodePort, *, token: str | None = None, bounds: HttpBounds = BOUNDS
) -> AsyncIterator[int]:
    """The API on a free loopback port, for as long as the context is open."""
    async with trio.open_nursery() as nursery:

        async def start(task_status: trio.TaskStatus[str]) -> None:
            await serve_api(
                node, port_number=0, token=token, bounds=bounds, task_status=task_status
            )

        url = await nursery.start(start)
        yield int(url.rpartition(":")[2])
        nursery.cancel_scope.cancel()


class Answer:
    """A whole answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of the error that it tells of."""
        return self.json["error"]["code"]


class Wire:
    """One connection to the API."""

    def __init__(self, stream: trio.SocketStream, port: int) -> None:
        self.stream = stream
        self.port = port
        self._http = h11.Connection(h11.CLIENT)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request and its answer; a header given as "" is left out."""
        await self.send(method, path, body, content=content, headers=headers)
        return await self.answer()

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if body is not None:
            content = json.dumps(body).encode()
        whole = {"host": f"127.0.0.1:{self.port}"}
        if content is not None:
            whole |= {"content-type": "application/json", "content-length": str(len(content))}
        whole |= headers or {}
        request = h11.Request(
            method=method,
            target=path,
            headers=[(name, value) for name, value in whole.items() if value],
        )
        out = self._http.send(request) or b""
        if content is not None:
            out += self._http.send(h11.Data(data=content)) or b""
        out += self._http.send(h11.EndOfMessage()) or b""
        await self.stream.send_all(out)

    async def answer(self) -> Answer:
        """The next answer; the connection can then be used again."""
        head = await self.head()
        pieces = [piece async for piece in self.pieces()]
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return Answer(head[0], head[1], b"".join(pieces))

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                headers = {name.decode(): value.decode() for name, value in event.headers}
                return event.status_code, headers

    async def pieces(self) -> AsyncIterator[bytes]:
        """The answer's body as it comes."""
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data), event
            yield bytes(event.data)

    async def _event(self) -> Any:
        with trio.fail_after(PATIENCE_S):
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self.stream.receive_some(65536))
            return event

    async def answer_raw(self, wanted: bytes = b"\r\n\r\n") -> bytes:
        """The bytes that come, up to `wanted` and what came with it."""
        got = b""
        with trio.fail_after(PATIENCE_S):
            while wanted not in got:
                piece = await self.stream.receive_some(65536)
                assert piece, got
                got += piece
        return got

    async def closed(self) -> bytes:
        """What still comes until the server hangs up."""
        rest = b""
        with trio.fail_after(PATIENCE_S):
            try:
                while piece := await self.stream.receive_some(65536):
                    rest += piece
            except trio.BrokenResourceError:
                pass
        return rest


@asynccontextmanager
async def wire(port: int) -> AsyncIterator[Wire]:
    """A fresh connection."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        yield Wire(stream, port)


async def ask(port: int, method: str, path: str, body: Any = None, **options: Any) -> Answer:
    """One request on a connection of its own."""
    async with wire(port) as one:
        return await one.ask(method, path, body, **options)


def sse(data: bytes) -> list[dict[str, str]]:
    """The events of a stream as their fields, comments left out."""
    events: list[dict[str, str]] = []
    for block in data.decode().split("\n\n"):
        fields = [line.partition(": ") for line in block.split("\n") if line]
        event = {name: value for name, _, value in fields if name}
        if event:
            events.append(event)
    return events


class Served:
    """An API in a thread of its own; `do` runs a function there."""

    def __init__(self, node: ScriptedNode, url: str, token: trio.lowlevel.TrioToken) -> None:
        self.node = node
        self.url = url
        self._trio = token

    def do(self, function: Callable[[], T]) -> T:
        done = threading.Event()
        results: list[T] = []

        def run() -> None:
            results.append(function())
            done.set()

        self._trio.run_sync_soon(run)
        assert done.wait(PATIENCE_S)
        return results[0]


@contextmanager
def served(node: ScriptedNode | None = None, *, token: str | None = None) -> Iterator[Served]:
    """The API for callers that have no trio loop: asyncio, the command line, other processes."""
    node = node or ScriptedNode()
    started = threading.Event()
    found: dict[str, Any] = {}

    async def main() -> None:
        async with serving(node, token=token) as port:
            found["url"] = f"http://127.0.0.1:{port}"
            found["trio"] = trio.lowlevel.current_trio_token()
            found["stop"] = trio.Event()
            started.set()
            await found["stop"].wait()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert started.wait(PATIENCE_S)
    try:
        yield Served(node, found["url"], found["trio"])
    finally:
        trio.from_thread.run_sync(found["stop"].set, trio_token=found["trio"])
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
