"""What a step leaves for its commit: whether work stands still until then, or more may join it."""

from __future__ import annotations

import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import (
    CancelRequested,
    LeaderClaimed,
    TaskPlaced,
    TaskSettled,
    TaskSubmitted,
)
from kowalski_protocol.feeds import Event
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.tasks import parse_task, task_id
from kowalski_protocol.topics import TASK
from tests.units.bench import Bench, sign
from tests.units.histories import Writer

TASK_ID, ATTEMPT = TaskId(bytes(16)), EventHash(bytes(32))
PEER = Author(b"p" * 32)
ACKNOWLEDGE = fx.Acknowledge(PEER, TASK, 1)
SETTLED = fx.Settled(TASK_ID)
AWAITED: list[fx.Effect] = [
    fx.Start(TASK_ID, ATTEMPT, 1, "tool", {}, 60.0, PEER, 1),
    fx.StopAttempt(ATTEMPT, "cancelled"),
    fx.Answer(1, True),
    fx.Answer(1, problem=Problem("not_ready", "The node is starting.")),
    fx.FetchBlob(bytes(32), TASK_ID, PEER),
    fx.SendHeads(PEER, {}, False),
    fx.Stopped(),
]


def outbox(*then: fx.Effect, own: bool = False, events: int = 1) -> fx.Outbox:
    """A step's outbox with so many events, and what follows from them."""
    out = fx.Outbox()
    writer = Writer("somebody")
    out.append += [writer.write(CancelRequested(bytes(16))) for _ in range(events)]
    out.has_own = own
    out.then += then
    return out


@pytest.mark.parametrize(
    "then", [(), (ACKNOWLEDGE,), (SETTLED,), (ACKNOWLEDGE, SETTLED, ACKNOWLEDGE)]
)
def test_nobody_waits_for_what_others_wrote_and_is_only_acknowledged(
    then: tuple[fx.Effect, ...],
) -> None:
    assert not outbox(*then).is_awaited()


@pytest.mark.parametrize("effect", AWAITED, ids=lambda effect: type(effect).__name__)
def test_somebody_waits_for_every_other_effect_wherever_it_stands(effect: fx.Effect) -> None:
    assert outbox(effect).is_awaited()
    assert outbox(effect, ACKNOWLEDGE, SETTLED).is_awaited()
    assert outbox(ACKNOWLEDGE, SETTLED, effect).is_awaited()


@pytest.mark.parametrize("then", [(), (ACKNOWLEDGE,), (SETTLED,)])
def test_all_others_wait_for_what_this_node_wrote(then: tuple[fx.Effect, ...]) -> None:
    assert outbox(*then, own=True).is_awaited()


@pytest.mark.parametrize("then", [(), (SETTLED,), (ACKNOWLEDGE,)])
def test_what_needs_no_commit_is_never_kept_waiting(then: tuple[fx.Effect, ...]) -> None:
    assert outbox(*then, events=0).is_awaited()


# What the steps of a bystander, a device and an owner leave.


class Member(Bench):
    """A plain member of three; the founder leads."""

    def __init__(self) -> None:
        super().__init__(3, me=1)
        self.founder = self.history.founder
        self.third = self.others[1]
        self.say(self.founder, self.founder.write(LeaderClaimed(1, b"")))
        self.commit()

    def say(self, writer: Writer, event: Event) -> fx.Outbox:
        return self.give(ins.FrameReceived(writer.author, sign(writer, [event])))

    def submitted(self, owner: Writer) -> TaskId:
        spec = parse_task({"kind": "tool", "payload": {"tool": "echo"}}).spec_bytes
        self.say(self.third, self.third.write(TaskSubmitted(owner.author, b"kone", spec)))
        self.commit()
        return task_id(owner.author, b"kone", spec)

    def placed(self, id: TaskId, device: Writer) -> fx.Outbox:
        claim = self.state.leader
        assert claim is not None
        body = TaskPlaced(id, 1, device.author, claim.hash, 0.5)
        return self.say(self.founder, self.founder.write(body))


def test_a_bystander_of_a_task_has_nothing_that_is_awaited() -> None:
    member = Member()
    id = member.submitted(member.third)
    assert not member.placed(id, member.third).is_awaited()
    settled = member.say(member.third, member.third.write(TaskSettled(id, b"", "failed")))
    assert fx.Settled(id) in settled.then
    assert not settled.is_awaited()


def test_a_device_that_is_to_run_a_task_awaits_its_placement() -> None:
    member = Member()
    out = member.placed(member.submitted(member.third), member.me)
    assert not out.has_own
    assert out.is_awaited()


def test_an_owner_that_settles_is_awaited() -> None:
    member = Member()
    id = member.submitted(member.me)
    out = member.say(member.third, member.third.write(CancelRequested(id)))
    assert [event.kind for event in out.append] == ["CancelRequested", "TaskSettled"]
    assert out.has_own
    assert out.is_awaited()
