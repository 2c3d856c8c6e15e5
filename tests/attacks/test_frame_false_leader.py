"""Attack 14: claims out of the air, epochs without end, a leader that flaps or does not hear.

An epoch costs an event, a claim names the one before it, alive is mutual, and a leader only places:
whoever leads wrongly starts nothing twice and settles nothing.
"""

from __future__ import annotations

import pytest

from kowalski_node.core import inputs as ins
from kowalski_protocol.events import LeaderClaimed
from kowalski_protocol.ids import Author
from kowalski_protocol.topics import TASK
from tests.stories.world import World
from tests.units.bench import Bench, advert

pytestmark = pytest.mark.attack

ECHO: dict[str, object] = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}


def leader_of(bench: Bench) -> Author | None:
    return bench.state.leader.author if bench.state.leader else None


@pytest.mark.parametrize("epoch", [2, 100, (1 << 63) - 1, (1 << 64) - 1, 0, -1, -(1 << 63)])
def test_an_epoch_out_of_the_air_leads_nobody(epoch: int) -> None:
    bench = Bench(3)
    attacker = bench.others[1]
    own = bench.state.leader
    assert own is not None
    for previous in (b"", own.hash, bytes(32)):
        if (previous, epoch) != (own.hash, 2):
            attacker.write(LeaderClaimed(epoch, previous))
    bench.receive(attacker)
    bench.tick(0.05)
    assert leader_of(bench) == bench.me.author
    assert bench.node.leader.is_ready


def test_a_claim_out_of_turn_by_a_live_member_leads_and_loses_nothing() -> None:
    # It is allowed to; the remedy is its removal. What runs goes on, and work goes on.
    world = World("desk", "laptop", "attic")
    for device in world.devices:
        device.run_s = None
    ids = world.accepted("desk", *[ECHO] * 6)
    assert world.run(1.0, until=lambda: all(world.runs_on(id) for id in ids))
    where = {id: world.runs_on(id) for id in ids}
    attic = world["attic"]
    claim = attic.core.state.leader
    assert claim is not None
    body = LeaderClaimed(claim.epoch + 1, claim.hash)
    attic.core.book.write(body, attic.now, attic.gathered)
    world.run(1.0)
    assert world.leader() == "attic"
    assert {id: world.runs_on(id) for id in ids} == where
    for device in world.devices:
        device.run_s = 0.0
        device.finish()
    more = world.accepted("laptop", ECHO)
    assert world.run(2.0, until=world.settled(*ids, *more))


def test_a_leader_that_flaps_costs_an_event_each_time_and_loses_no_work() -> None:
    world = World("desk", "laptop", "attic")
    for device in world.devices:
        device.run_s = 0.05
    ids = world.accepted("desk", *[ECHO] * 40)
    attic = world["attic"]
    for _ in range(20):
        claim = attic.core.state.leader
        assert claim is not None
        label = {"leader": "never"} if claim.author == attic.author else {}
        if not label:
            body = LeaderClaimed(claim.epoch + 1, claim.hash)
            attic.core.book.write(body, attic.now, attic.gathered)
        attic.give(ins.Advertise(advert("attic", labels=label)))
        world.run(0.2)
    attic.give(ins.Advertise(advert("attic")))
    assert world.run(20.0, until=world.settled(*ids))
    for id in ids:
        assert len({device.task(id).settled for device in world.devices}) == 1
    assert world.run(5.0, until=world.agree)


def test_a_leader_that_sends_and_does_not_hear_is_followed_by_another() -> None:
    world = World("desk", "laptop", "attic")
    world.loses = lambda _from, to, _what: to.name == "desk"
    laptop = world["laptop"]

    def another() -> bool:
        claim = laptop.core.state.leader
        return claim is not None and claim.author == laptop.author

    assert world.takes(another, within=3.0) < 3.0


def test_a_claim_by_who_must_not_lead_is_taken_over_at_once() -> None:
    bench = Bench(3)
    third = bench.others[1]
    third.write(advert("c", labels={"leader": "never"}))
    own = bench.state.leader
    assert own is not None
    third.write(LeaderClaimed(2, own.hash))
    bench.receive(third)
    bench.pass_time(0.5)
    assert leader_of(bench) == bench.me.author
    assert bench.state.leader is not None
    assert bench.state.leader.epoch == 3


def test_a_flood_of_claims_ends_with_one_leader_on_all_nodes() -> None:
    world = World("desk", "laptop", "attic")
    attic = world["attic"]
    for _ in range(300):
        claim = attic.core.state.leader
        assert claim is not None
        body = LeaderClaimed(claim.epoch + 1, claim.hash)
        attic.core.book.write(body, attic.now, attic.gathered)
    world.run(2.0)
    assert world.leader() == "attic"
    assert world.run(5.0, until=world.agree)
    assert len(world["desk"].core.state.claims) == 301
    ids = world.accepted("laptop", ECHO)
    assert world.run(2.0, until=world.settled(*ids))
    assert [event.kind for event in attic.ledger].count("LeaderClaimed") == 301
    assert {event.topic for event in attic.ledger if event.kind == "LeaderClaimed"} == {TASK}
