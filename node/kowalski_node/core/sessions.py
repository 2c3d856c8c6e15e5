"""In which order the cells of a session run, and what each of them comes after.

Each placement of a cell names the attempt that ran the cell before it, so the cells that made an
interpreter what it is are a chain in the ledger. A device whose interpreter stands at that attempt
runs the cell at once; any other walks the chain back and runs the recorded cells again.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

from kowalski_ledger.state import Attempt, Session, State, Task, Tip
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.topics import TASK

from .book import Book

NEWEST_MAX = 1000
"""Of how many sessions a device remembers that it has all cells."""


def next_cell(session: Session, present: Set[Author]) -> Task | None:
    """The cell whose turn it is, running or not; None where none is left."""
    waiting = [task for task in session.open.values() if not _is_over(task, present)]
    return min(waiting, key=_submission, default=None)


def _submission(task: Task) -> tuple[int, bytes]:
    return task.submitted_hlc, task.id


def _is_over(task: Task, present: Set[Author]) -> bool:
    failures = 0
    has_value = False
    for attempt in task.attempts:
        if attempt.is_open and attempt.device in present:
            return False
        if attempt.end is not None:
            failures += attempt.end.kind == "failed"
            has_value = has_value or attempt.end.kind == "completed"
    assert task.spec is not None, "only what is settled has none"
    return has_value or task.cancel is not None or failures >= task.spec.max_attempts


def is_stopping(task: Task, present: Set[Author]) -> bool:
    """Whether a device that is there may still be ending a cell that has settled."""
    return task.settled is not None and any(
        attempt.is_open and attempt.device in present for attempt in task.attempts
    )


def cell_after(task: Task, tip: Tip | None) -> tuple[int, bytes, bytes]:
    """Number, task before and attempt before of the cell that comes now, for its `TaskPlaced`."""
    if task.session is None:
        return 0, b"", b""
    return (tip.cell + 1, tip.task, tip.attempt) if tip is not None else (1, b"", b"")


class Placed(Protocol):
    """What tells the place of a cell: an attempt, or the order to start one."""

    @property
    def cell(self) -> int: ...
    @property
    def after_task(self) -> bytes: ...
    @property
    def after(self) -> bytes: ...


def before(state: State, attempt: Placed) -> tuple[Task, Attempt] | None:
    """The cell that ran before an attempt's; None where it is not known here, or nonsense."""
    task = state.tasks.get(TaskId(attempt.after_task))
    earlier = task.attempt(EventHash(attempt.after)) if task is not None else None
    if task is None or task.submitted_hash is None or earlier is None or earlier.end is None:
        return None
    # A chain only leads back, whatever somebody wrote.
    return (task, earlier) if earlier.cell < attempt.cell else None


def history(state: State, attempt: Placed) -> list[tuple[Task, Attempt]] | None:
    """The cells before an attempt's, the oldest first; None where one of them is not known here."""
    found: list[tuple[Task, Attempt]] = []
    at = attempt
    while at.after:
        cell = before(state, at)
        if cell is None:
            return None
        found.append(cell)
        at = cell[1]
    found.reverse()
    return found


class KnownCells:
    """Of which attempts all cells before are in this device's ledger, so that they can run again.

    The newest attempt of a session is remembered, so that only what is new is looked at.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._newest: dict[EventHash, None] = {}

    def lead_to(self, attempt: Attempt) -> bool:
        """Whether all cells before an attempt's are here, durably."""
        at = attempt
        while at.after and at.hash not in self._newest:
            cell = before(self._book.state, at)
            if cell is None or not self._book.is_committed(
                cell[0].submitter, TASK, cell[0].submitted_seq
            ):
                return False
            at = cell[1]
        self._newest.pop(EventHash(attempt.after), None)
        self._newest[attempt.hash] = None
        if len(self._newest) > NEWEST_MAX:
            del self._newest[next(iter(self._newest))]
        return True
