"""What only the real store has: a file for people, a log that stays short, threads that end."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio_asyncio

from kowalski_ledger.audit import audit
from kowalski_ledger.port import Sample
from kowalski_ledger.replay import replay
from kowalski_ledger.rows import ROWS_PER_STATEMENT_MAX, filled
from kowalski_ledger.samples import SampleTable
from kowalski_ledger.schema import APPLICATION_ID
from kowalski_ledger.settings import CHECKPOINT_BYTES
from kowalski_ledger.store import open_store
from kowalski_protocol.errors import Problem
from tests.ports.ledgers import Story, make_ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_a_person_can_read_the_file(path: Path) -> None:
    story = Story()
    events = make_ledger(path, story)
    with closing(sqlite3.connect(path)) as file:
        file.row_factory = sqlite3.Row
        row = dict(file.execute("SELECT * FROM events_readable WHERE position = 5").fetchone())
        assert file.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        count = file.execute("SELECT count(*) FROM events").fetchone()[0]
    assert count == len(events)
    assert row == {
        "position": 5,
        "author": story.founder.author.hex(),
        "topic": "task",
        "seq": 5,
        "time": "2025-06-15T15:06:40.000Z",
        "kind": "TaskSubmitted",
        "hash": events[4].hash.hex(),
        "ends_frame": 0,
        "body_size_bytes": len(events[4].body),
        "attachment_size_bytes": len(events[4].attachment or b""),
    }


def test_the_file_is_its_owners_alone(path: Path) -> None:
    make_ledger(path, Story(), [])
    assert path.stat().st_mode & 0o777 == 0o600


async def test_commits_are_durable_and_readers_make_no_checkpoints(path: Path) -> None:
    async with open_store(path) as store:
        writer, reader = store._writer._connection, store._reader
        assert await writer.run("PRAGMA synchronous") == [(2,)]
        assert await writer.run("PRAGMA journal_mode") == [("wal",)]
        assert await reader.run("PRAGMA query_only") == [(1,)]
        assert await reader.run("PRAGMA wal_autocheckpoint") == [(0,)]
        with pytest.raises(Problem):
            await reader.run("INSERT INTO meta VALUES ('a', x'00')")


async def test_the_log_stays_short_however_much_is_written(path: Path) -> None:
    story = Story()
    log = path.with_name("ledger.db-wal")
    longest = 0
    async with open_store(path) as store:
        await store.found(story.cluster)
        for _ in range(120):
            await store.append(story.devices[1].noise(100, size_bytes=2000))
            longest = max(longest, log.stat().st_size)
        assert await store._reader.run("PRAGMA page_count") > [(5000,)]
    assert longest < 4 * CHECKPOINT_BYTES
    assert not log.exists(), "a clean stop leaves one file"


async def test_a_group_of_events_is_one_call_into_the_connection(path: Path) -> None:
    story = Story()
    async with open_store(path) as store:
        await store.found(story.cluster, story.devices[1].noise(1))
        asked: list[str] = []
        run = store._writer._connection.run

        async def counted(statement: str, values: object = ()) -> list[object]:
            asked.append(statement)
            return await run(statement, values)

        store._writer._connection.run = counted  # pyright: ignore[reportAttributeAccessIssue]
        for count in range(1, 60):
            await store.append(story.devices[1].noise(count))
        assert len(asked) == 59
        await store.append(story.devices[1].noise(ROWS_PER_STATEMENT_MAX))
        assert len(asked) == 60
        # Beyond that, and for a new feed, a transaction around a few statements.
        await store.append(story.devices[1].noise(ROWS_PER_STATEMENT_MAX + 1))
        await store.append(story.devices[2].noise(1))
        assert len(asked) == 68


def test_groups_need_few_different_statements_and_few_empty_rows() -> None:
    sizes = {filled(count) for count in range(1, ROWS_PER_STATEMENT_MAX + 1)}
    assert len(sizes) <= 36
    for count in range(1, ROWS_PER_STATEMENT_MAX + 1):
        assert count <= filled(count) <= ROWS_PER_STATEMENT_MAX
        assert filled(count) <= count * 1.25


async def test_telemetry_goes_by_age_and_by_number(path: Path) -> None:
    author = Story().founder.author
    async with open_store(path) as store:
        table = SampleTable(store._writer, store._reader, age_ms_max=1000, rows_max=10**9)
        await table.add([Sample(author, taken_ms, {}) for taken_ms in (1, 500, 1600, 2000)])
        assert [s.taken_ms for s in await table.newest(None, 0, 99)] == [2000, 1600]
        table = SampleTable(store._writer, store._reader, age_ms_max=10**12, rows_max=5)
        await table.add([Sample(author, taken_ms, {}) for taken_ms in range(2001, 2010)])
        assert len(await table.newest(None, 0, 99)) == 5


async def test_samples_that_can_not_be_said_in_json_are_counted_out(path: Path) -> None:
    author = Story().founder.author
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    samples = [
        Sample(author, 1, {"cpu": 0.5}),
        Sample(author, 2, {"cpu": object()}),
        Sample(author, 3, {"cpu": {(1, 2): 3}}),
        Sample(author, 4, {"cpu": deep}),
        Sample(author, 5, {"cpu": "x" * 100_000}),
        Sample(author, 6, {"cpu": float("nan")}),
    ]
    async with open_store(path) as store:
        assert await store.add_telemetry(samples) == 2
        kept = await store.telemetry()
    assert [(s.taken_ms, s.values) for s in kept] == [(6, {"cpu": None}), (1, {"cpu": 0.5})]


async def test_an_error_in_the_block_comes_out_as_it_was_raised(path: Path) -> None:
    with pytest.raises(KeyError):
        async with open_store(path):
            raise KeyError
    with pytest.raises(Problem) as caught:
        async with open_store(path.parent / "no" / "folder" / "ledger.db"):
            pass
    assert caught.value.code == "home_unusable"


async def test_the_callers_loop_is_used_where_there_is_one(path: Path) -> None:
    async with trio_asyncio.open_loop() as loop:
        async with open_store(path) as store:
            assert store._reader._loop is loop
            await store.set_meta("a", b"b")
        assert trio_asyncio.current_loop.get() is loop
    async with open_store(path) as store:
        assert await store.get_meta("a") == b"b"


async def test_the_store_may_be_used_from_tasks_that_know_no_loop(path: Path) -> None:
    story = Story()
    async with trio.open_nursery() as outer, open_store(path) as store:
        done = trio.Event()

        async def write() -> None:
            await store.found(story.cluster, story.opening)
            done.set()

        outer.start_soon(write)
        await done.wait()
        assert store.position == 4


async def test_no_thread_of_the_store_outlives_it(path: Path) -> None:
    # Threads that trio keeps for later work may stay; the store's own two must not.
    own = {thread for thread in threading.enumerate() if not thread.name.startswith("Trio")}
    with trio.move_on_after(0) as scope:
        async with open_store(path):
            await trio.sleep_forever()
    async with open_store(path):
        assert threading.active_count() >= len(own) + 2
    left = {thread for thread in threading.enumerate() if not thread.name.startswith("Trio")}
    for thread in left - own:
        thread.join(timeout=10)
        assert not thread.is_alive()
    assert scope.cancelled_caught


async def test_another_programs_lock_is_told_and_passes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kowalski_ledger.connection.BUSY_TIMEOUT_S", 0.05)
    story = Story()
    async with open_store(path) as store:
        await store.found(story.cluster, story.opening)
        frame = story.devices[1].noise(3)
        with closing(sqlite3.connect(path, isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            with pytest.raises(Problem) as caught:
                await store.append(frame)
            assert caught.value.code == "home_locked"
            shell.execute("ROLLBACK")
        assert await store.append(frame) == 7
    assert audit(path).ok
    assert replay(path).events == 7
