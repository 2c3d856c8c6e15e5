"""A file that is no ledger, or pretends to be one, is refused with a reason and not touched."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from kowalski_ledger.audit import audit
from kowalski_ledger.export import export
from kowalski_ledger.replay import replay
from kowalski_ledger.schema import APPLICATION_ID
from kowalski_ledger.store import open_store
from kowalski_protocol.errors import Problem
from tests.ports.ledgers import Story, make_ledger, tampering


async def touch(path: Path) -> None:
    async with open_store(path):
        pass


def refused_everywhere(path: Path, code: str = "ledger_foreign") -> None:
    before = path.read_bytes()
    readers: list[Callable[[], object]] = [
        lambda: trio.run(touch, path),
        lambda: replay(path),
        lambda: audit(path),
        lambda: export(path, path.with_name("out.jsonl")),
    ]
    for read in readers:
        with pytest.raises(Problem) as caught:
            read()
        assert caught.value.code == code
        assert str(path) in caught.value.sentence
    assert path.read_bytes() == before
    assert not path.with_name("out.jsonl").exists()


@pytest.mark.parametrize(
    "content", [b"hello\n" * 1000, b"\0" * 5000, b"SQLite format 3\0" + b"\xff" * 9000, b"x"]
)
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    refused_everywhere(path)


def test_random_bytes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(random.Random(1).randbytes(100_000))
    refused_everywhere(path)


def test_a_database_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE events (title TEXT)")
        other.commit()
    refused_everywhere(path)


def test_an_empty_database_marked_as_something_else(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA application_id = 7")
        other.execute("PRAGMA user_version = 1")
    refused_everywhere(path)


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"


@pytest.mark.parametrize(
    "trap",
    [
        f"CREATE VIEW events AS {ENDLESS}",
        "CREATE VIRTUAL TABLE events USING fts5(body)",
        "CREATE TABLE events (position INTEGER PRIMARY KEY, body BLOB AS (zeroblob(1e9)))",
        "CREATE TABLE other (x)",
    ],
)
def test_a_database_that_pretends_to_be_a_ledger(tmp_path: Path, trap: str) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        other.execute("PRAGMA user_version = 1")
        try:
            other.execute(trap)
        except sqlite3.OperationalError as error:
            pytest.skip(f"this SQLite can't make the trap: {error}")
        other.commit()
    refused_everywhere(path)


@pytest.mark.parametrize(
    "addition",
    [
        "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM events; END",
        "CREATE TABLE extra (x)",
        "CREATE INDEX extra ON events (zeroblob(seq))",
        "ALTER TABLE events ADD COLUMN extra BLOB AS (zeroblob(100000000))",
    ],
)
def test_a_ledger_with_something_built_in(tmp_path: Path, addition: str) -> None:
    path = tmp_path / "ledger.db"
    make_ledger(path, Story())
    with tampering(path) as file:
        file.execute(addition)
    refused_everywhere(path)


def test_a_persons_own_view_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    events = make_ledger(path, Story())
    with tampering(path) as file:
        file.execute(f"CREATE VIEW mine AS {ENDLESS}")
    trio.run(touch, path)
    assert replay(path).events == len(events)
    assert audit(path).ok


def test_a_folder_in_the_ledgers_place(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.mkdir()
    with pytest.raises(Problem) as caught:
        trio.run(touch, path)
    assert caught.value.code == "home_unusable"
    for read in (replay, audit):
        with pytest.raises(Problem) as caught:
            read(path)
        assert caught.value.code == "ledger_missing"


def test_a_name_full_of_signs_is_only_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory&x=%41#b 'c'" / "ledger.db"
    path.parent.mkdir()
    story = Story()
    events = make_ledger(path, story)
    assert replay(path).events == len(events)
    assert audit(path).ok
