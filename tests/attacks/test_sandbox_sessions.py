"""Cells of a session that mean harm: to the node, to their interpreter, to other sessions.

Whatever a cell does, the node answers, at worst the interpreter of that one session ends, and the
next cell has a new one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from kowalski_executors.code_executor import CodeExecutor
from kowalski_node.executor import Failed
from tests.ports.executors import SANDBOXES, children, marked, marking, new_mark, until
from tests.ports.sessions import Talk, served

pytestmark = pytest.mark.needs_bubblewrap

PIPES = """
import os, stat
def pipes(flag):
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            state = os.fstat(int(name))
            text = open(f"/proc/self/fdinfo/{name}").read()
        except OSError:
            continue
        flags = int(text.split("flags:")[1].split()[0], 8)
        if int(name) > 2 and stat.S_ISFIFO(state.st_mode) and flags & 3 == flag:
            found.append(int(name))
    return found
"""
"""What a cell needs to find its interpreter's pipes."""

HOSTILE = {
    "a forged result": "for fd in pipes(1): os.write(fd, b'1 0 2\\nV7')",
    "a forged result of this cell": "for fd in pipes(1): os.write(fd, b'2 0 2\\nV7')",
    "noise": "for fd in pipes(1): os.write(fd, b'\\xff' * 4096)",
    "numbers without end": "for fd in pipes(1): os.write(fd, b'9' * 70)",
    "a huge result": "for fd in pipes(1): os.write(fd, b'2 0 999999999\\n')",
    "a negative result": "for fd in pipes(1): os.write(fd, b'2 0 -5\\n')",
    "half a result": "for fd in pipes(1): os.write(fd, b'2 0 50\\nV')\nos._exit(0)",
    "a later result": (
        "import threading, time\ndef late():\n    time.sleep(0.05)\n"
        "    for fd in pipes(1): os.write(fd, b'3 0 2\\nV7')\nthreading.Thread(target=late).start()"
    ),
    "closed descriptors": "os.closerange(0, 256)",
    "a closed result": "for fd in pipes(1): os.close(fd)\nwhile True: pass",
    "swallowed cells": (
        "import threading\ndef swallow():\n    for fd in pipes(0): os.read(fd, 1 << 16)\n"
        "threading.Thread(target=swallow).start()"
    ),
    "a child that speaks": (
        "if os.fork() == 0:\n    for fd in pipes(1): os.write(fd, b'2 0 2\\nV7')"
    ),
    "a dead warden": (
        "for pid in (1, os.getppid()):\n  try: os.kill(pid, 9)\n  except OSError: pass"
    ),
    "a dead group": "os.killpg(0, 9)",
    "1 GB of output": "for _ in range(1 << 14): os.write(1, b'x' * (1 << 16))",
    "1 GB of errors": "for _ in range(1 << 14): os.write(2, b'x' * (1 << 16))",
    "no interrupts": (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\nwhile True: pass"
    ),
    "a broken driver": (
        "import sys, builtins\nos.write = os.read = os.getpid = None\n"
        "builtins.compile = builtins.exec = None"
    ),
    "no names": "import sys\nsys.modules.clear()\nglobals().clear()",
    "memory": "kept = []\nwhile True: kept.append(bytearray(b'x') * (1 << 24))",
    "a fork bomb": "while True:\n  try: os.fork()\n  except OSError: pass",
}


@pytest.fixture(scope="module", params=list(SANDBOXES))
def probed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> CodeExecutor:
    """The code executor with its sandbox; it finds out once what it can run."""
    return CodeExecutor(work_root=tmp_path_factory.mktemp("work"), **SANDBOXES[request.param])


@pytest.fixture
async def sessions(probed: CodeExecutor) -> AsyncIterator[CodeExecutor]:
    """The same, looked after; no session outlives its test."""
    async with served(probed):
        yield probed
    assert children() == set()


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_cell_harms_its_own_session_at_most(
    sessions: CodeExecutor, what: str
) -> None:
    mark = new_mark()
    talk, other = Talk(sessions), Talk(sessions)
    await other.completed("x = 'mine'")
    await talk.completed(marking(mark) + PIPES)
    await talk.tell(HOSTILE[what], timeout_s=1.0)
    # The next cells get an answer, which is the interpreter's own or says what is wrong.
    for _ in range(2):
        outcome = await talk.tell("'sound'", timeout_s=2.0)
        assert outcome.sentence if isinstance(outcome, Failed) else outcome.value == "sound"
    assert await other.value("x") == "mine"
    assert other.asked == 0
    anew = Talk(sessions)
    assert await anew.value("'sound'") == "sound"


async def test_what_a_forged_result_says_is_checked(sessions: CodeExecutor) -> None:
    talk = Talk(sessions)
    await talk.completed(PIPES)
    failed = await talk.failed("for fd in pipes(1): os.write(fd, b'7 0 2\\nV7')")
    assert failed.code == "interpreter_lost"
    assert failed.sentence.startswith("What came from the cell in place of its result")
    outcome = await talk.completed("'sound'")
    assert outcome.value == "sound"
    assert outcome.rebuilt is not None


async def test_a_thread_that_eats_memory_between_cells_is_stopped(sessions: CodeExecutor) -> None:
    mark = new_mark()
    talk = Talk(sessions)
    await talk.completed(marking(mark) + "import os, threading, time")
    assert len(marked(mark)) == 1
    await talk.completed(
        "def eat():\n    kept = bytearray(b'x') * (200 << 20)\n    time.sleep(600)\n"
        "for _ in range(5):\n    if os.fork() == 0: eat()"
    )
    await until(lambda: marked(mark) == [])
    assert (await talk.completed("1")).rebuilt is not None


async def test_one_session_does_not_see_anothers_files_or_processes(
    sessions: CodeExecutor,
) -> None:
    one, other = Talk(sessions), Talk(sessions, "bash")
    await one.completed("open('/task/secret', 'w').write('s')\nopen('/tmp/secret', 'w').write('s')")
    done = await other.completed("ls -A /task /tmp /dev/shm; ls -d /proc/[0-9]*")
    assert "secret" not in done.stdout
    assert done.stdout.count("/proc/") <= 4


NODE = """
import sys
import trio
from pathlib import Path
from kowalski_executors.code_executor import CodeExecutor
from kowalski_node.executor import Attempt

class Context:
    def write(self, stream, data):
        print(data.decode(), end="", flush=True)

async def main():
    how = {"unsandboxed": {"unsandboxed": True}, "warm": {}, "cold": {"warm": False}}[sys.argv[2]]
    executor = CodeExecutor(work_root=Path(sys.argv[1]), **how)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(executor.serve)
        for name in "abc":
            payload = {"language": "python", "code": sys.argv[3]}
            await executor.run(
                Attempt("t", "a", 1, "code", payload, {}, 60.0, name, 1), Context()
            )
        payload = {"language": "python", "code": "print('all')\\nwhile True: pass"}
        await executor.run(Attempt("t", "b", 1, "code", payload, {}, 60.0, "c", 2, "a"), Context())

trio.run(main)
"""


@pytest.mark.parametrize("how", ["warm", "cold", "unsandboxed"])
async def test_a_node_that_is_killed_takes_its_sessions_with_it(tmp_path: Path, how: str) -> None:
    mark = new_mark()
    code = marking(mark) + (
        "import os, signal, time\nif os.fork() == 0:\n    os.setsid()\n"
        "    signal.signal(signal.SIGINT, signal.SIG_IGN)\n    time.sleep(600)"
    )
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", NODE, str(tmp_path), how, code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as node:
        assert node.stdout is not None
        try:
            line = await trio.to_thread.run_sync(node.stdout.readline)
            assert line == b"all\n"
            assert len(marked(mark)) == 6
        finally:
            node.send_signal(signal.SIGKILL)
    await until(lambda: marked(mark) == [])
