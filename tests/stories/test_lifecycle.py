"""Nodes come, stop, hand over, and come back: nobody's work is lost by it."""

from __future__ import annotations

from kowalski_node.core import inputs as ins
from kowalski_protocol.feeds import Feed
from kowalski_protocol.topics import RESULT, TASK
from tests.stories.world import World

ECHO: dict[str, object] = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}


def by_hand(world: World) -> None:
    for device in world.devices:
        device.run_s = None


# Graceful stop.


def test_a_node_that_stops_hands_over_what_it_owns_and_the_rest_is_settled_without_it() -> None:
    world = World("desk", "laptop", "attic")
    by_hand(world)
    ids = world.accepted("laptop", *[ECHO] * 8)
    world["laptop"].give(ins.Stop())
    world.run(0.2)
    world["laptop"].finish()
    assert world.run(2.0, until=lambda: world["laptop"].stopped)
    world["laptop"].crash()
    assert {world["desk"].task(id).owner for id in ids} <= {
        world["desk"].author,
        world["laptop"].author,
    }
    world["desk"].run_s = world["attic"].run_s = 0.0
    world["desk"].finish()
    world["attic"].finish()
    assert world.run(3.0, until=world.settled(*ids))


def test_a_node_that_stops_finishes_what_it_runs() -> None:
    world = World("desk", "laptop", "attic")
    by_hand(world)
    ids = world.accepted("desk", *[ECHO] * 6)
    assert world.run(1.0, until=lambda: all(world.runs_on(id) for id in ids))
    running = [id for id in ids if world.runs_on(id) == ["attic"]]
    assert running
    world["attic"].give(ins.Stop())
    world.run(3.0)
    assert not world["attic"].stopped, "it may finish"
    assert all(world.starts_of(id) == ["attic"] for id in running), "and is not run elsewhere"
    world["attic"].finish()
    assert world.run(1.0, until=lambda: world["attic"].stopped)
    assert world.run(1.0, until=world.settled(*running))


def test_work_that_must_not_move_is_finished_by_a_device_that_stops() -> None:
    world = World("desk", "laptop", "attic")
    by_hand(world)
    pinned = {
        **ECHO,
        "failover": "fail",
        "requires": {"device": world["attic"].identity.peer_id},
    }
    (id,) = world.accepted("desk", pinned)
    assert world.run(1.0, until=lambda: bool(world.runs_on(id)))
    world["attic"].give(ins.Stop())
    world.run(2.0)
    world["attic"].finish()
    assert world.run(2.0, until=world.settled(id))


def test_what_does_not_end_in_time_is_given_back_and_runs_elsewhere() -> None:
    world = World("desk", "laptop", "attic")
    by_hand(world)
    ids = world.accepted("desk", *[ECHO] * 6)
    assert world.run(1.0, until=lambda: all(world.runs_on(id) for id in ids))
    running = [id for id in ids if world.runs_on(id) == ["attic"]]
    world["attic"].give(ins.Stop())
    took_s = world.takes(lambda: world["attic"].stopped, within=world.timers.stop_s + 2)
    assert took_s >= world.timers.stop_s
    world["desk"].finish()
    world["laptop"].finish()
    assert world.run(2.0, until=lambda: all(len(world.starts_of(id)) == 2 for id in running))
    end = world["desk"].task(running[0]).attempts[0].end
    assert end is not None
    assert (end.kind, end.code) == ("declined", "stopping")


def test_what_had_not_begun_moves_at_once_when_its_device_stops() -> None:
    world = World("desk", "laptop", "attic")
    by_hand(world)
    ids = world.accepted("desk", *[ECHO] * 12)
    world.run(0.5)
    waiting = [
        id
        for id in ids
        if not world.runs_on(id)
        and any(a.device == world["attic"].author for a in world["desk"].task(id).attempts)
    ]
    assert waiting
    world["attic"].give(ins.Stop())
    world.run(1.0)
    for id in waiting:
        end = world["desk"].task(id).attempts[0].end
        assert end is not None
        assert (end.kind, end.code) == ("declined", "stopping")


def test_a_leader_that_stops_is_followed_by_the_next_at_once() -> None:
    world = World("desk", "laptop", "attic")
    by_hand(world)
    world.accepted("laptop", *[ECHO] * 6)
    world.run(0.5)
    world["desk"].give(ins.Stop())
    assert world.takes(lambda: world.leader() == "laptop", within=0.3) < 0.3


def test_a_node_alone_that_stops_writes_no_more_than_it_must() -> None:
    world = World("desk")
    by_hand(world)
    ids = world.accepted("desk", *[ECHO] * 50)
    world.run(0.5)
    before = len(world["desk"].ledger)
    world["desk"].give(ins.Stop())
    world.run(5.0)
    declined = sum(len(world["desk"].task(id).attempts) for id in ids)
    assert declined <= 50, "nothing is placed on a node that stops"
    assert len(world["desk"].ledger) - before <= 50


def test_a_node_that_stops_takes_nothing_new_and_says_so() -> None:
    world = World("desk", "laptop")
    world["laptop"].run_s = None
    (id,) = world.accepted("desk", {**ECHO, "device_filter": "network"})
    assert world.run(1.0, until=lambda: bool(world.runs_on(id)))
    world["laptop"].give(ins.Stop())
    ticket = world.submit("laptop", ECHO)
    world.run(0.1)
    problem = world["laptop"].answers[ticket].problem
    assert problem is not None
    assert problem.code == "stopping"
    assert not world["laptop"].stopped
    world["laptop"].give(ins.Stop())
    world["laptop"].finish()
    assert world.run(1.0, until=lambda: world["laptop"].stopped)


def test_a_node_that_comes_back_after_a_stop_takes_part_again() -> None:
    world = World("desk", "laptop", "attic")
    world["laptop"].give(ins.Stop())
    assert world.run(2.0, until=lambda: world["laptop"].stopped)
    world["laptop"].crash()
    world.run(1.0)
    world["laptop"].restart()
    world.run(2.0)
    ids = world.accepted("laptop", *[ECHO] * 9)
    assert world.run(2.0, until=world.settled(*ids))
    assert any(start.task in ids for start in world["laptop"].starts)


# A device that is always on.


def test_a_home_device_owns_what_others_submit_and_settles_it_when_they_are_gone() -> None:
    world = World("desk", "laptop", "nas", labels={"nas": {"home": "yes"}})
    by_hand(world)
    ids = world.accepted("laptop", *[ECHO] * 5)
    assert {world["desk"].task(id).owner for id in ids} == {world["nas"].author}
    world["laptop"].crash()
    world["desk"].run_s = world["nas"].run_s = 0.0
    world["desk"].finish()
    world["nas"].finish()
    assert world.run(3.0, until=world.settled(*ids))


def test_a_home_device_is_preferred_as_the_next_leader_and_takes_over_from_nobody() -> None:
    world = World("desk", "laptop", "nas", labels={"nas": {"home": "yes"}})
    world.run(5.0)
    assert world.leader() == "desk"
    world["desk"].crash()
    assert world.run(1.0, until=lambda: world.leader() == "nas")


def test_a_device_that_must_not_lead_does_not_even_alone() -> None:
    world = World("desk", "phone", "laptop", labels={"phone": {"leader": "never"}})
    world["desk"].crash()
    assert world.run(1.0, until=lambda: world.leader() == "laptop")
    world["laptop"].crash()
    world.run(3.0)
    claim = world["phone"].core.state.leader
    assert claim is not None
    assert claim.author == world["laptop"].author


def test_without_a_home_device_a_task_of_a_closed_laptop_settles_when_it_returns() -> None:
    world = World("desk", "laptop", "attic")
    by_hand(world)
    ids = world.accepted("laptop", *[ECHO] * 4)
    world["laptop"].crash()
    world["desk"].run_s = world["attic"].run_s = 0.0
    for name in ("desk", "attic"):
        world[name].finish()
    world.run(3.0)
    for id in ids:
        attempts = world["desk"].task(id).attempts
        assert any(a.end is not None and a.end.kind == "completed" for a in attempts)
        assert world["desk"].outcome(id) is None
    world["laptop"].restart()
    assert world.run(3.0, until=world.settled(*ids))


# Coming back with less than one had.


def lose_tail(world: World, name: str, keep: int) -> None:
    """The device crashed, and its disk is as it was some events ago (a restored backup)."""
    device = world[name]
    device.crash()
    del device.ledger[keep:]
    device.heads.clear()
    from kowalski_protocol.feeds import Head

    for event in device.ledger:
        device.heads[Feed(event.author, event.topic)] = Head(event.seq, event.hash)


def test_a_longer_own_feed_elsewhere_is_adopted_before_anything_is_written() -> None:
    world = World("desk", "laptop", "attic")
    keep = len(world["laptop"].ledger)
    ids = world.accepted("laptop", *[ECHO] * 5)
    assert world.run(2.0, until=world.settled(*ids))
    before = {
        topic: world["desk"].core.book.committed[Feed(world["laptop"].author, topic)].seq
        for topic in (TASK, RESULT)
    }
    lose_tail(world, "laptop", keep)
    world["laptop"].restart()
    world.run(2.0)
    more = world.accepted("laptop", *[ECHO] * 9)
    assert world.run(3.0, until=world.settled(*ids, *more))
    assert world.run(3.0, until=world.agree)
    for topic, seq in before.items():
        assert world["laptop"].core.book.own_committed(topic) > seq
    assert world["desk"].charges == world["attic"].charges == []


def test_an_adopted_feed_from_a_clock_that_was_far_ahead_is_written_on() -> None:
    world = World("desk", "laptop", "attic")
    keep = len(world["laptop"].ledger)
    world["laptop"].wall_offset_ms = 365 * 86_400_000
    ids = world.accepted("laptop", *[ECHO] * 3)
    assert world.run(2.0, until=world.settled(*ids))
    lose_tail(world, "laptop", keep)
    world["laptop"].wall_offset_ms = 0
    world["laptop"].restart()
    more = world.accepted("laptop", *[ECHO] * 3)
    assert world.run(5.0, until=world.settled(*more))
    assert world.run(3.0, until=world.agree)
    assert world["desk"].charges == []


def test_a_node_writes_nothing_until_it_has_asked_the_others() -> None:
    world = World("desk", "laptop", "attic")
    world["laptop"].crash()
    world["attic"].crash()
    world["desk"].crash()
    world["laptop"].boot()
    ticket = world.submit("laptop", ECHO)
    world.run(0.5)
    assert not world["laptop"].core.open
    assert ticket not in world["laptop"].answers
    world.run(0.7)
    assert world["laptop"].core.open, "nobody answers, so it goes on after a second"
    assert world["laptop"].answers[ticket].problem is None


def test_a_founder_alone_is_ready_at_once() -> None:
    world = World("desk")
    world["desk"].crash()
    world["desk"].boot()
    assert world.takes(lambda: world["desk"].core.open, within=0.2) <= world.timers.tick_s + 0.01
