"""The one door for bytes: what goes out comes back, in one form, and nothing gets in by force."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kowalski_protocol import events as e
from kowalski_protocol.codec import (
    Malformed,
    decode,
    decode_body,
    decode_exact,
    decode_stored,
    decode_value,
    encode,
    nests_too_deep,
)
from kowalski_protocol.events import KINDS, Body, Result
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.tasks import TaskSpec
from kowalski_protocol.telemetry import Heartbeat
from kowalski_protocol.topics import FEED_TOPICS

WHOLE = st.integers(-(1 << 63), (1 << 64) - 1)


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, as wide as the wire allows."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is int:
        return WHOLE
    if kind is float:
        return st.floats(allow_nan=False)
    if kind is bytes:
        return st.binary(max_size=40)
    if kind is Any:
        return values()
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(of_type(args[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(of_type, args))
    if origin is dict:
        return st.dictionaries(of_type(args[0]), of_type(args[1]), max_size=3)
    if args:
        return st.one_of(*map(of_type, args))
    return st.from_type(kind)


def bodies(kind: type[Any]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind)
    fields = {name: of_type(hints[name]) for name in kind.__struct_fields__}
    return st.builds(kind, **fields)


def values(max_leaves: int = 20) -> st.SearchStrategy[Any]:
    leaves = st.one_of(
        st.none(), st.booleans(), WHOLE, st.floats(allow_nan=False), st.text(), st.binary()
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=max_leaves,
    )


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_every_kind_comes_back_as_it_went_out(kind: type[Body]) -> None:
    @settings(max_examples=40, deadline=None)
    @given(bodies(kind))
    def check(body: Body) -> None:
        data = encode(body)
        assert decode_body(kind.__name__, data) == body
        assert encode(decode_body(kind.__name__, data)) == data

    check()


@pytest.mark.parametrize("kind", [Result, TaskSpec, Heartbeat])
def test_what_travels_inside_of_events_and_datagrams_comes_back(kind: type[Any]) -> None:
    decoder = msgspec.msgpack.Decoder(kind)

    @settings(max_examples=60, deadline=None)
    @given(bodies(kind))
    def check(value: Any) -> None:
        assert decode_exact(encode(value), decoder) == value

    check()


def test_every_kind_stands_under_its_own_name_and_on_a_topic_with_feeds() -> None:
    assert all(name == kind.__name__ for name, kind in KINDS.items())
    assert {kind.topic for kind in KINDS.values()} <= set(FEED_TOPICS)
    assert set(KINDS) >= e.MEMBERSHIP_KINDS


@given(st.dictionaries(st.text(), WHOLE, min_size=2))
def test_a_map_has_one_form_whatever_the_order_of_its_keys(map_: dict[str, int]) -> None:
    backwards = dict(reversed(map_.items()))
    assert encode(map_) == encode(backwards)


# What a newer release may have written.


def test_a_field_of_a_later_release_at_the_end_is_passed_over() -> None:
    newer = encode([b"t" * 16, "added later", {"with": ["more"]}])
    assert decode_body("CancelRequested", newer) == e.CancelRequested(b"t" * 16)


def test_a_field_that_an_earlier_release_did_not_write_has_its_default() -> None:
    older = encode([b"t" * 16, b"", "failed"])
    assert decode_body("TaskSettled", older) == e.TaskSettled(b"t" * 16, b"", "failed")


def test_an_unknown_kind_has_no_body() -> None:
    assert decode_body("StepCompleted", encode([1])) is None


# Hostile bytes.

BOMBS = {
    "nothing": b"",
    "a byte that msgpack never uses": b"\xc1",
    "an array that claims four thousand million values": b"\xdd\xff\xff\xff\xff",
    "a map that does": b"\xdf\xff\xff\xff\xff",
    "bytes that do": b"\xc6\xff\xff\xff\xff",
    "text that is no UTF-8": b"\xa4\xff\xfe\xfd\xfc",
    "text that is half a surrogate pair": b"\xa3\xed\xa0\x80",
    "deep arrays": b"\x91" * 100_000 + b"\x01",
    "deep maps": b"\x81\x01" * 100_000 + b"\x01",
    "deep keys": b"\x81\x91" * 50_000 + b"\x01",
    "a map as a key": b"\x81\x80\x01",
    "a mebibyte of empty maps": b"\xdd\x00\x10\x00\x00" + b"\x80" * (1 << 20),
    "a time that never was": b"\xc7\x0c\xff" + b"\xff" * 12,
    "two values": b"\x01\x01",
    "one value, cut": b"\x92\x01",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=list(BOMBS))
def test_a_bomb_is_malformed_at_every_door(data: bytes) -> None:
    for kind in KINDS:
        assert decode_body(kind, data) is None
    decoders: list[msgspec.msgpack.Decoder[Any]] = [
        msgspec.msgpack.Decoder(Heartbeat),
        msgspec.msgpack.Decoder(list[int]),
    ]
    for decoder in decoders:
        with pytest.raises(Malformed):
            decode(data, decoder)
        with pytest.raises(Malformed):
            decode_exact(data, decoder)
        assert decode_stored(data, decoder) is None


def test_a_value_of_any_form_is_read_or_malformed() -> None:
    for data in BOMBS.values():
        try:
            decode_value(data)
        except Malformed:
            continue
        assert data[:1] == b"\xdd"  # A long list of empty maps is a value; its size is bounded.


@given(st.sampled_from(tuple(KINDS)), st.binary(max_size=300))
def test_random_bytes_never_raise_past_the_door(kind: str, data: bytes) -> None:
    body = decode_body(kind, data)
    assert body is None or type(body).__name__ == kind
    try:
        decode_value(data)
    except Malformed as error:
        assert str(error)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(tuple(KINDS)), st.data())
def test_changed_bytes_never_raise_past_the_door(kind: str, data: st.DataObject) -> None:
    encoded = bytearray(encode(data.draw(bodies(KINDS[kind]))))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    body = decode_body(kind, bytes(encoded))
    assert body is None or type(body).__name__ == kind


# One form only.

NOT_CANONICAL = {
    "a number longer than it must be": b"\x91\xcc\x05",
    "a number much longer": b"\x91\xcf\x00\x00\x00\x00\x00\x00\x00\x05",
    "a list whose count is longer": b"\xdc\x00\x01\x05",
}


@pytest.mark.parametrize("data", NOT_CANONICAL.values(), ids=list(NOT_CANONICAL))
def test_another_form_of_the_same_value_is_refused_where_it_must_be_exact(data: bytes) -> None:
    decoder = msgspec.msgpack.Decoder(list[int])
    assert decode(data, decoder) == [5]
    with pytest.raises(Malformed, match="canonical"):
        decode_exact(data, decoder)


def test_a_key_that_stands_twice_is_refused_where_it_must_be_exact() -> None:
    decoder = msgspec.msgpack.Decoder(dict[str, int])
    with pytest.raises(Malformed, match="canonical"):
        decode_exact(b"\x82\xa1a\x01\xa1a\x02", decoder)


# Nesting.


def depth(value: Any) -> int:
    """How many levels of values hold other values."""
    if isinstance(value, dict):
        value = [*value.values()]
    return 1 + max(map(depth, value)) if isinstance(value, list) and value else 0


@settings(max_examples=300, deadline=None)
@given(values(max_leaves=40), st.integers(0, 6))
def test_nesting_is_what_a_person_would_count(value: Any, levels: int) -> None:
    assert nests_too_deep(encode(value), levels) == (depth(value) > levels)


@given(st.binary(max_size=400), st.integers(0, 20))
def test_nesting_of_random_bytes_never_raises(data: bytes, levels: int) -> None:
    assert nests_too_deep(data, levels) in (True, False)


SIZED = {
    "bytes of three sizes": [bytes(10), bytes(300), bytes(70_000)],
    "texts of three sizes": ["\x90" * 10, "a" * 300, "b" * 70_000],
    "numbers of all sizes": [1, 200, 60_000, 1 << 30, 1 << 60, -100, -200, -40_000, -(1 << 40)],
    "floats, truth and nothing": [1.5, True, False, None],
    "extensions": [msgspec.msgpack.Ext(5, bytes(n)) for n in (1, 2, 4, 8, 16, 3, 300, 70_000)],
    "long lists and maps": [[1] * 20, [1] * 70_000, {str(n): n for n in range(70_000)}],
}


@pytest.mark.parametrize("value", SIZED.values(), ids=list(SIZED))
def test_nesting_passes_over_values_of_every_size(value: list[Any]) -> None:
    levels = 2 if isinstance(value[0], list) else 1
    data = encode(value) + b""
    assert not nests_too_deep(data, levels)
    deep = b"\x92" + data + b"\x91" * 3 + b"\x01"
    assert nests_too_deep(deep, 3)
    assert not nests_too_deep(deep, 4)


def test_the_bound_of_nesting_is_exact() -> None:
    levels = LIMITS.nesting_max
    task = b"\xc4\x10" + b"t" * 16
    within = b"\x92" + task + b"\x91" * (levels - 1) + b"\x01"
    beyond = b"\x92" + task + b"\x91" * levels + b"\x01"
    assert decode_body("CancelRequested", within) is not None
    assert decode_body("CancelRequested", beyond) is None
