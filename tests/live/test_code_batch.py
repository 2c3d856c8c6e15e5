"""A thousand sandboxed programs by batch, while one device is killed and another one frozen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from kowalski_gateway.local_cluster import LocalCluster

PROGRAMS = 1_000
PATIENCE_S = 90.0
LOOK_S = 0.05

PROGRAM = """
import json, sys
text = sys.stdin.read()
counts = {}
for word in text.split():
    counts[word] = counts.get(word, 0) + 1
json.loads(json.dumps(counts))
"""


def task(number: int) -> dict[str, Any]:
    text = f"alpha {'beta ' * (number % 7)}{'gamma ' * (number % 3)}n{number}"
    return {
        "kind": "code",
        "payload": {"language": "python", "code": PROGRAM, "stdin": text},
        "timeout_s": 60,
    }


def expected(number: int) -> dict[str, int]:
    words = {"alpha": 1, "beta": number % 7, "gamma": number % 3, f"n{number}": 1}
    return {word: count for word, count in words.items() if count}


def started(words: Sequence[str], url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kowalski_gateway.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "KOWALSKI_API": url},
    )


def lines(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


@pytest.mark.needs_bubblewrap
@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_thousand_programs_survive_a_killed_and_a_frozen_device(tmp_path: Path) -> None:
    tasks, out = tmp_path / "tasks.jsonl", tmp_path / "out.jsonl"
    with tasks.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(task(number)) + "\n" for number in range(PROGRAMS))
    async with LocalCluster(tmp_path, options=["--preset", "local"]) as cluster:
        await cluster.add_all("desk", "lap", "mini", "attic")
        words = ("batch", str(tasks), "--out", str(out), "--ordered", "--json")
        command = started(words, cluster["desk"].url)
        try:
            with trio.fail_after(PATIENCE_S):
                while lines(out) < PROGRAMS // 5:
                    await trio.sleep(LOOK_S)  # poll: what the command has written so far
                await cluster["lap"].kill()
                while lines(out) < 2 * PROGRAMS // 5:
                    await trio.sleep(LOOK_S)  # poll: as above
                cluster["mini"].freeze()
                printed, said = await trio.to_thread.run_sync(
                    command.communicate, abandon_on_cancel=True
                )
        finally:
            command.kill()
        assert command.returncode == 0, said
        assert json.loads(printed)["outcomes"] == {"completed": PROGRAMS}
        records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert [record["line"] for record in records] == [*range(1, PROGRAMS + 1)]
        values = [record["result"]["value"] for record in records]
        assert values == [expected(number) for number in range(PROGRAMS)]
        by = {record["device"] for record in records}
        assert cluster["attic"].peer in by
        cluster["mini"].thaw()
