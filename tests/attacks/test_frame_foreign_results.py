"""Attack 13: results for another's task, from the wrong device, too late, and settled twice.

All of it is evidence. What counts is the word of the device that the placement names, and the
owner's first settlement.
"""

from __future__ import annotations

from typing import Any

import pytest

from kowalski_ledger.state import Task
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol import events as e
from kowalski_protocol.ids import EventHash, TaskId
from kowalski_protocol.tasks import parse_task, task_id
from tests.units.bench import Bench, sign
from tests.units.histories import Writer

pytestmark = pytest.mark.attack


class Scene(Bench):
    """The founder owns and leads; its task runs on `device`; the node under test looks on."""

    def __init__(self) -> None:
        super().__init__(4, me=3)
        self.owner, self.device, self.attacker = self.others
        submission = parse_task({"kind": "tool", "payload": {"tool": "echo"}})
        key, spec = b"kone", submission.spec_bytes
        self.id: TaskId = task_id(self.owner.author, key, spec)
        self.claim = self.say(self.owner, e.LeaderClaimed(1, b""))
        self.say(self.owner, e.TaskSubmitted(self.owner.author, key, spec))
        self.attempt = self.place(self.device)

    def say(self, writer: Writer, body: Any) -> EventHash:
        event = writer.write(body)
        frame = sign(writer, writer.feeds[body.topic][-3:])
        self.give(ins.FrameReceived(writer.author, frame))
        return event.hash

    def place(self, device: Writer) -> EventHash:
        return self.say(self.owner, e.TaskPlaced(self.id, 1, device.author, self.claim, 0.5))

    def result(self, writer: Writer, attempt: EventHash | None = None) -> EventHash:
        body = e.TaskCompleted(self.id, attempt or self.attempt, bytes(32), 1, 0, 1)
        return self.say(writer, body)

    @property
    def task(self) -> Task:
        return self.state.tasks[self.id]


def test_a_result_from_a_device_that_was_not_named_counts_for_nothing() -> None:
    scene = Scene()
    before = scene.state.digest()
    for writer in (scene.attacker, scene.owner):
        scene.result(writer)
    assert scene.state.digest() == before
    assert scene.task.attempts[0].end is None
    assert {f.author for f in scene.state.findings} == {scene.attacker.author, scene.owner.author}
    true = scene.result(scene.device)
    end = scene.task.attempts[0].end
    assert end is not None
    assert end.hash == true


def test_a_result_for_a_task_or_attempt_that_there_is_not_counts_for_nothing() -> None:
    scene = Scene()
    before = scene.state.digest()
    scene.result(scene.attacker, EventHash(bytes(32)))
    body = e.TaskCompleted(bytes(16), scene.attempt, bytes(32), 1, 0, 1)
    scene.say(scene.attacker, body)
    assert scene.state.digest() == before
    assert scene.task.settled is None


def test_the_result_of_an_attempt_that_was_given_up_is_still_its_device_s_word() -> None:
    scene = Scene()
    scene.say(scene.owner, e.AttemptLost(scene.id, scene.attempt, "device_lost"))
    scene.place(scene.attacker)
    scene.result(scene.device)
    old, new = scene.task.attempts
    assert old.end is not None
    assert new.end is None


def test_a_placement_by_who_does_not_lead_starts_nothing_anywhere() -> None:
    scene = Scene()
    for claim in (scene.claim, bytes(32), b""):
        body = e.TaskPlaced(scene.id, 1, scene.me.author, claim, 1.0)
        scene.say(scene.attacker, body)
    scene.commit()
    assert scene.effects(fx.Start) == []
    assert scene.kinds().count("TaskDeclined") == 3


def test_nobody_but_the_owner_settles() -> None:
    scene = Scene()
    for writer in (scene.attacker, scene.device):
        scene.say(writer, e.TaskSettled(scene.id, b"", "completed", scene.attempt))
        scene.say(writer, e.TaskSettled(scene.id, b"t" * 32, "completed", scene.attempt))
    assert scene.task.settled is None
    assert scene.state.settled == {}


def test_nobody_but_the_owner_hands_the_task_on() -> None:
    scene = Scene()
    body = e.TaskOwnershipMoved(((scene.id, b""),), scene.attacker.author)
    tenure = scene.say(scene.attacker, body)
    scene.say(scene.attacker, e.TaskSettled(scene.id, tenure, "completed"))
    assert scene.task.owner == scene.owner.author
    assert scene.task.settled is None


def test_the_owner_s_first_settlement_stands_and_a_second_is_a_finding() -> None:
    scene = Scene()
    first = scene.say(scene.owner, e.TaskSettled(scene.id, b"", "failed"))
    before = scene.state.digest()
    scene.say(scene.owner, e.TaskSettled(scene.id, b"", "completed", scene.attempt))
    scene.result(scene.device)
    settled = scene.task.settled
    assert settled is not None
    assert (settled.hash, settled.outcome) == (first, "failed")
    assert scene.state.settled == {"failed": 1}
    assert before != scene.state.digest(), "the late result is kept as evidence"
    assert any("does not own" in finding.what for finding in scene.state.findings)


def test_a_second_result_of_one_attempt_changes_nothing() -> None:
    scene = Scene()
    scene.result(scene.device)
    before = scene.state.digest()
    scene.result(scene.device)
    failed = e.TaskFailed(scene.id, scene.attempt, bytes(32), 1, 0, 1, "tool_failed")
    scene.say(scene.device, failed)
    assert scene.state.digest() == before


def test_a_submission_of_another_s_task_changes_neither_owner_nor_spec() -> None:
    scene = Scene()
    task = scene.task
    spec = task.spec
    submission = parse_task({"kind": "tool", "payload": {"tool": "echo"}})
    scene.attacker.hlc = 0
    body = e.TaskSubmitted(scene.owner.author, b"kone", submission.spec_bytes)
    scene.say(scene.attacker, body)
    assert (task.owner, task.spec) == (scene.owner.author, spec)
    assert len(scene.state.open) == 1
