"""What is missing: frames that wait for a gap to be filled, and pulls that fill it.

The node is a plain member (`me=1`) of a cluster whose founder and third device are writers here.
"""

from __future__ import annotations

import msgspec
import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.events import CancelRequested, LeaderClaimed
from kowalski_protocol.feeds import Feed, Head
from kowalski_protocol.ids import Author, EventHash
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.topics import RESULT, TASK
from tests.units.bench import Follower
from tests.units.histories import Writer

# Holding.


def test_the_frames_that_are_held_for_one_author_are_bounded() -> None:
    limits = msgspec.structs.replace(LIMITS, held_frames_per_author_max=3)
    scene = Follower(limits=limits)
    scene.write(10)
    for seq in range(scene.told + 2, scene.told + 11):
        scene.receive(scene.founder, seq, seq)
    scene.receive(scene.founder, scene.told + 1, scene.told + 1)
    assert scene.reach() == scene.told + 4


def test_the_bytes_that_are_held_are_bounded_and_strangers_have_half_of_them() -> None:
    scene = Follower()
    scene.write(3)
    size = len(scene.frame(scene.founder, scene.told + 2))
    limits = msgspec.structs.replace(LIMITS, held_size_bytes_max=2 * size - 1)
    scene = Follower(limits=limits)
    scene.write(4)
    scene.receive(scene.founder, scene.told + 4, scene.told + 4)
    scene.receive(scene.founder, scene.told + 3, scene.told + 3)
    scene.receive(scene.founder, scene.told + 2, scene.told + 2)
    scene.receive(scene.founder, scene.told + 1, scene.told + 1)
    assert scene.reach() < scene.told + 4, "not all of them were held"
    stranger = Writer("a stranger")
    stranger.cluster = scene.history.cluster
    stranger.write(CancelRequested(bytes(16)))
    held = scene.node.sync.held_size_bytes
    scene.give(ins.FrameReceived(None, scene.frame(stranger)))
    assert scene.node.sync.held_size_bytes == held


def test_what_is_held_is_counted_exactly() -> None:
    scene = Follower()
    scene.write(4)
    for seq in (4, 3, 3, 2):
        scene.receive(scene.founder, scene.told + seq, scene.told + seq)
    sizes = [frame.size_bytes for frame in scene.node.sync._held[scene.feed].values()]
    assert (len(sizes), scene.node.sync.held_size_bytes) == (3, sum(sizes))
    scene.receive(scene.founder, scene.told + 1, scene.told + 1)
    assert (scene.node.sync._held, scene.node.sync.held_size_bytes) == ({}, 0)


def test_what_is_held_too_long_is_dropped() -> None:
    scene = Follower()
    scene.write(3)
    scene.receive(scene.founder, scene.told + 2, scene.told + 2)
    scene.tick(LIMITS.held_s - 1)
    scene.receive(scene.founder, scene.told + 3, scene.told + 3)
    scene.tick(2.0)
    assert list(scene.node.sync._held[scene.feed]) == [scene.told + 3]
    scene.tick(LIMITS.held_s)
    assert (scene.node.sync._held, scene.node.sync.held_size_bytes) == ({}, 0)


def test_frames_of_an_unknown_author_wait_for_its_admission() -> None:
    scene = Follower()
    newcomer = Writer("a newcomer")
    newcomer.cluster = scene.history.cluster
    newcomer.write(LeaderClaimed(1, b""))
    newcomer.write(CancelRequested(bytes(16)))
    scene.receive(newcomer, 1, 1)
    scene.receive(newcomer, 2, 2)
    assert scene.reach(Feed(newcomer.author, TASK)) == 0
    scene.history.admit(scene.founder, newcomer)
    scene.receive(scene.founder, scene.told + 1)
    assert scene.reach(Feed(newcomer.author, TASK)) == 2
    assert newcomer.author in scene.state.members


def test_who_is_still_unknown_after_an_admission_goes_on_waiting() -> None:
    scene = Follower()
    strangers = [Writer("one"), Writer("other")]
    for stranger in strangers:
        stranger.cluster = scene.history.cluster
        stranger.write(CancelRequested(bytes(16)))
        scene.receive(stranger)
    scene.history.admit(scene.founder, strangers[0])
    scene.receive(scene.founder, scene.told + 1)
    reached = [scene.reach(Feed(stranger.author, TASK)) for stranger in strangers]
    assert reached == [1, 0]
    assert list(scene.node.sync._held) == [Feed(strangers[1].author, TASK)]


def test_how_many_unknown_authors_are_held_for_is_bounded() -> None:
    limits = msgspec.structs.replace(LIMITS, members_max=4)
    scene = Follower(limits=limits)
    for number in range(20):
        stranger = Writer(f"stranger {number}")
        stranger.cluster = scene.history.cluster
        stranger.write(CancelRequested(bytes(16)))
        scene.give(ins.FrameReceived(None, scene.frame(stranger)))
    assert len(scene.node.sync._held) == 4
    scene.write(2)
    scene.receive(scene.founder, scene.told + 2)
    assert scene.feed in scene.node.sync._held, "a member's frames are held all the same"


# Pulling.


def test_what_is_missing_is_pulled_from_who_says_it_has_it() -> None:
    scene = Follower()
    last = scene.write(5)
    scene.heads(scene.third, last)
    assert scene.pulls() == [(scene.third.author, scene.told)]
    scene.pulled(scene.third, scene.frame(scene.founder, scene.told + 1))
    assert scene.reach() == last
    assert not scene.node.sync.lagging(scene.feed)


def test_a_long_feed_is_pulled_piece_by_piece_without_a_pause() -> None:
    scene = Follower()
    last = scene.write(30)
    scene.heads(scene.third, last)
    at = scene.told
    while at < last:
        assert scene.pulls()[-1] == (scene.third.author, at)
        scene.pulled(scene.third, scene.frame(scene.founder, at + 1, min(last, at + 10)))
        at = min(last, at + 10)
    assert scene.reach() == last
    assert len(scene.pulls()) == 3


def test_a_gap_is_pulled_after_a_moment_and_not_when_it_fills_by_itself() -> None:
    scene = Follower()
    last = scene.write(3)
    scene.receive(scene.founder, last)
    scene.tick(scene.timers.lag_s / 2)
    assert scene.pulls() == []
    scene.receive(scene.founder, scene.told + 1, last - 1)
    scene.tick(1.0)
    assert scene.pulls() == []
    last = scene.write(3)
    scene.receive(scene.founder, last)
    scene.tick(scene.timers.lag_s + 0.01)
    assert scene.pulls() == [(scene.founder.author, last - 3)]


def test_who_has_most_is_asked_and_of_those_the_nearest() -> None:
    scene = Follower(4)
    last = scene.write(5)
    far, near = scene.others[1], scene.others[2]
    scene.node.peers.peer(far.author).round_trip_s = 0.5
    scene.node.peers.peer(near.author).round_trip_s = 0.1
    scene.node.sync.note(far.author, scene.feed, last, scene.now)
    scene.node.sync.note(near.author, scene.feed, last, scene.now)
    scene.node.sync.note(scene.founder.author, scene.feed, last - 1, scene.now)
    scene.tick(1.0)
    assert scene.pulls() == [(near.author, scene.told)]


def test_a_pull_that_failed_asks_another() -> None:
    scene = Follower(4)
    last = scene.write(5)
    first, second = scene.others[1], scene.others[2]
    for peer in (first, second):
        scene.node.sync.note(peer.author, scene.feed, last, scene.now)
    scene.tick(1.0)
    ((asked, _),) = scene.pulls()
    scene.give(ins.PullEnded(asked, scene.feed, None))
    assert [peer for peer, _ in scene.pulls()] in (
        [first.author, second.author],
        [second.author, first.author],
    )
    scene.give(ins.PullEnded(scene.pulls()[1][0], scene.feed, ()))
    scene.tick(5.0)
    assert len(scene.pulls()) == 2, "nobody is left who says it has it"
    assert not scene.node.sync.lagging(scene.feed)


def test_a_pull_that_is_never_answered_asks_another() -> None:
    scene = Follower(4)
    last = scene.write(5)
    for peer in scene.others[1:]:
        scene.node.sync.note(peer.author, scene.feed, last, scene.now)
    scene.tick(1.0)
    scene.pass_time(2 * scene.timers.pull_timeout_s - 2.0)
    assert len(scene.pulls()) == 1
    scene.pass_time(4.0)
    assert len({peer for peer, _ in scene.pulls()}) == 2


def test_nobody_who_is_not_connected_is_asked() -> None:
    scene = Follower()
    last = scene.write(5)
    scene.give(ins.PeerDisconnected(scene.third.author))
    scene.heads(scene.third, last)
    scene.tick(1.0)
    assert scene.pulls() == []
    scene.give(ins.PeerConnected(scene.third.author, "memory"))
    scene.tick(1.0)
    assert scene.pulls() == [(scene.third.author, scene.told)]


def test_pulls_in_flight_are_bounded() -> None:
    limits = msgspec.structs.replace(LIMITS, pulls_in_flight_max=2)
    scene = Follower(5, limits=limits)
    heads = {
        Feed(other.author, topic): Head(1000, EventHash(bytes(32)))
        for other in scene.others
        for topic in (TASK, RESULT)
    }
    scene.give(ins.HeadsReceived(scene.third.author, heads, False))
    assert len(scene.effects(fx.Pull)) == 2
    scene.tick(1.0)
    assert len(scene.effects(fx.Pull)) == 2
    done = scene.effects(fx.Pull)[0]
    scene.give(ins.PullEnded(done.peer, done.feed, None))
    assert len(scene.effects(fx.Pull)) == 3


def test_a_heartbeat_tells_how_far_its_author_s_feeds_reach() -> None:
    scene = Follower()
    last = scene.write(2)
    scene.hear(scene.founder, task_seq=last)
    scene.tick(scene.timers.lag_s + 0.01)
    assert scene.pulls() == [(scene.founder.author, scene.told)]


@pytest.mark.parametrize("seq", [-5, 0, 1])
def test_who_has_no_more_than_we_is_not_asked(seq: int) -> None:
    scene = Follower()
    scene.hear(scene.founder, task_seq=seq, result_seq=seq - 1)
    scene.heads(scene.third, seq)
    scene.tick(1.0)
    assert scene.effects(fx.Pull) == []


def test_a_member_that_says_it_has_everything_is_asked_once_a_word_and_blocks_nobody() -> None:
    scene = Follower()
    last = scene.write(5)
    scene.heads(scene.third, (1 << 63) - 1)
    scene.heads(scene.founder, last)
    assert scene.pulls() == [(scene.third.author, scene.told)]
    scene.give(ins.PullEnded(scene.third.author, scene.feed, ()))
    assert scene.pulls()[-1] == (scene.founder.author, scene.told)
    scene.pulled(scene.founder, scene.frame(scene.founder, scene.told + 1))
    assert scene.reach() == last


def made_up(count: int) -> dict[Feed, Head]:
    """Heads of authors whom nobody knows."""
    return {
        Feed(Author(number.to_bytes(32, "big")), TASK): Head(9, EventHash(bytes(32)))
        for number in range(1, 1 + count)
    }


def test_heads_of_made_up_feeds_make_room_for_those_of_newcomers_in_time() -> None:
    scene = Follower()
    newcomer = Writer("newcomer")
    feed = Feed(newcomer.author, TASK)
    scene.give(ins.HeadsReceived(scene.third.author, made_up(20_000), False))
    scene.heads(scene.founder, 3, feed=feed)
    assert not scene.node.sync.lagging(feed), "there is no room yet"
    scene.pass_time(LIMITS.held_s + 1.0)
    scene.heads(scene.founder, 3, feed=feed)
    assert scene.node.sync.lagging(feed)
    assert len(scene.node.sync._later) == 4 * LIMITS.members_max


def test_heads_of_made_up_feeds_leave_room_for_those_of_members() -> None:
    scene = Follower()
    scene.give(ins.HeadsReceived(scene.third.author, made_up(20_000), False))
    assert len(scene.node.sync._later) == 4 * LIMITS.members_max
    assert not scene.node.sync.is_behind(), "what can't be pulled is not missing"
    last = scene.write(3)
    scene.heads(scene.founder, last)
    assert scene.pulls() == [(scene.founder.author, scene.told)]


def test_heads_are_answered_where_that_is_asked_for() -> None:
    scene = Follower()
    out = scene.give(ins.HeadsReceived(scene.third.author, {}, True))
    (answer,) = [e for e in out.at_once if isinstance(e, fx.SendHeads)]
    assert (answer.peer, answer.wants_answer) == (scene.third.author, False)
    assert answer.heads == scene.node.book.committed


def test_heads_are_compared_with_those_who_show_another_hash_one_at_a_time() -> None:
    scene = Follower(4)
    for other in scene.others:
        scene.hear(other, heads_hash=b"something else  ")
    asked: list[Author] = []
    for _ in range(6):
        scene.done.clear()
        scene.tick(scene.timers.anti_entropy_s + 0.01)
        (sent,) = [e for e in scene.effects(fx.SendHeads) if e.wants_answer]
        asked.append(sent.peer)
    assert len(set(asked)) == 3, "all of them in turn"


def test_where_all_show_one_hash_nothing_is_compared() -> None:
    scene = Follower()
    scene.commit()
    for other in scene.others:
        scene.hear(other)
    scene.done.clear()
    scene.tick(scene.timers.anti_entropy_s + 0.01)
    assert scene.effects(fx.SendHeads) == []
