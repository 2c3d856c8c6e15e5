"""How an owner decides: which of several ends counts, and that it decides once."""

from __future__ import annotations

from typing import Any

import pytest

from kowalski_ledger.state import Settlement, Task
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol import events as e
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.tasks import parse_task, task_id
from tests.units.bench import Bench
from tests.units.histories import Writer

ECHO = {"kind": "tool", "payload": {"tool": "echo"}}


class Scene(Bench):
    """The node owns a task that the founder leads and places by hand."""

    def __init__(self, **options: Any) -> None:
        super().__init__(4, me=1)
        self.founder = self.history.founder
        self.two, self.three = self.others[1:]
        submission = parse_task({**ECHO, **options})
        body = e.TaskSubmitted(self.me.author, b"kone", submission.spec_bytes)
        self.id: TaskId = task_id(self.me.author, b"kone", submission.spec_bytes)
        self.claim = self.founder.write(e.LeaderClaimed(1, b"")).hash
        self.founder.write(body)
        self.receive(self.founder)

    @property
    def task(self) -> Task:
        return self.state.tasks[self.id]

    @property
    def settled(self) -> Settlement | None:
        return self.task.settled

    def say(self, writer: Writer, body: e.Body) -> EventHash:
        event = writer.write(body)
        topic = body.topic
        from tests.units.bench import sign

        frame = sign(writer, [writer.feeds[topic][-1]])
        self.give(ins.FrameReceived(writer.author, frame))
        return event.hash

    def place(self, device: Writer) -> EventHash:
        return self.say(self.founder, e.TaskPlaced(self.id, 1, device.author, self.claim, 0.5))

    def completes(self, device: Writer, attempt: EventHash, *, blob: bytes = b"") -> EventHash:
        hash = blob or bytes(32)
        body = e.TaskCompleted(self.id, attempt, hash, 1, 0, 1, bool(blob))
        return self.say(device, body)

    def fails(self, device: Writer, attempt: EventHash, code: str = "tool_failed") -> EventHash:
        body = e.TaskFailed(self.id, attempt, bytes(32), 1, 0, 1, code)
        return self.say(device, body)

    def outcome(self) -> str | None:
        return self.settled.outcome if self.settled else None

    def fetches(self) -> list[Author]:
        return [fetch.device for fetch in self.effects(fx.FetchBlob)]


@pytest.mark.parametrize("earlier", [0, 1])
def test_of_two_results_that_are_there_the_first_by_time_counts(earlier: int) -> None:
    # Both came while nothing could be written: a partition brought them.
    scene = Scene()
    attempts = [scene.place(device) for device in (scene.two, scene.three)]
    scene.give(ins.CommitFailed("disk_full"))
    (scene.three, scene.two)[earlier].hlc += 1000
    scene.completes(scene.two, attempts[0])
    scene.completes(scene.three, attempts[1])
    assert scene.settled is None
    scene.give(ins.Committed({}))
    assert scene.settled is not None
    assert scene.settled.attempt == attempts[earlier]


def test_a_later_result_is_left_as_a_duplicate() -> None:
    scene = Scene()
    attempts = [scene.place(device) for device in (scene.two, scene.three)]
    scene.completes(scene.two, attempts[0])
    scene.three.hlc -= 1000
    scene.completes(scene.three, attempts[1])
    assert scene.settled is not None
    assert scene.settled.attempt == attempts[0]
    assert scene.kinds().count("TaskSettled") == 1


def test_a_result_counts_before_a_cancellation_and_failures() -> None:
    scene = Scene()
    attempts = [scene.place(device) for device in (scene.two, scene.three)]
    scene.give(ins.CommitFailed("disk_full"))
    scene.fails(scene.two, attempts[0])
    scene.say(scene.founder, e.CancelRequested(scene.id))
    scene.completes(scene.three, attempts[1])
    scene.give(ins.Committed({}))
    assert scene.outcome() == "completed"


def test_the_last_failure_by_time_gives_the_code() -> None:
    scene = Scene(retry={"max_attempts": 2})
    attempts = [scene.place(device) for device in (scene.two, scene.three)]
    scene.two.hlc += 1000
    scene.fails(scene.two, attempts[0], "timed_out")
    assert scene.settled is None
    scene.fails(scene.three, attempts[1], "tool_failed")
    assert scene.outcome() == "timed_out"


def test_a_declined_attempt_is_no_failure_and_no_loss() -> None:
    scene = Scene(failover="fail")
    attempt = scene.place(scene.two)
    scene.say(scene.two, e.TaskDeclined(scene.id, attempt, "fenced"))
    assert scene.settled is None


@pytest.mark.parametrize(("failover", "outcome"), [("fail", "failed"), ("redistribute", None)])
def test_a_lost_device_ends_the_task_only_where_that_was_asked_for(
    failover: str, outcome: str | None
) -> None:
    scene = Scene(failover=failover)
    attempt = scene.place(scene.two)
    scene.say(scene.founder, e.AttemptLost(scene.id, attempt, "device_lost"))
    assert scene.outcome() == outcome


def test_three_losses_of_one_device_are_one_device() -> None:
    scene = Scene()
    for _ in range(3):
        attempt = scene.place(scene.two)
        scene.say(scene.founder, e.AttemptLost(scene.id, attempt, "device_lost"))
    assert scene.settled is None


def test_what_another_owns_is_not_settled_here() -> None:
    scene = Scene()
    submission = parse_task(ECHO)
    scene.say(scene.founder, e.TaskSubmitted(scene.founder.author, b"kx", submission.spec_bytes))
    other = task_id(scene.founder.author, b"kx", submission.spec_bytes)
    scene.say(scene.founder, e.CancelRequested(other))
    assert scene.state.tasks[other].settled is None
    assert "TaskSettled" not in scene.kinds()


def test_a_task_that_was_handed_to_this_node_is_settled_under_its_tenure() -> None:
    scene = Scene()
    submission = parse_task(ECHO)
    founder = scene.founder
    scene.say(founder, e.TaskSubmitted(founder.author, b"kx", submission.spec_bytes))
    other = task_id(founder.author, b"kx", submission.spec_bytes)
    scene.say(founder, e.CancelRequested(other))
    tenure = scene.say(founder, e.TaskOwnershipMoved(((other, b""),), scene.me.author))
    settled = scene.state.tasks[other].settled
    assert settled is not None
    assert (settled.author, settled.outcome) == (scene.me.author, "cancelled")
    assert scene.state.tasks[other].tenure == tenure


def test_a_blob_is_asked_for_once_however_often_the_task_is_looked_at() -> None:
    scene = Scene()
    attempt = scene.place(scene.two)
    scene.completes(scene.two, attempt, blob=b"b" * 32)
    scene.say(scene.founder, e.CancelRequested(scene.id))
    scene.tick(5.0)
    assert scene.fetches() == [scene.two.author]
    scene.give(ins.BlobArrived(b"b" * 32, scene.id, True))
    assert scene.outcome() == "completed"


def test_many_tasks_are_handed_over_in_events_of_a_bounded_size() -> None:
    from kowalski_protocol.codec import decode_body

    bench = Bench(3, me=1)
    submissions = [parse_task(ECHO)] * 1100
    keys = [n.to_bytes(16, "big") for n in range(1100)]
    bench.give(ins.Submit(1, submissions, keys))
    bench.commit()
    bench.give(ins.Stop())
    bench.pass_time(1.0)
    moved = [
        body
        for event in bench.own
        if isinstance(body := decode_body(event.kind, event.body), e.TaskOwnershipMoved)
    ]
    assert [len(body.tasks) for body in moved] == [500, 500, 100]
    assert {body.to for body in moved} == {bench.history.founder.author}
    assert bench.effects(fx.Stopped)
