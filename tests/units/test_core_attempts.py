"""What is under way on each device, what was lost with one, and how much one is given ahead."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_ledger.state import Attempt, End, Place, Settlement, Task
from kowalski_node.core.attempts import (
    BRIEF_RUN_S,
    LONG_RUN_S,
    OWN_PREFETCH_S,
    PREFETCH_S,
    Attempts,
    lost_with,
    takes_devices,
    took_device,
)
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.tasks import TaskSpec
from tests.stories.world import World

DESK, LAPTOP, ATTIC = (Author(letter * 32) for letter in (b"d", b"l", b"a"))
ECHO = "tool/echo"
LOST = Place(EventHash(b"l" * 32), DESK, 1)
PREFETCH_MAX = LIMITS.prefetch_max


def new_task(number: int = 1) -> Task:
    task = Task(TaskId(number.to_bytes(16, "big")))
    task.spec = TaskSpec("tool", "echo", bytes(32), 0)
    return task


def place(task: Task, device: Author = DESK) -> Attempt:
    hash = EventHash(task.id + len(task.attempts).to_bytes(16, "big"))
    attempt = Attempt(hash, 1, device, EventHash(b"c" * 32), DESK, 1, 1)
    task.attempts.append(attempt)
    return attempt


def end(attempt: Attempt, kind: str = "completed", *, run_s: float = 0.001, code: str = "") -> None:
    attempt.end = End(kind, EventHash(b"e" * 32), 2, 1, code, run_us=round(run_s * 1e6))


def settle(task: Task) -> None:
    task.settled = Settlement(EventHash(b"s" * 32), 3, DESK, 2, "completed", EventHash(b""), "")
    task.spec = None


@pytest.fixture
def attempts() -> Attempts:
    return Attempts(PREFETCH_MAX)


def learned(run_s: float) -> Attempts:
    """What is known after one run of this length."""
    attempts = Attempts(PREFETCH_MAX)
    attempts.learn(ECHO, run_s)
    return attempts


def under_way(attempts: Attempts) -> dict[Author, int]:
    """How many attempts are under way where; all three ways to ask must agree."""
    assert {device: len(open) for device, open in attempts.by_device.items()} == attempts.counts
    assert sum(attempts.counts.values()) == len(attempts.open)
    return {device: count for device, count in attempts.counts.items() if count}


# What is under way.


def test_an_attempt_is_under_way_from_its_placement_and_counted_once(attempts: Attempts) -> None:
    task = new_task()
    attempts.update(task)
    assert under_way(attempts) == {}
    attempt = place(task)
    attempts.update(task)
    attempts.update(task)
    assert under_way(attempts) == {DESK: 1}
    assert attempts.open == {attempt.hash: (task.id, DESK, ECHO)}
    assert attempts.by_device == {DESK: {attempt.hash: task.id}}


@pytest.mark.parametrize(
    ("kind", "runs"), [("completed", {DESK: 1}), ("failed", {DESK: 1}), ("declined", {})]
)
def test_it_is_under_way_until_its_device_ends_it(
    attempts: Attempts, kind: str, runs: dict[Author, int]
) -> None:
    task = new_task()
    attempt = place(task)
    attempts.update(task)
    end(attempt, kind)
    for _ in range(2):
        attempts.update(task)
        assert under_way(attempts) == {}
        assert attempts.completed == runs
    assert attempts.by_device == {DESK: {}}


def test_it_is_under_way_until_its_device_is_given_up(attempts: Attempts) -> None:
    task = new_task()
    attempt = place(task)
    place(task, LAPTOP)
    attempts.update(task)
    attempt.lost = LOST
    attempts.update(task)
    assert under_way(attempts) == {LAPTOP: 1}
    assert attempts.completed == {}


def test_nothing_of_a_settled_task_is_under_way(attempts: Attempts) -> None:
    task = new_task()
    end(place(task))
    place(task, LAPTOP)
    place(task, LAPTOP)
    attempts.update(task)
    assert under_way(attempts) == {LAPTOP: 2}
    settle(task)
    attempts.update(task)
    assert under_way(attempts) == {}


def test_what_ended_before_it_was_seen_is_neither_counted_nor_learned(attempts: Attempts) -> None:
    task = new_task()
    end(place(task), run_s=9.0)
    attempts.update(task)
    assert (under_way(attempts), attempts.completed) == ({}, {})
    assert attempts.prefetch(ECHO, 3) == 3


def test_an_attempt_of_a_task_whose_submission_is_not_here_counts_for_its_device(
    attempts: Attempts,
) -> None:
    task = new_task()
    task.spec = None
    attempt = place(task)
    attempts.update(task)
    assert attempts.open == {attempt.hash: (task.id, DESK, "")}
    assert under_way(attempts) == {DESK: 1}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=40))
def test_the_counts_are_what_the_records_say(steps: list[tuple[int, int]]) -> None:
    attempts = Attempts(PREFETCH_MAX)
    tasks = [new_task(number) for number in range(4)]
    for which, what in steps:
        task = tasks[which]
        open = [attempt for attempt in task.attempts if attempt.is_open]
        if what <= 1 and task.settled is None:
            place(task, (DESK, LAPTOP)[what])
        elif what == 2 and open:
            end(open[0])
        elif what == 3 and open:
            open[-1].lost = LOST
        elif what == 4:
            settle(task)
        attempts.update(task)
        expected: dict[Author, int] = {}
        for each in tasks:
            for attempt in each.attempts:
                if attempt.is_open and each.settled is None:
                    expected[attempt.device] = expected.get(attempt.device, 0) + 1
        assert under_way(attempts) == expected


def test_a_new_leader_knows_at_once_what_is_under_way() -> None:
    world = World("desk", "laptop", "attic")
    for device in world.devices:
        device.run_s = None
    task: dict[str, object] = {"kind": "tool", "payload": {"tool": "echo"}}
    ids = world.accepted("desk", *[task] * 3)
    assert world.run(1.0, until=lambda: all(world.runs_on(id) for id in ids))
    counts = [under_way(device.core.attempts) for device in world.devices]
    assert counts[0] == counts[1] == counts[2]
    assert sum(counts[0].values()) == 3


# What was lost.


@pytest.mark.parametrize(
    ("kind", "code", "lost", "started", "expected"),
    [
        (None, "", False, False, False),
        (None, "", False, True, False),
        (None, "", True, False, True),
        (None, "", True, True, True),
        ("completed", "", False, True, False),
        ("completed", "", True, True, False),
        ("failed", "code_failed", True, True, False),
        ("failed", "restarted", False, True, False),
        ("declined", "restarted", False, False, False),
        ("declined", "restarted", False, True, True),
        ("declined", "restarted", True, False, True),
        ("declined", "stopping", False, True, False),
        ("declined", "fenced", False, False, False),
        ("declined", "fenced", True, False, True),
    ],
)
def test_an_attempt_is_lost_with_its_device_also_where_that_came_back(
    kind: str | None, code: str, lost: bool, started: bool, expected: bool
) -> None:
    attempt = place(new_task())
    if kind is not None:
        end(attempt, kind, code=code)
    attempt.lost = LOST if lost else None
    attempt.started_hash = EventHash(b"t" * 32) if started else None
    assert lost_with(attempt) is expected


@pytest.mark.parametrize(
    ("kind", "code", "lost", "expected"),
    [
        (None, "", False, False),
        (None, "", True, True),
        ("completed", "", False, False),
        ("completed", "", True, True),
        ("failed", "restarted", False, False),
        ("declined", "fenced", False, False),
        ("declined", "fenced", True, True),
        ("declined", "restarted", False, True),
    ],
)
@pytest.mark.parametrize("started", [True, False])
def test_a_device_ended_before_its_attempt_did_whether_that_had_begun_or_not(
    kind: str | None, code: str, lost: bool, expected: bool, started: bool
) -> None:
    attempt = place(new_task())
    if kind is not None:
        end(attempt, kind, code=code)
    attempt.lost = LOST if lost else None
    attempt.started_hash = EventHash(b"t" * 32) if started else None
    assert took_device(attempt) is expected


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ("", False),
        ("dl", False),
        ("dla", True),
        ("dldldl", False),
        ("ddddd", False),
        ("dddddd", False),
        ("ddddddd", True),
        ("dldldld", True),
    ],
)
def test_a_task_takes_its_devices_where_many_were_lost_or_a_few_again_and_again(
    lost: str, expected: bool
) -> None:
    limits = msgspec.structs.replace(LIMITS, device_losses_max=3, losses_max=7)
    devices = {"d": DESK, "l": LAPTOP, "a": ATTIC}
    assert takes_devices([devices[name] for name in lost], limits) is expected


# What is given ahead.


def test_before_anything_is_learned_a_device_holds_its_slots_ahead(attempts: Attempts) -> None:
    assert attempts.prefetch(ECHO, 4) == attempts.prefetch(ECHO, 4, own=True) == 4
    assert attempts.prefetch(ECHO, 4, own=True, lead=3) == 4


@pytest.mark.parametrize(
    ("run_s", "slots", "ahead"),
    [
        (0.001, 2, 200),
        (0.01, 2, 20),
        (0.05, 2, 4),
        (0.1, 4, 4),
        (0.15, 2, 2),  # A part of a run is a run.
        (0.4, 2, 1),
        (0.499, 1, 1),
        (0.0, 1, PREFETCH_MAX),
        (0.0001, 1, PREFETCH_MAX),
        (1e-9, 8, PREFETCH_MAX),
        (-5.0, 1, PREFETCH_MAX),
    ],
)
def test_a_device_holds_a_short_time_of_work_ahead(run_s: float, slots: int, ahead: int) -> None:
    assert learned(run_s).prefetch(ECHO, slots) == ahead


def test_a_run_that_took_no_time_is_counted_as_a_tenth_of_a_millisecond() -> None:
    attempts = Attempts(1 << 20)
    attempts.learn(ECHO, 0.0)
    assert attempts.prefetch(ECHO, 1) == round(PREFETCH_S / 1e-4)


@pytest.mark.parametrize("run_s", [LONG_RUN_S, 60.0, 1e300])
@pytest.mark.parametrize("own", [True, False])
def test_of_long_runs_nothing_is_held_ahead(run_s: float, own: bool) -> None:
    assert learned(run_s).prefetch(ECHO, 512, own=own) == 0


def test_the_leaders_own_device_holds_less_ahead() -> None:
    assert OWN_PREFETCH_S < PREFETCH_S
    attempts = learned(0.004)
    assert attempts.prefetch(ECHO, 2, own=True) == 8
    assert attempts.prefetch(ECHO, 2) == 50


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 512))
def test_the_longer_the_runs_the_less_is_held_ahead(a: float, b: float, slots: int) -> None:
    def ahead(run_s: float, *, own: bool = False) -> int:
        return learned(run_s).prefetch(ECHO, slots, own=own)

    assert 0 <= ahead(max(a, b)) <= ahead(min(a, b)) <= PREFETCH_MAX
    assert ahead(a, own=True) <= ahead(a)


@pytest.mark.parametrize(
    ("lead", "ahead"), [(0, 32), (1, 31), (31, 1), (32, 0), (1000, 0), (-1, 32), (-1000, 32)]
)
def test_of_brief_runs_the_leaders_device_gets_as_many_fewer_as_it_leads_by(
    lead: int, ahead: int
) -> None:
    assert learned(0.001).prefetch(ECHO, 2, own=True, lead=lead) == ahead


@pytest.mark.parametrize("run_s", [BRIEF_RUN_S, 0.004, 0.1])
def test_of_longer_runs_a_lead_costs_the_leaders_device_nothing(run_s: float) -> None:
    attempts = learned(run_s)
    without = attempts.prefetch(ECHO, 2, own=True)
    assert without > 0
    assert attempts.prefetch(ECHO, 2, own=True, lead=1000) == without


def test_just_below_brief_a_lead_counts() -> None:
    attempts = learned(BRIEF_RUN_S * 0.999)
    assert attempts.prefetch(ECHO, 2, own=True, lead=1000) == 0


def test_a_lead_is_never_counted_against_another_device() -> None:
    assert learned(0.001).prefetch(ECHO, 2, lead=1000) == 200


# Who is ahead.


def runs(attempts: Attempts, device: Author, count: int, kind: str = "completed") -> None:
    """A device ends so many attempts."""
    for _ in range(count):
        task = new_task(len(attempts.open) + 1)
        attempt = place(task, device)
        attempts.update(task)
        end(attempt, kind)
        attempts.update(task)


def test_a_device_is_ahead_by_what_it_ran_more_than_the_mean_of_the_others(
    attempts: Attempts,
) -> None:
    runs(attempts, DESK, 10)
    runs(attempts, LAPTOP, 3)
    runs(attempts, ATTIC, 4)
    assert attempts.lead(DESK, [LAPTOP]) == 7
    assert attempts.lead(DESK, [LAPTOP, ATTIC]) == 7  # (3 + 4) // 2 = 3
    assert attempts.lead(LAPTOP, [DESK, ATTIC]) == -4
    assert attempts.lead(ATTIC, [ATTIC]) == 0


def test_a_device_alone_is_ahead_of_nobody(attempts: Attempts) -> None:
    runs(attempts, DESK, 10)
    assert attempts.lead(DESK, []) == 0


def test_who_has_run_nothing_yet_counts_as_well(attempts: Attempts) -> None:
    assert attempts.lead(DESK, [LAPTOP]) == 0
    runs(attempts, DESK, 6)
    assert attempts.lead(DESK, [LAPTOP, ATTIC]) == 6
    assert attempts.lead(LAPTOP, [DESK]) == -6


def test_what_was_declined_is_no_run(attempts: Attempts) -> None:
    runs(attempts, DESK, 5, "declined")
    runs(attempts, DESK, 2, "failed")
    assert attempts.lead(DESK, [LAPTOP]) == 2


def test_each_burst_is_compared_from_its_beginning(attempts: Attempts) -> None:
    runs(attempts, DESK, 100)
    runs(attempts, LAPTOP, 20)
    attempts.begin_burst()
    assert attempts.lead(DESK, [LAPTOP, ATTIC]) == 0
    runs(attempts, DESK, 3)
    runs(attempts, LAPTOP, 1)
    runs(attempts, ATTIC, 1)
    assert attempts.lead(DESK, [LAPTOP, ATTIC]) == 2
    assert attempts.completed == {DESK: 103, LAPTOP: 21, ATTIC: 1}
    attempts.begin_burst()
    assert attempts.lead(DESK, [LAPTOP, ATTIC]) == 0


# What is learned.


def test_how_long_runs_take_is_learned_from_results_class_by_class(attempts: Attempts) -> None:
    task = new_task()
    attempt = place(task)
    attempts.update(task)
    end(attempt, "failed", run_s=0.05)
    attempts.update(task)
    assert attempts.prefetch(ECHO, 2) == 4
    assert attempts.prefetch("tool/sleep", 2) == 2


def test_from_a_declined_attempt_nothing_is_learned(attempts: Attempts) -> None:
    runs(attempts, DESK, 1, "declined")
    assert attempts.prefetch(ECHO, 2) == 2


def test_what_was_learned_follows_new_runs_slowly() -> None:
    attempts = learned(0.1)
    attempts.learn(ECHO, 0.6)
    assert attempts.prefetch(ECHO, 4) == 2  # 0.1 + 0.2 x 0.5 = 0.2 s
    for _ in range(20):
        attempts.learn(ECHO, 0.6)
    assert attempts.prefetch(ECHO, 4) == 0
    for _ in range(60):
        attempts.learn(ECHO, 0.1)
    assert attempts.prefetch(ECHO, 4) == 4


def test_only_so_many_classes_are_remembered_and_those_go_on_learning(attempts: Attempts) -> None:
    for number in range(5000):
        attempts.learn(f"tool/{number}", 9.0)
    assert len(attempts._run_s) == 1001
    assert attempts.prefetch("tool/1000", 3) == 0
    assert attempts.prefetch("tool/1001", 3) == 3
    for _ in range(100):
        attempts.learn("tool/0", 0.1)
    assert attempts.prefetch("tool/0", 3) > 0


def test_a_blob_of_what_has_settled_already_is_kept_for_nobody(attempts: Attempts) -> None:
    task = new_task()
    attempt = place(task)
    attempt.end = End("completed", EventHash(b"e" * 32), 2, 1, files=(bytes(32),))
    settle(task)
    attempts.update(task)
    assert attempts.kept == {}
