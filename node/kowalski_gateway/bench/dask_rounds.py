"""Runs Dask's side of the comparison and prints it as one JSON document.

A program of its own: `python -m kowalski_gateway.bench.dask_rounds ROUNDS LATENCIES`. The tasks are
Python functions that return what they get, as `echo` does; each is a new one to Dask
(`pure=False`), so no result is taken from an earlier round.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import sys
import time
from typing import Any

import msgspec

TASKS = 5_000
WORKERS = 3


def echo(value: int) -> int:
    """The no-op."""
    return value


def _check(got: object, expected: object) -> None:
    if got != expected:
        raise SystemExit("a task brought something else than it was given")


def main() -> None:
    """Measures rounds of many tasks, then single tasks one after the other."""
    # Of the optional group `bench`, so its types are nowhere when the rest is checked.
    distributed: Any = importlib.import_module("distributed")
    rounds, latencies = int(sys.argv[1]), int(sys.argv[2])
    cluster: Any = distributed.LocalCluster(
        n_workers=WORKERS,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        silence_logs=logging.ERROR,
    )
    with cluster, distributed.Client(cluster) as client:
        client.gather(client.map(echo, range(WORKERS * 10), pure=False))
        rounds_s: list[float] = []
        for _ in range(rounds):
            began_s = time.perf_counter()
            results = client.gather(client.map(echo, range(TASKS), pure=False))
            rounds_s.append(time.perf_counter() - began_s)
            _check(results, list(range(TASKS)))
        latencies_ms: list[float] = []
        for number in range(latencies):
            began_s = time.perf_counter()
            _check(client.submit(echo, number, pure=False).result(), number)
            latencies_ms.append((time.perf_counter() - began_s) * 1000.0)
    document = {
        "version": importlib.metadata.version("distributed"),
        "tasks": TASKS,
        "rounds_s": rounds_s,
        "latencies_ms": latencies_ms,
    }
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")


if __name__ == "__main__":
    main()
