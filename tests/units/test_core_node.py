"""The node as a whole: its start and end, requests of people, and odd things that members send."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kowalski_ledger.state import State
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.node import Node, NodeConfig
from kowalski_node.core.requests import WAITING_MAX
from kowalski_protocol.events import LeaderClaimed, TaskSettled
from kowalski_protocol.feeds import Feed, Head
from kowalski_protocol.ids import EventHash, TaskId
from kowalski_protocol.limits import LIMITS, LOCAL
from kowalski_protocol.tasks import parse_task
from kowalski_protocol.topics import RESULT, TASK
from tests.units.bench import START_MS, Bench, Follower, advert, sign
from tests.units.histories import History, Writer

ECHO = {"kind": "tool", "payload": {"tool": "echo"}}


def submit(ticket: int, count: int = 1, **options: Any) -> ins.Submit:
    submissions = [parse_task(ECHO)] * count
    keys = [bytes([ticket, n]) + bytes(14) for n in range(count)]
    return ins.Submit(ticket, submissions, keys, **options)


# Admission and weights.


def admit(ticket: int, writer: Writer, invite: bytes = b"i" * 32) -> ins.Admit:
    return ins.Admit(ticket, writer.author, writer.name, "member", invite)


def test_an_admin_admits_and_the_answer_waits_for_the_commit() -> None:
    bench = Bench(1)
    newcomer = Writer("newcomer")
    out = bench.give(admit(1, newcomer))
    assert bench.answer(1) in out.then
    assert [event.kind for event in out.append[:2]] == ["InviteUsed", "MemberAdmitted"]
    bench.commit()
    assert bench.answer(1) == fx.Answer(1, True)
    assert newcomer.author in bench.state.members


def test_an_invite_works_once() -> None:
    bench = Bench(1)
    bench.give(admit(1, Writer("first")), admit(2, Writer("second")))
    assert bench.code(2) == "invite_used"
    assert len(bench.state.members) == 2


def test_a_plain_member_admits_nobody_and_sets_no_weights() -> None:
    bench = Bench(2, me=1)
    bench.give(admit(1, Writer("newcomer")), ins.SetWeights(2, "tool", {"load": 1.0}))
    assert (bench.code(1), bench.code(2)) == ("not_allowed", "not_allowed")


def test_a_full_house_admits_nobody() -> None:
    limits = msgspec.structs.replace(LIMITS, members_max=2)
    bench = Bench(2, limits=limits)
    bench.give(admit(1, Writer("newcomer")))
    assert bench.code(1) == "not_allowed"


def test_an_admin_sets_weights() -> None:
    bench = Bench(1)
    bench.give(ins.SetWeights(1, "tool", {"load": 1.0}))
    bench.commit()
    assert bench.answer(1) == fx.Answer(1, True)
    assert bench.state.weights() == {"tool": {"load": 1.0}}


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e308, -1.0])
def test_odd_weights_stop_no_placement(value: float) -> None:
    bench = Bench(1)
    odd: dict[str, float] = dict.fromkeys(("load", "latency", "cost", "specialization"), value)
    bench.give(ins.SetWeights(1, "tool", odd))
    bench.commit()
    bench.give(submit(2))
    assert "TaskPlaced" in bench.kinds()


# A node that starts.


def test_what_is_asked_while_the_node_starts_is_done_when_it_has() -> None:
    bench = Bench(3, alive=False)
    bench.give(submit(1), ins.SetWeights(2, "tool", {"load": 1.0}))
    bench.tick(0.5)
    assert not bench.node.open
    assert bench.effects(fx.Answer) == []
    bench.pass_time(2.0, heard=False)
    assert [answer.ticket for answer in bench.effects(fx.Answer)] == [2, 1]
    assert all(answer.problem is None for answer in bench.effects(fx.Answer))


def test_what_may_wait_while_the_node_starts_is_bounded() -> None:
    bench = Bench(3, alive=False)
    for ticket in range(WAITING_MAX):
        bench.give(ins.SetWeights(ticket, "tool", {}))
    bench.give(ins.SetWeights(WAITING_MAX, "tool", {}))
    assert bench.code(WAITING_MAX) == "not_ready"
    bench.give(ins.Cancel(TaskId(bytes(16))))


def test_a_node_opens_as_soon_as_all_others_have_told_their_heads() -> None:
    bench = Bench(3, alive=False)
    bench.tick(0.05)
    assert not bench.node.open
    for other in bench.others:
        bench.give(ins.HeadsReceived(other.author, {}, False))
    assert bench.node.open


def test_a_node_that_does_not_know_yet_what_it_offers_opens_all_the_same() -> None:
    history = History(1)
    config = NodeConfig(history.founder.author, "x", 1, LOCAL, 2)
    node = Node(config, State(history.cluster), ins.Now(0.0, START_MS))
    node.load(history.written)
    node.loaded()
    out = fx.Outbox()
    node.step(ins.Tick(), ins.Now(0.05, START_MS), out)
    assert node.open
    assert [event.kind for event in out.append] == ["LeaderClaimed"]


def test_a_node_that_is_no_member_yet_does_not_open() -> None:
    history = History(1)
    stranger = Writer("not admitted")
    config = NodeConfig(stranger.author, "x", 1, LOCAL, 2)
    node = Node(config, State(history.cluster), ins.Now(0.0, START_MS))
    out = fx.Outbox()
    for second in range(20):
        node.step(ins.Tick(), ins.Now(float(second), START_MS), out)
    assert not node.open
    assert out.append == []


def test_a_node_waits_longer_where_somebody_has_more_of_its_own_feed() -> None:
    bench = Bench(3, alive=False)
    own = {Feed(bench.me.author, TASK): Head(50, EventHash(bytes(32)))}
    for other in bench.others:
        bench.give(ins.PeerConnected(other.author, "memory"))
        bench.give(ins.HeadsReceived(other.author, own, False))
    bench.tick(5.0)
    assert not bench.node.open
    bench.tick(6.0)
    assert bench.node.open, "but not for ever"


# A node that stops.


def test_a_node_waits_for_the_heads_of_those_that_have_just_connected() -> None:
    """Else one that was set back would write over what they are about to tell it."""
    bench = Bench(3, alive=False)
    bench.pass_time(0.9, heard=False)
    bench.give(ins.PeerConnected(bench.others[0].author, "memory"))
    bench.pass_time(0.5, heard=False)
    assert not bench.node.open
    bench.give(ins.HeadsReceived(bench.others[0].author, {}, False))
    assert bench.node.open


def test_a_member_that_connects_and_tells_nothing_holds_nobody_up_for_long() -> None:
    bench = Bench(3, alive=False)
    bench.give(ins.PeerConnected(bench.others[0].author, "memory"))
    bench.pass_time(9.5, heard=False)
    assert not bench.node.open
    bench.pass_time(1.0, heard=False)
    assert bench.node.open


def test_a_second_stop_changes_nothing() -> None:
    bench = Bench(1)
    bench.give(ins.Stop(), ins.Stop())
    bench.tick(0.05)
    bench.commit()
    bench.tick(0.05)
    assert len(bench.effects(fx.Stopped)) == 1


def test_a_node_that_stops_refuses_and_says_why() -> None:
    bench = Bench(1)
    bench.give(ins.Stop(), submit(1), admit(2, Writer("x")), ins.SetWeights(3, "tool", {}))
    assert [bench.code(ticket) for ticket in (1, 2, 3)] == ["stopping"] * 3


# Odd things that members send.


def test_a_datagram_that_is_none_is_charged_to_who_sent_it() -> None:
    bench = Bench(2)
    out = bench.give(ins.DatagramReceived(bench.others[0].author, b"\xc1"))
    (charge,) = out.at_once
    assert isinstance(charge, fx.Charge)
    assert charge.peer == bench.others[0].author


def test_a_datagram_of_a_stranger_or_of_this_node_itself_is_nothing() -> None:
    bench = Bench(2)
    stranger = Writer("a stranger")
    stranger.cluster = bench.history.cluster
    before = dict(bench.node.peers.by_author)
    assert bench.hear(stranger).at_once == []
    assert bench.hear(bench.me).at_once == []
    assert bench.node.peers.by_author == before


def test_a_datagram_that_is_older_than_the_last_is_nothing() -> None:
    bench = Bench(2)
    other = bench.others[0]
    bench.hear(other, task_seq=0)
    bench.counters[other.author] -= 1
    bench.done.clear()
    bench.hear(other, task_seq=99)
    assert not bench.node.sync.is_behind()


@pytest.mark.parametrize(
    ("topic", "seq"), [("telemetry", 1), ("nonsense", 1), (TASK, 1 << 62), (TASK, -1), (TASK, 0)]
)
def test_an_acknowledgement_of_what_was_never_written_counts_for_nothing(
    topic: str, seq: int
) -> None:
    bench = Bench(3)
    bench.give(submit(1, min_replicas=2))
    bench.commit()
    bench.give(ins.AckReceived(bench.others[0].author, topic, seq))
    bench.tick(1.0)
    assert bench.answer(1) is None


def test_an_acknowledgement_counts_once_and_never_backwards() -> None:
    bench = Bench(3)
    bench.give(submit(1, min_replicas=3))
    bench.commit()
    reach = bench.node.book.own_committed(TASK)
    first, second = (other.author for other in bench.others)
    for _ in range(3):
        bench.give(ins.AckReceived(first, TASK, reach), ins.AckReceived(first, TASK, 1))
    assert bench.answer(1) is None
    bench.give(ins.AckReceived(second, TASK, reach))
    answer = bench.answer(1)
    assert answer is not None
    assert answer.value[0][1] == 3


def test_capabilities_that_have_not_changed_are_not_written_again() -> None:
    bench = Bench(1)
    before = bench.kinds().count("CapabilitiesAdvertised")
    bench.give(ins.Advertise(advert(bench.me.name)))
    assert bench.kinds().count("CapabilitiesAdvertised") == before
    bench.give(ins.Advertise(advert(bench.me.name, slots=7)))
    assert bench.kinds().count("CapabilitiesAdvertised") == before + 1


def test_new_capabilities_let_what_waits_be_placed() -> None:
    bench = Bench(1)
    task = parse_task({**ECHO, "requires": {"labels": {"room": "attic"}}, "failover": "queue"})
    bench.give(ins.Submit(1, [task], [bytes(16)]))
    assert "TaskPlaced" not in bench.kinds()
    bench.give(ins.Advertise(advert(bench.me.name, labels={"room": "attic"})))
    bench.tick(0.05)
    assert "TaskPlaced" in bench.kinds()


# Cancelling.


def test_a_cancellation_is_written_once_and_ends_the_task() -> None:
    bench = Bench(1)
    waits = parse_task({**ECHO, "requires": {"cores": 99}, "failover": "queue"})
    bench.give(ins.Submit(1, [waits], [bytes(16)]))
    (task,) = bench.state.tasks.values()
    bench.give(ins.Cancel(task.id), ins.Cancel(task.id))
    assert bench.kinds().count("CancelRequested") == 1
    assert task.settled is not None
    assert task.settled.outcome == "cancelled"


def test_a_cancellation_while_the_node_starts_waits_for_the_task_that_came_before_it() -> None:
    bench = Bench(1, alive=False)
    again = Bench(1, alive=False)
    for each in (bench, again):
        each.give(submit(1))
    bench.tick(0.05)
    (id,) = bench.state.tasks
    again.give(ins.Cancel(id))
    assert again.state.tasks == {}
    again.tick(0.05)
    assert again.kinds().count("CancelRequested") == 1


def test_a_cancellation_of_an_unknown_task_or_on_a_full_disk_is_nothing() -> None:
    bench = Bench(1)
    bench.give(submit(1))
    before = len(bench.kinds())
    bench.give(ins.Cancel(TaskId(bytes(16))))
    bench.give(ins.CommitFailed("disk_full"))
    bench.give(*(ins.Cancel(id) for id in bench.state.tasks))
    assert len(bench.kinds()) == before


# Answers.


def test_an_empty_request_is_answered() -> None:
    bench = Bench(1)
    bench.give(ins.Submit(1, [], []))
    bench.commit()
    bench.tick(0.05)
    assert bench.answer(1) == fx.Answer(1, [])


def test_is_settled_means_on_the_disk() -> None:
    bench = Bench(1)
    bench.give(submit(1))
    (task,) = bench.state.tasks.values()
    bench.commit()
    (start,) = bench.effects(fx.Start)
    bench.give(ins.AttemptEnded(start.attempt, True, "", b"r", bytes(32), False, 0, 0))
    assert task.settled is not None
    assert not bench.node.book.is_settled(task)
    bench.commit()
    assert bench.node.book.is_settled(task)


def test_a_node_that_starts_on_a_full_disk_writes_once_there_is_room() -> None:
    history = History(2)
    history.admit_all()
    founder, me = history.devices
    config = NodeConfig(me.author, me.name, 1, LOCAL, 1)
    node = Node(config, State(history.cluster), ins.Now(0.0, START_MS))
    sign(founder, founder.feeds[TASK])
    node.load(history.written)
    node.loaded()
    out = fx.Outbox()

    def step(input: ins.Input, at_s: float) -> None:
        node.step(input, ins.Now(at_s, START_MS + int(at_s * 1000)), out)

    step(ins.Advertise(advert(me.name)), 0.1)
    step(submit(1), 0.1)
    step(ins.CommitFailed("disk_full"), 0.2)
    (answer,) = [effect for effect in out.at_once if isinstance(effect, fx.Answer)]
    assert answer.problem is not None
    assert (answer.ticket, answer.problem.code) == (1, "disk_full")
    step(ins.Tick(), 5.0)
    assert not node.open
    assert not out.append
    step(ins.Committed({}), 6.0)
    step(ins.Tick(), 6.1)
    assert node.open
    assert out.append[0].kind == "CapabilitiesAdvertised"


def test_what_is_asked_of_a_node_that_nobody_knows_is_refused_in_time() -> None:
    history = History(2)
    founder, stranger = history.founder, Writer("stranger")
    config = NodeConfig(stranger.author, "stranger", 1, LOCAL, 1)
    now = ins.Now(0.0, START_MS)
    node = Node(config, State(history.cluster), now)
    sign(founder, founder.feeds[TASK])
    node.load(history.written)
    node.loaded()
    out = fx.Outbox()
    node.step(submit(1), now, out)
    node.step(ins.Cancel(TaskId(bytes(16))), now, out)
    node.step(ins.Tick(), ins.Now(5.0, START_MS + 5000), out)
    assert not [effect for effect in out.at_once if isinstance(effect, fx.Answer)]
    node.step(ins.Tick(), ins.Now(10.1, START_MS + 10_100), out)
    (answer,) = [effect for effect in out.at_once if isinstance(effect, fx.Answer)]
    assert answer.problem is not None
    assert (answer.ticket, answer.problem.code) == (1, "not_ready")


def test_an_end_is_shown_with_its_result_and_not_before() -> None:
    """The owner's word may arrive before the word of the device that it goes by."""
    bench = Follower(3)
    founder, third = bench.founder, bench.third
    claim = founder.write(LeaderClaimed(1, b"")).hash
    task = bench.history.submit(founder)
    attempt = bench.history.place(founder, task, third, claim)
    result = bench.history.complete(third, task, attempt)
    founder.write(TaskSettled(task, b"", "completed", attempt))
    bench.receive(founder, bench.told + 1)
    bench.commit()
    record = bench.state.tasks[task]
    assert record.settled is not None
    assert not bench.effects(fx.Settled)
    assert not bench.node.book.is_settled(record)
    bench.give(ins.FrameReceived(third.author, sign(third, [result])))
    assert not bench.node.book.is_settled(record)
    bench.commit()
    assert [effect.task for effect in bench.effects(fx.Settled)] == [task]
    assert bench.node.book.is_settled(record)


# Own events that come back.


def test_what_an_earlier_run_of_this_node_had_ended_is_not_started_again() -> None:
    history = History(2)
    history.admit_all()
    founder, me = history.devices
    history.write(me, advert(me.name))
    config = NodeConfig(me.author, me.name, 1, LOCAL, 1)
    now = ins.Now(0.0, START_MS)
    node = Node(config, State(history.cluster), now)
    sign(me, me.feeds[TASK])
    node.load(history.written)
    node.loaded()
    known = len(founder.feeds[TASK])
    claim = founder.write(LeaderClaimed(1, b"")).hash
    task = history.submit(founder)
    attempts = [history.place(founder, task, me, claim) for _ in range(2)]
    history.complete(me, task, attempts[1])
    out = fx.Outbox()
    node.step(ins.Advertise(advert(me.name)), now, out)
    node.step(ins.HeadsReceived(founder.author, {}, False), now, out)
    assert node.open
    assert not node.book.written
    frame = sign(founder, founder.feeds[TASK][known:])
    node.step(ins.FrameReceived(founder.author, frame), now, out)
    assert list(node.device.running) == attempts[:1]
    returned = sign(me, me.feeds[RESULT])
    node.step(ins.FrameReceived(founder.author, returned), now, out)
    ended = ins.AttemptEnded(attempts[0], True, "", b"r", bytes(32), False, 0, 0)
    node.step(ended, now, out)
    assert [e.attempt for e in (*out.at_once, *out.then) if isinstance(e, fx.Start)] == attempts[:1]
