"""Feeds and frames.

A chain that anybody can check, cut anywhere, and refused at every wrong byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kowalski_protocol.codec import Malformed, decode, encode
from kowalski_protocol.feeds import (
    FRAME_VERSION,
    SEQ_MAX,
    Event,
    Feed,
    FrameHeader,
    check_signature,
    decode_header,
    encode_frame,
    event_hash,
    event_hash_of_parts,
    genesis,
    open_frame,
    signed_message,
)
from kowalski_protocol.identity import Identity
from kowalski_protocol.ids import ClusterId, EventHash
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.topics import FEED_TOPICS, RESULT, TASK

CLUSTER = ClusterId(hashlib.sha256(b"a cluster").digest())
OTHER_CLUSTER = ClusterId(hashlib.sha256(b"another cluster").digest())
ALICE = Identity(hashlib.sha256(b"alice").digest())
BOB = Identity(hashlib.sha256(b"bob").digest())
HEADERS = msgspec.msgpack.Decoder(FrameHeader)

Row = tuple[int, str, bytes, bytes | None]


def chain(
    rows: list[Row],
    *,
    identity: Identity = ALICE,
    topic: str = TASK,
    prev: EventHash | None = None,
    first_seq: int = 1,
) -> list[Event]:
    """These rows as a run of a feed that is signed at its end."""
    prev = genesis(CLUSTER, identity.author, topic) if prev is None else prev
    events: list[Event] = []
    for seq, (hlc, kind, body, attachment) in enumerate(rows, first_seq):
        prev = event_hash(prev, seq, hlc, kind, body)
        events.append(Event(identity.author, topic, seq, hlc, kind, body, prev, attachment))
    events[-1].signature = identity.sign(signed_message(prev))
    return events


ROWS: list[Row] = [(5, "Kind", b"one", None), (6, "Other", b"two", b"beside"), (9, "K", b"", b"")]
START = genesis(CLUSTER, ALICE.author, TASK)


def told(events: list[Event]) -> list[tuple[object, ...]]:
    return [(e.author, e.topic, e.seq, e.hlc, e.kind, e.body, e.hash, e.attachment) for e in events]


def received(data: bytes, prev: EventHash = START, floor: int = 0) -> list[Event]:
    """A frame through all of its doors; raises `Malformed`."""
    header = decode_header(data, CLUSTER)
    if not check_signature(header):
        raise Malformed("signature")
    return open_frame(header, prev, floor)


rows = st.lists(
    st.tuples(
        st.integers(1, 1 << 40),
        st.text(st.characters(max_codepoint=127), min_size=1, max_size=64),
        st.binary(max_size=50),
        st.none() | st.binary(max_size=50),
    ),
    min_size=1,
    max_size=12,
)


def rising(drawn: list[Row]) -> list[Row]:
    """The same rows with times that rise."""
    hlc, result = 0, list[Row]()
    for more, kind, body, attachment in drawn:
        hlc += more
        result.append((hlc, kind, body, attachment))
    return result


@given(rows.map(rising), st.sampled_from(FEED_TOPICS))
def test_a_frame_comes_back_as_it_went_out(drawn: list[Row], topic: str) -> None:
    events = chain(drawn, topic=topic)
    arrived = received(encode_frame(CLUSTER, events), genesis(CLUSTER, ALICE.author, topic))
    assert told(arrived) == told(events)
    assert [e.signature for e in arrived[:-1]] == [None] * (len(arrived) - 1)
    assert arrived[-1].signature == events[-1].signature
    assert encode_frame(CLUSTER, arrived) == encode_frame(CLUSTER, events)


@settings(max_examples=60, deadline=None)
@given(rows.map(rising), st.integers(0, 2**16))
def test_a_range_after_any_known_event_up_to_any_signed_one_is_a_frame(
    drawn: list[Row], chance: int
) -> None:
    events = chain(drawn)
    start = chance % len(events)
    end = start + 1 + (chance // 64) % (len(events) - start)
    prev = events[start - 1].hash if start else START
    floor = events[start - 1].hlc if start else 0
    run = events[start:end]
    run[-1].signature = ALICE.sign(signed_message(run[-1].hash))
    assert told(received(encode_frame(CLUSTER, run), prev, floor)) == told(run)


def test_the_hash_of_an_event_is_the_documented_one() -> None:
    prev, body = EventHash(b"p" * 32), b"body"
    plain = (
        prev + (7).to_bytes(8, "big") + (9).to_bytes(8, "big") + b"\x04Kind"
        + hashlib.sha256(body).digest()
    )  # fmt: skip
    assert event_hash(prev, 7, 9, "Kind", body) == hashlib.sha256(plain).digest()


@given(st.binary(min_size=32, max_size=32), st.integers(1, SEQ_MAX), st.binary(max_size=40))
def test_a_chain_verifies_without_its_bodies(prev: bytes, seq: int, body: bytes) -> None:
    whole = event_hash(EventHash(prev), seq, 1, "Kind", body)
    parts = event_hash_of_parts(EventHash(prev), seq, 1, "Kind", hashlib.sha256(body).digest())
    assert whole == parts


def test_a_feed_begins_differently_for_each_cluster_author_and_topic() -> None:
    starts = {
        genesis(cluster, identity.author, topic)
        for cluster in (CLUSTER, OTHER_CLUSTER)
        for identity in (ALICE, BOB)
        for topic in FEED_TOPICS
    }
    assert len(starts) == 8


def test_feeds_have_an_order_so_that_heads_are_hashed_alike_everywhere() -> None:
    feeds = [Feed(i.author, topic) for i in (ALICE, BOB) for topic in FEED_TOPICS]
    assert sorted(feeds) == sorted(feeds)


def test_an_event_shows_itself_short() -> None:
    assert repr(chain(ROWS)[0]) == f"<Kind {ALICE.author.hex()[:8]}/task/1>"


# The header, field by field.


def header(**changes: object) -> bytes:
    """A good frame with these header fields changed, signed by nobody anew."""
    good = decode(encode_frame(CLUSTER, chain(ROWS)), HEADERS)
    return encode(msgspec.structs.replace(good, **changes))


HEADER_FAULTS: dict[str, tuple[dict[str, object], str]] = {
    "a later version": ({"version": FRAME_VERSION + 1}, "version"),
    "no version": ({"version": 0}, "version"),
    "another cluster": ({"cluster": OTHER_CLUSTER}, "another cluster"),
    "no cluster": ({"cluster": b""}, "another cluster"),
    "telemetry, which has no feeds": ({"topic": "telemetry"}, "topic"),
    "an unknown topic": ({"topic": "Task"}, "topic"),
    "a short author": ({"author": bytes(31)}, "field size"),
    "a long author": ({"author": bytes(33)}, "field size"),
    "a short last hash": ({"last_hash": bytes(31)}, "field size"),
    "no signature": ({"signature": b""}, "signature size"),
    "a short signature": ({"signature": bytes(63)}, "signature size"),
    "a long signature": ({"signature": bytes(65)}, "signature size"),
    "no events": ({"count": 0}, "event count"),
    "fewer than none": ({"count": -1}, "event count"),
    "more than a frame holds": ({"count": LIMITS.frame_events_max + 1}, "event count"),
    "a first event before the first": ({"first_seq": 0}, "sequence number"),
    "a negative sequence": ({"first_seq": -5}, "sequence number"),
    "the last number of all": ({"first_seq": SEQ_MAX}, "sequence number"),
    "beyond the last number": ({"first_seq": 1 << 63}, "sequence number"),
    "far beyond it": ({"first_seq": (1 << 64) - 1}, "sequence number"),
}


@pytest.mark.parametrize(("changes", "why"), HEADER_FAULTS.values(), ids=list(HEADER_FAULTS))
def test_a_header_with_a_fault_is_refused_with_its_reason(
    changes: dict[str, object], why: str
) -> None:
    with pytest.raises(Malformed, match=why):
        decode_header(header(**changes), CLUSTER)


def test_the_numbers_at_the_edge_pass_the_header() -> None:
    for changes in ({"first_seq": SEQ_MAX - 3}, {"count": LIMITS.frame_events_max}):
        assert decode_header(header(**changes), CLUSTER).cluster == CLUSTER


def test_a_frame_is_refused_above_its_size_and_accepted_at_it() -> None:
    room = LIMITS.frame_size_bytes_max
    empty = len(encode_frame(CLUSTER, chain([(5, "K", b"", bytes(40_000))] * 1)))
    per_event = LIMITS.attachment_size_bytes_max
    rows = [(5 + n, "K", b"", bytes(per_event)) for n in range(room // per_event - 1)]
    size = len(encode_frame(CLUSTER, chain([*rows, (99, "K", b"", bytes(40_000))])))
    fit = bytes(40_000 + room - size)
    at_the_limit = encode_frame(CLUSTER, chain([*rows, (99, "K", b"", fit)]))
    assert (len(at_the_limit), empty < room) == (room, True)
    assert len(received(at_the_limit)) == len(rows) + 1
    above = encode_frame(CLUSTER, chain([*rows, (99, "K", b"", fit + b"x")]))
    with pytest.raises(Malformed, match="too large"):
        decode_header(above, CLUSTER)


def test_a_header_has_one_form() -> None:
    data = encode_frame(CLUSTER, chain(ROWS))
    assert data[:2] == b"\x99\x01", "an array of nine that begins with the version"
    with pytest.raises(Malformed, match="canonical"):
        decode_header(b"\x99\xcc\x01" + data[2:], CLUSTER)
    with pytest.raises(Malformed, match="canonical"):
        decode_header(b"\x9a" + data[1:] + b"\x05", CLUSTER)


# The signature.


def test_a_frame_is_its_author_s_or_refused() -> None:
    assert check_signature(decode_header(header(), CLUSTER))
    zero = decode_header(header(signature=bytes(64)), CLUSTER)
    other = decode_header(header(author=BOB.author), CLUSTER)
    moved = decode_header(header(last_hash=bytes(32)), CLUSTER)
    assert [check_signature(h) for h in (zero, other, moved)] == [False] * 3


def test_a_signature_over_something_else_is_none() -> None:
    last = chain(ROWS)[-1].hash
    bare = decode_header(header(signature=ALICE.sign(last)), CLUSTER)
    assert not check_signature(bare), "the domain is part of what is signed"


def test_the_signature_is_over_the_last_hash_and_its_domain() -> None:
    assert signed_message(EventHash(b"h" * 32)) == b"kowalski/frame/1" + b"h" * 32


def test_another_way_to_verify_may_be_handed_in() -> None:
    seen: list[bytes] = []

    def cheap(author: bytes, signature: bytes, message: bytes) -> bool:
        seen.append(author + signature + message)
        return True

    events = chain(ROWS)
    good = decode_header(encode_frame(CLUSTER, events), CLUSTER)
    assert check_signature(good, cheap)
    assert seen == [ALICE.author + good.signature + signed_message(events[-1].hash)]


# The events.


def opened(*rows: Row, floor: int = 0) -> list[Event]:
    """As if these rows came in a well signed frame."""
    return open_frame(decode_header(encode_frame(CLUSTER, chain([*rows])), CLUSTER), START, floor)


EVENT_FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "a time that stands still": (lambda: opened((5, "K", b"", None), (5, "K", b"", None)), "time"),
    "a time that falls": (lambda: opened((5, "K", b"", None), (4, "K", b"", None)), "time"),
    "a time before the feed's last": (lambda: opened((5, "K", b"", None), floor=5), "time"),
    "no time": (lambda: opened((0, "K", b"", None)), "time"),
    "no kind": (lambda: opened((5, "", b"", None)), "kind"),
    "a kind that is too long": (lambda: opened((5, "K" * 65, b"", None)), "kind"),
    "a kind that is no name": (lambda: opened((5, "Kınd", b"", None)), "kind"),
    "a large body": (lambda: opened((5, "K", bytes(64 * 1024 + 1), None)), "body too large"),
    "a large attachment": (
        lambda: opened((5, "K", b"", bytes(64 * 1024 + 1))),
        "attachment too large",
    ),
}


@pytest.mark.parametrize(("make", "why"), EVENT_FAULTS.values(), ids=list(EVENT_FAULTS))
def test_an_event_with_a_fault_is_refused_with_its_reason(
    make: Callable[[], object], why: str
) -> None:
    with pytest.raises(Malformed, match=why):
        make()


def test_events_at_the_edge_are_accepted() -> None:
    edge = bytes(64 * 1024)
    events = opened((1, "K" * 64, edge, edge), ((1 << 64) - 1, "K", b"", None))
    assert [len(e.body) for e in events] == [64 * 1024, 0]
    assert events[1].hlc == (1 << 64) - 1


def test_a_count_that_lies_is_refused() -> None:
    lying = decode_header(header(count=2), CLUSTER)
    with pytest.raises(Malformed, match="event count"):
        open_frame(lying, START, 0)


def test_events_in_another_form_are_refused() -> None:
    good = decode(encode_frame(CLUSTER, chain(ROWS)), HEADERS)
    assert good.events[:3] == b"\x93\x94\x05"
    longer = msgspec.structs.replace(good, events=b"\x93\x94\xcc\x05" + good.events[3:])
    with pytest.raises(Malformed, match="canonical"):
        open_frame(longer, START, 0)


def test_a_chain_that_follows_something_else_is_refused() -> None:
    good = decode_header(encode_frame(CLUSTER, chain(ROWS)), CLUSTER)
    with pytest.raises(Malformed, match="chain"):
        open_frame(good, EventHash(bytes(32)), 0)


@pytest.mark.parametrize("field", range(3))
def test_any_change_of_an_event_breaks_the_chain(field: int) -> None:
    good = decode_header(encode_frame(CLUSTER, chain(ROWS)), CLUSTER)
    changed = [list(row) for row in ROWS]
    changed[1][field] = (7, "Odder", b"owt")[field]
    bad = msgspec.structs.replace(good, events=encode([tuple(row) for row in changed]))
    with pytest.raises(Malformed, match="chain"):
        open_frame(bad, START, 0)


# Everything that can happen to a frame on its way.


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_changed_frame_is_refused_or_says_the_same(data: st.DataObject) -> None:
    events = chain(ROWS)
    frame = bytearray(encode_frame(CLUSTER, events))
    what = data.draw(st.sampled_from(("flip", "cut", "add", "insert", "remove")))
    at = data.draw(st.integers(0, len(frame) - 1))
    if what == "flip":
        frame[at] ^= data.draw(st.integers(1, 255))
    elif what == "cut":
        del frame[at:]
    elif what == "add":
        frame += data.draw(st.binary(min_size=1, max_size=20))
    elif what == "insert":
        frame[at:at] = data.draw(st.binary(min_size=1, max_size=20))
    else:
        del frame[at : at + data.draw(st.integers(1, 20))]
    try:
        arrived = received(bytes(frame))
    except Malformed:
        return
    # An attachment is beside what is signed: the reader holds it against the hash in the body.
    assert [row[:-1] for row in told(arrived)] == [row[:-1] for row in told(events)]


def test_every_single_bit_of_what_is_signed_matters() -> None:
    events = chain([(*row[:3], None) for row in ROWS])
    frame = encode_frame(CLUSTER, events)
    for at in range(len(frame)):
        for bit in range(8):
            changed = bytearray(frame)
            changed[at] ^= 1 << bit
            with pytest.raises(Malformed):
                received(bytes(changed))


@given(st.binary(max_size=500))
def test_random_bytes_are_no_frame(data: bytes) -> None:
    with pytest.raises(Malformed):
        received(data)


def test_one_topic_s_frame_is_none_of_the_other_s() -> None:
    with pytest.raises(Malformed):
        received(header(topic=RESULT), genesis(CLUSTER, ALICE.author, RESULT))
