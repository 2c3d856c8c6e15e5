"""What connected members say beside gossip: lane messages and requests, read or refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kowalski_protocol import limits, messages
from kowalski_protocol.attachments import named_bytes
from kowalski_protocol.codec import Malformed, encode
from kowalski_protocol.errors import CODES, Problem
from kowalski_protocol.events import TaskCompleted, TaskFailed, TaskSubmitted
from kowalski_protocol.feeds import Feed, Head
from kowalski_protocol.ids import Author, EventHash
from kowalski_protocol.messages import (
    ACK,
    DATAGRAM,
    FRAME,
    HEADS,
    Output,
    OutputRequest,
    RangeRequest,
    ack_message,
    datagram_message,
    decode_ack,
    decode_frames,
    decode_heads,
    decode_output,
    decode_request,
    frame_message,
    heads_message,
)
from kowalski_protocol.tasks import TaskSpec
from kowalski_protocol.topics import FEED_TOPICS, RESULT, TASK

HASH = st.binary(min_size=32, max_size=32)
FEEDS = st.builds(Feed, HASH.map(Author), st.sampled_from(FEED_TOPICS))
HEAD = st.builds(Head, st.integers(1, (1 << 63) - 1), HASH.map(EventHash))


def test_the_first_byte_names_a_message() -> None:
    heads = heads_message({}, False)
    for message, name in (
        (frame_message(b"f"), FRAME),
        (datagram_message(b"d"), DATAGRAM),
        (heads, HEADS),
        (ack_message(TASK, 1), ACK),
    ):
        assert message[0] == name
    assert (frame_message(b"f")[1:], datagram_message(b"d")[1:]) == (b"f", b"d")


@given(st.sampled_from(FEED_TOPICS), st.integers(0, (1 << 64) - 1))
def test_an_acknowledgement_comes_back(topic: str, seq: int) -> None:
    assert decode_ack(ack_message(topic, seq)) == (topic, seq)


@pytest.mark.parametrize(
    "message", [b"", b"A", b"A\x00", b"A\x02" + bytes(8), b"A\xff" + bytes(8), b"A" + bytes(10)]
)
def test_another_acknowledgement_is_malformed(message: bytes) -> None:
    with pytest.raises(Malformed):
        decode_ack(message)


@given(st.dictionaries(FEEDS, HEAD, max_size=8), st.booleans())
def test_heads_come_back(heads: dict[Feed, Head], wants_answer: bool) -> None:
    assert decode_heads(heads_message(heads, wants_answer)) == (heads, wants_answer)


def test_heads_of_no_known_form_are_passed_over_and_the_others_are_read() -> None:
    author, hash = b"a" * 32, b"h" * 32
    rows: list[tuple[Any, ...]] = [
        (author, TASK, 5, hash),
        (author[:31], TASK, 5, hash),
        (author, "telemetry", 5, hash),
        (author, TASK, 0, hash),
        (author, TASK, -3, hash),
        (author, TASK, 1 << 63, hash),
        (author, RESULT, 5, b"short"),
    ]
    heads, wants_answer = decode_heads(b"H" + encode([True, rows]))
    assert heads == {Feed(Author(author), TASK): Head(5, EventHash(hash))}
    assert wants_answer


REQUESTS = [RangeRequest(b"a" * 32, TASK, 5), OutputRequest(b"h" * 32, 0)]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_comes_back(request_: Any) -> None:
    assert decode_request(encode(request_)) == request_


def test_answers_come_back() -> None:
    assert decode_frames(encode([b"one", b"two"])) == (b"one", b"two")
    assert decode_frames(encode([])) == ()
    output = Output(True, 5, [("stdout", b"x")], False)
    assert decode_output(encode(output)) == output


DOORS: list[Callable[[bytes], Any]] = [
    decode_ack,
    decode_heads,
    decode_request,
    decode_frames,
    decode_output,
]


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200)
    | st.sampled_from((b"\x91" * 5000, b"H" + b"\x92\xc3" + b"\x91" * 5000, b"\xdd" + b"\xff" * 4))
)
def test_random_bytes_never_raise_past_a_door(data: bytes) -> None:
    for door in DOORS:
        try:
            door(data)
        except Malformed:
            continue


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_messages_never_raise_past_a_door(data: st.DataObject) -> None:
    messages_ = [
        ack_message(TASK, 7),
        heads_message({Feed(Author(b"a" * 32), TASK): Head(5, EventHash(b"h" * 32))}, True),
        *map(encode, REQUESTS),
        encode([b"frame"]),
        encode(Output(True, 5, [("stdout", b"x")], False)),
    ]
    changed = bytearray(data.draw(st.sampled_from(messages_)))
    for _ in range(3):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    for door in DOORS:
        try:
            door(bytes(changed))
        except Malformed:
            continue


# The tables that everything shares.


def test_a_heads_message_of_a_full_cluster_fits_into_a_frame() -> None:
    heads = {
        Feed(Author(bytes([n]) * 32), topic): Head(1 << 40, EventHash(bytes(32)))
        for n in range(limits.LIMITS.members_max)
        for topic in FEED_TOPICS
    }
    assert len(heads_message(heads, True)) < limits.LIMITS.frame_size_bytes_max


def test_every_limit_and_timer_is_a_number_above_zero() -> None:
    for table in (limits.LIMITS, *limits.PRESETS.values()):
        for name in table.__struct_fields__:
            assert getattr(table, name) > 0, name


@pytest.mark.parametrize("preset", limits.PRESETS.values(), ids=list(limits.PRESETS))
def test_the_timers_of_a_preset_fit_together(preset: limits.Timers) -> None:
    assert preset.tick_s <= preset.heartbeat_s <= preset.gossip_heartbeat_s
    assert preset.suspect_s >= 3 * preset.heartbeat_s, "one lost heartbeat must not suspect"
    assert preset.disconnect_grace_s <= preset.suspect_s
    assert preset.redial_min_s <= preset.redial_max_s
    assert preset.lag_s < preset.anti_entropy_s


def test_what_rides_in_a_frame_fits_into_a_frame() -> None:
    bounds = limits.LIMITS
    assert (
        bounds.frame_cut_bytes + bounds.body_size_bytes_max + (bounds.attachment_size_bytes_max)
        < bounds.frame_size_bytes_max
    )
    assert bounds.payload_size_bytes_max <= bounds.attachment_size_bytes_max


def test_every_code_has_a_status_and_a_meaning() -> None:
    for code, row in CODES.items():
        assert code == code.lower()
        assert 200 <= row.status < 600
        assert row.meaning


def test_a_problem_tells_its_code_its_sentence_and_how_to_mend_it() -> None:
    problem = Problem("bad_token", "This is no invite.", mend="kowalski invite")
    assert str(problem) == "bad_token: This is no invite. Mend: kowalski invite"
    assert str(Problem("not_found", "Nothing.")) == "not_found: Nothing."
    assert problem.status == 400
    with pytest.raises(AssertionError):
        Problem("no_such_code", "x")


def test_lane_message_names_differ() -> None:
    names = [messages.FRAME, messages.DATAGRAM, messages.HEADS, messages.ACK]
    assert len(set(names)) == 4


# Which bytes a body speaks for.


def completed(hash: bytes, *, is_blob: bool = False) -> bytes:
    return encode(TaskCompleted(b"t" * 16, b"a" * 32, hash, 3, 0, 0, is_blob))


def test_a_body_names_the_bytes_beside_it() -> None:
    spec = encode(TaskSpec("tool", "echo", hashlib.sha256(b"one").digest(), 3))
    submitted = encode(TaskSubmitted(b"o" * 32, b"k", spec))
    failed = encode(TaskFailed(b"t" * 16, b"a" * 32, hashlib.sha256(b"one").digest(), 3, 0, 0, "x"))
    for kind, body in (
        ("TaskSubmitted", submitted),
        ("TaskCompleted", completed(hashlib.sha256(b"one").digest())),
        ("TaskFailed", failed),
    ):
        named = named_bytes(kind, body)
        assert named is not None
        assert named.matches(b"one")
        assert not named.matches(b"two")
        assert not named.matches(b"one ")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("TaskPlaced", b""),
        ("TaskSubmitted", b"\xc1"),
        ("TaskSubmitted", encode(TaskSubmitted(b"o" * 32, b"k", b"no spec"))),
        ("TaskCompleted", completed(bytes(32), is_blob=True)),
        ("TaskCompleted", completed(b"short")),
        ("TaskCompleted", b"\xc1"),
    ],
)
def test_a_body_that_names_nothing_says_so(kind: str, body: bytes) -> None:
    assert named_bytes(kind, body) is None
