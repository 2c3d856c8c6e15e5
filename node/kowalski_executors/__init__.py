"""How work runs on a device: one class per kind of task, each behind
`kowalski_node.executor.Executor`.

Nothing is imported before it is asked for: most commands of the command line never run a task.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kowalski_node.executor import Executor

__all__ = ["make_executors"]


def make_executors(*, unsandboxed: bool = False, work_root: Path) -> list[Executor]:
    """Returns the executors of this release, not yet probed.

    Args:
      unsandboxed: run code without a sandbox; only the device's owner may want this.
      work_root: a folder for what programs need on disk; made, mode 0700, where it is missing.
    """
    from kowalski_executors.code_executor import CodeExecutor
    from kowalski_executors.graph_executor import GraphExecutor
    from kowalski_executors.language_probe import cache_file
    from kowalski_executors.tool_executor import ToolExecutor

    return [
        ToolExecutor(),
        CodeExecutor(work_root=work_root, unsandboxed=unsandboxed, remembered=cache_file()),
        GraphExecutor(),
    ]
