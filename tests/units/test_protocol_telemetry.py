"""Datagrams: signed by their author, for one cluster, in one form, and bounded."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kowalski_protocol.codec import Malformed, encode
from kowalski_protocol.identity import Identity
from kowalski_protocol.ids import ClusterId
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.telemetry import Datagram, Heartbeat, decode_datagram, encode_datagram
from kowalski_protocol.topics import TOPICS, wire_name

CLUSTER = ClusterId(hashlib.sha256(b"a cluster").digest())
OTHER = ClusterId(hashlib.sha256(b"another").digest())
ALICE = Identity(hashlib.sha256(b"alice").digest())
BOB = Identity(hashlib.sha256(b"bob").digest())
HEARTBEAT = Heartbeat(
    1_790_000_000_000, 7, 1_790_000_001_000, ((b"prefix-8", 5, 6, 7),), 3, 4, b"h" * 16, b"", 1, 2,
    False,
)  # fmt: skip


def datagram(heartbeat: Heartbeat = HEARTBEAT, identity: Identity = ALICE) -> bytes:
    return encode_datagram(CLUSTER, identity.author, identity.sign, heartbeat)


samples = st.none() | st.dictionaries(
    st.text(max_size=5), st.none() | st.floats(allow_nan=False) | st.lists(st.integers(0, 9))
)


@given(
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.lists(st.text(max_size=20), max_size=4).map(tuple),
    samples,
)
def test_a_heartbeat_comes_back_as_it_went_out(
    boot: int, counter: int, addresses: tuple[str, ...], sample: dict[str, Any] | None
) -> None:
    sent = msgspec.structs.replace(
        HEARTBEAT, boot=boot, counter=counter, addresses=addresses, sample=sample
    )
    assert decode_datagram(datagram(sent), CLUSTER) == (ALICE.author, sent)


def test_a_datagram_of_another_cluster_is_refused() -> None:
    with pytest.raises(Malformed, match="another cluster"):
        decode_datagram(datagram(), OTHER)


def changed(**changes: Any) -> bytes:
    good = msgspec.msgpack.decode(datagram(), type=Datagram)
    return encode(msgspec.structs.replace(good, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"author": BOB.author},
        {"signature": bytes(64)},
        {"signature": b""},
        {"signature": ALICE.sign(encode(HEARTBEAT))},
        {"content": encode(msgspec.structs.replace(HEARTBEAT, counter=8))},
        {"author": b"\x01" + bytes(31)},
    ],
    ids=["author", "zero", "none", "no domain", "content", "weak key"],
)
def test_a_datagram_that_its_author_did_not_sign_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="signature"):
        decode_datagram(changed(**changes), CLUSTER)


@pytest.mark.parametrize("author", [b"", bytes(31), bytes(33)])
def test_an_author_of_the_wrong_size_is_refused(author: bytes) -> None:
    with pytest.raises(Malformed):
        decode_datagram(changed(author=author), CLUSTER)


def test_on_its_author_s_own_connection_the_signature_is_not_checked_again() -> None:
    unsigned = changed(signature=b"")
    author, heartbeat = decode_datagram(unsigned, CLUSTER, trusted_author=ALICE.author)
    assert (author, heartbeat) == (ALICE.author, HEARTBEAT)
    with pytest.raises(Malformed, match="signature"):
        decode_datagram(unsigned, CLUSTER, trusted_author=BOB.author)


def test_a_content_that_is_no_heartbeat_is_refused_also_when_it_is_signed() -> None:
    for content in (b"", b"\xc1", encode([1, 2]), b"\x91" * 3000 + b"\x01"):
        signature = ALICE.sign(b"kowalski/datagram/1" + CLUSTER + content)
        with pytest.raises(Malformed):
            decode_datagram(changed(signature=signature, content=content), CLUSTER)


def test_a_heartbeat_of_a_later_release_is_read_by_what_is_known_of_it() -> None:
    fields = [getattr(HEARTBEAT, name) for name in HEARTBEAT.__struct_fields__]
    content = encode([*fields, "added later"])
    signature = ALICE.sign(b"kowalski/datagram/1" + CLUSTER + content)
    _, heartbeat = decode_datagram(changed(signature=signature, content=content), CLUSTER)
    assert heartbeat == HEARTBEAT


def test_a_datagram_is_refused_above_its_size() -> None:
    room = LIMITS.datagram_size_bytes_max - len(datagram(_with_sample(10_000)))
    author, _ = decode_datagram(datagram(_with_sample(10_000 + room)), CLUSTER)
    assert author
    with pytest.raises(Malformed, match="too large"):
        decode_datagram(datagram(_with_sample(10_001 + room)), CLUSTER)


def _with_sample(size: int) -> Heartbeat:
    return msgspec.structs.replace(HEARTBEAT, sample={"x": "y" * size})


def test_a_full_house_fits_into_a_datagram() -> None:
    # Everybody echoed, with counters of years, the most addresses and a sample of many sensors.
    heartbeat = Heartbeat(
        1 << 48,
        1 << 40,
        1 << 48,
        tuple((bytes([n]) * 8, 1 << 48, 1 << 40, 10_000_000) for n in range(LIMITS.members_max)),
        1 << 40,
        1 << 40,
        bytes(16),
        bytes(32),
        512,
        512,
        False,
        True,
        tuple(f"/ip6/fe80::{n:04x}:ffff:ffff:ffff/tcp/52421" for n in range(16)),
        {f"a sensor of some kind {n}": n / 7 for n in range(100)},
    )
    assert len(datagram(heartbeat)) <= LIMITS.datagram_size_bytes_max
    assert decode_datagram(datagram(heartbeat), CLUSTER)[1] == heartbeat


def test_a_datagram_has_one_form() -> None:
    data = datagram()
    assert data[:3] == b"\x94\xc4\x20"
    for other in (b"\x94\xc5\x00\x20" + data[3:], b"\x95" + data[1:] + b"\x01"):
        with pytest.raises(Malformed):
            decode_datagram(other, CLUSTER)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_datagram_is_refused(data: st.DataObject) -> None:
    sent = bytearray(datagram())
    at = data.draw(st.integers(0, len(sent) - 1))
    if data.draw(st.booleans()):
        sent[at] ^= data.draw(st.integers(1, 255))
    else:
        del sent[at:]
    with pytest.raises(Malformed):
        decode_datagram(bytes(sent), CLUSTER)


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_no_datagram(data: bytes, trusted: bool) -> None:
    with pytest.raises(Malformed):
        decode_datagram(data, CLUSTER, trusted_author=ALICE.author if trusted else None)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_on_a_trusted_connection_changed_bytes_are_read_or_malformed(data: st.DataObject) -> None:
    sent = bytearray(datagram())
    for _ in range(3):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    try:
        author, _ = decode_datagram(bytes(sent), CLUSTER, trusted_author=ALICE.author)
    except Malformed:
        return
    assert author == ALICE.author


def test_topics_of_two_clusters_never_meet() -> None:
    names = {wire_name(cluster, topic) for cluster in (CLUSTER, OTHER) for topic in TOPICS}
    assert len(names) == 6
    assert all(name.startswith("/kowalski/") for name in names)
