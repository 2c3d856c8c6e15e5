"""Everything at once: random faults first, then a healed world in which all must come right.

Each seed is one story that nobody wrote. While it lasts the world holds every node to the law of
effects and to ledgers without gaps; when it is healed, nothing that was acknowledged may be
missing, each task has one settlement, and all nodes show one state.
"""

from __future__ import annotations

import random

import pytest

from kowalski_node.core import inputs as ins
from kowalski_protocol.ids import TaskId
from tests.stories.world import Device, World

NAMES = ("desk", "laptop", "attic", "shed", "cellar")
ECHO: dict[str, object] = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}


class Storm:
    """A world, and what befalls it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.world = World(*NAMES[: self.chance.randint(2, 5)])
        self.world.latency_s = self.chance.choice((0.0, 0.0, 0.02, 0.1))
        loss = self.chance.choice((0.0, 0.0, 0.02, 0.2))
        self.world.loses = lambda _from, _to, _what: self.chance.random() < loss
        self.tickets: list[tuple[Device, int]] = []
        self.acknowledged: set[TaskId] = set()
        self.faults = self.chance.sample(_FAULTS, k=self.chance.randint(2, len(_FAULTS)))
        for device in self.world.devices:
            device.run_s = self.chance.choice((0.0, 0.01, 0.3, 2.0))

    def any(self, *, up: bool) -> Device | None:
        devices = [d for d in self.world.devices if (d.node is not None) == up]
        return self.chance.choice(devices) if devices else None

    def submits(self) -> None:
        device = self.any(up=True)
        if device is not None:
            retry = {"max_attempts": self.chance.randint(1, 3), "backoff_s": 0.2}
            task = {**ECHO, "retry": retry, "priority": self.chance.randint(-1, 1)}
            task["device_filter"] = self.chance.choice(("all", "network", "local"))
            ticket = self.world.submit(device.name, *[task] * self.chance.randint(1, 12))
            self.tickets.append((device, ticket))

    def cancels(self) -> None:
        device = self.any(up=True)
        if device is not None and self.acknowledged:
            device.give(ins.Cancel(self.chance.choice(sorted(self.acknowledged))))

    def crashes(self) -> None:
        device = self.any(up=True)
        if device is not None:
            device.crash()

    def restarts(self) -> None:
        device = self.any(up=False)
        if device is not None:
            device.frozen = False
            device.restart()

    def freezes(self) -> None:
        device = self.any(up=True)
        if device is not None:
            device.frozen = not device.frozen

    def parts(self) -> None:
        side = self.chance.sample(NAMES, k=self.chance.randint(1, 3))
        self.chance.choice((self.world.partition, self.world.separate))(*side)

    def heals(self) -> None:
        self.world.heal()

    def fills_the_disk(self) -> None:
        device = self.any(up=True)
        if device is not None:
            device.disk_is_full = not device.disk_is_full

    def stops(self) -> None:
        device = self.any(up=True)
        if device is not None and self.chance.random() < 0.3:
            device.give(ins.Stop())

    def sets_a_clock(self) -> None:
        device = self.any(up=True)
        if device is not None:
            device.wall_offset_ms = self.chance.choice((0, 0, 40_000, -3_600_000, 86_400_000))

    def fails_runs(self) -> None:
        device = self.any(up=True)
        if device is not None:
            device.finish(ok=False, code="tool_failed")

    def rage(self, seconds: float) -> None:
        """Faults for so long, some of them often, some not at all."""
        until_s = self.world.now.mono_s + seconds
        while self.world.now.mono_s < until_s:
            for _ in range(self.chance.randint(0, 2)):
                getattr(self, self.chance.choice(("submits", "restarts", "heals", *self.faults)))()
            self.world.run(self.chance.choice((0.02, 0.1, 0.5, 1.5)))
            self.listen()
            self.bury_the_stopped()

    def listen(self) -> None:
        """Notes what was acknowledged: from then on it must not be lost."""
        for device, ticket in self.tickets:
            answer = device.answers.get(ticket)
            if answer is not None and answer.problem is None:
                self.acknowledged |= {id for id, _ in answer.value}

    def bury_the_stopped(self) -> None:
        for device in self.world.devices:
            if device.node and device.stopped:
                device.crash()

    def calm(self) -> None:
        """All faults end, and everything that is off is switched on."""
        world = self.world
        world.loses = lambda _from, _to, _what: False
        for device in world.devices:
            device.disk_is_full = False
            device.frozen = False
            device.wall_offset_ms = 0
            device.run_s = 0.01
            device.finish()
        world.run(3.0)
        self.bury_the_stopped()
        for device in world.devices:
            if device.node is None:
                device.boot()
        world.heal()


_FAULTS = (
    *("cancels", "crashes", "freezes", "parts", "fills_the_disk", "stops", "sets_a_clock"),
    "fails_runs",
)


def settled_everywhere(storm: Storm) -> bool:
    return all(
        device.outcome(id) is not None
        for device in storm.world.devices
        for id in storm.acknowledged
    )


@pytest.mark.parametrize("seed", range(40))
def test_after_any_storm_nothing_is_lost_and_all_agree(seed: int) -> None:
    storm = Storm(seed)
    storm.rage(20.0)
    storm.calm()
    world = storm.world
    assert world.run(60.0, until=lambda: settled_everywhere(storm)), "all that was accepted ends"
    assert world.run(20.0, until=world.agree), "one state"
    storm.listen()
    for id in storm.acknowledged:
        assert len({device.task(id).settled for device in world.devices}) == 1
    assert world.leader() is not None
    (ticket,) = [world.submit(world.devices[0].name, ECHO)]
    assert world.run(5.0, until=lambda: ticket in world.devices[0].answers)
    ((id, _),) = world.devices[0].answers[ticket].value
    assert world.run(10.0, until=world.settled(id)), "and work goes on"


def test_the_same_seed_is_the_same_story() -> None:
    ends: list[tuple[set[str], int]] = []
    for _ in range(2):
        storm = Storm(7)
        storm.rage(10.0)
        storm.calm()
        storm.world.run(20.0)
        ends.append((storm.world.digests(), sum(len(d.ledger) for d in storm.world.devices)))
    assert ends[0] == ends[1]
