"""Datagrams: what is worth knowing now and not worth keeping.

A datagram is signed but belongs to no chain: (boot id, counter) orders those of one author, and
only the newest counts. A new boot id is a new start of the device and outranks the old one by its
boot time. Nothing is committed before it is sent and nothing lost is sent again. A heartbeat says:
I am here; I heard you (the newest counter of each member, so that hearing is known to be mutual);
this is how far my own feeds reach; and this is the hash of all heads that I hold.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from .codec import Malformed, decode, decode_exact, encode
from .feeds import Verify
from .identity import verify
from .ids import Author, ClusterId
from .limits import LIMITS, Limits

_DOMAIN: Final = b"kowalski/datagram/1"


class Heartbeat(msgspec.Struct, frozen=True, array_like=True):
    """The one datagram of this release."""

    boot: int
    """Unix milliseconds of the author's start: names this run of it."""
    counter: int
    """Rises by one with each datagram of the run."""
    wall_ms: int
    echoes: tuple[tuple[bytes, int, int, int], ...]
    """Per member heard: (first 8 bytes of its key, its boot, its newest counter, µs since that
    came).
    """
    task_seq: int
    result_seq: int
    """How far the author's own feeds reach, committed."""
    heads_hash: bytes
    leader: bytes
    """The claim that the author follows; empty for none."""
    running: int
    queued: int
    stopping: bool
    writes: bool = True
    """Whether it can write into its ledger; without, it can neither lead nor run anything."""
    addresses: tuple[str, ...] = ()
    sample: dict[str, Any] | None = None
    """The newest sample of the device's sensors, every so often."""


class Datagram(msgspec.Struct, frozen=True, array_like=True):
    """A signed envelope; `content` is an encoded `Heartbeat`."""

    cluster: bytes
    author: bytes
    signature: bytes
    content: bytes


_datagram_decoder: Final = msgspec.msgpack.Decoder(Datagram)
_heartbeat_decoder: Final = msgspec.msgpack.Decoder(Heartbeat)


def encode_datagram(cluster: ClusterId, author: Author, sign: Any, heartbeat: Heartbeat) -> bytes:
    """The signed bytes of a heartbeat; `sign` is `Identity.sign` or its like."""
    content = encode(heartbeat)
    return encode(Datagram(cluster, author, sign(_DOMAIN + cluster + content), content))


def decode_datagram(
    data: bytes,
    cluster: ClusterId,
    *,
    trusted_author: Author | None = None,
    verifier: Verify = verify,
    limits: Limits = LIMITS,
) -> tuple[Author, Heartbeat]:
    """The author and heartbeat of a datagram; raises `Malformed`.

    The signature is not checked again where the bytes came on an authenticated connection of
    `trusted_author` itself.
    """
    if len(data) > limits.datagram_size_bytes_max:
        raise Malformed("datagram too large")
    datagram = decode_exact(data, _datagram_decoder)
    author, content = Author(datagram.author), datagram.content
    if datagram.cluster != cluster or len(author) != 32:
        raise Malformed("datagram of another cluster")
    if author != trusted_author:
        message = _DOMAIN + cluster + content
        if not verifier(author, datagram.signature, message):
            raise Malformed("datagram signature")
    return author, decode(content, _heartbeat_decoder)
