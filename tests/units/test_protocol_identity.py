"""Who a device is: the same peer ID as libp2p's, and no key or signature that anybody could forge.

The points of small order are computed here from the curve's equation, not copied from the code.
"""

from __future__ import annotations

import hashlib
import itertools

import base58
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from kowalski_protocol.identity import Identity, author_of, is_weak_key, peer_id, verify
from kowalski_protocol.ids import Author

ALICE = Identity(hashlib.sha256(b"alice").digest())
BOB = Identity(hashlib.sha256(b"bob").digest())
SEEDS = st.binary(min_size=32, max_size=32)


# Keys and signatures.


@given(SEEDS, st.binary(max_size=200))
def test_what_was_signed_verifies_and_nothing_else_does(seed: bytes, message: bytes) -> None:
    identity = Identity(seed)
    signature = identity.sign(message)
    assert verify(identity.author, signature, message)
    assert not verify(identity.author, signature, message + b"x")
    assert not verify(ALICE.author, signature, message) or identity.author == ALICE.author


@given(st.integers(0, 511))
def test_a_signature_with_one_changed_bit_is_none(bit: int) -> None:
    signature = bytearray(ALICE.sign(b"message"))
    signature[bit // 8] ^= 1 << (bit % 8)
    assert not verify(ALICE.author, bytes(signature), b"message")


GOOD = ALICE.sign(b"message")


@pytest.mark.parametrize(
    "signature",
    [b"", GOOD[:63], GOOD + b"\0", GOOD[:32], bytes(64), b"\xff" * 64, BOB.sign(b"message")],
    ids=["none", "short", "long", "half", "zero", "ones", "another's"],
)
def test_a_signature_of_the_wrong_form_or_hand_is_none(signature: bytes) -> None:
    assert not verify(ALICE.author, signature, b"message")


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), b"\xff" * 32, b"\x02" * 32])
def test_what_is_no_key_verifies_nothing_and_raises_nothing(key: bytes) -> None:
    assert not verify(Author(key), GOOD, b"message")


def test_one_seed_is_one_identity() -> None:
    again = Identity(ALICE.seed)
    assert (again.author, again.sign(b"m"), again.peer_id) == (
        ALICE.author,
        ALICE.sign(b"m"),
        ALICE.peer_id,
    )


# Points of small order, from the equation -x^2 + y^2 = 1 + d x^2 y^2 (RFC 8032).

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)

Point = tuple[int, int]


def x_of(y: int) -> int | None:
    """One of the two x of a y; None where the curve has none."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    for x in (
        pow(square, (P + 3) // 8, P),
        pow(square, (P + 3) // 8, P) * ROOT_OF_MINUS_ONE % P,
    ):
        if x * x % P == square:
            return x
    return None


def add(a: Point, b: Point) -> Point:
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P
    return x, (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P


def times(n: int, point: Point) -> Point:
    result: Point = (0, 1)
    while n:
        if n & 1:
            result = add(result, point)
        point, n = add(point, point), n >> 1
    return result


def torsion() -> set[Point]:
    """All points whose order divides 8.

    What is left of random points, the large order taken out.
    """
    found: set[Point] = set()
    for y in itertools.count(2):
        x = x_of(y)
        if x is None:
            continue
        point = times(ORDER, (x, y))
        found |= {times(n, point) for n in range(8)}
        if len(found) == 8:
            return found
    raise AssertionError


def encodings(y: int) -> set[bytes]:
    """All 32-byte forms of a y: either sign, and above the prime where there is room."""
    return {
        (whole | sign << 255).to_bytes(32, "little")
        for whole in (y, y + P)
        if whole < 1 << 255
        for sign in (0, 1)
    }


WEAK = sorted(set().union(*(encodings(y) for _, y in torsion())))


def test_there_are_eight_points_of_small_order_and_fourteen_ways_to_write_them() -> None:
    points = torsion()
    assert len({times(8, point) for point in points}) == 1
    assert len({y for _, y in points}) == 5
    assert len(WEAK) == 14


@pytest.mark.parametrize("key", WEAK, ids=[key.hex()[:10] for key in WEAK])
def test_a_key_of_small_order_is_refused_in_every_form(key: bytes) -> None:
    assert is_weak_key(key)
    assert author_of(peer_id(key)) is None


def forged(key: bytes) -> tuple[bytes, bytes] | None:
    """(signature, message) made without any secret, that a plain library accepts under the key."""
    signature = encodings(1).pop() + bytes(32)
    for signature in (e + bytes(32) for e in sorted(encodings(1))):
        for number in range(64):
            message = b"message %d" % number
            try:
                Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
            except (InvalidSignature, ValueError):
                continue
            return signature, message
    return None


def test_under_such_keys_anybody_could_sign_and_nobody_is_believed() -> None:
    forgeries = {key: made for key in WEAK if (made := forged(key)) is not None}
    assert len(forgeries) >= 5, "the attack is real: a plain library accepts these"
    for key, (signature, message) in forgeries.items():
        assert not verify(Author(key), signature, message)


@given(SEEDS)
def test_no_real_key_is_taken_for_a_weak_one(seed: bytes) -> None:
    assert not is_weak_key(Identity(seed).author)


# Peer IDs.


@given(SEEDS)
def test_a_peer_id_names_its_key(seed: bytes) -> None:
    identity = Identity(seed)
    assert identity.peer_id.startswith("12D3KooW")
    assert author_of(identity.peer_id) == identity.author


def test_peer_ids_are_those_of_libp2p() -> None:
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    for number in range(20):
        seed = hashlib.sha256(b"%d" % number).digest()
        pair = create_new_key_pair(seed)
        identity = Identity(seed)
        assert identity.peer_id == ID.from_pubkey(pair.public_key).to_string()
        assert identity.author == pair.public_key.to_bytes()


GOOD_ID = ALICE.peer_id

NOT_PEER_IDS = {
    "nothing": "",
    "a short one": GOOD_ID[:-1],
    "a long one": GOOD_ID + "1",
    "a very long one": "1" * 10_000,
    "a letter that base58 has not": GOOD_ID[:-1] + "0",
    "another alphabet": GOOD_ID[:-1] + "é",
    "white space at its end": GOOD_ID + " ",
    "a line end": GOOD_ID + "\n",
    "white space before it": " " + GOOD_ID,
    "an RSA key": "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    "a secp256k1 key": "16Uiu2HAkwa52gMYRTGWNBvrxyVKFZMYFKXFXtWHvzABpQfNgfvNB",
    "only ones": "1" * 52,
    "the same length, and another sort of key": base58.b58encode(
        bytes((0x00, 0x24, 0x08, 0x02, 0x12, 0x20)) + ALICE.author
    ).decode(),
}


@pytest.mark.parametrize("text", NOT_PEER_IDS.values(), ids=list(NOT_PEER_IDS))
def test_what_is_no_peer_id_of_ours_names_nobody(text: str) -> None:
    assert author_of(text) is None


@given(st.text(max_size=80))
def test_any_text_names_somebody_or_nobody_and_raises_nothing(text: str) -> None:
    author = author_of(text)
    assert author is None or peer_id(author) == text
