"""The `graph` executor: runs the tasks of a graph as children of its attempt.

What may start when, and what comes of it, is decided by `kowalski_protocol.graph_run`; here each
step that may start gets a trio task that waits for its end, so that a layer runs as wide as the
cluster takes it. The state lives in the ledger alone: where this device is lost, the graph's next
attempt begins with the first task again, and `Context.step` hands it the children that have
completed, or are under way, without running them a second time.
"""

from __future__ import annotations

from typing import Final

import trio

from kowalski_node.executor import (
    Attempt,
    Capabilities,
    Completed,
    Context,
    Failed,
    Outcome,
    StepEnd,
)
from kowalski_protocol.errors import Problem
from kowalski_protocol.graph_references import StepFile, StepOutcome
from kowalski_protocol.graph_run import GraphRun, Issue, line, shown_steps
from kowalski_protocol.graphs import read_graph

_NAME_WIDTH_MAX: Final = 32


class GraphExecutor:
    """Runs `graph` tasks (payload: see `kowalski_protocol.graphs`)."""

    name = "graph"

    async def probe(self) -> Capabilities:
        """A graph needs nothing of the device; its tasks say what they need."""
        return Capabilities(kinds=("graph",))

    async def probe_all(self) -> Capabilities:
        """There is nothing more to find out."""
        return await self.probe()

    async def run(self, attempt: Attempt, context: Context) -> Outcome:
        """Runs one graph to its end."""
        try:
            run = GraphRun(read_graph(attempt.payload))
        except Problem as problem:
            return Failed(problem.code, problem.sentence)
        with trio.move_on_after(attempt.timeout_s) as limit:
            await _drive(run, context)
        if limit.cancelled_caught:
            under_way = shown_steps(run.running)
            return Failed(
                "timed_out",
                f"The graph ran past its {attempt.timeout_s:g} s, with {under_way} under way.",
            )
        outcome = run.result()
        if outcome.is_completed:
            return Completed(outcome.value)
        return Failed("graph_failed", outcome.sentence, stdout=outcome.table)


async def _drive(run: GraphRun, context: Context) -> None:
    """Returns when nothing of the graph runs and nothing is left to start."""

    async def carry_out(issue: Issue) -> None:
        outcome, note = await _step(issue, context)
        told = line(issue.name, outcome, width) + note
        context.write("stdout", f"{told}\n".encode())
        run.ended(issue.name, outcome)
        start_what_may()

    def start_what_may() -> None:
        for issue in run.next():
            nursery.start_soon(carry_out, issue)

    width = run.name_width(_NAME_WIDTH_MAX)
    async with trio.open_nursery() as nursery:
        start_what_may()


async def _step(issue: Issue, context: Context) -> tuple[StepOutcome, str]:
    """How a step ended, and what else is to be said of it."""
    try:
        end = await context.step(issue.name, issue.task)
    except Problem as problem:
        if problem.code == "stopping":
            # The device takes nothing new, which is no failure of the graph: the attempt ends with
            # the node, and the next one goes on elsewhere.
            await trio.sleep_forever()
        return StepOutcome("failed", code=problem.code, sentence=problem.sentence), ""
    return _outcome(end), "  (taken over)" if end.taken_over else ""


def _outcome(end: StepEnd) -> StepOutcome:
    return StepOutcome(
        end.outcome,
        end.task,
        end.value,
        end.stdout,
        end.stderr,
        end.code,
        end.sentence,
        tuple(StepFile(file.path, file.blob, file.size_bytes) for file in end.files),
    )
