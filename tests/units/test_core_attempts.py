"""What is under way on each device, and how much a device is given ahead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_ledger.state import Attempt, End, Place, Settlement, Task
from kowalski_node.core.attempts import (
    LONG_RUN_S,
    OWN_PREFETCH_S,
    PREFETCH_S,
    Attempts,
    lost_with,
)
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.tasks import TaskSpec
from tests.stories.world import World

DESK, LAPTOP = Author(b"d" * 32), Author(b"l" * 32)
KIND = "tool/echo"
LOST = Place(EventHash(b"l" * 32), DESK, 1)
PREFETCH_MAX = 64


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


def under_way(attempts: Attempts) -> dict[Author, int]:
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
    assert attempts.open == {attempt.hash: (task.id, DESK, KIND)}


@pytest.mark.parametrize("kind", ["completed", "failed", "declined"])
def test_it_is_under_way_until_its_device_ends_it(attempts: Attempts, kind: str) -> None:
    task = new_task()
    attempt = place(task)
    attempts.update(task)
    end(attempt, kind)
    attempts.update(task)
    assert under_way(attempts) == {}
    assert attempts.completed.get(DESK, 0) == (0 if kind == "declined" else 1)
    attempts.update(task)
    assert attempts.completed.get(DESK, 0) == (0 if kind == "declined" else 1)


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
    attempts.update(task)
    assert under_way(attempts) == {LAPTOP: 1}
    settle(task)
    attempts.update(task)
    assert under_way(attempts) == {}


def test_what_ended_before_it_was_seen_is_neither_counted_nor_learned(attempts: Attempts) -> None:
    task = new_task()
    end(place(task), run_s=9.0)
    attempts.update(task)
    assert under_way(attempts) == {}
    assert attempts.prefetch(KIND, 3) == 3


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


@pytest.mark.parametrize(
    ("kind", "code", "lost", "started", "expected"),
    [
        (None, "", False, False, False),
        (None, "", True, False, True),
        ("completed", "", False, True, False),
        ("completed", "", True, True, False),
        ("failed", "code_failed", True, True, False),
        ("declined", "restarted", False, False, False),
        ("declined", "restarted", False, True, True),
        ("declined", "restarted", True, False, True),
        ("declined", "fenced", False, True, False),
        ("declined", "fenced", True, False, True),
    ],
)
def test_whether_a_device_was_lost_with_an_attempt(
    kind: str | None, code: str, lost: bool, started: bool, expected: bool
) -> None:
    attempt = place(new_task())
    if kind is not None:
        end(attempt, kind, code=code)
    attempt.lost = LOST if lost else None
    attempt.started_hash = EventHash(b"t" * 32) if started else None
    assert lost_with(attempt) is expected


# What is given ahead.


def test_before_anything_is_learned_a_device_holds_its_slots_ahead(attempts: Attempts) -> None:
    assert attempts.prefetch(KIND, 4) == 4


@pytest.mark.parametrize(
    ("run_s", "slots", "ahead"),
    [
        (0.01, 2, 20),
        (0.05, 2, 4),
        (0.2, 2, 1),
        (0.2, 4, 2),
        (0.499, 1, 1),
        (0.0, 1, PREFETCH_MAX),
        (1e-9, 8, PREFETCH_MAX),
        (-5.0, 1, PREFETCH_MAX),
    ],
)
def test_a_device_holds_a_short_time_of_work_ahead(
    attempts: Attempts, run_s: float, slots: int, ahead: int
) -> None:
    attempts.learn(KIND, run_s)
    assert attempts.prefetch(KIND, slots) == ahead


@pytest.mark.parametrize("run_s", [LONG_RUN_S, 60.0, 1e300])
@pytest.mark.parametrize("own", [True, False])
def test_of_long_runs_nothing_is_held_ahead(attempts: Attempts, run_s: float, own: bool) -> None:
    attempts.learn(KIND, run_s)
    assert attempts.prefetch(KIND, 512, own=own) == 0


def test_the_leaders_own_device_holds_less_ahead(attempts: Attempts) -> None:
    assert OWN_PREFETCH_S < PREFETCH_S
    attempts.learn(KIND, 0.004)
    assert attempts.prefetch(KIND, 2, own=True) == 6
    assert attempts.prefetch(KIND, 2) == 50


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 512))
def test_the_longer_the_runs_the_less_is_held_ahead(a: float, b: float, slots: int) -> None:
    def ahead(run_s: float, *, own: bool = False) -> int:
        attempts = Attempts(PREFETCH_MAX)
        attempts.learn(KIND, run_s)
        return attempts.prefetch(KIND, slots, own=own)

    assert 0 <= ahead(max(a, b)) <= ahead(min(a, b)) <= PREFETCH_MAX
    assert ahead(a, own=True) <= ahead(a)


def test_how_long_runs_take_is_learned_from_results_class_by_class(attempts: Attempts) -> None:
    task = new_task()
    attempt = place(task)
    attempts.update(task)
    end(attempt, run_s=0.05)
    attempts.update(task)
    assert attempts.prefetch(KIND, 2) == 4
    assert attempts.prefetch("tool/sleep", 2) == 2


def test_what_was_learned_follows_new_runs_slowly(attempts: Attempts) -> None:
    attempts.learn(KIND, 0.1)
    attempts.learn(KIND, 0.6)
    assert attempts.prefetch(KIND, 4) == 2  # 0.1 + 0.2 x 0.5 = 0.2 s
    for _ in range(20):
        attempts.learn(KIND, 0.6)
    assert attempts.prefetch(KIND, 4) == 0


def test_only_so_many_classes_are_remembered_and_those_go_on_learning(attempts: Attempts) -> None:
    for number in range(5000):
        attempts.learn(f"tool/{number}", 9.0)
    assert len(attempts._run_s) <= 1001
    assert attempts.prefetch("tool/4999", 3) == 3
    for _ in range(100):
        attempts.learn("tool/0", 0.1)
    assert attempts.prefetch("tool/0", 3) > 0


def test_a_new_leader_knows_at_once_what_is_under_way() -> None:
    world = World("desk", "laptop", "attic")
    for device in world.devices:
        device.run_s = None
    task: dict[str, object] = {"kind": "tool", "payload": {"tool": "echo"}}
    ids = world.accepted("desk", *[task] * 3)
    assert world.run(1.0, until=lambda: all(world.runs_on(id) for id in ids))
    counts = {
        device.name: {a: n for a, n in device.core.attempts.counts.items() if n}
        for device in world.devices
    }
    assert counts["laptop"] == counts["attic"] == counts["desk"]
    assert sum(counts["desk"].values()) == 3
