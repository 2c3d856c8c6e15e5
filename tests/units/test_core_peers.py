"""Whether a member is alive: mutual hearing, silence, closed connections and starvation."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_node.core.peers import PREFIX_BYTES
from kowalski_protocol.limits import LAN
from tests.units.pairs import (
    ATTIC,
    DESK,
    GOSSIP_WINDOW_S,
    GRACE_S,
    LAPTOP,
    MEMBERS,
    WINDOW_S,
    Pair,
    Side,
)


@pytest.fixture
def pair() -> Pair:
    return Pair()


# Mutual.


def test_a_node_is_alive_to_itself() -> None:
    desk = Side(DESK)
    assert desk.sees(DESK, 1e9)
    assert desk.peers.refresh([], 1e9) == (set(), set())
    assert desk.peers.alive == desk.peers.present == desk.peers.writers == {DESK}


def test_who_was_never_heard_is_not_alive() -> None:
    desk = Side(DESK)
    assert not desk.sees(LAPTOP, 0.0)
    desk.peers.connected(LAPTOP, "memory")
    assert not desk.sees(LAPTOP, 0.0)


def test_who_is_heard_and_does_not_hear_is_not_alive() -> None:
    desk, laptop = Side(DESK), Side(LAPTOP)
    desk.peers.connected(LAPTOP, "memory")
    desk.says(0.0)
    assert desk.hears(laptop, laptop.says(0.1), 0.1)
    assert not desk.sees(LAPTOP, 0.1)


def test_who_is_heard_and_echoes_is_alive(pair: Pair) -> None:
    assert pair.desk.sees(LAPTOP, 100.0)
    assert pair.desk.peers.alive == {DESK, LAPTOP}


def test_who_is_heard_and_stops_echoing_is_alive_no_longer(pair: Pair) -> None:
    last_s = 100.0 + 2 * WINDOW_S
    now_s = 100.0
    while now_s < last_s - LAN.heartbeat_s:
        now_s += LAN.heartbeat_s
        pair.desk.says(now_s)  # Nobody hears it.
        pair.desk.hears(pair.laptop, pair.laptop.says(now_s), now_s)
        assert pair.desk.sees(LAPTOP, now_s)
    pair.desk.hears(pair.laptop, pair.laptop.says(last_s - 0.1), last_s - 0.1)
    pair.is_seen_until(last_s)


@pytest.mark.parametrize(
    "echo",
    [
        (LAPTOP[:PREFIX_BYTES], 1, 1, 0),  # Of somebody else.
        (DESK[:PREFIX_BYTES], 2, 1, 0),  # Of another run of desk.
        (DESK[:PREFIX_BYTES], 1, 99, 0),  # Of what was never sent.
        (DESK[:PREFIX_BYTES], 1, 0, 0),
        (DESK[:PREFIX_BYTES], 1, -5, 0),
        (DESK[:PREFIX_BYTES], 1, 1 << 62, 0),
        (DESK, 1, 1, 0),
    ],
)
def test_an_echo_that_can_not_be_of_this_node_proves_nothing(
    echo: tuple[bytes, int, int, int],
) -> None:
    desk, laptop = Side(DESK), Side(LAPTOP)
    desk.peers.connected(LAPTOP, "memory")
    desk.says(0.0)
    desk.hears(laptop, laptop.says(0.1, echoes=(echo,)), 0.1)
    assert not desk.sees(LAPTOP, 0.1)
    assert desk.peers.peer(LAPTOP).round_trip_s is None


def test_an_old_echo_that_comes_late_takes_nothing_back(pair: Pair) -> None:
    echo = (DESK[:PREFIX_BYTES], 1, 1, 0)
    pair.told(100.1, echoes=(echo,))
    assert pair.desk.peers.peer(LAPTOP).echoed_at_s == 100.0


def test_what_was_sent_too_long_ago_to_be_remembered_is_no_echo(pair: Pair) -> None:
    for _ in range(300):
        pair.desk.says(100.1)
    pair.told(100.2, echoes=((DESK[:PREFIX_BYTES], 1, 2, 0),))
    assert pair.desk.peers.peer(LAPTOP).echoed_at_s == 100.0
    pair.told(100.3, echoes=((DESK[:PREFIX_BYTES], 1, 302 - 255, 0),))
    assert pair.desk.peers.peer(LAPTOP).echoed_at_s == 100.1


# Silence and closed connections.


def test_a_connected_member_is_suspected_after_its_silence(pair: Pair) -> None:
    pair.is_seen_until(100.0 + WINDOW_S)


def test_one_lost_heartbeat_does_nothing(pair: Pair) -> None:
    for step in range(1, 20):
        now_s = 100.0 + 2 * step * LAN.heartbeat_s
        assert pair.desk.sees(LAPTOP, now_s)
        pair.exchange(now_s)


def test_a_closed_connection_has_a_grace_to_come_back(pair: Pair) -> None:
    pair.desk.peers.disconnected(LAPTOP, 100.2)
    assert pair.desk.sees(LAPTOP, 100.2)
    pair.is_seen_until(100.2 + GRACE_S)


def test_a_connection_that_comes_back_within_its_grace_changes_nothing(pair: Pair) -> None:
    pair.desk.peers.disconnected(LAPTOP, 100.2)
    pair.desk.peers.connected(LAPTOP, "memory")
    pair.is_seen_until(100.0 + WINDOW_S)


def test_a_member_that_is_heard_by_gossip_alone_has_a_longer_window() -> None:
    pair = Pair(connected=False)
    assert GOSSIP_WINDOW_S > WINDOW_S
    pair.is_seen_until(100.0 + GOSSIP_WINDOW_S)


def test_a_member_that_is_heard_by_gossip_after_its_connection_closed_is_alive(pair: Pair) -> None:
    pair.desk.peers.disconnected(LAPTOP, 100.2)
    pair.exchange(100.6)
    pair.is_seen_until(100.6 + GOSSIP_WINDOW_S)


def test_who_was_silent_for_too_long_does_not_come_back_by_closing_its_connection(
    pair: Pair,
) -> None:
    gone_s = 100.0 + 3 * WINDOW_S
    assert not pair.desk.sees(LAPTOP, gone_s)
    pair.desk.peers.disconnected(LAPTOP, gone_s)
    assert not pair.desk.sees(LAPTOP, gone_s)
    assert pair.desk.peers.refresh(MEMBERS, gone_s) == (set(), {LAPTOP})


def test_who_never_heard_this_node_is_not_alive_while_its_connection_closes() -> None:
    desk, laptop = Side(DESK), Side(LAPTOP)
    desk.peers.connected(LAPTOP, "memory")
    desk.hears(laptop, laptop.says(0.1), 0.1)
    desk.peers.disconnected(LAPTOP, 0.2)
    assert not desk.sees(LAPTOP, 0.2)


def test_with_many_members_silence_may_last_longer_in_proportion(pair: Pair) -> None:
    pair.desk.peers.scale = 4.0
    pair.is_seen_until(100.0 + 4 * WINDOW_S)
    pair = Pair(connected=False)
    pair.desk.peers.scale = 4.0
    pair.is_seen_until(100.0 + 4 * GOSSIP_WINDOW_S)


# Connections.


def test_a_connection_is_known_by_its_address_and_ends_the_dialling() -> None:
    peers = Side(DESK).peers
    peer = peers.peer(LAPTOP)
    peer.dialling, peer.dial_wait_s = True, 4.0
    peers.connected(LAPTOP, "memory")
    assert (peer.connected, peer.address) == (True, "memory")
    assert (peer.dialling, peer.dial_wait_s) == (False, 0.0)
    peers.disconnected(LAPTOP, 7.0)
    assert (peer.connected, peer.address, peer.dial_at_s) == (False, None, 7.0)


# Who is on the way.


def test_nobody_is_arriving_where_nobody_is_dialled_or_connected() -> None:
    desk = Side(DESK)
    assert not desk.peers.is_anybody_arriving
    desk.peers.peer(LAPTOP).addresses = ("/ip4/10.0.0.1/tcp/1",)
    assert not desk.peers.is_anybody_arriving


def test_who_is_dialled_is_arriving_until_the_dial_ends() -> None:
    desk = Side(DESK)
    desk.peers.peer(ATTIC)
    desk.peers.peer(LAPTOP).dialling = True
    assert desk.peers.is_anybody_arriving
    desk.peers.peer(LAPTOP).dialling = False
    assert not desk.peers.is_anybody_arriving


def test_who_is_connected_is_arriving_until_it_was_heard_both_ways() -> None:
    desk, laptop = Side(DESK), Side(LAPTOP)
    desk.peers.connected(LAPTOP, "memory")
    assert desk.peers.is_anybody_arriving
    desk.hears(laptop, laptop.says(0.1), 0.1)
    assert desk.peers.is_anybody_arriving, "it does not hear this node yet"
    laptop.hears(desk, desk.says(0.2), 0.2)
    desk.hears(laptop, laptop.says(0.3), 0.3)
    assert not desk.peers.is_anybody_arriving
    desk.peers.connected(ATTIC, "memory")
    assert desk.peers.is_anybody_arriving, "one of two"


def test_a_connection_that_closes_before_a_word_is_nobody_on_the_way() -> None:
    desk = Side(DESK)
    desk.peers.connected(LAPTOP, "memory")
    desk.peers.disconnected(LAPTOP, 0.1)
    assert not desk.peers.is_anybody_arriving


def test_who_was_heard_both_ways_once_is_not_waited_for_when_it_is_dialled_again(
    pair: Pair,
) -> None:
    pair.desk.peers.disconnected(LAPTOP, 200.0)
    pair.desk.peers.peer(LAPTOP).dialling = True
    assert not pair.desk.peers.is_anybody_arriving


# Starvation.


def test_who_was_starved_counts_the_lost_time_as_nobodys_silence(pair: Pair) -> None:
    pair.desk.peers.forgive(5.0, 105.5)
    pair.is_seen_until(105.0 + WINDOW_S)


def test_nobody_is_forgiven_beyond_now(pair: Pair) -> None:
    pair.desk.peers.forgive(2 * 28_800.0, 28_900.0)
    pair.is_seen_until(28_900.0 + WINDOW_S)


def test_nobody_is_forgiven_twice_until_heard_again(pair: Pair) -> None:
    pair.desk.peers.forgive(0.5, 100.5)
    pair.desk.peers.forgive(0.5, 101.0)
    assert not pair.desk.sees(LAPTOP, 101.6)
    pair.exchange(101.7)
    pair.desk.peers.forgive(0.5, 102.2)
    pair.is_seen_until(102.2 + WINDOW_S)


def test_who_is_starved_all_the_time_still_notices_who_is_gone(pair: Pair) -> None:
    now_s = 100.0
    while now_s < 105.0:
        now_s += 0.35
        pair.desk.says(now_s)
        pair.desk.peers.forgive(2 * 0.3, now_s)
    assert not pair.desk.sees(LAPTOP, now_s)


def test_a_closed_connection_is_forgiven_as_silence_is(pair: Pair) -> None:
    pair.desk.peers.disconnected(LAPTOP, 100.1)
    pair.desk.peers.forgive(2.0, 102.0)
    pair.is_seen_until(102.0 + GRACE_S)


def test_a_closed_connection_is_forgiven_no_more_than_was_lost(pair: Pair) -> None:
    pair.desk.peers.disconnected(LAPTOP, 100.1)
    pair.desk.peers.forgive(0.3, 102.0)
    pair.is_seen_until(100.4 + GRACE_S)


def test_forgiveness_does_not_make_an_old_closed_connection_a_fresh_one(pair: Pair) -> None:
    pair.desk.peers.disconnected(LAPTOP, 100.1)
    pair.exchange(100.6)  # By gossip.
    pair.desk.peers.forgive(4.0, 102.6)
    pair.is_seen_until(102.6 + GOSSIP_WINDOW_S)


def test_who_was_never_heard_is_not_forgiven() -> None:
    desk = Side(DESK)
    desk.peers.connected(LAPTOP, "memory")
    desk.peers.forgive(5.0, 5.0)
    assert desk.peers.peer(LAPTOP).heard_at_s is None
    assert not desk.sees(LAPTOP, 5.0)


def test_who_was_heard_and_never_echoed_is_not_made_alive_by_forgiveness() -> None:
    desk, laptop = Side(DESK), Side(LAPTOP)
    desk.peers.connected(LAPTOP, "memory")
    desk.hears(laptop, laptop.says(0.0), 0.0)
    desk.peers.forgive(5.0, 5.0)
    assert not desk.sees(LAPTOP, 5.0)


seconds = st.floats(0, 5)


@given(seconds, seconds, st.booleans(), seconds, seconds, seconds)
def test_forgiveness_makes_nobody_seem_gone(
    closed_s: float, heard_s: float, closes: bool, starved_s: float, lost_s: float, later_s: float
) -> None:
    def seen(forgiven: bool) -> bool:
        pair = Pair()
        if closes and closed_s < heard_s:
            pair.desk.peers.disconnected(LAPTOP, 100.0 + closed_s)
        pair.exchange(100.0 + heard_s)
        if closes and closed_s >= heard_s:
            pair.desk.peers.disconnected(LAPTOP, 100.0 + closed_s)
        now_s = 100.0 + max(closed_s, heard_s) + starved_s
        if forgiven:
            pair.desk.peers.forgive(lost_s, now_s)
        return pair.desk.sees(LAPTOP, now_s + later_s)

    assert seen(True) >= seen(False)


# Coming and going.


def test_who_comes_and_goes_is_told_once(pair: Pair) -> None:
    peers = pair.desk.peers
    version = peers.alive_version
    assert peers.refresh(MEMBERS, 100.1) == (set(), set())
    assert peers.alive_version == version
    assert peers.refresh(MEMBERS, 200.0) == (set(), {LAPTOP})
    assert peers.refresh(MEMBERS, 200.0) == (set(), set())
    assert peers.alive_version == version + 1
    pair.exchange(200.1)
    assert peers.refresh(MEMBERS, 200.1) == ({LAPTOP}, set())
    assert peers.alive_version == version + 2


def test_who_is_no_member_is_not_alive_however_loud(pair: Pair) -> None:
    assert pair.desk.peers.refresh([DESK, ATTIC], 100.0) == (set(), {LAPTOP})


def test_a_stopping_member_is_present_and_not_alive(pair: Pair) -> None:
    version = pair.desk.peers.alive_version
    pair.desk.hears(pair.laptop, pair.laptop.says(100.1, stopping=True), 100.1)
    assert pair.desk.peers.refresh(MEMBERS, 100.1) == (set(), {LAPTOP})
    assert pair.desk.peers.present == {DESK, LAPTOP}
    assert pair.desk.peers.alive == pair.desk.peers.writers == {DESK}
    assert pair.desk.peers.alive_version == version + 1


@pytest.mark.parametrize("closes", [True, False])
def test_a_stopping_member_that_is_gone_is_not_present_either(pair: Pair, closes: bool) -> None:
    pair.told(100.1, stopping=True)
    if closes:
        pair.desk.peers.disconnected(LAPTOP, 100.2)
    gone_s = 100.2 + GRACE_S if closes else 100.1 + WINDOW_S
    pair.desk.peers.refresh(MEMBERS, gone_s - 0.001)
    assert pair.desk.peers.present == {DESK, LAPTOP}
    pair.desk.peers.refresh(MEMBERS, gone_s + 0.001)
    assert pair.desk.peers.present == {DESK}


def test_a_member_that_can_not_write_is_alive_and_no_writer(pair: Pair) -> None:
    version = pair.desk.peers.alive_version
    pair.told(100.1, writes=False)
    assert pair.desk.peers.alive == {DESK, LAPTOP}
    assert pair.desk.peers.writers == {DESK}
    pair.told(100.2)
    assert pair.desk.peers.writers == {DESK, LAPTOP}
    assert pair.desk.peers.alive_version == version + 2


# When to look again.


def test_alone_there_is_nothing_to_look_for() -> None:
    desk = Side(DESK)
    assert desk.peers.may_have_changed(0.0), "nobody has looked yet"
    desk.peers.refresh([DESK], 0.0)
    assert not desk.peers.may_have_changed(1e9)


def test_who_is_present_is_looked_at_again_when_it_may_have_gone(pair: Pair) -> None:
    assert not pair.desk.peers.may_have_changed(100.0 + WINDOW_S - 0.001)
    assert pair.desk.peers.may_have_changed(100.0 + WINDOW_S)
    pair.exchange(100.5)
    pair.desk.peers.refresh(MEMBERS, 100.0 + WINDOW_S)
    assert not pair.desk.peers.may_have_changed(100.5 + WINDOW_S - 0.001)
    assert pair.desk.peers.may_have_changed(100.5 + WINDOW_S)


def test_of_several_the_first_that_may_go_is_looked_at(pair: Pair) -> None:
    attic = Side(ATTIC)
    pair.desk.peers.connected(ATTIC, "memory")
    attic.hears(pair.desk, pair.desk.says(100.4), 100.4)
    pair.desk.hears(attic, attic.says(100.4), 100.4)
    pair.desk.peers.refresh([DESK, LAPTOP, ATTIC], 100.4)
    assert pair.desk.peers.may_have_changed(100.0 + WINDOW_S)
    pair.desk.peers.refresh([DESK, LAPTOP, ATTIC], 100.0 + WINDOW_S)
    assert pair.desk.peers.alive == {DESK, ATTIC}
    assert not pair.desk.peers.may_have_changed(100.4 + WINDOW_S - 0.001)


def test_a_heartbeat_like_the_one_before_is_no_reason_to_look(pair: Pair) -> None:
    pair.exchange(100.1)
    assert not pair.desk.peers.may_have_changed(100.1)


@pytest.mark.parametrize("change", ["stopping", "writes"])
def test_a_heartbeat_that_says_something_new_is_looked_at(pair: Pair, change: str) -> None:
    said = pair.laptop.says(100.1, **{change: change == "stopping"})
    pair.desk.hears(pair.laptop, said, 100.1)
    assert pair.desk.peers.may_have_changed(100.1)


def test_the_first_heartbeat_of_a_member_is_looked_at() -> None:
    desk, laptop = Side(DESK), Side(LAPTOP)
    desk.peers.refresh(MEMBERS, 0.0)
    desk.peers.connected(LAPTOP, "memory")
    desk.hears(laptop, laptop.says(0.1), 0.1)
    assert desk.peers.may_have_changed(0.1)


def test_a_member_that_is_heard_again_after_it_was_gone_is_looked_at(pair: Pair) -> None:
    pair.desk.peers.refresh(MEMBERS, 200.0)
    assert not pair.desk.peers.may_have_changed(200.1)
    pair.exchange(200.2)
    assert pair.desk.peers.may_have_changed(200.2)
    assert pair.desk.peers.refresh(MEMBERS, 200.2) == ({LAPTOP}, set())


def test_a_closed_connection_and_a_starved_node_are_looked_at(pair: Pair) -> None:
    pair.desk.peers.disconnected(LAPTOP, 100.1)
    assert pair.desk.peers.may_have_changed(100.1)
    pair = Pair()
    pair.desk.peers.forgive(0.1, 100.1)
    assert pair.desk.peers.may_have_changed(100.1)


def test_a_connection_shortens_the_silence_that_is_waited_for() -> None:
    pair = Pair(connected=False)
    pair.desk.peers.connected(LAPTOP, "memory")
    pair.desk.peers.refresh(MEMBERS, 100.1)
    assert not pair.desk.peers.may_have_changed(100.0 + WINDOW_S - 0.001)
    assert pair.desk.peers.may_have_changed(100.0 + WINDOW_S)
    pair = Pair(connected=False)
    assert not pair.desk.peers.may_have_changed(100.1)
    pair.desk.peers.connected(LAPTOP, "memory")
    assert pair.desk.peers.may_have_changed(100.1)


events = st.sampled_from(
    ["passes", "talks", "tells", "stops", "is_full", "closes", "opens", "is_forgiven"]
)


@given(st.booleans(), st.lists(st.tuples(events, st.floats(0, 3)), max_size=14))
def test_where_nothing_may_have_changed_a_look_finds_nothing_new(
    connected: bool, story: list[tuple[str, float]]
) -> None:
    pair, now_s = Pair(connected=connected), 100.0
    peers = pair.desk.peers
    for what, after_s in story:
        now_s += after_s
        if peers.may_have_changed(now_s):
            peers.refresh(MEMBERS, now_s)
        is_open = peers.peer(LAPTOP).connected
        if what == "talks":
            pair.exchange(now_s)
        elif what in ("tells", "stops", "is_full"):
            changes = {"tells": {}, "stops": {"stopping": True}, "is_full": {"writes": False}}
            pair.desk.hears(pair.laptop, pair.laptop.says(now_s, **changes[what]), now_s)
        elif what == "closes" and is_open:
            peers.disconnected(LAPTOP, now_s)
        elif what == "opens" and not is_open:
            peers.connected(LAPTOP, "memory")
        elif what == "is_forgiven":
            peers.forgive(after_s, now_s)
        if not peers.may_have_changed(now_s):
            looked = copy.deepcopy(peers)
            looked.refresh(MEMBERS, now_s)
            seen = (peers.alive, peers.present, peers.writers)
            assert (looked.alive, looked.present, looked.writers) == seen
