"""What a `code` payload may say, and how much a program may use."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_executors.limits import (
    ADDRESS_SPACE_SLACK_BYTES,
    MEBIBYTE,
    device_memory_bytes,
    limits_for,
)
from kowalski_executors.payloads import Program, read_payload
from kowalski_protocol.errors import Problem


@pytest.mark.parametrize("language", ["python", "py", "python3"])
def test_a_payload_describes_a_program(language: str) -> None:
    program = read_payload(
        {
            "language": language,
            "code": "1 + ü",
            "stdin": "in",
            "args": ["a", ""],
        }
    )
    assert program == Program("1 + ü".encode(), b"in", (b"a", b""))


def test_all_but_language_and_code_may_be_missing() -> None:
    assert read_payload({"language": "python", "code": ""}) == Program(b"")
    nothing: dict[str, Any] = {"stdin": None, "args": None}
    assert read_payload({"language": "python", "code": "", **nothing}) == Program(b"")


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"language": None}, "bad_request", "language"),
    ({"language": ["python"]}, "bad_request", "language"),
    ({"code": None}, "bad_request", "code"),
    ({"code": b"1"}, "bad_request", "code"),
    ({"code": "\ud800"}, "bad_request", "code"),
    ({"code": "ü" * (MEBIBYTE // 2 + 1)}, "spec_too_large", "code"),
    ({"stdin": 1}, "bad_request", "stdin"),
    ({"stdin": "x" * (4 * MEBIBYTE + 1)}, "spec_too_large", "stdin"),
    ({"args": "abc"}, "bad_request", "args"),
    ({"args": {"a": 1}}, "bad_request", "args"),
    ({"args": [1]}, "bad_request", "args"),
    ({"args": ["x"] * 1_001}, "spec_too_large", "args"),
    ({"args": ["x" * 1_000] * 200}, "spec_too_large", "args"),
    ({"shell": "sh"}, "bad_request", "shell"),
    ({"env": ["A=1"]}, "bad_request", "env"),
    ({"env": {"A": 1}}, "bad_request", "env.A"),
    ({"env": {"": "1"}}, "bad_request", "env"),
    ({"env": {"A=B": "1"}}, "bad_request", "A=B"),
    ({"env": {"A\0": "1"}}, "bad_request", "env"),
    ({"env": {"A": "\0"}}, "bad_request", "env.A"),
    ({"env": {1: "1"}}, "bad_request", "env"),
    ({"env": {"A": "x" * 200_000}}, "spec_too_large", "env"),
    ({"env": {str(n): "x" * 1000 for n in range(200)}}, "spec_too_large", "env"),
    ({"env": {str(n): "" for n in range(257)}}, "spec_too_large", "env"),
]


@pytest.mark.parametrize(("change", "code", "named"), BAD)
def test_what_is_wrong_is_refused_by_name(change: dict[str, Any], code: str, named: str) -> None:
    with pytest.raises(Problem) as refused:
        read_payload({"language": "python", "code": "1", **change})
    assert refused.value.code == code
    assert named in refused.value.sentence


@given(
    st.dictionaries(
        st.sampled_from(["language", "code", "stdin", "args", "\ud800"]),
        st.none()
        | st.just("python")
        | st.text(st.characters(codec=None))
        | st.integers()
        | st.floats()
        | st.lists(st.text() | st.integers()),
    )
)
def test_no_payload_does_more_than_be_refused(payload: dict[str, Any]) -> None:
    try:
        assert isinstance(read_payload(payload), Program)
    except Problem:
        pass


def test_a_program_gets_the_time_of_its_task() -> None:
    assert limits_for({}, 300).wall_s == 300
    assert limits_for({}, -1).wall_s == 0


def test_a_program_may_ask_for_memory() -> None:
    assert limits_for({}, 1).memory_bytes == 512 * MEBIBYTE
    limits = limits_for({"memory_mb": 64}, 1)
    assert limits.memory_bytes == 64 * MEBIBYTE
    assert limits.address_space_bytes == 64 * MEBIBYTE + ADDRESS_SPACE_SLACK_BYTES
    assert limits.work_folder_bytes == 64 * MEBIBYTE
    assert limits_for({"memory_mb": 64.5}, 1).memory_bytes == int(64.5 * MEBIBYTE)


@pytest.mark.parametrize(
    ("memory_mb", "code"),
    [
        (31, "bad_request"),
        (-1, "bad_request"),
        ("512", "bad_request"),
        (True, "bad_request"),
        (None, "bad_request"),
        (math.nan, "bad_request"),
        (math.inf, "impossible_requirement"),
        (10**400, "impossible_requirement"),
        (device_memory_bytes() // MEBIBYTE + 1, "impossible_requirement"),
    ],
)
def test_memory_that_makes_no_sense_is_refused(memory_mb: object, code: str) -> None:
    with pytest.raises(Problem) as refused:
        limits_for({"memory_mb": memory_mb}, 1)
    assert refused.value.code == code
