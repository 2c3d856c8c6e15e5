"""One demo from the options to the exit code: where it is shown, what came of it, who is told."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import trio

from kowalski_gateway.interruption import (
    Interrupted,
    run_interruptibly,
    temporary_folder,
)
from kowalski_gateway.local_cluster import NodeFailed
from kowalski_protocol.errors import Problem

from .evidence import judge
from .stage import LineStage, SilentStage, Stage, TerminalStage
from .story import Story
from .summary import Summary, print_summary, summarise

TASKS_DEFAULT: Final = 400
DEADLINE_S: Final = 170.0
"""Several times what it takes on a slow machine: past it something hangs, and that is a failure."""
EXIT_BROKEN: Final = 1
EXIT_INTERRUPTED: Final = 130


def run(options: Mapping[str, Any]) -> int:
    """See `run_demo`. Raises `Problem` where the demo can't be played here."""
    as_json = bool(options.get("json"))
    keep = bool(options.get("keep"))
    count = int(options.get("tasks") or TASKS_DEFAULT)

    async def perform() -> Summary:
        return await _perform(_stage(as_json), count, keep=keep)

    try:
        summary = run_interruptibly(perform)
    except Interrupted:
        sys.stderr.write("Interrupted; no process and no folder is left.\n")
        return EXIT_INTERRUPTED
    except NodeFailed as error:
        raise Problem("internal", f"The demo broke off: {error}") from None
    if as_json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    else:
        print_summary(summary, _console())
    return 0 if summary.ok else EXIT_BROKEN


async def _perform(stage: Stage, count: int, *, keep: bool) -> Summary:
    began_s = time.monotonic()
    with temporary_folder("kowalski-demo-", keep=keep) as folder, stage:
        with trio.move_on_after(DEADLINE_S) as scope:
            evidence = await Story(stage, folder, count).play()
            promises = await trio.to_thread.run_sync(judge, evidence)
            if keep:
                stage.note(f"the homes and ledgers are in {folder}")
            return summarise(evidence, promises, time.monotonic() - began_s)
        assert scope.cancelled_caught
        raise Problem("timed_out", f"The demo did not come to its end within {DEADLINE_S:g} s.")


def _stage(as_json: bool) -> Stage:
    if as_json:
        return SilentStage()
    return TerminalStage(_console()) if sys.stdout.isatty() else LineStage()


def _console() -> Any:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 100
    return Console(markup=False, highlight=False, emoji=False, width=width)
