"""Attack 19 of the catalogue, first part: programs that want all of the device for themselves.

Each test runs a hostile program in the real sandbox and looks from outside at what it took.
"""

# What is read and started here are entries of /proc and small files: nothing that blocks.
# ruff: noqa: ASYNC240

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from kowalski_executors.code_executor import CodeExecutor
from kowalski_executors.limits import PROCESSES_MAX
from kowalski_executors.seccomp import machine
from kowalski_node.executor import Completed, Failed
from tests.ports.executors import (
    Recorder,
    answer,
    attempt,
    failure,
    marked,
    marking,
    new_mark,
    open_descriptors,
    outcome_of,
    python,
)

MEBIBYTE = 1 << 20

needs_filter = pytest.mark.skipif(
    machine() is None, reason="there is no system call filter for this machine's processor"
)

pytestmark = pytest.mark.needs_bubblewrap


class Watch:
    """What a marked program had at most, seen from outside."""

    processes = 0
    memory_bytes = 0
    lag_s = 0.0


@asynccontextmanager
async def watched(mark: str) -> AsyncIterator[Watch]:
    """Looks at a program's processes, and at how late this very event loop is, all the while."""
    watch = Watch()

    async def look() -> None:
        while True:
            processes = marked(mark)
            resident = 0
            for process in processes:
                try:
                    fields = Path(f"/proc/{process}/statm").read_text().split()
                    resident += (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
                except OSError:
                    continue
            watch.processes = max(watch.processes, len(processes))
            watch.memory_bytes = max(watch.memory_bytes, resident)
            due = trio.current_time() + 0.01
            await trio.sleep_until(due)  # poll: the program's processes
            watch.lag_s = max(watch.lag_s, trio.current_time() - due)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        yield watch
        nursery.cancel_scope.cancel()
    assert marked(mark) == []


async def test_a_fork_bomb_stays_small_and_ends_with_its_time(executor: CodeExecutor) -> None:
    mark = new_mark()
    bomb = (
        marking(mark)
        + """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    )
    async with watched(mark) as watch:
        outcome = await failure(executor, bomb, timeout_s=2)
    assert outcome.code in ("timed_out", "code_failed")
    assert 2 < watch.processes <= PROCESSES_MAX
    assert watch.lag_s < 1


async def test_a_bomb_of_threads_stays_small(executor: CodeExecutor) -> None:
    code = """
import threading
stop = threading.Event()
started = 0
try:
    while started < 10_000:
        threading.Thread(target=stop.wait).start()
        started += 1
except RuntimeError:
    pass
stop.set()
started
"""
    assert 8 <= await answer(executor, code) <= PROCESSES_MAX


async def test_one_programs_processes_are_not_counted_against_anothers(
    executor: CodeExecutor,
) -> None:
    mark = new_mark()
    hoard = (
        marking(mark)
        + """
import os, time
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
except OSError:
    print("full")
    time.sleep(60)
"""
    )
    context = Recorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(executor.run, attempt(python(hoard)), context)
        with trio.fail_after(10):
            await context.printed.wait()
        code = "import os\nfor _ in range(20):\n    if os.fork() == 0: os._exit(0)\n'forked'"
        assert await answer(executor, code) == "forked"
        nursery.cancel_scope.cancel()
    assert marked(mark) == []


async def test_a_memory_hog_is_told_that_it_had_too_much(executor: CodeExecutor) -> None:
    outcome = await failure(
        executor, "kept = []\nwhile True: kept.append(bytearray(b'x') * 4000000)"
    )
    assert outcome.code == "out_of_memory"
    assert "512 MiB" in outcome.sentence


@pytest.mark.parametrize(
    "take",
    [
        "kept = bytearray(b'x') * (200 << 20)",
        "import mmap; m = mmap.mmap(-1, 200 << 20); m.write(b'x' * (200 << 20))",
    ],
    ids=["private", "shared"],
)
async def test_many_processes_together_have_no_more_memory_than_one(
    executor: CodeExecutor, take: str
) -> None:
    mark = new_mark()
    code = (
        marking(mark)
        + f"""
import os, time
for _ in range(30):
    if os.fork() == 0:
        {take}
        time.sleep(60)
time.sleep(60)
"""
    )
    async with watched(mark) as watch:
        outcome = await failure(executor, code)
    assert outcome.code == "out_of_memory"
    # Unwatched it would be 6 GiB and more. The sum is looked at every so often, not kept to.
    assert watch.memory_bytes < 5 * 512 * MEBIBYTE


async def test_files_in_memory_are_memory(executor: CodeExecutor) -> None:
    code = """
import time
for name in ("/task/a", "/tmp/a", "/dev/shm/a"):
    try:
        with open(name, "wb") as file:
            while file.write(bytes(1 << 20)): file.flush()
    except OSError:
        pass
kept = bytearray(b'x') * (300 << 20)
time.sleep(60)
"""
    assert (await failure(executor, code)).code == "out_of_memory"


@needs_filter
async def test_there_is_no_memory_that_nobody_counts(executor: CodeExecutor) -> None:
    code = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def failure(call, *args):
    return errno.errorcode[ctypes.get_errno()] if call(*args) == -1 else "done"
try:
    os.memfd_create("x")
    memfd = "done"
except OSError as error:
    memfd = errno.errorcode[error.errno]
[memfd, failure(libc.shmget, 0, 1 << 30, 0o1600), failure(libc.msgget, 0, 0o1600)]
"""
    assert await answer(executor, code) == ["ENOSYS", "EPERM", "EPERM"]


async def test_a_disk_filler_fills_only_its_own_folder_and_that_is_bounded(
    executor: CodeExecutor,
) -> None:
    code = """
import os
written = {}
for folder in ("/task", "/tmp", "/dev/shm"):
    written[folder] = 0
    try:
        for number in range(10_000):
            with open(f"{folder}/{number}", "wb", buffering=0) as file:
                for _ in range(8):
                    written[folder] += file.write(bytes(1 << 20))
    except OSError as error:
        written[folder + " ended"] = error.strerror
    for name in os.listdir(folder):
        os.unlink(f"{folder}/{name}")
elsewhere = []
for folder, _, _ in os.walk("/"):
    if not folder.startswith(("/proc", "/task", "/tmp", "/dev/shm")):
        try:
            open(folder + "/x", "wb").close()
            elsewhere.append(folder)
        except OSError:
            pass
{**written, "elsewhere": elsewhere}
"""
    # All folders are walked, which takes a disk that has just started its time.
    found = await answer(executor, code, timeout_s=120)
    assert found == {
        "/task": 256 * MEBIBYTE,
        "/tmp": 64 * MEBIBYTE,
        "/dev/shm": 64 * MEBIBYTE,
        "/task ended": "No space left on device",
        "/tmp ended": "No space left on device",
        "/dev/shm ended": "No space left on device",
        "elsewhere": [],
    }


async def test_one_file_has_a_largest_size(executor: CodeExecutor) -> None:
    code = """
import os
descriptor = os.open("/task/a", os.O_CREAT | os.O_WRONLY)
try:
    os.truncate(descriptor, 1 << 40)
    result = "done"
except OSError as error:
    result = error.strerror
result
"""
    assert await answer(executor, code) == "File too large"


async def test_empty_files_without_number_end_the_program(executor: CodeExecutor) -> None:
    code = "n = 0\nwhile True:\n    open(f'/tmp/{n}', 'w').close()\n    n += 1"
    outcome = await failure(executor, code)
    assert outcome.code == "code_failed"
    assert "files" in outcome.sentence


async def test_descriptors_run_out_for_the_program_alone(executor: CodeExecutor) -> None:
    code = """
import os
kept = []
try:
    while True:
        kept.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    result = error.strerror
[result, len(kept) < 256]
"""
    await executor.probe()
    before = open_descriptors()
    assert await answer(executor, code) == ["Too many open files", True]
    assert open_descriptors() == before


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_an_output_flood_is_cut_on_either_stream(executor: CodeExecutor, stream: str) -> None:
    mark = new_mark()
    code = (
        marking(mark)
        + f"""
import os
for _ in range(5):
    os.fork()
while True:
    os.write({1 if stream == "stdout" else 2}, b"x" * 65536)
"""
    )
    outcome = await failure(executor, code)
    assert outcome.code == "output_too_large"
    assert stream in outcome.sentence
    assert len(getattr(outcome, stream)) == MEBIBYTE
    assert marked(mark) == []


async def test_a_flood_of_results_is_cut(executor: CodeExecutor) -> None:
    code = """
import os
for descriptor in range(3, 256):
    try:
        while True: os.write(descriptor, b"V" * 65536)
    except OSError:
        pass
while True: pass
"""
    assert (await failure(executor, code, timeout_s=10)).code == "output_too_large"


@pytest.mark.parametrize(
    "forged", [b"V{", b"V" + b"[" * 100_000, b"Vnull trailing", b"V1e999", b"V" + b"9" * 400]
)
async def test_a_forged_result_is_no_more_than_a_wrong_result(
    executor: CodeExecutor, forged: bytes
) -> None:
    code = f"""
import os
for descriptor in range(3, 256):
    try:
        os.write(descriptor, {forged!r})
    except OSError:
        pass
os._exit(0)
"""
    outcome = await outcome_of(executor, code)
    if isinstance(outcome, Failed):
        assert outcome.code == "code_failed"
    else:
        assert isinstance(outcome.value, float)


DEAF = """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True: pass
"""


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        DEAF,
        "import os\nwhile True:\n    if os.fork(): os._exit(0)",
        "import os, signal\nos.kill(0, signal.SIGSTOP)",
        "'a' * (1 << 28) in 'a' * (1 << 27) or (10 ** 10_000_000) ** 100",
    ],
    ids=["busy", "deaf", "always another process", "stopped", "one endless operation"],
)
async def test_nothing_outlives_its_time(executor: CodeExecutor, code: str) -> None:
    mark = new_mark()
    began = trio.current_time()
    outcome = await outcome_of(executor, marking(mark) + code, timeout_s=1)
    assert trio.current_time() - began < 3
    # Once the first process ends, its orphans end with it, and nothing says that it failed.
    assert isinstance(outcome, Completed) or outcome.code in ("timed_out", "out_of_memory")
    assert marked(mark) == []
