"""A node as a device: what it takes, what it declines and why, and when a run may begin.

The node is a plain member; the founder submits, leads and places by hand.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.codec import decode_body, encode
from kowalski_protocol.events import (
    AttemptLost,
    CancelRequested,
    LeaderClaimed,
    Result,
    TaskCompleted,
    TaskDeclined,
    TaskFailed,
    TaskPlaced,
    TaskSettled,
    TaskStarted,
    TaskSubmitted,
)
from kowalski_protocol.ids import EventHash, TaskId
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.tasks import parse_task, task_id
from kowalski_protocol.topics import TASK
from tests.units.bench import Bench, advert, sign

ECHO = {"kind": "tool", "payload": {"tool": "echo"}}


class Scene(Bench):
    """The founder leads with its first claim; tasks are placed on the node under test."""

    def __init__(self, **options: Any) -> None:
        super().__init__(3, me=1, **options)
        self.founder = self.history.founder
        self.claim = self.founder.write(LeaderClaimed(1, b"")).hash
        self.told = 0
        self.tell()
        self.tasks = 0

    def tell(self) -> fx.Outbox:
        """What the founder has written since reaches the node and its disk."""
        first, self.told = self.told + 1, len(self.founder.feeds[TASK])
        out = self.receive(self.founder, first)
        self.commit()
        return out

    def submit(self, task: dict[str, object] | None = None) -> TaskId:
        self.tasks += 1
        submission = parse_task(task or ECHO)
        key = b"k%d" % self.tasks
        self.founder.write(TaskSubmitted(self.founder.author, key, submission.spec_bytes))
        return task_id(self.founder.author, key, submission.spec_bytes)

    def place(self, id: TaskId, claim: bytes | None = None) -> EventHash:
        body = TaskPlaced(id, 1, self.me.author, self.claim if claim is None else claim, 0.5)
        return self.founder.write(body).hash

    def placed(self, task: dict[str, object] | None = None) -> tuple[TaskId, EventHash]:
        id = self.submit(task)
        attempt = self.place(id)
        self.tell()
        return id, attempt

    def starts(self) -> list[EventHash]:
        return [start.attempt for start in self.effects(fx.Start)]

    def said(self, kind: type[msgspec.Struct]) -> list[object]:
        own = [*self.own, *(e for e in self.out.append if e.author == self.me.author)]
        return [b for e in own if isinstance(b := decode_body(e.kind, e.body), kind)]

    def declined(self) -> dict[EventHash, str]:
        bodies = self.said(TaskDeclined)
        return {EventHash(b.attempt): b.reason for b in bodies if isinstance(b, TaskDeclined)}

    def ends(self, attempt: EventHash, *, ok: bool = True, code: str = "") -> fx.Outbox:
        result = encode(Result(ok, "done", code=code))
        digest = hashlib.sha256(result).digest()
        return self.give(ins.AttemptEnded(attempt, ok, code, result, digest, False, 5, 7))


# Starting.


def test_a_placement_starts_when_it_is_durable() -> None:
    scene = Scene()
    id = scene.submit()
    attempt = scene.place(id)
    out = scene.receive(scene.founder, scene.told + 1)
    assert not [e for e in out.at_once if isinstance(e, fx.Start)]
    (start,) = [e for e in out.then if isinstance(e, fx.Start)]
    assert (start.task, start.attempt, start.kind) == (id, attempt, "tool")
    assert (start.submitter, start.submitted_seq) == (scene.founder.author, scene.told + 1)
    scene.commit()
    assert scene.starts() == [attempt]


def test_a_placement_that_was_durable_before_its_task_came_waits_for_the_task_s_commit() -> None:
    scene = Scene()
    submission = parse_task(ECHO)
    third = scene.others[1]
    id = task_id(third.author, b"kx", submission.spec_bytes)
    attempt = scene.place(id)
    scene.tell()
    assert scene.starts() == []
    third.write(TaskSubmitted(third.author, b"kx", submission.spec_bytes))
    out = scene.receive(third)
    assert not [e for e in out.at_once if isinstance(e, fx.Start)], "the payload comes with it"
    scene.commit()
    assert scene.starts() == [attempt]


def test_what_is_durable_already_starts_at_once_when_a_place_is_free() -> None:
    scene = Scene(slots=1)
    _, first = scene.placed()
    _, second = scene.placed()
    assert scene.starts() == [first]
    out = scene.ends(first)
    assert [e.attempt for e in out.at_once if isinstance(e, fx.Start)] == [second]


def test_no_more_run_than_there_are_places() -> None:
    scene = Scene(slots=2)
    attempts = [scene.placed()[1] for _ in range(5)]
    assert scene.starts() == attempts[:2]
    assert list(scene.node.device.waiting) == attempts[2:]
    scene.ends(attempts[1])
    assert scene.starts() == attempts[:3]


# Declining.


def test_a_placement_by_who_does_not_lead_is_declined() -> None:
    scene = Scene()
    third = scene.others[1]
    id = scene.submit()
    scene.tell()
    event = third.write(TaskPlaced(id, 1, scene.me.author, scene.claim, 0.5))
    scene.receive(third)
    unknown = scene.place(id, bytes(32))
    scene.tell()
    assert scene.declined() == {event.hash: "not_the_leader", unknown: "not_the_leader"}
    assert scene.starts() == []


def test_a_placement_below_the_greatest_claim_is_fenced() -> None:
    scene = Scene()
    third = scene.others[1]
    third.write(LeaderClaimed(2, scene.claim))
    scene.receive(third)
    _, attempt = scene.placed()
    assert scene.declined() == {attempt: "fenced"}


def test_what_was_taken_before_another_led_goes_on() -> None:
    scene = Scene(slots=1)
    _, running = scene.placed()
    _, waiting = scene.placed()
    third = scene.others[1]
    third.write(LeaderClaimed(2, scene.claim))
    scene.receive(third)
    scene.commit()
    scene.ends(running)
    assert scene.starts() == [running, waiting]
    assert scene.declined() == {}


def test_what_the_device_does_not_offer_is_declined() -> None:
    scene = Scene()
    scene.give(ins.Advertise(advert("x", tools=("sleep",))))
    _, attempt = scene.placed()
    assert scene.declined() == {attempt: "not_offered"}


def test_before_anything_is_offered_everything_is_declined() -> None:
    scene = Scene(alive=False)
    scene.state.adverts.clear()
    scene.pass_time(1.5, heard=False)
    scene.state.adverts.clear()
    _, attempt = scene.placed()
    assert scene.declined() == {attempt: "not_offered"}


def test_a_device_that_holds_enough_declines_more() -> None:
    limits = msgspec.structs.replace(LIMITS, prefetch_max=2)
    scene = Scene(limits=limits, slots=1)
    attempts = [scene.placed()[1] for _ in range(10)]
    reasons = scene.declined()
    assert set(reasons.values()) == {"full"}
    assert list(reasons) == attempts[6:], "one runs, and two times two and one wait"


def test_a_device_that_stops_gives_back_what_waits_and_takes_nothing() -> None:
    scene = Scene(slots=1)
    _, running = scene.placed()
    _, waiting = scene.placed()
    scene.give(ins.Stop())
    _, late = scene.placed()
    assert scene.declined() == {waiting: "stopping", late: "stopping"}
    scene.ends(running)
    assert len(scene.said(TaskCompleted)) == 1


def test_a_placement_that_was_given_up_before_it_came_is_not_taken() -> None:
    scene = Scene()
    id = scene.submit()
    attempt = scene.place(id)
    scene.founder.write(AttemptLost(id, attempt, "device_lost"))
    scene.tell()
    assert (scene.starts(), scene.declined()) == ([], {})


def test_what_waits_starts_although_it_was_given_up_meanwhile() -> None:
    # Its result still counts, and nobody else may have it yet.
    scene = Scene(slots=1)
    _, running = scene.placed()
    id, waiting = scene.placed()
    scene.founder.write(AttemptLost(id, waiting, "device_lost"))
    scene.tell()
    scene.ends(running)
    assert scene.starts() == [running, waiting]


# Stopping.


def test_a_cancelled_run_is_stopped_once_and_its_end_is_told() -> None:
    scene = Scene()
    id, attempt = scene.placed()
    scene.founder.write(CancelRequested(id))
    scene.tell()
    stops = scene.effects(fx.StopAttempt)
    assert [(stop.attempt, stop.reason) for stop in stops] == [(attempt, "cancelled")]
    third = scene.others[1]
    third.write(CancelRequested(id))
    scene.receive(third)
    assert len(scene.effects(fx.StopAttempt)) == 1
    scene.ends(attempt, ok=False, code="whatever it says")
    (failed,) = scene.said(TaskFailed)
    assert isinstance(failed, TaskFailed)
    assert failed.code == "cancelled"


def test_a_cancelled_task_that_waits_is_declined_and_never_starts() -> None:
    scene = Scene(slots=1)
    _, running = scene.placed()
    id, waiting = scene.placed()
    scene.founder.write(CancelRequested(id))
    scene.tell()
    assert scene.declined() == {waiting: "cancelled"}
    scene.ends(running)
    assert scene.starts() == [running]


def test_a_run_of_a_task_that_has_ended_elsewhere_is_stopped() -> None:
    scene = Scene()
    id, attempt = scene.placed()
    scene.founder.write(TaskSettled(id, b"", "completed"))
    scene.tell()
    stops = scene.effects(fx.StopAttempt)
    assert [(stop.attempt, stop.reason) for stop in stops] == [(attempt, "settled")]


def test_what_waits_of_a_task_that_has_ended_is_forgotten_without_a_word() -> None:
    scene = Scene(slots=1)
    _, running = scene.placed()
    id, _ = scene.placed()
    scene.founder.write(TaskSettled(id, b"", "failed"))
    scene.tell()
    scene.ends(running)
    assert scene.starts() == [running]
    assert scene.declined() == {}


def test_a_run_that_outlasts_the_stop_of_its_node_is_ended_and_given_back() -> None:
    scene = Scene(slots=2)
    _, attempt = scene.placed()
    id, cancelled = scene.placed()
    scene.give(ins.Stop())
    scene.founder.write(CancelRequested(id))
    scene.tell()
    scene.tick(scene.timers.stop_s - 0.1)
    assert [stop.attempt for stop in scene.effects(fx.StopAttempt)] == [cancelled]
    scene.tick(0.2)
    scene.tick(0.1)
    stops = [(stop.attempt, stop.reason) for stop in scene.effects(fx.StopAttempt)]
    assert stops == [(cancelled, "cancelled"), (attempt, "stopping")]
    scene.ends(attempt, ok=False, code="cancelled")
    assert scene.declined() == {attempt: "stopping"}
    assert scene.said(TaskFailed) == [], "its task has not failed: another device may run it"


# Telling.


def test_a_run_that_lasts_is_announced_and_a_short_one_is_not() -> None:
    scene = Scene()
    id, attempt = scene.placed()
    scene.tick(scene.timers.started_after_s / 2)
    assert scene.said(TaskStarted) == []
    scene.tick(scene.timers.started_after_s)
    scene.tick(scene.timers.started_after_s)
    (started,) = scene.said(TaskStarted)
    assert isinstance(started, TaskStarted)
    assert (started.task, started.attempt) == (id, attempt)


def earlier(scene: Scene, id: TaskId, how: str) -> None:
    """An attempt on the third device that ended like this."""
    third = scene.others[1]
    body = TaskPlaced(id, 1, third.author, scene.claim, 0.5)
    attempt = scene.founder.write(body).hash
    scene.tell()
    if how == "lost":
        scene.founder.write(AttemptLost(id, attempt, "device_lost"))
        scene.tell()
    elif how == "failed":
        event = third.write(TaskFailed(id, attempt, bytes(32), 0, 0, 1, "tool_failed"))
        scene.give(ins.FrameReceived(third.author, sign(third, [event])))
    else:
        event = third.write(TaskDeclined(id, attempt, how))
        scene.give(ins.FrameReceived(third.author, sign(third, [event])))


@pytest.mark.parametrize("how", ["lost", "restarted"])
@pytest.mark.parametrize("waits", [True, False])
def test_a_task_whose_device_ended_before_it_did_is_told_of_before_it_starts(
    how: str, waits: bool
) -> None:
    scene = Scene(slots=1)
    id = scene.submit()
    earlier(scene, id, how)
    if waits:
        _, running = scene.placed()
        attempt = scene.place(id)
        scene.tell()
        out = scene.ends(running)
    else:
        attempt = scene.place(id)
        out = scene.receive(scene.founder, scene.told + 1)
    assert [e.attempt for e in out.then if isinstance(e, fx.Start)] == [attempt]
    assert not [e for e in out.at_once if isinstance(e, fx.Start)], "it waits for the commit"
    (started,) = [decode_body(e.kind, e.body) for e in out.append if e.kind == "TaskStarted"]
    assert isinstance(started, TaskStarted)
    assert (started.task, started.attempt) == (id, attempt)
    scene.commit()
    scene.tick(2 * scene.timers.started_after_s)
    assert len(scene.said(TaskStarted)) == 1, "once"


@pytest.mark.parametrize("how", ["failed", "fenced"])
def test_a_task_whose_device_outlived_it_is_told_of_only_where_it_lasts(how: str) -> None:
    scene = Scene()
    id = scene.submit()
    earlier(scene, id, how)
    attempt = scene.place(id)
    scene.tell()
    assert scene.starts() == [attempt]
    assert scene.said(TaskStarted) == []


def test_a_result_is_told_with_its_bytes_and_its_size() -> None:
    scene = Scene()
    id, attempt = scene.placed()
    out = scene.ends(attempt)
    (event,) = [e for e in out.append if e.kind == "TaskCompleted"]
    body = decode_body(event.kind, event.body)
    assert isinstance(body, TaskCompleted)
    assert event.attachment is not None
    assert body == TaskCompleted(
        id, attempt, hashlib.sha256(event.attachment).digest(), len(event.attachment), 5, 7
    )


def test_a_result_that_is_a_blob_has_no_bytes_beside_it() -> None:
    scene = Scene()
    _, attempt = scene.placed()
    ended = ins.AttemptEnded(attempt, True, "", b"", bytes(32), True, 5, 7, 1 << 24)
    (event,) = [e for e in scene.give(ended).append if e.kind == "TaskCompleted"]
    body = decode_body(event.kind, event.body)
    assert isinstance(body, TaskCompleted)
    assert (event.attachment, body.is_blob, body.result_size_bytes) == (None, True, 1 << 24)


def test_an_end_of_what_does_not_run_is_nothing() -> None:
    scene = Scene()
    _, attempt = scene.placed()
    scene.ends(attempt)
    before = len(scene.kinds())
    scene.ends(attempt)
    scene.ends(EventHash(bytes(32)))
    assert len(scene.kinds()) == before


def test_what_ended_while_nothing_could_be_written_is_told_later() -> None:
    scene = Scene()
    _, attempt = scene.placed()
    scene.give(ins.CommitFailed("disk_full"))
    scene.ends(attempt)
    scene.tick(1.0)
    assert scene.said(TaskCompleted) == []
    scene.give(ins.Committed({}))
    scene.tick(0.05)
    assert len(scene.said(TaskCompleted)) == 1


def test_what_was_placed_while_nothing_could_be_written_is_taken_later() -> None:
    scene = Scene()
    scene.give(ins.CommitFailed("disk_full"))
    id = scene.submit()
    attempt = scene.place(id)
    scene.receive(scene.founder, scene.told + 1)
    assert scene.starts() == []
    scene.commit()
    assert scene.starts() == [attempt]


def test_a_cancellation_while_nothing_can_be_written_stops_what_runs() -> None:
    scene = Scene(slots=1)
    id, _ = scene.placed()
    waiting, _ = scene.placed()
    scene.give(ins.CommitFailed("disk_full"))
    for task in (id, waiting):
        scene.founder.write(CancelRequested(task))
    scene.receive(scene.founder, scene.told + 1)
    assert len(scene.effects(fx.StopAttempt)) == 1
    assert scene.declined() == {}


def test_stopping_while_nothing_can_be_written_is_no_mistake() -> None:
    scene = Scene(slots=1)
    scene.placed()
    scene.placed()
    scene.give(ins.CommitFailed("disk_full"))
    scene.give(ins.Stop())
    scene.tick(scene.timers.stop_s + 0.1)
    scene.tick(2.0)
    assert scene.declined() == {}
    assert len(scene.effects(fx.StopAttempt)) == 1
    assert scene.effects(fx.Stopped)


# After a restart.


def test_what_was_accepted_before_a_restart_is_given_back() -> None:
    scene = Scene()
    id, attempt = scene.placed()
    scene.own.clear()
    again = Bench(3, me=1, alive=False)
    again.node.load(
        [e for e in scene.founder.feeds[TASK] if e.seq > len(again.history.founder.feeds[TASK])]
    )
    again.node.loaded()
    again.pass_time(1.5, heard=False)
    bodies = [decode_body(e.kind, e.body) for e in again.own]
    declined = [b for b in bodies if isinstance(b, TaskDeclined)]
    assert [(d.task, d.attempt, d.reason) for d in declined] == [(id, attempt, "restarted")]
    assert again.effects(fx.Start) == []


def test_what_was_settled_before_the_node_began_to_write_is_not_given_back() -> None:
    scene = Scene()
    id, _ = scene.placed()
    scene.founder.write(TaskSettled(id, b"", "failed"))
    again = Bench(3, me=1, alive=False)
    told = len(again.history.founder.feeds[TASK])
    again.node.load([e for e in scene.founder.feeds[TASK][:-1] if e.seq > told])
    again.node.loaded()
    again.receive(scene.founder, len(scene.founder.feeds[TASK]))
    again.pass_time(1.5, heard=False)
    assert "TaskDeclined" not in again.kinds()
