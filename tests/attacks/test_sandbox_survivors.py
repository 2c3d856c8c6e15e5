"""Attack 19 of the catalogue, second part: programs that want to outlive their run, or the node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from kowalski_executors.code_executor import CodeExecutor
from tests.ports.executors import (
    CANCEL_S,
    Recorder,
    answer,
    attempt,
    children,
    marked,
    marking,
    new_mark,
    python,
    quickest,
    until,
)

pytestmark = pytest.mark.needs_bubblewrap


SURVIVORS = """
import os, signal, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        if os.fork() == 0:
            os.setpgid(0, 0)
            while True: time.sleep(1)
        os._exit(0)
"""


async def test_double_forked_processes_die_with_a_program_that_ends_well(
    executor: CodeExecutor,
) -> None:
    mark = new_mark()
    assert await answer(executor, marking(mark) + SURVIVORS + "'left'") == "left"
    assert marked(mark) == []
    assert children() == set()


async def test_double_forked_processes_die_within_250_ms_of_a_cancel(
    executor: CodeExecutor,
) -> None:
    async def cancel_one() -> float:
        mark = new_mark()
        context = Recorder()
        code = (
            marking(mark)
            + "kept = bytearray(b'x') * (300 << 20)\n"
            + SURVIVORS
            + "print('up')\ntime.sleep(60)"
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.run, attempt(python(code)), context)
            with trio.fail_after(10):
                await context.printed.wait()
            assert len(marked(mark)) >= 6
            nursery.cancel_scope.cancel()
            began = trio.current_time()
        took_s = trio.current_time() - began
        assert marked(mark) == []
        return took_s

    assert await quickest(cancel_one) < CANCEL_S


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
    await executor.probe()
    task = Attempt("t", "a", 1, "code", {"language": "python", "code": sys.argv[3]}, {}, 60.0)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(executor.run, task, Context())
        # Others begin and are cancelled all the while, so that the kill finds every stage of a run.
        while True:
            with trio.move_on_after(0.01):
                await executor.run(task, Context())

trio.run(main)
"""


def start_node(folder: Path, how: str, code: str) -> subprocess.Popen[bytes]:
    """A process that does with the executor what a node does."""
    return subprocess.Popen(
        [sys.executable, "-c", NODE, str(folder), how, code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.parametrize("how", ["warm", "cold", "unsandboxed"])
async def test_a_node_that_is_killed_takes_its_programs_with_it(tmp_path: Path, how: str) -> None:
    mark = new_mark()
    code = marking(mark) + SURVIVORS + "print('up')\ntime.sleep(60)"
    for number in range(5):
        with start_node(tmp_path / "work", how, code) as node:
            assert node.stdout is not None
            for _ in range(3):
                assert await trio.to_thread.run_sync(node.stdout.readline) == b"up\n"
            own = children_of(node.pid)
            assert len(marked(mark)) >= 18
            assert own
            with trio.move_on_after(0.003 * number):  # another moment of a start each time
                await trio.sleep_forever()
            node.send_signal(signal.SIGKILL)
        await until(lambda: not marked(mark), within_s=2)
        await until(lambda own=own: not any(map(is_alive, own)), within_s=2)


def children_of(process: int) -> list[int]:
    """The children of a process."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for one in threads for child in (one / "children").read_text().split()]


def is_alive(process: int) -> bool:
    """Whether there is a process of this number that is not merely waiting to be collected."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
