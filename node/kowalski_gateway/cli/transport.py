"""The command line's connection to a node: Python's own HTTP client, one kept-alive connection,
synchronous.

Importing it takes a fifth of the time of the library behind `kowalski_node.client`, which is most
of what a short command costs; what the answers mean is read by the same code (`client.answers`).
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, Final
from urllib.parse import quote, urlencode, urlsplit

import click

from kowalski_node.client.address import is_api_url
from kowalski_node.client.answers import (
    PATIENCE_S,
    WAIT_SLICE_S,
    bad_answer,
    cut_off,
    not_json,
    problem_of,
    unreachable,
)
from kowalski_node.client.server_events import EventReader, ServerEvent

from .settings import settings

CONNECT_S: Final = 5.0
ANSWER_SIZE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Of a whole answer kept in memory: a page of the largest results is well below."""
PIECE_SIZE_BYTES: Final = 64 * 1024
STREAM_QUIET_S: Final = 60.0
"""A node's stream says something every 15 s."""


class NodeApi:
    """The API of one node."""

    def __init__(self, url: str, token: str | None) -> None:
        if not is_api_url(url):
            raise click.UsageError(f"--api must be HOST:PORT or a URL, not {url!r}.")
        parts = urlsplit(url)
        self.url: Final = url
        self._prefix = parts.path.rstrip("/")
        self._token = token
        kind = http.client.HTTPSConnection if parts.scheme == "https" else None
        self._connection = (kind or http.client.HTTPConnection)(
            parts.hostname or "", parts.port, timeout=CONNECT_S
        )

    def get(self, path: str, **query: Any) -> Any:
        """The JSON that the path answers."""
        return self.ask("GET", path, query=query)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        wait_s: float = 0.0,
    ) -> Any:
        """The JSON that the node answers; the `Problem` that it has with the request otherwise.

        The request's body is `body` as JSON, or `content` as it is."""
        if body is not None:
            content = _encoded(body)
        response = self._send(method, path, content, query, PATIENCE_S + wait_s)
        answer = self._read(response)
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            raise bad_answer(self.url) from None

    def wait(self, task_id: str, wait_s: float) -> dict[str, Any]:
        """The task once it has settled, or as it stands after `wait_s`; asks in slices."""
        deadline = time.monotonic() + wait_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            slice_s = min(left_s, WAIT_SLICE_S)
            query = {"wait_s": slice_s}
            view = self.ask("GET", f"/api/tasks/{part(task_id)}", query=query, wait_s=slice_s)
            if view["state"] == "settled" or left_s <= slice_s:
                return view

    def save(self, path: str, file: IO[bytes]) -> int:
        """Writes the bytes that the path answers to a file; returns how many."""
        response = self._send("GET", path, None, None, PATIENCE_S)
        if response.status >= 400:
            self._read(response)
        size_bytes = 0
        for piece in self._pieces(response):
            file.write(piece)
            size_bytes += len(piece)
        return size_bytes

    def has(self, path: str, **query: Any) -> bool:
        """Whether the path is there, by its head alone."""
        response = self._send("HEAD", path, None, query, PATIENCE_S)
        response.read()
        if response.status not in (200, 404):
            raise problem_of(response.status, b"", self.url)
        return response.status == 200

    def upload(self, path: str, pieces: Iterable[bytes], size_bytes: int) -> Any:
        """Sends bytes piece by piece, in constant memory; returns the JSON that the node answers.

        What `pieces` raises ends it, and the node drops what it got."""
        headers = {"content-type": "application/octet-stream", "content-length": str(size_bytes)}
        try:
            response = self._send("PUT", path, pieces, None, PATIENCE_S, headers)
        except BaseException:  # guard: in the middle of a body no other request can follow
            self.close()
            raise
        answer = self._read(response)
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            raise bad_answer(self.url) from None

    def pieces(self, path: str) -> Iterator[bytes]:
        """The bytes that the path answers, piece by piece."""
        response = self._send("GET", path, None, None, PATIENCE_S)
        if response.status >= 400:
            self._read(response)
        yield from self._pieces(response)

    def stream(
        self, path: str, *, deadline: float | None = None, **query: Any
    ) -> Iterator[ServerEvent]:
        """The events of a stream, "end" being the last; stops early at a (monotonic) deadline."""
        response = self._send("GET", path, None, query, STREAM_QUIET_S)
        if response.status >= 400:
            self._read(response)
        reader = EventReader()
        while True:
            if deadline is not None:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return self.close()
                self._patience(min(left_s, STREAM_QUIET_S))
            try:
                piece = response.read1(PIECE_SIZE_BYTES)
            except TimeoutError:
                if deadline is not None and time.monotonic() >= deadline:
                    return self.close()
                raise unreachable(self.url) from None
            except (OSError, http.client.HTTPException):
                raise cut_off(self.url) from None
            if not piece:
                raise cut_off(self.url)
            for event in reader.feed(piece):
                if event.kind == "error":
                    raise problem_of(500, event.data, self.url)
                if event.kind == "end":
                    self.close()  # before whoever reads this goes on to the next request
                    yield event
                    return
                yield event

    def close(self) -> None:
        """Hangs up; the next request connects anew."""
        self._connection.close()

    def _send(
        self,
        method: str,
        path: str,
        content: bytes | Iterable[bytes] | None,
        query: Mapping[str, Any] | None,
        patience_s: float,
        more_headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        headers = {"accept": "application/json"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        if content is not None:
            headers["content-type"] = "application/json"
        headers |= more_headers or {}
        target = self._prefix + path + _query(query or {})
        try:
            if self._connection.sock is None:
                self._connection.connect()
            self._patience(patience_s)
            try:
                self._connection.request(method, target, content, headers)
            except (BrokenPipeError, ConnectionResetError):
                # A node that refuses a body says so before it has read all of it.
                if not more_headers:
                    raise
            return self._connection.getresponse()
        except (OSError, http.client.HTTPException, UnicodeError, ValueError):
            self.close()
            raise unreachable(self.url) from None

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        body = b"".join(self._pieces(response, ANSWER_SIZE_BYTES_MAX))
        if response.status >= 400:
            raise problem_of(response.status, body, self.url)
        return body

    def _pieces(
        self, response: http.client.HTTPResponse, size_bytes_max: float = float("inf")
    ) -> Iterator[bytes]:
        size_bytes = 0
        try:
            while piece := response.read(PIECE_SIZE_BYTES):
                size_bytes += len(piece)
                if size_bytes > size_bytes_max:
                    raise bad_answer(self.url)
                yield piece
        except (OSError, http.client.HTTPException):
            raise unreachable(self.url) from None

    def _patience(self, seconds: float) -> None:
        socket = self._connection.sock
        if socket is not None:
            socket.settimeout(max(seconds, 0.001))


def node_api() -> NodeApi:
    """The API that the running command was told to use."""
    chosen = settings()
    return NodeApi(chosen.url, chosen.api_token)


def part(text: str) -> str:
    """The text as one part of a path, so that no id leads elsewhere."""
    return quote(text, safe="") or "-"


def _encoded(body: Any) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise not_json(error) from None


def _query(query: Mapping[str, Any]) -> str:
    given = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in query.items()
        if value is not None
    }
    return f"?{urlencode(given)}" if given else ""
