"""Work that a lost device held is placed again before what came after it."""

from __future__ import annotations

from tests.stories.world import World


def echo() -> dict[str, object]:
    return {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}


def test_lost_work_goes_before_a_backlog_that_came_later() -> None:
    world = World("desk", "lap", "mini")
    for device in world.devices:
        device.run_s = None
    world.submit("desk", *[echo()] * 12)
    world.run(0.5)
    held = [start.task for start in world["mini"].starts]
    assert held
    world.submit("desk", *[echo()] * 100)
    world.run(0.5)
    world["mini"].crash()
    world.run(1.0)
    desk = world["desk"].core
    assert desk.leader.leading
    assert all(id in desk.leader.queue for id in held)
    turn = desk.leader.queue.next(set(), world.now.mono_s)
    assert turn is not None
    assert turn[0] in held, "a task that came later goes first"


def test_lost_work_of_a_batch_goes_before_the_rest_of_that_batch() -> None:
    world = World("desk", "lap", "mini")
    for device in world.devices:
        device.run_s = None
    world.submit("desk", *[echo()] * 100)
    world.run(0.5)
    held = [start.task for start in world["mini"].starts]
    assert held
    world["mini"].crash()
    world.run(1.0)
    desk = world["desk"].core
    assert desk.leader.leading
    assert len(desk.leader.queue) > len(held)
    turns: list[object] = []
    for _ in held:
        turn = desk.leader.queue.next(set(), world.now.mono_s)
        assert turn is not None
        turns.append(turn[0])
        desk.leader.queue.serve(turn[0])
    assert set(turns) == set(held), "the rest of the batch goes first"
