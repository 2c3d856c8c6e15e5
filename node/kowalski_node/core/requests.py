"""What people and programs ask of a node: taken, kept while the node starts, or refused."""

from __future__ import annotations

from typing import Final

from kowalski_protocol.errors import Problem
from kowalski_protocol.events import CancelRequested, InviteUsed, MemberAdmitted, WeightsChanged
from kowalski_protocol.limits import Limits

from .book import Book
from .effects import Answer, Outbox
from .inputs import Admit, Cancel, Now, SetWeights, Submit
from .submissions import Submissions

Request = Submit | Cancel | Admit | SetWeights

WAITING_MAX: Final = 1000
"""Requests that wait while the node starts."""
STOPPING: Final = Problem("stopping", "This node is stopping and takes nothing new.")
DISK_FULL: Final = Problem("disk_full", "The ledger's disk is full, so nothing new is accepted.")
STARTING: Final = Problem("not_ready", "The node is starting.")


def _refuse(request: Request, problem: Problem, out: Outbox) -> None:
    if not isinstance(request, Cancel):
        out.at_once.append(Answer(request.ticket, problem=problem))


class Requests:
    """The requests of one node."""

    def __init__(self, book: Book, submissions: Submissions, limits: Limits) -> None:
        self._book = book
        self._submissions = submissions
        self._limits = limits
        self._waiting: list[Request] = []
        self.is_open = False
        """Whether the node has started."""
        self.refusal: Problem | None = None
        """What everybody is told who asks for anything new, while that is so."""

    def open(self, now: Now, out: Outbox) -> None:
        """The node has started: does what was asked meanwhile."""
        self.is_open = True
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self.take(request, now, out)

    def refuse_waiting(self, problem: Problem, out: Outbox) -> None:
        """What waits for the start is answered: it can't be done."""
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            _refuse(request, problem, out)

    def take(self, request: Request, now: Now, out: Outbox) -> None:
        """Does what is asked, or says why not."""
        refusal = None if isinstance(request, Cancel) else self.refusal
        if refusal is None and not self.is_open:
            if len(self._waiting) < WAITING_MAX:
                self._waiting.append(request)
                return
            refusal = STARTING
        if refusal is not None:
            _refuse(request, refusal, out)
            return
        match request:
            case Submit():
                self._submissions.submit(request, now, out)
            case Cancel():
                self._cancel(request, now, out)
            case Admit():
                self._admit(request, now, out)
            case _:
                self._set_weights(request, now, out)

    def _cancel(self, cancel: Cancel, now: Now, out: Outbox) -> None:
        task = self._book.state.tasks.get(cancel.task)
        if (
            task is not None
            and task.settled is None
            and task.cancel is None
            and self._book.may_write
        ):
            self._book.write(CancelRequested(cancel.task), now, out)

    def _may_govern(self, request: Admit | SetWeights, what: str, out: Outbox) -> bool:
        me = self._book.state.members.get(self._book.author)
        if me is not None and me.role == "admin":
            return True
        _refuse(request, Problem("not_allowed", f"Only an admin's device can {what}."), out)
        return False

    def _admit(self, admit: Admit, now: Now, out: Outbox) -> None:
        if not self._may_govern(admit, "let others in", out):
            return
        state = self._book.state
        if admit.invite in state.invites_used:
            _refuse(admit, Problem("invite_used", "This invite was used before."), out)
        elif len(state.members) >= self._limits.members_max:
            sentence = "The cluster has as many members as it may."
            _refuse(admit, Problem("not_allowed", sentence), out)
        else:
            self._book.write(InviteUsed(admit.invite, admit.member), now, out)
            self._book.write(MemberAdmitted(admit.member, admit.name, admit.role), now, out)
            out.then.append(Answer(admit.ticket, True))

    def _set_weights(self, change: SetWeights, now: Now, out: Outbox) -> None:
        if self._may_govern(change, "change the weights", out):
            self._book.write(WeightsChanged(change.kind, dict(change.weights)), now, out)
            out.then.append(Answer(change.ticket, True))
