"""One TCP connection as libp2p reads and writes it: buffered, and safe to cancel.

libp2p's own socket stream has three properties that we can't live with. It asks the kernel for
two bytes, then for a body, for every Noise message. A write that is cancelled half-way leaves
half a Noise message on the wire, after which the peer understands nothing more, so that no
deadline could be put on anything that writes. And it knows no remote address for IPv6. `Wire`
implements libp2p's `ReadWriteCloser` instead:

- a read takes what the kernel has, up to 256 KiB, and serves the following reads from memory;
- a write gives the bytes to the kernel at once; what the kernel doesn't take is kept, a task of
  the network's nursery sends it on, and the writer waits only while more than the buffer's bound
  is kept. Cancelling the writer stops the waiting, never the bytes;
- a peer that takes nothing for `write_stall_s` is cut, so no writer waits for ever, shielded or
  not;
- the end of the connection is told to `on_lost` in the moment in which the kernel reports it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Final

import trio
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError

READ_SIZE_BYTES: Final = 256 * 1024
CHECK_EVERY_BYTES: Final = 1024 * 1024


class Wire(ReadWriteCloser):
    """A connected, non-blocking TCP socket. `nursery` runs the sender of what the kernel didn't
    take."""

    def __init__(
        self,
        connection: socket.socket,
        nursery: trio.Nursery,
        *,
        buffer_bytes: int,
        stall_s: float,
    ) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._nursery = nursery
        self._buffer_bytes = buffer_bytes
        self._stall_s = stall_s
        host, port = connection.getpeername()[:2]
        self._remote = (str(host), int(port))
        self._received = b""
        self._taken = 0
        self._pending = bytearray()
        self._sending = False
        self._room = trio.Event()
        self._closed = False
        self._unchecked_bytes = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.on_lost: Callable[[], None] | None = None
        """Called once, when the peer's end is gone or this end is closed."""
        self.on_megabyte: Callable[[], None] | None = None
        """Called after each megabyte received: the place to look at how much of it was read."""

    @property
    def pending_bytes(self) -> int:
        """What the kernel has not taken yet."""
        return len(self._pending)

    @property
    def closed(self) -> bool:
        return self._closed

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes, fewer only at the end of the connection; without `n`, what there is.

        Whole, since libp2p's `read_exactly` gives up after a hundred pieces, which a slow link
        makes."""
        while len(self._received) - self._taken < (1 if n is None else n):
            if not await self._fill():
                break
        start = self._taken
        available = len(self._received)
        self._taken = available if n is None else min(start + n, available)
        return self._received[start : self._taken]

    async def _fill(self) -> bool:
        """Adds what the kernel has to what wasn't taken yet; False at the end of the connection."""
        while not self._closed:
            try:
                more = self._socket.recv(READ_SIZE_BYTES)
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_readable(self._socket)
                except trio.ClosedResourceError:
                    return False
                continue
            except OSError as error:
                self._close_now()
                raise ConnectionClosedError(f"connection lost: {error}", transport="tcp") from error
            if not more:
                self._close_now()
                return False
            rest = self._received[self._taken :]
            self._received, self._taken = rest + more if rest else more, 0
            self._count(len(more))
            return True
        return False

    def _count(self, size_bytes: int) -> None:
        self.received_bytes += size_bytes
        self._unchecked_bytes += size_bytes
        if self._unchecked_bytes >= CHECK_EVERY_BYTES:
            self._unchecked_bytes = 0
            if self.on_megabyte is not None:
                self.on_megabyte()

    async def write(self, data: bytes) -> None:
        """Takes all of `data`; returns when no more than the bound waits for the kernel."""
        if self._closed:
            raise ConnectionClosedError("connection closed", transport="tcp")
        self.sent_bytes += len(data)
        if not self._pending:
            sent = self._send_now(data)
            if sent == len(data):
                return
            data = data[sent:]
        self._pending += data
        if not self._sending:
            self._sending = True
            self._nursery.start_soon(self._send_pending)
        while len(self._pending) > self._buffer_bytes and not self._closed:
            await self._room.wait()
        if self._closed:
            raise ConnectionClosedError("connection closed", transport="tcp")

    def _send_now(self, data: bytes | bytearray | memoryview) -> int:
        """How many bytes the kernel took; the connection is closed if it is broken."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._close_now()
            raise ConnectionClosedError(f"connection lost: {error}", transport="tcp") from error

    async def _send_pending(self) -> None:
        """Sends what is kept until nothing is, or the peer has taken nothing for too long."""
        while self._pending and not self._closed:
            writable = False
            with trio.move_on_after(self._stall_s):
                try:
                    await trio.lowlevel.wait_writable(self._socket)
                except trio.ClosedResourceError:
                    break
                writable = True
            if not writable:
                self._close_now()
                break
            try:
                with memoryview(self._pending) as view, view[:READ_SIZE_BYTES] as head:
                    sent = self._send_now(head)
            except ConnectionClosedError:
                break
            del self._pending[:sent]
            if len(self._pending) <= self._buffer_bytes:
                self._wake_writers()
        self._sending = False

    def _wake_writers(self) -> None:
        self._room.set()
        self._room = trio.Event()

    def _close_now(self) -> None:
        if self._closed:
            return
        self._closed = True
        trio.lowlevel.notify_closing(self._socket)
        with contextlib.suppress(OSError):  # so that the peer gets what it was sent before the end
            self._socket.shutdown(socket.SHUT_WR)
        self._socket.close()
        self._pending.clear()
        self._wake_writers()
        lost, self.on_lost, self.on_megabyte = self.on_lost, None, None
        if lost is not None:
            lost()

    def cut(self) -> None:
        """Closes the connection without a task switch."""
        self._close_now()

    async def close(self) -> None:
        """The connection is closed; what the kernel hadn't taken is lost."""
        self._close_now()

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's IP address and port, of either family."""
        return self._remote
