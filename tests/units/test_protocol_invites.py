"""Invites: a token is whole or it is refused, and the join door reads no more than it must."""

from __future__ import annotations

import string

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kowalski_protocol.codec import Malformed, encode
from kowalski_protocol.errors import Problem
from kowalski_protocol.invites import (
    TOKEN_LENGTH_MAX,
    TOKEN_PREFIX,
    Invite,
    JoinAnswer,
    JoinRequest,
    decode_join_answer,
    decode_join_request,
    decode_token,
    encode_token,
    invite_hash,
)
from kowalski_protocol.limits import LIMITS

ADDRESSES = ("/ip4/192.168.1.7/tcp/52423", "/ip6/fe80::1/tcp/52423")
INVITE = Invite(b"i" * 32, b"s" * 16, 1_790_000_600_000, "member", ADDRESSES)
TOKEN = encode_token(INVITE)

invites = st.builds(
    Invite,
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 1 << 63),
    st.sampled_from(("member", "admin")),
    st.lists(st.text(max_size=60), max_size=4).map(tuple),
)


def refused(text: str) -> bool:
    try:
        decode_token(text)
    except Problem as problem:
        assert problem.code == "bad_token"
        assert problem.mend == "kowalski invite"
        return True
    return False


@given(invites)
def test_a_token_says_what_its_invite_says(invite: Invite) -> None:
    assert decode_token(encode_token(invite)) == invite


@given(invites, st.data())
def test_a_token_may_be_broken_over_lines_and_indented(invite: Invite, data: st.DataObject) -> None:
    token = encode_token(invite)
    at = data.draw(st.integers(0, len(token)))
    white = data.draw(st.sampled_from((" ", "\n", "\r\n", "\t", "\n    ")))
    assert decode_token(f"  {token[:at]}{white}{token[at:]}\n") == invite


def test_every_single_wrong_character_is_noticed() -> None:
    for at in range(len(TOKEN)):
        for wrong in string.ascii_letters + string.digits + "+/-_=.,é":
            if wrong != TOKEN[at]:
                assert refused(TOKEN[:at] + wrong + TOKEN[at + 1 :]), (at, wrong)


def test_every_missing_and_every_doubled_character_is_noticed() -> None:
    for at in range(len(TOKEN)):
        assert refused(TOKEN[:at] + TOKEN[at + 1 :]), at
        assert refused(TOKEN[:at] + TOKEN[at] + TOKEN[at:]), at


def test_every_pair_of_swapped_characters_is_noticed() -> None:
    for at in range(len(TOKEN) - 1):
        if TOKEN[at] != TOKEN[at + 1]:
            assert refused(TOKEN[:at] + TOKEN[at + 1] + TOKEN[at] + TOKEN[at + 2 :]), at


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        TOKEN_PREFIX,
        "kow1",
        "kow2." + TOKEN[5:],
        TOKEN.upper(),
        TOKEN + "=",
        "https://example.org/" + TOKEN,
        "A" * (TOKEN_LENGTH_MAX + 1),
        TOKEN_PREFIX + "A" * TOKEN_LENGTH_MAX,
        TOKEN_PREFIX + "====",
        TOKEN_PREFIX + "\ud800",
    ],
)
def test_what_is_no_token_is_told_so(text: str) -> None:
    assert refused(text)


@settings(max_examples=300)
@given(st.text(max_size=100) | st.text(string.ascii_letters, max_size=100).map("kow1.".__add__))
def test_any_text_is_a_token_or_told_so(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize(
    "changes", [{"inviter": b"i" * 31}, {"secret": b"s" * 15}, {"secret": b""}]
)
def test_a_token_with_a_key_or_secret_of_the_wrong_size_is_refused(
    changes: dict[str, bytes],
) -> None:
    assert refused(encode_token(msgspec.structs.replace(INVITE, **changes)))


def test_the_ledger_keeps_a_hash_that_tells_nothing_of_the_secret() -> None:
    assert len(invite_hash(INVITE.secret)) == 32
    assert INVITE.secret not in invite_hash(INVITE.secret)
    assert invite_hash(b"a" * 16) != invite_hash(b"b" * 16)


# What is spoken at the door.


def test_a_join_request_comes_through() -> None:
    request = JoinRequest(b"s" * 16, "laptop")
    assert decode_join_request(encode(request)) == request


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        encode([]),
        encode([b"s" * 16]),
        encode(["text", "name"]),
        encode(JoinRequest(b"s" * 15, "name")),
        encode(JoinRequest(b"s" * 17, "name")),
        encode(JoinRequest(b"s" * 16, "n" * (LIMITS.name_length_max + 1))),
        b"\x91" * 5000,
    ],
)
def test_a_stranger_s_bytes_of_another_form_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode_join_request(data)


def test_a_name_at_the_limit_is_accepted() -> None:
    request = JoinRequest(b"s" * 16, "n" * LIMITS.name_length_max)
    assert decode_join_request(encode(request)) == request


@given(st.binary(max_size=200))
def test_random_bytes_at_the_door_are_read_or_malformed(data: bytes) -> None:
    for door in (decode_join_request, decode_join_answer):
        try:
            door(data)
        except Malformed:
            continue


def test_an_answer_lets_in_or_says_why_not() -> None:
    welcome = JoinAnswer(b"c" * 32, b"f" * 32, "home", ((b"m" * 32, ADDRESSES),))
    refusal = JoinAnswer(code="invite_used", sentence="This invite was used before.")
    for answer in (welcome, refusal):
        assert decode_join_answer(encode(answer)) == answer
    with pytest.raises(Malformed):
        decode_join_answer(encode(["not bytes"]))
