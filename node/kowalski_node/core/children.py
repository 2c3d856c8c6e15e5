"""The children of an attempt: the steps that a graph, or any durable executor, has others run.

A child is a task like any other, owned by the device that runs the attempt; its spec names the task
of which it is a step. When that device is lost, a later attempt elsewhere issues its steps again,
and a step whose memo key is known already is not run again: the child that completed is taken, or
the one that is under way is waited for. When the parent's task ends, what is open of it is
abandoned.
"""

from __future__ import annotations

from kowalski_ledger.state import Attempt, State, Task
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import StepTaken, TaskSubmitted
from kowalski_protocol.ids import EventHash, TaskId
from kowalski_protocol.limits import Limits
from kowalski_protocol.tasks import as_child, child_key, task_id

from .attempts import verdict
from .book import Book
from .effects import Outbox, StepEnded, StepRefused
from .inputs import IssueStep, Now
from .requests import DISK_FULL
from .submissions import Submissions


def _issuer(state: State, task: Task) -> Attempt | None:
    """The attempt that issued a child; None where the child was not submitted by its device: else
    any member could slip a result into another one's graph.
    """
    assert task.child is not None
    parent = state.tasks.get(task.child.parent)
    attempt = parent.attempt(task.child.attempt) if parent is not None else None
    return attempt if attempt is not None and attempt.device == task.submitter else None


class Children:
    """The steps that attempts on this device have issued."""

    def __init__(self, book: Book, submissions: Submissions, limits: Limits) -> None:
        self._book = book
        self._submissions = submissions
        self._limits = limits
        self._awaited: dict[TaskId, dict[tuple[EventHash, str], bool]] = {}
        """Child -> the steps that wait for it, and whether they took it over."""

    def issue(self, step: IssueStep, parent: Task | None, now: Now, out: Outbox) -> None:
        """Has a step of a task that runs here run, or finds the child that has run it."""
        if parent is None:
            return  # The attempt has ended meanwhile.
        if not self._book.may_write:
            out.at_once.append(StepRefused(step.attempt, step.name, DISK_FULL))
            return
        lineage = parent.child.memo if parent.child is not None else parent.id
        child = as_child(step.submission, parent.id, lineage, step.name)
        task = self._known(child.spec.memo)
        taken = task is not None and task.child is not None and task.child.attempt != step.attempt
        if task is None:
            try:
                self._submissions.check(child.spec)
            except Problem as problem:
                out.at_once.append(StepRefused(step.attempt, step.name, problem))
                return
            key = child_key(step.attempt, child.spec.memo)
            body = TaskSubmitted(self._book.author, key, child.spec_bytes)
            self._book.write(body, now, out, child.payload)
            task = self._book.state.tasks[task_id(self._book.author, key, child.spec_bytes)]
        elif taken:
            self._book.write(StepTaken(parent.id, step.attempt, step.name, task.id), now, out)
        self._awaited.setdefault(task.id, {})[step.attempt, step.name] = taken
        self.consider(task, out)

    def _known(self, memo: bytes) -> Task | None:
        """The child that stands for a step already: one that has completed, else one that failed
        and is part of the same run, else one that may still come to something.
        """
        state = self._book.state
        failed: Task | None = None
        open_: Task | None = None
        known = state.memos.get(memo, {})
        for task in sorted(known.values(), key=lambda task: (task.submitted_hlc, task.id)):
            issuer = _issuer(state, task)
            if issuer is None:
                continue
            outcome = self._outcome(task)
            if outcome == "completed":
                return task
            if outcome is None:
                open_ = open_ or task
            elif issuer.end is None or issuer.end.kind == "declined":
                # The attempt was cut off, and the next one goes on where it was. One that had ended
                # as failed is tried again, and with it what made it fail.
                failed = failed or task
        return failed or open_

    def _outcome(self, task: Task) -> str | None:
        """How a child has ended, by its owner's word or by that of its devices, since the owner may
        be gone; None while it may still come to something.
        """
        found = verdict(task, self._limits)
        if found is not None and found.outcome == "completed":
            return found.outcome
        if task.settled is not None:
            return task.settled.outcome
        return found.outcome if found is not None else None

    def consider(self, task: Task, out: Outbox) -> None:
        """Tells those who wait for a child that it has ended."""
        if task.id not in self._awaited:
            return
        outcome = self._outcome(task)
        if outcome is None:
            return
        for (attempt, name), taken in self._awaited.pop(task.id).items():
            out.then.append(StepEnded(attempt, name, task.id, outcome, taken))

    def forget(self, attempt: EventHash) -> None:
        """The attempt has ended: nobody waits for its steps."""
        for steps in self._awaited.values():
            for key in [key for key in steps if key[0] == attempt]:
                del steps[key]
        self._awaited = {task: steps for task, steps in self._awaited.items() if steps}
