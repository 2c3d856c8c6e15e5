"""Attack 6: times in 2100, at 0 and at the very end, and a clock that slowly runs away.

Such events are stored and folded like any other, never taken over into the own clock, and fence
nothing.
"""

from __future__ import annotations

import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.clock import wall_ms
from kowalski_protocol.codec import encode
from kowalski_protocol.events import CancelRequested, LeaderClaimed, WeightsChanged
from kowalski_protocol.feeds import Event, event_hash, genesis
from kowalski_protocol.topics import TASK
from tests.units.bench import Bench, sign
from tests.units.histories import Writer

pytestmark = pytest.mark.attack

IN_2100 = 4_102_444_800_000 << 16
THE_END = (1 << 64) - 1


def at(bench: Bench, writer: Writer, *times: int) -> bytes:
    """A frame of this member with events at these times."""
    prev, events = genesis(bench.history.cluster, writer.author, TASK), list[Event]()
    for seq, hlc in enumerate(times, 1):
        body = encode(CancelRequested(seq.to_bytes(16, "big")))
        prev = event_hash(prev, seq, hlc, "CancelRequested", body)
        events.append(Event(writer.author, TASK, seq, hlc, "CancelRequested", body, prev))
    return sign(writer, events)


@pytest.mark.parametrize("times", [(1,), (IN_2100,), (THE_END,), (1, IN_2100, THE_END)])
def test_an_event_of_any_time_is_taken_in_and_drags_nobody_along(times: tuple[int, ...]) -> None:
    bench = Bench(3)
    author = bench.others[0]
    out = bench.give(ins.FrameReceived(author.author, at(bench, author, *times)))
    assert [event.hlc for event in out.append] == list(times)
    assert bench.effects(fx.Charge) == []
    own = bench.node.book.write(LeaderClaimed(99, b""), bench.now, bench.out)
    ahead_ms = wall_ms(own.hlc) - bench.now.wall_ms
    assert ahead_ms <= bench.timers.clock_ahead_max_s * 1000 + 1


@pytest.mark.parametrize("times", [(0,), (5, 5), (5, 4)])
def test_times_that_do_not_rise_are_refused(times: tuple[int, ...]) -> None:
    bench = Bench(3)
    author = bench.others[0]
    out = bench.give(ins.FrameReceived(author.author, at(bench, author, *times)))
    assert out.append == []
    assert [e.reason for e in out.at_once if isinstance(e, fx.Charge)] == ["time does not rise"]


def test_a_time_before_the_feed_s_last_is_refused_in_a_later_frame_too() -> None:
    bench = Bench(3)
    author = bench.others[0]
    bench.give(ins.FrameReceived(author.author, at(bench, author, IN_2100)))
    prev = bench.node.book.end(next(f for f in bench.node.book.ends if f.author == author.author))
    body = encode(CancelRequested(bytes(16)))
    hash = event_hash(prev.hash, 2, 7, "CancelRequested", body)
    event = Event(author.author, TASK, 2, 7, "CancelRequested", body, hash)
    out = bench.give(ins.FrameReceived(author.author, sign(author, [event])))
    assert out.append == []


def test_a_clock_that_runs_away_slowly_pulls_the_own_one_no_further_than_the_bound() -> None:
    bench = Bench(3)
    author = bench.others[0]
    author.hlc = bench.now.wall_ms << 16
    for second in range(2000):
        author.hlc = max(author.hlc, (bench.now.wall_ms + 50 * second) << 16)
        author.write(CancelRequested(bytes(16)))
        seq = len(author.feeds[TASK])
        bench.receive(author, seq, seq)
        own = bench.node.book.clock.tick(bench.now.wall_ms)
        assert wall_ms(own) - bench.now.wall_ms <= bench.timers.clock_ahead_max_s * 1000 + 1
        bench.tick(1.0)


def test_a_time_far_ahead_wins_no_leadership_and_no_weights_over_an_epoch_or_a_role() -> None:
    bench = Bench(3, me=1)
    founder, attacker = bench.others
    attacker.hlc = IN_2100
    attacker.write(LeaderClaimed(1, b""))
    attacker.write(WeightsChanged("tool", {"load": 0.0}))
    bench.receive(attacker)
    founder.write(LeaderClaimed(1, b""))
    bench.receive(founder)
    leader = bench.state.leader
    assert leader is not None
    assert leader.author == founder.author, "seniority, not time, decides between equal epochs"
    assert bench.state.weights() == {}


def test_all_nodes_fold_such_events_alike() -> None:
    digests: set[str] = set()
    for me in (0, 1):
        bench = Bench(3, me=me)
        author = bench.others[1]
        bench.give(ins.FrameReceived(author.author, at(bench, author, 1, IN_2100, THE_END)))
        digests.add(str(sorted(bench.state.tasks)))
    assert len(digests) == 1
