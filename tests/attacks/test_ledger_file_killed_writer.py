"""Promise 1 at the file: a writer killed with SIGKILL loses nothing that it had acknowledged.

A process of its own appends groups of frames and says on a pipe how far it got once each append
has returned. It is killed at a random instant, and the file must hold at least what was said, in
whole frames. Then the next process goes on with the same file, so each round also opens what the
kill before it left behind.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from kowalski_ledger.audit import audit
from kowalski_ledger.replay import replay
from kowalski_ledger.store import open_store

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20

WRITER = """
import random, sys
from pathlib import Path
import trio
from kowalski_ledger.store import open_store
from tests.ports.ledgers import Story

async def main(path, seed):
    draw = random.Random(seed)
    story = Story()
    async with open_store(path) as store:
        if store.cluster is None:
            await store.found(story.cluster, story.opening)
        for feed, head in (await store.heads()).items():
            for device in story.devices:
                if device.author == feed.author:
                    device.ends[feed.topic] = (head.seq, head.hash)
                    last = await store.event(feed, head.seq)
                    device.hlc = max(device.hlc, last.hlc)
        while True:
            group = []
            for _ in range(draw.choice([1, 1, 2, 5])):
                device = draw.choice(story.devices[1:])
                count = draw.choice([1, 3, 40, 600])
                group += device.noise(count, topic=draw.choice(["task", "result"]))
            position = await store.append(group)
            sys.stdout.write(f"{position}\\n")
            sys.stdout.flush()

trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
"""


def run_and_kill(path: Path, seed: int, after_lines: int) -> int:
    """The last position that the writer acknowledged before it was killed."""
    folders = [str(ROOT / folder) for folder in ("protocol", "ledger", ".")]
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(seed)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    said = [writer.stdout.readline() for _ in range(after_lines)]
    assert all(said), "the writer ended by itself"
    writer.send_signal(signal.SIGKILL)
    said += writer.stdout.readlines()
    assert writer.wait(timeout=30) == -signal.SIGKILL
    # A line that was cut off by the kill was not said.
    return max(int(line) for line in said if line.endswith("\n"))


async def reopened(path: Path) -> int:
    """The position after a node's start, which refuses a feed that ends in half a frame."""
    async with open_store(path) as store:
        return store.position


@pytest.mark.slow
def test_a_writer_killed_at_any_instant_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    draw = random.Random()
    before = 0
    for kill in range(KILLS):
        acknowledged = run_and_kill(path, kill, draw.randrange(1, 25))
        # First as a stranger would read it, with the log as the kill left it. Replay verifies the
        # chains and that each feed ends at a signature, so that no frame is stored in part.
        report = replay(path)
        position = trio.run(reopened, path)
        assert before <= acknowledged <= position
        assert report.events == position
        before = position
    report = audit(path)
    assert report.ok, report.problems[:3]
    assert report.events == before
    assert before > KILLS
