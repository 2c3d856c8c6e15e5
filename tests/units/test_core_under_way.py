"""What is under way on each device, how far ahead one may be given work, and what is lost."""

from __future__ import annotations

import pytest

from kowalski_ledger.state import Attempt, State, Task
from kowalski_node.core.attempts import LONG_RUN_S, OWN_PREFETCH_S, PREFETCH_S, Attempts, lost_with
from kowalski_protocol import events as e
from kowalski_protocol.ids import Author, EventHash, TaskId
from tests.units.histories import History, Writer, folded

ECHO = "tool/echo"


class Scene:
    """A task of `a` that is placed on `b`, and what the leader counts of it."""

    def __init__(self) -> None:
        self.history = History(2)
        self.history.admit_all()
        self.a, self.b = self.history.devices
        self.id = self.history.submit(self.a)
        self.attempts = Attempts(prefetch_max=512)

    def place(self, device: Writer | None = None) -> EventHash:
        return self.history.place(self.a, self.id, device or self.b)

    def update(self) -> Task:
        state: State = folded(self.history, self.history.written)
        task = state.tasks[self.id]
        self.attempts.update(task)
        return task

    def count(self) -> int:
        return self.attempts.counts.get(self.b.author, 0)


def test_an_attempt_is_under_way_from_its_placement_to_its_end() -> None:
    scene = Scene()
    attempt = scene.place()
    scene.update()
    scene.update()
    assert scene.count() == 1
    assert scene.attempts.open == {attempt: (scene.id, scene.b.author, ECHO)}
    assert scene.attempts.by_device == {scene.b.author: {attempt: scene.id}}
    scene.history.complete(scene.b, scene.id, attempt)
    scene.update()
    scene.update()
    assert (scene.count(), scene.attempts.open) == (0, {})
    assert scene.attempts.by_device == {scene.b.author: {}}


def test_a_lost_attempt_is_under_way_no_longer() -> None:
    scene = Scene()
    attempt = scene.place()
    scene.update()
    scene.history.write(scene.a, e.AttemptLost(scene.id, attempt, "device_lost"))
    scene.update()
    assert scene.count() == 0


def test_a_settled_task_has_nothing_under_way() -> None:
    scene = Scene()
    scene.place()
    scene.place()
    scene.update()
    assert scene.count() == 2
    scene.history.settle(scene.a, scene.id, outcome="cancelled")
    scene.update()
    assert scene.count() == 0


def test_an_attempt_that_was_ended_before_it_was_looked_at_was_never_under_way() -> None:
    scene = Scene()
    scene.history.complete(scene.b, scene.id, scene.place())
    scene.update()
    assert (scene.count(), scene.attempts.completed) == (0, {})


def test_runs_are_counted_and_their_length_is_learned() -> None:
    scene = Scene()
    for _ in range(3):
        attempt = scene.place()
        scene.update()
        scene.history.fail(scene.b, scene.id, attempt)
        scene.update()
    assert scene.attempts.completed == {scene.b.author: 3}
    # Runs of 100 us: as many as fit into the time that a device may hold ahead.
    assert scene.attempts.prefetch(ECHO, 2) == 512


def test_a_declined_attempt_is_no_run() -> None:
    scene = Scene()
    attempt = scene.place()
    scene.update()
    scene.history.write(scene.b, e.TaskDeclined(scene.id, attempt, "fenced"))
    scene.update()
    assert (scene.attempts.completed, scene.attempts.prefetch(ECHO, 2)) == ({}, 2)


# How far ahead.


def learned(run_s: float) -> Attempts:
    attempts = Attempts(prefetch_max=512)
    attempts.learn(ECHO, run_s)
    return attempts


@pytest.mark.parametrize(
    ("run_s", "slots", "ahead"),
    [
        (0.0, 2, 512),
        (-5.0, 2, 512),
        (0.001, 2, 200),
        (0.01, 2, 20),
        (0.1, 2, 2),
        (0.1, 4, 4),
        (0.4, 2, 1),
        (LONG_RUN_S, 2, 0),
        (3600.0, 2, 0),
        (1e13, 2, 0),
    ],
)
def test_a_device_is_given_as_much_ahead_as_it_runs_in_a_moment(
    run_s: float, slots: int, ahead: int
) -> None:
    assert learned(run_s).prefetch(ECHO, slots) == ahead


def test_before_anything_is_known_a_device_is_given_twice_its_places() -> None:
    assert Attempts(prefetch_max=512).prefetch(ECHO, 3) == 3


def test_the_leader_s_own_device_needs_less_ahead() -> None:
    assert learned(0.001).prefetch(ECHO, 2, own=True) == round(2 * OWN_PREFETCH_S / 0.001)
    assert OWN_PREFETCH_S < PREFETCH_S


def test_one_odd_run_changes_little() -> None:
    attempts = learned(0.01)
    attempts.learn(ECHO, 1.0)
    assert attempts.prefetch(ECHO, 2) == 1
    for _ in range(60):
        attempts.learn(ECHO, 0.01)
    assert attempts.prefetch(ECHO, 2) == 20


def test_how_many_classes_of_runs_are_remembered_is_bounded() -> None:
    attempts = Attempts(prefetch_max=512)
    for number in range(5000):
        attempts.learn(f"tool/{number}", 1.0)
    assert attempts.prefetch("tool/0", 2) == 0
    assert attempts.prefetch("tool/4999", 2) == 2
    attempts.learn("tool/0", 2.0)


# Lost.


def attempt(end: str | None, code: str = "", *, lost: bool, started: bool) -> Attempt:
    scene = Scene()
    hash = scene.place()
    if started:
        scene.history.write(scene.b, e.TaskStarted(scene.id, hash, 0))
    if lost:
        scene.history.write(scene.a, e.AttemptLost(scene.id, hash, "device_lost"))
    if end == "completed":
        scene.history.complete(scene.b, scene.id, hash)
    elif end == "failed":
        scene.history.fail(scene.b, scene.id, hash)
    elif end == "declined":
        scene.history.write(scene.b, e.TaskDeclined(scene.id, hash, code))
    return scene.update().attempts[0]


@pytest.mark.parametrize(
    ("end", "code", "lost", "started", "counts"),
    [
        (None, "", False, True, False),
        (None, "", True, False, True),
        (None, "", True, True, True),
        ("completed", "", True, True, False),
        ("failed", "", True, True, False),
        ("declined", "fenced", False, False, False),
        ("declined", "fenced", True, False, True),
        ("declined", "restarted", False, False, False),
        ("declined", "restarted", False, True, True),
        ("declined", "restarted", True, True, True),
        ("declined", "stopping", False, True, False),
    ],
)
def test_an_attempt_is_lost_with_its_device_also_where_that_came_back(
    end: str | None, code: str, lost: bool, started: bool, counts: bool
) -> None:
    assert lost_with(attempt(end, code, lost=lost, started=started)) == counts


def test_an_attempt_of_no_device_that_is_known_is_counted_all_the_same() -> None:
    scene = Scene()
    nobody = Writer("nobody")
    scene.place(nobody)
    scene.update()
    assert scene.attempts.counts[Author(nobody.author)] == 1
    assert scene.attempts.by_device[nobody.author] != {}
    assert TaskId(scene.id) in scene.attempts.by_device[nobody.author].values()
