"""What a node learns from a member's datagrams: the newest word, echoes, round trips and clocks."""

from __future__ import annotations

import pytest

from kowalski_node.core.peers import PREFIX_BYTES
from kowalski_protocol.ids import Author
from tests.units.pairs import ATTIC, DESK, LAPTOP, WALL_MS, Pair, Side


@pytest.fixture
def pair() -> Pair:
    return Pair()


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
    assert PREFIX_BYTES == 8, "as the datagram says"
    assert pair.desk.peers.echoes(100.5) == ((LAPTOP[:8], 1, 2, 500_000),)
    assert len(pair.desk.peers.echoes(109.99)) == 1
    assert pair.desk.peers.echoes(110.0) == ()
    pair.desk.peers.peer(ATTIC)
    assert len(pair.desk.peers.echoes(100.5)) == 1, "the attic was never heard"


def test_the_time_in_an_echo_is_when_it_came_and_not_what_was_forgiven(pair: Pair) -> None:
    pair.desk.peers.forgive(5.0, 105.0)
    assert pair.desk.peers.echoes(105.0) == ((LAPTOP[:PREFIX_BYTES], 1, 2, 5_000_000),)


# Round trips and clocks.


def test_the_round_trip_leaves_out_the_time_before_the_answer() -> None:
    desk, laptop = Side(DESK), Side(LAPTOP)
    laptop.hears(desk, desk.says(10.0), 10.02)
    desk.hears(laptop, laptop.says(10.5), 10.53)
    # 530 ms after it was sent, of which it lay 480 ms there.
    assert desk.peers.peer(LAPTOP).round_trip_s == pytest.approx(0.05)


def test_the_round_trip_follows_new_ones_slowly(pair: Pair) -> None:
    assert pair.desk.peers.peer(LAPTOP).round_trip_s == pytest.approx(0.0)
    pair.exchange(101.0, one_way_s=0.05)
    assert pair.desk.peers.peer(LAPTOP).round_trip_s == pytest.approx(0.02)
    pair.exchange(102.0, one_way_s=0.05)
    assert pair.desk.peers.peer(LAPTOP).round_trip_s == pytest.approx(0.036)


@pytest.mark.parametrize("since_us", [60_000_000, -60_000_000, -10_000_000, 1 << 63, -(1 << 63)])
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
    desk.peers.peer(ATTIC)  # It was never heard, so it has no say.
    for number, offset_ms in enumerate(others_ms):
        other = Side(Author(bytes([number]) * 32))
        desk.hears(other, other.says(1.0, wall_ms=WALL_MS + offset_ms), 1.0)
    assert desk.peers.clock_offset_s() == ahead_s
