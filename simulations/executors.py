"""The scripted executors of a simulated device: a task's payload says what its run does.

`{"tool": "echo" | "sleep", "args": {"seconds": s, "fails": n, "kills": bool, "size": bytes}}`, and
the same as `script` in the payload of a session's cell: it takes so long, fails in its first n
attempts, takes its device down, or brings a result of a size. Anything else that the payload says
is not looked at.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.codec import encode
from kowalski_protocol.events import Result
from kowalski_protocol.limits import LIMITS


class Script(NamedTuple):
    """What a run does."""

    seconds: float
    fails: int
    kills: bool
    size_bytes: int


class Running(NamedTuple):
    """An attempt that runs."""

    order: fx.Start
    script: Script
    rebuilt: ins.Rebuilt | None
    began_s: float
    started_ms: int


def script_of(payload: dict[str, Any]) -> Script:
    """What a payload asks for; a graph, nothing but that its tasks are run."""
    args: dict[str, Any] = payload.get("args") or payload.get("script") or {}
    return Script(
        float(args.get("seconds", 0.001)),
        int(args.get("fails", 0)),
        bool(args.get("kills", False)),
        int(args.get("size", 0)),
    )


def ended(run: Running, *, code: str, run_s: float) -> ins.AttemptEnded:
    """What the shell tells the core of a run that has ended; an empty code is success."""
    order, script = run.order, run.script
    failed = code or ("failed" if order.number <= script.fails else "")
    value = "x" * script.size_bytes if not failed else None
    result = encode(Result(not failed, value, code=failed))
    is_blob = len(result) > LIMITS.attachment_size_bytes_max
    return ins.AttemptEnded(
        order.attempt,
        not failed,
        failed,
        b"" if is_blob else result,
        hashlib.sha256(result).digest(),
        is_blob,
        run.started_ms,
        int(run_s * 1e6),
        len(result),
        run.rebuilt,
    )
