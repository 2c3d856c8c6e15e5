"""The cells of a session: in order, one at a time, where their interpreter is, and nothing lost."""

from __future__ import annotations

import pytest
from msgspec import structs

from kowalski_ledger.state import Attempt
from kowalski_node.core import sessions
from kowalski_node.core.inputs import Rebuilt
from kowalski_node.core.sessions import KnownCells, history
from kowalski_protocol.ids import EventHash, TaskId
from tests.stories.world import Device, World


def cell(number: int = 0, **more: object) -> dict[str, object]:
    payload = {"language": "python", "code": f"x = {number}"}
    return {"kind": "code", "payload": payload, "session": "notes", **more}


def counted(device: Device, task: TaskId) -> Attempt:
    """The attempt by which a task settled."""
    settled = device.task(task).settled
    assert settled is not None
    attempt = device.task(task).attempt(settled.attempt)
    assert attempt is not None
    return attempt


def run_all(world: World, name: str, count: int) -> list[TaskId]:
    cells = world.accepted(name, *[cell(number) for number in range(count)])
    assert world.run(10.0, until=world.settled(*cells))
    return cells


def chain(world: World, name: str, last: TaskId) -> list[TaskId]:
    """The cells before this one and itself, as a device would run them again."""
    cells = history(world[name].core.state, counted(world[name], last))
    assert cells is not None
    return [task.id for task, _ in cells] + [last]


def test_cells_run_in_order_on_one_device_and_each_names_the_one_before() -> None:
    world = World("desk", "lap", "mini")
    cells = run_all(world, "lap", 12)
    placed = [counted(world["desk"], id) for id in cells]
    assert len({attempt.device for attempt in placed}) == 1
    assert [attempt.cell for attempt in placed] == list(range(1, 13))
    assert chain(world, "mini", cells[-1]) == cells
    session = world["mini"].core.state.sessions["python", "notes"]
    assert session.tip is not None
    assert session.tip.attempt == placed[-1].hash
    assert not session.open


def test_only_one_cell_is_under_way_and_other_work_goes_on() -> None:
    world = World("desk", "lap", "mini")
    for device in world.devices:
        device.run_s = None
    cells = world.accepted("desk", *[cell(number) for number in range(5)])
    others = world.accepted("desk", *[{**cell(), "session": f"other {n}"} for n in range(3)])
    world.run(1.0)
    assert [bool(world.runs_on(id)) for id in cells] == [True, False, False, False, False]
    assert all(world.runs_on(id) for id in others)
    waits = world["desk"].core.leader.waiting_reason(world["desk"].task(cells[2]))
    assert waits == "waits for the cells of its session before it"
    [name] = world.runs_on(cells[0])
    world[name].finish(task=cells[0])
    assert world.run(1.0, until=lambda: bool(world.runs_on(cells[1])))
    assert world.runs_on(cells[1]) == [name]


def test_a_session_goes_on_elsewhere_when_its_device_is_lost() -> None:
    world = World("desk", "lap", "mini")
    cells = run_all(world, "desk", 4)
    lost = world.by_author(counted(world["desk"], cells[-1]).device)
    assert lost is not None
    asking = next(device.name for device in world.devices if device is not lost)
    lost.crash()
    more = world.accepted(asking, cell(4))
    assert world.run(20.0, until=world.settled(*more))
    attempt = counted(world[asking], more[0])
    assert attempt.device != lost.author
    assert attempt.cell == 5
    assert chain(world, asking, more[0]) == [*cells, *more]


def test_a_cell_that_its_device_lost_is_run_again_after_the_same_cell() -> None:
    world = World("desk", "lap", "mini")
    [first] = run_all(world, "desk", 1)
    lost = world.by_author(counted(world["desk"], first).device)
    assert lost is not None
    asking = next(device.name for device in world.devices if device is not lost)
    lost.run_s = None
    [second] = world.accepted(asking, cell(1))
    assert world.run(2.0, until=lambda: world.runs_on(second) == [lost.name])
    lost.frozen = True
    assert world.run(30.0, until=lambda: world[asking].outcome(second) == "completed")
    attempt = counted(world[asking], second)
    assert (attempt.cell, attempt.after) == (2, counted(world[asking], first).hash)
    lost.frozen = False
    lost.finish()
    [third] = world.accepted(asking, cell(2))
    assert world.run(20.0, until=world.settled(third))
    # The late end of the frozen device's attempt is no cell of the session.
    assert chain(world, asking, third) == [first, second, third]
    assert counted(world[asking], third).after == attempt.hash


def test_a_failed_cell_is_a_cell_and_a_cancelled_one_holds_up_none() -> None:
    world = World("desk")
    world["desk"].run_s = None
    first, second, third = world.accepted("desk", cell(0), cell(1), cell(2))
    assert world.run(1.0, until=lambda: world.runs_on(first) == ["desk"])
    world["desk"].finish(ok=False, code="code_failed")
    assert world.run(1.0, until=lambda: world.runs_on(second) == ["desk"])
    desk = world["desk"]
    failed = desk.task(first).attempts[0]
    assert desk.task(second).attempts[0].after == failed.hash
    from kowalski_node.core.inputs import Cancel

    desk.give(Cancel(second))
    assert world.run(1.0, until=lambda: world.runs_on(third) == ["desk"])
    # It was stopped while it ran, so what comes after it says so.
    assert desk.task(third).attempts[0].after == desk.task(second).attempts[0].hash


def test_two_sides_of_a_partition_go_on_and_one_chain_remains() -> None:
    world = World("desk", "lap", "mini")
    [first] = run_all(world, "desk", 1)
    world.partition("desk")
    world.run(5.0)
    ones = run_all_of(world, "desk", 2)
    others = run_all_of(world, "lap", 1)
    world.heal()
    assert world.run(30.0, until=world.agree)
    after = run_all(world, "mini", 1)
    # The longer side is what the session goes on from; the other side's results stand.
    assert chain(world, "mini", after[0]) == [first, *ones, *after]
    assert world["mini"].outcome(others[0]) == "completed"


def run_all_of(world: World, name: str, count: int) -> list[TaskId]:
    """As `run_all`, as far as this device can tell."""
    cells = world.accepted(name, *[cell(number) for number in range(count)])
    assert world.run(20.0, until=lambda: all(world[name].outcome(id) for id in cells))
    return cells


def test_a_cell_starts_only_where_all_before_it_are_known() -> None:
    world = World("desk", "lap")
    cells = run_all(world, "desk", 2)
    device = world["lap"]
    attempt = counted(device, cells[-1])
    task = device.core.state.tasks[cells[0]]
    kept = device.core.state.tasks.pop(cells[0])
    assert history(device.core.state, attempt) is None
    device.core.state.tasks[cells[0]] = kept
    found = history(device.core.state, attempt)
    assert found is not None
    assert [t.id for t, _ in found] == [task.id]
    assert EventHash(attempt.after) == found[0][1].hash


def test_a_cell_waits_on_its_device_until_the_cells_before_it_have_arrived(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World("desk")
    cells = run_all(world, "desk", 1)
    desk = world["desk"]
    kept = desk.core.state.tasks.pop(cells[0])
    known = KnownCells(desk.core.book)
    attempt = kept.attempts[0]
    later = Attempt(attempt.hash, 1, desk.author, attempt.claim, desk.author, 0, 0, 2, cells[0])
    later.after = attempt.hash
    assert not known.lead_to(later)
    desk.core.state.tasks[cells[0]] = kept
    monkeypatch.setattr(sessions, "NEWEST_MAX", 0)
    later.hash = EventHash(b"another".ljust(32, b"."))
    assert known.lead_to(later)
    monkeypatch.setattr(KnownCells, "lead_to", lambda _self, _attempt: False)
    [second] = world.accepted("desk", cell(1))
    world.run(1.0)
    assert world.starts_of(second) == []
    monkeypatch.undo()
    assert world.run(2.0, until=world.settled(second))


def test_what_was_rebuilt_is_in_the_ledger() -> None:
    world = World("desk", "lap")
    world["desk"].run_s = world["lap"].run_s = None
    [first] = world.accepted("desk", cell(0))
    assert world.run(2.0, until=lambda: bool(world.runs_on(first)))
    [name] = world.runs_on(first)
    device = world[name]
    order = next(order for order in device.running.values() if order.task == first)
    del device.running[EventHash(order.attempt)]
    told = structs.replace(world.ended(order), rebuilt=Rebuilt(3, (2,), (1,)))
    device.give(told)
    assert world.run(3.0, until=world.settled(first))
    assert world.run(3.0, until=world.agree)
    for node in world.devices:
        rebuilt = node.task(first).attempts[0].rebuilt
        assert rebuilt is not None
        assert (rebuilt.replayed, rebuilt.diverged, rebuilt.passed_over) == (3, (2,), (1,))
    state = world["desk"].core.state
    digest = state.digest()
    state.touch(state.tasks[first])
    assert state.digest() == digest
