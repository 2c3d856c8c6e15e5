"""What a user would otherwise pick, measured in the same run: Dask with three worker processes.

Dask lives on asyncio, so it runs in a process of its own, `dask_rounds`, which prints what it
measured. It keeps nothing on disk and signs nothing; that it is the mark all the same is the point.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import trio

from .quantiles import median, percentile, rounded, spread
from .session import Session, Skipped, Unmeasurable

TIMEOUT_S = 180.0


class Rounds(msgspec.Struct):
    """What `dask_rounds` prints."""

    version: str
    tasks: int
    rounds_s: list[float]
    latencies_ms: list[float]


async def measure(session: Session) -> None:
    """Reports the figures of Dask, and ours in its terms."""
    if importlib.util.find_spec("distributed") is None:
        raise Skipped(
            "dask is not installed; pip install 'kowalski[bench]' (or make bench) brings it"
        )
    rounds = await _run(session.folder, session.times(3, 1), session.times(500, 100))
    rates = [rounds.tasks / seconds for seconds in rounds.rounds_s]
    session.report(
        "throughput_dask",
        median(rates),
        rates=[rounded(rate) for rate in rates],
        dask=rounds.version,
    )
    session.report("latency_dask_p50", median(rounds.latencies_ms), dask=rounds.version)
    session.report(
        "latency_dask_p99", percentile(rounds.latencies_ms, 99), **spread(rounds.latencies_ms)
    )
    ours = session.value("throughput")
    if ours is None:
        session.give_up(
            ["throughput_times_dask"], "the group throughput was not measured in this run"
        )
    else:
        session.report("throughput_times_dask", ours / median(rates))


async def _run(folder: Path, rounds: int, latencies: int) -> Rounds:
    """Runs Dask in a process group of its own, of which nothing is left afterwards."""
    process = _start(folder, rounds, latencies)
    try:
        with trio.move_on_after(TIMEOUT_S) as scope:
            printed, said = await trio.to_thread.run_sync(
                process.communicate, abandon_on_cancel=True
            )
            if process.returncode != 0:
                raise Unmeasurable(f"Dask failed: {said.decode('utf-8', 'replace')[-300:]}")
            return msgspec.json.decode(printed, type=Rounds)
        assert scope.cancelled_caught
        raise Unmeasurable(f"Dask did not finish in {TIMEOUT_S:g} s")
    finally:
        # Its workers are processes of the same group, and the group is ours alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _start(folder: Path, rounds: int, latencies: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "kowalski_gateway.bench.dask_rounds", str(rounds), str(latencies)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "DASK_TEMPORARY_DIRECTORY": str(folder)},
        start_new_session=True,
    )
