"""From a request to a typed call and back: one generic path for every route of the API.

A `Route` says everything about one operation (path, inputs, answer, errors); the router, the
checks, the reference and `openapi.json` are all made from it, so none can say something that
another does not. Handlers get a `Call` whose query and body have been read within bounds and
checked, and return a response or raise a `Problem`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec
import trio
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from kowalski_protocol.errors import Problem

from .bounds import HttpBounds
from .inputs import NoQuery

if TYPE_CHECKING:
    from starlette.types import Message, Receive

    from kowalski_node.port import NodePort

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
EVENTS: Final = "text/event-stream"

Q = TypeVar("Q")
B = TypeVar("B")


@dataclass(slots=True)
class Traffic:
    """What the API counts of itself, per operation: requests by status, and seconds."""

    requests: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def count(self, name: str, status: int, began: float) -> None:
        self.requests[name, status] = self.requests.get((name, status), 0) + 1
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Site:
    """What all calls share."""

    node: NodePort
    bounds: HttpBounds
    stopping: trio.Event
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """One request, checked; `body` is None where the route takes none or reads a stream."""

    site: Site
    request: Request
    path: Mapping[str, str]
    query: Q
    body: B

    @property
    def node(self) -> NodePort:
        return self.site.node


@dataclass(frozen=True, kw_only=True)
class Route(Generic[Q, B]):
    """One operation of the API and everything that is told about it."""

    method: str
    path: str
    name: str
    group: str
    summary: str
    handler: Callable[[Call[Q, B]], Awaitable[Response]]
    query: type[Q] = NoQuery  # pyright: ignore[reportAssignmentType]
    body: Any = None
    """The type that the body is decoded to; None: no body, or a stream of bytes (see body_media).
    """
    body_bytes_max: int = 0
    body_media: str | None = None
    documented_body: Any = None
    """What the body looks like, where the handler takes it as it came."""
    status: int = 200
    reply: Any = None
    reply_200: Any = None
    """The answer to the same request when it asked to wait for the end."""
    reply_media: str = JSON
    errors: Sequence[str] = ()


class Operation:
    """A route made ready: its decoders are built once."""

    def __init__(self, route: Route[Any, Any]) -> None:
        self.route = route
        self._decoder = None if route.body is None else msgspec.json.Decoder[Any](route.body)
        self._no_query = msgspec.convert({}, route.query)

    async def call(self, site: Site, request: Request) -> Response:
        """Reads and checks the request and has it handled."""
        route = self.route
        query = self._no_query
        if request.scope["query_string"]:
            query = parse_query(request.query_params, route.query)
        if route.body_media is not None:
            check_media_type(request, route.body_media)
        body = None
        if self._decoder is not None:
            body = decode_body(await read_body(request, route.body_bytes_max), self._decoder)
        path: Mapping[str, str] = request.path_params
        return await route.handler(Call(site, request, path, query, body))


def parse_query(given: QueryParams, kind: type[Q]) -> Q:
    """The query string as its type; Problem bad_request with the name of what is wrong."""
    pairs = given.multi_items()
    values = dict(pairs)
    if len(values) != len(pairs):
        raise Problem("bad_request", "A query parameter is given twice.")
    if "null" in values.values():  # the lax conversion would read the word as no value at all
        raise Problem("bad_request", "A query parameter has no value.")
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Problem("bad_request", f"The query is not as it should be: {error}.") from None


def check_media_type(request: Request, media: str) -> None:
    """Problem unsupported_media_type for a body of another type: what a page's form can send is
    refused."""
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != media:
        raise Problem("unsupported_media_type", f"The body must be sent as Content-Type: {media}.")


async def read_body(request: Request, size_bytes_max: int) -> bytes:
    """The whole body; Problem too_large as soon as it is known to be longer than it may."""
    too_large = Problem("too_large", f"The body may have at most {size_bytes_max:,} bytes.")
    announced = request.headers.get("content-length")
    if announced is not None and int(announced) > size_bytes_max:
        raise too_large
    receive: Receive = request.receive
    pieces: list[bytes] = []
    size = 0
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem("bad_request", "The body ended early.")
        piece: bytes = message["body"]
        size += len(piece)
        if size > size_bytes_max:
            raise too_large
        pieces.append(piece)
        if not message["more_body"]:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def decode_body(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """The body as the decoder's type; Problem bad_request otherwise."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Problem("bad_request", f"The body is not as it should be: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem("bad_request", "The body is not valid JSON.") from None
