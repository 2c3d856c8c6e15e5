"""Asking a member: one request and one response on a stream of its own, and blobs of any size.

Pull (`/kowalski/pull/1`): the asker sends one message and reads one. Blob
(`/kowalski/blob/1`): the asker sends hash and offset, the holder answers with one byte (1 if it
has it), the whole size (8 bytes, big-endian) and the bytes from the offset to the end. Each
message is bounded before it is read, every read and write has a deadline, and no more of a blob
is in memory than the stream's window and one piece.

A holder is believed nothing: the size that it says is bounded, and what comes beyond it is not
handed on. Bytes come at a minimum pace, since each `PACE_BYTES` must be there within the deadline
of one read. Whether they are the right ones is for the asker's hash to say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final

from libp2p.abc import INetConn

from .border import asked, attempt
from .interface import BlobTooShort, Handler, NetworkError, NetworkOptions, PeerLied
from .stream import FRAME_BYTES, BufferedStream, framed, open_stream

PULL: Final = "/kowalski/pull/1"
BLOB: Final = "/kowalski/blob/1"
HASH_BYTES: Final = 32
OFFSET_BYTES: Final = 8
PACE_BYTES: Final = 64 * 1024
"""What must come within one read's deadline: with 10 s, 6.4 KiB/s, which any working link has."""
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
            piece = await attempt("reading a blob", self._timeout_s, self._piece)
            self._left_bytes -= len(piece)
            self._count(0, len(piece))
            yield piece

    async def _piece(self) -> bytes:
        """What has come, at least `PACE_BYTES` or all that is left."""
        held = await self._stream.read_piece()
        if len(held) < min(PACE_BYTES, self._left_bytes):
            held = bytearray(held)
            while len(held) < min(PACE_BYTES, self._left_bytes):
                held += await self._stream.read_piece()
        if len(held) > self._left_bytes:
            raise PeerLied("more bytes than the blob has")
        return bytes(held)  # copies nothing where it is bytes already


@asynccontextmanager
async def fetch(
    conn: INetConn, blob_hash: bytes, offset: int, options: NetworkOptions, count: Counted
) -> AsyncIterator[FetchedBlob]:
    """A blob from `offset` on. Raises NetworkError, also where the peer doesn't have it; its
    subclass BlobTooShort where the peer's blob ends before `offset`.
    """
    assert len(blob_hash) == HASH_BYTES
    timeout_s = options.read_timeout_s
    stream = await attempt("opening a blob stream", timeout_s, open_stream, conn, BLOB)
    try:
        request = blob_hash + offset.to_bytes(OFFSET_BYTES, "big")
        await attempt("asking for a blob", timeout_s, stream.write, request)
        await attempt("asking for a blob", timeout_s, stream.widen, options.lane_window_bytes)
        head = await attempt("reading a blob", timeout_s, stream.read, 1 + OFFSET_BYTES)
        size_bytes = int.from_bytes(head[1:], "big")
        if head[:1] != FOUND:
            raise NetworkError("the peer doesn't have the blob")
        if size_bytes > options.blob_bytes:
            raise PeerLied(f"a blob of {size_bytes} bytes")
        if size_bytes < offset:
            raise BlobTooShort(f"a blob of {size_bytes} bytes was asked for from byte {offset}")
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
    async with aclosing(chunks) if hasattr(chunks, "aclose") else _left_open():  # pyright: ignore
        head = FOUND + size_bytes.to_bytes(OFFSET_BYTES, "big")
        await attempt("answering", timeout_s, stream.write, head)
        async for chunk in chunks:
            with memoryview(chunk) as view:
                # A deadline for each frame, so that a slow link may take long for a large chunk.
                for start in range(0, len(view), FRAME_BYTES):
                    frame = view[start : start + FRAME_BYTES]
                    await attempt("sending a blob", timeout_s, stream.write, frame)
                    count(len(frame), 0)
    await stream.close()


@asynccontextmanager
async def _left_open() -> AsyncIterator[None]:
    yield
