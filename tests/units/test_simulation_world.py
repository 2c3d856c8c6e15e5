"""The simulated world: the same again from the same seed, faults that happen, stories."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from kowalski_protocol.feeds import Feed
from kowalski_protocol.ids import EventHash, TaskId
from kowalski_protocol.topics import TASK
from simulations.faults import KINDS, Fault
from simulations.options import Options
from simulations.running import run
from simulations.story import feed_story, task_story
from simulations.world import World
from tests.units.small_worlds import (
    ALL,
    OTHER_HASH,
    ROOT,
    SEEDS,
    a_task,
    a_world,
    lose_end_of,
    runner,
    submit,
)


@pytest.fixture
def world() -> World:
    return a_world()


# The same again.

PROGRAM = """
import json, sys
from simulations.faults import KINDS
from tests.units.test_simulation_world import told
print(json.dumps([told(int(seed)) for seed in sys.argv[1:]]))
"""


def told(seed: int) -> dict[str, Any]:
    """All that a run says of itself, but for how long it took on this machine."""
    report = msgspec.to_builtins(run(Options(seed=seed, minutes=0.5, faults=ALL)))
    del report["core_s"]
    return json.loads(json.dumps(report))


def test_the_same_options_give_the_same_run_in_any_process() -> None:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("protocol", "ledger", "node", "."))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, SEEDS)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": hash_seed},
        )
        for hash_seed in ("1", "2")
    ]
    here = [told(seed) for seed in SEEDS]
    assert here == [told(seed) for seed in SEEDS]
    for process in running:
        assert json.loads(process.communicate(timeout=100)[0]) == here
        assert process.returncode == 0
    assert sum(report["faults"] for report in here) >= len(SEEDS)
    assert all(report["ok"] for report in here), here


def test_another_seed_gives_another_run() -> None:
    digests = {run(Options(seed=seed, nodes=3, minutes=0.1, faults=())).digest for seed in range(6)}
    assert len(digests) == 6


def test_the_story_of_a_task_is_the_same_in_each_run() -> None:
    options = Options(seed=2, nodes=3, minutes=0.5, faults=ALL)
    world = World(options)
    world.run()
    task = a_task(world).id
    stories = [run(options, story=task.hex()).story for _ in range(2)]
    assert stories[0] == stories[1] == tuple(task_story(world, task))


# Faults.


def test_leaving_out_a_fault_leaves_the_rest_of_the_schedule_as_it_was() -> None:
    options = Options(seed=11, nodes=4, minutes=1.0, faults=ALL)
    whole = World(options)
    whole.run()
    assert len(whole.schedule) > 3
    assert [f.number for f in whole.faults.happened] == [f.number for f in whole.schedule]
    for left in (whole.schedule[0], whole.schedule[2]):
        world = World(options.with_(left_out=(left.number,)))
        assert world.schedule == whole.schedule
        world.run()
        happened = [fault for fault in whole.faults.happened if fault.number != left.number]
        assert world.faults.happened == happened
        # Until it would have happened the runs are one.
        at_s = next(f.at_s for f in whole.faults.happened if f.number == left.number)
        before = [line for line in whole.told if line[0] < at_s]
        assert [line for line in world.told if line[0] < at_s] == before
        assert events_before(world, at_s) == events_before(whole, at_s)


def events_before(world: World, at_s: float) -> list[EventHash]:
    written = world.checks.written_s.items()
    return [hash for hash, when_s in written if when_s < at_s]


def test_what_is_left_out_of_everything_is_a_world_in_which_nothing_goes_wrong() -> None:
    options = Options(seed=11, nodes=4, minutes=0.5, faults=("crash", "partition", "full_disk"))
    numbers = tuple(fault.number for fault in World(options).schedule)
    world, quiet = World(options.with_(left_out=numbers)), World(options.with_(faults=()))
    for each in (world, quiet):
        each.run()
    assert world.faults.happened == []
    assert world.digest() == quiet.digest()


def test_switching_a_kind_on_or_off_changes_nothing_about_the_others() -> None:
    options = Options(seed=11, nodes=4, minutes=20.0, faults=("crash", "partition", "full_disk"))

    def of_kind(kind: str, options: Options) -> list[Fault]:
        schedule = World(options).schedule
        return [msgspec.structs.replace(f, number=0) for f in schedule if f.kind == kind]

    for kind in ("crash", "partition", "full_disk"):
        alone = of_kind(kind, options.with_(faults=(kind,)))
        assert alone
        assert of_kind(kind, options) == alone


def traffic(world: World) -> tuple[object, ...]:
    """What a fault changes if it does anything at all."""
    events = [event.hash for device in world.devices for event in device.disk.events]
    return events, world.wire.messages, world.wire.size_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_happens_alone_and_breaks_no_promise(kind: str) -> None:
    tries = 0
    for seed in range(300):
        options = Options(seed=seed, nodes=3 + seed % 3, minutes=1.0, faults=(kind,))
        world = World(options)
        if not world.schedule:
            continue
        world.run()
        assert [fault.kind for fault in world.faults.happened] == [kind] * len(world.schedule)
        # Some hit one who is away, or nobody: then another seed must show what it does.
        without = World(options.with_(left_out=tuple(f.number for f in world.schedule)))
        without.run()
        if world.disks_hurt or traffic(world) != traffic(without):
            return
        tries += 1
        assert tries < 8, "it happens and changes nothing"
    pytest.fail("it never happens")


@pytest.mark.parametrize(
    "kind",
    [kind for kind in KINDS if not kind.startswith("attack_")],
)
def test_a_healed_world_is_as_it_was(world: World, kind: str) -> None:
    # Also where two of a kind happened to the same device, and the first of them ended first.
    def condition() -> list[object]:
        devices = [
            (d.disk.is_full, d.fsync_s, d.is_frozen, d.speed, d.step_s, d.clock.drift)
            for d in world.devices[:3]
        ]
        return [world.wire.weather, dict(world.wire._blocked), devices]

    before = condition()
    now_s = world.agenda.now_s
    faults = [
        Fault(number, kind, now_s + number / 10, 5.0 + number, (1,), 0.3 + number / 10)
        for number in range(2)
    ]
    world.faults.plan(faults)
    world.agenda.run_until(now_s + 1.0)
    world.faults.heal()
    assert [fault.kind for fault in world.faults.happened] == [kind] * 2
    assert condition() == before


# Stories.


def seconds_of(line: str) -> float:
    return float(line.split(" s  ")[0])


def parts(story: list[str]) -> tuple[str, list[str], dict[str, str]]:
    """A task's story: its title, its lines, and what each device shows."""
    at = story.index("what each device shows")
    shown = dict(line.split(maxsplit=1) for line in story[at + 1 :])
    return story[0], story[1:at], shown


def test_a_tasks_story_has_its_lines_in_order_and_tells_what_each_device_shows() -> None:
    for seed in range(20):
        world = World(Options(seed=seed, nodes=4, minutes=1.0, faults=("crash",)))
        if not world.schedule:
            continue
        world.run()
        crash = world.faults.happened[0]
        done = [t for t in world.devices[0].core.state.tasks.values() if t.attempts and t.settled]
        stories = [(task, *parts(task_story(world, task.id))) for task in done]
        for task, title, lines, shown in stories:
            assert title == f"the story of task {task.id.hex()[:16]}"
            assert lines
            assert [seconds_of(line) for line in lines] == sorted(map(seconds_of, lines))
            assert task.settled is not None
            end = f"settled as {task.settled.outcome} by {world.name_of(task.settled.author)}"
            assert shown == {device.name: end for device in world.devices}
        # The fault is told where it belongs: in the stories of those whose time it was.
        whom = world.devices[crash.whom[0] % 4].name
        told = f"fault {crash.number}: crash {whom}"
        if any(told in line for _, _, lines, _ in stories for line in lines):
            return
    pytest.fail("no task was there when a device crashed")


def test_the_events_of_a_task_are_told_with_who_wrote_them_and_who_holds_them(
    world: World,
) -> None:
    # One that takes a while: of a brief one it is not told that it started.
    id = submit(world, seconds=4.0)
    world.agenda.run_until(world.agenda.now_s + 10.0)
    task = world.devices[0].core.state.tasks[id]
    _, lines, _ = parts(task_story(world, task.id))
    told = [line.split(" s  ")[1].split() for line in lines if " world " not in line]
    authors = {kind: author for author, kind, *_ in told}
    kinds = [kind for _, kind, *_ in told]
    expected = ["TaskSubmitted", "TaskPlaced", "TaskStarted", "TaskCompleted", "TaskSettled"]
    assert [kind for kind in kinds if kind in expected] == expected
    assert task.settled is not None
    assert authors["TaskSubmitted"] == world.name_of(task.submitter)
    assert authors["TaskPlaced"] == world.name_of(task.attempts[0].leader)
    assert authors["TaskStarted"] == world.name_of(task.attempts[0].device)
    assert authors["TaskSettled"] == world.name_of(task.settled.author)
    assert all(line.endswith("held by all") for line in lines if " world " not in line)
    placed = next(line for line in lines if "TaskPlaced" in line)
    assert f"device {runner(world, task).name}" in placed
    # One disk has forgotten the last of it.
    last = world.devices[2].disk.events
    world.devices[2].disk.events = [e for e in last if e.hash != task.settled.hash]
    settled = next(line for line in task_story(world, task.id) if "TaskSettled" in line)
    assert settled.endswith("held by n0,n1")


def test_what_devices_show_is_told_also_of_those_who_cannot_show_it(world: World) -> None:
    id = submit(world, seconds=10_000)
    device = world.devices[0].core.state.tasks[id].attempts[0].device
    world.devices[1].crash()
    world.devices[2].crash()
    world.devices[2].is_gone = True
    shown = parts(task_story(world, id))[2]
    assert shown == {
        "n0": f"open, under way on {world.name_of(device)}",
        "n1": "is down",
        "n2": "is gone",
    }
    unknown = TaskId(b"unknown".ljust(32, b"."))
    assert parts(task_story(world, unknown))[2]["n0"] == "does not know it"


def test_a_feeds_story_tells_who_holds_how_much_of_it(world: World) -> None:
    feed = Feed(world.devices[0].author, TASK)
    head = world.devices[0].store.heads_now[feed]
    world.devices[1].crash()
    lose_end_of(world.devices[2], feed)
    story = feed_story(world, feed)
    assert story[0] == "the story of feed n0/task"
    assert [line.split() for line in story[1:4]] == [
        ["n0", "up", "holds", "up", "to", str(head.seq), head.hash.hex()[:8]],
        ["n1", "down", "holds", "up", "to", str(head.seq), head.hash.hex()[:8]],
        ["n2", "up", "holds", "up", "to", str(head.seq - 1), OTHER_HASH.hex()[:8]],
    ]
    at = story.index("what happened to the world") + 1
    assert [seconds_of(line) for line in story[at:]] == [at_s for at_s, _ in world.told]
