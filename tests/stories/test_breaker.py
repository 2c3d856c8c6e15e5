"""A device whose executor is broken: it is left alone for a time, and tried with one task."""

from __future__ import annotations

import pytest

from kowalski_node.core.attempts import DEVICE_FAILURES_FREE
from kowalski_node.core.breakers import FAILURES_MAX, OPEN_S
from kowalski_node.viewing import cluster_view
from kowalski_protocol.ids import TaskId
from tests.stories.world import Device, World

ECHO: dict[str, object] = {"kind": "tool", "payload": {"tool": "echo"}}
NO_WAIT: dict[str, object] = {"retry": {"backoff_s": 0.1, "jitter": 0}}


class Broken:
    """A device on which each run fails as soon as it has begun, until it is mended."""

    def __init__(self, device: Device, code: str = "executor_failed") -> None:
        self.device = device
        self.fails = True
        self._code = code
        device.run_s = None
        self._look()

    def _look(self) -> None:
        if self.fails:
            self.device.finish(ok=False, code=self._code)
            self.device.world.later(0.01, self._look)

    def hold(self) -> None:
        """What begins from now on runs on."""
        self.fails = False

    def mend(self) -> None:
        self.fails = False
        self.device.run_s = 0.0
        self.device.finish()


def pinned(device: Device) -> dict[str, object]:
    return {**ECHO, "requires": {"device": device.identity.peer_id}}


def give(world: World, task: dict[str, object], count: int) -> list[TaskId]:
    return world.accepted("desk", *[task] * count)


def opened(world: World, name: str, observer: str = "desk") -> bool:
    breakers = world[observer].core.leader.breakers
    return bool(list(breakers.pauses(world[name].author)))


def test_no_task_fails_and_the_broken_device_gets_no_more() -> None:
    world = World("desk", "laptop", "attic")
    laptop = world["laptop"]
    Broken(laptop)
    done: list[TaskId] = []
    for _ in range(10):
        done += give(world, {**ECHO, **NO_WAIT}, 6)
        world.run(0.5)
    assert world.run(5.0, until=world.settled(*done)), "all came through elsewhere"
    assert opened(world, "laptop")
    failed = len(laptop.starts)
    assert FAILURES_MAX <= failed <= FAILURES_MAX + 6 + 1
    give(world, ECHO, 30)
    world.run(2.0)
    assert len(laptop.starts) <= failed + 1


def test_what_only_it_could_run_waits_and_says_so_and_it_is_tried_when_due() -> None:
    world = World("desk", "laptop")
    laptop = world["laptop"]
    broken = Broken(laptop, "sandbox_unavailable")
    lost = give(world, {**pinned(laptop), **NO_WAIT}, FAILURES_MAX)
    assert world.run(3.0, until=lambda: opened(world, "laptop"))
    (waiting,) = give(world, pinned(laptop), 1)
    world.run(1.0)
    desk = world["desk"]
    shown = {
        one.name: one.pauses for one in cluster_view(desk.core, world.now.mono_s, {}, []).devices
    }
    assert shown["desk"] == []
    (pause,) = shown["laptop"]
    assert (pause.kind, pause.code) == ("tool", "sandbox_unavailable")
    assert pause.failures >= FAILURES_MAX
    assert OPEN_S - 3.0 < pause.for_s < OPEN_S
    leader = world["desk"].core.leader
    reason = leader.waiting_reason(world["desk"].task(waiting))
    assert reason is not None
    assert reason.startswith("waits for laptop, which failed ")
    assert reason.endswith(
        " tool tasks in a row (sandbox_unavailable); each is tried again with one task at a time"
    )
    starts = len(laptop.starts)
    broken.hold()
    assert world.run(OPEN_S + 1.0, until=lambda: len(laptop.starts) > starts)
    world.run(1.0)
    assert len(laptop.starts) == starts + 1, "one at a time"
    broken.mend()
    assert world.run(3.0, until=world.settled(waiting, *lost)), "all that waited comes through"
    assert not opened(world, "laptop")


def test_a_try_that_fails_doubles_the_pause() -> None:
    world = World("desk", "laptop")
    laptop = world["laptop"]
    Broken(laptop)
    give(world, {**pinned(laptop), **NO_WAIT, "failover": "fail"}, FAILURES_MAX)
    assert world.run(3.0, until=lambda: opened(world, "laptop"))
    began_s = world.now.mono_s
    give(world, {**pinned(laptop), "failover": "fail"}, 4)
    first = len(laptop.starts)
    tried_s: list[float] = []
    for count in range(3):
        assert world.run(50.0, until=lambda count=count: len(laptop.starts) > first + count)
        tried_s.append(world.now.mono_s - began_s)
    assert tried_s == pytest.approx([10.0, 30.0, 70.0], abs=1.0)


def test_a_new_leader_knows_what_it_saw() -> None:
    world = World("desk", "laptop", "attic")
    laptop = world["laptop"]
    Broken(laptop)
    give(world, pinned(laptop), FAILURES_MAX)
    assert world.run(3.0, until=lambda: opened(world, "laptop", "attic"))
    starts = len(laptop.starts)
    (waiting,) = world.accepted("attic", {**pinned(laptop)})
    world["desk"].crash()
    world.run(4.0)
    leader = world.leader()
    assert leader in ("laptop", "attic")
    assert leader is not None
    assert opened(world, "laptop", leader)
    assert len(laptop.starts) == starts
    reason = world[leader].core.leader.waiting_reason(world[leader].task(waiting))
    assert reason is not None
    assert "waits for laptop, which failed" in reason


def test_a_task_that_breaks_every_executor_ends_and_blames_nobody() -> None:
    world = World("desk", "laptop", "attic")
    for device in world.devices:
        Broken(device)
    (id,) = give(world, {**ECHO, **NO_WAIT}, 1)
    assert world.run(5.0, until=world.settled(id, outcome="failed"))
    attempts = world["desk"].task(id).attempts
    assert len(attempts) == DEVICE_FAILURES_FREE + 1
    assert len({attempt.device for attempt in attempts}) == len(world.devices)
    assert not any(opened(world, device.name) for device in world.devices)


def test_another_kind_goes_on() -> None:
    world = World("desk", "laptop")
    laptop = world["laptop"]
    broken = Broken(laptop)
    give(world, pinned(laptop), FAILURES_MAX)
    assert world.run(3.0, until=lambda: opened(world, "laptop"))
    broken.mend()
    payload = {"language": "python", "code": "1"}
    code = {"kind": "code", "payload": payload, "requires": pinned(laptop)["requires"]}
    assert world.run(1.0, until=world.settled(*give(world, code, 3)))
