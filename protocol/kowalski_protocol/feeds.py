"""Feeds and frames: how one author's facts form a chain that anybody can check.

A feed is one author's events on one topic. An event's hash covers the hash before it, its sequence
number, time, kind and the hash of its body; the chain begins from a hash of (cluster, author,
topic), so an event fits in one place of one cluster only. A body may be dropped later and the chain
still verifies.

A frame carries a contiguous run of one feed. Its header is checked first (known author, cluster,
size, signature), and only then are events decoded. The signature covers the last event's hash, and
through the chain everything before it: one signature per frame however long it is, and any run that
ends at a signed event can be served again as a frame. Attachments ride beside the events whose
bodies name their hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from struct import Struct as Packer
from typing import Final

import msgspec

from .codec import Malformed, decode, decode_exact, encode
from .identity import SIGNATURE_SIZE_BYTES, verify
from .ids import HASH_SIZE_BYTES, Author, ClusterId, EventHash
from .limits import LIMITS, Limits
from .topics import FEED_TOPICS

FRAME_VERSION: Final = 1
_GENESIS_DOMAIN: Final = b"kowalski/feed/1"
_SIGNATURE_DOMAIN: Final = b"kowalski/frame/1"
SEQ_MAX: Final = (1 << 63) - 1

_sha256 = hashlib.sha256
_link = Packer(">QQB").pack

Verify = Callable[[Author, bytes, bytes], bool]
"""(author, signature, message) -> whether it holds; the simulator passes a cheap one."""


class Feed(msgspec.Struct, frozen=True, array_like=True, order=True):
    """The name of a feed."""

    author: Author
    topic: str


class Head(msgspec.Struct, frozen=True, array_like=True):
    """How far a feed reaches: its last sequence number (0 for none) and that event's hash."""

    seq: int
    hash: EventHash


class Event:
    """One event with its place in its feed. A plain class: thousands a second are made of it."""

    __slots__ = ("attachment", "author", "body", "hash", "hlc", "kind", "seq", "signature", "topic")

    def __init__(
        self,
        author: Author,
        topic: str,
        seq: int,
        hlc: int,
        kind: str,
        body: bytes,
        hash: EventHash,
        attachment: bytes | None = None,
        signature: bytes | None = None,
    ) -> None:
        self.author = author
        self.topic = topic
        self.seq = seq
        self.hlc = hlc
        self.kind = kind
        self.body = body
        self.hash = hash
        self.attachment = attachment
        self.signature = signature
        """The author's signature where a frame ended at this event."""

    def __repr__(self) -> str:
        return f"<{self.kind} {self.author.hex()[:8]}/{self.topic}/{self.seq}>"


class FrameHeader(msgspec.Struct, frozen=True, array_like=True):
    """What is checked before any event is looked at.

    `events` is an encoded list of `_WireEvent`.
    """

    version: int
    cluster: bytes
    topic: str
    author: bytes
    first_seq: int
    count: int
    last_hash: bytes
    signature: bytes
    events: bytes


_WireEvent = tuple[int, str, bytes, bytes | None]
"""(hlc, kind, body, attachment)"""

_header_decoder: Final = msgspec.msgpack.Decoder(FrameHeader)
_events_decoder: Final = msgspec.msgpack.Decoder(list[_WireEvent])


def genesis(cluster: ClusterId, author: Author, topic: str) -> EventHash:
    """The hash that the first event of a feed follows."""
    return EventHash(_sha256(_GENESIS_DOMAIN + cluster + author + topic.encode()).digest())


def event_hash(prev: EventHash, seq: int, hlc: int, kind: str, body: bytes) -> EventHash:
    """The hash of an event: SHA-256 of (prev, seq, hlc, kind, SHA-256 of the body)."""
    name = kind.encode()
    return EventHash(
        _sha256(prev + _link(seq, hlc, len(name)) + name + _sha256(body).digest()).digest()
    )


def event_hash_of_parts(
    prev: EventHash, seq: int, hlc: int, kind: str, body_hash: bytes
) -> EventHash:
    """As `event_hash`, from the body's hash alone: how a chain with dropped bodies is checked."""
    name = kind.encode()
    return EventHash(_sha256(prev + _link(seq, hlc, len(name)) + name + body_hash).digest())


def signed_message(last_hash: EventHash) -> bytes:
    """What a frame's signature covers."""
    return _SIGNATURE_DOMAIN + last_hash


def encode_frame(cluster: ClusterId, events: Sequence[Event]) -> bytes:
    """The frame of a contiguous run of one feed that ends at a signed event."""
    first, last = events[0], events[-1]
    assert last.signature is not None
    return encode(
        FrameHeader(
            FRAME_VERSION,
            cluster,
            first.topic,
            first.author,
            first.seq,
            len(events),
            last.hash,
            last.signature,
            encode([(e.hlc, e.kind, e.body, e.attachment) for e in events]),
        )
    )


def decode_header(data: bytes, cluster: ClusterId, limits: Limits = LIMITS) -> FrameHeader:
    """The header of a frame of this cluster; raises `Malformed`. Nothing is trusted yet."""
    if len(data) > limits.frame_size_bytes_max:
        raise Malformed("frame too large")
    header = decode_exact(data, _header_decoder)
    if header.version != FRAME_VERSION:
        raise Malformed("frame version")
    if header.cluster != cluster:
        raise Malformed("frame of another cluster")
    if header.topic not in FEED_TOPICS:
        raise Malformed("unknown topic")
    if len(header.author) != HASH_SIZE_BYTES or len(header.last_hash) != HASH_SIZE_BYTES:
        raise Malformed("field size")
    if len(header.signature) != SIGNATURE_SIZE_BYTES:
        raise Malformed("signature size")
    if not 1 <= header.count <= limits.frame_events_max:
        raise Malformed("event count")
    if not 1 <= header.first_seq <= SEQ_MAX - header.count:
        raise Malformed("sequence number")
    return header


def check_signature(header: FrameHeader, verifier: Verify = verify) -> bool:
    """Whether the header's author signed its last hash."""
    message = signed_message(EventHash(header.last_hash))
    return verifier(Author(header.author), header.signature, message)


def open_frame(
    header: FrameHeader, prev: EventHash, hlc_floor: int, limits: Limits = LIMITS
) -> list[Event]:
    """The events of a frame whose first one follows `prev`; raises `Malformed`.

    `hlc_floor` is the time of the event before, or 0: times rise strictly within a feed. The
    signature must have been checked; here the chain is, so afterwards each event is known to be the
    author's.
    """
    wire = decode(header.events, _events_decoder)
    if len(wire) != header.count:
        raise Malformed("event count")
    if encode(wire) != header.events:
        raise Malformed("events not in canonical form")
    author, topic, seq = Author(header.author), header.topic, header.first_seq
    events: list[Event] = []
    for hlc, kind, body, attachment in wire:
        if not hlc_floor < hlc < 1 << 64:
            raise Malformed("time does not rise")
        if not 1 <= len(kind) <= limits.kind_length_max or not kind.isascii():
            raise Malformed("kind")
        if len(body) > limits.body_size_bytes_max:
            raise Malformed("body too large")
        if attachment is not None and len(attachment) > limits.attachment_size_bytes_max:
            raise Malformed("attachment too large")
        name = kind.encode()
        digest = _sha256(prev + _link(seq, hlc, len(name)) + name + _sha256(body).digest()).digest()
        prev = EventHash(digest)
        events.append(Event(author, topic, seq, hlc, kind, body, prev, attachment))
        hlc_floor = hlc
        seq += 1
    if prev != header.last_hash:
        raise Malformed("chain does not end at the signed hash")
    events[-1].signature = header.signature
    return events
