"""Somebody deletes rows of the ledger: audit names the gap, and what is left is still checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from kowalski_ledger.audit import audit
from kowalski_ledger.replay import replay
from kowalski_ledger.store import open_store
from kowalski_protocol.errors import Problem
from tests.ports.ledgers import Story, make_ledger, tampering


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


async def load(path: Path) -> int:
    async with open_store(path) as store:
        return sum([len(events) async for events in store.load()])


def refuse(path: Path) -> None:
    for read in (lambda: replay(path), lambda: trio.run(load, path)):
        with pytest.raises(Problem) as caught:
            read()
        assert caught.value.code == "ledger_corrupt"


def test_one_deleted_event_is_one_problem(path: Path) -> None:
    events = make_ledger(path, Story())
    victim = events[100]
    assert victim.signature is None
    with tampering(path) as file:
        file.execute("DELETE FROM events WHERE position = 101")
    report = audit(path)
    assert [(p.topic, p.seq, p.what) for p in report.problems] == [
        (victim.topic, victim.seq, f"event {victim.seq} is missing")
    ]
    assert report.events == len(events) - 1
    refuse(path)


def test_many_deleted_events_are_one_problem_per_feed(path: Path) -> None:
    story = Story()
    make_ledger(path, story)
    with tampering(path) as file:
        file.execute("DELETE FROM events WHERE feed = 1 AND seq BETWEEN 20 AND 40")
        file.execute("DELETE FROM events WHERE feed = 2 AND seq BETWEEN 3 AND 4")
    told = {(p.topic, p.seq): p.what for p in audit(path).problems}
    assert told[("task", 20)] == "20 to 40 are missing"
    assert told[("result", 3)] == "3 to 4 are missing"
    assert len(told) == 2
    refuse(path)


def test_a_deleted_tail_is_found_by_the_signature_that_is_missing(path: Path) -> None:
    make_ledger(path, Story())
    with tampering(path) as file:
        file.execute(
            "DELETE FROM events WHERE feed = 1"
            " AND seq = (SELECT max(seq) FROM events WHERE feed = 1)"
        )
    [problem] = audit(path).problems
    assert problem.what == "no signature covers it: the end of its frame is missing"
    refuse(path)


def test_a_deleted_beginning_is_found(path: Path) -> None:
    make_ledger(path, Story())
    with tampering(path) as file:
        file.execute("DELETE FROM events WHERE feed = 1 AND seq <= 2")
    told = [p.what for p in audit(path).problems]
    assert told[0] == "1 to 2 are missing"
    assert "no event founds the cluster that the file names" in told
    refuse(path)


def test_a_gap_that_claims_to_be_endless_costs_nothing(path: Path) -> None:
    make_ledger(path, Story())
    with tampering(path) as file:
        file.execute(
            "UPDATE events SET seq = 9000000000000000000 WHERE feed = 1"
            " AND seq = (SELECT max(seq) FROM events WHERE feed = 1)"
        )
    report = audit(path)
    assert not report.ok
    assert any("are missing" in p.what for p in report.problems)


def test_a_feed_deleted_with_all_its_events_leaves_a_sound_smaller_ledger(path: Path) -> None:
    """No single file can show this; the members' heads do."""
    story = Story()
    events = make_ledger(path, story)
    with tampering(path) as file:
        file.execute("DELETE FROM events WHERE feed = 4")
        file.execute("DELETE FROM feeds WHERE id = 4")
    report = audit(path)
    assert report.ok
    assert report.events < len(events)


def test_a_whole_last_frame_deleted_leaves_a_sound_smaller_ledger(path: Path) -> None:
    """As a restored backup would: the node asks the members for its own head before it writes."""
    story = Story()
    frames = [story.opening, story.devices[1].noise(3), story.devices[1].noise(2)]
    make_ledger(path, story, frames)
    with tampering(path) as file:
        file.execute("DELETE FROM events WHERE feed = 2 AND seq > 3")
    assert audit(path).ok
    assert trio.run(load, path) == len(story.opening) + 3
