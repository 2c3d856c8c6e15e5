"""Devices are lost while they work: what is started elsewhere, how soon, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from kowalski_protocol.ids import TaskId
from tests.stories.world import World

ECHO: dict[str, object] = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}


def long_runs(world: World) -> None:
    """From now on nothing ends before the story says so."""
    for device in world.devices:
        device.run_s = None


def at_work(world: World, count: int, name: str = "desk") -> dict[TaskId, str]:
    """Tasks that run now, with the device that each runs on."""
    long_runs(world)
    ids = world.accepted(name, *[ECHO] * count)
    assert world.run(1.0, until=lambda: all(world.runs_on(id) for id in ids))
    return {id: world.runs_on(id)[0] for id in ids}


def drained(world: World, ids: Iterable[TaskId]) -> bool:
    """Everything that runs may end now, and what comes after it."""

    def done() -> bool:
        for device in world.devices:
            device.finish()
        return world.settled(*ids)()

    return world.run(5.0, until=done)


def of_device(tasks: dict[TaskId, str], name: str) -> list[TaskId]:
    return [id for id, device in tasks.items() if device == name]


def test_a_lost_device_costs_under_a_second() -> None:
    world = World("desk", "laptop", "attic")
    tasks = at_work(world, 6)
    lost = of_device(tasks, "attic")
    assert len(lost) == 2
    world["attic"].crash()
    # The two others have two places each, all taken: let those end.
    world["desk"].finish()
    world["laptop"].finish()
    took_s = world.takes(lambda: all(world.runs_on(id) for id in lost), within=1.0)
    assert took_s <= world.timers.disconnect_grace_s + 2 * world.timers.tick_s
    assert drained(world, tasks)


def test_what_runs_on_the_survivors_is_not_touched() -> None:
    world = World("desk", "laptop", "attic")
    tasks = at_work(world, 6)
    world["attic"].crash()
    world.run(5.0)
    for id, device in tasks.items():
        if device != "attic":
            assert world.starts_of(id) == [device]
            assert world.runs_on(id) == [device]
    assert world["desk"].stops == world["laptop"].stops == []


def test_a_leader_that_is_killed_stops_no_running_work_and_restarts_none() -> None:
    world = World("desk", "laptop", "attic", "shed")
    assert world.leader() == "desk"
    tasks = at_work(world, 8, name="laptop")
    world["desk"].crash()
    took_s = world.takes(lambda: world.leader() not in (None, "desk"), within=1.0)
    assert took_s <= world.timers.disconnect_grace_s + 2 * world.timers.tick_s
    for id, device in tasks.items():
        if device != "desk":
            assert world.starts_of(id) == [device], "untouched"
    for name in ("laptop", "attic", "shed"):
        world[name].finish()
    took_s = world.takes(
        lambda: all(world.runs_on(id) for id in of_device(tasks, "desk")), within=1.0
    )
    assert took_s < 0.5
    assert drained(world, tasks)


def test_work_goes_on_coming_in_while_there_is_no_leader() -> None:
    world = World("desk", "laptop", "attic")
    world["desk"].crash()
    ids = world.accepted("laptop", ECHO, ECHO)
    assert world.takes(world.settled(*ids), within=1.0) < 1.0


def test_the_next_leader_is_the_most_senior_that_is_left() -> None:
    world = World("desk", "laptop", "attic")
    world["desk"].crash()
    assert world.run(1.0, until=lambda: world.leader() == "laptop")
    world["laptop"].crash()
    assert world.run(1.0, until=lambda: world.leader() == "attic")


def test_a_leader_that_returns_takes_nothing_back() -> None:
    world = World("desk", "laptop", "attic")
    world["desk"].crash()
    assert world.run(1.0, until=lambda: world.leader() == "laptop")
    world["desk"].restart()
    world.run(5.0)
    assert world.leader() == "laptop"
    assert len(world["desk"].core.state.claims) == 2


def test_a_frozen_device_costs_under_a_second_and_a_half() -> None:
    world = World("desk", "laptop", "attic")
    tasks = at_work(world, 6)
    world["attic"].frozen = True
    world["desk"].finish()
    world["laptop"].finish()
    lost = of_device(tasks, "attic")
    took_s = world.takes(lambda: all(len(world.starts_of(id)) > 1 for id in lost), within=1.5)
    assert took_s > world.timers.suspect_s - world.timers.heartbeat_s, (
        "silence has to be waited for"
    )


def test_a_device_that_thaws_ends_what_it_ran_and_nothing_settles_twice() -> None:
    world = World("desk", "laptop", "attic")
    tasks = at_work(world, 6)
    world["attic"].frozen = True
    world["desk"].finish()
    world["laptop"].finish()
    moved = of_device(tasks, "attic")
    assert world.run(2.0, until=lambda: all(len(world.starts_of(id)) == 2 for id in moved))
    assert drained(world, tasks)
    world["attic"].frozen = False
    world.run(1.0)
    world["attic"].finish()
    assert world.run(3.0, until=world.agree)
    for id in tasks:
        assert len({device.task(id).settled for device in world.devices}) == 1


def test_a_device_that_thaws_is_counted_on_again() -> None:
    world = World("desk", "laptop", "attic")
    world["attic"].frozen = True
    assert world.run(2.0, until=lambda: len(world["desk"].core.peers.alive) == 2)
    world["attic"].frozen = False
    assert world.run(2.0, until=lambda: all(len(d.core.peers.alive) == 3 for d in world.devices))
    assert world.leader() == "desk"


def test_a_frozen_leader_that_thaws_follows_the_new_one() -> None:
    world = World("desk", "laptop", "attic")
    world["desk"].frozen = True
    assert world.run(2.0, until=lambda: world.leader() == "laptop")
    world["desk"].frozen = False
    world.run(3.0)
    assert world.leader() == "laptop"
    ids = world.accepted("desk", ECHO)
    assert world.run(1.0, until=world.settled(*ids))


def test_a_node_that_restarts_with_work_under_way_gives_it_back() -> None:
    world = World("desk", "laptop", "attic")
    tasks = at_work(world, 6)
    given_back = of_device(tasks, "attic")
    world["attic"].crash()
    world["attic"].restart()
    world["desk"].finish()
    world["laptop"].finish()
    world.run(3.0)
    for id in given_back:
        attempt = world["desk"].task(id).attempts[0]
        assert attempt.lost is not None or (attempt.end and attempt.end.code == "restarted")
        assert len(world.runs_on(id)) == 1
    assert drained(world, tasks)
    assert world.run(1.0, until=world.agree)


def test_a_node_alone_restarts_and_finishes_what_it_had_accepted() -> None:
    world = World("desk")
    long_runs(world)
    ids = world.accepted("desk", *[ECHO] * 5)
    world["desk"].crash()
    world["desk"].run_s = 0.1
    world["desk"].restart()
    assert world.run(5.0, until=world.settled(*ids))


def test_all_nodes_are_killed_and_nothing_that_was_accepted_is_lost() -> None:
    world = World("desk", "laptop", "attic")
    long_runs(world)
    ids = world.accepted("laptop", *[ECHO] * 20)
    for device in world.devices:
        device.crash()
    for device in world.devices:
        device.run_s = 0.05
        device.boot()
    world.connect_all()
    assert world.run(10.0, until=world.settled(*ids))
    assert world.run(5.0, until=world.agree)


def crash_under(world: World, task: TaskId) -> str:
    """Whoever runs the task dies of it, and is started again at once by its service."""
    assert world.run(3.0, until=lambda: bool(world.runs_on(task)))
    world.run(0.2)
    victim = world.runs_on(task)[0]
    world[victim].crash()
    world[victim].restart()
    return victim


def test_a_task_that_three_devices_were_lost_with_is_dead() -> None:
    world = World("desk", "laptop", "attic", "shed", "cellar")
    long_runs(world)
    (id,) = world.accepted("desk", {**ECHO, "device_filter": "network"})
    victims: list[str] = []
    while len(victims) < 3:
        assert world.run(3.0, until=lambda: bool(world.runs_on(id)))
        victims.append(world.runs_on(id)[0])
        world[victims[-1]].crash()
    assert len(set(victims)) == 3
    assert world.run(3.0, until=world.settled(id, outcome="dead"))
    assert world["desk"].task(id).settled is not None


def test_a_task_that_kills_its_hosts_is_dead_although_they_come_back() -> None:
    world = World("desk", "laptop", "attic", "shed", "cellar")
    long_runs(world)
    (id,) = world.accepted("desk", {**ECHO, "device_filter": "network"})
    victims: list[str] = []
    for _ in range(12):
        if world["desk"].outcome(id):
            break
        world.run(3.0, until=lambda: bool(world.runs_on(id) or world["desk"].outcome(id)))
        if world.runs_on(id):
            victims.append(crash_under(world, id))
    world.run(2.0)
    assert world["desk"].outcome(id) == "dead", victims
    assert len(set(victims)) == 3


@pytest.mark.parametrize("failover", ["redistribute", "queue"])
def test_a_task_whose_device_is_lost_runs_elsewhere(failover: str) -> None:
    world = World("desk", "laptop", "attic")
    long_runs(world)
    (id,) = world.accepted("desk", {**ECHO, "failover": failover, "device_filter": "network"})
    assert world.run(1.0, until=lambda: bool(world.runs_on(id)))
    victim = world.runs_on(id)[0]
    world[victim].crash()
    assert world.run(1.0, until=lambda: bool(world.runs_on(id)))
    assert world.runs_on(id) != [victim]


def test_a_task_that_must_not_move_fails_with_its_device() -> None:
    world = World("desk", "laptop", "attic")
    long_runs(world)
    (id,) = world.accepted("desk", {**ECHO, "failover": "fail", "device_filter": "network"})
    assert world.run(1.0, until=lambda: bool(world.runs_on(id)))
    world[world.runs_on(id)[0]].crash()
    assert world.run(1.0, until=world.settled(id, outcome="failed"))
    settled = world["desk"].task(id).settled
    assert settled is not None
    assert settled.code == "device_lost"
    assert len(world.starts_of(id)) == 1


def test_a_task_that_only_one_device_can_run_waits_for_it() -> None:
    world = World("desk", "laptop", "attic")
    pinned = {**ECHO, "requires": {"device": world["attic"].identity.peer_id}}
    world["attic"].crash()
    world.run(1.0)
    (id,) = world.accepted("desk", pinned)
    world.run(2.0)
    task = world["desk"].task(id)
    reason = world["desk"].core.leader.waiting_reason(task)
    assert reason is not None
    assert "attic" in reason
    world["attic"].restart()
    assert world.run(5.0, until=world.settled(id))


def test_a_starved_node_takes_nobody_for_lost() -> None:
    world = World("desk", "laptop", "attic")
    tasks = at_work(world, 6)
    world["desk"].frozen = True
    world.run(0.8)
    world["desk"].frozen = False
    world.run(3.0)
    assert all(len(world.starts_of(id)) == 1 for id in tasks)
    assert len(world["desk"].core.peers.alive) == 3


def test_a_device_lost_while_the_leader_was_starved_is_noticed_all_the_same() -> None:
    world = World("desk", "laptop", "attic")
    tasks = at_work(world, 6)
    world["attic"].crash()
    world.run(world.timers.disconnect_grace_s / 2)
    world["desk"].frozen = True
    world.run(0.4)
    world["desk"].frozen = False
    world["desk"].finish()
    world["laptop"].finish()
    lost = of_device(tasks, "attic")
    assert world.takes(lambda: all(world.runs_on(id) for id in lost), within=1.0) < 0.5


def test_a_node_that_is_starved_all_the_time_still_notices_a_lost_one() -> None:
    world = World("desk", "laptop", "attic")
    world["attic"].frozen = True
    for _ in range(40):
        world["desk"].frozen = True
        world.run(0.3)
        world["desk"].frozen = False
        world.run(0.05)
    assert world["attic"].author not in world["desk"].core.peers.alive
