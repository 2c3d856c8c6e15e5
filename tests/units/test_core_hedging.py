"""Hedging: which runs take too long, which tasks may be hedged, and how such a task ends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_ledger.state import Attempt, End, Place, Task
from kowalski_node.core import attempts as core_attempts
from kowalski_node.core.attempts import RUNS_KEPT, RUNS_MIN, Attempts, verdict
from kowalski_node.core.hedging import LONG_S_MIN, SLOWER, Hedges, was_hedged
from kowalski_protocol.codec import encode
from kowalski_protocol.errors import Problem
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.tasks import TaskSpec, decode_spec, parse_task

DESK = Author(b"d" * 32)
HASH = EventHash(bytes(32))


def new_task(number: int = 1, need: str = "echo", *, hedge: bool = True) -> Task:
    task = Task(TaskId(number.to_bytes(16, "big")))
    task.spec = TaskSpec("tool", need, bytes(32), 0, hedge=hedge)
    return task


def place(task: Task, hlc: int = 1, *, started: bool = True) -> Attempt:
    number = len(task.attempts) + 1
    hash = EventHash(task.id + number.to_bytes(16, "big"))
    attempt = Attempt(hash, number, DESK, HASH, DESK, hlc, 1)
    attempt.started_hash = HASH if started else None
    task.attempts.append(attempt)
    return attempt


def end(attempt: Attempt, hlc: int = 2, code: str = "", run_s: float = 0.0) -> None:
    kind = "failed" if code else "completed"
    attempt.end = End(kind, HASH, hlc, 1, code, run_us=round(run_s * 1e6))


def learned(*runs_s: float, code: str = "") -> Attempts:
    """What is known after completed runs of these lengths."""
    attempts = Attempts(LIMITS.prefetch_max)
    for number, run_s in enumerate(runs_s):
        task = new_task(1000 + number)
        attempt = place(task)
        attempts.update(task)
        end(attempt, run_s=run_s, code=code)
        attempts.update(task)
    return attempts


# What runs long.


def test_nothing_runs_long_before_enough_runs_are_known() -> None:
    assert learned(*[1.0] * (RUNS_MIN - 1)).slow_s("tool/echo") is None
    assert learned(*[1.0] * RUNS_MIN).slow_s("tool/echo") == 1.0
    assert learned(*[1.0] * RUNS_MIN).slow_s("tool/sleep") is None


def test_only_completed_runs_count() -> None:
    assert learned(*[1.0] * RUNS_MIN, code="tool_failed").slow_s("tool/echo") is None


def test_one_in_twenty_may_take_longer() -> None:
    assert learned(*[1.0] * 19, 9.0).slow_s("tool/echo") == 1.0
    assert learned(*[1.0] * 18, 5.0, 9.0).slow_s("tool/echo") == 5.0


def test_the_last_runs_count_and_no_more() -> None:
    assert learned(*[9.0] * 500, *[1.0] * RUNS_KEPT).slow_s("tool/echo") == 1.0


def test_of_more_classes_than_are_remembered_the_first_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(core_attempts, "_CLASSES_MAX", 1)
    attempts = learned(*[1.0] * RUNS_MIN)
    for number in range(RUNS_MIN):
        task = new_task(number, "sleep")
        attempt = place(task)
        attempts.update(task)
        end(attempt)
        attempts.update(task)
    assert attempts.slow_s("tool/sleep") is None
    assert attempts.slow_s("tool/echo") == 1.0


@given(st.lists(st.floats(0, 1e6), min_size=RUNS_MIN, max_size=RUNS_KEPT))
def test_at_least_95_of_a_hundred_took_no_longer(runs_s: list[float]) -> None:
    slow_s = learned(*runs_s).slow_s("tool/echo")
    assert slow_s is not None
    assert sum(run_s <= slow_s + 1e-6 for run_s in runs_s) >= 0.95 * len(runs_s)


# Which run is watched.


@pytest.mark.parametrize(("usual_s", "bound_s"), [(0.01, LONG_S_MIN), (2.0, 2.0 * SLOWER)])
def test_a_run_is_due_once_it_has_lasted_longer_than_the_bound(
    usual_s: float, bound_s: float
) -> None:
    hedges = Hedges(learned(*[usual_s] * RUNS_MIN))
    task = new_task()
    place(task)
    hedges.note(task, 100.0)
    assert hedges.due(100.0 + bound_s) == []
    assert hedges.due(100.0 + bound_s + 0.2) == [task]
    hedges.note(task, 105.0)
    assert hedges.due(100.0 + bound_s + 0.4) == [task], "it has run since it was first seen"
    assert hedges.due(100.0 + bound_s + 0.41) == [], "it is not looked at in every step"
    hedges.clear()
    assert hedges.due(1e9) == []


def test_the_longest_comes_first_and_classes_are_told_apart() -> None:
    hedges = Hedges(learned(*[0.1] * RUNS_MIN))
    second, first, unknown = new_task(1), new_task(2), new_task(3, "sleep")
    for task, since_s in ((second, 101.0), (first, 100.0), (unknown, 99.0)):
        place(task)
        hedges.note(task, since_s)
    assert hedges.due(200.0) == [first, second]


def settled(task: Task) -> None:
    task.spec = None


def cancelled(task: Task) -> None:
    task.cancel = Place(HASH, DESK, 1)


def ended(task: Task) -> None:
    end(task.attempts[0])


def lost(task: Task) -> None:
    task.attempts[0].lost = Place(HASH, DESK, 1, 5)


def hedged(task: Task) -> None:
    place(task, 2)


@pytest.mark.parametrize("what", [settled, cancelled, ended, lost, hedged])
def test_what_has_changed_is_watched_no_longer(what: Any) -> None:
    hedges = Hedges(learned(*[0.1] * RUNS_MIN))
    task = new_task()
    place(task)
    hedges.note(task, 100.0)
    what(task)
    hedges.note(task, 101.0)
    assert hedges.due(1e6) == []


def test_what_has_not_begun_or_did_not_ask_is_not_watched() -> None:
    hedges = Hedges(learned(*[0.1] * RUNS_MIN))
    for task, started in ((new_task(1), False), (new_task(2, hedge=False), True)):
        place(task, started=started)
        hedges.note(task, 100.0)
    assert hedges.due(1e6) == []


def test_a_later_attempt_is_watched_from_its_own_beginning() -> None:
    hedges = Hedges(learned(*[0.1] * RUNS_MIN))
    task = new_task()
    end(place(task), code="tool_failed")
    place(task, 3)
    hedges.note(task, 100.0)
    task.attempts[1].lost = Place(HASH, DESK, 1, 4)
    place(task, 5)
    hedges.note(task, 110.0)
    assert hedges.due(110.9) == []
    assert hedges.due(111.1) == [task]


# What was hedged.


@pytest.mark.parametrize(
    ("attempts", "hedged"),
    [
        ([], False),
        ([(1, None)], False),
        ([(1, 2), (3, None)], False),
        ([(1, 2), (2, None)], False),
        ([(1, None), (2, None)], True),
        ([(1, 9), (2, None)], True),
        ([(1, 9), (2, 3)], True),
        ([(2, 3), (1, 9)], True),
        ([(1, 2), (3, 4), (5, 9), (8, 10), (11, None)], True),
        ([(1, 2), (3, 4), (5, 9), (10, None)], False),
    ],
)
def test_a_task_was_hedged_where_two_of_its_attempts_overlap(
    attempts: list[tuple[int, int | None]], hedged: bool
) -> None:
    task = new_task()
    for begins, ends in attempts:
        attempt = place(task, begins)
        if ends is not None:
            end(attempt, ends)
    assert was_hedged(task.attempts) == hedged


def test_an_attempt_that_was_lost_ended_then_whenever_its_result_came() -> None:
    task = new_task()
    attempt = place(task, 1)
    attempt.lost = Place(HASH, DESK, 1, 2)
    end(attempt, 9)
    place(task, 3)
    assert not was_hedged(task.attempts)


# How a hedged task ends.


def test_a_failure_is_no_end_while_the_other_attempt_may_bring_a_result() -> None:
    task = new_task()
    first, second = place(task, 1), place(task, 2)
    end(second, 3, "out_of_memory")
    assert verdict(task, LIMITS) is None
    end(first, 4)
    found = verdict(task, LIMITS)
    assert found is not None
    assert (found.outcome, found.completed) == ("completed", [first])


@pytest.mark.parametrize("how", ["fails", "is lost"])
def test_it_is_the_end_once_there_is_no_other(how: str) -> None:
    task = new_task()
    first, second = place(task, 1), place(task, 2)
    end(second, 3, "out_of_memory")
    if how == "fails":
        end(first, 2, "tool_failed")
    else:
        first.lost = Place(HASH, DESK, 1, 4)
    found = verdict(task, LIMITS)
    assert found is not None
    assert (found.outcome, found.code) == ("failed", "out_of_memory")


def test_a_task_that_did_not_ask_fails_as_before() -> None:
    task = new_task(hedge=False)
    place(task, 1)
    end(place(task, 2), 3, "out_of_memory")
    found = verdict(task, LIMITS)
    assert found is not None
    assert found.outcome == "failed"


# What is asked for.

CODE: dict[str, Any] = {"kind": "code", "payload": {"language": "python", "code": "1"}}
ECHO: dict[str, Any] = {"kind": "tool", "payload": {"tool": "echo"}}
GRAPH: dict[str, Any] = {"kind": "graph", "payload": {"tasks": {"a": ECHO}}}


@pytest.mark.parametrize("task", [CODE, ECHO])
def test_a_task_is_hedged_where_it_asks(task: dict[str, Any]) -> None:
    assert parse_task(task).spec.hedge is False
    submission = parse_task({**task, "hedge": True})
    assert submission.spec.hedge is True
    assert decode_spec(submission.spec_bytes) == submission.spec


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ({**ECHO, "hedge": 1}, "'hedge' must be true or false."),
        ({**ECHO, "hedge": None}, "'hedge' must be true or false."),
        (
            {**CODE, "session": "notes", "hedge": True},
            "'hedge' is for tasks that stand alone, and this is a cell of a session.",
        ),
        ({**GRAPH, "hedge": True}, "'hedge' is for tasks that stand alone, and this is a graph."),
    ],
)
def test_what_can_not_be_hedged_is_refused(task: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Problem) as raised:
        parse_task(task)
    assert (raised.value.code, raised.value.sentence) == ("bad_request", sentence)


def test_a_task_that_is_signed_otherwise_is_not_acted_on() -> None:
    spec = TaskSpec("code", "python", bytes(32), 0, hedge=True)
    assert decode_spec(encode(spec)) == spec
    cell = TaskSpec("code", "python", bytes(32), 0, session="notes", hedge=True)
    assert decode_spec(encode(cell)) is None
    assert decode_spec(encode(TaskSpec("graph", "graph", bytes(32), 0, hedge=True))) is None


def test_a_task_of_an_earlier_release_is_read() -> None:
    whole = [*TaskSpec("tool", "echo", bytes(32), 0).__struct_fields__]
    assert whole[-1] == "hedge"
    earlier = encode(list(msgspec.structs.astuple(TaskSpec("tool", "echo", bytes(32), 0)))[:-1])
    spec = decode_spec(earlier)
    assert spec is not None
    assert spec.hedge is False
