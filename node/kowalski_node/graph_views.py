"""The tasks of a graph as people see them: what the graph asked for, and the child that stands for
each.
"""

from __future__ import annotations

from collections.abc import Sequence

from kowalski_ledger.state import Task
from kowalski_protocol.codec import Malformed, decode_value
from kowalski_protocol.errors import Problem
from kowalski_protocol.graph_run import COMPENSATION_SUFFIX
from kowalski_protocol.graphs import Graph, read_graph
from kowalski_protocol.identity import peer_id

from .core.node import Node
from .viewing import shown_attempt, task_state
from .views import GraphTaskView


def graph_views(
    node: Node, graph_task: Task, children: Sequence[tuple[str, Task]], payload: bytes | None
) -> list[GraphTaskView]:
    """The tasks of a graph in the order of their dependence; empty where its payload is gone.

    Args:
      children: the step's name and the record of each child that is known.
    """
    graph = _graph(payload)
    if graph is None:
        return []
    best: dict[str, Task] = {}
    for name, task in children:
        known = best.get(name)
        if known is None or _standing(node, task) > _standing(node, known):
            best[name] = task
    names: list[tuple[str, tuple[str, ...]]] = []
    for task in graph.tasks:
        names.append((task.name, task.after))
        undone = task.name + COMPENSATION_SUFFIX
        if undone in best:
            names.append((undone, (task.name,)))
    missing = "waiting" if graph_task.settled is None else "not run"
    return [_view(node, name, after, best.get(name), missing) for name, after in names]


def _graph(payload: bytes | None) -> Graph | None:
    try:
        value = decode_value(payload) if payload is not None else None
        return read_graph(value) if isinstance(value, dict) else None  # pyright: ignore[reportUnknownArgumentType]
    except (Malformed, Problem):
        return None


def _standing(node: Node, task: Task) -> tuple[bool, int]:
    """Of two children for one step the one that completed is shown, else the newer one."""
    ends = [a.end.kind for a in task.attempts if a.end is not None]
    return "completed" in ends, task.submitted_hlc


def _view(
    node: Node, name: str, after: tuple[str, ...], task: Task | None, missing: str
) -> GraphTaskView:
    if task is None:
        return GraphTaskView(name, [*after], None, missing)
    attempt = shown_attempt(task)
    end = attempt.end if attempt is not None else None
    settled = task.settled
    return GraphTaskView(
        name,
        [*after],
        task.id.hex(),
        settled.outcome if settled is not None else task_state(node, task),
        peer_id(attempt.device) if attempt is not None else None,
        end.run_us / 1e6 if end is not None and end.kind != "declined" else None,
    )
