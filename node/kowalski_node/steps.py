"""The shell's part of an attempt's children: asks the core for a step, and waits for its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from kowalski_protocol.errors import Problem
from kowalski_protocol.ids import EventHash
from kowalski_protocol.tasks import parse_task

from .core.effects import StepEnded, StepRefused
from .core.inputs import IssueStep
from .executor import OutputFile, StepEnd
from .views import TaskView


class _Waiting:
    def __init__(self) -> None:
        self.told = trio.Event()
        self.end: StepEnded | StepRefused | None = None


class Steps:
    """The steps for which attempts on this device wait."""

    def __init__(
        self, feed: Callable[[IssueStep], None], task: Callable[[str], Awaitable[TaskView]]
    ) -> None:
        self._feed = feed
        self._task = task
        self._waiting: dict[tuple[EventHash, str], _Waiting] = {}

    async def run(self, attempt: EventHash, name: str, task: Mapping[str, Any]) -> StepEnd:
        """Has a task run as a step of an attempt; returns how it ended."""
        submission = parse_task(task)
        key = (attempt, name)
        if key in self._waiting:
            raise Problem("bad_request", f"The step {name!r} was issued before.")
        waiting = self._waiting[key] = _Waiting()
        try:
            self._feed(IssueStep(attempt, name, submission))
            await waiting.told.wait()
        finally:
            del self._waiting[key]
        if isinstance(waiting.end, StepRefused):
            raise waiting.end.problem
        assert waiting.end is not None, "nobody is woken without an end"
        return await self._read(waiting.end)

    def ended(self, end: StepEnded | StepRefused) -> None:
        """Tells who waits for a step."""
        waiting = self._waiting.get((EventHash(end.attempt), end.name))
        if waiting is not None:
            waiting.end = end
            waiting.told.set()

    async def _read(self, end: StepEnded) -> StepEnd:
        id = end.child.hex()
        result = (await self._task(id)).result
        if result is None or (result.ok != (end.outcome == "completed")):
            return StepEnd(id, end.outcome, taken_over=end.taken)
        error = result.error
        return StepEnd(
            id,
            end.outcome,
            result.value,
            result.stdout,
            result.stderr,
            error.code if error is not None else "",
            error.message if error is not None else "",
            [OutputFile(file.path, file.blob, file.size_bytes) for file in result.files],
            end.taken,
        )
