"""The checks of how a single node behaves have teeth, and leave alone what is as it should be."""

from __future__ import annotations

import ast
from collections.abc import Callable

import pytest

from kowalski_protocol.codec import encode
from kowalski_protocol.events import AttemptLost, Body, CancelRequested, LeaderClaimed
from kowalski_protocol.feeds import Event
from kowalski_protocol.topics import TASK
from simulations.checks import Broken
from simulations.conduct import ANSWER_S, OWN_HEAD_WAIT_S, Conduct, unaware
from simulations.device import Device
from simulations.world import World
from tests.units.small_worlds import OTHER_HASH, ROOT, a_task, a_world

TEETH: list[tuple[str, str, Callable[[World], object]]] = []
"""(check, part of what it says, how to make it say so)"""


def tooth(check: str, sentence: str) -> Callable[[Callable[[World], object]], None]:
    def keep(tamper: Callable[[World], object]) -> None:
        TEETH.append((check, sentence, tamper))

    return keep


def conduct(world: World) -> Conduct:
    return world.checks.conduct


def wrote(world: World, number: int, body: Body) -> None:
    """A device has written this."""
    device = world.devices[number]
    event = Event(device.author, TASK, 99, 1, type(body).__name__, encode(body), OTHER_HASH)
    conduct(world).wrote(device, event)


def just_started(world: World, number: int) -> Device:
    device = world.devices[number]
    conduct(world).booted(device)
    return device


@tooth("nothing is written on a full disk", "n1 writes")
def _(world: World) -> None:
    world.devices[1].core.disk_full = True
    wrote(world, 1, CancelRequested(bytes(16)))


@tooth("a leader that is there stays", "n1 outbids n0")
def _(world: World) -> None:
    leader = world.devices[1].core.state.leader
    assert leader is not None
    assert leader.author == world.devices[0].author
    wrote(world, 1, LeaderClaimed(leader.epoch + 1, leader.hash))


@tooth("who claims is next in line", "n0 claims before n2")
def _(world: World) -> None:
    # The last one is a home device.
    wrote(world, 0, LeaderClaimed(1, b""))


@tooth("who has just started is patient", "n2 claims")
def _(world: World) -> None:
    just_started(world, 2)
    wrote(world, 2, LeaderClaimed(1, b""))


@tooth("what runs is left alone", "n0 gives up what")
def _(world: World) -> None:
    task = a_task(world)
    for attempt in task.attempts:
        wrote(world, 0, AttemptLost(task.id, attempt.hash, "device_lost"))


@tooth("what is lost is given up", "waits for n1")
def _(world: World) -> None:
    task, leader = a_task(world), world.devices[0]
    task.settled, task.cancel = None, None
    for attempt in task.attempts:
        attempt.end, attempt.lost, attempt.device = None, None, world.devices[1].author
    leader.core.state.open[task.id] = task
    leader.core.peers.present -= {world.devices[1].author}
    conduct(world).look(leader)


@tooth("who starts asks how far it came", "n2 writes")
def _(world: World) -> None:
    device = just_started(world, 2)
    world.agenda.now_s += OWN_HEAD_WAIT_S / 2
    conduct(world).forked(device, device.disk.events[-1])


@tooth("who stops hands over", "keeps a task")
def _(world: World) -> None:
    task, device = a_task(world), world.devices[0]
    task.owner = task.submitter = device.author
    device.core.state.open[task.id] = task
    conduct(world).stopped(device)


@tooth("whoever asks is answered", "n1 owes an answer, 7,")
def _(world: World) -> None:
    conduct(world).asked(world.devices[1], 7)
    world.agenda.now_s += ANSWER_S + 1.0
    conduct(world).judge()


@pytest.mark.parametrize(("check", "sentence", "tamper"), TEETH, ids=[tooth[0] for tooth in TEETH])
def test_a_violation_is_found(check: str, sentence: str, tamper: Callable[[World], object]) -> None:
    with pytest.raises(Broken) as raised:
        tamper(a_world())
    assert raised.value.check == check
    assert sentence in raised.value.sentence


def test_each_check_has_a_violation_that_it_finds() -> None:
    text = (ROOT / "simulations/conduct.py").read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    named = {
        str(call.args[0].value)
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "_fail"
        and isinstance(call.args[0], ast.Constant)
    }
    assert named == {check for check, _, _ in TEETH}


def test_what_is_as_it_should_be_breaks_nothing() -> None:
    world = a_world()
    device = world.devices[0]
    wrote(world, 0, CancelRequested(bytes(16)))
    wrote(world, 2, LeaderClaimed(1, b""))
    wrote(world, 0, AttemptLost(a_task(world).id, OTHER_HASH, "device_lost"))
    conduct(world).forked(device, device.disk.events[-1])
    conduct(world).stopped(device)
    for one in world.devices:
        conduct(world).look(one)
    conduct(world).asked(device, 7)
    conduct(world).judge()
    world.agenda.now_s += ANSWER_S + 1.0
    conduct(world).answered(device, 7)
    conduct(world).asked(world.devices[1], 8)
    world.devices[1].crash()
    conduct(world).judge()


def test_who_was_just_started_need_not_be_heard_yet() -> None:
    world = a_world()
    world.agenda.now_s += 100.0
    deaf, other = world.devices[:2]
    assert unaware(world.devices, conduct(world), 10.0) is None
    deaf.core.peers.alive -= {other.author}
    assert unaware(world.devices, conduct(world), 10.0) == (deaf, other)
    conduct(world).booted(other)
    assert unaware(world.devices, conduct(world), 10.0) is None
