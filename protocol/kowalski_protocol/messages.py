"""What two connected members say to each other beside gossip: lane messages and requests.

A lane message is one byte that names it and its content. Frames and datagrams are the same bytes
that gossip carries; heads and acknowledgements exist on lanes alone, because gossip has no
addressee. Requests are small msgpack arrays on a stream of their own, answered once.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct as Packer
from typing import Final

import msgspec

from .codec import Malformed, decode, encode
from .feeds import Feed, Head
from .ids import HASH_SIZE_BYTES, Author, EventHash
from .topics import FEED_TOPICS

FRAME: Final = 0x46
DATAGRAM: Final = 0x44
HEADS: Final = 0x48
ACK: Final = 0x41

_ack: Final = Packer(">BBQ")


class _Heads(msgspec.Struct, frozen=True, array_like=True):
    wants_answer: bool
    heads: list[tuple[bytes, str, int, bytes]]


_heads_decoder: Final = msgspec.msgpack.Decoder(_Heads)


def frame_message(frame: bytes) -> bytes:
    """A frame, for a lane."""
    return b"F" + frame


def datagram_message(datagram: bytes) -> bytes:
    """A telemetry datagram, for a lane."""
    return b"D" + datagram


def ack_message(topic: str, seq: int) -> bytes:
    """Your feed of this topic is durable here up to `seq`."""
    return _ack.pack(ACK, FEED_TOPICS.index(topic), seq)


def decode_ack(message: bytes) -> tuple[str, int]:
    """(topic, seq) of an acknowledgement; raises `Malformed`."""
    if len(message) != _ack.size or message[1] >= len(FEED_TOPICS):
        raise Malformed("acknowledgement")
    topic: int
    seq: int
    _, topic, seq = _ack.unpack(message)
    return FEED_TOPICS[topic], seq


def heads_message(heads: Mapping[Feed, Head], wants_answer: bool) -> bytes:
    """All heads that are durable here."""
    rows: list[tuple[bytes, str, int, bytes]] = [
        (feed.author, feed.topic, head.seq, head.hash) for feed, head in heads.items()
    ]
    return b"H" + encode(_Heads(wants_answer, rows))


def decode_heads(message: bytes) -> tuple[dict[Feed, Head], bool]:
    """Heads and whether ours are wanted in return; raises `Malformed`."""
    told = decode(message[1:], _heads_decoder)
    heads: dict[Feed, Head] = {}
    for author, topic, seq, hash in told.heads:
        if (
            len(author) == HASH_SIZE_BYTES
            and topic in FEED_TOPICS
            and 0 < seq < 1 << 63
            and len(hash) == HASH_SIZE_BYTES
        ):
            heads[Feed(Author(author), topic)] = Head(seq, EventHash(hash))
    return heads, told.wants_answer


class RangeRequest(msgspec.Struct, frozen=True, array_like=True, tag="range"):
    """What follows `after_seq` in a feed; answered with a list of frames."""

    author: bytes
    topic: str
    after_seq: int


class OutputRequest(msgspec.Struct, frozen=True, array_like=True, tag="output"):
    """What a running attempt printed from `offset` on; answered with `Output`."""

    attempt: bytes
    offset: int


class Output(msgspec.Struct, frozen=True, array_like=True):
    """A piece of an attempt's output. `chunks` are (stream, bytes); `known` is False for no such
    run.
    """

    known: bool
    offset: int
    chunks: list[tuple[str, bytes]]
    running: bool


Request = RangeRequest | OutputRequest
_request_decoder: Final = msgspec.msgpack.Decoder(Request)
_frames_decoder: Final = msgspec.msgpack.Decoder(list[bytes])
_output_decoder: Final = msgspec.msgpack.Decoder(Output)


def decode_request(data: bytes) -> Request:
    """A member's request; raises `Malformed`."""
    return decode(data, _request_decoder)


def decode_frames(data: bytes) -> tuple[bytes, ...]:
    """The answer to a `RangeRequest`; raises `Malformed`."""
    return tuple(decode(data, _frames_decoder))


def decode_output(data: bytes) -> Output:
    """The answer to an `OutputRequest`; raises `Malformed`."""
    return decode(data, _output_decoder)
