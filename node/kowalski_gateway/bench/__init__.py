"""`kowalski bench`: the figures that the project promises, measured on this machine.

`figures` is the catalogue with its targets; each group of figures is a module that measures them
with clusters of real node processes and reports to the `session`. `run_bench` is what the command
line calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["run_bench"]


def run_bench(options: Mapping[str, Any]) -> int:
    """Measures, prints and writes; returns 0, 1 where something could not be measured, 2 for wrong
    options, 130 when interrupted.

    `options`: `only` (a name, or several; of figures or groups), `write` (a path for the page),
    `json` (one document instead of lines), `quick` (fewer repetitions).
    """
    from .run import run

    return run(options)
