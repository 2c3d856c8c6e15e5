"""The HTTP under the client: one pool of connections, JSON in and out, streams, and problems.

httpx speaks on trio and asyncio alike. Nothing of it shows: what goes wrong is a `Problem`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from kowalski_protocol.errors import Problem

from .address import is_api_url
from .answers import PATIENCE_S, cut_off, decoded, not_json, problem_of, unreachable
from .server_events import EventReader, ServerEvent

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
PIECE_SIZE_BYTES: Final = 256 * 1024
"""How much of a blob is held at a time, in bytes: what a node sends in one piece."""
CONNECT_S: Final = 10.0
"""Seconds for a connection: a device that answers nothing for so long is off or elsewhere."""
CONNECTIONS_MAX: Final = 64
"""Requests in flight; more wait for a connection. A quarter of what a node serves at a time."""


class Wire:
    """The connections to one node, between `open` and `close`."""

    def __init__(self, url: str, token: str | None) -> None:
        if not is_api_url(url):
            raise _no_api(url)
        self.url: Final = url
        self._token = token
        self._http: httpx.AsyncClient | None = None

    async def open(self) -> None:
        """Makes the pool; connects nowhere yet."""
        import httpx

        headers = {} if self._token is None else {"authorization": f"Bearer {self._token}"}
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url,
                headers=headers,
                timeout=httpx.Timeout(PATIENCE_S, connect=CONNECT_S, pool=None),
                limits=httpx.Limits(
                    max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX
                ),
                # A proxy of the environment must not see what goes to a node on this device.
                trust_env=False,
            )
        except httpx.InvalidURL:
            raise _no_api(self.url) from None

    async def close(self) -> None:
        """Closes all connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def json(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        wait_s: float = 0.0,
    ) -> T:
        """The answer as its type; `wait_s` is how long the node was asked to take."""
        content = None if body is None else _encoded(body)
        answer = await self.send(method, path, content=content, query=query, wait_s=wait_s)
        return decoded(answer, kind, self.url)

    async def send(
        self,
        method: str,
        path: str,
        *,
        content: bytes | AsyncIterator[bytes] | None = None,
        media: str = "application/json",
        query: Mapping[str, Any] | None = None,
        wait_s: float = 0.0,
    ) -> bytes:
        """The answer's bytes; the node's `Problem` where it refuses."""
        import httpx

        if not wait_s >= 0:  # nor is NaN
            raise Problem("bad_request", f"'wait_s' must be a number of seconds, not {wait_s!r}.")
        http = self._opened()
        timeout = httpx.Timeout(PATIENCE_S + wait_s, connect=CONNECT_S, pool=None)
        headers = {} if content is None else {"content-type": media}
        request = http.build_request(
            method, path, params=_query(query), content=content, headers=headers, timeout=timeout
        )
        try:
            response = await http.send(request)
        except httpx.RequestError:
            raise unreachable(self.url) from None
        if response.status_code >= 400:
            raise problem_of(response.status_code, response.content, self.url)
        return response.content

    async def has(self, path: str, query: Mapping[str, Any]) -> bool:
        """Whether the path is there, by its head alone."""
        import httpx

        try:
            response = await self._opened().head(path, params=_query(query))
        except httpx.RequestError:
            raise unreachable(self.url) from None
        if response.status_code not in (200, 404):
            raise problem_of(response.status_code, response.content, self.url)
        return response.status_code == 200

    @asynccontextmanager
    async def answer(self, path: str, query: Mapping[str, Any]) -> AsyncIterator[httpx.Response]:
        """An answer whose body is read by the caller as it comes."""
        import httpx

        http = self._opened()
        try:
            async with http.stream("GET", path, params=_query(query)) as response:
                if response.status_code >= 400:
                    raise problem_of(response.status_code, await response.aread(), self.url)
                yield response
        except httpx.RequestError:
            raise unreachable(self.url) from None

    async def stream(
        self, path: str, query: Mapping[str, Any]
    ) -> AsyncGenerator[ServerEvent, None]:
        """The events of a stream up to its end; `Problem` where it is cut off before."""
        reader = EventReader()
        async with self.answer(path, query) as response:
            async for piece in response.aiter_raw():
                for event in reader.feed(piece):
                    if event.kind == "end":
                        return
                    if event.kind == "error":
                        raise problem_of(500, event.data, self.url)
                    yield event
        raise cut_off(self.url)

    def _opened(self) -> httpx.AsyncClient:
        assert self._http is not None, "use the client as `async with Client(...) as client`"
        return self._http


def _no_api(url: str) -> Problem:
    return Problem("bad_request", f"A node's API is a URL or HOST:PORT, not {url!r}.")


def _plain(value: object) -> Any:
    """A mapping or a sequence of another type as the one that JSON knows."""
    kind = type(value)
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, Sequence) and not issubclass(kind, (bytes, bytearray, memoryview)):
        return list(cast("Sequence[Any]", value))
    raise TypeError(f"it holds a value of the type '{kind.__name__}'")


# Not msgspec's: it says NaN as null, and sets, bytes and dates as lists and texts, so that a task
# would get something else than it was given.
_encoder = json.JSONEncoder(
    allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain
)


def _encoded(body: Any) -> bytes:
    try:
        return _encoder.encode(body).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise not_json(error) from None


def path_part(text: str) -> str:
    """The text as one part of a path, so that no id leads elsewhere."""
    from urllib.parse import quote

    return quote(text, safe="") or "-"


def _query(query: Mapping[str, Any] | None) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in (query or {}).items():
        if value is not None:
            texts[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return texts


async def threaded_pieces(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, each made in a worker thread, since it may wait for a disk."""
    import anyio

    while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
        yield piece


async def file_pieces(source: Path | str | bytes) -> AsyncIterator[bytes]:
    """A file's bytes (or the bytes themselves) piece by piece."""
    if isinstance(source, bytes):
        for at in range(0, len(source), PIECE_SIZE_BYTES):
            yield source[at : at + PIECE_SIZE_BYTES]
        return
    import anyio

    async with await anyio.open_file(source, "rb") as file:
        while piece := await file.read(PIECE_SIZE_BYTES):
            yield piece
