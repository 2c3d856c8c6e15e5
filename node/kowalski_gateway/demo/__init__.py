"""`kowalski demo`: three nodes on this machine do real work while devices are killed.

`story` is what happens, `stage` where it is shown, `watch` what the ledger's events tell of it,
`evidence` whether every promise was kept. `run_demo` is what the command line calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["run_demo"]


def run_demo(options: Mapping[str, Any]) -> int:
    """Plays the demo; returns 0 where every promise was kept, 1 where one was broken or the demo
    can't be played here, 130 when interrupted.

    `options`: `keep` (leave the nodes' home folders), `json` (one document on stdout), `tasks`
    (how many sources at most).
    """
    from .run import run

    return run(options)
