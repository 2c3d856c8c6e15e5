"""Many seeds on all cores, with progress, until one breaks or all are through."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable

from .options import Options
from .running import Report, run


def _run(options: Options) -> Report:
    return run(options)


def sweep(
    runs: Iterable[Options],
    *,
    processes: int | None = None,
    told: Callable[[Report], bool] = lambda _report: True,
) -> None:
    """Runs all; `told` hears of each as it ends, and ends the sweep by returning False."""
    count = processes or os.cpu_count() or 1
    if count == 1:
        for options in runs:
            if not told(_run(options)):
                return
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(count, maxtasksperchild=200) as pool:
        for report in pool.imap_unordered(_run, runs, chunksize=1):
            if not told(report):
                pool.terminate()
                return
