"""`kowalski demo` from the outside: what it prints, what its exit code says, what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.needs_bubblewrap]

DEMO = [sys.executable, "-m", "kowalski_gateway.cli.main", "demo"]
TASKS = 60
ENDED_S = 10.0


def environment(folder: Path) -> dict[str, str]:
    """Everything that the demo leaves would lie in this folder."""
    return {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run after a while: a sandbox ends an instant after its node."""
    _, left = psutil.wait_procs(processes, timeout=ENDED_S)
    return [process for process in left if not gone(process)]


@pytest.mark.timeout(170)
def test_the_demo_keeps_every_promise_while_devices_are_killed(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--json", "--tasks", str(TASKS)],
        env=environment(tmp_path),
        capture_output=True,
        check=False,
        timeout=160,
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    told = json.loads(done.stdout)
    assert told["ok"] is True
    assert len(told["promises"]) == 5
    assert all(promise["kept"] for promise in told["promises"])
    assert told["tasks"] == told["library"]["files"] == TASKS
    assert sum(device["tasks"] for device in told["devices"]) == TASKS
    assert {device["name"] for device in told["devices"]} == {"desk", "lap", "mini"}
    first, second = told["failovers"]
    assert first["led"] is True
    assert first["next_leader"] is not None
    assert 0 < first["next_leader_s"] < 10
    assert first["device"] != second["device"]
    assert told["submitter"] not in (first["device"], second["device"])
    stories = {device["name"]: device["story"] for device in told["devices"]}
    for victim in (first["device"], second["device"]):
        assert [line.split(" at ")[0] for line in stories[victim]][-1] == "back"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(100)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_no_process_and_no_folder(tmp_path: Path, number: int) -> None:
    demo = subprocess.Popen(
        [*DEMO, "--tasks", str(TASKS)],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    )
    started: list[psutil.Process] = []
    try:
        assert demo.stdout is not None
        # Interrupted with work under way: three nodes and programs in their sandboxes.
        for line in demo.stdout:
            if "has submitted" in line:
                break
        started = psutil.Process(demo.pid).children(recursive=True)
        deadline_s = time.monotonic() + 30
        while len(started) < 4 and time.monotonic() < deadline_s:
            time.sleep(0.02)  # poll: a program runs in a sandbox below one of the nodes
            started = psutil.Process(demo.pid).children(recursive=True)
        assert len(started) >= 4
        demo.send_signal(number)
        said = demo.stdout.read()
        assert demo.wait(20) == 130, said
        assert "no process and no folder is left" in said
        assert wait_until_gone(started) == []
        assert list(tmp_path.iterdir()) == []
    finally:
        for process in [*filter(psutil.Process.is_running, started), demo]:
            process.kill()
        demo.wait()


@pytest.mark.timeout(60)
def test_without_a_sandbox_the_demo_says_why_and_runs_no_code(tmp_path: Path) -> None:
    done = subprocess.run(
        DEMO,
        env={**environment(tmp_path), "PATH": str(tmp_path)},
        capture_output=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 1
    said = done.stderr.decode()
    assert "bwrap is not installed" in said
    assert "apt-get install bubblewrap" in said
    assert "mend: kowalski doctor" in said
    assert b"settled" not in done.stdout
    assert list(tmp_path.iterdir()) == []
