"""What tests of sessions share: somebody who talks to one, cell by cell, and writes down what a
ledger would."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from kowalski_executors.code_executor import CodeExecutor
from kowalski_node.executor import (
    Attempt,
    Completed,
    Failed,
    Outcome,
    Recorded,
    encode_result,
)
from tests.ports.executors import Recorder


@asynccontextmanager
async def served(executor: CodeExecutor) -> AsyncIterator[CodeExecutor]:
    """An executor that is looked after, as in a node; afterwards no session of it is left."""
    if "bash" not in (await executor.probe()).languages:
        await executor.probe_all()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(executor.serve)
        try:
            yield executor
        finally:
            nursery.cancel_scope.cancel()


class Talk:
    """One session, as its person has it: the cells come one after the other."""

    def __init__(self, executor: CodeExecutor, language: str = "python") -> None:
        self.executor = executor
        self.language = language
        self.name = secrets.token_hex(4)
        self.recorded: list[Recorded] = []
        self.context = Recorder()
        self.asked = 0
        """How often an attempt has asked for the recorded cells."""

    async def tell(
        self,
        code: str,
        *,
        timeout_s: float = 20.0,
        requires: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Outcome:
        """Runs the next cell, which must not take much longer than it may."""
        payload = {"language": self.language, "code": code, **more}
        task = self.next(payload, timeout_s, requires or {})
        outcome: Outcome = Failed("cancelled", "")
        try:
            with trio.fail_after(timeout_s + 5):
                outcome = await self.executor.run(task, self.context)
        finally:
            self.note(task, outcome)
        return outcome

    def next(
        self, payload: Mapping[str, Any], timeout_s: float, requires: Mapping[str, Any]
    ) -> Attempt:
        """The attempt at the next cell."""
        after = self.recorded[-1].attempt if self.recorded else ""
        number = len(self.recorded) + 1
        talk = self

        class Context(Recorder):
            async def recorded(self) -> list[Recorded]:
                talk.asked += 1
                await trio.lowlevel.checkpoint()
                return [*talk.recorded]

        self.context = Context()
        attempt = secrets.token_hex(4)
        return Attempt(
            "task", attempt, 1, "code", payload, requires, timeout_s, self.name, number, after
        )

    def note(self, task: Attempt, outcome: Outcome) -> None:
        """Writes down how a cell ended."""
        is_whole = isinstance(outcome, Completed) or outcome.code == "code_failed"
        digest = hashlib.sha256(encode_result(outcome) or b"").digest()
        self.recorded.append(
            Recorded(task.cell, task.attempt, task.payload, task.requires, is_whole, digest)
        )

    async def value(self, code: str, **more: Any) -> Any:
        """The value of a cell that must end well."""
        return (await self.completed(code, **more)).value

    async def completed(self, code: str, **more: Any) -> Completed:
        """How a cell ends that must end well."""
        outcome = await self.tell(code, **more)
        assert isinstance(outcome, Completed), outcome
        return outcome

    async def failed(self, code: str, **more: Any) -> Failed:
        """How a cell ends that must not end well."""
        outcome = await self.tell(code, **more)
        assert isinstance(outcome, Failed), outcome
        return outcome
