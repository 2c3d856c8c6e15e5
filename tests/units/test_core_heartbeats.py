"""When a node says "I am here", and what it says: what is committed, and no more than it must."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from kowalski_ledger.fold import cluster_id
from kowalski_ledger.state import State
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.book import Book
from kowalski_node.core.device import Device
from kowalski_node.core.heartbeats import PEERS_PER_HEARTBEAT, Heartbeats
from kowalski_node.core.inputs import Now
from kowalski_node.core.peers import Peers
from kowalski_protocol.clock import HybridClock
from kowalski_protocol.codec import encode
from kowalski_protocol.events import ClusterFounded, LeaderClaimed
from kowalski_protocol.feeds import Feed, Head
from kowalski_protocol.ids import Author
from kowalski_protocol.limits import LAN, LIMITS
from kowalski_protocol.tasks import parse_task
from kowalski_protocol.telemetry import Heartbeat
from kowalski_protocol.topics import RESULT, TASK
from tests.units.bench import Bench

DESK, LAPTOP = Author(b"d" * 32), Author(b"l" * 32)
WALL_MS = 1_790_000_000_000


class Desk:
    """A node's heartbeats, and what they are told of."""

    def __init__(self) -> None:
        founded = ClusterFounded("home", DESK, "desk", b"nonce")
        self.book = Book(
            DESK, State(cluster_id(encode(founded))), HybridClock(max_ahead_ms=1000), LIMITS
        )
        self.book.may_write = True
        self.peers = Peers(DESK, 7, LAN)
        self.device = Device(self.book, LAN, LIMITS, 2)
        self.heartbeats = Heartbeats(self.book, self.peers, self.device, LAN, Now(0.0, WALL_MS))
        self.book.write(founded, Now(0.0, WALL_MS), fx.Outbox())

    def commit(self) -> None:
        ends = self.book.ends.items()
        self.book.commit({feed: Head(end.seq, end.hash) for feed, end in ends if end.seq})

    def tick(self, now_s: float) -> fx.SendHeartbeat | None:
        out = fx.Outbox()
        self.heartbeats.tick(Now(now_s, WALL_MS + int(now_s * 1000)), out)
        assert not out.append
        assert not out.then
        assert len(out.at_once) <= 1
        for effect in out.at_once:
            assert isinstance(effect, fx.SendHeartbeat)
            return effect
        return None

    def says(self, now_s: float = 0.0) -> Heartbeat:
        sent = self.tick(now_s)
        assert sent is not None
        return sent.heartbeat

    def times(self, until_s: float) -> tuple[list[float], list[float]]:
        """When it speaks in a time, and when also by gossip."""
        lanes: list[float] = []
        gossip: list[float] = []
        for step in range(round(until_s / LAN.tick_s)):
            now_s = step * LAN.tick_s
            sent = self.tick(now_s)
            if sent is not None:
                lanes.append(now_s)
                if sent.gossip:
                    gossip.append(now_s)
        return lanes, gossip


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_first_one_goes_out_at_once_and_everywhere(desk: Desk) -> None:
    sent = desk.tick(0.0)
    assert sent is not None
    assert sent.gossip
    assert (sent.heartbeat.boot, sent.heartbeat.counter) == (7, 1)


def test_lanes_hear_it_often_and_gossip_less(desk: Desk) -> None:
    lanes, gossip = desk.times(4.0)
    assert len(lanes) == pytest.approx(4.0 / LAN.heartbeat_s, abs=2)
    assert len(gossip) == pytest.approx(4.0 / LAN.gossip_heartbeat_s, abs=1)
    waits = [after - before for before, after in pairwise(lanes)]
    assert min(waits) >= LAN.heartbeat_s - 1e-9
    assert max(waits) <= LAN.heartbeat_s + LAN.tick_s + 1e-9


@pytest.mark.parametrize("members", [1, PEERS_PER_HEARTBEAT, 4 * PEERS_PER_HEARTBEAT, 128])
def test_what_it_costs_stays_level_however_many_members_there_are(desk: Desk, members: int) -> None:
    desk.heartbeats.members(members)
    lanes, gossip = desk.times(16.0)
    most = 1.1 * PEERS_PER_HEARTBEAT * 16.0
    assert len(lanes) * members <= most / LAN.heartbeat_s
    assert len(gossip) * members <= most / LAN.gossip_heartbeat_s


def test_heartbeats_grow_rarer_from_a_number_of_members_on(desk: Desk) -> None:
    for members, scale in ((1, 1.0), (PEERS_PER_HEARTBEAT, 1.0), (40, 2.5), (128, 8.0)):
        desk.heartbeats.members(members)
        assert desk.peers.scale == scale


def test_each_has_the_next_number(desk: Desk) -> None:
    assert [desk.says(now_s).counter for now_s in (0.0, 1.0, 2.0)] == [1, 2, 3]


def test_a_member_that_was_just_heard_is_told_with_the_next_tick(desk: Desk) -> None:
    desk.says(0.0)
    assert desk.tick(0.05) is None
    desk.heartbeats.hasten(Now(0.05, WALL_MS))
    assert desk.tick(0.1) is not None
    assert desk.tick(0.15) is None


def test_hastening_never_puts_off_what_is_due(desk: Desk) -> None:
    desk.says(0.0)
    desk.heartbeats.hasten(Now(9.0, WALL_MS))
    assert desk.tick(LAN.heartbeat_s) is not None


def test_it_tells_only_what_is_committed(desk: Desk) -> None:
    claim = desk.book.write(LeaderClaimed(1, b""), Now(0.0, WALL_MS), fx.Outbox())
    said = desk.says(0.0)
    assert (said.task_seq, said.result_seq, said.leader) == (0, 0, b"")
    before = said.heads_hash
    desk.commit()
    said = desk.says(1.0)
    assert (said.task_seq, said.result_seq, said.leader) == (2, 0, claim.hash)
    assert said.heads_hash == desk.book.heads_hash() != before


def test_it_tells_how_far_the_own_results_reach(desk: Desk) -> None:
    desk.book.commit({Feed(DESK, RESULT): Head(5, desk.book.end(Feed(DESK, RESULT)).hash)})
    assert desk.says().result_seq == 5
    assert desk.book.own_committed(TASK) == 0


def test_it_echoes_whom_it_heard(desk: Desk) -> None:
    heard = Heartbeat(3, 9, WALL_MS, (), 0, 0, b"", b"", 0, 0, False)
    desk.peers.heard(LAPTOP, heard, 0.5, WALL_MS)
    assert desk.says(1.0).echoes == ((LAPTOP[:8], 3, 9, 500_000),)


def test_addresses_go_by_gossip_alone_for_lanes_have_theirs(desk: Desk) -> None:
    desk.heartbeats.addresses = ("/ip4/10.0.0.1/tcp/1",)
    assert desk.says(0.0).addresses == desk.heartbeats.addresses
    assert desk.says(LAN.heartbeat_s).addresses == ()
    assert desk.says(LAN.gossip_heartbeat_s).addresses == desk.heartbeats.addresses


def test_a_sample_is_told_once(desk: Desk) -> None:
    sample: dict[str, Any] = {"cpu": 0.5}
    desk.heartbeats.sample = sample
    assert desk.says(0.0).sample == sample
    assert desk.says(1.0).sample is None
    desk.heartbeats.sample = dict(sample)
    assert desk.says(2.0).sample == sample


def test_it_tells_whether_it_writes_and_whether_it_stops(desk: Desk) -> None:
    said = desk.says(0.0)
    assert (said.writes, said.stopping) == (True, False)
    desk.book.may_write = False
    desk.device.stop(Now(0.5, WALL_MS), fx.Outbox())
    said = desk.says(1.0)
    assert (said.writes, said.stopping) == (False, True)


def test_it_dates_itself_by_the_wall_clock(desk: Desk) -> None:
    assert desk.says(2.0).wall_ms == WALL_MS + 2000


# In a node.


def beats(bench: Bench) -> list[Heartbeat]:
    return [sent.heartbeat for sent in bench.effects(fx.SendHeartbeat)]


def test_it_counts_what_runs_here_and_what_waits() -> None:
    bench = Bench(1)
    task = parse_task({"kind": "tool", "payload": {"tool": "echo"}})
    keys = [bytes([number]) * 16 for number in range(9)]
    bench.give(ins.Submit(1, [task] * 9, keys))
    bench.commit()
    bench.done.clear()
    bench.tick(LAN.heartbeat_s)
    (said,) = beats(bench)
    assert said.running == bench.node.device.slots == 2
    assert said.queued == bench.node.attempts.counts[bench.me.author] - 2 > 0


def test_a_large_cluster_beats_more_slowly() -> None:
    bench = Bench(33)
    assert bench.node.peers.scale == pytest.approx(33 / PEERS_PER_HEARTBEAT)
    bench.done.clear()
    bench.pass_time(5.0, heard=False)
    interval_s = bench.timers.heartbeat_s * 33 / PEERS_PER_HEARTBEAT
    assert 5.0 / (interval_s + bench.timers.tick_s) - 2 <= len(beats(bench)) <= 5.0 / interval_s + 2


def test_who_is_heard_for_the_first_time_hears_so_with_the_next_tick() -> None:
    bench = Bench(3, alive=False)
    bench.pass_time(1.6, heard=False)
    bench.done.clear()
    bench.hear(bench.others[0], echoes=())
    assert beats(bench) == []
    bench.tick(0.01)
    assert len(beats(bench)) == 1


def test_who_is_alive_makes_no_haste_by_being_heard() -> None:
    bench = Bench(3)
    bench.tick(LAN.heartbeat_s)
    bench.done.clear()
    bench.hear(bench.others[0])
    bench.tick(0.01)
    assert beats(bench) == []


def test_who_connects_is_told_at_once() -> None:
    bench = Bench(2, alive=False)
    bench.done.clear()
    bench.give(ins.PeerConnected(bench.others[0].author, "memory"))
    assert len(beats(bench)) == 1


def test_the_newest_sample_of_the_sensors_is_told() -> None:
    bench = Bench(2)
    bench.done.clear()
    bench.give(ins.SampleTaken({"cpu": 0.5}))
    bench.pass_time(2.0)
    assert [said.sample for said in beats(bench) if said.sample is not None] == [{"cpu": 0.5}]


def test_a_node_that_stops_or_can_not_write_says_so_at_once() -> None:
    bench = Bench(2)
    bench.done.clear()
    bench.give(ins.CommitFailed("disk_full"))
    assert [said.writes for said in beats(bench)] == [False]
    bench.give(ins.Stop())
    assert [said.stopping for said in beats(bench)] == [False, True]
