"""The driver's own rules: which values have a form in JSON, and what a cell gives back."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict
from enum import IntEnum
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_executors.driver import DEPTH_MAX, NotJson, encode, execute, shorten, value_frame

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


class Point(NamedTuple):
    """A pair with names."""

    x: int
    y: int


class Colour(IntEnum):
    """A number with a name."""

    RED = 3


@given(JSON_VALUES)
def test_what_has_a_form_in_json_comes_back_the_same(value: object) -> None:
    assert json.loads(encode(value)) == value
    assert encode(value).isascii()


@pytest.mark.parametrize(
    ("value", "same"),
    [
        ((1, (2,)), [1, [2]]),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(b=1), {"b": 1}),
        (Point(1, 2), [1, 2]),
        (Colour.RED, 3),
    ],
)
def test_kin_of_the_plain_types_are_taken_as_these(value: object, same: object) -> None:
    assert json.loads(encode(value)) == same


def nested(depth: int) -> list[object]:
    """Lists in lists."""
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        -math.inf,
        2**64,
        -(2**63) - 1,
        {1: 2},
        {None: 1},
        {1, 2},
        b"bytes",
        object(),
        "\ud800",
        {"\udfff": 1},
        [[object()]],
        nested(DEPTH_MAX + 1),
    ],
)
def test_everything_else_has_none_and_goes_as_its_repr(value: object) -> None:
    with pytest.raises(NotJson):
        encode(value)
    frame = value_frame(value, 1 << 20)
    assert frame[:1] == b"V"
    assert json.loads(frame[1:]) == repr(value)


def test_a_list_that_holds_itself_has_a_repr() -> None:
    value: list[object] = []
    value.append(value)
    assert json.loads(value_frame(value, 1 << 20)[1:]) == "[[...]]"


def test_a_value_over_the_limit_is_not_sent() -> None:
    assert value_frame("x" * 98, 100) == b'V"' + b"x" * 98 + b'"'
    assert value_frame("x" * 99, 100) == b"L"
    assert value_frame(b"x" * 100, 100) == b"L"


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("", None),
        ("# nothing", None),
        ("1 + 1", 2),
        ("x = 1", None),
        ("x = 1\nx", 1),
        ("x = 1; x + 1; x + 2", 3),
        ("def f():\n    return 5\nf()", 5),
        ("for i in range(3):\n    i", None),
        ("'''a docstring'''", "a docstring"),
        ("from __future__ import annotations\ndef f(a: b): pass\n7", 7),
        ("None", None),
        ("(lambda: x)() if (x := 4) else 0", 4),
    ],
)
def test_a_program_gives_back_its_last_expression(source: str, value: object) -> None:
    assert execute(source, {}) == value


def test_a_sentence_is_one_bounded_line() -> None:
    assert shorten("a\nb") == b"a"
    assert shorten("") == b""
    assert len(shorten("x" * 10_000)) == 500
    assert shorten("\ud800") == b"?"
