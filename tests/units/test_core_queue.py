"""Whose turn it is: priority, order of arrival, ageing, fairness, delays and removal."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kowalski_node.core.queue import Arrival, BucketKey, Queue
from kowalski_protocol.ids import Author, TaskId

AGEING_S = 30.0
ANN, BOB, CAT = (Author(letter * 32) for letter in (b"a", b"b", b"c"))


def task(number: int) -> TaskId:
    return TaskId(number.to_bytes(16, "big"))


TURNS = itertools.count()


def at(time_s: float) -> Arrival:
    """A first arrival, after all others of the same time."""
    return Arrival(time_s, next(TURNS))


def key(submitter: Author = ANN, name: bytes = b"echo") -> BucketKey:
    return (name, submitter)


def drain(queue: Queue, now_s: float = 0.0, blocked: set[BucketKey] | None = None) -> list[int]:
    """All turns that there are, in order."""
    turns: list[int] = []
    while (turn := queue.next(blocked or set(), now_s)) is not None:
        queue.serve(turn[0])
        turns.append(int.from_bytes(turn[0], "big"))
    return turns


@pytest.fixture
def queue() -> Queue:
    return Queue(AGEING_S)


def test_an_empty_queue_has_no_turn(queue: Queue) -> None:
    assert queue.next(set(), 0.0) is None
    assert len(queue) == 0
    assert task(1) not in queue


def test_of_a_batch_a_task_that_comes_back_stands_where_it_stood(queue: Queue) -> None:
    arrivals = [at(0.0) for _ in range(6)]
    for number, arrival in enumerate(arrivals):
        queue.add(task(number), key(), 0, arrival)
    for number in (0, 1, 2):
        queue.serve(task(number))
    queue.add(task(1), key(), 0, arrivals[1])
    assert drain(queue) == [1, 3, 4, 5]


def test_first_come_first_served(queue: Queue) -> None:
    for number in (3, 1, 2):
        queue.add(task(number), key(), 0, at(0.0))
    assert drain(queue) == [3, 1, 2]


def test_first_come_first_served_across_classes_of_tasks(queue: Queue) -> None:
    queue.add(task(1), key(name=b"x"), 0, at(0.0))
    queue.add(task(2), key(name=b"y"), 0, at(0.1))
    queue.add(task(3), key(name=b"x"), 0, at(0.2))
    assert drain(queue, 1.0) == [1, 2, 3]


def test_a_task_that_lost_its_device_stands_where_it_stood(queue: Queue) -> None:
    queue.add(task(1), key(name=b"x"), 0, at(5.0))
    queue.add(task(2), key(name=b"x"), 0, at(1.0))
    queue.add(task(3), key(name=b"y"), 0, at(0.0))
    assert drain(queue, 6.0) == [3, 2, 1]


@pytest.mark.parametrize("names", [(b"x", b"x", b"x"), (b"x", b"y", b"z")])
def test_the_higher_priority_goes_first(queue: Queue, names: tuple[bytes, bytes, bytes]) -> None:
    queue.add(task(1), key(name=names[0]), 0, at(0.0))
    queue.add(task(2), key(name=names[1]), 5, at(1.0))
    queue.add(task(3), key(name=names[2]), -9, at(0.0))
    assert drain(queue, 1.0) == [2, 1, 3]


def test_one_that_waits_already_keeps_its_turn(queue: Queue) -> None:
    queue.add(task(1), key(), 0, at(0.0))
    queue.add(task(2), key(), 0, at(1.0))
    queue.add(task(1), key(), -9, at(2.0))
    queue.delay(task(1), 100.0)
    assert len(queue) == 2
    assert drain(queue, 2.0) == [1, 2]


# Ageing.


@pytest.mark.parametrize("names", [(b"x", b"x"), (b"x", b"y")])
@pytest.mark.parametrize(("waited_s", "first"), [(59.0, 2), (61.0, 1)])
def test_a_waiting_task_gains_one_priority_for_every_ageing_time(
    queue: Queue, names: tuple[bytes, bytes], waited_s: float, first: int
) -> None:
    queue.add(task(1), key(name=names[0]), 0, at(0.0))
    queue.add(task(2), key(name=names[1]), 2, at(waited_s))
    assert drain(queue, waited_s)[0] == first


@given(st.integers(-100, 100), st.integers(-100, 100), st.booleans())
def test_nothing_starves_however_important_what_keeps_coming_is(
    low: int, high: int, same_class: bool
) -> None:
    queue = Queue(AGEING_S)
    queue.add(task(0), key(name=b"low"), low, at(0.0))
    name = b"low" if same_class else b"high"
    for number in range(1, 300):
        now_s = number * AGEING_S
        queue.add(task(number), key(BOB if number % 2 else ANN, name), high, at(now_s))
        turn = queue.next(set(), now_s)
        assert turn is not None
        queue.serve(turn[0])
        if turn[0] == task(0):
            assert number <= max(0, high - low) + 2
            return
    pytest.fail("it never had its turn")


# Fairness.


def test_submitters_take_turns_whoever_came_with_more(queue: Queue) -> None:
    for number in range(6):
        queue.add(task(number), key(ANN), 0, at(0.0))
    for number in (10, 11):
        queue.add(task(number), key(BOB), 0, at(0.5))
    assert drain(queue, 1.0) == [0, 10, 1, 11, 2, 3, 4, 5]


def test_priority_comes_before_fairness(queue: Queue) -> None:
    for number in range(3):
        queue.add(task(number), key(ANN), 1, at(0.0))
    queue.add(task(10), key(BOB), 0, at(0.0))
    assert drain(queue) == [0, 1, 2, 10]


def test_who_was_served_much_owes_nothing_to_one_who_comes_later(queue: Queue) -> None:
    for number in range(100):
        queue.add(task(number), key(ANN), 0, at(0.0))
    assert len(drain(queue)) == 100
    for number in range(100, 105):
        queue.add(task(number), key(ANN), 0, at(1.0))
    for number in range(200, 205):
        queue.add(task(number), key(BOB), 0, at(1.0))
    turns = drain(queue, 1.0)
    assert sum(number < 200 for number in turns[:4]) == 2


def test_who_waited_for_nothing_saves_up_no_turns(queue: Queue) -> None:
    queue.add(task(500), key(BOB), 0, at(0.0))
    drain(queue)
    for number in range(100):
        queue.add(task(number), key(ANN), 0, at(0.0))
    for _ in range(50):
        turn = queue.next(set(), 0.0)
        assert turn is not None
        queue.serve(turn[0])
    for number in range(200, 220):
        queue.add(task(number), key(BOB), 0, at(0.0))
    turns = drain(queue)[:20]
    assert 9 <= sum(number >= 200 for number in turns) <= 11


def test_whose_tasks_were_taken_away_comes_back_as_one_who_waited_for_nothing(
    queue: Queue,
) -> None:
    queue.add(task(500), key(BOB), 0, at(0.0))
    queue.remove(task(500))
    for number in range(100):
        queue.add(task(number), key(ANN), 0, at(0.0))
    for _ in range(50):
        turn = queue.next(set(), 0.0)
        assert turn is not None
        queue.serve(turn[0])
    for number in range(200, 220):
        queue.add(task(number), key(BOB), 0, at(0.0))
    turns = drain(queue)[:20]
    assert 9 <= sum(number >= 200 for number in turns) <= 11


@given(st.integers(2, 4), st.integers(1, 12))
def test_while_all_wait_nobody_is_ahead_by_more_than_one(submitters: int, each: int) -> None:
    queue = Queue(AGEING_S)
    people = [Author(bytes([n]) * 32) for n in range(submitters)]
    owner: dict[TaskId, Author] = {}
    for n, person in enumerate(people):
        for number in range(each):
            id = task(n * 100 + number)
            owner[id] = person
            queue.add(id, key(person), 0, at(0.0))
    served = dict.fromkeys(people, 0)
    for _ in range(submitters * each):
        turn = queue.next(set(), 0.0)
        assert turn is not None
        queue.serve(turn[0])
        served[owner[turn[0]]] += 1
        assert max(served.values()) - min(served.values()) <= 1


# Blocked buckets.


def test_a_class_that_waits_for_a_busy_device_holds_up_no_other(queue: Queue) -> None:
    queue.add(task(1), key(name=b"gpu"), 9, at(0.0))
    queue.add(task(2), key(name=b"echo"), 0, at(0.0))
    assert drain(queue, blocked={key(name=b"gpu")}) == [2]
    assert task(1) in queue
    assert drain(queue) == [1]


def test_where_everything_is_blocked_there_is_no_turn(queue: Queue) -> None:
    queue.add(task(1), key(), 0, at(0.0))
    assert queue.next({key()}, 0.0) is None


# Delays.


def test_a_delayed_task_has_no_turn_before_its_time(queue: Queue) -> None:
    queue.delay(task(1), 5.0)
    assert task(1) in queue
    assert len(queue) == 1
    assert queue.bucket_of(task(1)) is None
    assert list(queue.due(4.9)) == []
    assert queue.next(set(), 4.9) is None
    assert list(queue.due(5.0)) == [task(1)]
    assert task(1) not in queue
    assert list(queue.due(5.0)) == []


def test_delayed_tasks_come_due_in_the_order_of_their_times(queue: Queue) -> None:
    for number, until_s in ((1, 3.0), (2, 1.0), (3, 2.0)):
        queue.delay(task(number), until_s)
    assert list(queue.due(9.0)) == [task(2), task(3), task(1)]


def test_a_delay_is_not_prolonged_and_does_not_take_a_turn_away(queue: Queue) -> None:
    queue.delay(task(1), 1.0)
    queue.delay(task(1), 9.0)
    queue.add(task(2), key(), 0, at(0.0))
    queue.delay(task(2), 9.0)
    assert list(queue.due(1.0)) == [task(1)]
    assert drain(queue) == [2]


def test_adding_a_delayed_task_ends_its_delay(queue: Queue) -> None:
    queue.delay(task(1), 5.0)
    queue.add(task(1), key(), 0, at(0.0))
    assert len(queue) == 1
    assert list(queue.due(9.0)) == []
    assert drain(queue) == [1]


def test_a_task_that_was_removed_while_delayed_does_not_come_due(queue: Queue) -> None:
    queue.delay(task(1), 5.0)
    queue.remove(task(1))
    assert list(queue.due(4.0)) == []
    queue.delay(task(1), 7.0)
    queue.delay(task(2), 5.0)
    assert list(queue.due(6.0)) == [task(2)]
    assert list(queue.due(7.0)) == [task(1)]


# Leaving.


def test_a_removed_task_has_no_turn(queue: Queue) -> None:
    for number in (1, 2, 3):
        queue.add(task(number), key(), 0, at(0.0))
    for gone in (1, 1, 9):
        queue.remove(task(gone))
    assert len(queue) == 2
    assert task(1) not in queue
    assert queue.bucket_of(task(1)) is None
    assert drain(queue) == [2, 3]


def test_a_task_that_was_removed_and_comes_back_waits_from_then_on(queue: Queue) -> None:
    queue.add(task(1), key(), 0, at(0.0))
    queue.add(task(2), key(), 0, at(1.0))
    queue.remove(task(1))
    queue.add(task(1), key(), 0, at(2.0))
    assert drain(queue, 2.0) == [2, 1]


def test_a_removed_task_may_come_back_in_another_class(queue: Queue) -> None:
    queue.add(task(1), key(name=b"x"), 0, at(0.0))
    queue.remove(task(1))
    queue.add(task(1), key(name=b"y"), 0, at(1.0))
    turn = queue.next(set(), 1.0)
    assert turn == (task(1), key(name=b"y"))
    assert drain(queue, 1.0) == [1], "once"


def test_a_task_that_was_served_may_come_back(queue: Queue) -> None:
    queue.add(task(1), key(), 0, at(0.0))
    assert drain(queue) == [1]
    queue.add(task(1), key(), 0, at(1.0))
    assert queue.bucket_of(task(1)) == key()
    assert drain(queue, 1.0) == [1]


def test_serving_what_does_not_wait_changes_nothing(queue: Queue) -> None:
    queue.add(task(1), key(), 0, at(0.0))
    queue.serve(task(9))
    assert drain(queue) == [1]


def test_a_node_that_leads_no_longer_forgets_everything(queue: Queue) -> None:
    queue.add(task(1), key(), 0, at(0.0))
    queue.delay(task(2), 1.0)
    queue.clear()
    assert len(queue) == 0
    assert list(queue.due(9.0)) == []
    assert drain(queue) == []
    queue.add(task(1), key(), 0, at(0.0))
    queue.delay(task(2), 5.0)
    assert list(queue.due(4.0)) == [], "the old delay is forgotten as well"
    assert drain(queue) == [1]


class AnyUse(RuleBasedStateMachine):
    """Whatever is done to a queue, it holds what a plain list would hold, and each has a turn."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue(AGEING_S)
        self.waits: dict[TaskId, BucketKey] = {}
        self.delayed: dict[TaskId, float] = {}
        self.now_s = 0.0

    numbers = st.integers(0, 7).map(task)

    @rule(
        id=numbers,
        submitter=st.sampled_from([ANN, BOB, CAT]),
        name=st.sampled_from([b"x", b"y"]),
        priority=st.integers(-3, 3),
    )
    def add(self, id: TaskId, submitter: Author, name: bytes, priority: int) -> None:
        self.queue.add(id, (name, submitter), priority, at(self.now_s))
        self.delayed.pop(id, None)
        self.waits.setdefault(id, (name, submitter))

    @rule(id=numbers, wait_s=st.floats(0, 50))
    def delay(self, id: TaskId, wait_s: float) -> None:
        self.queue.delay(id, self.now_s + wait_s)
        if id not in self.waits:
            self.delayed.setdefault(id, self.now_s + wait_s)

    @rule(id=numbers)
    def remove(self, id: TaskId) -> None:
        self.queue.remove(id)
        self.waits.pop(id, None)
        self.delayed.pop(id, None)

    @rule(passed_s=st.floats(0, 90))
    def pass_time(self, passed_s: float) -> None:
        self.now_s += passed_s
        due = set(self.queue.due(self.now_s))
        assert due == {id for id, until_s in self.delayed.items() if until_s <= self.now_s}
        for id in due:
            del self.delayed[id]

    @rule()
    def serve(self) -> None:
        turn = self.queue.next(set(), self.now_s)
        assert (turn is None) == (not self.waits)
        if turn is not None:
            assert self.waits.pop(turn[0]) == turn[1]
            self.queue.serve(turn[0])

    @invariant()
    def holds_the_same(self) -> None:
        assert len(self.queue) == len(self.waits) + len(self.delayed)
        for id in map(task, range(8)):
            assert (id in self.queue) == (id in self.waits or id in self.delayed)
            assert self.queue.bucket_of(id) == self.waits.get(id)


TestAnyUse = AnyUse.TestCase
