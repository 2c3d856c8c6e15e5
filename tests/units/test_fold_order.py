"""Same events, same state: whatever their order, duplicates and framing (promise 3).

Every example is a whole history of a small cluster (`histories`), delivered in several ways. What
is compared is all of the state that anything may act on, not the digest alone.
"""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from kowalski_ledger.fold import fold
from kowalski_ledger.state import State
from tests.units.histories import History, cut, folded, histories, interleave, shown

SEEDS = st.integers(0, 2**32)


@settings(max_examples=1500, deadline=None)
@given(histories(), SEEDS)
def test_any_order_and_any_duplication_give_one_state(history: History, seed: int) -> None:
    expected = shown(folded(history, history.written))
    for way in range(4):
        state = folded(history, interleave(history.feeds, seed + way))
        assert shown(state) == expected


@settings(max_examples=150, deadline=None)
@given(histories(), SEEDS)
def test_any_cut_into_frames_gives_one_state(history: History, seed: int) -> None:
    expected = shown(folded(history, history.written))
    feeds = [cut(history, feed, seed + number) for number, feed in enumerate(history.feeds)]
    assert shown(folded(history, interleave(feeds, seed))) == expected


@settings(max_examples=150, deadline=None)
@given(histories(), SEEDS)
def test_two_nodes_that_hold_the_same_part_show_the_same(history: History, seed: int) -> None:
    chance = random.Random(seed)
    parts = [feed[: chance.randint(0, len(feed))] for feed in history.feeds]
    one = folded(history, interleave(parts, seed))
    other = folded(history, interleave(parts, seed + 1))
    assert shown(one) == shown(other)


@settings(max_examples=150, deadline=None)
@given(histories(), SEEDS)
def test_a_digest_that_is_kept_up_to_date_is_the_digest_of_the_whole(
    history: History, seed: int
) -> None:
    watched = State(history.cluster)
    for event in interleave(history.feeds, seed):
        fold(watched, event)
        watched.digest()
    assert watched.digest() == folded(history, history.written).digest()


@settings(max_examples=150, deadline=None)
@given(histories(), SEEDS)
def test_members_admitted_last_of_all_change_nothing(history: History, seed: int) -> None:
    # The founder's feed, with all of its admissions, comes when everything else is there.
    founder = history.founder.author
    others = [feed for feed in history.feeds if feed[0].author != founder]
    own = [feed for feed in history.feeds if feed[0].author == founder]
    state = State(history.cluster)
    for event in (*interleave(others, seed), *interleave(own, seed)):
        fold(state, event)
    assert shown(state) == shown(folded(history, history.written))
