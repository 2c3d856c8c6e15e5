"""What a node does as a device: accepts what was placed on it, runs it in turn, and tells how it
ended.

A placement below the greatest claim that the device knows is declined, never started: that fence,
and not the fold, is what stops a leader that lost its place. Start follows the commit that holds
the placement. A run that lasts gets its own `TaskStarted`; a short one is told by its result alone,
which says when it began. A task whose device ended before it did is told of before it starts.
What the device had accepted before a restart and not ended it declines: it can't know how far that
came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from msgspec import structs

from kowalski_ledger.state import Attempt, Task
from kowalski_protocol.events import (
    SessionRebuilt,
    TaskCompleted,
    TaskDeclined,
    TaskFailed,
    TaskStarted,
)
from kowalski_protocol.ids import EventHash
from kowalski_protocol.limits import Limits, Timers
from kowalski_protocol.topics import TASK

from .attempts import is_abandoned, took_device, uses_slot
from .book import Book
from .effects import Outbox, Start, StopAttempt
from .inputs import AttemptEnded, Now
from .placement import mismatch
from .sessions import KnownCells


class _Run:
    __slots__ = ("announced", "started_ms", "started_s", "stopping", "takes_slot", "task")

    def __init__(self, task: Task, started_s: float, started_ms: int) -> None:
        self.task = task
        self.started_s = started_s
        self.started_ms = started_ms
        self.announced = False
        self.stopping = ""
        self.takes_slot = uses_slot(task)


class Device:
    """The attempts of this device."""

    def __init__(self, book: Book, timers: Timers, limits: Limits, slots: int) -> None:
        self._book = book
        self._timers = timers
        self._limits = limits
        self.slots = slots
        self.waiting: deque[EventHash] = deque()
        self.waiting_without_slot: deque[EventHash] = deque()
        self._accepted: dict[EventHash, Task] = {}
        """Those that wait."""
        self.running: dict[EventHash, _Run] = {}
        self._unwritten: list[AttemptEnded] = []
        """What ended while the ledger could not be written."""
        self._cells = KnownCells(book)
        self.stopping = False

    def decline_stale(self, stale: list[tuple[Task, EventHash]], now: Now, out: Outbox) -> None:
        """Gives back what was accepted before this start of the node."""
        for task, hash in stale:
            attempt = task.attempt(hash)
            if attempt is not None and attempt.end is None and task.settled is None:
                self._decline(task, hash, "restarted", now, out)

    def consider(self, task: Task, now: Now, out: Outbox) -> None:
        """Looks at a task whose record has changed."""
        ended = (
            task.settled is not None
            or task.cancel is not None
            or is_abandoned(self._book.state, task)
        )
        for attempt in task.attempts:
            if attempt.device != self._book.author or attempt.end is not None:
                continue
            if ended:
                self._drop(task, attempt, now, out)
            elif attempt.lost is None and not self._knows(attempt.hash):
                self._accept(task, attempt, now, out)

    def _knows(self, hash: EventHash) -> bool:
        return hash in self.running or hash in self._accepted

    def _drop(self, task: Task, attempt: Attempt, now: Now, out: Outbox) -> None:
        run = self.running.get(attempt.hash)
        if run is not None:
            if not run.stopping:
                run.stopping = "cancelled" if task.cancel else "settled"
                out.at_once.append(StopAttempt(attempt.hash, run.stopping))
            return
        self._accepted.pop(attempt.hash, None)
        if task.settled is None and self._book.may_write:
            self._decline(task, attempt.hash, "cancelled", now, out)

    def _accept(self, task: Task, attempt: Attempt, now: Now, out: Outbox) -> None:
        if task.spec is None or not self._book.may_write:
            return
        state = self._book.state
        claim = state.claims.get(attempt.claim)
        advert = state.adverts.get(self._book.author)
        why: str | None = None
        if claim is None or claim.author != attempt.leader:
            why = "not_the_leader"
        elif state.leader is not None and state.leader.hash != attempt.claim:
            why = "fenced"
        elif self.stopping:
            why = "stopping"
        elif advert is None or mismatch(advert.body, task.spec) is not None:
            why = "not_offered"
        elif len(self._accepted) >= 2 * self._limits.prefetch_max + self.slots:
            why = "full"
        if why is not None:
            self._decline(task, attempt.hash, why, now, out)
            return
        self._accepted[attempt.hash] = task
        (self.waiting if uses_slot(task) else self.waiting_without_slot).append(attempt.hash)

    def _decline(self, task: Task, hash: EventHash, why: str, now: Now, out: Outbox) -> None:
        self._book.write(TaskDeclined(task.id, hash, why), now, out)

    def task_of(self, attempt: EventHash) -> Task | None:
        """The task of an attempt that runs here."""
        run = self.running.get(attempt)
        return run.task if run is not None else None

    @property
    def slots_taken(self) -> int:
        """How many of the running attempts take a slot."""
        return sum(run.takes_slot for run in self.running.values())

    def start(self, now: Now, out: Outbox) -> None:
        """Starts what waits, as far as there are slots, never before its placement is durable."""
        while self.waiting_without_slot and not self.stopping:
            self._begin(self.waiting_without_slot.popleft(), now, out)
        early: list[EventHash] = []
        while self.waiting and self.slots_taken < self.slots and not self.stopping:
            hash = self.waiting.popleft()
            if not self._begin(hash, now, out):
                early.append(hash)
        self.waiting.extendleft(reversed(early))

    def _begin(self, hash: EventHash, now: Now, out: Outbox) -> bool:
        """Starts an attempt, where there still is one; False where it must wait."""
        task = self._accepted.get(hash)
        attempt = task.attempt(hash) if task is not None else None
        if task is None or task.spec is None or attempt is None or attempt.end is not None:
            self._accepted.pop(hash, None)
            return True
        if task.session is not None and not self._cells.lead_to(attempt):
            return False
        del self._accepted[hash]
        run = self.running[hash] = _Run(task, now.mono_s, now.wall_ms)
        spec = task.spec
        if any(took_device(earlier) for earlier in task.attempts):
            # It may be what ended its devices, however soon: the ledger must know before.
            self._announce(hash, run, now, out)
        # The placement, and the submission that the payload rides beside: either may come last.
        durable = self._book.is_committed(
            attempt.leader, TASK, attempt.placed_seq
        ) and self._book.is_committed(task.submitter, TASK, task.submitted_seq)
        (out.at_once if durable and not run.announced else out.then).append(
            Start(
                task.id,
                hash,
                attempt.number,
                spec.kind,
                spec.requires,
                spec.timeout_s,
                task.submitter,
                task.submitted_seq,
                spec.session,
                attempt.cell,
                attempt.after_task,
                attempt.after,
            )
        )
        return True

    def ended(self, ended: AttemptEnded, now: Now, out: Outbox) -> None:
        """An executor has ended: tells what it brought."""
        if not self._book.may_write:
            self._unwritten.append(ended)
            return
        run = self.running.pop(ended.attempt, None)
        if run is None:
            return
        if run.stopping == "stopping":
            self._decline(run.task, ended.attempt, "stopping", now, out)
            return
        if ended.rebuilt is not None:
            told = SessionRebuilt(run.task.id, ended.attempt, *structs.astuple(ended.rebuilt))
            self._book.write(told, now, out)
        attachment = None if ended.is_blob else ended.result
        size = ended.result_size_bytes or len(ended.result)
        if ended.ok:
            body = TaskCompleted(
                run.task.id,
                ended.attempt,
                ended.result_hash,
                size,
                ended.started_ms,
                ended.run_us,
                ended.is_blob,
                ended.files,
            )
        else:
            body = TaskFailed(
                run.task.id,
                ended.attempt,
                ended.result_hash,
                size,
                ended.started_ms,
                ended.run_us,
                "cancelled" if run.stopping else ended.code,
                ended.is_blob,
            )
        self._book.write(body, now, out, attachment)

    @property
    def is_waiting(self) -> bool:
        """Whether anything is to be told as time passes."""
        if self._unwritten:
            return True
        # Every tick asks, and nearly always there is none.
        return bool(self.running) and not all(run.announced for run in self.running.values())

    def tick(self, now: Now, out: Outbox) -> None:
        """Tells of runs that last."""
        if not self._book.may_write:
            return
        unwritten, self._unwritten = self._unwritten, []
        for ended in unwritten:
            self.ended(ended, now, out)
        for hash, run in self.running.items():
            if run.announced or now.mono_s - run.started_s < self._timers.started_after_s:
                continue
            self._announce(hash, run, now, out)

    def _announce(self, hash: EventHash, run: _Run, now: Now, out: Outbox) -> None:
        run.announced = True
        self._book.write(TaskStarted(run.task.id, hash, run.started_ms), now, out)

    def stop(self, now: Now, out: Outbox) -> None:
        """Gives back what has not begun; what runs may finish."""
        self.stopping = True
        for hash in (*self.waiting, *self.waiting_without_slot):
            task = self._accepted.pop(hash, None)
            if task is not None and self._book.may_write:
                self._decline(task, hash, "stopping", now, out)
        self.waiting.clear()
        self.waiting_without_slot.clear()
        # What only waits for others waits as well elsewhere.
        self._stop_runs([hash for hash, run in self.running.items() if not run.takes_slot], out)

    def stop_running(self, out: Outbox) -> None:
        """The time to finish is over."""
        self._stop_runs(self.running, out)

    def _stop_runs(self, attempts: Iterable[EventHash], out: Outbox) -> None:
        for hash in attempts:
            run = self.running[hash]
            if not run.stopping:
                run.stopping = "stopping"
                out.at_once.append(StopAttempt(hash, "stopping"))
