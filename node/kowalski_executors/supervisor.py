"""Runs one program in a cell to its end: feeds it, streams what it prints, watches it, and ends it.

Five tasks share one nursery: two read the standard streams, one speaks with the driver, one feeds
the standard input, one watches time and memory. Whoever finds a limit broken names the cause (the
first one counts) and kills the cell; the streams then end by themselves, so that what the program
had printed is not lost. When `supervise` returns or is cancelled, nothing of the program runs any
more: after the kill it waits for the end of the last process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

import trio

from kowalski_executors.confinement import Cell, Confinement, Ends
from kowalski_executors.languages import Job
from kowalski_executors.limits import OPEN_FILES_MAX, STACK_BYTES, Limits
from kowalski_executors.output_files import OutputFiles
from kowalski_executors.program_files import NO_FILES, Files
from kowalski_executors.usage import measure
from kowalski_node.executor import Output
from kowalski_protocol.errors import Problem

_CHUNK_BYTES: Final = 64 << 10
_FRAME_SLACK_BYTES: Final = 1 << 10
"""The tags of frames and the sentences that are not values."""

WATCH_FIRST_S: Final = 0.05
_WATCH_EVERY_S: Final = 0.1
_WATCH_CLOSELY_S: Final = 0.025
"""How often a program is looked at that uses more than a quarter of its memory: many processes
together fill a gigabyte in a tenth of a second."""

_WATCH_COST_SHARE: Final = 10
"""A measurement is followed by at least this many times its own duration."""

KILL_PATIENCE_S: Final = 0.15
"""How long a kill may take before it is repeated with more force: well within the 250 ms of a
cancel."""

_KILL_GIVE_UP_S: Final = 5.0
"""Past this a process hangs in the kernel (a dead disk), and nobody can end it."""

_DRAIN_S: Final = 1.0
"""How long output may still come after the last process has ended."""

_DRAIN_FILES_S: Final = 10.0
"""The same where files come as well: a pipe's content has to be written to a disk, which may be
slow."""


_OWN_TASKS: Final = 2
"""The warden is not the program's; one more, so that the kernel's own limit comes first."""


class Cause(Enum):
    """Why a program was stopped, or did not start."""

    NOT_STARTED = auto()
    TIMED_OUT = auto()
    OUT_OF_MEMORY = auto()
    OUTPUT_TOO_LARGE = auto()
    VALUE_TOO_LARGE = auto()
    TOO_MANY_PROCESSES = auto()
    TOO_MANY_FILES = auto()
    FILES_REFUSED = auto()


@dataclass(slots=True)
class Ending:
    """How a run ended. `status` is an exit status, 128 + a signal's number, or negative for a
    signal."""

    status: int = 0
    cause: Cause | None = None
    detail: str = ""
    problem: Problem | None = None
    """Why the files that it left are refused."""
    frame: bytearray = field(default_factory=bytearray)
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)


async def supervise(
    confinement: Confinement, job: Job, limits: Limits, context: Output, files: Files = NO_FILES
) -> Ending:
    """Runs a program and returns how it ended; never raises for anything that the program does."""
    try:
        async with confinement.open(limits, files.inputs) as cell:
            return await _Run(cell, files.job(job), limits, context, files.outputs).run()
    except OSError as error:  # no descriptors or no processes left: the device's trouble
        return Ending(cause=Cause.NOT_STARTED, detail=str(error))


class _Run:
    def __init__(
        self,
        cell: Cell,
        job: Job,
        limits: Limits,
        context: Output,
        outputs: OutputFiles | None,
    ) -> None:
        self._outputs = outputs
        self._cell = cell
        self._job = job
        self._limits = limits
        self._context = context
        self._ending = Ending()
        self._stands = trio.Event()

    async def run(self) -> Ending:
        with ExitStack() as closing:
            streams = await self._start(closing)
            try:
                async with trio.open_nursery() as readers:
                    readers.start_soon(self._read_output, streams, "stdout", self._ending.stdout)
                    readers.start_soon(self._read_output, streams, "stderr", self._ending.stderr)
                    readers.start_soon(self._converse, streams)
                    async with trio.open_nursery() as background:
                        background.start_soon(self._watch)
                        background.start_soon(self._keep_deadline)
                        background.start_soon(self._feed, streams["stdin"])
                        self._ending.status = await self._cell.wait()
                        background.cancel_scope.cancel()
                    drain_s = _DRAIN_S if self._outputs is None else _DRAIN_FILES_S
                    readers.cancel_scope.deadline = trio.current_time() + drain_s
            finally:
                with trio.CancelScope(shield=True):
                    await self._end(streams["result"])
        return self._ending

    async def _start(self, closing: ExitStack) -> dict[str, trio.lowlevel.FdStream]:
        """Starts the driver and returns the node's ends of its pipes, closed by `closing`."""
        streams: dict[str, trio.lowlevel.FdStream] = {}
        with ExitStack() as theirs:

            def pipe(name: str, *, to_program: bool) -> int:
                read, write = os.pipe2(os.O_CLOEXEC)
                mine, other = (write, read) if to_program else (read, write)
                theirs.callback(os.close, other)
                streams[name] = trio.lowlevel.FdStream(mine)
                closing.callback(streams[name].close)
                return other

            ends = Ends(
                stdin=pipe("stdin", to_program=True),
                stdout=pipe("stdout", to_program=False),
                stderr=pipe("stderr", to_program=False),
                request=pipe("request", to_program=True),
                result=pipe("result", to_program=False),
            )
            counts = self._cell.kernel_counts_processes
            bounds = kernel_limits(self._limits, counts, self._job.reserves_addresses)
            sizes = (self._limits.value_bytes, self._job.kept_bytes_max)
            await self._cell.start(ends, [*map(str, sizes), *bounds])
        return streams

    async def _read_output(
        self, streams: Mapping[str, trio.lowlevel.FdStream], name: str, kept: bytearray
    ) -> None:
        stream = streams[name]
        while chunk := await stream.receive_some(_CHUNK_BYTES):
            room = self._limits.output_bytes - len(kept)
            if room > 0:
                self._context.write(name, chunk[:room])
                kept += chunk[:room]
            if len(chunk) > room:
                self._stop(Cause.OUTPUT_TOO_LARGE, name)
                return

    async def _converse(self, streams: Mapping[str, trio.lowlevel.FdStream]) -> None:
        """Hands over the program once the driver stands, and keeps what comes back."""
        result = streams["result"]
        if await result.receive_some(1) != b"R":
            # It ended before the driver ran: what it said about that is on stderr.
            self._ending.cause = self._ending.cause or Cause.NOT_STARTED
            return
        await self._cell.stands()
        self._stands.set()
        job = self._job
        head = b" ".join([job.mode, *(b"%d" % len(part) for part in job.parts)])
        with suppress(trio.BrokenResourceError):
            await streams["request"].send_all(b"".join([head, b"\n", *job.parts]))
        streams["request"].close()
        frame = self._ending.frame
        room = max(self._limits.value_bytes, job.kept_bytes_max) + _FRAME_SLACK_BYTES
        while chunk := await result.receive_some(_CHUNK_BYTES):
            if self._outputs is not None:
                chunk = await self._outputs.take(bytes(chunk))
                if self._outputs.problem is not None:
                    self._ending.problem = self._outputs.problem
                    self._stop(Cause.FILES_REFUSED)
                    return
            frame += chunk
            if len(frame) > room:
                frame.clear()
                self._stop(Cause.VALUE_TOO_LARGE)
                return

    async def _feed(self, stdin: trio.lowlevel.FdStream) -> None:
        with suppress(trio.BrokenResourceError):
            if self._job.stdin:
                await stdin.send_all(self._job.stdin)
        stdin.close()

    async def _keep_deadline(self) -> None:
        await trio.sleep(self._limits.wall_s)
        self._stop(Cause.TIMED_OUT)

    async def _watch(self) -> None:
        # Before, process 1 still has the device's own root, and with it the device's own /proc.
        await self._stands.wait()
        await trio.sleep(WATCH_FIRST_S)
        while True:
            seen = look(self._cell, self._limits)
            if seen.cause is not None:
                self._stop(seen.cause)
            await trio.sleep(seen.pause_s)

    def _stop(self, cause: Cause, detail: str = "") -> None:
        if self._ending.cause is None:
            self._ending.cause = cause
            self._ending.detail = detail
        self._cell.kill()

    async def _end(self, result: trio.lowlevel.FdStream) -> None:
        """Kills what is left; called when all is over and when the run is cancelled."""
        await end_cell(self._cell, None if self._stands.is_set() else result)


async def end_cell(cell: Cell, holds: trio.lowlevel.FdStream | None) -> int | None:
    """Kills what is in a cell and waits for its end; returns its status where it has one.

    A process that was killed before it was known here holds the result pipe until it is gone, so
    with that (`holds`) it is waited for.
    """
    cell.kill()
    status = None
    for patience_s in (KILL_PATIENCE_S, _KILL_GIVE_UP_S):
        with trio.move_on_after(patience_s):
            status = await cell.wait()
            while holds is not None and await holds.receive_some(_CHUNK_BYTES):
                pass
            break
        cell.kill(insist=True)
    return status


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look into a cell has shown."""

    cause: Cause | None
    """Which bound is broken."""
    tasks: int
    """Processes and threads in it, the warden's among them."""
    pause_s: float
    """After which time it is to be looked at again."""


def look(cell: Cell, limits: Limits) -> Seen:
    """Measures what a cell uses. It must stand."""
    began = trio.current_time()
    usage = measure(cell.process_folders(), cell.volumes(), limits.memory_bytes)
    cause = None
    if usage.memory_bytes > limits.memory_bytes:
        cause = Cause.OUT_OF_MEMORY
    elif usage.tasks > limits.processes + _OWN_TASKS:
        cause = Cause.TOO_MANY_PROCESSES
    elif usage.files > limits.files:
        cause = Cause.TOO_MANY_FILES
    cost_s = trio.current_time() - began
    closely = usage.memory_bytes > limits.memory_bytes // 4
    pause_s = _WATCH_CLOSELY_S if closely else _WATCH_EVERY_S
    return Seen(cause, usage.tasks, max(pause_s, _WATCH_COST_SHARE * cost_s))


def kernel_limits(limits: Limits, count_processes: bool, reserves_addresses: bool) -> list[str]:
    """Returns what the driver sets by `setrlimit`, for each process alone."""
    bounds = {
        # What is mapped, or where that says nothing, what of it can be written to.
        "RLIMIT_DATA" if reserves_addresses else "RLIMIT_AS": limits.address_space_bytes,
        "RLIMIT_CPU": limits.cpu_s,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": limits.work_folder_bytes,
        "RLIMIT_MEMLOCK": 1 << 16,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_NOFILE": OPEN_FILES_MAX,
        "RLIMIT_SIGPENDING": 128,
        "RLIMIT_STACK": STACK_BYTES,
    }
    if count_processes:
        bounds["RLIMIT_NPROC"] = limits.processes
    return [f"{name}={bound}" for name, bound in bounds.items()]
