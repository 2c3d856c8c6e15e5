"""The children of an attempt: the steps that a graph, or any durable executor, has others run.

A child is a task like any other, owned by the device that runs the attempt; its spec names the task
of which it is a step. When that device is lost, a later attempt elsewhere issues its steps again,
and a step whose memo key is known already is not run again: the child that completed is taken, or
the one that is under way is waited for. When the parent's task ends, what is open of it is
abandoned.
"""

from __future__ import annotations

from kowalski_ledger.state import State, Task
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


def _is_genuine(state: State, task: Task) -> bool:
    """Whether the device that submitted a child runs the attempt that it names: else any member
    could slip a result into another one's graph.
    """
    assert task.child is not None
    parent = state.tasks.get(task.child.parent)
    attempt = parent.attempt(task.child.attempt) if parent is not None else None
    return attempt is not None and attempt.device == task.submitter


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
        """The child that has brought this step's value, or else one that may still bring it."""
        open_: Task | None = None
        known = self._book.state.memos.get(memo, {})
        for task in sorted(known.values(), key=lambda task: (task.submitted_hlc, task.id)):
            if not _is_genuine(self._book.state, task):
                continue
            found = verdict(task, self._limits)
            if found is not None and found.outcome == "completed":
                return task
            if found is None and task.settled is None and open_ is None:
                open_ = task
        return open_

    def consider(self, task: Task, out: Outbox) -> None:
        """Tells those who wait for a child that it has ended.

        Not its owner's word is waited for but what its devices have said: the owner may be gone.
        """
        if task.id not in self._awaited:
            return
        found = verdict(task, self._limits)
        if found is None and task.settled is None:
            return
        outcome = found.outcome if found is not None else ""
        if task.settled is not None and outcome != "completed":
            outcome = task.settled.outcome
        for (attempt, name), taken in self._awaited.pop(task.id).items():
            out.then.append(StepEnded(attempt, name, task.id, outcome, taken))

    def forget(self, attempt: EventHash) -> None:
        """The attempt has ended: nobody waits for its steps."""
        for steps in self._awaited.values():
            for key in [key for key in steps if key[0] == attempt]:
                del steps[key]
        self._awaited = {task: steps for task, steps in self._awaited.items() if steps}
