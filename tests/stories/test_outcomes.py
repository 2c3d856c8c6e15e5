"""How tasks end: failures, retries, time limits, cancellations, and requests that come twice."""

from __future__ import annotations

import hashlib

import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.codec import encode
from kowalski_protocol.events import Result, TaskSubmitted
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.tasks import TaskSpec, parse_task, task_id
from tests.stories.world import Device, World

ECHO: dict[str, object] = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}


def by_hand(*names: str, **options: object) -> World:
    world = World(*names, **options)  # type: ignore[arg-type]
    for device in world.devices:
        device.run_s = None
    return world


def running(world: World, task: TaskId, within: float = 1.0) -> Device:
    """The device that runs the task now."""
    assert world.run(within, until=lambda: bool(world.runs_on(task)))
    return world[world.runs_on(task)[0]]


def code_of(world: World, task: TaskId) -> str:
    settled = world.devices[0].task(task).settled
    assert settled is not None
    return settled.code


# Failures and retries.


def test_a_task_that_fails_is_failed_with_its_code() -> None:
    world = by_hand("desk", "laptop")
    (id,) = world.accepted("desk", ECHO)
    running(world, id).finish(ok=False, code="tool_failed")
    assert world.run(1.0, until=world.settled(id, outcome="failed"))
    assert code_of(world, id) == "tool_failed"


def test_a_failure_is_tried_again_after_a_pause_that_doubles() -> None:
    world = by_hand("desk", "laptop")
    retry = {"max_attempts": 4, "backoff_s": 1.0, "jitter": 0}
    (id,) = world.accepted("desk", {**ECHO, "retry": retry})
    pauses: list[float] = []
    for _ in range(3):
        running(world, id).finish(ok=False, code="tool_failed")
        world.run(0.02)
        pauses.append(world.takes(lambda: bool(world.runs_on(id)), within=10.0))
    assert [round(pause, 1) for pause in pauses] == pytest.approx([1.0, 2.0, 4.0], abs=0.2)
    running(world, id).finish()
    assert world.run(1.0, until=world.settled(id))
    assert len(world["desk"].task(id).attempts) == 4


def test_the_last_failure_ends_the_task() -> None:
    world = by_hand("desk", "laptop")
    retry = {"max_attempts": 2, "backoff_s": 0.1}
    (id,) = world.accepted("desk", {**ECHO, "retry": retry})
    running(world, id).finish(ok=False, code="out_of_memory")
    world.run(0.02)
    running(world, id).finish(ok=False, code="tool_failed")
    assert world.run(1.0, until=world.settled(id, outcome="failed"))
    assert code_of(world, id) == "tool_failed", "the code is that of the last failure"
    world.run(5.0)
    assert len(world["desk"].task(id).attempts) == 2


def test_another_device_tries_next_where_there_is_one() -> None:
    world = by_hand("desk", "laptop", "attic")
    retry = {"max_attempts": 3, "backoff_s": 0.0}
    (id,) = world.accepted("desk", {**ECHO, "retry": retry})
    seen: list[str] = []
    for _ in range(3):
        device = running(world, id)
        seen.append(device.name)
        device.finish(ok=False, code="tool_failed")
        world.run(0.02)
    assert len(set(seen)) == 3


def test_a_task_that_runs_out_of_time_is_timed_out() -> None:
    world = by_hand("desk", "laptop")
    (id,) = world.accepted("desk", {**ECHO, "timeout_s": 5})
    device = running(world, id)
    assert device.starts[-1].timeout_s == 5.0
    device.finish(ok=False, code="timed_out")
    assert world.run(1.0, until=world.settled(id, outcome="timed_out"))


def test_an_attempt_lost_with_its_device_uses_up_no_attempt() -> None:
    world = by_hand("desk", "laptop", "attic")
    (id,) = world.accepted("desk", {**ECHO, "device_filter": "network"})
    running(world, id).crash()
    world.run(0.5)
    running(world, id).finish()
    assert world.run(1.0, until=world.settled(id))


# Cancellation.


def test_a_task_that_waits_is_cancelled_at_once_and_never_starts() -> None:
    world = by_hand("desk", "laptop")
    ids = world.accepted("desk", *[ECHO] * 30)
    waiting = [id for id in ids if not world.runs_on(id)]
    world["laptop"].give(ins.Cancel(waiting[-1]))
    assert world.takes(world.settled(waiting[-1], outcome="cancelled"), within=0.25) < 0.25
    for _ in range(30):
        for device in world.devices:
            device.finish()
        world.run(0.1)
    assert world.starts_of(waiting[-1]) == []
    assert world.settled(*[id for id in ids if id != waiting[-1]])()


def test_a_task_that_runs_is_stopped_wherever_it_is_cancelled() -> None:
    world = by_hand("desk", "laptop", "attic")
    (id,) = world.accepted("desk", {**ECHO, "device_filter": "network"})
    device = running(world, id)
    other = next(d for d in world.devices if d.name not in (device.name, "desk"))
    other.give(ins.Cancel(id))
    assert world.takes(world.settled(id, outcome="cancelled"), within=0.25) < 0.25
    assert [stop.reason for stop in device.stops] == ["cancelled"]
    assert world.runs_on(id) == []
    world.run(2.0)
    assert len(world.starts_of(id)) == 1


def test_a_result_that_was_there_before_the_cancellation_stands() -> None:
    world = by_hand("desk", "laptop")
    (id,) = world.accepted("desk", ECHO)
    running(world, id).finish()
    world["laptop"].give(ins.Cancel(id))
    world.run(1.0)
    assert world.settled(id)()


def test_a_task_that_has_ended_is_not_cancelled() -> None:
    world = World("desk", "laptop")
    (id,) = world.accepted("desk", ECHO)
    assert world.run(1.0, until=world.settled(id))
    world["desk"].give(ins.Cancel(id))
    world["desk"].give(ins.Cancel(TaskId(bytes(16))))
    world.run(1.0)
    assert world["desk"].task(id).cancel is None


def test_a_second_cancellation_writes_nothing() -> None:
    world = by_hand("desk", "laptop")
    world.partition("desk")
    world.run(2.0)
    (id,) = world.accepted("desk", ECHO)
    world["laptop"].give(ins.Cancel(id))
    world.heal()
    world.run(1.0)
    before = len(world["laptop"].ledger)
    world["desk"].give(ins.Cancel(id))
    world["desk"].give(ins.Cancel(id))
    world.run(1.0)
    assert world.settled(id, outcome="cancelled")()
    assert len(world["laptop"].ledger) > before
    assert world["desk"].task(id).cancel is not None


def test_a_cancellation_while_the_node_starts_is_not_forgotten() -> None:
    world = by_hand("desk", "laptop")
    (id,) = world.accepted("desk", {**ECHO, "device_filter": "network"})
    running(world, id)
    world["desk"].crash()
    world["desk"].boot()
    world["desk"].give(ins.Cancel(id))
    world.run(0.1)
    assert not world["desk"].core.open
    world.run(3.0)
    assert world["desk"].outcome(id) == "cancelled"


# Requests that come twice.


def test_the_same_request_with_a_key_is_one_task() -> None:
    world = World("desk", "laptop")
    task = {**ECHO, "idempotency_key": "nightly"}
    first = world.accepted("desk", task)
    again = world.accepted("desk", task, task)
    assert again == first * 2
    assert world.run(1.0, until=world.settled(*first))
    assert world.accepted("desk", task) == first, "also when it has ended"
    assert world.starts_of(first[0]) == [world.starts_of(first[0])[0]]


def test_a_key_that_was_used_with_another_task_is_refused() -> None:
    world = World("desk", "laptop")
    world.accepted("desk", {**ECHO, "idempotency_key": "nightly"})
    ticket = world.submit("desk", ECHO, {**ECHO, "priority": 5, "idempotency_key": "nightly"})
    world.run(0.2)
    problem = world["desk"].answers[ticket].problem
    assert problem is not None
    assert problem.code == "key_conflict"
    assert len(world["desk"].core.state.tasks) == 1, "all of a request or nothing"


def test_two_tasks_of_one_request_must_not_share_a_key() -> None:
    world = World("desk")
    one = {**ECHO, "idempotency_key": "k"}
    ticket = world.submit("desk", one, {**one, "priority": 1})
    world.run(0.2)
    problem = world["desk"].answers[ticket].problem
    assert problem is not None
    assert problem.code == "key_conflict"


def test_without_a_key_the_same_request_twice_is_two_tasks() -> None:
    world = World("desk", "laptop")
    assert len(set(world.accepted("desk", ECHO, ECHO))) == 2


def test_a_request_that_is_tried_again_is_found_although_its_owner_would_be_another() -> None:
    world = World("desk", "laptop", "nas", labels={"nas": {"home": "yes"}})
    task = {**ECHO, "idempotency_key": "nightly"}
    (first,) = world.accepted("laptop", task)
    assert world["desk"].task(first).owner == world["nas"].author
    world["nas"].crash()
    world.run(1.0)
    (again,) = world.accepted("laptop", task)
    assert again == first


def test_a_request_survives_the_node_that_answered_it() -> None:
    world = by_hand("desk", "laptop", "attic")
    task = {**ECHO, "idempotency_key": "nightly"}
    (first,) = world.accepted("laptop", task)
    world["laptop"].crash()
    world["laptop"].restart()
    assert world.accepted("laptop", task) == [first]


@pytest.mark.parametrize("key", ["\U0001f600" * 256, "é" * 256, "x" * 256])
def test_the_longest_key_is_not_accepted_and_then_forgotten(key: str) -> None:
    world = World("desk")
    (id,) = world.accepted("desk", {**ECHO, "idempotency_key": key})
    assert world.run(1.0, until=world.settled(id))


# What an answer promises.


def test_an_answer_says_how_many_nodes_hold_the_task() -> None:
    world = World("desk", "laptop", "attic")
    ticket = world.submit("desk", ECHO)
    world.run(0.1)
    ((_, replicas),) = world["desk"].answers[ticket].value
    assert replicas >= 2


def test_a_node_alone_answers_at_once_and_says_so() -> None:
    world = World("desk")
    ticket = world.submit("desk", ECHO)
    assert world.takes(lambda: ticket in world["desk"].answers, within=0.1) < 0.06
    ((_, replicas),) = world["desk"].answers[ticket].value
    assert replicas == 1


def test_an_answer_waits_a_bounded_time_for_one_more_node() -> None:
    world = World("desk", "laptop")
    world.loses = lambda _from, to, what: to.name == "desk" and isinstance(what, ins.AckReceived)
    ticket = world.submit("desk", ECHO)
    took_s = world.takes(lambda: ticket in world["desk"].answers, within=1.0)
    assert world.timers.replica_wait_s <= took_s <= world.timers.replica_wait_s + 0.06
    ((_, replicas),) = world["desk"].answers[ticket].value
    assert replicas == 1


def test_who_asks_for_more_nodes_waits_for_them() -> None:
    world = World("desk", "laptop", "attic")
    world["attic"].frozen = True
    ticket = world.submit("desk", ECHO, min_replicas=3)
    world.run(3.0)
    assert ticket not in world["desk"].answers
    world["attic"].frozen = False
    assert world.run(3.0, until=lambda: ticket in world["desk"].answers)
    ((_, replicas),) = world["desk"].answers[ticket].value
    assert replicas == 3


def test_who_asks_for_more_nodes_than_are_there_is_told_how_many_hold_it() -> None:
    world = World("desk", "laptop", "attic")
    world["attic"].crash()
    ticket = world.submit("desk", ECHO, min_replicas=3)
    assert world.takes(lambda: ticket in world["desk"].answers, within=40.0) >= 30.0
    ((_, replicas),) = world["desk"].answers[ticket].value
    assert replicas == 2


def test_a_frozen_member_slows_no_answer_down() -> None:
    world = World("desk", "laptop", "attic")
    world["attic"].frozen = True
    for _ in range(5):
        ticket = world.submit("desk", ECHO)
        assert world.takes(lambda t=ticket: t in world["desk"].answers, within=0.2) < 0.05


def test_more_tasks_than_the_limit_are_refused_and_taken_later() -> None:
    import msgspec

    limits = msgspec.structs.replace(LIMITS, tasks_open_per_author_max=10)
    world = by_hand("desk", limits=limits)
    ids = world.accepted("desk", *[ECHO] * 10)
    ticket = world.submit("desk", ECHO)
    world.run(0.1)
    problem = world["desk"].answers[ticket].problem
    assert problem is not None
    assert (problem.code, problem.status) == ("too_many_tasks", 429)
    for _ in range(10):
        world["desk"].finish()
        world.run(0.1)
    assert world.settled(*ids)()
    assert world.accepted("desk", ECHO)


@pytest.mark.parametrize(
    ("task", "code"),
    [
        ({"kind": "code", "payload": {"language": "cobol", "code": "x"}}, "unknown_language"),
        ({"kind": "tool", "payload": {"tool": "teleport"}}, "unknown_tool"),
        ({**ECHO, "requires": {"memory_mb": 1e6}}, "impossible_requirement"),
        ({**ECHO, "requires": {"labels": {"room": "moon"}}}, "impossible_requirement"),
    ],
)
def test_what_no_device_could_ever_run_is_refused_at_once_unless_it_may_wait(
    task: dict[str, object], code: str
) -> None:
    world = World("desk", "laptop")
    ticket = world.submit("desk", ECHO, task)
    world.run(0.1)
    problem = world["desk"].answers[ticket].problem
    assert problem is not None
    assert problem.code == code
    assert problem.sentence.startswith("Task 1 of the list: ")
    assert world["desk"].core.state.tasks == {}
    (id,) = world.accepted("desk", {**task, "failover": "queue"})
    world.run(1.0)
    reason = world["desk"].core.leader.waiting_reason(world["desk"].task(id))
    assert reason == "waits for a device that can run it"


def test_an_owner_that_is_no_member_is_refused() -> None:
    world = World("desk")
    stranger = Device(world, "stranger").identity.peer_id
    ticket = world.submit("desk", {**ECHO, "owner": stranger})
    world.run(0.1)
    problem = world["desk"].answers[ticket].problem
    assert problem is not None
    assert problem.code == "bad_request"


def test_an_owner_may_be_named() -> None:
    world = World("desk", "laptop")
    (id,) = world.accepted("desk", {**ECHO, "owner": world["laptop"].identity.peer_id})
    assert world["desk"].task(id).owner == world["laptop"].author
    assert world.run(1.0, until=world.settled(id))


# Results that are blobs.


def blob_result(world: World, order: fx.Start) -> ins.AttemptEnded:
    result = encode(Result(True, "large"))
    digest = hashlib.sha256(result).digest()
    return ins.AttemptEnded(
        EventHash(order.attempt), True, "", b"", digest, True, world.now.wall_ms, 100, 1 << 20
    )


def blob_task(world: World) -> tuple[TaskId, Device, bytes]:
    """A task whose result is a blob on another device than its owner's."""
    (id,) = world.accepted("desk", {**ECHO, "device_filter": "network"})
    device = running(world, id)
    (order,) = device.running.values()
    device.running.clear()
    device.give(blob_result(world, order))
    world.run(0.1)
    return id, device, hashlib.sha256(encode(Result(True, "large"))).digest()


def test_a_result_that_is_a_blob_is_fetched_before_the_task_settles() -> None:
    world = by_hand("desk", "laptop")
    id, device, blob = blob_task(world)
    (fetch,) = world["desk"].fetches
    assert (fetch.blob, fetch.device) == (blob, device.author)
    world.run(3.0)
    assert world["desk"].outcome(id) is None
    assert len(world["desk"].fetches) == 1
    world["desk"].give(ins.BlobArrived(blob, id, True))
    assert world.run(1.0, until=world.settled(id))


def test_a_blob_that_could_not_be_had_is_asked_for_again() -> None:
    world = by_hand("desk", "laptop")
    id, _, blob = blob_task(world)
    for tries in range(2, 5):
        world["desk"].give(ins.BlobArrived(blob, id, False))
        world.run(0.5)
        assert len(world["desk"].fetches) == tries - 1, "not in a hurry"
        assert world.run(3.0, until=lambda n=tries: len(world["desk"].fetches) == n)
    world["desk"].give(ins.BlobArrived(blob, id, True))
    assert world.run(1.0, until=world.settled(id))


def test_a_blob_of_no_task_is_no_surprise() -> None:
    world = World("desk")
    world["desk"].give(ins.BlobArrived(bytes(32), TaskId(bytes(16)), True))
    world["desk"].give(ins.BlobArrived(bytes(32), TaskId(bytes(16)), False))
    world.run(3.0)
    assert world.accepted("desk", ECHO)


def test_the_owner_s_own_blob_needs_no_fetching() -> None:
    world = by_hand("desk")
    (id,) = world.accepted("desk", ECHO)
    device = running(world, id)
    (order,) = device.running.values()
    device.give(blob_result(world, order))
    assert world.run(1.0, until=world.settled(id))
    assert device.fetches == []


# What a member publishes without the door.


def publish(world: World, name: str, spec: TaskSpec, owner: Author | None = None) -> TaskId:
    """A member that is only a program with a key submits a task that no door has looked at."""
    device = world[name]
    encoded = encode(spec)
    body = TaskSubmitted(owner or world.devices[0].author, b"kraw", encoded)
    device.core.book.write(body, device.now, device.gathered, b"")
    world.run(0.5)
    return task_id(body.owner, body.key, encoded)


def test_a_task_that_a_member_published_itself_runs_and_settles() -> None:
    world = World("desk", "laptop")
    submission = parse_task(ECHO)
    id = publish(world, "laptop", submission.spec)
    assert world.run(1.0, until=world.settled(id))


HOSTILE = {
    "no attempts": TaskSpec("tool", "echo", bytes(32), 0, max_attempts=0),
    "time that is no number": TaskSpec("tool", "echo", bytes(32), 0, timeout_s=float("nan")),
    "endless backoff": TaskSpec("tool", "echo", bytes(32), 0, backoff_s=float("inf")),
    "memory that is a text": TaskSpec("tool", "echo", bytes(32), 0, {"memory_mb": "much"}),
    "cores that are a list": TaskSpec("tool", "echo", bytes(32), 0, {"cores": [1]}),
    "labels that are a list": TaskSpec("tool", "echo", bytes(32), 0, {"labels": [1]}),
    "a device that is a number": TaskSpec("tool", "echo", bytes(32), 0, {"device": 7}),
    "no tool": TaskSpec("tool", "", bytes(32), 0),
    "an unknown kind": TaskSpec("juggle", "balls", bytes(32), 0),
    "an unknown requirement": TaskSpec("tool", "echo", bytes(32), 0, {"quantum": True}),
    "an unknown failover": TaskSpec("tool", "echo", bytes(32), 0, failover="pray"),
}


@pytest.mark.parametrize("spec", HOSTILE.values(), ids=list(HOSTILE))
def test_a_spec_made_to_hurt_stops_nobody_and_runs_nowhere(spec: TaskSpec) -> None:
    world = World("desk", "laptop")
    id = publish(world, "laptop", spec)
    world.run(2.0)
    assert world.starts_of(id) == []
    ids = world.accepted("desk", ECHO, ECHO)
    assert world.run(1.0, until=world.settled(*ids))
    for device in world.devices:
        device.crash()
        device.boot()
    world.connect_all()
    world.run(2.0)
    ids = world.accepted("desk", ECHO)
    assert world.run(1.0, until=world.settled(*ids))
