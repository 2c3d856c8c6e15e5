"""What the fold makes of a second word on the same thing: the first one by its own order counts."""

from __future__ import annotations

import pytest

from kowalski_ledger.fold import fold
from kowalski_ledger.state import State, Task
from kowalski_protocol import events as e
from kowalski_protocol.feeds import Event
from kowalski_protocol.tasks import task_id
from tests.units.histories import SPECS, History, Writer, folded


class Home(History):
    """Three members: a (the founder), b and c."""

    def __init__(self) -> None:
        super().__init__(3)
        self.admit_all()
        self.a, self.b, self.c = self.devices
        self.known = len(self.written)

    def state(self, *order: Event) -> State:
        """The state after the cluster's beginning and these events."""
        return folded(self, [*self.written[: self.known], *order])


@pytest.fixture
def home() -> Home:
    return Home()


def submitted(device: Writer, owner: Writer, *, later: int = 1) -> Event:
    return device.write(e.TaskSubmitted(owner.author, b"kone", SPECS[0]), later=later)


def only(state: State) -> Task:
    (task,) = state.tasks.values()
    return task


def test_of_two_submissions_of_one_task_the_earlier_counts_whichever_came_first(
    home: Home,
) -> None:
    early = submitted(home.b, home.a)
    late = submitted(home.c, home.a, later=1000)
    states = [home.state(early, late), home.state(late, early)]
    for state in states:
        assert only(state).submitted_hash == early.hash
        assert only(state).submitter == home.b.author
        assert {a: n for a, n in state.open_by_submitter.items() if n} == {home.b.author: 1}
    assert states[0].digest() == states[1].digest()


def test_of_two_hand_overs_that_waited_for_one_tenure_the_first_word_counts(home: Home) -> None:
    owner = home.a
    submission = submitted(home.b, owner)
    id = task_id(owner.author, b"kone", SPECS[0])
    first, second = (
        owner.write(e.TaskOwnershipMoved(((id, b""),), to.author)) for to in (home.b, home.c)
    )
    waited = home.state(first, second, submission)
    task = only(waited)
    assert (task.owner, task.tenure) == (home.b.author, first.hash)
    assert [finding.what for finding in waited.findings] == [
        "TaskOwnershipMoved by one who does not own the task, or no longer does"
    ]
    at_once = home.state(submission, first, second)
    assert only(at_once).owner == home.b.author
    assert waited.digest() == at_once.digest()


def test_a_digest_that_was_shown_follows_what_changes_afterwards(home: Home) -> None:
    submission = submitted(home.b, home.a)
    id = task_id(home.a.author, b"kone", SPECS[0])
    cancelled = home.c.write(e.CancelRequested(id))
    looked_at = home.state(submission)
    before = looked_at.digest()
    assert looked_at.digest() == before
    fold(looked_at, cancelled)
    assert looked_at.digest() == home.state(submission, cancelled).digest() != before
