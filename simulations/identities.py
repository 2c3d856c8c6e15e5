"""Identities of the simulated devices: real keys' names, and signatures that cost a microsecond.

A signature is a keyed hash that only its identity can make here, so forging is as hopeless as with
Ed25519, whose own tests are elsewhere. The core takes the check as a function, so nothing of it
changes.
"""

from __future__ import annotations

import hashlib

from kowalski_protocol.identity import SIGNATURE_SIZE_BYTES, Identity
from kowalski_protocol.ids import Author


class SimulatedIdentity:
    """One device's identity."""

    def __init__(self, name: str) -> None:
        secret = hashlib.sha256(b"simulated identity " + name.encode()).digest()
        self.author: Author = Identity(secret).author
        self._keyed = hashlib.blake2b(digest_size=SIGNATURE_SIZE_BYTES, key=secret)

    def sign(self, message: bytes) -> bytes:
        """The signature of a message."""
        hash = self._keyed.copy()
        hash.update(message)
        return hash.digest()


class Notary:
    """Knows all identities of a world and checks their signatures."""

    def __init__(self) -> None:
        self._known: dict[Author, SimulatedIdentity] = {}

    def identity(self, name: str) -> SimulatedIdentity:
        """A new identity."""
        identity = SimulatedIdentity(name)
        self._known[identity.author] = identity
        return identity

    def verify(self, author: Author, signature: bytes, message: bytes) -> bool:
        """Whether the author signed the message."""
        identity = self._known.get(author)
        return identity is not None and identity.sign(message) == signature
