"""The children of an attempt: run like any task, taken over, and abandoned at the end."""

from __future__ import annotations

import hashlib

from kowalski_node.core import inputs as ins
from kowalski_protocol.codec import encode
from kowalski_protocol.events import TaskCompleted, TaskPlaced, TaskSubmitted
from kowalski_protocol.ids import EventHash, TaskId
from kowalski_protocol.tasks import as_child, child_key, parse_task
from tests.stories.world import Device, World


def echo(value: object = 1, **more: object) -> dict[str, object]:
    return {"kind": "tool", "payload": {"tool": "echo", "args": {"value": value}}, **more}


def graph(**more: object) -> dict[str, object]:
    return {"kind": "graph", "payload": {"tasks": {"one": echo()}}, **more}


def begin(world: World, by: str, **more: object) -> tuple[TaskId, Device, EventHash]:
    """Submits a graph; the device and the attempt that run it."""
    [task] = world.accepted(by, graph(**more))
    assert world.run(3.0, until=lambda: bool(world.runs_on(task)))
    return (task, *running(world, task))


def running(world: World, task: TaskId) -> tuple[Device, EventHash]:
    [name] = world.runs_on(task)
    return world[name], next(a for a, o in world[name].running.items() if o.task == task)


def issue(device: Device, attempt: EventHash, name: str, value: object = 1) -> None:
    device.give(ins.IssueStep(attempt, name, parse_task(echo(value))))


def children(device: Device, task: TaskId) -> list[TaskId]:
    return list(device.core.state.children.get(task, {}))


def test_a_step_is_a_task_of_the_device_that_runs_its_graph() -> None:
    world = World("desk", "lap", "mini")
    task, device, attempt = begin(world, "desk")
    issue(device, attempt, "one")
    assert world.run(3.0, until=lambda: len(device.steps) == 1)
    [end] = device.steps
    assert (end.attempt, end.name, end.outcome, end.taken) == (attempt, "one", "completed", False)
    child = device.task(end.child)
    assert child.child is not None
    assert (child.child.parent, child.child.attempt) == (task, attempt)
    assert child.owner == device.author
    device.finish()
    assert world.run(3.0, until=world.settled(task, end.child))
    assert world.agree()


def test_the_same_step_twice_is_one_task() -> None:
    world = World("desk")
    task, device, attempt = begin(world, "desk")
    issue(device, attempt, "one")
    issue(device, attempt, "one")
    issue(device, attempt, "two")
    assert world.run(3.0, until=lambda: len(device.steps) >= 2)
    world.run(0.5)
    assert len(children(device, task)) == 2


def test_graphs_take_no_slots_and_run_inside_each_other() -> None:
    world = World("desk")
    desk = world["desk"]
    desk.slots = 1
    desk.crash()
    desk.restart()
    assert world.run(20.0, until=lambda: desk.core.leader.is_ready)
    tasks = world.accepted("desk", *[graph(labels={"n": str(n)}) for n in range(5)])
    assert world.run(3.0, until=lambda: all(world.runs_on(task) for task in tasks))
    for task in tasks:
        _, attempt = running(world, task)
        issue(desk, attempt, "one")
    assert world.run(3.0, until=lambda: len(desk.steps) == 5)


def test_what_completed_is_taken_over_and_not_run_again() -> None:
    world = World("desk", "lap", "mini")
    task, lost, attempt = begin(world, "desk", requires={})
    for name in ("one", "two"):
        issue(lost, attempt, name)
    assert world.run(3.0, until=lambda: len(lost.steps) == 2)
    ran = {end.name: end.child for end in lost.steps}
    world.run(1.0)
    lost.crash()
    assert world.run(20.0, until=lambda: bool(world.runs_on(task)))
    device, attempt = running(world, task)
    for name in ("one", "two", "three"):
        issue(device, attempt, name)
    assert world.run(5.0, until=lambda: len(device.steps) == 3)
    ends = {end.name: end for end in device.steps}
    assert {name: end.child for name, end in ends.items() if end.taken} == ran
    assert not ends["three"].taken
    assert all(len(world.starts_of(child)) == 1 for child in ran.values())
    taken = device.task(task).attempt(attempt)
    assert taken is not None
    assert len(taken.taken) == 2


def test_what_is_under_way_is_waited_for() -> None:
    world = World("desk", "lap", "mini")
    task, lost, attempt = begin(world, "desk")
    others = [device for device in world.devices if device is not lost]
    for device in others:
        device.run_s = None
    lost.run_s = None
    wanted = parse_task(echo(requires={"device": _peer(others[0])}))
    lost.give(ins.IssueStep(attempt, "one", wanted))
    assert world.run(3.0, until=lambda: len(others[0].running) > 0)
    [child] = children(others[0], task)
    lost.crash()
    assert world.run(20.0, until=lambda: bool(world.runs_on(task)))
    device, attempt = running(world, task)
    device.give(ins.IssueStep(attempt, "one", wanted))
    world.run(2.0)
    assert device.steps == []
    assert children(device, task) == [child]
    others[0].finish(task=child)
    # Its owner is gone and can't settle it; what its device said is enough.
    assert world.run(3.0, until=lambda: len(device.steps) == 1)
    assert (device.steps[0].child, device.steps[0].taken) == (child, True)


def _peer(device: Device) -> str:
    return device.identity.peer_id


def test_a_failed_child_is_issued_anew_by_the_next_attempt() -> None:
    world = World("desk")
    desk = world["desk"]
    desk.run_s = None
    task, _, attempt = begin(world, "desk", retry={"max_attempts": 2, "backoff_s": 0.1})
    issue(desk, attempt, "one")
    assert world.run(3.0, until=lambda: len(desk.running) == 2)
    [first] = children(desk, task)
    desk.finish(ok=False, code="tool_failed", task=first)
    assert world.run(3.0, until=lambda: len(desk.steps) == 1)
    assert desk.steps[0].outcome == "failed"
    desk.finish(ok=False, code="graph_failed", task=task)
    assert world.run(5.0, until=lambda: world.runs_on(task) == ["desk"])
    _, attempt = running(world, task)
    issue(desk, attempt, "one")
    assert world.run(3.0, until=lambda: len(children(desk, task)) == 2)


def test_a_child_that_failed_before_its_device_was_lost_is_no_other_in_the_next_attempt() -> None:
    world = World("desk", "lap", "mini")
    task, lost, attempt = begin(world, "desk")
    others = [device for device in world.devices if device is not lost]
    for device in world.devices:
        device.run_s = None
    wanted = parse_task({**echo(), "requires": {"device": _peer(others[0])}})
    lost.give(ins.IssueStep(attempt, "one", wanted))
    assert world.run(3.0, until=lambda: len(others[0].running) > 0)
    [child] = children(others[0], task)
    others[0].finish(ok=False, code="tool_failed", task=child)
    assert world.run(3.0, until=lambda: len(lost.steps) == 1)
    world.run(0.5)
    lost.crash()
    assert world.run(20.0, until=lambda: bool(world.runs_on(task)))
    device, attempt = running(world, task)
    device.give(ins.IssueStep(attempt, "one", wanted))
    assert world.run(3.0, until=lambda: len(device.steps) == 1)
    end = device.steps[0]
    assert (end.child, end.outcome, end.taken) == (child, "failed", True)


def test_open_children_are_abandoned_when_their_parent_ends() -> None:
    world = World("desk", "lap", "mini")
    for device in world.devices:
        device.run_s = None
    task, device, attempt = begin(world, "desk")
    for name in ("one", "two", "three"):
        issue(device, attempt, name)
    assert world.run(3.0, until=lambda: sum(len(d.running) for d in world.devices) == 4)
    ids = children(device, task)
    world["desk"].give(ins.Cancel(task))
    assert world.run(5.0, until=world.settled(task, *ids, outcome="cancelled"))
    assert all(world["desk"].task(id).settled.code == "abandoned" for id in ids)  # pyright: ignore
    assert world.run(2.0, until=lambda: not any(d.running for d in world.devices))
    assert world.run(5.0, until=world.agree)


def test_a_step_of_an_attempt_that_has_ended_is_not_run() -> None:
    world = World("desk")
    task, device, attempt = begin(world, "desk")
    device.finish()
    assert world.run(3.0, until=world.settled(task))
    issue(device, attempt, "one")
    world.run(1.0)
    assert children(device, task) == []


def test_a_step_that_nobody_can_run_is_refused() -> None:
    world = World("desk")
    _, device, attempt = begin(world, "desk")
    spec = parse_task({"kind": "tool", "payload": {"tool": "no_such", "args": {}}})
    device.give(ins.IssueStep(attempt, "one", spec))
    assert world.run(1.0, until=lambda: len(device.refused) == 1)
    assert device.refused[0].problem.code == "unknown_tool"


def test_nobody_slips_a_result_into_the_graph_of_another() -> None:
    world = World("desk", "lap", "mini")
    task, device, attempt = begin(world, "desk")
    cheat = next(d for d in world.devices if d is not device)
    world.run(0.5)
    child = as_child(parse_task(echo()), task, task, "one")
    key = child_key(attempt, child.spec.memo)
    from kowalski_protocol.tasks import task_id

    id = task_id(cheat.author, key, child.spec_bytes)
    gathered, core = cheat.gathered, cheat.core
    core.book.write(TaskSubmitted(cheat.author, key, child.spec_bytes), cheat.now, gathered)
    claim = core.state.leader
    assert claim is not None
    core.book.write(
        TaskPlaced(id, 1, cheat.author, claim.hash, 1.0), cheat.now, gathered, child.payload
    )
    placed = core.state.tasks[id].attempts[0].hash
    result = encode("forged")
    body = TaskCompleted(id, placed, hashlib.sha256(result).digest(), len(result), 0, 1)
    core.book.write(body, cheat.now, gathered, result)
    world.run(1.0)
    assert id in device.core.state.tasks
    issue(device, attempt, "one")
    assert world.run(3.0, until=lambda: len(device.steps) == 1)
    assert device.steps[0].child != id


def test_a_node_that_stops_gives_its_graphs_to_others() -> None:
    world = World("desk", "lap", "mini")
    task, device, attempt = begin(world, "desk")
    issue(device, attempt, "one")
    assert world.run(3.0, until=lambda: len(device.steps) == 1)
    device.give(ins.Stop())
    assert world.run(10.0, until=lambda: any(n != device.name for n in world.runs_on(task)))
    other = next(world[n] for n in world.runs_on(task) if n != device.name)
    attempt = next(a for a, o in other.running.items() if o.task == task)
    issue(other, attempt, "one")
    assert world.run(5.0, until=lambda: len(other.steps) == 1)
    assert other.steps[0].taken


def test_a_step_that_waits_for_a_place_is_placed_no_more_once_its_graph_has_ended() -> None:
    world = World("desk", "lap")
    lap = world["lap"]
    task, device, attempt = begin(world, "desk", requires={"device": lap.identity.peer_id})
    assert device is lap
    waiting = parse_task(echo(requires={"cores": 99}, failover="queue"))
    lap.give(ins.IssueStep(attempt, "one", waiting))
    desk = world["desk"]
    assert world.leader() == "desk"
    assert world.run(1.0, until=lambda: bool(children(desk, task)))
    [child] = children(desk, task)
    assert child in desk.core.leader.queue
    desk.give(ins.Cancel(task))
    assert world.run(2.0, until=world.settled(task, child, outcome="cancelled"))
    assert child not in desk.core.leader.queue
    assert world.starts_of(child) == []


def test_a_step_is_refused_while_nothing_can_be_written() -> None:
    world = World("desk")
    _, device, attempt = begin(world, "desk")
    device.core.book.may_write = False
    issue(device, attempt, "one")
    assert world.run(1.0, until=lambda: len(device.refused) == 1)
    assert device.refused[0].problem.code == "disk_full"


def test_nobody_is_told_of_a_step_whose_attempt_has_ended() -> None:
    world = World("desk")
    desk = world["desk"]
    task, _, attempt = begin(world, "desk")
    desk.run_s = None
    issue(desk, attempt, "one")
    assert world.run(3.0, until=lambda: len(desk.running) == 2)
    [child] = children(desk, task)
    desk.finish(task=task)
    assert world.run(3.0, until=world.settled(task))
    assert world.run(3.0, until=world.settled(child, outcome="cancelled"))
    assert desk.steps == []
