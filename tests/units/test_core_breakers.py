"""Circuit breakers: when a device gets no more of a kind, when it is tried, and what ends that."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_ledger.state import Attempt, End, State, Task
from kowalski_node.core.attempts import (
    DEVICE_CODES,
    DEVICE_FAILURES_FREE,
    Attempts,
    failure_count,
    verdict,
)
from kowalski_node.core.breakers import (
    BREAKERS_MAX,
    FAILURES_MAX,
    OPEN_S,
    OPEN_S_MAX,
    TASK_CODES,
    Breakers,
)
from kowalski_node.core.placement import Candidate, Waiting
from kowalski_protocol.errors import CODES
from kowalski_protocol.ids import Author, ClusterId, EventHash, TaskId
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.tasks import TaskSpec
from tests.units.bench import Bench

DESK, LAPTOP = (Author(letter * 32) for letter in (b"d", b"l"))
BROKEN = "executor_failed"


class Scene:
    """Attempts that begin and end as a test says, and what the breakers make of it."""

    def __init__(self) -> None:
        self.attempts = Attempts(LIMITS.prefetch_max)
        self.breakers = Breakers(self.attempts)
        self.now_s = 1000.0
        self.count = 0

    def new_task(self, kind: str = "code", need: str = "python") -> Task:
        self.count += 1
        task = Task(TaskId(self.count.to_bytes(16, "big")))
        task.spec = TaskSpec(kind, need, bytes(32), 0)
        return task

    def place(self, task: Task | None = None, device: Author = DESK) -> Task:
        task = task or self.new_task()
        number = len(task.attempts) + 1
        hash = EventHash(task.id + number.to_bytes(16, "big"))
        task.attempts.append(Attempt(hash, number, device, hash, DESK, 1, 1))
        self.attempts.update(task)
        return task

    def end(self, task: Task, code: str = "", kind: str = "") -> None:
        kind = kind or ("failed" if code else "completed")
        task.attempts[-1].end = End(kind, EventHash(bytes(32)), 2, 1, code)
        self.attempts.update(task)
        self.breakers.learn(self.now_s)

    def run(self, *codes: str, device: Author = DESK, kind: str = "code") -> None:
        """Tasks that run one after the other and end so."""
        for code in codes:
            self.end(self.place(self.new_task(kind), device), code)

    def may(self, device: Author = DESK, kind: str = "code") -> bool:
        return self.breakers.may_have(device, kind, self.now_s)

    def opens_after_s(self) -> float:
        """How long the device gets nothing from now on."""
        (pause,) = self.breakers.pauses(DESK)
        assert not self.may()
        return pause.until_s - self.now_s


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def broken(scene: Scene) -> Scene:
    """A device that has failed as often as it may."""
    scene.run(*[BROKEN] * FAILURES_MAX)
    return scene


def test_the_codes_are_those_of_the_catalogue_and_none_tells_of_both() -> None:
    assert set(CODES) >= DEVICE_CODES | TASK_CODES
    assert not DEVICE_CODES & TASK_CODES


@pytest.mark.parametrize("code", sorted(DEVICE_CODES))
def test_failures_of_the_device_in_a_row_open_it_for_that_kind_alone(
    scene: Scene, code: str
) -> None:
    for number in range(FAILURES_MAX):
        assert scene.may(), number
        assert scene.breakers.open_count == 0
        scene.run(code)
    assert scene.opens_after_s() == OPEN_S
    assert scene.may(kind="tool")
    assert scene.may(LAPTOP)
    assert scene.breakers.open_count == 1


@pytest.mark.parametrize("code", ["", *sorted(TASK_CODES)])
def test_what_ran_as_it_should_ends_the_row(scene: Scene, code: str) -> None:
    for _ in range(3):
        scene.run(*[BROKEN] * (FAILURES_MAX - 1), code)
    assert scene.may()


@pytest.mark.parametrize("code", ["timed_out", "cancelled", "session_lost", "never_heard_of"])
def test_what_tells_of_neither_changes_nothing(scene: Scene, code: str) -> None:
    scene.run(*[code] * 20)
    assert scene.may()
    scene.run(*[BROKEN] * (FAILURES_MAX - 1), code, BROKEN)
    assert not scene.may()


def test_what_was_given_back_or_lost_changes_nothing(scene: Scene) -> None:
    for _ in range(20):
        scene.end(scene.place(), BROKEN, kind="declined")
    assert scene.may()


def test_a_task_that_fails_again_and_again_counts_once(scene: Scene) -> None:
    task = scene.new_task()
    for _ in range(20):
        scene.end(scene.place(task), BROKEN)
    assert scene.may(), "it may be what breaks its executor"
    scene.run(*[BROKEN] * (FAILURES_MAX - 1))
    assert not scene.may()
    (pause,) = scene.breakers.pauses(DESK)
    assert pause.failures == FAILURES_MAX


def test_the_pause_doubles_with_each_try_that_fails_up_to_its_bound(broken: Scene) -> None:
    pauses = [broken.opens_after_s()]
    for _ in range(30):
        broken.now_s += pauses[-1]
        assert broken.may()
        broken.run(BROKEN)
        pauses.append(broken.opens_after_s())
    assert pauses[:6] == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0]
    assert set(pauses[5:]) == {OPEN_S_MAX}


def test_it_is_tried_with_one_at_a_time_and_closes_with_the_first_success(broken: Scene) -> None:
    broken.now_s += OPEN_S - 0.01
    assert not broken.may()
    broken.now_s += 0.01
    assert broken.may()
    probe = broken.place()
    assert not broken.may()
    assert broken.may(kind="tool")
    broken.end(probe, "timed_out")
    assert broken.may(), "that told nothing, so another may try"
    broken.end(broken.place())
    assert broken.breakers.open_count == 0
    assert list(broken.breakers.pauses(DESK)) == []
    broken.place()
    assert broken.may()
    broken.run(*[BROKEN] * FAILURES_MAX)
    assert broken.opens_after_s() == OPEN_S, "the pauses begin anew"


def test_what_was_placed_before_it_opened_neither_prolongs_it_nor_is_a_second_try(
    scene: Scene,
) -> None:
    early = [scene.place() for _ in range(FAILURES_MAX + 3)]
    for task in early[:FAILURES_MAX]:
        scene.end(task, BROKEN)
    until_s = scene.now_s + OPEN_S
    scene.now_s += 1.0
    scene.end(early[-1], BROKEN)
    (pause,) = scene.breakers.pauses(DESK)
    assert (pause.until_s, pause.failures) == (until_s, FAILURES_MAX + 1)
    scene.now_s = until_s
    assert not scene.may(), "two still run, and either may tell"
    scene.end(early[-2])
    assert scene.may(), "a success closes it, whenever it was placed"


def test_devices_that_lie_about_kinds_take_bounded_memory(scene: Scene) -> None:
    for number in range(BREAKERS_MAX + 5):
        scene.run(*[BROKEN] * FAILURES_MAX, kind=f"kind{number}")
    assert scene.breakers.open_count == BREAKERS_MAX
    assert len(list(scene.breakers.pauses(DESK))) == BREAKERS_MAX
    assert scene.may(kind=f"kind{BREAKERS_MAX}")


# What waits.


def candidates(*devices: Author) -> list[Candidate]:
    return [Candidate(device, 2, 0.5, 1.0, 0.5) for device in devices]


def test_of_several_devices_those_that_work_are_left(broken: Scene) -> None:
    state = State(ClusterId(bytes(32)))
    both = candidates(DESK, LAPTOP)
    found = broken.breakers.usable(state, both, "code", broken.now_s)
    assert found == [both[1]]
    assert broken.breakers.reason(state, both, "code") is None
    assert broken.breakers.usable(state, both, "tool", broken.now_s) == both


def test_where_none_works_the_task_waits_and_says_for_whom() -> None:
    bench = Bench(6)
    scene = Scene()
    authors = [writer.author for writer in [bench.me, *bench.others]]
    for author in authors:
        scene.run(*[BROKEN] * FAILURES_MAX, device=author)
    state = bench.state
    names = [state.members[author].name for author in authors]
    one = scene.breakers.usable(state, candidates(authors[0]), "code", scene.now_s)
    assert one == Waiting(
        f"waits for {names[0]}, which failed 5 code tasks in a row (executor_failed); each is tried"
        " again with one task at a time"
    )
    all_ = scene.breakers.reason(state, candidates(*authors), "code")
    assert all_ is not None
    assert all_.count("which failed") == 3
    assert "; and 3 more; each is tried again" in all_


# What uses up attempts.


@pytest.mark.parametrize(
    ("codes", "more", "count"),
    [
        ([], {}, 0),
        (["tool_failed"], {}, 1),
        (["executor_failed"], {}, 0),
        (["executor_failed", "disk_full"], {}, 0),
        (["executor_failed", "tool_failed", "disk_full", "sandbox_unavailable"], {}, 2),
        (["executor_failed", "tool_failed"], {"failover": "fail"}, 2),
        (["executor_failed", "tool_failed"], {"session": "notes"}, 2),
        (["executor_failed", "tool_failed"], {"failover": "queue"}, 1),
    ],
)
def test_the_first_failures_of_devices_use_up_no_attempt(
    codes: list[str], more: dict[str, Any], count: int
) -> None:
    assert failure_count(TaskSpec("tool", "echo", bytes(32), 0, **more), codes) == count


def test_a_task_that_fails_by_its_devices_again_and_again_ends(scene: Scene) -> None:
    task = scene.new_task()
    for _ in range(DEVICE_FAILURES_FREE):
        scene.end(scene.place(task), BROKEN)
        assert verdict(task, LIMITS) is None
    scene.end(scene.place(task), BROKEN)
    found = verdict(task, LIMITS)
    assert found is not None
    assert (found.outcome, found.code) == ("failed", BROKEN)


# Whatever happens.

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("place"), st.just(0.0), st.just("")),
        st.tuples(
            st.just("end"),
            st.floats(0, 1),
            st.sampled_from(["", *[BROKEN] * 6, "disk_full", "code_failed", "timed_out"]),
        ),
        st.tuples(st.just("lose"), st.floats(0, 1), st.just("")),
        st.tuples(st.just("pass"), st.sampled_from([0.1, 1.0, 9.9, 10.0, 100.0]), st.just("")),
    ),
    max_size=120,
)


@given(STEPS)
def test_one_try_at_a_time_a_success_closes_and_no_pause_is_without_end(
    steps: list[tuple[str, float, str]],
) -> None:
    scene = Scene()
    under_way: list[Task] = []
    tries: list[Task] = []
    """What was placed while it was open."""
    row = 0
    for what, how_much, code in steps:
        if what == "pass":
            scene.now_s += how_much
        elif what == "place" and scene.may():
            task = scene.place()
            under_way.append(task)
            if scene.breakers.open_count:
                tries.append(task)
        elif what != "place" and under_way:
            task = under_way.pop(int(how_much * (len(under_way) - 1)))
            tries = [one for one in tries if one is not task]
            if what == "lose":
                scene.end(task, "restarted", kind="declined")
            else:
                scene.end(task, code)
                if code in DEVICE_CODES:
                    row += 1
                elif code != "timed_out":
                    row = 0
                    tries.clear()
                    assert scene.may(), "a success closes it"
                    assert scene.breakers.open_count == 0
        assert len(tries) <= 1
        assert scene.breakers.open_count == (row >= FAILURES_MAX)
        pauses = list(scene.breakers.pauses(DESK))
        assert all(pause.until_s - scene.now_s <= OPEN_S_MAX for pause in pauses)
        if not under_way:
            assert scene.breakers.may_have(DESK, "code", scene.now_s + OPEN_S_MAX)
