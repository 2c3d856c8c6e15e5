"""Large inputs and results over HTTP: bytes in, their hash out, and the other way round.

Both directions stream in constant memory: a piece is passed on before the next is read, and a slow
disk or member slows the client down rather than filling memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from starlette.responses import Response

from kowalski_protocol.errors import Problem
from kowalski_protocol.ids import HASH_SIZE_BYTES

from .answers import SAFETY_HEADERS, json_answer
from .calls import BYTES, Call, Route
from .inputs import BlobAnswer, NoQuery
from .sources import ClosingResponse

_HEX: Final = frozenset("0123456789abcdef")


async def put_blob(call: Call[NoQuery, None]) -> Response:
    blob_hash, size_bytes = await call.node.store_blob(_pieces(call))
    return json_answer(BlobAnswer(blob_hash, size_bytes), 201)


async def _pieces(call: Call[NoQuery, None]) -> AsyncIterator[bytes]:
    while True:
        message = await call.request.receive()
        if message["type"] == "http.disconnect":
            # Raised into the node's write, so that what came so far is dropped.
            raise Problem("bad_request", "The body ended early.")
        if message["body"]:
            yield message["body"]
        if not message["more_body"]:
            return


class BlobQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kept: Annotated[
        bool,
        Meta(
            description="Answer with the blob only where this node keeps it for good, and fetch it"
            " from nobody. HEAD with this asks whether it has to be sent."
        ),
    ] = False


async def get_blob(call: Call[BlobQuery, None]) -> Response:
    blob_hash = call.path["hash"].lower()
    if len(blob_hash) != 2 * HASH_SIZE_BYTES or not _HEX.issuperset(blob_hash):
        raise Problem("not_found", "A blob's name is the 64 hex digits of its SHA-256.")
    if call.query.kept and not call.node.keeps_blob(blob_hash):
        raise Problem("not_found", "This node does not keep the blob.")
    size_bytes, pieces = await call.node.open_blob(blob_hash)
    headers = SAFETY_HEADERS | {
        "content-length": str(size_bytes),
        "content-disposition": f'attachment; filename="{blob_hash}"',
        "etag": f'"{blob_hash}"',
    }
    return ClosingResponse(pieces, 200, headers, BYTES)


GROUP: Final = "Blobs"
BLOB_ROUTES: Final[tuple[Route[Any, Any], ...]] = (
    Route(
        method="PUT",
        path="/api/blobs",
        name="put_blob",
        group=GROUP,
        summary="Keeps bytes durably and answers with their SHA-256.",
        handler=put_blob,
        body_media=BYTES,
        status=201,
        reply=BlobAnswer,
        errors=("bad_request", "disk_full", "too_large", "too_slow", "unsupported_media_type"),
    ),
    Route(
        method="GET",
        path="/api/blobs/{hash}",
        name="get_blob",
        group=GROUP,
        summary="The bytes of a blob, fetched from members where they aren't here.",
        handler=get_blob,
        query=BlobQuery,
        reply=bytes,
        reply_media=BYTES,
        errors=("not_found",),
    ),
)
