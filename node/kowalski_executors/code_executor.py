"""The `code` executor: runs a program in a cell and says in one sentence how it ended.

It is the thin layer between a task's payload and the supervisor: the payload becomes a program and
limits, the ending becomes an outcome. Every way in which a program can end has its row here, so
that a person who reads the outcome knows what to change. Nothing that a payload or a program does
raises past `run`.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from kowalski_executors.confinement import Confinement
from kowalski_executors.limits import MEBIBYTE, Limits, limits_for
from kowalski_executors.payloads import Program, read_payload
from kowalski_executors.sandbox_probe import Probed, probe_sandbox, probe_unsandboxed
from kowalski_executors.supervisor import Cause, Ending, supervise
from kowalski_node.executor import Attempt, Capabilities, Completed, Context, Failed, Outcome
from kowalski_protocol.errors import Problem

_DRIVER_LEFT: Final = 125
"""The driver's own exit status when the node stopped speaking before the program was there."""


class CodeExecutor:
    """Runs `code` tasks written in Python, in a bubblewrap sandbox unless the owner wants none."""

    name = "code"

    def __init__(self, *, work_root: Path, unsandboxed: bool = False, warm: bool = True) -> None:
        self._work_root = work_root
        self._unsandboxed = unsandboxed
        self._warm = warm
        self._probing = trio.Lock()
        self._probed: Probed | None = None

    async def probe(self) -> Capabilities:
        """Runs a program, once, and says what it may count on. Returns within 5 s."""
        async with self._probing:
            if self._probed is None:
                if self._unsandboxed:
                    self._probed = await probe_unsandboxed(self._work_root)
                else:
                    self._probed = await probe_sandbox(self._work_root, warm=self._warm)
        return self._probed.capabilities

    async def run(self, attempt: Attempt, context: Context) -> Outcome:
        """Runs one program to its end; when cancelled, nothing of it runs any more."""
        if self._probed is None:
            await self.probe()
        assert self._probed is not None
        confinement = self._probed.confinement
        if confinement is None:
            problems = self._probed.capabilities.problems
            return Failed("sandbox_unavailable", " ".join(problems))
        try:
            program = read_payload(attempt.payload)
            limits = limits_for(attempt.requires, attempt.timeout_s)
            if not limits.wall_s > 0:
                return Failed("timed_out", "The attempt has no time left.")
            return await self._run(confinement, program, limits, context)
        except Problem as problem:
            return Failed(problem.code, problem.sentence)

    async def _run(
        self, confinement: Confinement, program: Program, limits: Limits, context: Context
    ) -> Outcome:
        ending = await supervise(confinement, program, limits, context)
        stdout = ending.stdout.decode("utf-8", "replace")
        stderr = ending.stderr.decode("utf-8", "replace")
        failure = _stopped(ending, limits) if ending.cause is not None else _failed(ending, limits)
        if failure is not None:
            code, sentence = failure
            return Failed(code, sentence, stdout, stderr)
        try:
            return Completed(_value(ending), stdout, stderr)
        except ValueError as error:
            return Failed("code_failed", f"The program gave back no JSON: {error}", stdout, stderr)


def _stopped(ending: Ending, limits: Limits) -> tuple[str, str]:
    """Returns code and sentence for a program that was stopped from outside, or never started."""
    mebibytes = limits.memory_bytes // MEBIBYTE
    output_kib = limits.output_bytes >> 10
    match ending.cause:
        case Cause.TIMED_OUT:
            return "timed_out", (
                f"The program ran past its {limits.wall_s:g} s. The task's timeout_s asks for more."
            )
        case Cause.OUT_OF_MEMORY:
            return "out_of_memory", (
                f"The program's processes and files used more than {mebibytes} MiB of memory."
                " requires.memory_mb asks for more."
            )
        case Cause.OUTPUT_TOO_LARGE:
            return "output_too_large", (
                f"The program printed more than {output_kib} KiB on {ending.detail}."
            )
        case Cause.VALUE_TOO_LARGE:
            return "output_too_large", _value_sentence(limits)
        case Cause.TOO_MANY_PROCESSES:
            return "code_failed", (
                f"The program had more than {limits.processes} processes and threads at once."
            )
        case Cause.TOO_MANY_FILES:
            return "code_failed", f"The program made more than {limits.files} files."
        case _:
            said = ending.detail or ending.stderr.decode("utf-8", "replace").strip()
            return "sandbox_unavailable", (
                f"The program could not be started: {said[-300:] or 'no reason was given'}"
            )


def _failed(ending: Ending, limits: Limits) -> tuple[str, str] | None:
    """Returns code and sentence for a program that ended itself badly, or None where it ended
    well."""
    tag, text = bytes(ending.frame[:1]), ending.frame[1:].decode("utf-8", "replace")
    match tag:
        case b"L":
            return "output_too_large", _value_sentence(limits)
        case b"M":
            mebibytes = limits.memory_bytes // MEBIBYTE
            return "out_of_memory", (
                f"The program needed more than its {mebibytes} MiB of memory ({text[:500]})."
                " requires.memory_mb asks for more."
            )
        case b"E":
            return "code_failed", text[:500]
        case b"X":
            status, _, said = text[:500].partition(" ")
            return "code_failed", f"The program left with status {status}" + (
                f": {said}" if said else "."
            )
        case _:
            return None if ending.status == 0 else _ended_silently(ending.status, limits)


def _ended_silently(status: int, limits: Limits) -> tuple[str, str]:
    """Returns code and sentence for a program that ended without the driver's having a word."""
    number = -status if status < 0 else status - 128
    if status == _DRIVER_LEFT:
        return "executor_failed", "The program did not reach its sandbox."
    try:
        name = signal.Signals(number).name
    except ValueError:
        return "code_failed", f"The program ended with status {status}."
    if number == signal.SIGXCPU:
        return "timed_out", f"The program used more than {limits.cpu_s} s of processor time."
    if number == signal.SIGKILL:
        return "code_failed", (
            "The program was killed (SIGKILL): by itself, or by the kernel because the device ran"
            " out of memory."
        )
    return "code_failed", f"The program was ended by signal {number} ({name})."


def _value_sentence(limits: Limits) -> str:
    return f"The value is longer than {limits.value_bytes >> 10} KiB as JSON; store it as a blob."


def _value(ending: Ending) -> Any:
    """Returns the value that the driver sent. The program could have forged it, so it is checked.

    Raises ValueError where it is not JSON that everything behind can carry.
    """
    if not ending.frame.startswith(b"V"):
        return None
    try:
        value = msgspec.json.decode(memoryview(ending.frame)[1:])
        msgspec.msgpack.encode(value)  # whole numbers that fit, no depth beyond bounds
    except (msgspec.MsgspecError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return value
