"""A large result that only its device has, when the device is gone before the owner has it."""

from __future__ import annotations

from typing import Any

import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.owner import FETCH_AGAIN_S
from kowalski_protocol.events import TaskCompleted, TaskSubmitted
from kowalski_protocol.ids import EventHash
from kowalski_protocol.tasks import parse_task
from tests.units.bench import Bench, advert, sign
from tests.units.histories import Writer

ECHO: dict[str, Any] = {"kind": "tool", "payload": {"tool": "echo"}, "device_filter": "network"}


class Kept(Bench):
    """A task whose device has completed it with a blob; a third device could run it as well."""

    def __init__(self, *, owner: int | None = None, **options: Any) -> None:
        super().__init__(4)
        for other in self.others:
            self.say(other, other.write(advert(other.name)))
        submission = parse_task({**ECHO, **options})
        by = self.me if owner is None else self.others[owner]
        if by is self.me:
            self.give(ins.Submit(1, [submission], [bytes(16)]))
            self.commit()
        else:
            body = TaskSubmitted(by.author, b"kone", submission.spec_bytes)
            self.say(by, by.write(body))
        (self.task,) = self.state.tasks.values()
        self.complete(0, b"a" * 32)

    def say(self, writer: Writer, *events: Any) -> None:
        self.give(ins.FrameReceived(writer.author, sign(writer, events)))
        self.commit()

    def device(self, number: int) -> Writer:
        return self.history.by_author(self.task.attempts[number].device)

    def complete(self, number: int, blob: bytes) -> EventHash:
        attempt, device = self.task.attempts[number], self.device(number)
        body = TaskCompleted(self.task.id, attempt.hash, blob, 1 << 20, 0, 1, True)
        event = device.write(body, later=100 * (number + 1))  # in this order, whoever they are
        self.say(device, event)
        return event.hash

    def lose(self, writer: Writer) -> None:
        self.give(ins.PeerDisconnected(writer.author))
        self.tick(self.timers.disconnect_grace_s + 0.01)
        self.commit()

    def asked(self) -> list[Writer]:
        return [self.history.by_author(fetch.device) for fetch in self.effects(fx.FetchBlob)]


def test_what_went_with_its_device_is_made_again_elsewhere() -> None:
    scene = Kept()
    first = scene.device(0)
    assert scene.asked() == [first]
    scene.lose(first)
    assert len(scene.task.attempts) == 2
    second = scene.device(1)
    assert second is not first
    scene.complete(1, b"b" * 32)
    scene.give(ins.BlobArrived(b"a" * 32, scene.task.id, False))
    scene.tick(FETCH_AGAIN_S)
    assert scene.asked() == [first, second]
    scene.give(ins.BlobArrived(b"b" * 32, scene.task.id, True))
    assert scene.task.settled is not None
    assert scene.task.settled.attempt == scene.task.attempts[1].hash


def test_the_first_one_counts_when_its_device_is_back_before_the_second() -> None:
    scene = Kept()
    scene.lose(scene.device(0))
    scene.give(ins.BlobArrived(b"a" * 32, scene.task.id, False))
    scene.tick(FETCH_AGAIN_S)
    scene.give(ins.BlobArrived(b"a" * 32, scene.task.id, True))
    assert scene.task.settled is not None
    assert scene.task.settled.attempt == scene.task.attempts[0].hash
    scene.tick(1.0)
    assert scene.node.attempts.kept[scene.task.attempts[0].device] == {}


@pytest.mark.parametrize("options", [{"failover": "fail"}, {"owner": 2}])
def test_nothing_is_made_again_that_must_not_be_or_that_nobody_waits_for(
    options: dict[str, Any],
) -> None:
    scene = Kept(**options)
    if "owner" in options:
        owner = scene.others[2]
        if owner is scene.device(0):
            owner = None
        assert owner is not None, "the owner is another device than the one that has the result"
        scene.lose(owner)
    scene.lose(scene.device(0))
    scene.pass_time(2.0, heard=False)
    assert len(scene.task.attempts) == 1
    assert scene.task.settled is None


def test_what_goes_with_one_device_after_the_other_comes_to_an_end() -> None:
    """Else a task with large results would be run for ever where devices come and go."""
    scene = Kept()
    for number in range(3):
        if number < len(scene.task.attempts):
            if number:
                scene.complete(number, bytes([number]) * 32)
            scene.lose(scene.device(number))
    assert [len({a.device for a in scene.task.attempts})] == [3]
    assert len(scene.task.attempts) == 3
