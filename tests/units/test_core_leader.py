"""A leader at work: attempts that come to nothing, and what a stopping node leaves to others.

The node leads; the one device that may run its tasks is a writer, which declines or is given up as
the test says.
"""

from __future__ import annotations

import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.codec import decode_body
from kowalski_protocol.events import (
    AttemptLost,
    LeaderClaimed,
    TaskDeclined,
    TaskPlaced,
    TaskSubmitted,
)
from kowalski_protocol.feeds import Event
from kowalski_protocol.tasks import parse_task, task_id
from tests.units.bench import Bench, advert, sign
from tests.units.histories import Writer


class Scene(Bench):
    """A task that only `device` can run, and every placement of it so far."""

    def __init__(self) -> None:
        super().__init__(3)
        self.device = self.others[0]
        self.say(self.device, self.device.write(advert(self.device.name)))
        task = {
            "kind": "tool",
            "payload": {"tool": "echo"},
            "requires": {"device": self.device.identity.peer_id},
        }
        self.give(ins.Submit(1, [parse_task(task)], [bytes(16)]))
        self.commit()
        (self.task,) = self.state.tasks.values()

    def say(self, writer: Writer, event: Event) -> None:
        frame = sign(writer, [event])
        self.give(ins.FrameReceived(writer.author, frame))
        self.commit()

    def placements(self) -> list[TaskPlaced]:
        bodies = [decode_body(event.kind, event.body) for event in self.own]
        return [body for body in bodies if isinstance(body, TaskPlaced)]

    def declines(self) -> None:
        attempt = self.task.attempts[-1]
        self.say(
            self.device,
            self.device.write(TaskDeclined(self.task.id, attempt.hash, "not_offered")),
        )

    def given_up(self) -> None:
        """Another member, which sees it otherwise, takes the device for lost."""
        other = self.others[1]
        attempt = self.task.attempts[-1]
        self.say(other, other.write(AttemptLost(self.task.id, attempt.hash, "device_lost")))

    def wait_for(self, count: int) -> float:
        """Seconds until there are so many placements."""
        began_s = self.now.mono_s
        while len(self.placements()) < count:
            self.pass_time(self.timers.tick_s)
            assert self.now.mono_s - began_s < 60
        return self.now.mono_s - began_s


@pytest.mark.parametrize("what", ["declines", "given_up"])
def test_attempts_that_come_to_nothing_are_made_more_and_more_rarely(what: str) -> None:
    scene = Scene()
    waits: list[float] = []
    for count in range(2, 12):
        getattr(scene, what)()
        waits.append(scene.wait_for(count))
    assert waits[:2] == [0.0, 0.0], "at first at once: the reason may be gone"
    expected = [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert waits[2:] == pytest.approx(expected, abs=0.3)


def test_two_who_see_different_devices_can_not_fill_the_ledger() -> None:
    scene = Scene()
    began = len(scene.own)
    for _ in range(600):
        if scene.task.attempts[-1].is_open:
            scene.given_up()
        scene.pass_time(0.1)
    assert len(scene.own) - began < 20


def test_a_stopping_node_claims_nothing_although_it_would_be_its_turn() -> None:
    bench = Bench(3, me=1)
    founder, third = bench.others
    claim = founder.write(LeaderClaimed(1, b"")).hash
    spec = parse_task({"kind": "tool", "payload": {"tool": "echo"}}).spec_bytes
    founder.write(TaskSubmitted(founder.author, b"kone", spec))
    id = task_id(founder.author, b"kone", spec)
    founder.write(TaskPlaced(id, 1, bench.me.author, claim, 0.5))
    bench.receive(founder)
    bench.commit()
    assert bench.effects(fx.Start), "it has something to finish, so it stays for a while"
    bench.give(ins.Stop(), ins.PeerDisconnected(founder.author))
    for _ in range(40):
        bench.hear(third)
        bench.tick(bench.timers.tick_s)
        bench.commit()
    assert founder.author not in bench.node.peers.alive
    assert third.author in bench.node.peers.alive
    assert "LeaderClaimed" not in bench.kinds()
    assert bench.effects(fx.Stopped) == []
