"""The hybrid logical clock.

It rises, it follows within bounds, and no other clock drags it along.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_protocol.clock import COUNTER_BITS, WALL_MAX_MS, HybridClock, unix_s, wall_ms

NOW_MS = 1_790_000_000_000
AHEAD_MS = 30_000


def ms(year: int) -> int:
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000)


def clock(last: int = 0) -> HybridClock:
    return HybridClock(max_ahead_ms=AHEAD_MS, last=last)


WALLS = st.integers(-(10**15), 10**15)
READINGS = st.integers(0, (1 << 64) - 1)


@given(st.lists(st.tuples(WALLS, st.none() | READINGS), min_size=2, max_size=60))
def test_readings_rise_strictly_whatever_is_seen_and_heard(
    steps: list[tuple[int, int | None]],
) -> None:
    own = clock()
    last = 0
    for now_ms, heard in steps:
        if heard is not None:
            own.observe(heard, now_ms)
        reading = own.tick(now_ms)
        assert reading > last
        last = reading


@given(WALLS.filter(lambda w: w >= 0), READINGS)
def test_a_reading_that_is_too_far_ahead_is_never_taken_over(now_ms: int, heard: int) -> None:
    own = clock()
    followed = own.observe(heard, now_ms)
    assert followed == (wall_ms(heard) <= now_ms + AHEAD_MS)
    assert wall_ms(own.tick(now_ms)) <= now_ms + AHEAD_MS + 1


def test_the_bound_of_following_is_exact() -> None:
    own = clock()
    assert own.observe((NOW_MS + AHEAD_MS) << COUNTER_BITS | 0xFFFF, NOW_MS)
    assert not own.observe((NOW_MS + AHEAD_MS + 1) << COUNTER_BITS, NOW_MS)
    assert wall_ms(own.last) == NOW_MS + AHEAD_MS


def test_what_is_older_than_the_own_reading_changes_nothing() -> None:
    own = clock()
    reading = own.tick(NOW_MS)
    assert own.observe(reading - 5, NOW_MS)
    assert own.last == reading


def test_in_one_millisecond_the_counter_rises() -> None:
    own = clock()
    readings = [own.tick(NOW_MS) for _ in range(3)]
    assert readings == [(NOW_MS << COUNTER_BITS) + n for n in range(3)]


def test_more_events_than_the_counter_holds_run_into_the_next_millisecond() -> None:
    own = clock()
    readings = [own.tick(NOW_MS) for _ in range((1 << COUNTER_BITS) + 1)]
    assert wall_ms(readings[-1]) == NOW_MS + 1
    assert wall_ms(own.tick(NOW_MS + 2)) == NOW_MS + 2


def test_a_wall_clock_that_is_set_back_is_waited_for() -> None:
    own = clock()
    before = own.tick(NOW_MS)
    back = own.tick(NOW_MS - 3_600_000)
    assert back == before + 1
    assert wall_ms(own.tick(NOW_MS + 1)) == NOW_MS + 1


@pytest.mark.parametrize("year", [1960, 1970, 2038, 2100])
def test_a_clock_in_another_time_still_rises(year: int) -> None:
    own = clock()
    readings = [own.tick(ms(year)) for _ in range(5)]
    assert readings == sorted(set(readings))
    assert wall_ms(readings[0]) == max(0, ms(year))


def test_a_member_in_2100_never_drags_this_clock_along() -> None:
    own = clock()
    assert not own.observe(ms(2100) << COUNTER_BITS, NOW_MS)
    assert wall_ms(own.tick(NOW_MS)) == NOW_MS


def test_a_member_whose_clock_runs_away_slowly_is_followed_up_to_the_bound_and_no_further() -> None:
    own = clock()
    for step in range(10_000):
        now_ms = NOW_MS + step * 10
        own.observe((now_ms + step * 50) << COUNTER_BITS, now_ms)
        assert wall_ms(own.tick(now_ms)) <= now_ms + AHEAD_MS


def test_a_node_in_1970_hears_everybody_and_follows_nobody() -> None:
    own = clock()
    assert not own.observe(NOW_MS << COUNTER_BITS, 1000)
    assert wall_ms(own.tick(1000)) == 1000


def test_a_clock_goes_on_after_the_newest_own_event() -> None:
    own = clock(last=NOW_MS << COUNTER_BITS | 7)
    assert own.tick(0) == (NOW_MS << COUNTER_BITS | 7) + 1


def test_a_wall_clock_beyond_what_a_reading_holds_is_cut() -> None:
    assert wall_ms(clock().tick(1 << 60)) == WALL_MAX_MS


def test_readings_are_shown_in_seconds() -> None:
    assert unix_s((NOW_MS + 500) << COUNTER_BITS | 9) == NOW_MS / 1000 + 0.5
