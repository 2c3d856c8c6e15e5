"""How an owner decides: which of several ends counts, and that it decides once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kowalski_ledger.state import Settlement, Task
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.owner import FETCH_AGAIN_S
from kowalski_protocol import events as e
from kowalski_protocol.codec import decode_body
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.limits import LIMITS, Limits
from kowalski_protocol.tasks import parse_task, task_id
from tests.units.bench import Bench, advert, sign
from tests.units.histories import Writer

ECHO = {"kind": "tool", "payload": {"tool": "echo"}}


class Scene(Bench):
    """The node owns a task that the founder leads and places by hand."""

    def __init__(self, *, limits: Limits = LIMITS, **options: Any) -> None:
        super().__init__(4, me=1, limits=limits)
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
        self.give(ins.FrameReceived(writer.author, sign(writer, [event])))
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


@pytest.mark.parametrize(
    ("last", "before", "outcome"),
    [("timed_out", "tool_failed", "timed_out"), ("tool_failed", "timed_out", "failed")],
)
def test_the_last_failure_by_time_gives_outcome_and_code(
    last: str, before: str, outcome: str
) -> None:
    scene = Scene(retry={"max_attempts": 2})
    attempts = [scene.place(device) for device in (scene.two, scene.three)]
    scene.two.hlc += 1000
    scene.fails(scene.two, attempts[0], last)
    assert scene.settled is None
    scene.fails(scene.three, attempts[1], before)
    assert scene.settled is not None
    assert (scene.settled.outcome, scene.settled.code) == (outcome, last)
    assert scene.settled.attempt == attempts[0]


def test_a_declined_attempt_is_no_failure_and_no_loss() -> None:
    scene = Scene(failover="fail")
    attempt = scene.place(scene.two)
    scene.say(scene.two, e.TaskDeclined(scene.id, attempt, "fenced"))
    assert scene.settled is None


@pytest.mark.parametrize(
    ("failover", "expected"),
    [("fail", ("failed", "device_lost")), ("redistribute", None), ("queue", None)],
)
def test_a_lost_device_ends_the_task_only_where_that_was_asked_for(
    failover: str, expected: tuple[str, str] | None
) -> None:
    scene = Scene(failover=failover)
    attempt = scene.place(scene.two)
    scene.say(scene.founder, e.AttemptLost(scene.id, attempt, "device_lost"))
    settled = scene.settled
    assert (settled and (settled.outcome, settled.code)) == expected


def test_a_cancelled_task_ends_as_cancelled_though_it_runs() -> None:
    scene = Scene()
    scene.place(scene.two)
    scene.say(scene.founder, e.CancelRequested(scene.id))
    assert scene.settled is not None
    assert (scene.settled.outcome, scene.settled.code) == ("cancelled", "cancelled")


def loses(scene: Scene, *devices: Writer) -> None:
    """The task loses these devices, one after the other."""
    for device in devices:
        attempt = scene.place(device)
        scene.say(scene.founder, e.AttemptLost(scene.id, attempt, "device_lost"))


def test_a_task_that_different_devices_were_lost_with_is_dead() -> None:
    scene = Scene()
    loses(scene, scene.two, scene.three)
    assert scene.settled is None
    loses(scene, scene.founder)
    assert scene.settled is not None
    assert (scene.settled.outcome, scene.settled.code) == ("dead", "device_lost")
    assert scene.settled.attempt == b""


def test_a_task_that_one_device_was_lost_with_again_and_again_is_dead_in_the_end() -> None:
    scene = Scene(limits=msgspec.structs.replace(LIMITS, losses_max=5))
    loses(scene, *[scene.two] * 4)
    assert scene.settled is None
    loses(scene, scene.two)
    assert scene.outcome() == "dead"


def test_what_completed_before_it_lost_many_devices_is_completed() -> None:
    scene = Scene()
    attempt = scene.place(scene.two)
    scene.give(ins.CommitFailed("disk_full"))
    scene.completes(scene.two, attempt)
    loses(scene, scene.two, scene.three, scene.founder)
    scene.give(ins.Committed({}))
    assert scene.outcome() == "completed"


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


def test_a_blob_that_could_not_be_had_is_asked_for_again_in_a_while() -> None:
    scene = Scene()
    attempt = scene.place(scene.two)
    scene.completes(scene.two, attempt, blob=b"b" * 32)
    scene.give(ins.BlobArrived(b"b" * 32, scene.id, False))
    scene.tick(FETCH_AGAIN_S - 0.01)
    assert scene.fetches() == [scene.two.author]
    scene.tick(0.02)
    scene.tick(5 * FETCH_AGAIN_S)
    assert scene.fetches() == [scene.two.author] * 2, "while one asks, nobody asks again"
    scene.give(ins.BlobArrived(b"b" * 32, scene.id, False))
    scene.tick(FETCH_AGAIN_S)
    assert scene.fetches() == [scene.two.author] * 3
    assert scene.settled is None
    scene.give(ins.BlobArrived(b"b" * 32, scene.id, True))
    assert scene.outcome() == "completed"


def test_a_blob_of_no_task_ends_none() -> None:
    scene = Scene()
    scene.give(ins.BlobArrived(b"b" * 32, TaskId(bytes(16)), True))
    scene.give(ins.BlobArrived(b"b" * 32, TaskId(bytes(16)), False))
    scene.tick(FETCH_AGAIN_S)
    assert scene.fetches() == []
    assert "TaskSettled" not in scene.kinds()


def test_a_blob_of_the_own_device_is_here_already() -> None:
    scene = Scene()
    attempt = scene.place(scene.me)
    scene.commit()
    ended = ins.AttemptEnded(attempt, True, "", b"", b"b" * 32, True, 0, 1, 1 << 24)
    scene.give(ended)
    assert scene.fetches() == []
    assert scene.outcome() == "completed"


# Who owns, and handing over.


def owner_of_new(bench: Bench) -> Author:
    bench.give(ins.Submit(7, [parse_task(ECHO)], [b"7" * 16]))
    (task,) = bench.state.tasks.values()
    return task.owner


@pytest.mark.parametrize(("alive", "expected"), [(True, 0), (False, 1)])
def test_a_new_task_is_owned_by_a_home_device_that_is_alive_and_else_here(
    alive: bool, expected: int
) -> None:
    bench = Bench(3, me=1)
    home = bench.others[0]
    home.write(advert(home.name, labels={"home": "yes"}))
    bench.receive(home)
    bench.commit()
    if not alive:
        bench.give(ins.PeerDisconnected(home.author))
        bench.pass_time(1.0, heard=False)
    assert owner_of_new(bench) == bench.history.devices[expected].author


def test_a_node_alone_or_with_a_full_disk_hands_nothing_over() -> None:
    for bench in (Bench(1), Bench(2, me=1)):
        never = parse_task({**ECHO, "requires": {"cores": 99}, "failover": "queue"})
        bench.give(ins.Submit(1, [never], [bytes(16)]))
        bench.commit()
        if bench.others:
            bench.give(ins.CommitFailed("disk_full"))
        bench.give(ins.Stop())
        bench.pass_time(1.0)
        assert "TaskOwnershipMoved" not in bench.kinds()
        assert bench.effects(fx.Stopped)


def test_many_tasks_are_handed_over_in_events_of_a_bounded_size() -> None:
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
