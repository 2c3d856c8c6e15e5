"""The digest: equal for equal states however they were reached, different for different ones."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_ledger.digest import SetDigest
from kowalski_ledger.state import FOLD_VERSION
from kowalski_protocol import events as e
from kowalski_protocol.ids import EventHash
from tests.units.histories import History, folded, histories

PARTS = st.lists(st.binary(min_size=32, max_size=32), max_size=20, unique=True)


def digest_of(parts: list[bytes]) -> bytes:
    digest = SetDigest()
    for part in parts:
        digest.add(part)
    return digest.hash(b"")


@given(PARTS, st.randoms())
def test_the_order_of_parts_does_not_matter(parts: list[bytes], chance: object) -> None:
    shuffled = list(parts)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert digest_of(parts) == digest_of(shuffled)


@given(PARTS, st.binary(min_size=32, max_size=32))
def test_a_part_that_was_taken_out_leaves_no_trace(parts: list[bytes], extra: bytes) -> None:
    digest = SetDigest()
    digest.add(extra)
    for part in parts:
        digest.add(part)
    digest.remove(extra)
    assert digest.hash(b"") == digest_of(parts)


@given(PARTS, PARTS)
def test_different_sets_have_different_digests(one: list[bytes], other: list[bytes]) -> None:
    assert (digest_of(one) == digest_of(other)) == (set(one) == set(other))


def test_a_part_that_counts_twice_is_not_one_that_counts_once() -> None:
    part = hashlib.sha256(b"part").digest()
    assert digest_of([part, part]) != digest_of([part])


def test_what_is_hashed_beside_the_set_tells_digests_apart() -> None:
    digest = SetDigest()
    assert digest.hash(b"one") != digest.hash(b"other")


def test_a_digest_begins_with_the_version_of_the_fold() -> None:
    history = History(1)
    version, _, rest = folded(history, history.written).digest().partition(":")
    assert int(version) == FOLD_VERSION
    assert len(bytes.fromhex(rest)) == 32


# Which facts the digest tells apart.


def cluster() -> History:
    history = History(3)
    history.admit_all()
    task = history.submit(history.founder)
    history.place(history.founder, task, history.devices[1])
    return history


def _task(history: History) -> bytes:
    return next(iter(history.tasks))


def _attempt(history: History) -> EventHash:
    return next(iter(history.attempts))


ADVERT = e.CapabilitiesAdvertised(1, "n", (), (), {}, "none", 1, 1, 1, (), {})

COUNTS = {
    "an admission": lambda h: e.MemberAdmitted(b"\x07" * 32, "x", "member"),
    "an invite": lambda h: e.InviteUsed(b"i" * 32, h.founder.author),
    "capabilities": lambda h: ADVERT,
    "a claim": lambda h: e.LeaderClaimed(1, b""),
    "weights": lambda h: e.WeightsChanged("tool", {"load": 1.0}),
    "a submission": lambda h: e.TaskSubmitted(
        h.founder.author, b"kx", b"\x94\xa1a\xa1b\xc4\x00\x00"
    ),
    "a placement": lambda h: e.TaskPlaced(_task(h), 2, h.founder.author, b"", 0.5),
    "a loss": lambda h: e.AttemptLost(_task(h), _attempt(h), "device_lost"),
    "a cancellation": lambda h: e.CancelRequested(_task(h)),
    "a move": lambda h: e.TaskOwnershipMoved(((_task(h), b""),), h.devices[1].author),
    "a settlement": lambda h: e.TaskSettled(_task(h), b"", "failed"),
}
OF_THE_DEVICE = {
    "a start": lambda h: e.TaskStarted(_task(h), _attempt(h), 5),
    "a result": lambda h: e.TaskCompleted(_task(h), _attempt(h), bytes(32), 1, 0, 1),
    "a failure": lambda h: e.TaskFailed(_task(h), _attempt(h), bytes(32), 1, 0, 1, "tool_failed"),
    "a declination": lambda h: e.TaskDeclined(_task(h), _attempt(h), "fenced"),
}
NOT = {
    "a settlement by another": lambda h: e.TaskSettled(_task(h), b"", "failed"),
    "a result of another's attempt": lambda h: e.TaskCompleted(
        _task(h), _attempt(h), bytes(32), 1, 0, 1
    ),
    "news of an attempt that nobody placed": lambda h: e.TaskStarted(_task(h), bytes(32), 5),
    "an admission by a plain member": lambda h: e.MemberAdmitted(b"\x07" * 32, "x", "member"),
    "a claim out of turn": lambda h: e.LeaderClaimed(7, b""),
}


@pytest.mark.parametrize("fact", COUNTS.values(), ids=list(COUNTS))
def test_what_the_founder_says_changes_the_digest(fact: object) -> None:
    history = cluster()
    before = folded(history, history.written).digest()
    history.write(history.founder, fact(history))  # type: ignore[operator]
    assert folded(history, history.written).digest() != before


@pytest.mark.parametrize("fact", OF_THE_DEVICE.values(), ids=list(OF_THE_DEVICE))
def test_what_the_device_says_changes_the_digest(fact: object) -> None:
    history = cluster()
    before = folded(history, history.written).digest()
    history.write(history.devices[1], fact(history))  # type: ignore[operator]
    assert folded(history, history.written).digest() != before


@pytest.mark.parametrize("fact", NOT.values(), ids=list(NOT))
def test_what_does_not_count_does_not_change_the_digest(fact: object) -> None:
    history = cluster()
    before = folded(history, history.written).digest()
    history.write(history.devices[2], fact(history))  # type: ignore[operator]
    assert folded(history, history.written).digest() == before


@given(histories(steps_max=40))
def test_a_digest_is_the_same_when_it_is_asked_for_again(history: History) -> None:
    state = folded(history, history.written)
    assert state.digest() == state.digest()


def test_a_task_that_is_looked_at_again_and_has_not_changed_keeps_its_part() -> None:
    history = cluster()
    state = folded(history, history.written)
    before = state.digest()
    for task in state.tasks.values():
        state.touch(task)
    assert state.digest() == before
