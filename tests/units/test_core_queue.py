"""The leader's queue: priority, then first come first served, fair, and nothing starves."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kowalski_node.core.queue import BucketKey, Queue
from kowalski_protocol.ids import Author, TaskId

AGEING_S = 30.0
ANNA, BERT, CARL = (Author(name * 32) for name in (b"a", b"b", b"c"))


def key(submitter: Author = ANNA, kind: bytes = b"echo") -> BucketKey:
    return (kind, submitter)


def task(name: int) -> TaskId:
    return TaskId(name.to_bytes(16, "big"))


def served(queue: Queue, now_s: float = 0.0, blocked: set[BucketKey] | None = None) -> list[int]:
    """All tasks in the order in which they get their turn now."""
    order: list[int] = []
    while (turn := queue.next(blocked or set(), now_s)) is not None:
        queue.serve(turn[0])
        order.append(int.from_bytes(turn[0], "big"))
    return order


def queue_of(*rows: tuple[int, BucketKey, int, float]) -> Queue:
    """A queue with these tasks: name, bucket, priority, arrival."""
    queue = Queue(AGEING_S)
    for name, bucket, priority, arrived_s in rows:
        queue.add(task(name), bucket, priority, arrived_s)
    return queue


def test_an_empty_queue_has_nobody_s_turn() -> None:
    queue = Queue(AGEING_S)
    assert queue.next(set(), 0.0) is None
    assert len(queue) == 0
    assert task(1) not in queue


def test_first_come_first_served() -> None:
    assert served(queue_of((1, key(), 0, 0.0), (2, key(), 0, 1.0), (3, key(), 0, 1.0)), 2.0) == [
        *(1, 2, 3),
    ]


def test_a_higher_priority_goes_first_within_and_across_buckets() -> None:
    queue = queue_of(
        (1, key(), 0, 0.0), (2, key(), 5, 1.0), (3, key(kind=b"code"), 3, 0.5), (4, key(), -9, 0.0)
    )
    assert served(queue, 1.0) == [2, 3, 1, 4]


def test_waiting_is_worth_one_priority_for_each_ageing_time() -> None:
    queue = queue_of((1, key(kind=b"old"), 0, 0.0), (2, key(), 2, 59.0))
    assert served(queue, 59.0) == [2, 1]
    queue = queue_of((1, key(kind=b"old"), 0, 0.0), (2, key(), 2, 61.0))
    assert served(queue, 61.0) == [1, 2], "equal by then, and first come"


def test_nothing_starves_behind_a_stream_of_its_own_kind() -> None:
    queue = queue_of((1, key(), 0, 0.0))
    now_s, name = 0.0, 2
    while name < 1000:
        queue.add(task(name), key(), 5, now_s)
        turn = queue.next(set(), now_s)
        assert turn is not None
        queue.serve(turn[0])
        if turn[0] == task(1):
            break
        name, now_s = name + 1, now_s + 1.0
    assert now_s == pytest.approx(5 * AGEING_S, abs=2.0)


def test_nothing_starves_behind_a_stream_of_another_kind() -> None:
    queue = queue_of((1, key(kind=b"rare"), 0, 0.0))
    for name in range(2, 400):
        queue.add(task(name), key(), 5, float(name))
        turn = queue.next(set(), float(name))
        assert turn is not None
        queue.serve(turn[0])
        if turn[0] == task(1):
            assert name <= 6 * AGEING_S + 2
            return
    raise AssertionError


def test_between_equals_submitters_take_turns() -> None:
    rows = [(n, key(ANNA), 0, 0.0) for n in range(10)]
    rows += [(n, key(BERT), 0, 1.0) for n in range(10, 13)]
    order = served(queue_of(*rows), 1.0)
    assert [n for n in order[:6] if n >= 10] == [10, 11, 12], "Bert is not behind all of Anna's"


def test_what_somebody_was_served_before_is_no_debt() -> None:
    queue = queue_of(*[(n, key(ANNA), 0, 0.0) for n in range(100)])
    assert len(served(queue)) == 100
    for n in range(100, 110):
        queue.add(task(n), key(BERT), 0, 1.0)
        queue.add(task(n + 100), key(ANNA), 0, 1.0)
    first = served(queue, 1.0)[:10]
    assert Counter(n >= 200 for n in first) == {True: 5, False: 5}


def test_who_stayed_away_has_saved_up_no_turns() -> None:
    queue = queue_of((0, key(BERT), 0, 0.0))
    served(queue)
    for n in range(1, 101):
        queue.add(task(n), key(ANNA), 0, 0.0)
        served(queue)
    for n in range(200, 220):
        queue.add(task(n), key(BERT), 0, 1.0)
        queue.add(task(n + 100), key(ANNA), 0, 1.0)
    first = served(queue, 1.0)[:10]
    assert Counter(n >= 300 for n in first) == {True: 5, False: 5}


def test_a_blocked_bucket_holds_up_no_other() -> None:
    queue = queue_of((1, key(kind=b"busy"), 9, 0.0), (2, key(), 0, 1.0))
    blocked = {key(kind=b"busy")}
    assert served(queue, 1.0, blocked) == [2]
    assert task(1) in queue
    assert served(queue, 1.0) == [1]


def test_a_task_that_waits_already_keeps_its_turn() -> None:
    queue = queue_of((1, key(), 0, 0.0), (2, key(), 0, 1.0))
    queue.add(task(1), key(), 9, 5.0)
    queue.delay(task(1), 100.0)
    assert len(queue) == 2
    assert served(queue, 5.0) == [1, 2]


def test_a_task_that_is_removed_has_no_turn() -> None:
    queue = queue_of((1, key(), 0, 0.0), (2, key(), 0, 0.0))
    queue.remove(task(1))
    queue.remove(task(99))
    assert (task(1) in queue, len(queue), queue.bucket_of(task(1))) == (False, 1, None)
    assert served(queue) == [2]


def test_a_task_that_was_served_may_come_back() -> None:
    queue = queue_of((1, key(), 0, 0.0))
    assert served(queue) == [1]
    queue.serve(task(1))
    queue.add(task(1), key(), 0, 1.0)
    assert queue.bucket_of(task(1)) == key()
    assert served(queue, 1.0) == [1]


def test_a_task_that_was_removed_and_comes_back_stands_where_it_is_told_to() -> None:
    queue = queue_of((1, key(), 0, 0.0), (2, key(), 0, 1.0))
    queue.remove(task(1))
    queue.add(task(1), key(), 0, 2.0)
    assert served(queue, 2.0) == [2, 1]


def test_a_task_that_changes_its_bucket_has_one_turn() -> None:
    queue = queue_of((1, key(), 0, 0.0))
    queue.remove(task(1))
    queue.add(task(1), key(kind=b"other"), 0, 0.0)
    assert served(queue) == [1]


def test_a_delayed_task_has_no_turn_before_its_time() -> None:
    queue = Queue(AGEING_S)
    queue.delay(task(1), 5.0)
    queue.delay(task(2), 3.0)
    queue.delay(task(1), 1.0)
    assert (len(queue), task(1) in queue, queue.bucket_of(task(1))) == (2, True, None)
    assert queue.next(set(), 10.0) is None
    assert list(queue.due(2.9)) == []
    assert list(queue.due(4.0)) == [task(2)]
    assert list(queue.due(5.0)) == [task(1)]
    assert len(queue) == 0


def test_a_delayed_task_that_was_removed_is_not_due() -> None:
    queue = Queue(AGEING_S)
    queue.delay(task(1), 1.0)
    queue.remove(task(1))
    queue.delay(task(1), 4.0)
    assert list(queue.due(2.0)) == []
    assert list(queue.due(4.0)) == [task(1)]


def test_a_delayed_task_may_be_let_in_before_its_time() -> None:
    queue = Queue(AGEING_S)
    queue.delay(task(1), 5.0)
    queue.add(task(1), key(), 0, 1.0)
    assert len(queue) == 1
    assert served(queue, 1.0) == [1]
    assert list(queue.due(9.0)) == []


def test_a_cleared_queue_is_empty() -> None:
    queue = queue_of((1, key(), 0, 0.0))
    queue.delay(task(2), 1.0)
    queue.clear()
    assert (len(queue), list(queue.due(9.0)), queue.next(set(), 9.0)) == (0, [], None)
    queue.add(task(1), key(), 0, 0.0)
    assert served(queue) == [1]


operations = st.lists(
    st.tuples(
        st.sampled_from(("add", "delay", "remove", "serve", "due", "next")),
        st.integers(0, 8),
        st.sampled_from((ANNA, BERT, CARL)),
        st.integers(-2, 2),
        st.floats(0, 50),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(operations)
def test_a_task_waits_once_or_not_at_all(
    steps: list[tuple[str, int, Author, int, float]],
) -> None:
    queue = Queue(AGEING_S)
    waiting: set[TaskId] = set()
    now_s = 0.0
    for what, name, submitter, priority, more_s in steps:
        now_s += more_s
        id = task(name)
        if what == "add":
            queue.add(id, key(submitter), priority, now_s)
            waiting.add(id)
        elif what == "delay":
            queue.delay(id, now_s + more_s)
            waiting.add(id)
        elif what == "remove":
            queue.remove(id)
            waiting.discard(id)
        elif what == "serve":
            if queue.bucket_of(id) is not None:
                waiting.discard(id)
            queue.serve(id)
        elif what == "due":
            waiting -= set(queue.due(now_s))
        else:
            turn = queue.next(set(), now_s)
            if turn is not None:
                assert turn[1] == queue.bucket_of(turn[0])
                queue.serve(turn[0])
                waiting.discard(turn[0])
        assert len(queue) == len(waiting)
        assert all(id in queue for id in waiting)
