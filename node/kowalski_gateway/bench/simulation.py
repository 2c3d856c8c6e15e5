"""How fast whole clusters are simulated: in a process of its own, from the checkout's simulator."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import msgspec
import trio

from .session import Session, Skipped, Unmeasurable

TIMEOUT_S = 600.0


class Speed(msgspec.Struct):
    """What `python -m simulations speed --json` prints, as far as it is told here."""

    worlds: int
    simulated_s: float
    core_s: float
    times_real: float
    slowest: float
    fastest: float


async def measure(session: Session) -> None:
    """Reports `simulation_speed`."""
    if importlib.util.find_spec("simulations") is None:
        raise Skipped("the simulator is not installed: run the benchmark in a checkout")
    minutes = session.times(10, 1)
    done = await trio.to_thread.run_sync(_run, minutes)
    if done.returncode != 0:
        raise Unmeasurable(f"the simulator failed: {done.stderr[-300:].decode('utf-8', 'replace')}")
    speed = msgspec.json.decode(done.stdout, type=Speed)
    session.report(
        "simulation_speed",
        speed.times_real,
        worlds=speed.worlds,
        simulated_s=round(speed.simulated_s),
        core_s=round(speed.core_s, 1),
        slowest=round(speed.slowest),
        fastest=round(speed.fastest),
    )


def _run(minutes: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "simulations", "speed", "--minutes", str(minutes), "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
    )
