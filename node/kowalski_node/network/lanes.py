"""A lane: one long-lived stream to a member, on which messages are pushed the moment they exist.

Each side opens one lane to every member that it is connected to, writes on its own and reads on
the other's. Sending never waits: a message goes into a queue that the lane's writer empties, all
that waits in one write. The queue is bounded in bytes; over the bound it is emptied and the node
is told, because a peer that is so far behind is served better by a pull than by what is left of a
stream of frames. A frozen peer so costs the bound and nothing else.

On the wire a message has its length before it (4 bytes, big-endian). Where the highest bit of the
length is set, the message is the network's own: the keys of the peers that the sender's gossip
reaches, so that nobody passes it on to them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from .border import attempt
from .interface import NetworkError, NetworkOptions
from .stream import LENGTH_BYTES, BufferedStream

LANE: Final = "/kowalski/lane/1"
NOTE: Final = 0x8000_0000
NOTE_BYTES_MAX: Final = 128 * 32


class LaneQueue:
    """What waits to be sent to one peer. It outlives the streams that carry it."""

    def __init__(self, size_bytes_max: int) -> None:
        self._messages: deque[tuple[int, bytes]] = deque()
        self._size_bytes = 0
        self._size_bytes_max = size_bytes_max
        self._filled = trio.Event()

    @property
    def size_bytes(self) -> int:
        """What waits, with the lengths before the messages."""
        return self._size_bytes

    def put(self, message: bytes, *, note: bool = False) -> bool:
        """Queues a message; False where the bound was passed and the queue emptied instead."""
        self._size_bytes += LENGTH_BYTES + len(message)
        if self._size_bytes > self._size_bytes_max:
            self.clear()
            return False
        self._messages.append((len(message) | (NOTE if note else 0), message))
        self._filled.set()
        return True

    def clear(self) -> bool:
        """Discards everything; whether there was anything."""
        any_discarded = bool(self._messages)
        self._messages.clear()
        self._size_bytes = 0
        return any_discarded

    async def take(self, size_bytes: int) -> bytes:
        """All that waits as one piece for the wire, up to about `size_bytes`, waiting for the
        first."""
        while not self._messages:
            self._filled = trio.Event()
            await self._filled.wait()
        parts: list[bytes] = []
        taken_bytes = 0
        while self._messages and taken_bytes < size_bytes:
            length, message = self._messages.popleft()
            parts.append(length.to_bytes(LENGTH_BYTES, "big"))
            parts.append(message)
            taken_bytes += LENGTH_BYTES + len(message)
        self._size_bytes -= taken_bytes
        return b"".join(parts)


async def write_lane(
    stream: BufferedStream,
    queue: LaneQueue,
    options: NetworkOptions,
    count: Callable[[int], None],
) -> None:
    """Empties the queue onto the stream until that breaks; raises NetworkError then."""
    while True:
        piece = await queue.take(options.lane_write_bytes)
        await attempt("writing a lane", None, stream.write, piece)
        count(len(piece))


async def read_lane(
    stream: BufferedStream,
    options: NetworkOptions,
    received: Callable[[bytes], None],
    noted: Callable[[bytes], None],
) -> None:
    """Gives each message to `received` until the stream ends, or holds what is not a message."""
    await stream.widen(options.lane_window_bytes)
    held = bytearray()
    while True:
        held += await stream.read_piece()
        position = 0
        while len(held) - position >= LENGTH_BYTES:
            start = position + LENGTH_BYTES
            length = int.from_bytes(held[position:start], "big")
            size_bytes = length & ~NOTE
            if size_bytes > (NOTE_BYTES_MAX if length & NOTE else options.lane_message_bytes):
                raise NetworkError(f"a lane message of {size_bytes} bytes")
            if len(held) - start < size_bytes:
                break
            position = start + size_bytes
            with memoryview(held) as view:
                message = bytes(view[start:position])
            (noted if length & NOTE else received)(message)
        del held[:position]
