"""How the cost of a cluster grows with its devices: messages, bytes, processor time, waits.

One world per size, with the timers of a home network and nothing that goes wrong by itself. What is
counted is what devices send each other, heartbeats included, once for each receiver. Processor time
is that of the core, the folding and the simulated wire in one Python process, so it is an upper
bound for the core and says nothing of libp2p, SQLite and the sandbox.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from kowalski_node.core import inputs as ins
from kowalski_protocol.ids import TaskId
from kowalski_protocol.tasks import parse_task

from .device import Device
from .options import Options
from .world import World

SIZES = (3, 10, 30, 100)
TASKS = 300
CONCURRENT = 1_000
REST_S = 30.0
LOOK_S = 0.02


class Cost(msgspec.Struct, frozen=True):
    """What something cost the whole cluster."""

    messages: float
    size_bytes: float
    core_s: float


class Growth(msgspec.Struct, frozen=True):
    """The figures of one size."""

    nodes: int
    idle_minute: Cost
    task: Cost
    settled_everywhere_s: float
    """From the submission of all tasks to their end on every device."""
    new_leader_s: float
    """From the leader's end until all follow another who may place."""
    one_digest_s: float
    """From the heal of a partition in two halves, with work on both sides, to one digest."""
    concurrent_s: float
    """From the submission of 1,000 tasks of 10 s to their end on every device."""
    slots: int


def measure(nodes: int, told: Callable[[str], object] = lambda _sentence: None) -> Growth:
    """The figures of a cluster of so many devices."""
    world = World(Options(seed=nodes, nodes=nodes, preset="lan", faults=()))
    for device in world.devices:
        device.slots = 16
        device.fsync_s = 0.001
    told(f"{nodes} nodes: forming")
    world.form()
    meter = _Meter(world)
    world.agenda.run_until(world.agenda.now_s + REST_S)
    told(f"{nodes} nodes: a minute of rest")
    meter.start()
    world.agenda.run_until(world.agenda.now_s + 60.0)
    idle = meter.stop(1)
    told(f"{nodes} nodes: {TASKS} tasks")
    meter.start()
    began_s = world.agenda.now_s
    ids = _submit(world, world.devices[-1], TASKS, 0.0)
    settled_s = _wait(world, lambda: _settled(world, ids)) - began_s
    seconds = world.agenda.now_s - began_s
    spent = meter.stop(1)
    share = seconds / 60.0
    task = Cost(
        max(0.0, spent.messages - idle.messages * share) / TASKS,
        max(0.0, spent.size_bytes - idle.size_bytes * share) / TASKS,
        max(0.0, spent.core_s - idle.core_s * share) / TASKS,
    )
    told(f"{nodes} nodes: {CONCURRENT} tasks at once")
    began_s = world.agenda.now_s
    ids = _submit(world, world.devices[1], CONCURRENT, 10.0)
    concurrent_s = _wait(world, lambda: _settled(world, ids)) - began_s
    told(f"{nodes} nodes: the leader ends")
    leader_s = _new_leader(world)
    told(f"{nodes} nodes: two halves")
    digest_s = _heal(world)
    return Growth(nodes, idle, task, settled_s, leader_s, digest_s, concurrent_s, 16 * nodes)


class _Meter:
    def __init__(self, world: World) -> None:
        self._world = world
        self.start()

    def start(self) -> None:
        wire = self._world.wire
        self._from = (wire.messages, wire.size_bytes, time.process_time())

    def stop(self, by: int) -> Cost:
        wire = self._world.wire
        messages, size_bytes, core_s = self._from
        return Cost(
            (wire.messages - messages) / by,
            (wire.size_bytes - size_bytes) / by,
            (time.process_time() - core_s) / by,
        )


def _submit(world: World, device: Device, count: int, seconds: float) -> list[TaskId]:
    known = set(device.core.state.tasks)
    spec: dict[str, Any] = {
        "kind": "tool",
        "payload": {"tool": "sleep", "args": {"seconds": seconds}},
    }
    keys = [device.chance.randbytes(16) for _ in range(count)]
    device.give(ins.Submit(1, [parse_task(spec) for _ in range(count)], keys))
    ids = [id for id in device.core.state.tasks if id not in known]
    if len(ids) != count:
        raise RuntimeError(f"{count - len(ids)} of {count} tasks were not accepted")
    return ids


def _settled(world: World, ids: list[TaskId]) -> bool:
    """Whether all live devices know the ends; the last one is asked first, as it takes longest."""
    live = [device for device in world.devices if device.is_up]
    return all(d.outcome(id) is not None for id in (ids[-1], *ids) for d in live)


def _wait(world: World, until: Callable[[], bool], within_s: float = 600.0) -> float:
    deadline_s = world.agenda.now_s + within_s
    while not until():
        if world.agenda.now_s > deadline_s:
            raise RuntimeError(f"it took longer than {within_s:g} s")
        world.agenda.run_until(world.agenda.now_s + LOOK_S)
    return world.agenda.now_s


def _new_leader(world: World) -> float:
    leader = world.devices[0].core.state.leader
    assert leader is not None
    lost = next(device for device in world.devices if device.author == leader.author)
    lost.crash()
    began_s = world.agenda.now_s

    def follow() -> bool:
        live = [device for device in world.devices if device.is_up]
        claims = {d.core.state.leader.hash if d.core.state.leader else b"" for d in live}
        ready = any(device.core.leader.is_ready for device in live)
        return len(claims) == 1 and claims != {leader.hash} and ready

    return _wait(world, follow) - began_s


def _heal(world: World) -> float:
    for device in world.devices:
        world.restart(device)
    world.agenda.run_until(world.agenda.now_s + REST_S)
    half = {device.author for device in world.devices[::2]}
    all_ = list(world.wire.stations)
    out = [(a, b) for a in all_ for b in all_ if (a in half) != (b in half)]
    for a, b in out:
        world.wire.reset(a, b)
    world.wire.block(out)
    world.agenda.run_until(world.agenda.now_s + 5.0)
    for device in (world.devices[0], world.devices[1]):
        _submit(world, device, TASKS, 0.0)
    world.agenda.run_until(world.agenda.now_s + 25.0)
    world.wire.unblock(out)
    began_s = world.agenda.now_s

    def agree() -> bool:
        live = [device for device in world.devices if device.is_up]
        if len({device.core.book.heads_hash() for device in live}) > 1:
            return False
        return len({device.core.state.digest() for device in live}) == 1

    return _wait(world, agree) - began_s
