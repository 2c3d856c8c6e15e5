"""Public keys and libp2p's peer IDs: the two names of one device.

Outside this package a peer is its 32-byte Ed25519 public key; libp2p wants an `ID`, the bytes of
an identity multihash over the key's protobuf. Only Ed25519 IDs have a public key of ours in them,
and only those are peers. The conversion runs for every gossip message, so it works on bytes:
libp2p's way over base58 text takes 30 µs.
"""

from __future__ import annotations

from typing import Final

from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.crypto.keys import KeyPair
from libp2p.peer.id import ID

from kowalski_protocol.identity import PUBLIC_KEY_SIZE_BYTES, is_weak_key

_PREFIX: Final = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
"""Identity multihash of 36 bytes, then protobuf: type Ed25519, 32 bytes of data."""


def libp2p_id(public_key: bytes) -> ID:
    """libp2p's ID of a public key."""
    assert len(public_key) == PUBLIC_KEY_SIZE_BYTES
    return ID(_PREFIX + public_key)


def public_key_of(id: ID) -> bytes | None:
    """The Ed25519 public key in a libp2p ID; None for any other kind of key, and for a weak one."""
    raw = id.to_bytes()
    key = raw[len(_PREFIX) :]
    if not raw.startswith(_PREFIX) or is_weak_key(key):
        return None
    return key


def key_pair(seed: bytes) -> KeyPair:
    """libp2p's key pair of a 32-byte Ed25519 seed."""
    private = Ed25519PrivateKey.new(seed)
    return KeyPair(private, private.get_public_key())
