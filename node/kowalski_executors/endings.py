"""How a program's end is told: each way has its code and its sentence.

Every way in which a program can end has its row here, so that a person who reads the outcome knows
what to change.
"""

from __future__ import annotations

import re
import signal
from typing import Any, Final

import msgspec

from kowalski_executors.limits import MEBIBYTE, Limits
from kowalski_executors.supervisor import Cause, Ending
from kowalski_node.executor import Completed, Failed, Outcome

_TELLING: Final = (
    re.compile(r"^[\w.]*(?:Error|Exception)\b"),
    re.compile(r"\b\w*(?:[Ee]rror|Exception|panicked|fatal|not found)\b"),
)
"""What a line says that tells why a program of any language has ended, the surest first."""

_SENTENCE_LENGTH_MAX: Final = 500


def outcome_of(ending: Ending, limits: Limits) -> Outcome:
    """The outcome of a run."""
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


def built_of(ending: Ending) -> bytes | None:
    """What was built of a program, where all of it came."""
    frame = bytes(ending.frame)
    if not frame.startswith(b"P"):
        return None
    size, newline, built = frame[1:].partition(b"\n")
    return built if newline and size.isdigit() and int(size) == len(built) else None


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
        case Cause.FILES_REFUSED if ending.problem is not None:
            return ending.problem.code, ending.problem.sentence
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
        case b"C":
            return "code_failed", f"The program can't be compiled: {_told(ending)}"
        case b"X":
            status, _, said = text[:500].partition(" ")
            return "code_failed", f"The program left with status {status}" + (
                f": {said}" if said else "."
            )
        case _:
            return None if ending.status == 0 else _ended_silently(ending, limits)


def _told(ending: Ending) -> str:
    """The line of what a program printed that says best why it has ended; may be empty."""
    text = ending.stderr.decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for sign in _TELLING for line in lines if sign.search(line)]
    return (telling[0] if telling else lines[-1] if lines else "")[:_SENTENCE_LENGTH_MAX]


def _ended_silently(ending: Ending, limits: Limits) -> tuple[str, str]:
    """Returns code and sentence for a program that ended without the driver's having a word."""
    status = ending.status
    number = -status if status < 0 else status - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        told = _told(ending)
        return "code_failed", f"The program left with status {status}" + (
            f": {told}" if told else "."
        )
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
