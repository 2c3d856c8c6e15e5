"""The door for tasks: what it takes, and every refusal with its code.

`parse_task` sees what people and programs hand in, so it raises `Problem` and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kowalski_protocol.codec import decode_value, encode
from kowalski_protocol.errors import CODES, Problem
from kowalski_protocol.identity import Identity
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.tasks import (
    KEY_SIZE_BYTES_MAX,
    KINDS,
    KINDS_TO_COME,
    LANGUAGE_ALIASES,
    TaskSpec,
    again,
    as_child,
    child_key,
    decode_spec,
    parent_attempt,
    parse_task,
    task_id,
)

PEER = Identity(hashlib.sha256(b"device").digest())
ECHO: dict[str, Any] = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}
CODE: dict[str, Any] = {"kind": "code", "payload": {"language": "python", "code": "print(1)"}}


def refusal(task: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        parse_task(task)
    assert caught.value.code in CODES
    assert caught.value.sentence.encode()
    return caught.value


# What is taken.


def test_a_tool_task_needs_its_tool() -> None:
    submission = parse_task(ECHO)
    spec = submission.spec
    assert (spec.kind, spec.need) == ("tool", "echo")
    assert spec.payload_hash == hashlib.sha256(submission.payload).digest()
    assert spec.payload_size_bytes == len(submission.payload)
    assert decode_value(submission.payload) == ECHO["payload"]
    assert (submission.key, submission.owner) == (None, None)


def test_what_is_signed_is_read_back_as_it_was_asked_for() -> None:
    task = {
        **CODE,
        "requires": {
            "device": PEER.peer_id,
            "memory_mb": 512,
            "cores": 2.5,
            "accelerator": "cuda",
            "labels": {"room": "attic"},
            "platform": "linux",
            "sandbox": "bubblewrap",
        },
        "priority": -7,
        "timeout_s": 12,
        "retry": {"max_attempts": 3, "backoff_s": 0.5, "jitter": 0},
        "failover": "queue",
        "device_filter": "network",
        "labels": {"project": "x", "empty": ""},
        "trace": "00-abc-def-01",
        "owner": PEER.peer_id,
        "idempotency_key": "nightly",
    }
    submission = parse_task(task)
    spec = decode_spec(submission.spec_bytes)
    assert spec == submission.spec
    assert spec is not None
    assert spec.requires == task["requires"]
    assert (spec.priority, spec.timeout_s, spec.max_attempts) == (-7, 12.0, 3)
    assert (spec.backoff_s, spec.jitter, spec.failover) == (0.5, 0.0, "queue")
    assert (spec.device_filter, spec.labels, spec.trace) == (
        "network",
        {"project": "x", "empty": ""},
        "00-abc-def-01",
    )
    assert (submission.owner, submission.key) == (PEER.author, b"knightly")


def test_what_was_not_asked_for_has_the_documented_default() -> None:
    spec = parse_task(ECHO).spec
    assert (spec.priority, spec.timeout_s, spec.max_attempts) == (0, 300.0, 1)
    assert (spec.backoff_s, spec.jitter) == (1.0, 0.1)
    assert (spec.failover, spec.device_filter) == ("redistribute", "all")
    assert (spec.requires, spec.labels, spec.trace) == ({}, {}, "")


@pytest.mark.parametrize(("alias", "language"), [*LANGUAGE_ALIASES.items(), ("python", "python")])
def test_a_language_has_one_name(alias: str, language: str) -> None:
    task = {"kind": "code", "payload": {"language": alias, "code": "x"}}
    assert parse_task(task).spec.need == language


@pytest.mark.parametrize(
    "harmless",
    [
        {"after": None},
        {"after": []},
        {"parent": None},
        {"private": False},
        {"secrets": []},
        {"delivery": "at_least_once"},
        {"durability": 1},
        {"requires": None},
        {"retry": None},
        {"labels": None},
        {"owner": None},
        {"idempotency_key": None},
        {"trace": None},
    ],
)
def test_a_field_that_asks_for_nothing_changes_nothing(harmless: dict[str, Any]) -> None:
    assert parse_task({**ECHO, **harmless}) == parse_task(ECHO)


def test_the_edges_of_what_is_allowed_are_allowed() -> None:
    for changes in (
        {"priority": 100},
        {"priority": -100},
        {"timeout_s": LIMITS.timeout_s_max},
        {"timeout_s": 1e-9},
        {"retry": {"max_attempts": LIMITS.attempts_max, "backoff_s": 86400, "jitter": 1}},
        {"labels": {str(n): "v" * 128 for n in range(LIMITS.labels_max)}},
        {"trace": "t" * 256},
        {"requires": {"memory_mb": 0, "cores": 1e9}},
    ):
        submission = parse_task({**ECHO, **changes})
        assert decode_spec(submission.spec_bytes) == submission.spec


# Keys and ids.


def test_the_longest_key_fits_into_what_the_ledger_counts() -> None:
    submission = parse_task({**ECHO, "idempotency_key": "\U0001f600" * 256})
    assert submission.key is not None
    assert len(submission.key) == KEY_SIZE_BYTES_MAX


def test_an_id_follows_from_owner_key_and_spec_and_each_of_them_matters() -> None:
    base = task_id(b"o" * 32, b"key", b"spec")
    assert len(base) == 16
    assert base == task_id(b"o" * 32, b"key", b"spec")
    others = [
        task_id(b"p" * 32, b"key", b"spec"),
        task_id(b"o" * 32, b"kez", b"spec"),
        task_id(b"o" * 32, b"key", b"spek"),
        task_id(b"o" * 32, b"keys", b"pec"),
        task_id(b"o" * 32, b"ke", b"yspec"),
    ]
    assert len({base, *others}) == 6


def test_one_spec_has_one_encoding_whatever_the_order_of_its_fields() -> None:
    task = {**ECHO, "labels": {"a": "1", "b": "2"}, "priority": 3}
    turned = {k: task[k] for k in reversed(task)} | {"labels": {"b": "2", "a": "1"}}
    assert parse_task(task).spec_bytes == parse_task(turned).spec_bytes


# Refusals.

BAD_REQUESTS: dict[str, dict[Any, Any]] = {
    "a field that nobody knows": {"prioritty": 5},
    "a field that is no text": {5: 5},
    "a field of half a character": {"\ud800": 5},
    "no payload": {"payload": None},
    "a payload that is a list": {"payload": [1]},
    "a payload that is a text": {"payload": "echo"},
    "no tool": {"payload": {}},
    "an empty tool": {"payload": {"tool": ""}},
    "a tool that is a number": {"payload": {"tool": 5}},
    "a tool with a very long name": {"payload": {"tool": "t" * 129}},
    "arguments that are a list": {"payload": {"tool": "echo", "args": [1]}},
    "arguments that are nothing": {"payload": {"tool": "echo", "args": None}},
    "a priority that is a text": {"priority": "high"},
    "a priority that is true": {"priority": True},
    "a priority with a fraction": {"priority": 1.5},
    "a priority above the highest": {"priority": 101},
    "a priority below the lowest": {"priority": -101},
    "a priority of 400 digits": {"priority": 10**400},
    "no priority": {"priority": None},
    "no time at all": {"timeout_s": 0},
    "less than no time": {"timeout_s": -1},
    "more than a week": {"timeout_s": LIMITS.timeout_s_max * 1.01},
    "an endless time": {"timeout_s": math.inf},
    "a time that is no number": {"timeout_s": math.nan},
    "a time of 400 digits": {"timeout_s": 10**400},
    "a time that is a text": {"timeout_s": "60"},
    "a retry that is a number": {"retry": 3},
    "a retry with another field": {"retry": {"tries": 3}},
    "no attempts": {"retry": {"max_attempts": 0}},
    "too many attempts": {"retry": {"max_attempts": 101}},
    "half an attempt": {"retry": {"max_attempts": 1.5}},
    "attempts of 400 digits": {"retry": {"max_attempts": 10**400}},
    "a backoff before now": {"retry": {"backoff_s": -1}},
    "a backoff of over a day": {"retry": {"backoff_s": 86401}},
    "a backoff that is no number": {"retry": {"backoff_s": math.nan}},
    "a jitter above one": {"retry": {"jitter": 1.1}},
    "another failover": {"failover": "pray"},
    "a failover that is a list": {"failover": ["queue"]},
    "another filter": {"device_filter": "mine"},
    "labels that are a list": {"labels": ["a"]},
    "too many labels": {"labels": {str(n): "" for n in range(33)}},
    "a long label": {"labels": {"a": "x" * 129}},
    "a label of half a character": {"labels": {"a": "\ud800"}},
    "a label name of half a character": {"labels": {"\udfff": "a"}},
    "a label that is a number": {"labels": {"a": 1}},
    "a label without a name": {"labels": {"": "a"}},
    "a label whose name is a number": {"labels": {1: "a"}},
    "requirements that are a list": {"requires": ["gpu"]},
    "a requirement that nobody knows": {"requires": {"quantum": True}},
    "a requirement that is no text": {"requires": {5: 5}},
    "a requirement of half a character": {"requires": {"\ud800": 5}},
    "too many requirements": {"requires": {str(n): 1 for n in range(33)}},
    "a device that is no peer ID": {"requires": {"device": "laptop"}},
    "a device that is a number": {"requires": {"device": 5}},
    "memory that is a text": {"requires": {"memory_mb": "1G"}},
    "memory of 400 digits": {"requires": {"memory_mb": 10**400}},
    "fewer than no cores": {"requires": {"cores": -1}},
    "an accelerator that is true": {"requires": {"accelerator": True}},
    "an accelerator of half a character": {"requires": {"accelerator": "\ud800"}},
    "required labels that are a text": {"requires": {"labels": "home"}},
    "a key that is empty": {"idempotency_key": ""},
    "a key that is a number": {"idempotency_key": 5},
    "a key that is too long": {"idempotency_key": "k" * 257},
    "a key of half a character": {"idempotency_key": "\ud800"},
    "an owner that is no peer ID": {"owner": "me"},
    "an owner that is a number": {"owner": 5},
    "a trace that is too long": {"trace": "t" * 257},
    "a trace that is a number": {"trace": 5},
    "a trace of half a character": {"trace": "\ud800"},
}


@pytest.mark.parametrize("changes", BAD_REQUESTS.values(), ids=list(BAD_REQUESTS))
def test_a_task_that_is_wrong_is_told_so(changes: dict[Any, Any]) -> None:
    assert refusal({**ECHO, **changes}).code == "bad_request"


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"language": "python"},
        {"code": "print(1)"},
        {"language": "python", "code": 5},
        {"language": "", "code": "x"},
        {"language": 5, "code": "x"},
        {"language": "l" * 129, "code": "x"},
    ],
)
def test_a_code_task_needs_a_language_and_a_code(payload: dict[str, Any]) -> None:
    assert refusal({"kind": "code", "payload": payload}).code == "bad_request"


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


CAN_T_BE_SAID: dict[str, Any] = {
    "no number": math.nan,
    "endless": math.inf,
    "endless the other way": -math.inf,
    "bytes": b"bytes",
    "a set": {1, 2},
    "an object": object(),
    "a key that is a number": {1: 2},
    "a key that is nothing": {None: 2},
    "keys of two sorts": {1: 2, "a": 3},
    "half a character": "\ud800",
    "a key of half a character": {"\ud800": 1},
    "more than 64 bits": 1 << 64,
    "400 digits": 10**400,
    "far below": -(1 << 63) - 1,
    "deep": nested(LIMITS.nesting_max),
    "deeper than the stack": nested(3000),
}


@pytest.mark.parametrize("value", CAN_T_BE_SAID.values(), ids=list(CAN_T_BE_SAID))
def test_a_payload_that_json_can_t_say_is_refused(value: Any) -> None:
    task = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": value}}}
    problem = refusal(task)
    assert problem.code == "bad_request"
    assert "JSON" in problem.sentence


@pytest.mark.parametrize(
    "value", [None, True, 0, -(1 << 63), (1 << 64) - 1, 1e308, "é\U0001f600", nested(60), {"": []}]
)
def test_a_payload_that_json_can_say_is_taken(value: Any) -> None:
    task = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": value}}}
    assert decode_value(parse_task(task).payload)["args"]["value"] == value


@pytest.mark.parametrize("kind", KINDS_TO_COME)
def test_a_kind_that_is_to_come_is_refused_by_name(kind: str) -> None:
    problem = refusal({"kind": kind, "payload": {}})
    assert problem.code == "not_supported"
    assert f"'{kind}'" in problem.sentence


@pytest.mark.parametrize(
    "kind", [None, "", "Code", "unknown", 5, True, ["code"], {"a": 1}, "x" * 99]
)
def test_a_kind_that_nobody_knows_is_refused_and_those_that_there_are_are_named(kind: Any) -> None:
    problem = refusal({"kind": kind, "payload": {}})
    assert problem.code == "unknown_kind"
    assert all(known in problem.sentence for known in KINDS)
    assert len(problem.sentence) < 200


TO_COME = {
    "after": ["a" * 32],
    "parent": "a" * 32,
    "private": True,
    "secrets": ["TOKEN"],
    "delivery": "at_most_once",
    "durability": 2,
}


@pytest.mark.parametrize(("field", "value"), TO_COME.items())
def test_an_option_that_is_to_come_is_refused_by_name(field: str, value: Any) -> None:
    problem = refusal({**ECHO, field: value})
    assert problem.code == "not_supported"
    assert f"'{field}'" in problem.sentence


@pytest.mark.parametrize("field", list(TO_COME))
@pytest.mark.parametrize("value", ["no", 7, [[]], {"a": 1}, math.nan])
def test_an_odd_value_of_such_an_option_is_refused_too(field: str, value: Any) -> None:
    assert refusal({**ECHO, field: value}).code == "not_supported"


def test_a_payload_above_the_limit_is_refused_with_both_sizes() -> None:
    room = LIMITS.payload_size_bytes_max - len(encode({"tool": "echo", "args": {"v": "x" * 60000}}))
    fits = {"tool": "echo", "args": {"v": "x" * (60000 + room)}}
    assert len(parse_task({"kind": "tool", "payload": fits}).payload) == 65536
    above = {"tool": "echo", "args": {"v": "x" * (60001 + room)}}
    problem = refusal({"kind": "tool", "payload": above})
    assert problem.code == "spec_too_large"
    assert "65,537" in problem.sentence
    assert "65,536" in problem.sentence


def test_a_spec_above_its_limit_is_refused() -> None:
    labels = {f"{n:03}" + "é" * 125: "é" * 128 for n in range(32)}
    task = {**ECHO, "labels": labels, "requires": {"labels": labels}}
    assert refusal(task).code == "spec_too_large"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
field_names = st.sampled_from(
    (
        *("kind", "payload", "requires", "priority", "timeout_s", "retry", "failover", "owner"),
        *("idempotency_key", "device_filter", "labels", "trace", "after", "durability"),
    )
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from((ECHO, CODE, {})), st.dictionaries(field_names, json_values, max_size=4))
def test_anything_json_can_say_is_a_task_or_refused(
    base: dict[str, Any], changes: dict[str, Any]
) -> None:
    task = {**base, **changes}
    try:
        submission = parse_task(task)
    except Problem as problem:
        assert problem.code in CODES
        json.dumps(problem.sentence).encode()
    else:
        assert decode_spec(submission.spec_bytes) == submission.spec


# What members sign without this door.


@given(st.binary(max_size=200))
def test_a_spec_of_random_bytes_is_none(data: bytes) -> None:
    spec = decode_spec(data)
    assert spec is None or isinstance(spec, TaskSpec)


UNSOUND: dict[str, dict[str, Any]] = {
    "no attempts": {"max_attempts": 0},
    "attempts below none": {"max_attempts": -1},
    "too many attempts": {"max_attempts": LIMITS.attempts_max + 1},
    "no time": {"timeout_s": 0.0},
    "time that is no number": {"timeout_s": math.nan},
    "endless time": {"timeout_s": math.inf},
    "backoff that is no number": {"backoff_s": math.nan},
    "endless backoff": {"backoff_s": math.inf},
    "jitter below none": {"jitter": -0.1},
    "priority above the highest": {"priority": 101},
    "priority below the lowest": {"priority": -(1 << 63)},
    "another failover": {"failover": "pray"},
    "another filter": {"device_filter": "mine"},
    "memory that is a text": {"requires": {"memory_mb": "1G"}},
    "cores that are no number": {"requires": {"cores": math.nan}},
    "labels that are a list": {"requires": {"labels": [1]}},
    "a device that is a number": {"requires": {"device": 5}},
    "an accelerator that is nothing": {"requires": {"accelerator": None}},
}


@pytest.mark.parametrize("changes", UNSOUND.values(), ids=list(UNSOUND))
def test_a_spec_beyond_the_bounds_can_t_be_read(changes: dict[str, Any]) -> None:
    assert decode_spec(encode(TaskSpec("tool", "echo", bytes(32), 0, **changes))) is None


def test_a_requirement_of_a_later_release_is_left_to_placement() -> None:
    spec = TaskSpec("tool", "echo", bytes(32), 0, requires={"quantum": {"any": ["form"]}})
    assert decode_spec(encode(spec)) == spec


CELL: dict[str, Any] = {
    "kind": "code",
    "payload": {"language": "python", "code": "x = 1"},
    "session": "notes",
}


@pytest.mark.parametrize("language", ["python", "py", "bash", "sh"])
def test_a_cell_of_a_session_is_a_program_whose_interpreter_can_be_kept(language: str) -> None:
    payload = {"language": language, "code": "x=1"}
    assert parse_task({**CELL, "payload": payload}).spec.session == "notes"


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": {"language": "rust", "code": ""}},
        {"kind": "tool", "payload": {"tool": "echo", "args": {}}},
        {"session": ""},
        {"session": 7},
        {"session": "x" * 1000},
        {"payload": {"language": "python", "code": "", "args": ["1"]}},
        {"payload": {"language": "python", "code": "", "stdin": "1"}},
        {"payload": {"language": "python", "code": "", "env": {"A": "1"}}},
        {"payload": {"language": "python", "code": "", "outputs": ["*.txt"]}},
    ],
)
def test_what_can_not_be_a_cell_of_a_session_is_refused(changes: dict[str, Any]) -> None:
    assert refusal({**CELL, **changes}).code == "bad_request"


def test_a_task_that_is_submitted_again_is_on_its_own() -> None:
    submission = parse_task({**ECHO, "priority": 3})
    child = as_child(submission, bytes(16), bytes(16), "one")
    assert child.spec.parent
    alone = again(child.spec, child.payload)
    assert alone.spec == submission.spec
    assert (alone.spec_bytes, alone.key, alone.owner) == (submission.spec_bytes, None, None)


def test_a_memo_key_tells_steps_apart_and_knows_them_again() -> None:
    submission, other = parse_task(ECHO), parse_task({**ECHO, "priority": 1})
    memo = as_child(submission, bytes(16), b"p" * 16, "one").spec.memo
    assert as_child(submission, b"o" * 16, b"p" * 16, "one").spec.memo == memo
    assert as_child(other, bytes(16), b"p" * 16, "one").spec.memo != memo
    assert as_child(submission, bytes(16), b"q" * 16, "one").spec.memo != memo
    assert as_child(submission, bytes(16), b"p" * 16, "two").spec.memo != memo
    key = child_key(b"a" * 32, memo)
    assert parent_attempt(key) == b"a" * 32
    assert parent_attempt(b"k" + key[1:]) == parent_attempt(key[:-1]) == b""
