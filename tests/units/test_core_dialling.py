"""Whom a node dials, where, and when again."""

from __future__ import annotations

import pytest

from kowalski_ledger.state import State
from kowalski_node.core import effects as fx
from kowalski_node.core.book import Book
from kowalski_node.core.dialling import ADDRESSES_MAX, Dialling
from kowalski_node.core.inputs import AddressesLearned, DialEnded, Now, PeerDisconnected, Tick
from kowalski_node.core.node import Node, NodeConfig
from kowalski_node.core.peers import Peers
from kowalski_node.core.sync import Sync
from kowalski_protocol.clock import HybridClock
from kowalski_protocol.feeds import Verify
from kowalski_protocol.identity import verify
from kowalski_protocol.ids import Author
from kowalski_protocol.limits import LAN, LIMITS
from tests.stories.world import World
from tests.units.bench import START_MS, Bench
from tests.units.histories import History, folded

HERE = ("/ip4/10.0.0.1/tcp/1",)
THERE = ("/ip4/10.0.0.2/tcp/1",)
VERIFY: Verify = verify


class Side:
    """The dialling of the founder of a cluster of three, or of a newcomer without a cluster."""

    def __init__(self, *, newcomer: bool = False, smaller: bool = True) -> None:
        history = History(3)
        history.admit_all()
        state = State(history.cluster) if newcomer else folded(history, history.written)
        small, large = sorted((history.devices[1].author, history.devices[2].author))
        self.author, self.other = (small, large) if smaller else (large, small)
        self.founder = history.founder.author
        self.stranger = Author(b"s" * 32)
        book = Book(self.author, state, HybridClock(max_ahead_ms=1000), LIMITS)
        self.peers = Peers(self.author, 1, LAN)
        self.sync = Sync(book, self.peers, LAN, LIMITS, VERIFY)
        self.dialling = Dialling(book, self.peers, self.sync, LAN)

    def learn(
        self,
        now_s: float,
        author: Author | None = None,
        addresses: tuple[str, ...] = HERE,
        *,
        fresh: bool = True,
    ) -> None:
        learned = AddressesLearned(author or self.other, addresses, fresh)
        self.dialling.learn(learned, Now(now_s, 0))

    def ended(self, now_s: float, *, connected: bool = False) -> None:
        self.dialling.ended(DialEnded(self.other, connected), Now(now_s, 0))

    def dials(self, now_s: float) -> list[fx.Effect]:
        out = fx.Outbox()
        self.dialling.dial(Now(now_s, 0), out)
        return out.at_once

    def wait_s(self) -> float:
        """One more dial fails; how long until the next one."""
        began_s = self.peers.peer(self.other).dial_at_s
        assert self.dials(began_s)
        self.ended(began_s)
        return self.peers.peer(self.other).dial_at_s - began_s


@pytest.fixture
def side() -> Side:
    return Side()


def test_a_member_whose_address_is_known_is_dialled_once_at_a_time(side: Side) -> None:
    assert side.dials(0.0) == []
    side.learn(0.0)
    assert side.dials(0.0) == [fx.Dial(side.other, HERE)]
    assert side.dials(99.0) == []


def test_a_member_of_no_known_address_is_not_dialled(side: Side) -> None:
    side.learn(0.0, addresses=())
    assert side.dials(9.0) == []


def test_strangers_are_not_dialled(side: Side) -> None:
    side.learn(0.0, side.stranger)
    assert side.dials(9.0) == []


def test_a_newcomer_that_knows_no_member_dials_where_it_was_sent() -> None:
    side = Side(newcomer=True)
    side.learn(0.0, side.founder)
    side.learn(0.0, side.other, THERE)
    assert side.dials(0.0) == [fx.Dial(side.founder, HERE), fx.Dial(side.other, THERE)]


def test_its_inviter_is_dialled_before_its_admission_is_known(side: Side) -> None:
    side.sync.founder_hint = side.stranger
    side.learn(0.0, side.stranger)
    assert side.dials(0.0) == [fx.Dial(side.stranger, HERE)]


def test_who_is_connected_is_not_dialled(side: Side) -> None:
    side.learn(0.0)
    side.peers.connected(side.other, "there")
    side.learn(1.0)
    assert side.dials(1.0) == []


def test_who_closes_the_connection_is_dialled_at_once(side: Side) -> None:
    side.learn(0.0)
    side.peers.connected(side.other, "there")
    side.peers.disconnected(side.other, 5.0)
    assert side.dials(4.9) == []
    assert side.dials(5.0) == [fx.Dial(side.other, HERE)]


def test_the_wait_doubles_up_to_its_bound(side: Side) -> None:
    side.learn(0.0)
    waits = [side.wait_s() for _ in range(9)]
    expected = [min(LAN.redial_max_s, LAN.redial_min_s * 2**n) for n in range(9)]
    assert waits == pytest.approx(expected)
    assert waits[-1] == LAN.redial_max_s


def test_before_the_wait_is_over_nobody_is_dialled_again(side: Side) -> None:
    side.learn(0.0)
    assert side.dials(0.0)
    side.ended(1.0)
    assert side.dials(0.99 + LAN.redial_min_s) == []
    assert side.dials(1.0 + LAN.redial_min_s)


def test_the_larger_key_waits_a_little_longer() -> None:
    small, large = Side(smaller=True), Side(smaller=False)
    for side in (small, large):
        side.learn(0.0)
    assert large.wait_s() == pytest.approx(1.25 * small.wait_s())


def test_a_fresh_sign_of_life_is_dialled_at_once_and_the_wait_begins_anew(side: Side) -> None:
    side.learn(0.0)
    for _ in range(5):
        side.wait_s()
    due_s = side.peers.peer(side.other).dial_at_s
    now_s = due_s - 3.0
    assert side.dials(now_s) == []
    side.learn(now_s)
    assert side.dials(now_s) == [fx.Dial(side.other, HERE)]
    side.ended(now_s)
    assert side.peers.peer(side.other).dial_wait_s == LAN.redial_min_s


def test_a_hint_that_is_no_sign_of_life_changes_no_wait(side: Side) -> None:
    side.learn(0.0)
    side.wait_s()
    due_s = side.peers.peer(side.other).dial_at_s
    side.learn(due_s - 0.1, addresses=THERE, fresh=False)
    assert side.dials(due_s - 0.1) == []
    assert side.dials(due_s) == [fx.Dial(side.other, THERE + HERE)]


def test_a_connection_ends_the_wait(side: Side) -> None:
    side.learn(0.0)
    for _ in range(5):
        side.wait_s()
    side.peers.connected(side.other, "there")
    assert side.peers.peer(side.other).dial_wait_s == 0.0


def test_a_dial_that_succeeded_leaves_no_wait(side: Side) -> None:
    side.learn(0.0)
    assert side.dials(0.0)
    side.ended(0.1, connected=True)
    peer = side.peers.peer(side.other)
    assert (peer.dialling, peer.dial_wait_s) == (False, 0.0)


def test_the_newest_hints_come_first_each_once_and_only_so_many(side: Side) -> None:
    for number in range(3 * ADDRESSES_MAX):
        side.learn(0.0, addresses=(f"/ip4/10.0.0.{number}/tcp/1", *HERE))
    addresses = side.peers.peer(side.other).addresses
    assert len(addresses) == len(set(addresses)) == ADDRESSES_MAX
    assert addresses[:2] == (f"/ip4/10.0.0.{3 * ADDRESSES_MAX - 1}/tcp/1", *HERE)


# In a node.


def dials(out: fx.Outbox) -> list[fx.Effect]:
    return [effect for effect in out.at_once if isinstance(effect, fx.Dial)]


def test_a_member_that_is_away_is_dialled_with_the_next_tick() -> None:
    bench = Bench(3)
    away = bench.others[0].author
    bench.give(PeerDisconnected(away))
    assert dials(bench.tick(0.05)) == []
    bench.give(AddressesLearned(away, HERE, False))
    assert dials(bench.tick(0.05)) == [fx.Dial(away, HERE)]
    bench.give(DialEnded(away, False))
    assert dials(bench.tick(0.05)) == []
    assert dials(bench.tick(bench.timers.redial_max_s)) == [fx.Dial(away, HERE)]


def test_a_member_whose_connection_closes_is_dialled_in_the_same_step() -> None:
    bench = Bench(3)
    away = bench.others[0].author
    bench.give(AddressesLearned(away, HERE, False))
    assert dials(bench.tick(1.0)) == []
    assert dials(bench.give(PeerDisconnected(away))) == [fx.Dial(away, HERE)]


def test_a_newcomer_dials_whoever_its_inviter_named() -> None:
    history = History(3)
    config = NodeConfig(history.devices[2].author, "new", 1, LAN, 2)
    now = Now(0.0, START_MS)
    hint = history.founder.author
    node = Node(config, State(history.cluster), now, founder_hint=hint)
    out = fx.Outbox()
    for device in history.devices[:2]:
        node.step(AddressesLearned(device.author, HERE, True), now, out)
    node.step(Tick(), Now(0.05, START_MS), out)
    assert dials(out) == [fx.Dial(device.author, HERE) for device in history.devices[:2]]


def test_cut_off_devices_find_each_other_again_by_dialling() -> None:
    world = World("desk", "laptop")
    desk, laptop = world["desk"], world["laptop"]
    for device, other in ((desk, laptop), (laptop, desk)):
        device.give(AddressesLearned(other.author, HERE, fresh=True))
    world.partition("laptop")
    world.run(10.0)
    tried = len(desk.dials)
    assert 3 <= tried <= 12
    assert laptop.author not in desk.core.peers.alive
    world.cut.clear()
    assert world.run(
        1.25 * world.timers.redial_max_s + 1.0,
        until=lambda: laptop.author in desk.core.peers.alive,
    )
