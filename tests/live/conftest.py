"""What the tests with whole clusters share: the cluster, chance that can be repeated, and logs.

A cluster lives in the test's own folder and is gone when the test ends, however it ends. Where a
test fails, the end of each node's log is part of the report. Chance is drawn from a seed that is
part of the report too; `KOWALSKI_SEED` repeats it.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import trio

from kowalski_gateway.local_cluster import LocalCluster
from tests.ports.executors import know_languages

LOG_END_BYTES = 3000


@pytest.fixture(scope="session", autouse=True)
def languages() -> None:
    """What this machine runs is known before the first node starts, and so offered at once."""
    trio.run(know_languages)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    """An empty cluster: the test adds the nodes that it wants."""
    async with LocalCluster(tmp_path, options=["--preset", "local"]) as cluster:
        yield cluster


@pytest.fixture
def chance() -> random.Random:
    """A source of chance whose seed is shown where the test fails."""
    given = os.environ.get("KOWALSKI_SEED")
    seed = int(given) if given else secrets.randbelow(1 << 32)
    print(f"KOWALSKI_SEED={seed}")  # noqa: T201
    return random.Random(seed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds what the nodes logged to the report of a test that failed."""
    report = yield
    folder: object = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and call.when == "call" and isinstance(folder, Path):
        for log in sorted(folder.rglob("*.log")):
            text = log.read_text(encoding="utf-8", errors="replace")[-LOG_END_BYTES:]
            report.sections.append((f"log of {log.stem}", text))
    return report
