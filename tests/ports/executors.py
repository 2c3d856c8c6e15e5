"""What tests of executors share: a context that remembers, attempts, and a look at real processes.

Programs under test mark themselves with a name of their own (the kernel's `comm`, which every
process that they fork inherits), so that a test can tell from outside whether anything of *its*
program is still there, whatever else runs on the machine.
"""

from __future__ import annotations

import math
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from kowalski_executors import make_executors
from kowalski_node.executor import (
    Attempt,
    Completed,
    Executor,
    Failed,
    Outcome,
    Recorded,
    StepEnd,
)
from kowalski_protocol.errors import Problem

SANDBOXES: dict[str, dict[str, Any]] = {"warm": {}, "cold": {"warm": False}}
"""The ways in which a sandboxed program starts here, and how `CodeExecutor` is told so."""
CANCEL_S = 0.25
"""How long an executor may take to stop all that it began."""


async def know_languages() -> None:
    """Finds out which languages this machine runs, so that nodes that start here know at once."""
    with tempfile.TemporaryDirectory() as folder:
        for executor in make_executors(work_root=Path(folder)):
            await executor.probe_all()


class Recorder:
    """A context that keeps what was printed and hands out blobs that it was given."""

    def __init__(self, blobs: Mapping[str, Path] | None = None) -> None:
        self.blobs = dict(blobs or {})
        self.writes: list[tuple[str, bytes]] = []
        self.printed = trio.Event()
        self.history: list[Recorded] = []

    def write(self, stream: str, data: bytes) -> None:
        """Keeps a piece of output."""
        self.writes.append((stream, data))
        self.printed.set()

    def text(self, stream: str) -> bytes:
        """All that was printed on a stream so far."""
        return b"".join(data for name, data in self.writes if name == stream)

    async def open_blob(self, blob_hash: str) -> Path:
        """Returns a blob's file."""
        await trio.lowlevel.checkpoint()
        if blob_hash not in self.blobs:
            raise Problem("not_found", f"No live member has the blob {blob_hash}.")
        return self.blobs[blob_hash]

    async def store_blob(self, source: Path) -> str:
        """Keeps nothing."""
        raise Problem("not_found", f"Nothing is kept here, {source} neither.")

    async def step(self, name: str, task: Mapping[str, Any]) -> StepEnd:
        """Has no cluster to run it."""
        raise Problem("not_ready", f"Nothing runs the step {name} here, of {task.get('kind')}.")

    async def recorded(self) -> Sequence[Recorded]:
        """What the attempt's session has run before."""
        await trio.lowlevel.checkpoint()
        return self.history


def attempt(
    payload: Mapping[str, Any],
    *,
    kind: str = "code",
    timeout_s: float = 20.0,
    requires: Mapping[str, Any] | None = None,
) -> Attempt:
    """An attempt at a task with this payload."""
    return Attempt("task", secrets.token_hex(4), 1, kind, payload, requires or {}, timeout_s)


def python(code: str, **more: Any) -> dict[str, Any]:
    """The payload of a Python program."""
    return {"language": "python", "code": code, **more}


async def outcome_of(
    executor: Executor, code: str, *, timeout_s: float = 20, **more: Any
) -> Outcome:
    """How a Python program ends, which must not take much longer than it may."""
    task = attempt(python(code, **more), timeout_s=timeout_s)
    with trio.fail_after(timeout_s + 5):
        return await executor.run(task, Recorder())


async def completion(executor: Executor, code: str, **more: Any) -> Completed:
    """How a Python program ends that must end well."""
    outcome = await outcome_of(executor, code, **more)
    assert isinstance(outcome, Completed), outcome
    return outcome


async def answer(executor: Executor, code: str, **more: Any) -> Any:
    """The value of a Python program that must end well."""
    return (await completion(executor, code, **more)).value


async def failure(executor: Executor, code: str, **more: Any) -> Failed:
    """How a Python program ends that must not end well."""
    outcome = await outcome_of(executor, code, **more)
    assert isinstance(outcome, Failed), outcome
    return outcome


def new_mark() -> str:
    """A name for a program's processes that no others have, in the kernel's 15 characters."""
    return f"kx-{secrets.token_hex(5)}"


def marking(mark: str) -> str:
    """The line of Python by which a program takes its mark."""
    return f"open('/proc/self/comm', 'w').write({mark!r})\n"


def marked(mark: str) -> list[int]:
    """The processes of this machine that carry a mark."""
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if (folder / "comm").read_text().strip() == mark:
                    found.append(int(folder.name))
            except OSError:
                continue  # it ended meanwhile
    return found


def children() -> set[int]:
    """The processes that this very process started and has not waited for.

    Without what stands ready for the next program: a sandbox with its zygote, and of that one
    warden with the process that will become the program.
    """
    return {child for child in _children(os.getpid()) if not _stands_ready(child)}


def _children(process: int, ended: str = "X") -> set[int]:
    found: set[int] = set()
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            found |= {int(child) for child in (thread / "children").read_text().split()}
    return {child for child in found if _state(child) not in ended}


def _state(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return "X"


def _stands_ready(process: int) -> bool:
    with suppress(OSError):
        if b"CONTENT = marshal" not in Path(f"/proc/{process}/cmdline").read_bytes():
            return False
    line = 0
    # A zygote waits for none of its children: those that have ended are about to go.
    while children := _children(process, ended="XZ"):
        if len(children) > 1:
            return False
        (process,) = children
        line += 1
    return line <= 3


def open_descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(true: Callable[[], object], *, within_s: float = 10.0) -> None:
    """Returns when a predicate about the outside world holds; fails where it does not in time."""
    with trio.move_on_after(within_s):
        while not true():
            await trio.sleep(0.005)  # poll: the predicate
        return
    raise AssertionError(f"not true within {within_s} s")


async def quickest(measure: Callable[[], Any], tries: int = 3) -> float:
    """The shortest of a few measurements in seconds, so that a busy machine decides nothing."""
    best_s = math.inf
    for _ in range(tries):
        best_s = min(best_s, await measure())
    return best_s
