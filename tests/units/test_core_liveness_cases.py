"""Whether a member is alive: mutual hearing, silence, closed connections, starvation and restarts.

Two records of each other, `desk` and `laptop`, exchange heartbeats by hand; the clock is a number.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_node.core.heartbeats import PEERS_PER_HEARTBEAT
from kowalski_node.core.peers import PREFIX_BYTES, Peers
from kowalski_protocol.ids import Author
from kowalski_protocol.limits import LAN
from kowalski_protocol.telemetry import Heartbeat
from tests.stories.world import World

DESK, LAPTOP, ATTIC = (Author(letter * 32) for letter in (b"d", b"l", b"a"))
WINDOW_S = LAN.suspect_s
GOSSIP_WINDOW_S = 3 * LAN.gossip_heartbeat_s
GRACE_S = LAN.disconnect_grace_s
WALL_MS = 1_790_000_000_000
QUIET = Heartbeat(1, 1, WALL_MS, (), 0, 0, b"", b"", 0, 0, False)
MEMBERS = (DESK, LAPTOP)


class Side:
    """One node's record, and what it would say."""

    def __init__(self, author: Author, boot: int = 1) -> None:
        self.author = author
        self.peers = Peers(author, boot, LAN)

    def says(self, now_s: float, **changes: Any) -> Heartbeat:
        said = msgspec.structs.replace(
            QUIET,
            boot=self.peers.boot,
            counter=self.peers.next_counter(now_s),
            echoes=self.peers.echoes(now_s),
        )
        return msgspec.structs.replace(said, **changes)

    def hears(self, other: Side, said: Heartbeat, now_s: float, now_ms: int = WALL_MS) -> bool:
        return self.peers.heard(other.author, said, now_s, now_ms)

    def sees(self, author: Author, now_s: float) -> bool:
        return self.peers.is_present(author, now_s)


class Pair:
    """Desk and laptop, who heard each other and know so at second 100."""

    def __init__(self, *, connected: bool = True) -> None:
        self.desk, self.laptop = Side(DESK), Side(LAPTOP)
        if connected:
            self.desk.peers.connected(LAPTOP, "memory")
            self.laptop.peers.connected(DESK, "memory")
        self.exchange(99.8)
        self.exchange(100.0)
        self.desk.peers.refresh(MEMBERS, 100.0)

    def exchange(self, now_s: float, one_way_s: float = 0.0, **changes: Any) -> None:
        """Desk speaks and laptop answers."""
        self.laptop.hears(self.desk, self.desk.says(now_s), now_s + one_way_s)
        answer = self.laptop.says(now_s + one_way_s, **changes)
        self.desk.hears(self.laptop, answer, now_s + 2 * one_way_s)

    def told(self, now_s: float, **changes: Any) -> None:
        """Laptop speaks, and desk notices."""
        self.desk.hears(self.laptop, self.laptop.says(now_s, **changes), now_s)
        self.desk.peers.refresh(MEMBERS, now_s)


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
    now_s = 100.0
    while now_s < 100.0 + 3 * WINDOW_S:
        now_s += LAN.heartbeat_s
        pair.desk.says(now_s)  # Nobody hears it.
        pair.desk.hears(pair.laptop, pair.laptop.says(now_s), now_s)
        assert pair.desk.sees(LAPTOP, now_s) == (now_s - 100.0 <= 2 * WINDOW_S)


@pytest.mark.parametrize(
    "echo",
    [
        (LAPTOP[:PREFIX_BYTES], 1, 1, 0),  # Of somebody else.
        (DESK[:PREFIX_BYTES], 2, 1, 0),  # Of another run of desk.
        (DESK[:PREFIX_BYTES], 1, 99, 0),  # Of what was never sent.
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
        pair.desk.says(100.0)
    pair.told(100.1, echoes=((DESK[:PREFIX_BYTES], 1, 2, 0),))
    assert pair.desk.peers.peer(LAPTOP).echoed_at_s == 100.0


# Silence and closed connections.


def test_a_connected_member_is_suspected_after_its_silence(pair: Pair) -> None:
    assert pair.desk.sees(LAPTOP, 100.0 + WINDOW_S)
    assert not pair.desk.sees(LAPTOP, 100.001 + WINDOW_S)


def test_a_closed_connection_has_a_grace_to_come_back(pair: Pair) -> None:
    pair.desk.peers.disconnected(LAPTOP, 100.2)
    assert pair.desk.sees(LAPTOP, 100.2 + 0.9 * GRACE_S)
    assert not pair.desk.sees(LAPTOP, 100.2 + 1.1 * GRACE_S)


def test_a_connection_that_comes_back_within_its_grace_changes_nothing(pair: Pair) -> None:
    pair.desk.peers.disconnected(LAPTOP, 100.2)
    pair.desk.peers.connected(LAPTOP, "memory")
    assert pair.desk.sees(LAPTOP, 100.2 + 2 * GRACE_S)


def test_a_member_that_is_heard_by_gossip_alone_has_a_longer_window() -> None:
    pair = Pair(connected=False)
    assert GOSSIP_WINDOW_S > WINDOW_S
    assert pair.desk.sees(LAPTOP, 100.0 + GOSSIP_WINDOW_S)
    assert not pair.desk.sees(LAPTOP, 100.001 + GOSSIP_WINDOW_S)


def test_a_member_that_is_heard_by_gossip_after_its_connection_closed_is_alive(pair: Pair) -> None:
    pair.desk.peers.disconnected(LAPTOP, 100.2)
    pair.exchange(100.6)
    assert pair.desk.sees(LAPTOP, 100.6 + GOSSIP_WINDOW_S)


# Starvation.


def test_who_was_starved_counts_the_lost_time_as_nobodys_silence(pair: Pair) -> None:
    pair.desk.peers.forgive(5.0, 105.5)
    assert pair.desk.sees(LAPTOP, 105.0 + WINDOW_S)
    assert not pair.desk.sees(LAPTOP, 105.001 + WINDOW_S)


def test_nobody_is_forgiven_beyond_now(pair: Pair) -> None:
    pair.desk.peers.forgive(3600.0, 200.0)
    assert pair.desk.sees(LAPTOP, 200.0 + WINDOW_S)
    assert not pair.desk.sees(LAPTOP, 200.001 + WINDOW_S)


def test_nobody_is_forgiven_twice_until_heard_again(pair: Pair) -> None:
    pair.desk.peers.forgive(0.5, 100.5)
    pair.desk.peers.forgive(0.5, 101.0)
    assert not pair.desk.sees(LAPTOP, 101.6)
    pair.exchange(101.7)
    pair.desk.peers.forgive(0.5, 102.2)
    assert pair.desk.sees(LAPTOP, 102.2 + WINDOW_S)


def test_a_closed_connection_is_forgiven_as_silence_is(pair: Pair) -> None:
    pair.desk.peers.disconnected(LAPTOP, 100.1)
    pair.desk.peers.forgive(2.0, 102.1)
    assert pair.desk.sees(LAPTOP, 102.1 + 0.9 * GRACE_S)
    assert not pair.desk.sees(LAPTOP, 102.1 + 1.1 * GRACE_S)


def test_forgiveness_does_not_make_an_old_closed_connection_a_fresh_one(pair: Pair) -> None:
    pair.desk.peers.disconnected(LAPTOP, 100.1)
    pair.exchange(100.6)  # By gossip.
    pair.desk.peers.forgive(4.0, 102.6)
    assert pair.desk.sees(LAPTOP, 102.6 + GOSSIP_WINDOW_S)


def test_who_was_never_heard_is_not_forgiven() -> None:
    desk = Side(DESK)
    desk.peers.connected(LAPTOP, "memory")
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


def test_who_was_heard_and_never_echoed_is_not_made_alive_by_forgiveness() -> None:
    desk, laptop = Side(DESK), Side(LAPTOP)
    desk.peers.connected(LAPTOP, "memory")
    desk.hears(laptop, laptop.says(0.0), 0.0)
    desk.peers.forgive(5.0, 5.0)
    assert not desk.sees(LAPTOP, 5.0)


# Datagrams.


def test_a_datagram_counts_once_and_no_older_one_after_it(pair: Pair) -> None:
    older, newer = pair.laptop.says(100.1), pair.laptop.says(100.2)
    assert pair.desk.hears(pair.laptop, newer, 100.3)
    assert not pair.desk.hears(pair.laptop, newer, 100.4)
    assert not pair.desk.hears(pair.laptop, older, 100.5)
    assert pair.desk.peers.peer(LAPTOP).heard_at_s == 100.3


def test_a_new_run_of_a_member_outranks_the_old_one(pair: Pair) -> None:
    old, anew = pair.laptop, Side(LAPTOP, boot=2)
    assert pair.desk.hears(anew, anew.says(100.1), 100.1)
    assert pair.desk.peers.peer(LAPTOP).counter == 1
    assert not pair.desk.hears(old, old.says(100.2), 100.2)
    assert pair.desk.peers.peer(LAPTOP).boot == 2


def test_what_is_left_out_of_a_datagram_is_kept_from_the_one_before(pair: Pair) -> None:
    many = tuple(str(number) for number in range(40))
    pair.told(100.1, sample={"cpu": 0.5}, addresses=many)
    pair.told(100.2)
    peer = pair.desk.peers.peer(LAPTOP)
    assert peer.sample == {"cpu": 0.5}
    assert peer.addresses == many[:16]


def test_a_node_echoes_whom_it_heard_of_late(pair: Pair) -> None:
    assert pair.desk.peers.echoes(100.5) == ((LAPTOP[:PREFIX_BYTES], 1, 2, 500_000),)
    assert pair.desk.peers.echoes(110.5) == ()


def test_the_time_in_an_echo_is_when_it_came_and_not_what_was_forgiven(pair: Pair) -> None:
    pair.desk.peers.forgive(5.0, 105.0)
    assert pair.desk.peers.echoes(105.0) == ((LAPTOP[:PREFIX_BYTES], 1, 2, 5_000_000),)


# Stopping and writing.


def test_a_stopping_member_is_present_and_not_alive(pair: Pair) -> None:
    version = pair.desk.peers.alive_version
    pair.desk.hears(pair.laptop, pair.laptop.says(100.1, stopping=True), 100.1)
    assert pair.desk.peers.refresh(MEMBERS, 100.1) == (set(), {LAPTOP})
    assert pair.desk.peers.present == {DESK, LAPTOP}
    assert pair.desk.peers.alive == pair.desk.peers.writers == {DESK}
    assert pair.desk.peers.alive_version == version + 1


def test_a_stopping_member_that_falls_silent_is_not_present_either(pair: Pair) -> None:
    pair.told(100.1, stopping=True)
    pair.desk.peers.refresh(MEMBERS, 100.2 + WINDOW_S)
    assert pair.desk.peers.present == {DESK}


def test_a_member_that_can_not_write_is_alive_and_no_writer(pair: Pair) -> None:
    version = pair.desk.peers.alive_version
    pair.told(100.1, writes=False)
    assert pair.desk.peers.alive == {DESK, LAPTOP}
    assert pair.desk.peers.writers == {DESK}
    pair.told(100.2)
    assert pair.desk.peers.writers == {DESK, LAPTOP}
    assert pair.desk.peers.alive_version == version + 2


def test_who_comes_and_goes_is_told_once(pair: Pair) -> None:
    peers = pair.desk.peers
    assert peers.refresh(MEMBERS, 100.1) == (set(), set())
    assert peers.refresh(MEMBERS, 200.0) == (set(), {LAPTOP})
    pair.exchange(200.1)
    assert peers.refresh(MEMBERS, 200.1) == ({LAPTOP}, set())


def test_who_is_no_member_is_not_alive_however_loud(pair: Pair) -> None:
    assert pair.desk.peers.refresh([DESK, ATTIC], 100.0) == (set(), {LAPTOP})


# Round trips and clocks.


def test_the_round_trip_leaves_out_the_time_before_the_answer() -> None:
    desk, laptop = Side(DESK), Side(LAPTOP)
    laptop.hears(desk, desk.says(10.0), 10.02)
    desk.hears(laptop, laptop.says(10.5), 10.53)
    # 530 ms after it was sent, of which it lay 480 ms there.
    assert desk.peers.peer(LAPTOP).round_trip_s == pytest.approx(0.05)


def test_the_round_trip_follows_new_ones_slowly() -> None:
    pair = Pair()
    assert pair.desk.peers.peer(LAPTOP).round_trip_s == pytest.approx(0.0)
    pair.exchange(101.0, one_way_s=0.05)
    assert pair.desk.peers.peer(LAPTOP).round_trip_s == pytest.approx(0.02)
    pair.exchange(102.0, one_way_s=0.05)
    assert pair.desk.peers.peer(LAPTOP).round_trip_s == pytest.approx(0.036)


@pytest.mark.parametrize("since_us", [60_000_000, -60_000_000, 1 << 63, -(1 << 63)])
def test_a_round_trip_that_can_not_be_is_not_believed(pair: Pair, since_us: int) -> None:
    echo = (DESK[:PREFIX_BYTES], 1, 2, since_us)
    pair.told(100.1, echoes=(echo,))
    assert pair.desk.peers.peer(LAPTOP).round_trip_s == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("others_ms", "ahead_s"),
    [
        ((), 0.0),
        ((5000,), -5.0),
        ((0, 0), 0.0),
        ((-40_000, -40_000), 40.0),
        ((40_000, 40_000), -40.0),
        ((-1000, 90_000), 0.0),
        ((-(1 << 60), 1000, 2000, 3000), -1.0),
    ],
)
def test_the_own_clock_is_compared_with_the_median(
    others_ms: tuple[int, ...], ahead_s: float
) -> None:
    desk = Side(DESK)
    for number, offset_ms in enumerate(others_ms):
        other = Side(Author(bytes([number]) * 32))
        desk.hears(other, other.says(1.0, wall_ms=WALL_MS + offset_ms), 1.0)
    assert desk.peers.clock_offset_s() == ahead_s


# Many members.


def test_with_many_members_silence_may_last_longer_in_proportion() -> None:
    pair = Pair()
    pair.desk.peers.scale = 4.0
    assert pair.desk.sees(LAPTOP, 100.0 + 4 * WINDOW_S)
    assert not pair.desk.sees(LAPTOP, 100.001 + 4 * WINDOW_S)
    pair = Pair(connected=False)
    pair.desk.peers.scale = 4.0
    assert pair.desk.sees(LAPTOP, 100.0 + 4 * GOSSIP_WINDOW_S)


def test_the_scale_follows_the_number_of_members() -> None:
    world = World("desk")
    node = world["desk"].core
    for members, scale in ((1, 1.0), (PEERS_PER_HEARTBEAT, 1.0), (40, 2.5), (128, 8.0)):
        node.heartbeats.members(members)
        assert node.peers.scale == scale
