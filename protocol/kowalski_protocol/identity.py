"""Who a device is: one Ed25519 key pair, whose public half is also its libp2p peer ID.

The peer ID is the base58 form of an identity multihash over libp2p's protobuf of the public key
(the libp2p peer-ids specification), so what people see in Kowalski is what any libp2p program
shows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .ids import Author

SEED_SIZE_BYTES: Final = 32
PUBLIC_KEY_SIZE_BYTES: Final = 32
SIGNATURE_SIZE_BYTES: Final = 64

_MULTIHASH_PREFIX: Final = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
"""Identity multihash of 36 bytes, then protobuf: type Ed25519, 32 bytes of data."""


class Identity:
    """A key pair that can sign.

    Built from its 32-byte seed; drawing one is the caller's business.
    """

    __slots__ = ("_private", "author", "seed")

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == SEED_SIZE_BYTES
        self.seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.author = Author(self._private.public_key().public_bytes_raw())

    @property
    def peer_id(self) -> str:
        """The libp2p peer ID, as people see it."""
        return peer_id(self.author)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of a message."""
        return self._private.sign(message)


def verify(author: Author, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is `author`'s over `message`; False for keys and signatures of any wrong
    form.
    """
    if len(signature) != SIGNATURE_SIZE_BYTES or is_weak_key(author):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(author).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


_P: Final = 2**255 - 19
_SMALL_ORDER_Y: Final = frozenset(
    {
        0,
        1,
        _P - 1,
        _P,
        _P + 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    }
)
"""The y coordinates of the eight points of small order, canonical or not (RFC 7748, section 7)."""


def is_weak_key(author: bytes) -> bool:
    """Whether a public key is malformed or of small order: under such a key anything verifies."""
    if len(author) != PUBLIC_KEY_SIZE_BYTES:
        return True
    y = int.from_bytes(author, "little") & ((1 << 255) - 1)
    return y in _SMALL_ORDER_Y


@lru_cache(maxsize=1024)
def peer_id(author: bytes) -> str:
    """The libp2p peer ID of a public key."""
    assert len(author) == PUBLIC_KEY_SIZE_BYTES
    return base58.b58encode(_MULTIHASH_PREFIX + author).decode("ascii")


@lru_cache(maxsize=1024)  # base58 takes a tenth of a millisecond, and each task may name a device
def author_of(text: str) -> Author | None:
    """The public key of a peer ID; None where the text is not an Ed25519 peer ID."""
    if not 40 <= len(text) <= 60:
        return None
    try:
        raw = base58.b58decode(text)
    except ValueError:
        return None
    if len(raw) != len(_MULTIHASH_PREFIX) + PUBLIC_KEY_SIZE_BYTES:
        return None
    if not raw.startswith(_MULTIHASH_PREFIX):
        return None
    key = raw[len(_MULTIHASH_PREFIX) :]
    # One text a key: base58 decoders skip white space at the end.
    return None if is_weak_key(key) or peer_id(key) != text else Author(key)
