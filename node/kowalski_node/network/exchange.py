"""Asking a member: one request and one response on a stream of its own, and blobs of any size.

Pull (`/kowalski/pull/1`): the asker sends one message and reads one. Blob
(`/kowalski/blob/1`): the asker sends hash and offset, the holder answers with one byte (1 if it
has it), the whole size (8 bytes, big-endian) and the bytes from the offset to the end. Each
message is bounded before it is read, every read and write has a deadline, and no more of a blob
is in memory than the stream's window.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final

from libp2p.abc import INetConn

from .border import asked, attempt
from .interface import Handler, NetworkError, NetworkOptions
from .stream import BufferedStream, framed, open_stream

PULL: Final = "/kowalski/pull/1"
BLOB: Final = "/kowalski/blob/1"
HASH_BYTES: Final = 32
OFFSET_BYTES: Final = 8
CHUNK_BYTES: Final = 64 * 1024
FOUND: Final = b"\x01"
NOT_FOUND: Final = b"\x00"

Counted = Callable[[int, int], None]
"""(sent bytes, received bytes)"""


async def ask(
    conn: INetConn, request: bytes, timeout_s: float, options: NetworkOptions, count: Counted
) -> bytes:
    """The peer's response; raises NetworkError."""
    return await attempt("a pull", timeout_s, _ask, conn, request, options, count)


async def _ask(conn: INetConn, request: bytes, options: NetworkOptions, count: Counted) -> bytes:
    stream = await open_stream(conn, PULL)
    try:
        await stream.write(framed(request))
        count(len(request), 0)
        await stream.widen(options.lane_window_bytes)
        response = await stream.read_message(options.response_bytes)
        count(0, len(response))
        return response
    finally:
        await stream.reset()


async def answer(
    stream: BufferedStream, peer: bytes, handler: Handler, options: NetworkOptions, count: Counted
) -> None:
    """Serves one pull."""
    request = await attempt(
        "reading a pull", options.read_timeout_s, stream.read_message, options.request_bytes
    )
    count(0, len(request))
    response = await asked("answer", options.answer_timeout_s, handler.answer, peer, request)
    if len(response) > options.response_bytes:
        raise NetworkError(f"an answer of {len(response)} bytes")
    await attempt("answering a pull", options.answer_timeout_s, stream.write, framed(response))
    count(len(response), 0)
    await stream.close()


class FetchedBlob:
    """A blob that is on its way, read chunk by chunk."""

    def __init__(
        self, stream: BufferedStream, size_bytes: int, offset: int, timeout_s: float, count: Counted
    ) -> None:
        self._stream = stream
        self._size_bytes = size_bytes
        self._left_bytes = size_bytes - offset
        self._timeout_s = timeout_s
        self._count = count

    @property
    def size_bytes(self) -> int:
        """The whole blob's size, whatever the offset."""
        return self._size_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._left_bytes:
            piece = await attempt("reading a blob", self._timeout_s, self._stream.read_piece)
            if len(piece) > self._left_bytes:
                raise NetworkError("more bytes than the blob has")
            self._left_bytes -= len(piece)
            self._count(0, len(piece))
            for start in range(0, len(piece), CHUNK_BYTES):
                yield bytes(piece[start : start + CHUNK_BYTES])


@asynccontextmanager
async def fetch(
    conn: INetConn, blob_hash: bytes, offset: int, options: NetworkOptions, count: Counted
) -> AsyncIterator[FetchedBlob]:
    """A blob from `offset` on; raises NetworkError, also where the peer doesn't have it."""
    assert len(blob_hash) == HASH_BYTES
    timeout_s = options.read_timeout_s
    stream = await attempt("opening a blob stream", timeout_s, open_stream, conn, BLOB)
    try:
        request = blob_hash + offset.to_bytes(OFFSET_BYTES, "big")
        await attempt("asking for a blob", timeout_s, stream.write, request)
        await attempt("asking for a blob", timeout_s, stream.widen, options.lane_window_bytes)
        head = await attempt("reading a blob", timeout_s, stream.read, 1 + OFFSET_BYTES)
        size_bytes = int.from_bytes(head[1:], "big")
        if head[:1] != FOUND or size_bytes < offset:
            raise NetworkError("the peer doesn't have the blob")
        yield FetchedBlob(stream, size_bytes, offset, timeout_s, count)
    finally:
        await stream.reset()


async def serve(
    stream: BufferedStream, peer: bytes, handler: Handler, options: NetworkOptions, count: Counted
) -> None:
    """Serves one blob."""
    request = await attempt(
        "reading a blob request", options.read_timeout_s, stream.read, HASH_BYTES + OFFSET_BYTES
    )
    offset = int.from_bytes(request[HASH_BYTES:], "big")
    timeout_s = options.answer_timeout_s
    blob_hash = request[:HASH_BYTES]
    found = await asked("serve_blob", timeout_s, handler.serve_blob, peer, blob_hash, offset)
    if found is None:
        await attempt("answering", timeout_s, stream.write, NOT_FOUND + bytes(OFFSET_BYTES))
        await stream.close()
        return
    size_bytes, chunks = found
    await attempt(
        "answering", timeout_s, stream.write, FOUND + size_bytes.to_bytes(OFFSET_BYTES, "big")
    )
    async with aclosing(chunks) if hasattr(chunks, "aclose") else _left_open():  # pyright: ignore
        async for chunk in chunks:
            await attempt("sending a blob", timeout_s, stream.write, chunk)
            count(len(chunk), 0)
    await stream.close()


@asynccontextmanager
async def _left_open() -> AsyncIterator[None]:
    yield
