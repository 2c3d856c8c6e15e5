"""A libp2p stream read in large pieces, with its own flow control, and messages with a length
before them.

libp2p reads a stream as it was asked to: one byte for each byte of a length, and after every read
it sends a window update of its own, encrypted frame and all. `BufferedStream` stands before a
stream and takes what has arrived in one piece. It tells the peer of new room only when half the
window was used, or not at all where little is sent. It also opens the window wide where much is
expected: a py-libp2p writer that runs out of window looks again only every 10 ms. Both are done
with yamux' public methods.

It is an `INetStream`, so libp2p's own protocols (negotiation, pubsub, identify) read through it
too.
"""

from __future__ import annotations

from typing import Any, Final, cast

import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from libp2p.network.stream.net_stream import NetStream
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import DEFAULT_WINDOW_SIZE, HEADER_SIZE, Yamux, YamuxStream

from .interface import NetworkError

PIECE_BYTES: Final = 1024 * 1024
FRAME_BYTES: Final = MAX_PLAINTEXT_LENGTH - HEADER_SIZE
"""What fits one yamux frame that fits one Noise message. Left to itself yamux fills frames that
are 17 bytes too long for that, so that each is encrypted and sent as two messages."""
NEGOTIATION_S: Final = 10
LENGTH_BYTES: Final = 4
OPEN_S: Final = 3.0
RESET_S: Final = 1.0
"""Opening and resetting a stream are one small frame: longer only where a peer takes nothing."""


class BufferedStream(INetStream):
    """A stream over one yamux stream. One task reads it at a time."""

    def __init__(self, stream: INetStream) -> None:
        assert isinstance(stream, NetStream)
        assert isinstance(stream.muxed_stream, YamuxStream)
        self._stream = stream
        self._yamux_stream = stream.muxed_stream
        self._yamux: Yamux = stream.muxed_stream.conn
        self._buffer = bytearray()
        self._window_bytes = DEFAULT_WINDOW_SIZE
        self._used_bytes = 0
        self.muxed_conn: IMuxedConn = stream.muxed_conn
        self.metric_send_channel: Any = None
        self.received_bytes = 0

    async def widen(self, window_bytes: int) -> None:
        """The peer may from now on send so much ahead of our reading."""
        if window_bytes > self._window_bytes:
            more = window_bytes - self._window_bytes
            self._window_bytes = window_bytes
            await self._grant(more)

    async def _grant(self, size_bytes: int) -> None:
        self._yamux_stream.recv_window += size_bytes
        await self._yamux_stream.send_window_update(size_bytes)

    async def read_piece(self) -> bytes | bytearray:
        """What has arrived, at least one byte. Raises StreamEOF and StreamReset at the end."""
        if self._buffer:
            piece, self._buffer = self._buffer, bytearray()
            return piece
        try:
            piece = await self._yamux.read_stream(self._yamux_stream.stream_id, PIECE_BYTES)
        except MuxedStreamEOF as error:
            raise StreamEOF from error
        except (MuxedStreamReset, MuxedStreamError) as error:
            raise StreamReset from error
        self.received_bytes += len(piece)
        self._used_bytes += len(piece)
        if self._used_bytes >= self._window_bytes // 2:
            used, self._used_bytes = self._used_bytes, 0
            await self._grant(used)
        return piece

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes, without `n` what there is; StreamEOF where the stream ends before."""
        if n is None or n < 0:
            return bytes(await self.read_piece())
        while len(self._buffer) < n:
            piece = await self._read_more()
            self._buffer += piece
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data

    async def _read_more(self) -> bytes | bytearray:
        held, self._buffer = self._buffer, bytearray()
        try:
            return await self.read_piece()
        finally:
            self._buffer = held

    async def read_message(self, size_bytes_max: int) -> bytes:
        """A message that `frame` wrote; NetworkError where it would be longer than
        `size_bytes_max`."""
        size_bytes = int.from_bytes(await self.read(LENGTH_BYTES), "big")
        if size_bytes > size_bytes_max:
            raise NetworkError(
                f"a message of {size_bytes} bytes, at most {size_bytes_max} are allowed"
            )
        return await self.read(size_bytes)

    async def write(self, data: bytes | memoryview) -> None:
        """All of `data` is with the connection; waits while window or wire are full."""
        if len(data) <= FRAME_BYTES:
            await self._write(data)
            return
        with memoryview(data) as view:
            for start in range(0, len(view), FRAME_BYTES):
                await self._write(view[start : start + FRAME_BYTES])

    async def _write(self, data: bytes | memoryview) -> None:
        # libp2p only slices it, and adds it to a header: a view saves a copy.
        await self._stream.write(cast("bytes", data))

    async def close(self) -> None:
        await self._stream.close()

    async def reset(self) -> None:
        """Ends the stream in both directions, also where the caller is being cancelled.

        yamux keeps a place among 256 for a stream that was left without; and what has arrived
        and was not read it keeps for a minute, so that is taken from it here."""
        with trio.move_on_after(RESET_S, shield=True):
            await self._stream.reset()
            async with self._yamux.streams_lock:
                number = self._yamux_stream.stream_id
                self._yamux.streams.pop(number, None)
                self._yamux.stream_buffers.pop(number, None)
                self._yamux.stream_events.pop(number, None)

    def get_protocol(self) -> TProtocol | None:
        return self._stream.get_protocol()

    def set_protocol(self, protocol_id: TProtocol) -> None:
        self._stream.set_protocol(protocol_id)

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._stream.get_remote_address()


def framed(message: bytes) -> bytes:
    """A message with its length before it."""
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


async def open_stream(conn: INetConn, protocol: str) -> BufferedStream:
    """A new stream on this very connection, with the protocol agreed upon.

    libp2p's own way picks a connection of its choice and dials if there is none."""
    # Shielded, because a cancelled opening keeps its place in yamux for ever.
    with trio.fail_after(OPEN_S, shield=True):
        stream = BufferedStream(await conn.new_stream())
    agreed = False
    try:
        await MultiselectClient().select_one_of(
            [TProtocol(protocol)], MultiselectCommunicator(stream), NEGOTIATION_S
        )
        agreed = True
    finally:
        if not agreed:
            await stream.reset()
    stream.set_protocol(TProtocol(protocol))
    return stream
