"""Attack 19 of the catalogue, fourth part: programs that want to see those before and beside them.

Warm programs are forked from one interpreter that stands in one sandbox; none may find anything of
another there.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import pytest
import trio

from kowalski_executors.code_executor import CodeExecutor
from kowalski_node.executor import Completed, Failed
from tests.ports.executors import (
    Recorder,
    answer,
    attempt,
    marked,
    marking,
    new_mark,
    python,
    until,
)

pytestmark = pytest.mark.needs_bubblewrap


LEAVE = """
import builtins, json, os, random, sys
builtins.left = sys.left = json.left = "here"
os.environ["LEFT"] = "here"
sys.path.append("/left")
for folder in ("/task", "/tmp", "/dev/shm"):
    with open(folder + "/left", "w") as file:
        file.write("here")
os.chdir("/tmp")
os.umask(0o77)
random.seed(1)
"""

LOOK = """
import builtins, json, os, random, sys
{"attributes": [hasattr(builtins, "left"), hasattr(sys, "left"), hasattr(json, "left")],
 "environment": "LEFT" in os.environ, "path": "/left" in sys.path,
 "files": [name for folder in ("/task", "/tmp", "/dev/shm") for name in os.listdir(folder)],
 "folder": os.getcwd(), "umask": os.umask(0), "random": random.random()}
"""


async def test_the_next_program_finds_nothing_of_the_one_before(executor: CodeExecutor) -> None:
    numbers: set[float] = set()
    for _ in range(5):
        assert await answer(executor, LEAVE) is None
        found = await answer(executor, LOOK)
        numbers.add(found.pop("random"))
        assert found == {
            "attributes": [False, False, False],
            "environment": False,
            "path": False,
            "files": [],
            "folder": "/task",
            "umask": found["umask"],
        }
        assert found["umask"] != 0o77
    assert len(numbers) == 5, "each program draws random numbers of its own"


BESIDE = """
import os, socket, sys
kept = [socket.socket(socket.AF_UNIX), socket.create_server(("127.0.0.1", 5000))]
kept[0].bind("\\0kowalski-neighbour")
kept[0].listen()
with open("/dev/shm/neighbour", "w") as file:
    file.write("secret")
print("up")
import time
time.sleep(60)
"""

SEEK = """
import os, socket
reached = []
for family, place in ((socket.AF_UNIX, "\\0kowalski-neighbour"),
                      (socket.AF_INET, ("127.0.0.1", 5000))):
    try:
        with socket.socket(family) as one:
            one.settimeout(1)
            one.connect(place)
        reached.append(str(place))
    except OSError:
        pass
processes = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
killed = []
for number in (*range(3, 200), -1):
    try:
        os.kill(number, 9 if number != -1 else 0)
        killed.append(number)
    except OSError:
        pass
{"reached": reached, "processes": sorted(processes), "files": os.listdir("/dev/shm"),
 "killed": killed}
"""


async def test_a_program_beside_another_can_not_reach_it(executor: CodeExecutor) -> None:
    context = Recorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(executor.run, attempt(python(BESIDE)), context)
        with trio.fail_after(10):
            await context.printed.wait()
        found = await answer(executor, SEEK)
        nursery.cancel_scope.cancel()
    assert found == {"reached": [], "processes": [1, 2], "files": [], "killed": []}


async def test_a_program_can_make_no_namespaces_although_its_maker_could(
    executor: CodeExecutor,
) -> None:
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
kinds = {"users": 0x10000000, "mounts": 0x20000, "processes": 0x20000000, "network": 0x40000000}
{name: libc.unshare(kind) for name, kind in kinds.items()} \\
    | {"mount": libc.mount(b"tmpfs", b"/task", b"tmpfs", 0, None),
       "unmount": libc.umount2(b"/task", 2), "unmount_proc": libc.umount2(b"/proc/1", 2)}
"""
    assert set((await answer(executor, code)).values()) == {-1}


async def test_nothing_of_the_last_request_is_in_the_frames_of_the_next(
    executor: CodeExecutor,
) -> None:
    task = attempt(python("1"), requires={"memory_mb": 333})
    assert isinstance(await executor.run(task, Recorder()), Completed)
    code = """
import sys
def look():
    bound, found, frame = str((333 + 64) << 20), [], sys._getframe().f_back
    while frame is not None:
        found += [name for name, value in frame.f_locals.items() if bound in repr(value)]
        frame = frame.f_back
    return found
look()
"""
    assert await answer(executor, code) == []


@pytest.mark.parametrize("number", [1, 2, 9, 15])
async def test_process_one_gets_no_signal_from_inside(executor: CodeExecutor, number: int) -> None:
    code = f"import os, time\nos.kill(1, {number})\ntime.sleep(0.05)\n'still here'"
    assert await answer(executor, code) == "still here"


def zygotes() -> list[int]:
    """This process's sandboxes that stand ready."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"CONTENT = marshal" in line and parent == os.getpid():
            found.append(int(folder.name))
    return found


def children_of(process: int) -> list[int]:
    """The processes that another one started."""
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in text.split()]


async def test_after_the_zygote_was_killed_the_next_program_runs(tmp_path: Path) -> None:
    executor = CodeExecutor(work_root=tmp_path / "work")
    before = set(zygotes())
    assert await answer(executor, "1") == 1
    (zygote,) = set(zygotes()) - before
    mark = new_mark()
    outcomes: list[object] = []
    context = Recorder()

    async def run_one() -> None:
        code = marking(mark) + "print('up')\nimport time\ntime.sleep(60)"
        outcomes.append(await executor.run(attempt(python(code)), context))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_one)
        with trio.fail_after(10):
            await context.printed.wait()
        (child,) = children_of(zygote)
        os.kill(child, signal.SIGKILL)
        with trio.fail_after(5):
            await until(lambda: outcomes)
    assert not isinstance(outcomes[0], Completed), "what ran in it has ended with it"
    assert marked(mark) == []
    assert await answer(executor, json.dumps([2])) == [2]
    assert zygote not in zygotes()


def standing(zygote: int) -> int:
    """The warden that stands ready, by the number of the zygote's sandbox."""
    (inside,) = children_of(zygote)
    (warden,) = children_of(inside)
    return warden


async def test_after_the_process_that_stood_ready_was_killed_the_next_program_runs(
    tmp_path: Path,
) -> None:
    before = set(zygotes())
    executor = CodeExecutor(work_root=tmp_path / "work")
    assert await answer(executor, "1") == 1
    (zygote,) = set(zygotes()) - before
    for _ in range(3):
        await until(lambda: len(children_of(children_of(zygote)[0])) == 1)
        ready = standing(zygote)
        os.kill(ready, signal.SIGKILL)
        await until(lambda ready=ready: not Path(f"/proc/{ready}").exists())
        assert await answer(executor, "6 * 7") == 42
    assert zygote in zygotes(), "nothing else had to end for it"


async def test_where_no_process_can_be_made_one_program_fails_and_none_that_runs(
    tmp_path: Path,
) -> None:
    before = set(zygotes())
    executor = CodeExecutor(work_root=tmp_path / "work")
    assert await answer(executor, "1") == 1
    (zygote,) = set(zygotes()) - before
    context = Recorder()
    outcomes: list[object] = []

    async def run_one() -> None:
        code = "print('up')\nimport sys\nsys.stdin.read()\nimport time\ntime.sleep(1)\n'whole'"
        outcomes.append(await executor.run(attempt(python(code)), context))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_one)
        with trio.fail_after(10):
            await context.printed.wait()
        (inside,) = children_of(zygote)
        await until(lambda: len(children_of(inside)) == 2)
        bound = resource.prlimit(inside, resource.RLIMIT_NPROC)
        resource.prlimit(inside, resource.RLIMIT_NPROC, (1, bound[1]))
        # The one that stands ready was made before; the one after it can't be.
        await answer(executor, "1")
        failed = await executor.run(attempt(python("1")), Recorder())
        assert isinstance(failed, Failed)
        assert failed.code == "sandbox_unavailable"
        assert "clone" in failed.sentence or "unavailable" in failed.sentence
        resource.prlimit(inside, resource.RLIMIT_NPROC, bound)
    assert isinstance(outcomes[0], Completed)
    assert outcomes[0].value == "whole"
    assert await answer(executor, "6 * 7") == 42
