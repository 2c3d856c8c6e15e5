"""How work comes in: accepted whole or refused, answered when it is held widely enough."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.submissions import MIN_REPLICAS_WAIT_S
from kowalski_protocol.errors import Problem
from kowalski_protocol.identity import Identity, peer_id
from kowalski_protocol.ids import TaskId
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.tasks import parse_task
from tests.stories.world import Device, World

Fields = dict[str, object]
ECHO: Fields = {"kind": "tool", "payload": {"tool": "echo"}}
STRANGER = Identity(b"s" * 32).peer_id


def task(**more: Any) -> Fields:
    return {**ECHO, **more}


def keyed(key: str, value: object = 1, **more: Any) -> Fields:
    return task(payload={"tool": "echo", "args": {"value": value}}, idempotency_key=key, **more)


def answer(world: World, ticket: int, name: str = "desk", within_s: float = 3.0) -> fx.Answer:
    answers = world[name].answers
    assert world.run(within_s, until=lambda: ticket in answers)
    return answers[ticket]


def held(world: World, ticket: int, name: str = "desk") -> list[tuple[TaskId, int]]:
    """The ids of an accepted request, each with how many nodes hold it."""
    answered = answer(world, ticket, name)
    assert answered.problem is None, answered.problem
    return answered.value


def accepted(world: World, *tasks: Fields, name: str = "desk") -> list[TaskId]:
    return [id for id, _ in held(world, world.submit(name, *tasks), name)]


def refused(world: World, *tasks: Fields, name: str = "desk") -> Problem:
    before = len(world[name].core.state.tasks)
    problem = answer(world, world.submit(name, *tasks), name).problem
    assert problem is not None
    assert len(world[name].core.state.tasks) == before, "a request is accepted whole or not at all"
    return problem


def acknowledges_nothing(world: World) -> None:
    world.loses = lambda _sender, _to, what: isinstance(what, ins.AckReceived)


def own_feed_ends(device: Device) -> int:
    return device.core.book.own_committed("task")


# When it is answered.


def test_alone_a_request_is_answered_as_soon_as_it_is_on_the_disk() -> None:
    world = World("desk")
    assert [replicas for _, replicas in held(world, world.submit("desk", ECHO))] == [1]


def test_with_others_alive_it_is_answered_when_one_more_holds_it() -> None:
    world = World("desk", "laptop", "attic")
    ((id, replicas),) = held(world, world.submit("desk", ECHO))
    assert replicas >= 2
    assert sum(id in device.core.state.tasks for device in world.devices) >= 2


def test_without_an_acknowledgement_it_is_answered_after_a_bounded_wait() -> None:
    world = World("desk", "laptop")
    acknowledges_nothing(world)
    ticket = world.submit("desk", ECHO)
    wait_s = world.timers.replica_wait_s
    assert not world.run(0.9 * wait_s, until=lambda: ticket in world["desk"].answers)
    answered = answer(world, ticket, within_s=2 * world.timers.tick_s + 0.1 * wait_s)
    assert [replicas for _, replicas in answered.value] == [1]


def test_who_does_not_wait_for_a_replica_has_the_answer_at_once() -> None:
    world = World("desk", "laptop")
    acknowledges_nothing(world)
    desk, ticket = world["desk"], world.ticket()
    desk.give(ins.Submit(ticket, [parse_task(ECHO)], [bytes(16)], None, False))
    world.settle()
    assert ticket in desk.answers


def test_min_replicas_waits_until_so_many_hold_it() -> None:
    world = World("desk", "laptop", "attic")
    world["attic"].frozen = True
    ticket = world.submit("desk", ECHO, min_replicas=3)
    assert not world.run(1.0, until=lambda: ticket in world["desk"].answers)
    world["attic"].frozen = False
    answered = answer(world, ticket)
    assert [replicas for _, replicas in answered.value] == [3]


def test_min_replicas_that_can_not_be_had_is_answered_with_what_there_is() -> None:
    world = World("desk", "laptop", "attic")
    world["attic"].crash()
    ticket = world.submit("desk", ECHO, min_replicas=3)
    assert not world.run(MIN_REPLICAS_WAIT_S - 1, until=lambda: ticket in world["desk"].answers)
    answered = answer(world, ticket)
    assert [replicas for _, replicas in answered.value] == [2]


def test_min_replicas_of_more_than_there_are_members_is_refused_at_once() -> None:
    world = World("desk", "laptop")
    ticket = world.submit("desk", ECHO, min_replicas=3)
    problem = answer(world, ticket).problem
    assert problem is not None
    assert (problem.code, "the cluster has 2" in problem.sentence) == ("bad_request", True)
    assert not world["desk"].core.state.tasks


@pytest.mark.parametrize("min_replicas", [0, 1])
def test_min_replicas_of_one_asks_for_the_own_disk_alone(min_replicas: int) -> None:
    world = World("desk", "laptop")
    acknowledges_nothing(world)
    ticket = world.submit("desk", ECHO, min_replicas=min_replicas)
    world.settle()
    assert ticket in world["desk"].answers


def test_every_task_of_a_request_is_answered_in_its_order() -> None:
    world = World("desk")
    tasks = [task(payload={"tool": "echo", "args": {"value": n}}) for n in range(20)]
    ids = accepted(world, *tasks)
    assert len(set(ids)) == 20
    sizes = [world["desk"].task(id).submitted_seq for id in ids]
    assert sizes == sorted(sizes)


def test_a_request_of_no_tasks_is_answered() -> None:
    world = World("desk")
    assert held(world, world.submit("desk")) == []


def test_a_request_that_came_while_the_node_started_is_answered_afterwards() -> None:
    world = World("desk", "laptop")
    world["desk"].crash()
    world["desk"].restart()
    ticket = world.submit("desk", ECHO)
    assert not world["desk"].core.open
    assert answer(world, ticket).problem is None


# Idempotency keys.


def test_the_same_task_under_the_same_key_is_one_task() -> None:
    world = World("desk", "laptop")
    (first,) = accepted(world, keyed("k"))
    end = own_feed_ends(world["desk"])
    (again,) = accepted(world, keyed("k"))
    assert first == again
    assert own_feed_ends(world["desk"]) >= end
    submitted = [e for e in world["desk"].ledger if e.kind == "TaskSubmitted"]
    assert len(submitted) == 1


def test_also_within_one_request_and_after_it_settled_and_after_a_restart() -> None:
    world = World("desk")
    first, again = accepted(world, keyed("k"), keyed("k"))
    assert first == again
    assert world.run(2.0, until=world.settled(first))
    assert accepted(world, keyed("k")) == [first]
    world["desk"].crash()
    world["desk"].restart()
    assert accepted(world, keyed("k"), ECHO)[0] == first


def test_without_a_key_the_same_task_is_another_one_each_time() -> None:
    world = World("desk")
    assert len({*accepted(world, ECHO, ECHO), *accepted(world, ECHO)}) == 3


def test_a_key_that_was_used_with_another_task_is_refused() -> None:
    world = World("desk")
    accepted(world, keyed("k", 1))
    problem = refused(world, keyed("k", 2))
    assert (problem.code, problem.status) == ("key_conflict", 409)
    assert problem.sentence == "The idempotency key was used before with another task."


def test_two_tasks_under_one_key_within_a_request_are_refused_together() -> None:
    world = World("desk")
    assert refused(world, ECHO, keyed("k", 1), keyed("k", 2)).code == "key_conflict"
    accepted(world, keyed("k", 2))


def test_a_key_belongs_to_its_owner() -> None:
    world = World("desk", "laptop")
    owners = [peer_id(device.author) for device in world.devices]
    a, b = accepted(world, *(keyed("k", owner=owner) for owner in owners))
    assert a != b
    assert [world["desk"].task(id).owner for id in (a, b)] == [d.author for d in world.devices]


def test_a_request_that_is_tried_again_is_the_same_though_owners_would_be_chosen_anew() -> None:
    world = World("desk", "laptop", "attic", labels={"attic": {"home": "yes"}})
    (first,) = accepted(world, keyed("k"))
    assert world["desk"].task(first).owner == world["attic"].author
    world["attic"].crash()
    world.run(2.0)
    (other,) = accepted(world, keyed("other"))
    assert world["desk"].task(other).owner == world["desk"].author
    assert accepted(world, keyed("k")) == [first]
    assert refused(world, keyed("k", 2)).code == "key_conflict"


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 1)), max_size=6))
def test_a_key_names_one_task_or_the_request_is_refused(requests: list[tuple[str, int]]) -> None:
    world = World("desk")
    known: dict[str, tuple[int, TaskId]] = {}
    for key, value in requests:
        answered = answer(world, world.submit("desk", keyed(key, value)))
        if answered.problem is not None:
            assert answered.problem.code == "key_conflict"
            assert known[key][0] != value
        else:
            id = answered.value[0][0]
            assert known.setdefault(key, (value, id)) == (value, id)


# Refusals.


def test_past_the_limit_of_unfinished_tasks_more_are_refused() -> None:
    world = World("desk", limits=msgspec.structs.replace(LIMITS, tasks_open_per_author_max=3))
    world["desk"].run_s = None
    ids = accepted(world, ECHO, ECHO)
    problem = refused(world, ECHO, ECHO)
    assert (problem.code, problem.status) == ("too_many_tasks", 429)
    assert problem.sentence == (
        "This device has 2 unfinished tasks; 2 more pass the limit of 3. Try again later."
    )
    ids += accepted(world, ECHO)
    assert refused(world, ECHO).code == "too_many_tasks"

    def done() -> bool:
        world["desk"].finish()
        return world.settled(*ids)()

    assert world.run(2.0, until=done)
    accepted(world, ECHO, ECHO, ECHO)


def test_a_request_that_is_tried_again_at_the_limit_is_answered_as_before() -> None:
    world = World("desk", limits=msgspec.structs.replace(LIMITS, tasks_open_per_author_max=2))
    world["desk"].run_s = None
    ids = accepted(world, keyed("a"), keyed("b"))
    assert accepted(world, keyed("a"), keyed("b")) == ids
    assert refused(world, keyed("a"), keyed("c")).sentence.startswith(
        "This device has 2 unfinished tasks; 1 more pass the limit of 2."
    )


def test_the_limit_is_each_submitters_own() -> None:
    limits = msgspec.structs.replace(LIMITS, tasks_open_per_author_max=2)
    world = World("desk", "laptop", limits=limits)
    for device in world.devices:
        device.run_s = None
    accepted(world, ECHO, ECHO)
    assert refused(world, ECHO).code == "too_many_tasks"
    accepted(world, ECHO, ECHO, name="laptop")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (task(payload={"tool": "saw"}), "unknown_tool"),
        ({"kind": "code", "payload": {"language": "rust", "code": ""}}, "unknown_language"),
        (task(requires={"cores": 99}), "impossible_requirement"),
        (task(owner=STRANGER), "bad_request"),
    ],
)
def test_what_nobody_can_do_is_refused_with_its_reason_and_nothing_of_the_request_is_taken(
    fields: Fields, code: str
) -> None:
    world = World("desk")
    alone = refused(world, fields)
    assert alone.code == code
    assert not alone.sentence.startswith("Task ")
    assert refused(world, ECHO, fields).code == code


def test_a_refusal_of_one_of_many_says_which() -> None:
    world = World("desk")
    sentence = refused(world, ECHO, ECHO, task(payload={"tool": "saw"}), ECHO).sentence
    assert sentence.startswith("Task 2 of the list: No device has a tool 'saw'")


def test_tasks_alike_but_for_their_requirements_are_each_looked_at() -> None:
    world = World("desk")
    assert refused(world, ECHO, task(requires={"cores": 99})).code == "impossible_requirement"
    assert refused(world, task(requires={"cores": 1}), task(requires={"cores": 99})).code == (
        "impossible_requirement"
    )


# The disk.


def test_what_waits_for_a_commit_that_fails_is_told_so_and_what_was_committed_is_not() -> None:
    world = World("desk", "laptop")
    acknowledges_nothing(world)
    desk = world["desk"]
    durable = world.submit("desk", ECHO, min_replicas=2)
    world.run(0.2)
    assert durable not in desk.answers
    desk.disk_is_full = True
    waiting = world.submit("desk", ECHO)
    problem = answer(world, waiting).problem
    assert problem is not None
    assert (problem.code, problem.status) == ("disk_full", 507)
    assert durable not in desk.answers
    world.loses = lambda _sender, _to, _what: False
    desk.disk_is_full = False
    world.run(3.0)
    late = answer(world, durable, within_s=MIN_REPLICAS_WAIT_S)
    assert late.problem is None


def test_while_the_disk_is_full_a_request_is_refused_at_once() -> None:
    world = World("desk")
    desk = world["desk"]
    desk.disk_is_full = True
    answer(world, world.submit("desk", ECHO))
    ticket = world.submit("desk", ECHO)
    world.settle()
    problem = desk.answers[ticket].problem
    assert problem is not None
    assert problem.code == "disk_full"
