"""What the demo reads out of the ledger's events, on events that are given."""

from __future__ import annotations

from typing import Any

from kowalski_gateway.demo.evidence import Evidence, Fate, judge
from kowalski_gateway.demo.watch import Watch
from kowalski_node.views import EventView
from kowalski_protocol.identity import author_of, peer_id
from kowalski_protocol.ids import Author

DESK, LAP, MINI = (peer_id(Author(bytes([n] * 32))) for n in (1, 2, 3))


def key(peer: str) -> str:
    author = author_of(peer)
    assert author is not None
    return author.hex()


class Ledger:
    """Hands a watch one event after the other."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.position = 0

    def add(self, kind: str, at_s: float, author: str = DESK, **body: Any) -> str:
        self.position += 1
        name = f"hash-{self.position}"
        self.watch.add(
            EventView(self.position, author, "task", 1, name, at_s, kind, True, dict(body))
        )
        return name

    def place(self, task: str, device: str, at_s: float) -> str:
        return self.add("TaskPlaced", at_s, task=task, device=key(device))

    def settle(self, task: str, attempt: str, at_s: float, outcome: str = "completed") -> None:
        self.add("TaskSettled", at_s, LAP, task=task, attempt=attempt, outcome=outcome)


def test_tasks_count_where_their_settled_attempt_ran() -> None:
    ledger = Ledger()
    ledger.watch.expect(["a", "b"])
    first = ledger.place("a", DESK, 1.0)
    second = ledger.place("b", LAP, 1.0)
    other = ledger.place("not ours", MINI, 1.0)
    ledger.add("TaskCompleted", 2.0, attempt=first)
    ledger.settle("a", first, 2.1)
    ledger.settle("b", second, 2.2)
    ledger.settle("not ours", other, 2.2)
    assert ledger.watch.settled == 2
    assert ledger.watch.ran() == {DESK: 1, LAP: 1}
    assert ledger.watch.open_on(DESK) == 0
    assert ledger.watch.open_on(LAP) == 1


def test_a_second_settlement_is_seen_and_the_first_counts() -> None:
    ledger = Ledger()
    ledger.watch.expect(["a"])
    first, second = ledger.place("a", DESK, 1.0), ledger.place("a", LAP, 1.5)
    ledger.settle("a", second, 2.0)
    ledger.settle("a", first, 3.0, "failed")
    assert ledger.watch.settlements["a"] == 2
    assert ledger.watch.outcomes["a"] == "completed"
    assert ledger.watch.ran() == {LAP: 1}


def test_a_failover_ends_with_a_leader_and_new_places_for_what_was_lost() -> None:
    ledger = Ledger()
    lost = [ledger.place(task, DESK, 9.0) for task in ("a", "b")]
    done = ledger.place("c", DESK, 9.0)
    ledger.add("TaskCompleted", 9.5, attempt=done)
    failover = ledger.watch.killed(DESK, 10.0, led=True)
    assert not failover.is_over
    ledger.add("LeaderClaimed", 10.25, LAP, epoch=2)
    assert (failover.heir, failover.leader_s) == (LAP, 0.25)
    for attempt in lost:
        ledger.add("AttemptLost", 10.3, LAP, attempt=attempt)
    assert not failover.is_over
    ledger.place("a", LAP, 10.3)
    ledger.place("b", MINI, 10.5)
    assert failover.is_over
    assert failover.moved == 2
    assert failover.moved_s == 0.5


def test_the_loss_of_one_that_did_not_lead_needs_no_new_leader() -> None:
    ledger = Ledger()
    attempt = ledger.place("a", MINI, 1.0)
    failover = ledger.watch.killed(MINI, 2.0, led=False)
    assert failover.is_over
    ledger.add("AttemptLost", 2.2, attempt=attempt)
    ledger.add("AttemptLost", 2.3, attempt=attempt)
    assert not failover.is_over
    ledger.place("a", LAP, 2.4)
    ledger.add("LeaderClaimed", 3.0, LAP, epoch=2)
    assert failover.is_over
    assert (failover.heir, failover.moved) == (None, 1)


def evidence(ledger: Ledger, **changes: Any) -> Evidence:
    parts: dict[str, Any] = {
        "watch": ledger.watch,
        "fates": {DESK: Fate("desk")},
        "submitter": "desk",
        "results": {"a.py": {"lines": 3}},
        "expected": {"a.py": {"lines": 3}},
        "digests": {"desk": "1:ab", "lap": "1:ab"},
        "ledgers": {},
        "too_large": 0,
        "work_s": 1.0,
    }
    return Evidence(**(parts | changes))


def broken(given: Evidence) -> dict[str, str]:
    return {one.sentence: one.detail for one in judge(given) if not one.kept}


def test_kept_promises_are_found_kept_and_each_broken_one_is_named() -> None:
    ledger = Ledger()
    ledger.watch.expect(["task-a"])
    attempt = ledger.place("task-a", DESK, 1.0)
    assert broken(evidence(ledger)) == {
        "every task settled exactly once, as completed": "task-a settled 0 times, as None"
    }
    ledger.settle("task-a", attempt, 2.0)
    assert broken(evidence(ledger)) == {}
    assert broken(evidence(ledger, results={"a.py": {"lines": 4}})) == {
        "the results equal those of a plain local run": "a.py differs"
    }
    assert broken(evidence(ledger, digests={"desk": "1:ab", "lap": "1:cd"})) == {
        "all nodes show one digest": "desk shows 1:ab; lap shows 1:cd"
    }
    ledger.settle("task-a", attempt, 3.0)
    assert broken(evidence(ledger)) == {
        "every task settled exactly once, as completed": "task-a settled 2 times, as completed"
    }
