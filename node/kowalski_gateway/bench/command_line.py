"""How long a person waits for `kowalski --help`: the interpreter's start and our imports."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import trio

from .quantiles import median, spread
from .session import Session, Unmeasurable


async def measure(session: Session) -> None:
    """Reports `command_line`."""
    samples_ms: list[float] = []
    for _ in range(session.times(21, 7)):
        began_s = time.perf_counter()
        done = await trio.to_thread.run_sync(_help)
        samples_ms.append((time.perf_counter() - began_s) * 1000.0)
        if done.returncode != 0 or b"Usage" not in done.stdout:
            raise Unmeasurable(f"kowalski --help ended with {done.returncode}")
    session.report("command_line", median(samples_ms), **spread(samples_ms))


def _help() -> subprocess.CompletedProcess[bytes]:
    installed = Path(sys.executable).with_name("kowalski")
    command = (
        [str(installed)]
        if installed.exists()
        else [sys.executable, "-m", "kowalski_gateway.cli.main"]
    )
    return subprocess.run([*command, "--help"], capture_output=True, check=False, timeout=30)
