"""Small finished worlds, for the tests of the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kowalski_ledger.state import Task
from kowalski_node.core import inputs as ins
from kowalski_protocol.feeds import Feed, Head
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.tasks import parse_task
from simulations.device import Device
from simulations.faults import KINDS
from simulations.options import Options
from simulations.world import World

ROOT = Path(__file__).resolve().parents[2]
ALL = tuple(KINDS)
SEEDS = (1, 2, 3, 4)
NOBODY = Author(b"nobody".ljust(32, b"."))
OTHER_HASH = EventHash(b"another hash".ljust(32, b"."))


def a_world(*, seed: int = 5) -> World:
    """Three devices whose work is done, and nothing that went wrong."""
    world = World(Options(seed=seed, nodes=3, minutes=0.3, preset="local", faults=()))
    world.run()
    return world


def a_task(world: World) -> Task:
    """A task that ran and is settled."""
    tasks = world.devices[0].core.state.tasks.values()
    return next(task for task in tasks if task.settled and task.attempts)


def submit(world: World, **args: object) -> TaskId:
    """A new task, accepted by the first device."""
    known = set(world.checks.acknowledged)
    spec: dict[str, Any] = {"kind": "tool", "payload": {"tool": "echo", "args": args}}
    world.devices[0].give(ins.Submit(7_000_000, [parse_task(spec)], [bytes(16)]))
    world.agenda.run_until(world.agenda.now_s + 1.0)
    (id,) = set(world.checks.acknowledged) - known
    return id


def runner(world: World, task: Task) -> Device:
    return next(d for d in world.devices if d.author == task.attempts[0].device)


def lose_end_of(device: Device, feed: Feed) -> None:
    """The device's disk has not got the last event of a feed."""
    head = device.store.heads_now[feed]
    device.store.heads_now[feed] = Head(head.seq - 1, OTHER_HASH)
