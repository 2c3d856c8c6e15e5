"""How events come in: frames checked and put in order, attachments, and a newcomer's first ones.

The node is a plain member (`me=1`) of a cluster whose founder and third device are writers here.
What is held and asked for where a part is missing is in `test_core_sync_gaps.py`.
"""

from __future__ import annotations

import msgspec

from kowalski_ledger.state import State
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.node import Node, NodeConfig
from kowalski_protocol.codec import decode, encode
from kowalski_protocol.events import CancelRequested, LeaderClaimed, TaskDeclined, TaskSubmitted
from kowalski_protocol.feeds import Feed, FrameHeader
from kowalski_protocol.limits import LIMITS, LOCAL
from kowalski_protocol.tasks import parse_task
from kowalski_protocol.topics import RESULT, TASK
from tests.units.bench import START_MS, Bench, Follower, sign
from tests.units.histories import History, Writer

HEADERS = msgspec.msgpack.Decoder(FrameHeader)


# Frames in order.


def test_a_frame_that_follows_is_taken_in_and_acknowledged_when_it_is_durable() -> None:
    scene = Follower()
    last = scene.write(3)
    out = scene.receive(scene.founder, scene.told + 1)
    assert scene.reach() == last
    assert [event.seq for event in out.append] == [last - 2, last - 1, last]
    assert not [e for e in out.at_once if isinstance(e, fx.Acknowledge)]
    assert out.then == [fx.Acknowledge(scene.founder.author, TASK, last)]


def test_a_frame_that_is_known_is_nothing_new() -> None:
    scene = Follower()
    scene.write(3)
    scene.receive(scene.founder, scene.told + 1)
    scene.commit()
    out = scene.receive(scene.founder, scene.told + 1)
    assert (out.append, out.then, scene.reasons()) == ([], [], [])


def test_a_frame_that_overlaps_brings_what_is_new_of_it() -> None:
    scene = Follower()
    scene.write(2)
    scene.receive(scene.founder, scene.told + 1)
    last = scene.write(2)
    out = scene.receive(scene.founder, scene.told)
    assert [event.seq for event in out.append] == [last - 1, last]
    assert scene.reach() == last


def test_a_frame_that_overlaps_from_the_very_first_event_is_taken() -> None:
    scene = Follower()
    last = scene.write(2)
    scene.receive(scene.founder)
    assert scene.reach() == last


def test_frames_in_any_order_come_to_the_same() -> None:
    scene = Follower()
    frames = []
    for _ in range(5):
        last = scene.write(2)
        frames.append(scene.frame(scene.founder, last - 1))
    for frame in reversed(frames):
        scene.give(ins.FrameReceived(scene.founder.author, frame))
    assert scene.reach() == scene.told + 10
    assert scene.reasons() == []


def test_what_was_overtaken_while_it_was_held_is_dropped() -> None:
    scene = Follower()
    last = scene.write(4)
    scene.receive(scene.founder, last)
    scene.receive(scene.founder, last - 1)
    scene.receive(scene.founder, scene.told + 1)
    assert scene.reach() == last
    assert scene.reasons() == []


def test_an_overlap_beyond_what_is_remembered_is_pulled_instead() -> None:
    limits = msgspec.structs.replace(LIMITS, recent_hashes_max=2)
    scene = Follower(limits=limits)
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
    scene = Follower()
    last = scene.write(3)
    scene.give(ins.FrameReceived(None, scene.frame(scene.founder, last)))
    scene.tick(1.0)
    assert scene.pulls() == []
    assert not scene.node.sync.is_behind()
    scene.give(ins.FrameReceived(None, scene.frame(scene.founder, scene.told + 1, last - 1)))
    assert scene.reach() == last, "it was held all the same"


# Frames that are wrong.


def test_a_frame_with_a_wrong_signature_changes_nothing_and_is_charged() -> None:
    scene = Follower()
    scene.write(1)
    header = decode(scene.frame(scene.founder, scene.told + 1), HEADERS)
    forged = encode(msgspec.structs.replace(header, signature=bytes(64)))
    out = scene.give(ins.FrameReceived(scene.third.author, forged))
    assert out.append == []
    assert out.at_once == [fx.Charge(scene.third.author, "signature")]


def test_a_frame_with_a_wrong_signature_is_not_even_held() -> None:
    scene = Follower()
    scene.write(3)
    header = decode(scene.frame(scene.founder, scene.told + 3), HEADERS)
    forged = encode(msgspec.structs.replace(header, signature=bytes(64)))
    scene.give(ins.FrameReceived(scene.third.author, forged))
    assert scene.reasons() == ["signature"]
    scene.receive(scene.founder, scene.told + 3)
    scene.receive(scene.founder, scene.told + 1, scene.told + 2)
    assert scene.reach() == scene.told + 3, "the forged one took no place"


def test_a_held_frame_that_turns_out_wrong_is_charged_to_nobody_in_particular() -> None:
    scene = Follower()
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
    scene = Follower()
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
    scene = Follower()
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
    scene = Follower()
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
    scene = Follower()
    other = Bench(2)
    other.history.founder.write(CancelRequested(bytes(16)))
    other.history.founder.cluster = type(scene.history.cluster)(bytes(32))
    foreign = other.frame(other.history.founder)
    for data in (foreign, b"", b"\xc1", b"\x91" * 50_000):
        scene.give(ins.FrameReceived(scene.third.author, data))
    assert len(scene.reasons()) == 4
    assert scene.reasons()[0] == "frame of another cluster"


def test_a_frame_of_the_own_feed_that_this_node_did_not_write_is_refused() -> None:
    scene = Follower()
    scene.commit()
    twin = Writer(scene.me.name)
    twin.cluster = scene.history.cluster
    for _ in range(20):
        twin.write(CancelRequested(bytes(16)))
    before = scene.reach(Feed(scene.me.author, TASK))
    for first in (1, before + 1, before + 5):
        scene.give(ins.FrameReceived(scene.third.author, scene.frame(twin, first)))
    charges = {(charge.peer, charge.reason) for charge in scene.effects(fx.Charge)}
    assert charges == {(None, "a frame of our own feed that this node did not write")}
    signature = twin.feeds[TASK][-1].signature
    assert signature is not None
    forged = scene.frame(twin, before + 1).replace(signature, bytes(64))
    scene.give(ins.FrameReceived(scene.third.author, forged))
    assert scene.effects(fx.Charge)[-1] == fx.Charge(scene.third.author, "signature")
    assert scene.reach(Feed(scene.me.author, TASK)) == before
    scene.heads(scene.third, 20, feed=Feed(scene.me.author, TASK))
    scene.tick(1.0)
    assert not scene.effects(fx.Pull)


def test_what_was_lost_of_one_own_feed_is_taken_back_although_the_other_was_written() -> None:
    """As after a backup was restored: only a feed that was written since can't be mended."""
    scene = Follower()
    scene.commit()
    assert scene.node.book.written == {TASK}
    twin = Writer(scene.me.name)
    twin.cluster = scene.history.cluster
    for number in range(3):
        twin.write(TaskDeclined(bytes(16), bytes([number] * 32), "restarted"))
    lost = sign(twin, twin.feeds[RESULT])
    own = Feed(scene.me.author, RESULT)
    scene.heads(scene.third, 3, feed=own)
    assert [(pull.peer, pull.after_seq) for pull in scene.effects(fx.Pull)] == [
        (scene.third.author, 0)
    ]
    scene.give(ins.FrameReceived(scene.third.author, lost))
    assert scene.reasons() == []
    assert scene.reach(own) == 3


# Attachments.


def submission(scene: Follower, attachment: bytes | None) -> bytes:
    task = parse_task({"kind": "tool", "payload": {"tool": "echo"}})
    event = scene.founder.write(TaskSubmitted(scene.founder.author, b"kone", task.spec_bytes))
    event.attachment = task.payload if attachment is None else attachment
    return scene.frame(scene.founder, scene.told + 1)


def test_an_attachment_that_is_what_its_event_says_is_kept() -> None:
    scene = Follower()
    out = scene.give(ins.FrameReceived(scene.third.author, submission(scene, None)))
    assert out.append[0].attachment == encode({"tool": "echo"})
    assert scene.reasons() == []


def test_a_changed_attachment_passed_on_by_another_is_refused_with_its_frame() -> None:
    scene = Follower()
    changed = submission(scene, b"something else")
    scene.give(ins.FrameReceived(scene.third.author, changed))
    assert scene.reach() == scene.told
    assert scene.reasons() == ["an attachment that is not what its event says"]


def test_a_wrong_attachment_from_the_author_itself_is_left_out_and_its_feed_goes_on() -> None:
    scene = Follower()
    changed = submission(scene, b"something else")
    out = scene.give(ins.FrameReceived(scene.founder.author, changed))
    assert out.append[0].attachment is None
    assert scene.reach() == scene.told + 1
    assert len(scene.reasons()) == 1


def test_an_attachment_that_no_body_speaks_of_is_left_out() -> None:
    scene = Follower()
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
