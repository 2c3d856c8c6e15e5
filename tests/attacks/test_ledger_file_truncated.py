"""Attack 24: the end of the ledger file is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from kowalski_ledger.audit import audit
from kowalski_ledger.replay import replay
from kowalski_ledger.store import open_store
from kowalski_protocol.errors import Problem
from tests.ports.ledgers import Story, make_ledger, refusal


async def touch(path: Path) -> None:
    async with open_store(path):
        pass


@pytest.mark.parametrize("pages_left", [0.2, 1, 1.5, 2, 4, 10, 15, 15.5])
def test_a_truncated_file_is_damaged_and_left_as_it_is(tmp_path: Path, pages_left: float) -> None:
    path = tmp_path / "ledger.db"
    make_ledger(path, Story())
    short = path.read_bytes()[: int(pages_left * 4096)]
    assert len(short) < path.stat().st_size - 4096
    path.write_bytes(short)
    for read in (lambda: trio.run(touch, path), lambda: replay(path)):
        with pytest.raises(Problem) as caught:
            read()
        assert caught.value.code in ("ledger_corrupt", "ledger_foreign")
    problem = refusal(lambda: audit(path))
    if problem is None:
        assert not audit(path).ok
    else:
        assert problem.code == "ledger_foreign"
    assert path.read_bytes() == short


def test_a_last_page_cut_short_is_damage_or_lost_nothing(tmp_path: Path) -> None:
    """SQLite reads what is missing of a page as zeros, and unused room is zeros anyway."""
    path = tmp_path / "ledger.db"
    make_ledger(path, Story())
    raw, digest = path.read_bytes(), replay(path).digest
    for cut in (1, 64, 300, 1000, 2000, 3000, 4000, 4095):
        path.write_bytes(raw[:-cut])
        problem = refusal(lambda: replay(path))
        if problem is None:
            assert replay(path).digest == digest
        else:
            assert problem.code == "ledger_corrupt"
            assert not audit(path).ok


def test_a_file_of_no_bytes_is_a_new_ledger_to_a_node_and_none_to_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"")
    for read in (audit, replay):
        with pytest.raises(Problem) as caught:
            read(path)
        assert caught.value.code == "ledger_foreign"
    trio.run(touch, path)
    assert audit(path).ok
