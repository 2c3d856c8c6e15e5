"""What the network offers to the node and asks of it, without a word of libp2p.

The runtime implements `Handler` and is called back on trio's thread; the synchronous callbacks
are quick and never raise. A peer is always named by its 32-byte Ed25519 public key. Every bound
of the network is a field of `NetworkOptions`, with its reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from kowalski_protocol.limits import LIMITS

Purpose = Literal["lane", "gossip", "pull", "blob"]
PURPOSES: Final[tuple[Purpose, ...]] = ("lane", "gossip", "pull", "blob")

KIBIBYTE: Final = 1024
MEBIBYTE: Final = 1024 * 1024


class NetworkError(Exception):
    """A peer could not be reached, answered wrongly or not in time. The text is for the log."""


class PeerLied(NetworkError):
    """A peer said of a blob what can't be, or what it then didn't keep to."""


class BlobTooShort(NetworkError):
    """A peer's blob ends before the byte that was asked for. One of the two is not the blob."""


class Handler(Protocol):
    """What the network asks of the node and tells it."""

    def is_member(self, peer: bytes) -> bool:
        """Whether this public key may hold a connection; asked in the handshake, before any
        stream."""
        ...

    def peer_connected(self, peer: bytes, address: str) -> None:
        """A member's first connection is up, and its lane is being opened."""
        ...

    def peer_disconnected(self, peer: bytes) -> None:
        """A member's last connection is gone."""
        ...

    def gossip_received(self, topic: str, source: bytes | None, data: bytes) -> None:
        """One item that somebody published. `source` signed the gossip message that brought it."""
        ...

    def lane_received(self, peer: bytes, data: bytes) -> None:
        """One message, as the peer gave it to `send`."""
        ...

    def lane_overflowed(self, peer: bytes) -> None:
        """Messages to that peer were discarded: it will have to pull."""
        ...

    async def answer(self, peer: bytes, request: bytes) -> bytes:
        """The response to a peer's request."""
        ...

    async def serve_blob(
        self, peer: bytes, blob_hash: bytes, offset: int
    ) -> tuple[int, AsyncIterator[bytes]] | None:
        """A blob's whole size and its bytes from `offset` on; None if it isn't here. The network
        closes the iterator where it has an `aclose`."""
        ...


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Every bound of the network, with its unit in the name."""

    lane_queue_bytes: int = 8 * MEBIBYTE
    """Per peer. More than this behind, a peer is better served by a pull."""
    lane_message_bytes: int = 4 * MEBIBYTE
    """A frame of the maximum size with room; a longer length closes the lane."""
    lane_write_bytes: int = 512 * KIBIBYTE
    """What one write takes from the queue: large enough for throughput, small enough for pulls
    between."""
    lane_window_bytes: int = 4 * MEBIBYTE
    """What a peer may send ahead of our reading on one stream; bounds memory per stream."""
    request_bytes: int = MEBIBYTE
    response_bytes: int = 16 * MEBIBYTE
    blob_bytes: int = LIMITS.blob_size_bytes_max
    """A peer that says more of a blob is not listened to."""
    gossip_message_bytes: int = MEBIBYTE - 16 * KIBIBYTE
    """What py-libp2p and go-libp2p accept by default is 1 MiB with all that surrounds the data."""
    gossip_bundle_bytes: int = 256 * KIBIBYTE
    """Items that wait are bundled up to this; larger bundles measured no faster and delay others.
    """
    gossip_linger_s: float = 0.1
    """How long an item may wait for others to share its message; lanes carry what is urgent."""
    gossip_queue_bytes: int = 8 * MEBIBYTE
    gossip_heartbeat_s: float = 1.0
    streams_per_peer_max: int = 32
    """Streams that one peer may hold open towards us, whatever their protocol."""
    connections_max: int = 256
    handshakes_max: int = 64
    handshakes_per_address_max: int = 16
    """Unfinished handshakes, in all and per source address: strangers wait here, members pass."""
    handshake_timeout_s: float = 5.0
    """A handshake takes 10 ms; this allows for a starved device on a bad link."""
    read_timeout_s: float = 10.0
    """Every read of a handler other than a lane's; one byte now and then does not keep a stream."""
    answer_timeout_s: float = 30.0
    """For the node's own work on one request."""
    write_buffer_bytes: int = MEBIBYTE
    """Per connection: what waits for a slow peer's socket before writers wait too."""
    write_stall_s: float = 15.0
    """A peer that takes nothing for so long is gone; it may connect again when it is back."""
    connection_memory_bytes: int = 64 * MEBIBYTE
    """Received and not yet read, per connection: past this the peer breaks flow control and is
    cut."""


@dataclass(slots=True)
class Traffic:
    """Payload bytes to and from one peer for one purpose, since the node started."""

    sent_bytes: int = 0
    received_bytes: int = 0


class Blob(Protocol):
    """A blob being fetched: iterate it for its chunks, about 1 MiB each at most."""

    @property
    def size_bytes(self) -> int:
        """The whole blob's size, whatever the offset."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...
