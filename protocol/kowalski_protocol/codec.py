"""The one door for bytes from outside, and its way back.

msgspec refuses lengths that lie, but nesting makes it raise RecursionError and bad text
UnicodeDecodeError; this door turns all three into `Malformed`, so that no caller has to know.
Bodies are encoded canonically (sorted maps), because their hash is in the chain. Reading a body is
lenient where a newer release may have added fields; envelopes and frames are exact:
`encode(decode(x)) == x`, or they are refused.

How deep a decoder gets before it raises RecursionError depends on the stack that it is called on
and on the release of Python. What is stored and folded must read the same everywhere, so its
nesting has a bound of its own, which every decoder reaches.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from .events import KINDS, Body
from .limits import LIMITS

T = TypeVar("T")


class Malformed(ValueError):
    """The bytes are not what they should be; the text says how, for the log."""


_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")
encode: Final = _encoder.encode
"""The canonical msgpack of a Struct or plain value."""

_body_decoders: Final[dict[str, msgspec.msgpack.Decoder[Body]]] = {
    name: msgspec.msgpack.Decoder(kind) for name, kind in KINDS.items()
}


def decode(data: bytes, decoder: msgspec.msgpack.Decoder[T]) -> T:
    """Decodes bytes of anyone's; raises `Malformed` and nothing else."""
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise Malformed(str(error)) from None


def decode_exact(data: bytes, decoder: msgspec.msgpack.Decoder[T]) -> T:
    """As `decode`, and refuses any bytes but the canonical ones."""
    try:  # As `decode`: each datagram comes by here, from each member several times a second.
        value = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise Malformed(str(error)) from None
    if encode(value) != data:
        raise Malformed("not in canonical form")
    return value


def decode_stored(data: bytes, decoder: msgspec.msgpack.Decoder[T]) -> T | None:
    """What stands in the ledger, read alike on every node; None for another form. Never raises."""
    try:
        value = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        return None
    return None if nests_too_deep(data) else value


def decode_body(kind: str, body: bytes) -> Body | None:
    """An event's body; None for a kind or a form that this release does not know. Never raises."""
    decoder = _body_decoders.get(kind)
    return None if decoder is None else decode_stored(body, decoder)


_CONTAINERS: Final = bytes((*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF))
_NO_CONTAINERS: Final = bytes(set(range(256)) - set(_CONTAINERS))
_FIXED: Final[dict[int, int]] = {
    0xCA: 4,
    0xCB: 8,
    0xCC: 1,
    0xCD: 2,
    0xCE: 4,
    0xCF: 8,
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
    0xD4: 2,
    0xD5: 3,
    0xD6: 5,
    0xD7: 9,
    0xD8: 17,
}
"""Numbers and extensions of one size: how many bytes follow the first."""
_SIZED: Final[dict[int, tuple[int, int]]] = {
    0xC4: (1, 0),
    0xC5: (2, 0),
    0xC6: (4, 0),
    0xD9: (1, 0),
    0xDA: (2, 0),
    0xDB: (4, 0),
    0xC7: (1, 1),
    0xC8: (2, 1),
    0xC9: (4, 1),
}
"""Bytes, texts and extensions: how many bytes tell the size, and how many more follow it."""
_COUNTED: Final[dict[int, tuple[int, int]]] = {
    0xDC: (2, 1),
    0xDD: (4, 1),
    0xDE: (2, 2),
    0xDF: (4, 2),
}
"""Arrays and maps: how many bytes tell the count, and how many values an entry has."""


def nests_too_deep(data: bytes, levels_max: int = LIMITS.nesting_max) -> bool:
    """Whether msgpack holds values inside of each other on more than `levels_max` levels.

    Nearly all data is cleared by counting the bytes that could open a level; the rest is walked.
    """
    if len(data) <= levels_max or len(data.translate(None, _NO_CONTAINERS)) <= levels_max:
        return False
    left: list[int] = []
    """How many values are still to come, for each level that is open."""
    at, end = 0, len(data)
    while at < end:
        first = data[at]
        at += 1
        values = 0
        if 0x80 <= first < 0x90:
            values = 2 * (first - 0x80)
        elif 0x90 <= first < 0xA0:
            values = first - 0x90
        elif 0xA0 <= first < 0xC0:
            at += first - 0xA0
        elif first in _COUNTED:
            size, each = _COUNTED[first]
            values = each * int.from_bytes(data[at : at + size], "big")
            at += size
        elif first in _SIZED:
            size, more = _SIZED[first]
            at += size + more + int.from_bytes(data[at : at + size], "big")
        else:
            at += _FIXED.get(first, 0)
        if left:
            left[-1] -= 1
        if values:
            left.append(values)
            if len(left) > levels_max:
                return True
        else:
            while left and not left[-1]:
                left.pop()
    return False


_any_decoder: Final = msgspec.msgpack.Decoder(Any)


def decode_value(data: bytes) -> Any:
    """Any JSON-like value from msgpack; raises `Malformed`."""
    return decode(data, _any_decoder)
