"""`kowalski batch` as a process, killed, and its node restarted: the promise to go on, kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from kowalski_gateway.local_cluster import LocalCluster, quiet_port

LINES = 60
PATIENCE_S = 40.0
LOOK_S = 0.02


def started(url: str, tasks: Path, out: Path) -> subprocess.Popen[str]:
    words = ("batch", str(tasks), "--out", str(out), "--max-parallel", "8", "--json")
    return subprocess.Popen(
        [sys.executable, "-m", "kowalski_gateway.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "KOWALSKI_API": url},
    )


async def ended(command: subprocess.Popen[str]) -> tuple[int, str, str]:
    with trio.fail_after(PATIENCE_S):
        out, err = await trio.to_thread.run_sync(command.communicate, abandon_on_cancel=True)
    return command.returncode, out, err


async def until(what: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not what():
            await trio.sleep(LOOK_S)  # poll: what the command has written so far


def results(out: Path) -> list[dict[str, Any]]:
    text = out.read_bytes() if out.exists() else b""
    return [json.loads(one) for one in text.splitlines(keepends=True) if one.endswith(b"\n")]


async def test_a_batch_that_is_killed_and_its_node_restarted_runs_each_line_once(
    tmp_path: Path,
) -> None:
    tasks, out = tmp_path / "tasks.jsonl", tmp_path / "out.jsonl"
    task = {"kind": "tool", "payload": {"tool": "sleep", "args": {"seconds": 0.1}}}
    tasks.write_text(f"{json.dumps(task)}\n" * LINES, encoding="utf-8")
    # The command finds the node again where it was, so the port is chosen here.
    api = f"127.0.0.1:{quiet_port('127.0.0.1')}"
    async with LocalCluster(tmp_path, options=["--preset", "local", "--slots", "4"]) as cluster:
        desk = await cluster.add("desk", "--api", api)
        command = started(api, tasks, out)
        try:
            await until(lambda: len(results(out)) >= 5)
            command.kill()
            await ended(command)
            at_kill = len(results(out))
            assert at_kill < LINES

            command = started(api, tasks, out)
            await until(lambda: len(results(out)) >= at_kill + 5)
            await desk.kill()
            await desk.start()
            await until(lambda: len(results(out)) >= at_kill + 15)

            command.send_signal(signal.SIGTERM)
            code, stdout, stderr = await ended(command)
            assert (code, stdout) == (130, ""), stderr
            assert "Stopped: " in stderr

            command = started(api, tasks, out)
            code, stdout, stderr = await ended(command)
        finally:
            command.kill()
            command.wait()
        assert code == 0, stderr
        assert json.loads(stdout)["outcomes"] == {"completed": LINES}
        assert sorted(one["line"] for one in results(out)) == [*range(1, LINES + 1)]
        assert (await desk.client.cluster()).tasks["settled"] == LINES
