"""Whom a node dials, where and when again; and what it says of itself in heartbeats."""

from __future__ import annotations

import pytest

from kowalski_ledger.state import State
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.dialling import ADDRESSES_MAX
from kowalski_node.core.node import Node, NodeConfig
from kowalski_protocol.ids import Author
from kowalski_protocol.limits import LOCAL
from kowalski_protocol.telemetry import Heartbeat
from tests.units.bench import START_MS, Bench
from tests.units.histories import History, Writer

HERE = ("/ip4/192.168.1.7/tcp/52421",)


def scene() -> tuple[Bench, Author]:
    """A node whose second member is away and was heard of."""
    bench = Bench(3)
    away = bench.others[0].author
    bench.give(ins.PeerDisconnected(away))
    return bench, away


def dials(out: fx.Outbox) -> list[fx.Dial]:
    return [effect for effect in out.at_once if isinstance(effect, fx.Dial)]


def test_a_member_that_is_away_is_dialled_where_it_was_said_to_be() -> None:
    bench, away = scene()
    assert dials(bench.tick(0.05)) == []
    bench.give(ins.AddressesLearned(away, HERE, False))
    assert dials(bench.tick(0.05)) == [fx.Dial(away, HERE)]
    assert dials(bench.tick(60.0)) == [], "one dial at a time"


def test_a_dial_that_failed_is_tried_again_after_a_wait_that_doubles() -> None:
    bench, away = scene()
    bench.give(ins.AddressesLearned(away, HERE, False))
    waits: list[float] = []
    for _ in range(8):
        waited_s = 0.0
        while not dials(bench.tick(0.05)):
            waited_s += 0.05
            assert waited_s < 60
        waits.append(waited_s)
        bench.give(ins.DialEnded(away, False))
    spread = 1.25 if bench.me.author > away else 1.0
    for waited_s, step in zip(waits[1:], (0.25, 0.5, 1.0, 2.0, 2.0, 2.0), strict=False):
        assert waited_s == pytest.approx(step * spread, abs=0.11)


def test_a_fresh_sign_of_life_is_worth_a_dial_at_once() -> None:
    bench, away = scene()
    bench.give(ins.AddressesLearned(away, HERE, False))
    for _ in range(4):
        bench.tick(10.0)
        bench.give(ins.DialEnded(away, False))
    assert dials(bench.tick(0.05)) == []
    bench.give(ins.AddressesLearned(away, HERE, True))
    assert dials(bench.tick(0.05)) != []


def test_who_is_connected_is_not_dialled() -> None:
    bench = Bench(3)
    bench.give(ins.AddressesLearned(bench.others[0].author, HERE, True))
    assert dials(bench.tick(1.0)) == []


def test_a_connection_ends_the_waiting() -> None:
    bench, away = scene()
    bench.give(ins.AddressesLearned(away, HERE, False))
    bench.tick(0.05)
    bench.give(ins.DialEnded(away, True), ins.PeerConnected(away, "memory"))
    bench.give(ins.PeerDisconnected(away))
    assert dials(bench.tick(0.0)) or bench.effects(fx.Dial)[-1].peer == away


def test_strangers_are_not_dialled_whoever_says_where_they_are() -> None:
    bench = Bench(2)
    stranger = Writer("a stranger").author
    bench.give(ins.AddressesLearned(stranger, HERE, True))
    assert dials(bench.tick(1.0)) == []


def test_addresses_are_hints_the_newest_first_and_bounded() -> None:
    bench, away = scene()
    for number in range(40):
        bench.give(ins.AddressesLearned(away, (f"/ip4/10.0.0.{number}/tcp/1",), False))
    addresses = bench.node.peers.peer(away).addresses
    assert len(addresses) == ADDRESSES_MAX
    assert addresses[0] == "/ip4/10.0.0.39/tcp/1"
    bench.give(ins.AddressesLearned(away, ("/ip4/10.0.0.30/tcp/1",), False))
    assert len(bench.node.peers.peer(away).addresses) == ADDRESSES_MAX


def test_a_newcomer_dials_whoever_its_inviter_named() -> None:
    history = History(3)
    config = NodeConfig(history.devices[2].author, "new", 1, LOCAL, 2)
    node = Node(
        config,
        State(history.cluster),
        ins.Now(0.0, START_MS),
        founder_hint=history.founder.author,
    )
    out = fx.Outbox()
    for device in history.devices[:2]:
        learned = ins.AddressesLearned(device.author, HERE, True)
        node.step(learned, ins.Now(0.0, START_MS), out)
    node.step(ins.Tick(), ins.Now(0.05, START_MS), out)
    assert {dial.peer for dial in dials(out)} == {d.author for d in history.devices[:2]}


def test_the_founder_that_was_named_is_dialled_before_it_is_known_to_be_a_member() -> None:
    bench = Bench(2)
    hinted = Writer("hinted").author
    bench.node.sync.founder_hint = hinted
    bench.give(ins.AddressesLearned(hinted, HERE, True))
    assert [dial.peer for dial in dials(bench.tick(0.05))] == [hinted]


# Heartbeats.


def beats(bench: Bench) -> list[tuple[Heartbeat, bool]]:
    return [(s.heartbeat, s.gossip) for s in bench.effects(fx.SendHeartbeat)]


def test_heartbeats_go_out_on_lanes_often_and_by_gossip_less_so() -> None:
    bench = Bench(2)
    bench.done.clear()
    bench.pass_time(10.0)
    sent = beats(bench)
    slowest_s = bench.timers.heartbeat_s + bench.timers.tick_s
    assert 10.0 / slowest_s - 2 <= len(sent) <= 10.0 / bench.timers.heartbeat_s + 2
    assert sum(gossip for _, gossip in sent) == pytest.approx(
        10.0 / bench.timers.gossip_heartbeat_s, abs=2
    )
    counters = [beat.counter for beat, _ in sent]
    assert counters == list(range(counters[0], counters[0] + len(counters)))


def test_a_heartbeat_says_where_the_node_is_only_by_gossip() -> None:
    bench = Bench(2)
    bench.node.heartbeats.addresses = HERE
    bench.done.clear()
    bench.pass_time(5.0)
    assert {(beat.addresses, gossip) for beat, gossip in beats(bench)} == {
        (HERE, True),
        ((), False),
    }


def test_a_sample_is_sent_once() -> None:
    bench = Bench(2)
    bench.done.clear()
    bench.give(ins.SampleTaken({"cpu": 0.5}))
    bench.pass_time(2.0)
    samples = [beat.sample for beat, _ in beats(bench) if beat.sample is not None]
    assert samples == [{"cpu": 0.5}]


def test_a_heartbeat_says_only_what_is_committed() -> None:
    bench = Bench(1, alive=False)
    bench.tick(0.05)
    assert bench.kinds().count("LeaderClaimed") == 1
    beat, _ = beats(bench)[-1]
    assert (beat.task_seq, beat.leader) == (1, b"")
    bench.commit()
    bench.tick(1.0)
    beat, _ = beats(bench)[-1]
    assert beat.task_seq == len(bench.own) + 1
    claim = bench.state.leader
    assert claim is not None
    assert beat.leader == claim.hash


def test_a_large_cluster_beats_more_slowly() -> None:
    bench = Bench(33)
    assert bench.node.peers.scale == pytest.approx(33 / 16)
    bench.done.clear()
    bench.pass_time(5.0, heard=False)
    interval_s = bench.timers.heartbeat_s * 33 / 16
    assert 5.0 / (interval_s + bench.timers.tick_s) - 2 <= len(beats(bench)) <= 5.0 / interval_s + 2


def test_who_is_heard_for_the_first_time_hears_so_with_the_next_tick() -> None:
    bench = Bench(3, alive=False)
    bench.pass_time(1.6, heard=False)
    bench.done.clear()
    bench.hear(bench.others[0], echoes=())
    bench.tick(0.01)
    assert len(beats(bench)) == 1


def test_a_node_that_stops_or_can_not_write_says_so_at_once() -> None:
    bench = Bench(2)
    bench.done.clear()
    bench.give(ins.CommitFailed("disk_full"))
    assert [beat.writes for beat, _ in beats(bench)] == [False]
    bench.give(ins.Stop())
    assert [beat.stopping for beat, _ in beats(bench)] == [False, True]
