"""The `tool` executor: the built-in tools, each one function of its arguments.

A tool's arguments come from whoever submitted the task, so each tool names the arguments that it
takes and refuses all else with a sentence that names the wrong one. `echo` is also the yardstick of
the whole system, thousands of times a second; it is answered before anything else is looked at,
without a checkpoint.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import trio

from kowalski_executors.device_facts import device_facts
from kowalski_node.executor import Attempt, Capabilities, Completed, Context, Failed, Outcome
from kowalski_protocol.errors import Problem

_CHUNK_BYTES: Final = 1 << 20
"""Large enough that reading is not dominated by calls, small enough to stop within milliseconds."""

_ALGORITHMS: Final = ("sha256", "sha512", "blake2b")
_BLOB_HASH: Final = re.compile(r"[0-9a-f]{64}")
_NOTHING: Final[Mapping[str, Any]] = {}


class ToolExecutor:
    """Runs `tool` tasks: payload `{tool, args}`."""

    name = "tool"

    async def probe(self) -> Capabilities:
        """The tools need nothing of the device, so all of them are there."""
        return Capabilities(kinds=("tool",), tools=tuple(sorted(("echo", *_TOOLS))))

    async def probe_all(self) -> Capabilities:
        """There is nothing more to find out."""
        return await self.probe()

    async def run(self, attempt: Attempt, context: Context) -> Outcome:
        """Runs one tool to its end."""
        payload = attempt.payload
        arguments = payload.get("args", _NOTHING)
        tool = payload.get("tool")
        if tool == "echo" and len(payload) == 2:
            try:
                (name,) = arguments
                if name == "value":
                    return Completed(arguments[name])
            except (LookupError, TypeError, ValueError):
                pass  # told below, with a sentence
        try:
            return Completed(await _run(payload, attempt.timeout_s, context))
        except Problem as problem:
            return Failed(problem.code, problem.sentence)


async def _run(payload: Mapping[str, Any], timeout_s: float, context: Context) -> Any:
    for name in payload:
        if name not in ("tool", "args"):
            raise Problem("bad_request", f"A tool payload has no field {str(name)[:80]!r}.")
    tool = payload.get("tool")
    arguments = payload.get("args")
    if arguments is None:
        arguments = _NOTHING
    if not isinstance(arguments, Mapping):
        raise Problem("tool_failed", "args must be an object with a name for each argument.")
    if tool == "echo":
        return _take(arguments, "echo", needed=("value",))["value"]  # pyright: ignore[reportUnknownArgumentType]
    run = _TOOLS.get(tool) if isinstance(tool, str) else None
    if run is None:
        known = ", ".join(sorted(("echo", *_TOOLS)))
        raise Problem("unknown_tool", f"There is no tool {str(tool)[:80]!r}; there are {known}.")
    return await run(arguments, timeout_s, context)  # pyright: ignore[reportUnknownArgumentType]


async def _sleep(arguments: Mapping[str, Any], timeout_s: float, _context: Context) -> Any:
    """Waits, and says for how long it was asked to."""
    seconds = _take(arguments, "sleep", needed=("seconds",))["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise Problem("tool_failed", "The argument seconds of sleep must be a number.")
    try:
        duration_s = float(seconds)
    except OverflowError:
        duration_s = math.inf
    if not (math.isfinite(duration_s) and duration_s >= 0):
        raise Problem("tool_failed", "The argument seconds of sleep must be finite and 0 or more.")
    # The shell's deadline would cut it just the same, but without saying what was too long.
    if duration_s > timeout_s:
        await trio.sleep(max(timeout_s, 0))
        raise Problem("timed_out", f"sleep was cut at the attempt's {timeout_s:g} s.")
    await trio.sleep(duration_s)
    return {"slept_s": duration_s}


async def _hash(arguments: Mapping[str, Any], _timeout_s: float, context: Context) -> Any:
    """Hashes a blob, in a thread, in constant memory."""
    taken = _take(arguments, "hash", needed=("blob",), optional=("algorithm",))
    blob = taken["blob"]
    if not (isinstance(blob, str) and _BLOB_HASH.fullmatch(blob)):
        raise Problem(
            "tool_failed", "The argument blob of hash must be a SHA-256 of 64 small hex digits."
        )
    algorithm = taken.get("algorithm", "sha256")
    if algorithm not in _ALGORITHMS:
        raise Problem(
            "tool_failed", f"The argument algorithm of hash is one of {', '.join(_ALGORITHMS)}."
        )
    path = await context.open_blob(blob)
    stop = threading.Event()
    try:
        # When cancelled, the thread is left to itself; it ends with the chunk that it is at.
        digest, size_bytes = await trio.to_thread.run_sync(
            _digest, path, algorithm, stop, abandon_on_cancel=True
        )
    except OSError as error:
        raise Problem("tool_failed", f"The blob can't be read: {error.strerror}.") from error
    finally:
        stop.set()
    return {"algorithm": algorithm, "digest": digest, "size": size_bytes}


def _digest(path: Path, algorithm: str, stop: threading.Event) -> tuple[str, int]:
    state = hashlib.new(algorithm, usedforsecurity=False)
    size_bytes = 0
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while not stop.is_set() and (count := file.readinto(buffer)):
            state.update(view[:count])
            size_bytes += count
    return state.hexdigest(), size_bytes


async def _device_info(arguments: Mapping[str, Any], _timeout_s: float, _context: Context) -> Any:
    """Says what this device is, without naming it."""
    _take(arguments, "device_info")
    return await trio.to_thread.run_sync(device_facts)


def _take(
    arguments: Mapping[str, Any],
    tool: str,
    *,
    needed: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
) -> Mapping[str, Any]:
    """Returns the arguments if all that are needed are there and no others; raises Problem
    otherwise."""
    for name in needed:
        if name not in arguments:
            raise Problem("tool_failed", f"The tool {tool} needs the argument {name}.")
    for name in arguments:
        if name not in needed and name not in optional:
            raise Problem("tool_failed", f"The tool {tool} takes no argument {str(name)[:80]!r}.")
    return arguments


_Tool = Callable[[Mapping[str, Any], float, Context], Awaitable[Any]]
_TOOLS: Final[Mapping[str, _Tool]] = {
    "sleep": _sleep,
    "hash": _hash,
    "device_info": _device_info,
}
