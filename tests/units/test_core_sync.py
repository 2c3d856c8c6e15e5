"""How events come in: checked, put in order, held for a while, and asked for where they are
missing.

The node is a plain member (`me=1`) of a cluster whose founder and third device are writers here.
"""

from __future__ import annotations

import msgspec
import pytest

from kowalski_ledger.state import State
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.node import Node, NodeConfig
from kowalski_protocol.codec import decode, encode
from kowalski_protocol.events import CancelRequested, LeaderClaimed, TaskSubmitted
from kowalski_protocol.feeds import Feed, FrameHeader, Head
from kowalski_protocol.ids import Author, EventHash
from kowalski_protocol.limits import LIMITS, LOCAL
from kowalski_protocol.tasks import parse_task
from kowalski_protocol.topics import RESULT, TASK
from tests.units.bench import START_MS, Bench, sign
from tests.units.histories import History, Writer

HEADERS = msgspec.msgpack.Decoder(FrameHeader)


class Scene(Bench):
    """The node under test, with what a writer has written since it last told."""

    def __init__(self, devices: int = 3, **options: object) -> None:
        super().__init__(devices, me=1, **options)  # type: ignore[arg-type]
        self.founder = self.history.founder
        self.third = self.others[1]
        self.feed = Feed(self.founder.author, TASK)
        self.told = len(self.founder.feeds[TASK])

    def write(self, count: int = 1, writer: Writer | None = None) -> int:
        """Events that the node has not heard of; the seq of the last one."""
        author = writer or self.founder
        for _ in range(count):
            author.write(CancelRequested(bytes(16)))
        return len(author.feeds[TASK])

    def reach(self, feed: Feed | None = None) -> int:
        return self.node.book.end(feed or self.feed).seq

    def reasons(self) -> list[str]:
        return [charge.reason for charge in self.effects(fx.Charge)]

    def pulls(self) -> list[tuple[Author, int]]:
        return [(p.peer, p.after_seq) for p in self.effects(fx.Pull) if p.feed == self.feed]

    def heads(self, peer: Writer, seq: int, *, feed: Feed | None = None) -> fx.Outbox:
        head = {feed or self.feed: Head(seq, EventHash(bytes(32)))}
        return self.give(ins.HeadsReceived(peer.author, head, False))

    def pulled(self, peer: Writer, *frames: bytes) -> fx.Outbox:
        return self.give(ins.PullEnded(peer.author, self.feed, frames))


# Frames in order.


def test_a_frame_that_follows_is_taken_in_and_acknowledged_when_it_is_durable() -> None:
    scene = Scene()
    last = scene.write(3)
    out = scene.receive(scene.founder, scene.told + 1)
    assert scene.reach() == last
    assert [event.seq for event in out.append] == [last - 2, last - 1, last]
    assert not [e for e in out.at_once if isinstance(e, fx.Acknowledge)]
    assert out.then == [fx.Acknowledge(scene.founder.author, TASK, last)]


def test_a_frame_that_is_known_is_nothing_new() -> None:
    scene = Scene()
    scene.write(3)
    scene.receive(scene.founder, scene.told + 1)
    scene.commit()
    out = scene.receive(scene.founder, scene.told + 1)
    assert (out.append, out.then, scene.reasons()) == ([], [], [])


def test_a_frame_that_overlaps_brings_what_is_new_of_it() -> None:
    scene = Scene()
    scene.write(2)
    scene.receive(scene.founder, scene.told + 1)
    last = scene.write(2)
    out = scene.receive(scene.founder, scene.told)
    assert [event.seq for event in out.append] == [last - 1, last]
    assert scene.reach() == last


def test_a_frame_that_overlaps_from_the_very_first_event_is_taken() -> None:
    scene = Scene()
    last = scene.write(2)
    scene.receive(scene.founder)
    assert scene.reach() == last


def test_frames_in_any_order_come_to_the_same() -> None:
    scene = Scene()
    frames = []
    for _ in range(5):
        last = scene.write(2)
        frames.append(scene.frame(scene.founder, last - 1))
    for frame in reversed(frames):
        scene.give(ins.FrameReceived(scene.founder.author, frame))
    assert scene.reach() == scene.told + 10
    assert scene.reasons() == []


def test_what_was_overtaken_while_it_was_held_is_dropped() -> None:
    scene = Scene()
    last = scene.write(4)
    scene.receive(scene.founder, last)
    scene.receive(scene.founder, last - 1)
    scene.receive(scene.founder, scene.told + 1)
    assert scene.reach() == last
    assert scene.reasons() == []


def test_an_overlap_beyond_what_is_remembered_is_pulled_instead() -> None:
    limits = msgspec.structs.replace(LIMITS, recent_hashes_max=2)
    scene = Scene(limits=limits)
    scene.write(5)
    scene.receive(scene.founder, scene.told + 1)
    last = scene.write(1)
    out = scene.receive(scene.founder, scene.told + 1)
    assert out.append == []
    scene.tick(scene.timers.lag_s + 0.01)
    assert scene.pulls() == [(scene.founder.author, last - 1)]
    scene.give(ins.FrameReceived(None, scene.frame(scene.founder, scene.told + 1)))
    assert scene.reach() == last - 1


def test_frames_of_gossip_have_no_sender_to_ask() -> None:
    scene = Scene()
    last = scene.write(3)
    scene.give(ins.FrameReceived(None, scene.frame(scene.founder, last)))
    scene.tick(1.0)
    assert scene.pulls() == []
    assert not scene.node.sync.is_behind()
    scene.give(ins.FrameReceived(None, scene.frame(scene.founder, scene.told + 1, last - 1)))
    assert scene.reach() == last, "it was held all the same"


# Frames that are wrong.


def test_a_frame_with_a_wrong_signature_changes_nothing_and_is_charged() -> None:
    scene = Scene()
    scene.write(1)
    header = decode(scene.frame(scene.founder, scene.told + 1), HEADERS)
    forged = encode(msgspec.structs.replace(header, signature=bytes(64)))
    out = scene.give(ins.FrameReceived(scene.third.author, forged))
    assert out.append == []
    assert out.at_once == [fx.Charge(scene.third.author, "signature")]


def test_a_frame_with_a_wrong_signature_is_not_even_held() -> None:
    scene = Scene()
    scene.write(3)
    header = decode(scene.frame(scene.founder, scene.told + 3), HEADERS)
    forged = encode(msgspec.structs.replace(header, signature=bytes(64)))
    scene.give(ins.FrameReceived(scene.third.author, forged))
    assert scene.reasons() == ["signature"]
    scene.receive(scene.founder, scene.told + 3)
    scene.receive(scene.founder, scene.told + 1, scene.told + 2)
    assert scene.reach() == scene.told + 3, "the forged one took no place"


def test_a_held_frame_that_turns_out_wrong_is_charged_to_nobody_in_particular() -> None:
    scene = Scene()
    fork = History(3)
    fork.admit_all()
    for _ in range(3):
        fork.founder.write(CancelRequested(b"f" * 16))
    scene.write(2)
    other_branch = sign(fork.founder, fork.founder.feeds[TASK][scene.told + 1 :])
    scene.give(ins.FrameReceived(scene.third.author, other_branch))
    scene.receive(scene.founder, scene.told + 1, scene.told + 1)
    assert scene.reach() == scene.told + 1
    assert scene.reasons() == ["chain does not end at the signed hash"]
    assert scene.effects(fx.Charge)[0].peer is None


def test_a_fork_is_refused_whichever_branch_came_first() -> None:
    scene = Scene()
    fork = History(3)
    fork.admit_all()
    for _ in range(3):
        fork.founder.write(CancelRequested(b"f" * 16))
    scene.write(2)
    scene.receive(scene.founder, scene.told + 1)
    out = scene.give(
        ins.FrameReceived(scene.third.author, sign(fork.founder, fork.founder.feeds[TASK]))
    )
    assert out.append == []
    assert scene.reasons() == ["fork: two events of one author, topic and seq"]
    assert scene.reach() == scene.told + 2


def test_a_fork_of_what_is_known_already_is_noticed_and_a_forged_one_is_nothing() -> None:
    scene = Scene()
    fork = History(3)
    fork.admit_all()
    fork.founder.write(CancelRequested(b"f" * 16))
    scene.write(2)
    scene.receive(scene.founder, scene.told + 1)
    other = sign(fork.founder, fork.founder.feeds[TASK][scene.told :])
    forged = encode(msgspec.structs.replace(decode(other, HEADERS), signature=bytes(64)))
    scene.give(ins.FrameReceived(scene.third.author, forged))
    assert scene.reasons() == []
    scene.give(ins.FrameReceived(scene.third.author, other))
    assert scene.reasons() == ["fork: two events of one author, topic and seq"]
    assert scene.reach() == scene.told + 2


def test_a_branch_that_can_not_be_used_is_not_pulled_again_and_again() -> None:
    scene = Scene()
    fork = History(3)
    fork.admit_all()
    for _ in range(5):
        fork.founder.write(CancelRequested(b"f" * 16))
    scene.write(2)
    scene.receive(scene.founder, scene.told + 1)
    scene.heads(scene.third, scene.told + 5)
    assert len(scene.pulls()) == 1
    branch = sign(fork.founder, fork.founder.feeds[TASK][scene.told + 2 :])
    for _ in range(50):
        scene.pulled(scene.third, branch)
        scene.tick(0.05)
    assert len(scene.pulls()) == 1


def test_a_frame_of_another_cluster_or_of_no_form_is_charged() -> None:
    scene = Scene()
    other = Bench(2)
    other.history.founder.write(CancelRequested(bytes(16)))
    other.history.founder.cluster = type(scene.history.cluster)(bytes(32))
    foreign = other.frame(other.history.founder)
    for data in (foreign, b"", b"\xc1", b"\x91" * 50_000):
        scene.give(ins.FrameReceived(scene.third.author, data))
    assert len(scene.reasons()) == 4
    assert scene.reasons()[0] == "frame of another cluster"


def test_a_frame_of_the_own_feed_that_this_node_did_not_write_is_refused() -> None:
    scene = Scene()
    scene.commit()
    twin = Writer(scene.me.name)
    twin.cluster = scene.history.cluster
    for _ in range(20):
        twin.write(CancelRequested(bytes(16)))
    before = scene.reach(Feed(scene.me.author, TASK))
    for first in (1, before + 1, before + 5):
        scene.give(ins.FrameReceived(scene.third.author, scene.frame(twin, first)))
    assert set(scene.reasons()) == {"a frame of our own feed that this node did not write"}
    assert scene.reach(Feed(scene.me.author, TASK)) == before
    scene.heads(scene.third, 20, feed=Feed(scene.me.author, TASK))
    scene.tick(1.0)
    assert not scene.effects(fx.Pull)


# Holding.


def test_the_frames_that_are_held_for_one_author_are_bounded() -> None:
    limits = msgspec.structs.replace(LIMITS, held_frames_per_author_max=3)
    scene = Scene(limits=limits)
    scene.write(10)
    for seq in range(scene.told + 2, scene.told + 11):
        scene.receive(scene.founder, seq, seq)
    scene.receive(scene.founder, scene.told + 1, scene.told + 1)
    assert scene.reach() == scene.told + 4


def test_the_bytes_that_are_held_are_bounded_and_strangers_have_half_of_them() -> None:
    scene = Scene()
    scene.write(3)
    size = len(scene.frame(scene.founder, scene.told + 2))
    limits = msgspec.structs.replace(LIMITS, held_size_bytes_max=2 * size - 1)
    scene = Scene(limits=limits)
    scene.write(4)
    scene.receive(scene.founder, scene.told + 4, scene.told + 4)
    scene.receive(scene.founder, scene.told + 3, scene.told + 3)
    scene.receive(scene.founder, scene.told + 2, scene.told + 2)
    scene.receive(scene.founder, scene.told + 1, scene.told + 1)
    assert scene.reach() < scene.told + 4, "not all of them were held"
    stranger = Writer("a stranger")
    stranger.cluster = scene.history.cluster
    stranger.write(CancelRequested(bytes(16)))
    held = scene.node.sync._held_size_bytes
    scene.give(ins.FrameReceived(None, scene.frame(stranger)))
    assert scene.node.sync._held_size_bytes == held


def test_what_is_held_is_counted_exactly() -> None:
    scene = Scene()
    scene.write(4)
    for seq in (4, 3, 3, 2):
        scene.receive(scene.founder, scene.told + seq, scene.told + seq)
    sizes = [len(frame.data) for frame in scene.node.sync._held[scene.feed].values()]
    assert (len(sizes), scene.node.sync._held_size_bytes) == (3, sum(sizes))
    scene.receive(scene.founder, scene.told + 1, scene.told + 1)
    assert (scene.node.sync._held, scene.node.sync._held_size_bytes) == ({}, 0)


def test_what_is_held_too_long_is_dropped() -> None:
    scene = Scene()
    scene.write(3)
    scene.receive(scene.founder, scene.told + 2, scene.told + 2)
    scene.tick(LIMITS.held_s - 1)
    scene.receive(scene.founder, scene.told + 3, scene.told + 3)
    scene.tick(2.0)
    assert list(scene.node.sync._held[scene.feed]) == [scene.told + 3]
    scene.tick(LIMITS.held_s)
    assert (scene.node.sync._held, scene.node.sync._held_size_bytes) == ({}, 0)


def test_frames_of_an_unknown_author_wait_for_its_admission() -> None:
    scene = Scene()
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
    scene = Scene()
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
    scene = Scene(limits=limits)
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
    scene = Scene()
    last = scene.write(5)
    scene.heads(scene.third, last)
    assert scene.pulls() == [(scene.third.author, scene.told)]
    scene.pulled(scene.third, scene.frame(scene.founder, scene.told + 1))
    assert scene.reach() == last
    assert not scene.node.sync.lagging(scene.feed)


def test_a_long_feed_is_pulled_piece_by_piece_without_a_pause() -> None:
    scene = Scene()
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
    scene = Scene()
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
    scene = Scene(4)
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
    scene = Scene(4)
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
    scene = Scene(4)
    last = scene.write(5)
    for peer in scene.others[1:]:
        scene.node.sync.note(peer.author, scene.feed, last, scene.now)
    scene.tick(1.0)
    scene.pass_time(2 * scene.timers.pull_timeout_s - 2.0)
    assert len(scene.pulls()) == 1
    scene.pass_time(4.0)
    assert len({peer for peer, _ in scene.pulls()}) == 2


def test_nobody_who_is_not_connected_is_asked() -> None:
    scene = Scene()
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
    scene = Scene(5, limits=limits)
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
    scene = Scene()
    last = scene.write(2)
    scene.hear(scene.founder, task_seq=last)
    scene.tick(scene.timers.lag_s + 0.01)
    assert scene.pulls() == [(scene.founder.author, scene.told)]


@pytest.mark.parametrize("seq", [-5, 0, 1])
def test_who_has_no_more_than_we_is_not_asked(seq: int) -> None:
    scene = Scene()
    scene.hear(scene.founder, task_seq=seq, result_seq=seq - 1)
    scene.heads(scene.third, seq)
    scene.tick(1.0)
    assert scene.effects(fx.Pull) == []


def test_a_member_that_says_it_has_everything_is_asked_once_a_word_and_blocks_nobody() -> None:
    scene = Scene()
    last = scene.write(5)
    scene.heads(scene.third, (1 << 63) - 1)
    scene.heads(scene.founder, last)
    assert scene.pulls() == [(scene.third.author, scene.told)]
    scene.give(ins.PullEnded(scene.third.author, scene.feed, ()))
    assert scene.pulls()[-1] == (scene.founder.author, scene.told)
    scene.pulled(scene.founder, scene.frame(scene.founder, scene.told + 1))
    assert scene.reach() == last


def test_heads_of_made_up_feeds_leave_room_for_those_of_members() -> None:
    scene = Scene()
    rubbish = {
        Feed(Author(number.to_bytes(32, "big")), TASK): Head(9, EventHash(bytes(32)))
        for number in range(20_000)
    }
    scene.give(ins.HeadsReceived(scene.third.author, rubbish, False))
    assert len(scene.node.sync._lags) <= 4 * LIMITS.members_max
    assert not scene.node.sync.is_behind(), "what can't be pulled is not missing"
    last = scene.write(3)
    scene.heads(scene.founder, last)
    assert scene.pulls() == [(scene.founder.author, scene.told)]


def test_heads_are_answered_where_that_is_asked_for() -> None:
    scene = Scene()
    out = scene.give(ins.HeadsReceived(scene.third.author, {}, True))
    (answer,) = [e for e in out.at_once if isinstance(e, fx.SendHeads)]
    assert (answer.peer, answer.wants_answer) == (scene.third.author, False)
    assert answer.heads == scene.node.book.committed


def test_heads_are_compared_with_those_who_show_another_hash_one_at_a_time() -> None:
    scene = Scene(4)
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
    scene = Scene()
    scene.commit()
    for other in scene.others:
        scene.hear(other)
    scene.done.clear()
    scene.tick(scene.timers.anti_entropy_s + 0.01)
    assert scene.effects(fx.SendHeads) == []


# Attachments.


def submission(scene: Scene, attachment: bytes | None) -> bytes:
    task = parse_task({"kind": "tool", "payload": {"tool": "echo"}})
    event = scene.founder.write(TaskSubmitted(scene.founder.author, b"kone", task.spec_bytes))
    event.attachment = task.payload if attachment is None else attachment
    return scene.frame(scene.founder, scene.told + 1)


def test_an_attachment_that_is_what_its_event_says_is_kept() -> None:
    scene = Scene()
    out = scene.give(ins.FrameReceived(scene.third.author, submission(scene, None)))
    assert out.append[0].attachment == encode({"tool": "echo"})
    assert scene.reasons() == []


def test_a_changed_attachment_passed_on_by_another_is_refused_with_its_frame() -> None:
    scene = Scene()
    changed = submission(scene, b"something else")
    scene.give(ins.FrameReceived(scene.third.author, changed))
    assert scene.reach() == scene.told
    assert scene.reasons() == ["an attachment that is not what its event says"]


def test_a_wrong_attachment_from_the_author_itself_is_left_out_and_its_feed_goes_on() -> None:
    scene = Scene()
    changed = submission(scene, b"something else")
    out = scene.give(ins.FrameReceived(scene.founder.author, changed))
    assert out.append[0].attachment is None
    assert scene.reach() == scene.told + 1
    assert len(scene.reasons()) == 1


def test_an_attachment_that_no_body_speaks_of_is_left_out() -> None:
    scene = Scene()
    scene.founder.write(CancelRequested(bytes(16))).attachment = b"a stowaway"
    out = scene.receive(scene.founder, scene.told + 1)
    assert out.append[0].attachment is None


# A newcomer.


class Newcomer:
    """A node with an empty ledger that knows only who founded the cluster."""

    def __init__(self) -> None:
        self.history = History(2)
        self.history.admit_all()
        self.founder, self.me = self.history.devices
        self.founder.write(LeaderClaimed(1, b""))
        self.founder.raw(RESULT, "Anything", b"")
        config = NodeConfig(self.me.author, "new", 1, LOCAL, 2)
        now = ins.Now(0.0, START_MS)
        self.node = Node(config, State(self.history.cluster), now, founder_hint=self.founder.author)
        self.charges: list[str] = []

    def receive(self, data: bytes) -> None:
        out = fx.Outbox()
        self.node.step(ins.FrameReceived(self.founder.author, data), ins.Now(0.1, START_MS), out)
        self.charges += [e.reason for e in out.at_once if isinstance(e, fx.Charge)]


def test_a_newcomer_begins_with_the_founder_s_first_event() -> None:
    new = Newcomer()
    new.receive(sign(new.founder, new.founder.feeds[TASK]))
    assert list(new.node.state.members) == [new.founder.author, new.me.author]
    assert new.charges == []


def test_results_that_come_before_the_tasks_wait_for_them() -> None:
    new = Newcomer()
    new.receive(sign(new.founder, new.founder.feeds[RESULT]))
    assert (new.charges, new.node.state.founder) == ([], None)
    new.receive(sign(new.founder, new.founder.feeds[TASK]))
    assert new.node.book.end(Feed(new.founder.author, RESULT)).seq == 1
    assert new.charges == []


def test_a_first_event_that_founds_another_cluster_is_refused() -> None:
    new = Newcomer()
    fraud = Writer(new.founder.name)
    fraud.cluster = new.history.cluster
    fraud.write(LeaderClaimed(1, b""))
    new.receive(sign(fraud, fraud.feeds[TASK]))
    assert new.charges == ["a first event that does not found this cluster"]
    assert new.node.state.founder is None
    new.receive(sign(new.founder, new.founder.feeds[TASK]))
    assert new.node.state.founder is not None, "and the true one is still welcome"
