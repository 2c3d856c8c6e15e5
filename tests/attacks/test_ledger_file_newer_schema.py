"""Ledgers of other releases: a newer one is refused, an older one brought up in one transaction."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import trio

from kowalski_ledger.audit import audit
from kowalski_ledger.file import prepare
from kowalski_ledger.replay import replay
from kowalski_ledger.schema import MIGRATIONS, VERSION, user_version
from kowalski_ledger.store import open_store
from kowalski_protocol.errors import Problem
from tests.ports.ledgers import Story, make_ledger, tampering

NEXT = (*MIGRATIONS, ("ALTER TABLE feeds ADD COLUMN note TEXT", "CREATE TABLE forks (x) STRICT"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    make_ledger(path, Story())
    return path


async def touch(path: Path) -> None:
    async with open_store(path):
        pass


def test_a_newer_ledger_is_refused_and_left_as_it_is(path: Path) -> None:
    with tampering(path) as file:
        file.execute(f"PRAGMA user_version = {VERSION + 1}")
        file.execute("CREATE TABLE something_new (x)")
    before = path.read_bytes()
    for read in (lambda: trio.run(touch, path), lambda: replay(path), lambda: audit(path)):
        with pytest.raises(Problem) as caught:
            read()
        assert caught.value.code == "ledger_newer"
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", [0, -1])
def test_a_ledger_of_an_impossible_version_is_refused(path: Path, version: int) -> None:
    with tampering(path) as file:
        file.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(Problem) as caught:
        replay(path)
    assert caught.value.code == "ledger_foreign"


def test_an_older_ledger_is_brought_up_and_keeps_its_events(path: Path) -> None:
    count = replay(path).events
    steps = (*MIGRATIONS, ("CREATE TABLE forks (author BLOB NOT NULL) STRICT",))
    prepare(path, steps)
    prepare(path, steps)
    with tampering(path) as file:
        assert user_version(file) == len(steps)
        assert file.execute("SELECT count(*) FROM events").fetchone()[0] == count
        assert file.execute("SELECT count(*) FROM forks").fetchone()[0] == 0


def test_a_step_that_fails_leaves_the_older_ledger_whole(path: Path) -> None:
    steps = (
        *MIGRATIONS,
        ("CREATE TABLE forks (author BLOB NOT NULL) STRICT",),
        ("CREATE TABLE events (a, b)",),
    )
    with pytest.raises(sqlite3.OperationalError):
        prepare(path, steps)
    with tampering(path) as file:
        assert user_version(file) == VERSION
    assert audit(path).ok
    trio.run(touch, path)


def test_a_new_file_goes_through_all_steps(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    prepare(path)
    with tampering(path) as file:
        assert user_version(file) == VERSION
        assert file.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert path.stat().st_mode & 0o777 == 0o600
