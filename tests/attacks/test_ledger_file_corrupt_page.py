"""Attack 24: bytes of the ledger file change on the disk. Nothing wrong is ever taken for right."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import trio

from kowalski_ledger.audit import audit
from kowalski_ledger.export import export
from kowalski_ledger.replay import replay
from kowalski_ledger.store import open_store
from kowalski_protocol.errors import CODES, Problem
from kowalski_protocol.feeds import Event
from tests.ports.ledgers import Story, make_ledger, refusal

PAGE_SIZE_BYTES = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


async def read_all(path: Path) -> list[Event]:
    async with open_store(path) as store:
        return [event async for events in store.load() for event in events]


def test_a_page_of_rubbish_is_found_at_start_and_by_every_command(path: Path) -> None:
    make_ledger(path, Story())
    raw = bytearray(path.read_bytes())
    pages = len(raw) // PAGE_SIZE_BYTES
    middle = pages // 2 * PAGE_SIZE_BYTES
    raw[middle : middle + PAGE_SIZE_BYTES] = random.Random(1).randbytes(PAGE_SIZE_BYTES)
    path.write_bytes(raw)
    for read in (lambda: trio.run(read_all, path), lambda: replay(path)):
        with pytest.raises(Problem) as caught:
            read()
        assert caught.value.code == "ledger_corrupt"
        assert str(path) in caught.value.sentence
        assert caught.value.mend == f"kowalski audit --ledger {path}"
    report = audit(path)
    assert not report.ok
    assert report.problems


def test_a_bit_that_flips_in_a_body_is_found_though_sqlite_sees_nothing(path: Path) -> None:
    story = Story()
    events = make_ledger(path, story)
    victim = next(event for event in events[100:] if event.kind == "TaskPlaced")
    raw = bytearray(path.read_bytes())
    raw[raw.index(victim.body) + 3] ^= 4
    path.write_bytes(raw)
    for read in (lambda: trio.run(read_all, path), lambda: replay(path)):
        with pytest.raises(Problem) as caught:
            read()
        assert caught.value.code == "ledger_corrupt"
        assert f"{victim.author.hex()[:16]}/task/{victim.seq}" in caught.value.sentence
    [problem] = audit(path).problems
    assert (problem.seq, problem.what) == (victim.seq, "it does not match its hash")


def test_whatever_bytes_change_no_reader_crashes_or_is_deceived(tmp_path: Path) -> None:
    story = Story()
    good = tmp_path / "good.db"
    events = make_ledger(good, story, story.frames(15, frame_tasks=5))
    digest = replay(good).digest
    hashes = [event.hash for event in events]
    draw = random.Random(24)
    size = good.stat().st_size
    found = 0
    for number in range(60):
        path = tmp_path / f"bad{number}.db"
        shutil.copy(good, path)
        raw = bytearray(path.read_bytes())
        at = draw.randrange(size) if number % 3 else draw.randrange(200)
        length = draw.choice([1, 1, 8, 600])
        raw[at : at + length] = draw.randbytes(len(raw[at : at + length]))
        path.write_bytes(raw)
        problems = {
            refusal(lambda path=path: audit(path)),
            refusal(lambda path=path: export(path, path.with_suffix(".jsonl"))),
            refusal(lambda path=path: replay(path)),
            refusal(lambda path=path: trio.run(read_all, path)),
        } - {None}
        assert {problem.code for problem in problems if problem} <= set(CODES)
        found += bool(problems)
        if refusal(lambda path=path: replay(path)) is None:
            assert replay(path).digest == digest, f"deceived by change {number} at {at}"
        if refusal(lambda path=path: trio.run(read_all, path)) is None:
            assert [event.hash for event in trio.run(read_all, path)] == hashes
        for left in tmp_path.glob(f"bad{number}.*"):
            left.unlink()
    assert found > 15
