"""The shell's hand on executors: runs attempts, keeps what they print, and tells the core how they
ended.

The core decides what starts; here it is decoded, awaited inside a cancel scope with its deadline,
and its outcome is encoded. A result beyond the size of an attachment becomes a blob. What a run
prints is kept in a bounded window while it runs and a little longer, for `kowalski logs`.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import trio

from kowalski_protocol.codec import Malformed, decode_value
from kowalski_protocol.errors import Problem
from kowalski_protocol.ids import EventHash
from kowalski_protocol.limits import Limits

from .blobs import Blobs, read_file
from .core.effects import Start
from .core.inputs import AttemptEnded, Rebuilt
from .executor import (
    Attempt,
    Completed,
    Context,
    Executor,
    Failed,
    Outcome,
    Recorded,
    StepEnd,
    encode_result,
)
from .executor import Rebuilt as RebuiltHere
from .steps import Steps

_log = logging.getLogger("kowalski.runner")

OUTPUT_WINDOW_BYTES = 256 * 1024
"""What is kept of one attempt's output while it runs."""
CELLS_TOLD_MAX = 1000
"""How many cells of each sort the event names that tells of a session made anew."""
FINISHED_OUTPUTS_MAX = 64
"""Of how many ended attempts the output window is kept."""


class OutputWindow:
    """The newest output of one attempt, with offsets that count from its start."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[int, str, bytes]] = deque()
        self._size = 0
        self.end = 0
        self.running = True
        self._changed = trio.Event()

    def write(self, stream: str, data: bytes) -> None:
        """Adds output; forgets the oldest past the bound."""
        self._chunks.append((self.end, stream, data))
        self.end += len(data)
        self._size += len(data)
        while self._size > OUTPUT_WINDOW_BYTES and len(self._chunks) > 1:
            self._size -= len(self._chunks.popleft()[2])
        self._wake()

    def close(self) -> None:
        """No more will come."""
        self.running = False
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Waits for more output, or its end."""
        if self.running:
            await self._changed.wait()

    def after(self, offset: int) -> list[tuple[str, bytes]]:
        """What is kept from `offset` on."""
        return [
            (stream, data[max(0, offset - start) :])
            for start, stream, data in self._chunks
            if start + len(data) > offset
        ]


class _Context:
    """What one attempt may ask of the device (see `executor.Context`)."""

    def __init__(self, runner: Runner, start: Start, window: OutputWindow) -> None:
        self._runner = runner
        self._start = start
        self._window = window

    def write(self, stream: str, data: bytes) -> None:
        self._window.write(stream, data)

    async def open_blob(self, blob_hash: str) -> Path:
        return await self._runner.open_blob(blob_hash)

    async def store_blob(self, source: Path) -> str:
        return (await self._runner.blobs.store(read_file(source)))[0]

    async def step(self, name: str, task: Mapping[str, Any]) -> StepEnd:
        return await self._runner.steps.run(self._start.attempt, name, task)

    async def recorded(self) -> Sequence[Recorded]:
        return await self._runner.recorded(self._start)


@runtime_checkable
class Serving(Protocol):
    """An executor that has something to look after between attempts."""

    async def serve(self) -> None:
        """Looks after it until cancelled; then nothing of it is left."""
        ...


class Runner:
    """All attempts that run on this device."""

    def __init__(
        self,
        executors: Sequence[Executor],
        blobs: Blobs,
        limits: Limits,
        ended: Callable[[AttemptEnded], None],
        payload: Callable[[Start], Awaitable[bytes | None]],
        open_blob: Callable[[str], Awaitable[Path]],
        recorded: Callable[[Start], Awaitable[Sequence[Recorded]]],
        steps: Steps,
    ) -> None:
        self._executors = {executor.name: executor for executor in executors}
        self.blobs = blobs
        self._limits = limits
        self._ended = ended
        self._payload = payload
        self.open_blob = open_blob
        self.recorded = recorded
        self.steps = steps
        self._scopes: dict[EventHash, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self.outputs: OrderedDict[EventHash, OutputWindow] = OrderedDict()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Owns the attempts until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for executor in self._executors.values():
                if isinstance(executor, Serving):
                    nursery.start_soon(executor.serve)
            task_status.started()
            await trio.sleep_forever()

    def start(self, start: Start) -> None:
        """Begins an attempt; its `AttemptEnded` follows in any case."""
        assert self._nursery is not None
        self._nursery.start_soon(self._run, start)

    def stop(self, attempt: EventHash) -> None:
        """Ends a running attempt."""
        scope = self._scopes.get(attempt)
        if scope is not None:
            scope.cancel()

    async def _run(self, start: Start) -> None:
        started_ms = time.time_ns() // 1_000_000
        began = time.perf_counter()
        window = self.outputs[start.attempt] = OutputWindow()
        while (
            len(self.outputs) > FINISHED_OUTPUTS_MAX
            and not next(iter(self.outputs.values())).running
        ):
            self.outputs.popitem(last=False)
        outcome: Outcome = Failed("cancelled", "The task was cancelled.")
        with trio.CancelScope() as scope:
            self._scopes[start.attempt] = scope
            try:
                outcome = await self._outcome(start, _Context(self, start, window))
            finally:
                del self._scopes[start.attempt]
                window.close()
        run_us = int((time.perf_counter() - began) * 1e6)
        self._ended(await self._encode(start, outcome, started_ms, run_us))

    async def _outcome(self, start: Start, context: Context) -> Outcome:
        executor = self._executors.get(start.kind)
        if executor is None:
            return Failed("unknown_kind", f"This device runs no {start.kind} tasks.")
        payload = await self._payload(start)
        if payload is None:
            return Failed("not_found", "The task's payload is not in this device's ledger.")
        try:
            value = decode_value(payload)
        except Malformed:
            value = None
        if not isinstance(value, Mapping):
            return Failed("bad_request", "The task's payload is not an object.")
        attempt = Attempt(
            start.task.hex(),
            start.attempt.hex(),
            start.number,
            start.kind,
            value,  # pyright: ignore[reportUnknownArgumentType]
            start.requires,
            start.timeout_s,
            start.session,
            start.cell,
            start.after.hex(),
        )
        outcome: Outcome = Failed(
            "timed_out", f"The attempt ran longer than its {start.timeout_s:g} s."
        )
        with trio.move_on_after(start.timeout_s):
            try:
                outcome = await executor.run(attempt, context)
            except Problem as problem:
                outcome = Failed(problem.code, problem.sentence)
            except Exception:  # guard: one executor's mistake must not end the node
                _log.exception("executor %s failed", executor.name)
                outcome = Failed(
                    "executor_failed", "The executor failed; the device's log says how."
                )
        return outcome

    async def _encode(
        self, start: Start, outcome: Outcome, started_ms: int, run_us: int
    ) -> AttemptEnded:
        rebuilt = outcome.rebuilt
        result = encode_result(outcome)
        if result is None or len(result) > self._limits.result_size_bytes_max:
            outcome = Failed(
                "output_too_large",
                "The result can't be sent: it is not JSON-like, or larger than"
                f" {self._limits.result_size_bytes_max // 2**20} MiB.",
            )
            result = encode_result(outcome)
            assert result is not None
        is_blob = len(result) > self._limits.attachment_size_bytes_max
        if is_blob:
            try:
                await self.blobs.store_bytes(result)
            except Problem as problem:
                outcome, is_blob = Failed(problem.code, problem.sentence), False
                result = encode_result(outcome)
                assert result is not None
        return AttemptEnded(
            attempt=start.attempt,
            ok=isinstance(outcome, Completed),
            code="" if isinstance(outcome, Completed) else outcome.code,
            result=b"" if is_blob else result,
            result_hash=hashlib.sha256(result).digest(),
            is_blob=is_blob,
            started_ms=started_ms,
            run_us=run_us,
            result_size_bytes=len(result),
            rebuilt=_told(rebuilt),
            files=_blobs(outcome),
        )


def _blobs(outcome: Outcome) -> tuple[bytes, ...]:
    files = outcome.files if isinstance(outcome, Completed) else ()
    return tuple(dict.fromkeys(bytes.fromhex(file.blob) for file in files))


def _told(rebuilt: RebuiltHere | None) -> Rebuilt | None:
    if rebuilt is None:
        return None
    diverged, passed_over = (
        tuple(cells[:CELLS_TOLD_MAX]) for cells in (rebuilt.diverged, rebuilt.passed_over)
    )
    return Rebuilt(rebuilt.replayed, diverged, passed_over)
