"""The fold is total, and no member can make it slow: what a feed can carry at its worst.

Cost is counted in calls and not in seconds, so that these tests mean the same on every machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kowalski_ledger import state as state_module
from kowalski_ledger.state import State, Task
from kowalski_protocol import events as e
from kowalski_protocol.codec import encode
from kowalski_protocol.feeds import Event, event_hash, genesis
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.topics import FEED_TOPICS, RESULT, TASK
from tests.units.histories import History, Writer, folded, interleave, shown

CHAIN = 3000


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], list[int]]:
    """Counts the calls of a function from now on."""

    def count(where: Any, name: str) -> list[int]:
        counted = [0]
        original = getattr(where, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            counted[0] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(where, name, counting)
        return counted

    return count


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from((*e.KINDS, "Unknown", "\x00")),
            st.sampled_from(FEED_TOPICS),
            st.binary(max_size=200),
        ),
        max_size=20,
    )
)
def test_random_bodies_of_any_kind_never_raise(rows: list[tuple[str, str, bytes]]) -> None:
    history = History(2)
    history.admit_all("admin")
    for kind, topic, body in rows:
        for device in history.devices:
            history.raw(device, topic, kind, body)
    state = folded(history, history.written)
    assert sum(state.folded.values()) == len(history.written)


def _values() -> st.SearchStrategy[Any]:
    sizes = st.sampled_from((0, 16, 32, 33))
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 63), (1 << 64) - 1),
        st.floats(),
        st.text(max_size=5),
        sizes.map(bytes),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=8), st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=12,
    )


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(tuple(e.KINDS)), st.lists(_values(), max_size=14))
def test_well_formed_bodies_of_any_content_never_raise(kind: str, values: list[Any]) -> None:
    history = History(2)
    history.admit_all()
    body = encode(values)
    for device in history.devices:
        for topic in FEED_TOPICS:
            history.raw(device, topic, kind, body)
    expected = shown(folded(history, history.written))
    assert shown(folded(history, interleave(history.feeds, 3))) == expected


def test_a_chain_of_claims_that_comes_backwards_is_followed_to_its_end() -> None:
    # b claims again and again, each time after itself; a's first claim, before all, comes last.
    history = History(2)
    history.admit_all()
    a, b = history.devices
    first = history.write(a, e.LeaderClaimed(1, b""))
    previous = first.hash
    for epoch in range(2, CHAIN):
        previous = history.write(b, e.LeaderClaimed(epoch, previous)).hash
    backwards = [*b.feeds[TASK], *a.feeds[TASK]]
    leader = folded(history, backwards).leader
    assert leader is not None
    assert (leader.hash, leader.epoch) == (previous, CHAIN - 1)


def test_ownership_that_went_through_many_hands_backwards_is_followed_to_its_end() -> None:
    history = History(600)
    history.admit_all()
    task = history.submit(history.founder)
    tenure = b""
    for owner, to in zip(history.devices, history.devices[1:], strict=False):
        tenure = history.move(owner, to, (task, tenure))
    feeds = [device.feeds[TASK] for device in reversed(history.devices)]
    state = folded(history, [event for feed in feeds for event in feed])
    assert state.tasks[task].owner == history.devices[-1].author
    assert len(state.tasks[task].moves) == 599


def test_a_flood_of_claims_costs_the_same_for_each(
    calls: Callable[[Any, str], list[int]],
) -> None:
    history = History(1)
    previous = b""
    for epoch in range(1, CHAIN):
        previous = history.write(history.founder, e.LeaderClaimed(epoch, previous)).hash
    ranked = calls(State, "_rank")
    folded(history, history.written)
    assert ranked[0] <= 3 * CHAIN


def test_admissions_by_a_plain_member_never_make_the_members_be_computed(
    calls: Callable[[Any, str], list[int]],
) -> None:
    history = History(2)
    history.admit_all("member")
    for number in range(CHAIN):
        key = number.to_bytes(32, "big")[:31] + b"\x07"
        history.write(history.devices[1], e.MemberAdmitted(key, "sybil", "admin"))
    resolved = calls(state_module, "resolve")
    state = folded(history, history.written)
    assert len(state.members) == 2
    assert resolved[0] <= 2


def test_news_of_attempts_that_never_come_is_not_read_again_and_again(
    calls: Callable[[Any, str], list[int]],
) -> None:
    history = History(2)
    history.admit_all()
    a, b = history.devices
    task = history.submit(a)
    for number in range(CHAIN):
        history.write(b, e.AttemptLost(task, number.to_bytes(32, "big"), ""))
        history.settle(b, task, number.to_bytes(32, "little"))
    for _ in range(300):
        history.place(a, task, b)
    looked = calls(Task, "attempt")
    folded(history, history.written)
    assert looked[0] <= 2 * CHAIN


def deeper(levels: int, call: Callable[[], Any]) -> Any:
    """The outcome of a call that is made from further down the stack."""
    return call() if levels == 0 else deeper(levels - 1, call)


NESTINGS = (LIMITS.nesting_max - 2, LIMITS.nesting_max + 1, 200, 500, 900, 5000)


@pytest.mark.parametrize("levels", NESTINGS)
def test_what_nests_deep_reads_the_same_from_any_depth_of_the_stack(levels: int) -> None:
    history = History(1)
    deep = b"\x91" * levels + b"\x01"
    task = history.submit(history.founder)
    history.raw(history.founder, TASK, "CancelRequested", b"\x92\xc4\x10" + task + deep)
    spec = b"\x95\xa4tool\xa4echo\xc4\x00\x00\x81\xa1x" + deep
    history.write(history.founder, e.TaskSubmitted(history.founder.author, b"kdeep", spec))
    admission = encode(e.MemberAdmitted(b"\x07" * 32, "n", "member"))
    history.raw(history.founder, TASK, "MemberAdmitted", b"\x94" + admission[1:] + deep)
    room = sys.getrecursionlimit() - 300
    shallow = shown(folded(history, history.written))
    from_below = deeper(room, lambda: shown(folded(history, history.written)))
    assert shallow == from_below


def test_times_at_the_edges_are_folded_like_any_other() -> None:
    history = History(2)
    history.admit_all()
    device = history.devices[1]
    times = (1, 2, 1 << 48, (1 << 64) - 2, (1 << 64) - 1)
    prev, events = genesis(history.cluster, device.author, TASK), list[Event]()
    for seq, hlc in enumerate(times, 1):
        body = encode(e.WeightsChanged("tool", {"load": float(seq)}))
        hash = event_hash(prev, seq, hlc, "WeightsChanged", body)
        events.append(Event(device.author, TASK, seq, hlc, "WeightsChanged", body, hash))
        prev = hash
    state = folded(history, [*history.written, *events])
    assert state.weights_choices[("tool", device.author)].hlc == (1 << 64) - 1


def test_strangers_cost_a_place_in_a_list_and_nothing_else() -> None:
    history = History(1)
    stranger = Writer("nobody knows me")
    stranger.cluster = history.cluster
    events = [stranger.write(e.CancelRequested(bytes(16))) for _ in range(50)]
    events += [stranger.raw(RESULT, "TaskCompleted", b"") for _ in range(50)]
    state = folded(history, [*history.written, *events])
    assert state.tasks == {}
    assert len(state.waiting[stranger.author]) == 100
    assert shown(state) == shown(folded(history, history.written))
