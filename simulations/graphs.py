"""The graph executor of a simulated device: the real machine of a graph, with children of the core.

What `kowalski_executors.graph_executor` does with trio is done here with the agenda's calls; which
steps are due, and what comes of them, is decided by the same `GraphRun`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.graph_references import StepOutcome
from kowalski_protocol.graph_run import GraphRun
from kowalski_protocol.graphs import read_graph
from kowalski_protocol.ids import EventHash
from kowalski_protocol.tasks import parse_task

if TYPE_CHECKING:
    from .device import Device


class Graphs:
    """The graphs that run on one device, while its process lives."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._runs: dict[EventHash, GraphRun] = {}

    def forget(self) -> None:
        """The process has ended."""
        self._runs.clear()

    def start(self, order: fx.Start, payload: dict[str, Any]) -> None:
        """Begins an attempt at a graph."""
        self._runs[order.attempt] = GraphRun(read_graph(payload))
        self._go_on(order.attempt)

    def step_over(self, end: fx.StepEnded | fx.StepRefused) -> None:
        """A step of a graph has ended, or can't be run."""
        attempt = EventHash(end.attempt)
        run = self._runs.get(attempt)
        if run is None:
            return
        if isinstance(end, fx.StepEnded):
            run.ended(end.name, StepOutcome(end.outcome, end.child.hex()))
        elif end.problem.code != "stopping":
            run.ended(end.name, StepOutcome("failed", code=end.problem.code))
        self._go_on(attempt)

    def _go_on(self, attempt: EventHash) -> None:
        run = self._runs[attempt]
        for issue in run.next():
            self._device.give(ins.IssueStep(attempt, issue.name, parse_task(issue.task)))
        if run.is_over:
            del self._runs[attempt]
            self._device.end_run(attempt, "" if run.result().is_completed else "graph_failed")
