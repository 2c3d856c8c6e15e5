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

from kowalski_executors.driver import (
    DEPTH_MAX,
    FILE_NAME,
    NotJson,
    encode,
    execute,
    parts_by_text,
    parts_by_tree,
    shorten,
    value_frame,
)

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


SOURCES = [
    "",
    "\n\n",
    "1",
    "x = 1",
    "x = 1\nx + 1",
    "x = 1\nx + 1\n# a remark\n\n",
    "x = 1; x + 1",
    "x = 1\ny = 2; x + y",
    "x = (1 +\n2)\n",
    "{'a': 1,\n 'b': 2}\n",
    "[\n1,\n2\n]",
    "[\n1,\n2\n]\n)",
    "'''\n1\n'''",
    "s = '''\n1\n'''",
    "s = '''\n1\n'''\nlen(s)",
    "s = '''\n1'''\\\n.strip()",
    "x = 1 + \\\n2",
    "if 1:\n    2\n",
    "if 1:\n    2\nelse:\n    3",
    "def f():\n    return 4\nf()",
    "@str\ndef f(): pass",
    "class A:\n    pass\nA.__name__",
    "for x in range(3):\n    pass\nx",
    "from __future__ import annotations\nx: 'y' = 1\nx",
    "(y := 5)",
    "(y := 5)\ny",
    "lambda: 1",
    "lambda: 1\n5",
    "x = 1\n\tx",
    "1 +",
    "x = '\n1",
    "\f\n1",
    "x = 3\r\nx * 2\r\n",
    "raise ValueError('no')\n1",
    "x = 1\n1 / 0",
    "print(\n1)\nNone",
    "x = [1,\n# a remark\n2]\nx",
    "\\\n1",
    "x = 1\n\\\nx",
    "1\n\0",
    "\udc80",
    "await f()",
    "return 1",
    "yield 1",
    "x = 1\nyield x",
    "global x\nx = 1\nx",
    "'a' 'b'",
    "'a'\n'b'",
    "with open('/dev/null') as f:\n    pass\nf.closed",
    "try:\n    1 / 0\nexcept ZeroDivisionError:\n    x = 7\nx",
    "x = 1\n;x",
]


def seen(source: str, *, by_tree: bool) -> tuple[object, ...]:
    """What a program comes to, one way or the other: its value, its names, or its error's place."""
    namespace: dict[str, object] = {}
    try:
        if by_tree:
            before, last = parts_by_tree(source)
            exec(before, namespace)
            value = eval(last, namespace) if last is not None else None
        else:
            value = execute(source, namespace)
    except Exception as error:  # guard: whatever a program raises is compared
        trace = error.__traceback__
        line = 0
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == FILE_NAME:
                line = trace.tb_lineno
            trace = trace.tb_next
        return type(error), str(error), line
    names = sorted(name for name in namespace if name != "__builtins__")
    return (value if not callable(value) else "a function"), names


@pytest.mark.parametrize("source", SOURCES)
def test_the_short_way_to_the_last_expression_comes_to_the_same_as_the_long_one(
    source: str,
) -> None:
    assert seen(source, by_tree=False) == seen(source, by_tree=True)


@given(st.lists(st.sampled_from(
    ["x = 1", "x + 1", "'''", "(", ")", "if 1:", "    2", "# a", "\\", "[1,", "2]", "x", "",
     "else:",
     "def f():", "    return 3", "f()", "1;2", "@x", '"', "f'{", "}'", "\t4", "lambda:", "x = ["]
), max_size=8))  # fmt: skip
def test_it_does_so_for_lines_in_any_order(lines: list[str]) -> None:
    source = "\n".join(lines)
    assert seen(source, by_tree=False) == seen(source, by_tree=True)


def test_most_programs_take_the_short_way() -> None:
    assert parts_by_text("import json\nx = 1\njson.dumps(x)\n") is not None
    assert parts_by_text("x = 1\n") is None
