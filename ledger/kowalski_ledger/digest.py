"""A digest of a large state that changes a little at a time.

Each part of the state (a task, a member, a claim) has a SHA-256 of its own. The digest of the whole
is the sum of these, each stretched to 2048 bits by SHAKE-128, modulo 2^2048: adding, replacing or
dropping a part costs two additions however many parts there are, and the order does not matter. It
is the AdHash of Bellare and Micciancio, "A New Paradigm for Collision-Free Hashing" (1997), with a
modulus wide enough for Wagner's generalised birthday attack.
"""

from __future__ import annotations

import hashlib
from typing import Final

_SIZE_BYTES: Final = 256
_MASK: Final = (1 << (8 * _SIZE_BYTES)) - 1


def _stretch(part: bytes) -> int:
    return int.from_bytes(hashlib.shake_128(part).digest(_SIZE_BYTES), "big")


class SetDigest:
    """The running digest of a set of parts, each given as its 32-byte hash."""

    __slots__ = ("_sum",)

    def __init__(self) -> None:
        self._sum = 0

    def add(self, part: bytes) -> None:
        """Counts a part in."""
        self._sum = (self._sum + _stretch(part)) & _MASK

    def remove(self, part: bytes) -> None:
        """Takes out a part that was counted in before."""
        self._sum = (self._sum - _stretch(part)) & _MASK

    def hash(self, extra: bytes) -> bytes:
        """The 32-byte digest of the set together with `extra`."""
        return hashlib.sha256(self._sum.to_bytes(_SIZE_BYTES, "big") + extra).digest()
