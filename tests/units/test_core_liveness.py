"""Who is alive: mutual, by silence and by closed connections, and fair to who slept itself.

Times are seconds from nowhere. `me` hears `peer`; what the peer says of me is in its echoes.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_node.core.peers import PREFIX_BYTES, Peers
from kowalski_protocol.ids import Author
from kowalski_protocol.limits import LOCAL
from kowalski_protocol.telemetry import Heartbeat

ME, PEER, OTHER = (Author(bytes([n]) * 32) for n in (1, 2, 3))
BOOT = 55
SUSPECT_S, GRACE_S = LOCAL.suspect_s, LOCAL.disconnect_grace_s
GOSSIP_S = 3.0 * LOCAL.gossip_heartbeat_s


class Pair:
    """Me, and one peer that is connected and has been heard and has heard me at second 0."""

    def __init__(self, *, connected: bool = True) -> None:
        self.peers = Peers(ME, BOOT, LOCAL)
        self.counter = 0
        self.peers.next_counter(0.0)
        if connected:
            self.peers.connected(PEER, "memory")
        self.hear(0.0)

    def hear(self, now_s: float, *, echo: int | None = None, **changes: object) -> bool:
        """A heartbeat of the peer comes, which echoes the newest counter of mine, or `echo`."""
        self.counter += 1
        mine = self.peers.counter if echo is None else echo
        ordinary = Heartbeat(
            7,
            self.counter,
            int(now_s * 1000),
            ((ME[:PREFIX_BYTES], BOOT, mine, 0),) if mine >= 0 else (),
            0,
            0,
            b"",
            b"",
            0,
            0,
            False,
        )
        said = msgspec.structs.replace(ordinary, **changes)
        return self.peers.heard(PEER, said, now_s, int(now_s * 1000))

    def beat(self, now_s: float) -> None:
        self.peers.next_counter(now_s)

    def alive(self, now_s: float) -> bool:
        self.peers.refresh((ME, PEER), now_s)
        return PEER in self.peers.alive


def test_i_am_always_alive() -> None:
    peers = Peers(ME, BOOT, LOCAL)
    peers.refresh((), 1e9)
    assert peers.alive == peers.present == peers.writers == {ME}


def test_who_was_never_heard_is_not_alive() -> None:
    peers = Peers(ME, BOOT, LOCAL)
    assert not peers.is_present(PEER, 0.0)
    peers.connected(PEER, "memory")
    assert not peers.is_present(PEER, 0.0)


# By silence.


def test_who_is_heard_and_hears_is_alive_until_it_is_silent_for_too_long() -> None:
    pair = Pair()
    assert pair.alive(0.0)
    assert pair.alive(SUSPECT_S)
    assert not pair.alive(SUSPECT_S + 0.001)


def test_one_lost_heartbeat_does_nothing() -> None:
    pair = Pair()
    now_s = 0.0
    for _ in range(20):
        now_s += 2 * LOCAL.heartbeat_s
        pair.beat(now_s)
        assert pair.alive(now_s)
        pair.hear(now_s)


def test_coming_and_going_is_told_once() -> None:
    pair = Pair()
    assert pair.peers.refresh((ME, PEER), 0.0) == ({PEER}, set())
    assert pair.peers.refresh((ME, PEER), 0.5) == (set(), set())
    assert pair.peers.refresh((ME, PEER), 9.0) == (set(), {PEER})
    assert pair.peers.refresh((ME, PEER), 9.5) == (set(), set())


def test_only_members_are_counted() -> None:
    pair = Pair()
    pair.peers.refresh((ME,), 0.0)
    assert pair.peers.alive == {ME}


def test_the_version_rises_when_and_only_when_somebody_comes_or_goes() -> None:
    pair = Pair()
    pair.alive(0.0)
    version = pair.peers.alive_version
    pair.alive(0.5)
    assert pair.peers.alive_version == version
    pair.alive(5.0)
    assert pair.peers.alive_version == version + 1


def test_in_a_large_cluster_silence_may_be_longer() -> None:
    pair = Pair()
    pair.peers.scale = 4.0
    assert pair.alive(4 * SUSPECT_S)
    assert not pair.alive(4 * SUSPECT_S + 0.001)


# Mutual.


def test_who_does_not_hear_me_is_not_alive_however_loud_it_is() -> None:
    pair = Pair()
    for step in range(1, 40):
        pair.beat(step * 0.25)
        pair.hear(step * 0.25, echo=-1)
        if step * 0.25 > 2 * SUSPECT_S:
            assert not pair.alive(step * 0.25)
        else:
            assert pair.alive(step * 0.25)


def test_who_echoes_only_what_i_said_long_ago_is_not_alive() -> None:
    pair = Pair()
    for step in range(1, 40):
        pair.beat(step * 0.25)
        pair.hear(step * 0.25, echo=1)
    assert not pair.alive(39 * 0.25)


@pytest.mark.parametrize("echo", [-5, 2, 99, 1 << 62])
def test_an_echo_of_what_i_never_said_is_none(echo: int) -> None:
    pair = Pair()
    peer = pair.peers.peer(PEER)
    peer.echoed_at_s = None
    pair.hear(0.1, echo=echo)
    assert peer.echoed_at_s is None


def test_an_echo_of_somebody_else_or_of_my_last_run_is_not_mine() -> None:
    pair = Pair()
    peer = pair.peers.peer(PEER)
    peer.echoed_at_s = None
    pair.hear(0.1, echoes=((OTHER[:8], BOOT, 1, 0), (ME[:8], BOOT - 1, 1, 0)))
    assert peer.echoed_at_s is None


def test_an_echo_that_was_overtaken_changes_nothing() -> None:
    pair = Pair()
    pair.beat(0.2)
    pair.hear(0.3, echo=2)
    pair.hear(0.4, echo=1)
    assert pair.peers.peer(PEER).echoed_at_s == 0.2


# The newest of its author.


def test_an_older_datagram_is_nothing_new() -> None:
    pair = Pair()
    assert pair.hear(0.1)
    pair.counter -= 2
    assert not pair.hear(5.0)
    assert pair.peers.peer(PEER).heard_at_s == 0.1


def test_a_new_run_of_a_member_outranks_the_old_one() -> None:
    pair = Pair()
    pair.counter = 100
    assert pair.hear(0.1)
    pair.counter = 0
    assert pair.hear(0.2, boot=8)
    pair.counter = 200
    assert not pair.hear(0.3, boot=7)


def test_what_a_datagram_does_not_say_is_kept_from_the_one_before() -> None:
    pair = Pair()
    pair.hear(0.1, sample={"cpu": 0.5}, addresses=("/ip4/1.2.3.4/tcp/1",))
    pair.hear(0.2)
    peer = pair.peers.peer(PEER)
    assert (peer.sample, peer.addresses) == ({"cpu": 0.5}, ("/ip4/1.2.3.4/tcp/1",))


def test_addresses_are_bounded() -> None:
    pair = Pair()
    pair.hear(0.1, addresses=tuple(str(n) for n in range(100)))
    assert len(pair.peers.peer(PEER).addresses) <= 16


# Closed connections.


def test_a_closed_connection_suspects_after_a_short_grace() -> None:
    pair = Pair()
    pair.peers.disconnected(PEER, 0.2)
    assert pair.alive(0.2)
    assert pair.alive(0.2 + GRACE_S - 0.001)
    assert not pair.alive(0.2 + GRACE_S + 0.001)


def test_a_connection_that_comes_back_within_the_grace_changes_nothing() -> None:
    pair = Pair()
    pair.peers.disconnected(PEER, 0.2)
    pair.peers.connected(PEER, "memory")
    assert pair.alive(0.2 + 2 * GRACE_S)


def test_who_is_heard_by_gossip_after_its_connection_closed_is_alive_and_may_be_slower() -> None:
    pair = Pair()
    pair.peers.disconnected(PEER, 0.2)
    pair.beat(0.3)
    pair.hear(0.4)
    assert pair.alive(0.4 + GOSSIP_S)
    assert not pair.alive(0.4 + GOSSIP_S + 0.001)


def test_who_never_was_connected_is_waited_for_by_the_pace_of_gossip() -> None:
    pair = Pair(connected=False)
    assert pair.alive(GOSSIP_S)
    assert not pair.alive(GOSSIP_S + 0.001)


# Stopping, and not writing.


def test_who_stops_is_given_nothing_new_and_has_lost_nothing() -> None:
    pair = Pair()
    assert pair.alive(0.0)
    pair.hear(0.1, stopping=True)
    assert pair.peers.refresh((ME, PEER), 0.1) == (set(), {PEER})
    assert PEER in pair.peers.present
    assert PEER not in pair.peers.alive | pair.peers.writers
    pair.peers.disconnected(PEER, 0.2)
    pair.peers.refresh((ME, PEER), 0.2 + GRACE_S + 0.001)
    assert PEER not in pair.peers.present


def test_who_can_not_write_is_alive_and_no_writer() -> None:
    pair = Pair()
    pair.hear(0.1, writes=False)
    version = pair.peers.alive_version
    assert pair.alive(0.1)
    assert PEER not in pair.peers.writers
    pair.hear(0.2)
    assert pair.alive(0.2)
    assert PEER in pair.peers.writers
    assert pair.peers.alive_version == version + 2


# A node that was starved.


def test_what_i_slept_was_nobody_s_silence() -> None:
    pair = Pair()
    pair.peers.forgive(2 * 1.5, 1.6)
    assert pair.alive(1.6)
    assert pair.alive(1.6 + SUSPECT_S)
    assert not pair.alive(1.6 + SUSPECT_S + 0.001)


def test_forgiving_never_reaches_beyond_now() -> None:
    pair = Pair()
    pair.peers.forgive(2 * 28_800.0, 28_800.0)
    assert pair.alive(28_800.0)
    assert not pair.alive(28_800.0 + SUSPECT_S + 0.001), "a lid closed for eight hours"


def test_who_is_starved_all_the_time_still_notices_who_is_gone() -> None:
    pair = Pair()
    now_s = 0.0
    while now_s < 5.0:
        now_s += 0.35
        pair.beat(now_s)
        pair.peers.forgive(2 * 0.3, now_s)
    assert not pair.alive(now_s)


def test_who_is_heard_again_may_be_forgiven_again() -> None:
    pair = Pair()
    for now_s in (2.0, 4.0, 6.0):
        pair.peers.forgive(4.0, now_s)
        assert pair.alive(now_s)
        pair.beat(now_s)
        pair.hear(now_s)


def test_a_connection_that_closed_before_i_slept_is_still_closed() -> None:
    pair = Pair()
    pair.peers.disconnected(PEER, 0.1)
    pair.peers.forgive(2 * 0.4, 0.5)
    assert pair.alive(0.5)
    assert not pair.alive(0.5 + GRACE_S + 0.001)


def test_who_was_heard_by_gossip_since_it_closed_does_not_seem_to_have_closed_just_now() -> None:
    pair = Pair()
    pair.peers.disconnected(PEER, 0.1)
    pair.beat(0.6)
    pair.hear(0.6)
    pair.peers.forgive(2 * 2.0, 2.6)
    assert pair.alive(2.6 + GRACE_S + 0.001)
    assert pair.alive(2.6 + GOSSIP_S)


def test_forgiving_who_was_never_heard_is_nothing() -> None:
    peers = Peers(ME, BOOT, LOCAL)
    peers.connected(PEER, "memory")
    peers.forgive(5.0, 10.0)
    assert not peers.is_present(PEER, 10.0)


def test_forgiving_who_never_heard_me_makes_nobody_alive() -> None:
    pair = Pair()
    pair.peers.peer(PEER).echoed_at_s = None
    pair.peers.forgive(5.0, 10.0)
    assert not pair.alive(10.0)


def test_sleep_is_not_told_to_others_as_a_short_way() -> None:
    pair = Pair()
    pair.peers.forgive(2.0, 1.0)
    ((prefix, boot, counter, since_us),) = pair.peers.echoes(1.0)
    assert (prefix, boot, counter, since_us) == (PEER[:8], 7, 1, 1_000_000)


# Round trips and clocks.


def test_a_round_trip_is_from_my_word_to_its_echo_less_what_it_was_kept() -> None:
    pair = Pair()
    pair.peers.peer(PEER).round_trip_s = None
    pair.beat(10.0)
    pair.hear(10.5, echoes=((ME[:8], BOOT, 2, 400_000),))
    assert pair.peers.peer(PEER).round_trip_s == pytest.approx(0.1)


def test_round_trips_are_smoothed_and_nonsense_is_left_out() -> None:
    pair = Pair()
    peer = pair.peers.peer(PEER)
    peer.round_trip_s = 0.1
    pair.beat(10.0)
    pair.hear(10.2, echoes=((ME[:8], BOOT, 2, 0),))
    assert peer.round_trip_s == pytest.approx(0.8 * 0.1 + 0.2 * 0.2)
    before = peer.round_trip_s
    pair.hear(10.3, echoes=((ME[:8], BOOT, 2, 5_000_000),))
    pair.hear(30.0, echoes=((ME[:8], BOOT, 2, 0),))
    assert peer.round_trip_s == before


def test_only_who_was_heard_of_late_is_echoed() -> None:
    pair = Pair()
    assert len(pair.peers.echoes(9.9)) == 1
    assert pair.peers.echoes(10.0) == ()


@given(st.lists(st.integers(-(10**12), 10**12), max_size=8))
def test_the_own_clock_is_compared_with_the_median_of_all(offsets: list[int]) -> None:
    peers = Peers(ME, BOOT, LOCAL)
    for number, offset in enumerate(offsets):
        peers.peer(Author(bytes([number + 10]) * 32)).offset_ms = offset
    ordered = sorted([0, *offsets])
    expected = -ordered[len(ordered) // 2] / 1000 if offsets else 0.0
    assert peers.clock_offset_s() == expected


def test_one_clock_that_is_off_among_three_does_not_make_the_others_off() -> None:
    peers = Peers(ME, BOOT, LOCAL)
    peers.peer(PEER).offset_ms = 0
    peers.peer(OTHER).offset_ms = 3_600_000
    assert peers.clock_offset_s() == 0.0
