"""The shell's hand on executors: what it tells the core of an attempt that can't be kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from kowalski_node.blobs import Blobs
from kowalski_node.core.effects import Start
from kowalski_node.core.inputs import AttemptEnded
from kowalski_node.executor import Completed, Recorded
from kowalski_node.runner import Runner
from kowalski_node.steps import Steps
from kowalski_node.views import TaskView
from kowalski_protocol.codec import decode_value, encode
from kowalski_protocol.errors import Problem
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.limits import LIMITS
from tests.ports.scripted_executor import Script, ScriptedExecutor

START = Start(TaskId(bytes(16)), EventHash(bytes(32)), 1, "tool", {}, 10.0, Author(bytes(32)), 1)


class FullDisk(Blobs):
    """A store on a disk without room."""

    async def store_bytes(self, data: bytes) -> str:
        raise Problem("disk_full", "There is no room.")


async def ended(blobs: Blobs, value: Any) -> AttemptEnded:
    executor = ScriptedExecutor({"large": Script(Completed(value))})
    executor.name = "tool"
    told: list[AttemptEnded] = []
    came = trio.Event()

    def end(attempt: AttemptEnded) -> None:
        told.append(attempt)
        came.set()

    async def payload(_start: Start) -> bytes:
        return encode({"script": "large"})

    async def no_blob(blob_hash: str) -> Path:
        raise Problem("not_found", blob_hash)

    async def no_cells(_start: Start) -> list[Recorded]:
        return []

    async def no_task(task_id: str) -> TaskView:
        raise Problem("not_found", task_id)

    steps = Steps(lambda _step: None, no_task)
    runner = Runner([executor], blobs, LIMITS, end, payload, no_blob, no_cells, steps)
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.run)
        runner.start(START)
        with trio.fail_after(10):
            await came.wait()
        nursery.cancel_scope.cancel()
    return told[0]


async def test_a_large_result_becomes_a_blob(tmp_path: Path) -> None:
    attempt = await ended(Blobs(tmp_path), "x" * (LIMITS.attachment_size_bytes_max + 1))
    assert (attempt.ok, attempt.is_blob, attempt.result) == (True, True, b"")
    assert (tmp_path / attempt.result_hash.hex()).is_file()


async def test_a_result_that_the_disk_can_not_hold_ends_its_attempt(tmp_path: Path) -> None:
    attempt = await ended(FullDisk(tmp_path), "x" * (LIMITS.attachment_size_bytes_max + 1))
    assert (attempt.ok, attempt.code, attempt.is_blob) == (False, "disk_full", False)
    assert "There is no room." in str(decode_value(attempt.result))
