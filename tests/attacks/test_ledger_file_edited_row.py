"""Somebody edits the ledger with a database tool: audit names the row, and only that row."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import trio

from kowalski_ledger.audit import audit
from kowalski_ledger.replay import replay
from kowalski_ledger.store import open_store
from kowalski_protocol.errors import Problem
from kowalski_protocol.feeds import Event, event_hash, genesis
from tests.ports.ledgers import Story, make_ledger, refusal, tampering

ROW = 90


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


async def load(path: Path) -> int:
    async with open_store(path) as store:
        return sum([len(events) async for events in store.load()])


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        ("body = CAST(body || x'00' AS BLOB)", "it does not match its hash"),
        ("body = x''", "it does not match its hash"),
        ("kind = 'TaskSettled2'", "it does not match its hash"),
        ("kind = ''", "its kind is no name"),
        ("kind = 'caf' || char(233)", "its kind is no name"),
        ("kind = replace(hex(zeroblob(200)), '0', 'x')", "its kind is no name"),
        ("hlc = hlc + 1", "it does not match its hash"),
        ("hlc = 1", "it does not match its hash"),
        ("hlc = -1", "it does not match its hash"),
        ("hash = randomblob(32)", "it does not match its hash"),
        ("hash = x'00'", "its hash has not the size of one"),
    ],
)
def test_an_edited_event_is_one_problem(path: Path, edit: str, what: str) -> None:
    victim = make_ledger(path, Story())[ROW - 1]
    with tampering(path) as file:
        file.execute(f"UPDATE events SET {edit} WHERE position = {ROW}")
    report = audit(path)
    assert not report.ok
    told = [(p.topic, p.seq, p.what) for p in report.problems if "signature" not in p.what]
    assert told == [(victim.topic, victim.seq, what)]
    for read in (lambda: replay(path), lambda: trio.run(load, path)):
        with pytest.raises(Problem) as caught:
            read()
        assert caught.value.code == "ledger_corrupt"


def chain(events: list[Event], victim: Event, body: bytes, prev: bytes) -> dict[int, bytes]:
    """The hashes that the rest of the victim's feed would have if its body were this."""
    hashes: dict[int, bytes] = {}
    at = prev
    feed = (victim.author, victim.topic)
    rest = [e for e in events if (e.author, e.topic) == feed and e.seq >= victim.seq]
    for event in rest:
        told = body if event is victim else event.body
        at = event_hash(at, event.seq, event.hlc, event.kind, told)  # pyright: ignore[reportArgumentType]
        hashes[event.seq] = at
    return hashes


def test_a_chain_made_anew_over_an_edit_fails_at_the_signatures(path: Path) -> None:
    story = Story()
    events = make_ledger(path, story)
    victim = next(e for e in events if e.seq == 40 and e.author == story.founder.author)
    before = next(e for e in events if e.seq == 39 and e.author == story.founder.author)
    hashes = chain(events, victim, b"\x90", before.hash)
    with tampering(path) as file:
        file.execute("UPDATE events SET body = x'90' WHERE feed = 1 AND seq = ?", (victim.seq,))
        for seq, hash in hashes.items():
            file.execute("UPDATE events SET hash = ? WHERE feed = 1 AND seq = ?", (hash, seq))
    report = audit(path)
    signed = [
        e.seq
        for e in events
        if e.author == victim.author
        and e.topic == victim.topic
        and e.signature is not None
        and e.seq >= victim.seq
    ]
    assert [p.seq for p in report.problems if "signature" in p.what] == signed
    assert {p.what for p in report.problems} == {"its signature is not the author's"}


def test_a_forged_signature_is_one_problem(path: Path) -> None:
    events = make_ledger(path, Story())
    row = next(n for n, event in enumerate(events, 1) if n > ROW and event.signature)
    for edit in ("zeroblob(64)", "x'00'", "randomblob(64)"):
        with tampering(path) as file:
            file.execute(f"UPDATE events SET signature = {edit} WHERE position = {row}")
        [problem] = audit(path).problems
        assert problem.what == "its signature is not the author's"
        assert problem.seq == events[row - 1].seq


def test_a_signature_taken_from_the_end_of_a_feed_is_found_at_start(path: Path) -> None:
    make_ledger(path, Story())
    with tampering(path) as file:
        file.execute(
            "UPDATE events SET signature = NULL WHERE feed = 1"
            " AND seq = (SELECT max(seq) FROM events WHERE feed = 1)"
        )
    [problem] = audit(path).problems
    assert problem.what == "no signature covers it: the end of its frame is missing"
    for read in (lambda: replay(path), lambda: trio.run(load, path)):
        with pytest.raises(Problem) as caught:
            read()
        assert caught.value.code == "ledger_corrupt"


def test_a_feed_given_to_another_author_is_all_wrong(path: Path) -> None:
    story = Story()
    make_ledger(path, story)
    with tampering(path) as file:
        file.execute("UPDATE feeds SET author = ? WHERE id = 1", (bytes(range(32)),))
    report = audit(path)
    assert not report.ok
    assert report.problems[0].what == "it does not match its hash"
    with pytest.raises(Problem):
        replay(path)


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE feeds SET topic = 'telemetry' WHERE id = 2",
        "UPDATE feeds SET author = zeroblob(32) WHERE id = 2",
        "UPDATE feeds SET author = x'00' WHERE id = 2",
        "UPDATE events SET feed = 99 WHERE position = 70",
        "UPDATE events SET seq = -5 WHERE position = 70",
        "UPDATE events SET seq = 9223372036854775807 WHERE position = 70",
        "UPDATE events SET position = -3 WHERE position = 70",
        "INSERT INTO feeds VALUES (77, randomblob(32), 'task')",
        "UPDATE meta SET value = x'00'",
        "DELETE FROM meta",
    ],
)
def test_impossible_rows_are_told_and_never_raise(path: Path, edit: str) -> None:
    make_ledger(path, Story())
    with tampering(path) as file:
        file.execute(edit)
    report = audit(path)
    assert not report.ok
    assert report.problems
    for read in (lambda: replay(path), lambda: trio.run(load, path)):
        problem = refusal(read)
        if problem is None:
            assert "INSERT INTO feeds" in edit, "only a feed without events may pass"
        else:
            assert problem.code == "ledger_corrupt"


def change_tables(file: sqlite3.Connection, tables: list[tuple[str, str]]) -> None:
    file.execute("PRAGMA writable_schema = ON")
    file.executemany("UPDATE sqlite_schema SET sql = ? WHERE name = ?", tables)
    version = file.execute("PRAGMA schema_version").fetchone()[0]
    file.execute(f"PRAGMA schema_version = {version + 1}")


def test_values_of_a_wrong_type_are_told_and_never_raise(path: Path) -> None:
    """STRICT binds those who write through SQLite; a file can be made without it."""
    events = make_ledger(path, Story())
    with tampering(path) as file:
        tables = file.execute("SELECT sql, name FROM sqlite_schema WHERE sql LIKE '%STRICT%'")
        tables = tables.fetchall()
        change_tables(file, [(sql.replace("STRICT", "", 1), name) for sql, name in tables[2:]])
    with tampering(path) as file:
        file.execute("UPDATE events SET hash = 'QUJD' WHERE position = 50")
        file.execute("UPDATE events SET hlc = 'late' WHERE position = 60")
        file.execute("UPDATE events SET kind = x'ff' WHERE position = 70")
        file.execute("UPDATE events SET body = 1.5 WHERE position = 80")
        change_tables(file, tables)
    report = audit(path)
    assert not report.ok
    assert report.events >= len(events) - 4
    with pytest.raises(Problem) as caught:
        replay(path)
    assert caught.value.code == "ledger_corrupt"


def test_the_founders_own_words_can_not_be_moved_to_another_cluster(path: Path) -> None:
    story = Story()
    make_ledger(path, story)
    other = bytes(range(32))
    assert genesis(story.cluster, story.founder.author, "task") != genesis(
        other,  # pyright: ignore[reportArgumentType]
        story.founder.author,
        "task",
    )
    with tampering(path) as file:
        file.execute("UPDATE meta SET value = ? WHERE key = 'cluster'", (other,))
    with pytest.raises(Problem):
        replay(path)
