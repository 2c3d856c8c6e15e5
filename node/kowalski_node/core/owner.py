"""What a node does as an owner: decides, once, how a task ended.

The owner is the one writer of a task's end, so "at most once" needs no agreement. It settles from
what the ledger holds: a result (the earliest by time and hash, where a partition brought two),
failures that used up the attempts, devices lost one after the other, or a cancellation. A result
that is a blob, and the files that an attempt left, are brought here before the task settles, so
that what was settled can be read as long as the owner's disk lives.
"""

from __future__ import annotations

from kowalski_ledger.state import Attempt, Task
from kowalski_protocol.events import TaskOwnershipMoved, TaskSettled
from kowalski_protocol.ids import Author, TaskId
from kowalski_protocol.limits import Limits

from .attempts import is_abandoned, verdict
from .book import Book
from .effects import FetchBlob, Outbox
from .election import is_home, next_leader
from .inputs import Now

_MOVED_PER_EVENT = 500
FETCH_AGAIN_S = 1.0


class Owner:
    """The tasks that this node owns."""

    def __init__(self, book: Book, limits: Limits) -> None:
        self._book = book
        self._limits = limits
        self._fetching: set[TaskId] = set()
        self._turns: dict[TaskId, int] = {}
        """How often a blob of each of these could not be had."""
        self._have: set[bytes] = set()
        self._again_at_s: dict[TaskId, float] = {}
        """Tasks whose result could not be fetched, and when it is asked for again."""

    def consider(self, task: Task, now: Now, out: Outbox) -> None:
        """Looks at a task whose record has changed: has it ended?"""
        if (
            task.owner != self._book.author
            or task.settled is not None
            or task.submitted_hash is None
            or not self._book.may_write
        ):
            return
        verdict = self._verdict(task, out)
        if verdict is None:
            return
        outcome, attempt, code = verdict
        body = TaskSettled(task.id, task.tenure, outcome, attempt.hash if attempt else b"", code)
        self._book.write(body, now, out)
        self._turns.pop(task.id, None)
        if attempt is not None and attempt.end is not None:
            self._have.difference_update(attempt.end.blobs)

    def _verdict(self, task: Task, out: Outbox) -> tuple[str, Attempt | None, str] | None:
        found = verdict(task, self._limits)
        if found is not None and found.completed:
            for attempt in found.completed:
                if self._lacks(attempt) is None:
                    return "completed", attempt, ""
            self._fetch(task, found.completed, out)
            return None
        if is_abandoned(self._book.state, task):
            return "cancelled", None, "abandoned"
        return (found.outcome, found.attempt, found.code) if found is not None else None

    def _lacks(self, attempt: Attempt) -> bytes | None:
        """A blob of what an attempt brought that is not here."""
        end = attempt.end
        assert end is not None, "it has completed"
        if attempt.device == self._book.author:
            return None
        return next((blob for blob in end.blobs if blob not in self._have), None)

    def _fetch(self, task: Task, completed: list[Attempt], out: Outbox) -> None:
        """Asks for one blob at a time; after a failure for that of another device, if there is."""
        if task.id in self._fetching:
            return
        attempt = completed[self._turns.get(task.id, 0) % len(completed)]
        blob = self._lacks(attempt)
        assert blob is not None, "what is whole here settles its task"
        self._fetching.add(task.id)
        out.at_once.append(FetchBlob(blob, task.id, attempt.device))

    def blob_arrived(self, blob: bytes, task_id: TaskId, ok: bool, now: Now, out: Outbox) -> None:
        """A result came, or could not be had now: then it is asked for again in a while."""
        self._fetching.discard(task_id)
        if not ok:
            self._turns[task_id] = self._turns.get(task_id, 0) + 1
            self._again_at_s[task_id] = now.mono_s + FETCH_AGAIN_S
            return
        self._have.add(blob)
        self._look_again(task_id, now, out)

    def tick(self, now: Now, out: Outbox) -> None:
        """Asks again for what could not be had."""
        if not self._again_at_s:
            return
        due = [id for id, again_at_s in self._again_at_s.items() if now.mono_s >= again_at_s]
        for id in due:
            del self._again_at_s[id]
            self._look_again(id, now, out)

    def _look_again(self, task_id: TaskId, now: Now, out: Outbox) -> None:
        task = self._book.state.tasks.get(task_id)
        if task is not None:
            self.consider(task, now, out)

    def choose_owner(self, alive: frozenset[Author]) -> Author:
        """Who owns a new task of this node: a live `home` device if there is one."""
        state = self._book.state
        for author in state.members:
            if author in alive and is_home(state, author):
                return author
        return self._book.author

    def hand_over(self, alive: frozenset[Author], now: Now, out: Outbox) -> None:
        """Gives the open tasks to a live member: this node is about to stop."""
        state = self._book.state
        to = next_leader(state, alive - {self._book.author})
        if to is None or not self._book.may_write:
            return
        own = [(t.id, t.tenure) for t in state.open.values() if t.owner == self._book.author]
        for first in range(0, len(own), _MOVED_PER_EVENT):
            part = tuple(own[first : first + _MOVED_PER_EVENT])
            self._book.write(TaskOwnershipMoved(part, to), now, out)
