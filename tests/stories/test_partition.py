"""The network parts and heals: each side goes on, and in the end there is one state for all."""

from __future__ import annotations

import pytest

from kowalski_node.core import inputs as ins
from tests.stories.world import Device, World

ECHO: dict[str, object] = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}


def parted() -> World:
    """Two on one side, and the one that led on the other."""
    world = World("desk", "laptop", "attic")
    assert world.leader() == "desk"
    world.partition("desk")
    world.run(2.0)
    return world


def follows(device: Device) -> str | None:
    claim = device.core.state.leader
    leader = device.world.by_author(claim.author) if claim else None
    return leader.name if leader else None


def test_each_side_of_a_partition_goes_on_working() -> None:
    world = parted()
    assert [follows(device) for device in world.devices] == ["desk", "laptop", "laptop"]
    (alone,) = world.accepted("desk", ECHO)
    (together,) = world.accepted("attic", ECHO)
    world.run(1.0)
    assert world["desk"].outcome(alone) == "completed"
    assert world["laptop"].outcome(together) == "completed"
    assert world["desk"].outcome(together) is None


def test_after_the_heal_all_share_one_digest_and_each_task_has_one_settlement() -> None:
    world = parted()
    ids = [*world.accepted("desk", ECHO, ECHO), *world.accepted("attic", ECHO, ECHO)]
    world.run(1.0)
    world.heal()
    assert world.takes(world.agree, within=2.0) < 2.0
    for id in ids:
        settlements = {device.task(id).settled for device in world.devices}
        assert len(settlements) == 1
        assert None not in settlements
    assert sum(world["desk"].core.state.settled.values()) == len(ids)


def test_after_the_heal_the_greater_claim_leads_alone() -> None:
    world = parted()
    world.heal()
    assert world.run(2.0, until=lambda: world.leader() == "laptop")
    world.run(3.0)
    assert world.leader() == "laptop"
    ids = world.accepted("desk", ECHO)
    assert world.run(1.0, until=world.settled(*ids))


def test_work_placed_on_both_sides_runs_twice_and_settles_once() -> None:
    world = World("desk", "laptop", "attic")
    for device in world.devices:
        device.run_s = None
    # The owner is on the small side; its task runs on the other when the cable goes.
    (id,) = world.accepted("desk", {**ECHO, "device_filter": "network"})
    assert world.run(1.0, until=lambda: bool(world.runs_on(id)))
    first = world.runs_on(id)[0]
    world.partition("desk")
    assert world.run(3.0, until=lambda: "desk" in world.runs_on(id))
    world["desk"].finish()
    assert world.run(1.0, until=lambda: world["desk"].outcome(id) == "completed")
    world[first].finish()
    world.run(1.0)
    assert world[first].outcome(id) is None, "only its owner settles"
    world.heal()
    assert world.run(3.0, until=world.agree)
    task = world["attic"].task(id)
    assert sum(a.end is not None and a.end.kind == "completed" for a in task.attempts) == 2
    assert world["attic"].core.state.settled == {"completed": 1}


def test_a_cable_that_is_pulled_is_noticed_by_silence() -> None:
    world = World("desk", "laptop", "attic")
    world.separate("desk")
    took_s = world.takes(
        lambda: follows(world["laptop"]) == "laptop" == follows(world["attic"]), within=1.5
    )
    assert took_s >= world.timers.suspect_s - world.timers.heartbeat_s
    world.heal()
    assert world.run(10.0, until=lambda: world.leader() == "laptop" and world.agree())


def test_who_sends_and_does_not_hear_does_not_lead() -> None:
    world = World("desk", "laptop", "attic")
    # Whatever goes to the leader is lost; what it says arrives.
    world.loses = lambda _from, to, _what: to.name == "desk"
    assert world.run(3.0, until=lambda: follows(world["laptop"]) == "laptop")
    ids = world.accepted("attic", ECHO)
    world.run(2.0)
    assert world["attic"].outcome(ids[0]) == "completed"
    world.loses = lambda _from, _to, _what: False
    assert world.run(10.0, until=lambda: world.agree() and world.leader() == "laptop")


def test_frames_that_are_lost_on_the_way_are_pulled() -> None:
    world = World("desk", "laptop", "attic")
    count = [0]

    def every_other_frame(_from: Device, _to: Device, what: ins.Input) -> bool:
        count[0] += isinstance(what, ins.FrameReceived)
        return isinstance(what, ins.FrameReceived) and count[0] % 2 == 0

    world.loses = every_other_frame
    ids = [id for _ in range(10) for id in world.accepted("laptop", ECHO)]
    assert world.run(10.0, until=world.settled(*ids))
    assert world.run(5.0, until=world.agree)
    assert any(device.pulls for device in world.devices)


def test_no_frame_arrives_at_all_and_everything_is_pulled() -> None:
    world = World("desk", "laptop", "attic")
    world.loses = lambda _from, _to, what: isinstance(what, ins.FrameReceived)
    ids = world.accepted("laptop", ECHO, ECHO, ECHO)
    assert world.run(10.0, until=world.settled(*ids))
    assert world.run(5.0, until=world.agree)


def test_a_slow_network_changes_nothing_but_the_time_it_takes() -> None:
    world = World("desk", "laptop", "attic")
    world.latency_s = 0.08
    ids = world.accepted("laptop", *[ECHO] * 10)
    assert world.takes(world.settled(*ids), within=3.0) > 0.08
    assert world.leader() == "desk"
    assert len(world["desk"].core.state.claims) == 1
    world.run(10.0)
    round_trip_s = world["desk"].core.peers.peer(world["attic"].author).round_trip_s
    assert round_trip_s is not None
    assert 0.1 < round_trip_s < 0.3


def test_a_newcomer_catches_up_and_takes_part() -> None:
    world = World("desk", "laptop")
    ids = [id for _ in range(30) for id in world.accepted("laptop", *[ECHO] * 10)]
    assert world.run(5.0, until=world.settled(*ids))
    attic = world.join("attic")
    assert world.takes(world.agree, within=3.0) < 3.0
    assert world.run(2.0, until=lambda: attic.core.open)
    assert attic.charges == world["desk"].charges == world["laptop"].charges == []
    world.run(1.0)
    more = world.accepted("attic", *[ECHO] * 9)
    assert world.run(2.0, until=world.settled(*more))
    assert any(start.task in more for start in attic.starts)


def test_a_newcomer_that_hears_the_results_before_the_tasks_charges_nobody() -> None:
    world = World("desk", "laptop")
    ids = world.accepted("laptop", *[ECHO] * 4)
    assert world.run(5.0, until=world.settled(*ids))
    held: list[ins.Input] = []

    def tasks_come_late(_from: Device, to: Device, what: ins.Input) -> bool:
        late = isinstance(what, ins.PullEnded) and what.feed.topic == "task"
        if to.name == "attic" and late and len(held) < 3:
            held.append(what)
            world.later(0.2, lambda: to.give(what))
            return True
        return False

    world.loses = tasks_come_late
    attic = world.join("attic")
    assert world.run(5.0, until=world.agree)
    assert held
    assert attic.charges == []


def test_a_node_that_was_away_for_long_catches_up() -> None:
    world = World("desk", "laptop", "attic")
    world["attic"].crash()
    ids = [id for _ in range(20) for id in world.accepted("laptop", *[ECHO] * 20)]
    assert world.run(5.0, until=world.settled(*ids))
    world["attic"].restart()
    assert world.takes(world.agree, within=5.0) < 5.0


@pytest.mark.parametrize("ahead_ms", [3_600_000, -3_600_000, -int(1.7e12), int(2.4e12)])
def test_a_wrong_clock_changes_no_outcome_and_drags_nobody_along(ahead_ms: int) -> None:
    world = World("desk", "laptop", "attic")
    world["attic"].wall_offset_ms = ahead_ms
    ids = [*world.accepted("attic", *[ECHO] * 5), *world.accepted("desk", *[ECHO] * 5)]
    assert world.run(3.0, until=world.settled(*ids))
    world["attic"].crash()
    world["attic"].wall_offset_ms = 0
    world["attic"].restart()
    ids = world.accepted("attic", ECHO)
    assert world.run(5.0, until=world.settled(*ids))
    assert world.run(3.0, until=world.agree)
    for name in ("desk", "laptop"):
        ahead = (world[name].core.book.clock.last >> 16) - world.now.wall_ms
        assert ahead <= world.timers.clock_ahead_max_s * 1000 + 1


def test_a_clock_that_is_off_is_seen_on_both_sides() -> None:
    world = World("desk", "laptop", "attic")
    world["attic"].wall_offset_ms = 60_000
    world.run(2.0)
    assert abs(world["attic"].core.peers.clock_offset_s() - 60) < 1
    assert abs(world["desk"].core.peers.clock_offset_s()) < 1
    assert world["desk"].core.peers.peer(world["attic"].author).offset_ms == 60_000


def test_a_clock_set_back_while_the_node_runs_stops_nothing() -> None:
    world = World("desk", "laptop")
    ids = world.accepted("desk", ECHO)
    world["desk"].wall_offset_ms = -7_200_000
    ids += world.accepted("desk", ECHO)
    assert world.run(2.0, until=world.settled(*ids))
    assert world.run(1.0, until=world.agree)
