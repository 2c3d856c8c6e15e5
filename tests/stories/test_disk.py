"""The disk of a node is full, or slow, or loses power.

What it says and what becomes of its work.
"""

from __future__ import annotations

from kowalski_node.core import inputs as ins
from tests.stories.world import World

ECHO: dict[str, object] = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}


def full(world: World, name: str) -> None:
    """The disk fills up, and the node notices with the next thing that it wants to write."""
    world[name].disk_is_full = True


def test_a_full_disk_is_told_at_once_and_nothing_is_accepted() -> None:
    world = World("desk", "laptop")
    full(world, "desk")
    first = world.submit("desk", ECHO)
    world.run(0.1)
    second = world.submit("desk", ECHO)
    world.run(0.1)
    for ticket in (first, second):
        problem = world["desk"].answers[ticket].problem
        assert problem is not None
        assert (problem.code, problem.status) == ("disk_full", 507)


def test_a_node_with_a_full_disk_writes_nothing_and_goes_on_answering_questions() -> None:
    world = World("desk", "laptop")
    full(world, "desk")
    world.submit("desk", ECHO)
    world.run(1.0)
    before = len(world["desk"].ledger)
    for input in (
        ins.SetWeights(world.ticket(), "tool", {"load": 1.0}),
        ins.Admit(world.ticket(), world["laptop"].author, "x", "member", bytes(32)),
    ):
        world["desk"].give(input)
        world.run(0.1)
        problem = world["desk"].answers[input.ticket].problem
        assert problem is not None
        assert problem.code == "disk_full"
    world.run(5.0)
    assert len(world["desk"].ledger) == before
    assert world["desk"].core.state.digest()


def test_after_room_was_made_everything_goes_on() -> None:
    world = World("desk", "laptop")
    full(world, "desk")
    world.submit("desk", ECHO)
    world.run(2.0)
    world["desk"].disk_is_full = False
    world.run(2.0)
    assert not world["desk"].core.disk_full
    ids = world.accepted("desk", *[ECHO] * 5)
    assert world.run(2.0, until=world.settled(*ids))
    assert world.run(2.0, until=world.agree)


def test_a_leader_that_can_not_write_is_followed_by_one_that_can() -> None:
    world = World("desk", "laptop", "attic")
    full(world, "desk")
    world.submit("desk", ECHO)
    world.run(0.1)
    ids = world.accepted("laptop", *[ECHO] * 5)
    assert world.run(2.0, until=lambda: all(world["laptop"].outcome(id) for id in ids))
    claim = world["attic"].core.state.leader
    assert claim is not None
    assert claim.author == world["laptop"].author


def test_what_ran_while_the_disk_was_full_is_told_when_there_is_room() -> None:
    world = World("desk", "laptop", "attic")
    for device in world.devices:
        device.run_s = None
    ids = world.accepted("desk", *[ECHO] * 6)
    assert world.run(1.0, until=lambda: all(world.runs_on(id) for id in ids))
    on_attic = [id for id in ids if world.runs_on(id) == ["attic"]]
    full(world, "attic")
    world.submit("attic", ECHO)
    world.run(0.1)
    world["attic"].finish()
    world.run(2.0)
    assert all(world["desk"].outcome(id) is None for id in on_attic)
    assert all(world.starts_of(id) == ["attic"] for id in on_attic), "it is still there"
    world["attic"].disk_is_full = False
    assert world.run(3.0, until=world.settled(*on_attic))


def test_an_owner_with_a_full_disk_settles_when_there_is_room() -> None:
    world = World("desk", "laptop", "attic")
    for device in world.devices:
        device.run_s = None
    (id,) = world.accepted("laptop", {**ECHO, "device_filter": "network"})
    assert world.run(1.0, until=lambda: bool(world.runs_on(id)))
    full(world, "laptop")
    world.submit("laptop", ECHO)
    world.run(0.1)
    world[world.runs_on(id)[0]].finish()
    world.run(2.0)
    assert world["desk"].outcome(id) is None
    world["laptop"].disk_is_full = False
    assert world.run(3.0, until=world.settled(id))


def test_a_full_disk_everywhere_loses_nothing_that_was_accepted() -> None:
    world = World("desk", "laptop")
    for device in world.devices:
        device.run_s = 0.2
    ids = world.accepted("desk", *[ECHO] * 10)
    for device in world.devices:
        device.disk_is_full = True
    world.run(5.0)
    for device in world.devices:
        device.disk_is_full = False
    assert world.run(10.0, until=world.settled(*ids))
    assert world.run(3.0, until=world.agree)


def test_a_node_that_crashes_with_a_full_disk_comes_back_with_what_it_had() -> None:
    world = World("desk", "laptop")
    ids = world.accepted("desk", *[ECHO] * 3)
    assert world.run(1.0, until=world.settled(*ids))
    full(world, "desk")
    world.submit("desk", ECHO)
    world.run(0.5)
    world["desk"].crash()
    world["desk"].disk_is_full = False
    world["desk"].restart()
    assert world.run(3.0, until=world.agree)
    ids = world.accepted("desk", ECHO)
    assert world.run(1.0, until=world.settled(*ids))
    assert world["laptop"].charges == []


def test_what_was_not_committed_was_never_seen_by_anybody() -> None:
    world = World("desk", "laptop", "attic")
    full(world, "desk")
    world.submit("desk", *[ECHO] * 5)
    world.run(0.05)
    seen = {event.hash for d in world.devices if d.name != "desk" for event in d.ledger}
    own = world["desk"].author
    lost = {event.hash for event in world["desk"].gathered.append if event.author == own}
    assert lost
    assert not seen & lost
    world["desk"].crash()
    world["desk"].disk_is_full = False
    world["desk"].restart()
    ids = world.accepted("desk", *[ECHO] * 5)
    assert world.run(3.0, until=world.settled(*ids))
    assert world.run(3.0, until=world.agree)
