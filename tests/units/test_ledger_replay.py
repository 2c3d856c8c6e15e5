"""Replay gives, from the file alone, what a node that holds the same events shows."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from kowalski_ledger.fold import fold
from kowalski_ledger.replay import replay
from kowalski_ledger.state import State
from kowalski_ledger.store import open_store
from kowalski_protocol.errors import Problem
from kowalski_protocol.feeds import Event
from kowalski_protocol.identity import peer_id
from tests.ports.ledgers import Story, make_ledger, tampering

ROOT = Path(__file__).resolve().parents[2]


def digest_of(story: Story, events: list[Event]) -> str:
    state = State(story.cluster)
    for event in events:
        fold(state, event)
    return state.digest()


def test_replay_shows_the_digest_of_a_fold_of_the_same_events(tmp_path: Path) -> None:
    story = Story()
    events = make_ledger(tmp_path / "ledger.db", story)
    report = replay(tmp_path / "ledger.db")
    assert report.digest == digest_of(story, events)
    assert report.events == len(events)
    assert report.frames == sum(event.signature is not None for event in events)
    assert report.tasks == {"submitted": 60, "open": 0, "settled": 60, "completed": 60}
    assert report.events_per_s == pytest.approx(report.events / report.seconds)


def test_heads_are_told_as_people_see_them(tmp_path: Path) -> None:
    story = Story()
    events = make_ledger(tmp_path / "ledger.db", story)
    last = {(peer_id(e.author), e.topic): (e.seq, e.hash.hex()) for e in events}
    heads = replay(tmp_path / "ledger.db").heads
    assert {(h.author, h.topic): (h.seq, h.hash) for h in heads} == last
    assert len(heads) == 4


def test_the_order_of_arrival_changes_nothing_but_the_time(tmp_path: Path) -> None:
    story = Story()
    frames = list(story.frames(40, frame_tasks=5))
    feeds: dict[tuple[bytes, str], list[list[Event]]] = {}
    for frame in frames:
        feeds.setdefault((frame[0].author, frame[0].topic), []).append(frame)
    draw = random.Random(3)
    mixed: list[list[Event]] = []
    while any(feeds.values()):
        mixed.append(draw.choice([run for run in feeds.values() if run]).pop(0))
    make_ledger(tmp_path / "one.db", story, frames)
    make_ledger(tmp_path / "two.db", story, mixed)
    one, two = replay(tmp_path / "one.db"), replay(tmp_path / "two.db")
    assert one.digest == two.digest
    assert one.heads == two.heads


def test_until_folds_what_is_not_later(tmp_path: Path) -> None:
    story = Story()
    events = make_ledger(tmp_path / "ledger.db", story)
    times = sorted(event.hlc for event in events)
    until = times[len(times) // 2]
    early = [event for event in events if event.hlc <= until]
    report = replay(tmp_path / "ledger.db", until_hlc=until)
    assert 0 < report.events == len(early) < len(events)
    assert report.digest == digest_of(story, early)
    assert {h.seq for h in report.heads} == {
        max(e.seq for e in early if (peer_id(e.author), e.topic) == (h.author, h.topic))
        for h in report.heads
    }
    assert replay(tmp_path / "ledger.db", until_hlc=0).events == 0
    assert replay(tmp_path / "ledger.db", until_hlc=(1 << 64) - 1).events == len(events)


def test_the_report_has_exactly_the_fields_of_the_contract(tmp_path: Path) -> None:
    make_ledger(tmp_path / "ledger.db", Story())
    report = json.loads(msgspec.json.encode(replay(tmp_path / "ledger.db")))
    assert set(report) == {
        "events",
        "frames",
        "digest",
        "heads",
        "tasks",
        "seconds",
        "events_per_s",
    }
    assert set(report["heads"][0]) == {"author", "topic", "seq", "hash"}


async def test_a_file_is_read_while_its_node_goes_on_writing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    story = Story()
    async with open_store(path) as store:
        await store.found(story.cluster, story.opening)
        counts = [replay(path).events]
        for frame in story.tasks(30, frame_tasks=3):
            await store.append(frame)
            counts.append(replay(path).events)
            assert counts[-1] == store.position
        assert counts == sorted(set(counts))


def test_a_new_ledger_replays_to_nothing(tmp_path: Path) -> None:
    make_ledger(tmp_path / "founded.db", Story(), [])
    report = replay(tmp_path / "founded.db")
    assert (report.events, report.frames, report.heads) == (0, 0, [])
    assert report.tasks == {"submitted": 0, "open": 0, "settled": 0}


def test_events_that_nobody_understands_are_carried_and_not_counted(tmp_path: Path) -> None:
    story = Story()
    frames = [story.opening, story.devices[2].noise(7), *story.tasks(6)]
    make_ledger(tmp_path / "ledger.db", story, frames)
    report = replay(tmp_path / "ledger.db")
    known = [frame for frame in frames if frame[0].kind != "SomethingElse"]
    assert report.events == sum(map(len, frames))
    assert report.digest == digest_of(story, [event for frame in known for event in frame])
    assert report.tasks["settled"] == 6


def test_progress_goes_up_to_the_whole(tmp_path: Path) -> None:
    story = Story()
    events = make_ledger(tmp_path / "ledger.db", story, story.frames(400))
    seen: list[tuple[int, int]] = []
    replay(tmp_path / "ledger.db", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert len(seen) > 1
    assert seen[-1] == (len(events), len(events))


def test_a_missing_file_is_said_to_be_missing_and_not_made(tmp_path: Path) -> None:
    for path in (tmp_path / "none.db", tmp_path):
        with pytest.raises(Problem) as caught:
            replay(path)
        assert caught.value.code == "ledger_missing"
    assert list(tmp_path.iterdir()) == []


def test_replay_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make_ledger(path, Story())
    before = path.read_bytes(), path.stat().st_mtime_ns
    replay(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    # SQLite's reader may make the companions of a log, and leaves that log empty.
    assert sum(entry.stat().st_size for entry in tmp_path.glob("*-wal")) == 0


def test_a_chain_that_does_not_verify_is_not_replayed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make_ledger(path, Story())
    with tampering(path) as file:
        file.execute("UPDATE events SET hlc = hlc + 1 WHERE position = 30")
    with pytest.raises(Problem) as caught:
        replay(path)
    assert caught.value.code == "ledger_corrupt"
    assert caught.value.mend == f"kowalski audit --ledger {path}"


def test_replay_starts_without_node_loop_or_network() -> None:
    program = (
        "import sys, kowalski_ledger.replay, kowalski_ledger.audit, kowalski_ledger.export\n"
        "print([m for m in ('trio', 'aiosqlite', 'trio_asyncio', 'libp2p', 'asyncio')"
        " if m in sys.modules])"
    )
    path = ":".join(str(ROOT / folder) for folder in ("protocol", "ledger"))
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert run.stdout.strip() == "[]"
