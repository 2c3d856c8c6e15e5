"""The leader's queue: priority, then first come first served, fair between submitters.

Tasks of one class (same requirements) and one submitter wait in one bucket; only the head of a
bucket is looked at, so a task that waits for a busy device never holds up others. Among the buckets
the highest priority goes first; a waiting task gains one for every `ageing_s`, so nothing starves;
between equals the submitter who was served least goes first. All times are the leader's own.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import NamedTuple

from kowalski_protocol.ids import Author, TaskId

BucketKey = tuple[bytes, Author]
"""(class of requirements, submitter)"""


class Arrival(NamedTuple):
    """When a task first came; of two that came at once, as in a batch, the turn says which did."""

    at_s: float
    turn: int


class Bucket:
    """Waiting tasks that are alike."""

    __slots__ = ("heap", "key")

    def __init__(self, key: BucketKey) -> None:
        self.key = key
        self.heap: list[tuple[float, int, Arrival, int, TaskId]] = []
        """(standing, turn, arrival, priority, task)"""


class Queue:
    """What waits to be placed."""

    def __init__(self, ageing_s: float) -> None:
        self._ageing_s = ageing_s
        self._buckets: dict[BucketKey, Bucket] = {}
        self._where: dict[TaskId, tuple[BucketKey, Arrival]] = {}
        """Its bucket and its arrival: an entry of a bucket with another one is out of date."""
        self._served: dict[Author, int] = {}
        self._served_last = 0
        """What the submitter who had the last turn had been served before it."""
        self._waiting: dict[Author, int] = {}
        """How many tasks of each submitter wait for a place."""
        self._order = 0
        self.due_s = math.inf
        """When the next of those that wait for a time may be due."""
        self._delayed: list[tuple[float, int, TaskId]] = []
        self._delays: dict[TaskId, float] = {}

    def __len__(self) -> int:
        return len(self._where) + len(self._delays)

    def __contains__(self, task: TaskId) -> bool:
        return task in self._where or task in self._delays

    def add(self, task: TaskId, key: BucketKey, priority: int, arrival: Arrival) -> None:
        """Lets a task wait for a place; one that waits already keeps its turn.

        `arrival` is that of its first time: a task that lost its device stands where it stood.
        """
        if task in self._where:
            return
        self._delays.pop(task, None)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(key)
        self._where[task] = (key, arrival)
        submitter = key[1]
        if not self._waiting.get(submitter):
            # Turns are shared among those who wait: nobody saves them up, and nobody owes any.
            self._served[submitter] = max(self._served.get(submitter, 0), self._served_last)
        self._waiting[submitter] = self._waiting.get(submitter, 0) + 1
        # Of two tasks the order never changes: both gain by ageing alike.
        standing = arrival.at_s / self._ageing_s - priority
        heapq.heappush(bucket.heap, (standing, arrival.turn, arrival, priority, task))

    def delay(self, task: TaskId, until_s: float) -> None:
        """Lets a task wait for a time before it waits for a place."""
        if task in self._where or task in self._delays:
            return
        self._order += 1
        self._delays[task] = until_s
        heapq.heappush(self._delayed, (until_s, self._order, task))
        self.due_s = min(self.due_s, until_s)

    def is_delayed(self, task: TaskId) -> bool:
        """Whether a task waits for a time, and not for a place."""
        return task in self._delays

    def due(self, now_s: float) -> Iterator[TaskId]:
        """Takes out the tasks whose time has come."""
        while self._delayed and self._delayed[0][0] <= now_s:
            until_s, _, task = heapq.heappop(self._delayed)
            if self._delays.get(task) == until_s:
                del self._delays[task]
                yield task
        self.due_s = self._delayed[0][0] if self._delayed else math.inf

    def remove(self, task: TaskId) -> None:
        """The task waits no longer."""
        where = self._where.pop(task, None)
        if where is not None:
            (_, submitter), _ = where
            self._waiting[submitter] -= 1
        self._delays.pop(task, None)

    def clear(self) -> None:
        """Forgets everything: this node leads no longer."""
        self._buckets.clear()
        self._where.clear()
        self._waiting.clear()
        self._delayed.clear()
        self._delays.clear()
        self.due_s = math.inf

    def bucket_of(self, task: TaskId) -> BucketKey | None:
        """Where a task waits."""
        where = self._where.get(task)
        return where[0] if where is not None else None

    def _head(self, bucket: Bucket) -> tuple[float, int, Arrival, int, TaskId] | None:
        heap = bucket.heap
        while heap:
            _, _, arrival, _, task = heap[0]
            if self._where.get(task) == (bucket.key, arrival):
                return heap[0]
            heapq.heappop(heap)
        self._buckets.pop(bucket.key, None)
        return None

    def next(self, blocked: set[BucketKey], now_s: float) -> tuple[TaskId, BucketKey] | None:
        """The task whose turn it is, leaving out buckets that can't be placed in this round."""
        best: tuple[float, int, Arrival] | None = None
        chosen: tuple[TaskId, BucketKey] | None = None
        for bucket in list(self._buckets.values()):
            if bucket.key in blocked:
                continue
            head = self._head(bucket)
            if head is None:
                continue
            _, _, arrival, priority, task = head
            aged = -priority - int((now_s - arrival.at_s) / self._ageing_s)
            rank = (aged, self._served.get(bucket.key[1], 0), arrival)
            if best is None or rank < best:
                best, chosen = rank, (task, bucket.key)
        return chosen

    def serve(self, task: TaskId) -> None:
        """The task was placed: it leaves, and its submitter has had a turn."""
        where = self._where.pop(task, None)
        if where is not None:
            (_, submitter), _ = where
            self._waiting[submitter] -= 1
            self._served_last = self._served[submitter]
            self._served[submitter] += 1
