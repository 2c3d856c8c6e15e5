"""A node that led and comes back: it reads what happened before it acts on what it remembers.

Its ledger says that it leads, and that devices it has not heard yet run its tasks. Both may be long
past. Until the others have told how far they are, or have had the time to, it gives nobody up,
places nothing and claims nothing.
"""

from __future__ import annotations

from kowalski_node.core import inputs as ins
from kowalski_protocol.events import AttemptLost
from kowalski_protocol.ids import TaskId
from tests.stories.world import World

ECHO: dict[str, object] = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}


def returning(
    *, away_s: float, unheard_s: float, connecting_s: float = 0.0
) -> tuple[World, dict[TaskId, str]]:
    """The leader was killed while six tasks ran, and is back, at first without a connection.

    Also gives the tasks that run on the two others, each with its device."""
    world = World("desk", "laptop", "attic")
    for device in world.devices:
        device.run_s = None
    ids = world.accepted("laptop", *[ECHO] * 6)
    assert world.run(1.0, until=lambda: all(world.runs_on(id) for id in ids))
    running = {id: world.runs_on(id)[0] for id in ids}
    world["desk"].crash()
    assert world.run(1.0, until=lambda: world["laptop"].core.leader.leading)
    world.run(away_s)
    if connecting_s:
        world.connecting_s = connecting_s
        world["desk"].boot()
        for other in ("laptop", "attic"):
            address = ins.AddressesLearned(world[other].author, ("memory",), fresh=True)
            world["desk"].give(address)
        world.run(connecting_s)
        return world, {id: name for id, name in running.items() if name != "desk"}
    world.partition("desk")
    world["desk"].boot()
    world.run(unheard_s)
    world.heal()
    return world, {id: name for id, name in running.items() if name != "desk"}


def lost_by(world: World, name: str) -> int:
    author = world[name].author
    return sum(
        event.author == author and event.kind == AttemptLost.__name__
        for event in world[name].ledger
    )


def test_a_leader_that_is_not_heard_at_once_gives_up_nothing_that_runs_elsewhere() -> None:
    for unheard_s in (0.1, 0.9, 1.2, 1.6):
        world, running = returning(away_s=0.5, unheard_s=unheard_s)
        world.run(3.0)
        assert lost_by(world, "desk") == 0
        for id, name in running.items():
            assert world.starts_of(id) == [name]


def test_the_one_who_followed_is_not_outbid() -> None:
    for unheard_s in (0.1, 1.2, 1.6):
        world, _ = returning(away_s=0.5, unheard_s=unheard_s)
        world.run(3.0)
        assert world.leader() == "laptop"
        assert len(world["desk"].core.state.claims) == 2


def test_a_connection_that_takes_seconds_is_waited_for() -> None:
    world, running = returning(away_s=0.5, unheard_s=0.0, connecting_s=3.0)
    world.run(6.0)
    assert lost_by(world, "desk") == 0
    assert world.leader() == "laptop"
    assert len(world["desk"].core.state.claims) == 2
    for id, name in running.items():
        assert world.starts_of(id) == [name]


def test_a_dial_that_never_ends_does_not_keep_it_from_leading() -> None:
    world = World("desk", "laptop", "attic")
    for name in ("laptop", "attic", "desk"):
        world[name].crash()
    world.run(1.0)
    world.connecting_s = 1000.0
    world["desk"].boot()
    for other in ("laptop", "attic"):
        address = ins.AddressesLearned(world[other].author, ("memory",), fresh=True)
        world["desk"].give(address)
    (id,) = world.accepted("desk", ECHO)
    assert 4.0 < world.takes(world.settled(id), within=8.0) < 7.0


def test_alone_for_good_it_goes_on_by_itself() -> None:
    world = World("desk", "laptop", "attic")
    for name in ("laptop", "attic", "desk"):
        world[name].crash()
    world.run(1.0)
    world["desk"].boot()
    (id,) = world.accepted("desk", ECHO)
    assert world.takes(world.settled(id), within=5.0) < 3.0
