"""Stragglers: a second attempt for a task that asked for it, on another device, and the end of the
one that lost.
"""

from __future__ import annotations

import pytest

from kowalski_node.core.attempts import RUNS_MIN
from kowalski_node.core.breakers import FAILURES_MAX
from kowalski_node.core.hedging import LONG_S_MIN
from kowalski_protocol.ids import TaskId
from tests.stories.world import World

ECHO: dict[str, object] = {"kind": "tool", "payload": {"tool": "echo"}}
HEDGED: dict[str, object] = {**ECHO, "hedge": True}


def practised(*names: str, hedged: bool = True) -> tuple[World, TaskId]:
    """A world that knows how long runs take, and a task that does not come to its end."""
    world = World(*names)
    assert world.run(3.0, until=world.settled(*world.accepted("desk", *[ECHO] * (RUNS_MIN + 5))))
    for device in world.devices:
        device.run_s = None
    (id,) = world.accepted("desk", HEDGED if hedged else ECHO)
    assert world.run(1.0, until=lambda: bool(world.runs_on(id)))
    return world, id


def test_a_straggler_gets_a_second_attempt_elsewhere_and_the_first_result_counts() -> None:
    world, id = practised("desk", "laptop", "attic")
    (slow,) = world.runs_on(id)
    took_s = world.takes(lambda: len(world.runs_on(id)) == 2, within=3.0)
    assert took_s == pytest.approx(LONG_S_MIN, abs=0.5)
    (fast,) = set(world.runs_on(id)) - {slow}
    world[fast].finish(task=id)
    assert world.run(1.0, until=world.settled(id))
    assert world.run(1.0, until=lambda: not world.runs_on(id)), "the other one is stopped"
    world.run(1.0)
    for device in world.devices:
        first, second = sorted(device.task(id).attempts, key=lambda attempt: attempt.number)
        settled = device.task(id).settled
        assert settled is not None
        assert settled.attempt == second.hash
        assert first.end is not None
        assert (first.end.kind, first.end.code) == ("failed", "cancelled"), "it is on record"
    assert world.agree()


def test_there_is_one_hedge_at_most_even_after_its_device_is_lost() -> None:
    world, id = practised("desk", "laptop", "attic", "mini")
    assert world.run(3.0, until=lambda: len(world.runs_on(id)) == 2)
    world.run(10.0)
    assert len(world.starts_of(id)) == 2
    (lost, *_) = [name for name in world.runs_on(id) if name != "desk"]
    world[lost].crash()
    world.run(10.0)
    assert len(world.starts_of(id)) == 2
    world[world.runs_on(id)[0]].finish(task=id)
    assert world.run(2.0, until=world.settled(id))


def test_a_task_that_did_not_ask_runs_once() -> None:
    world, id = practised("desk", "laptop", "attic", hedged=False)
    world.run(30.0)
    assert len(world.starts_of(id)) == 1
    assert len(world["desk"].task(id).attempts) == 1


@pytest.mark.parametrize("is_hedged", [False, True])
def test_a_new_leader_hedges_as_well_and_knows_of_a_hedge(is_hedged: bool) -> None:
    workers = ("laptop", "attic", "mini")
    world = World("desk", *workers, labels={name: {"room": "lab"} for name in workers})
    assert world.run(3.0, until=world.settled(*world.accepted("desk", *[ECHO] * (RUNS_MIN + 5))))
    for device in world.devices:
        device.run_s = None
    (id,) = world.accepted("laptop", {**HEDGED, "requires": {"labels": {"room": "lab"}}})
    count = 2 if is_hedged else 1
    assert world.run(3.0, until=lambda: len(world.runs_on(id)) == count)
    assert world.leader() == "desk"
    world["desk"].crash()
    world.run(10.0)
    assert world.leader() == "laptop"
    assert len(world.starts_of(id)) == 2
    world[world.runs_on(id)[0]].finish(task=id)
    assert world.run(1.0, until=world.settled(id))


def test_without_a_free_slot_elsewhere_there_is_no_hedge() -> None:
    world, id = practised("desk", "laptop")
    (slow,) = world.runs_on(id)
    other = next(device for device in world.devices if device.name != slow)
    busy = {**ECHO, "requires": {"device": other.identity.peer_id}}
    world.accepted("desk", *[busy] * other.slots)
    assert world.run(1.0, until=lambda: len(other.running) == other.slots)
    world.run(10.0)
    assert len(world["desk"].task(id).attempts) == 1, "it is not placed behind other work either"
    other.finish()
    assert world.run(1.0, until=lambda: len(world.runs_on(id)) == 2), "now there is one"


def test_a_hedge_waits_for_no_device_that_is_gone() -> None:
    world, id = practised("desk", "laptop")
    (slow,) = world.runs_on(id)
    other = next(device for device in world.devices if device.name != slow)
    other.crash()
    world.run(5.0)
    assert world.runs_on(id) == [slow]
    world[slow].finish()
    assert world.run(1.0, until=world.settled(id))


def test_a_hedge_that_fails_leaves_the_first_attempt_its_chance() -> None:
    world, id = practised("desk", "laptop", "attic")
    (slow,) = world.runs_on(id)
    assert world.run(3.0, until=lambda: len(world.runs_on(id)) == 2)
    (second,) = set(world.runs_on(id)) - {slow}
    world[second].finish(ok=False, code="out_of_memory", task=id)
    world.run(2.0)
    assert world["desk"].outcome(id) is None
    world[slow].finish(task=id)
    assert world.run(1.0, until=world.settled(id))


def test_a_hedge_is_placed_on_no_device_that_fails_what_it_is_given() -> None:
    world, _ = practised("desk", "laptop")
    laptop = world["laptop"]
    pinned = {"requires": {"device": laptop.identity.peer_id}, "failover": "fail"}
    [id] = world.accepted("desk", {**HEDGED, **pinned})
    assert world.run(1.0, until=lambda: world.runs_on(id) == ["laptop"])
    for task in world.accepted("desk", *[{**ECHO, **pinned}] * FAILURES_MAX):
        assert world.run(2.0, until=lambda task=task: bool(world.runs_on(task)))
        laptop.finish(ok=False, code="executor_failed", task=task)
    world.run(0.1)
    desk = world["desk"]
    assert desk.core.leader.breakers.open_count == 1
    world.run(5.0)
    assert world.starts_of(id) == ["laptop"]
    laptop.finish(task=id)
    assert world.run(1.0, until=world.settled(id))
    assert desk.core.leader.waiting_reason(desk.task(id)) is None


def test_a_leader_that_listens_anew_forgets_what_may_have_ended_meanwhile() -> None:
    world, id = practised("desk", "laptop", "attic")
    assert world.leader() == "desk"
    desk = world["desk"]
    world.run(0.5)
    hedges = desk.core.leader._hedges
    assert hedges.due(1e8) == [desk.task(id)]
    desk.core.leader.listen(desk.now, desk.gathered)
    assert hedges.due(1e9) == []
