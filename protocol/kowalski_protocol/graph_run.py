"""One run of a graph: which steps may start now, and what comes of the whole. Pure.

The machine is told how each step ended and says which may start; whoever drives it, the executor
with real children or a simulator with made-up ones, only carries that out:

    run = GraphRun(graph)
    while not run.is_over:
        start each of run.next()
        wait until any of them has ended, and call run.ended(name, outcome)
    run.result()

A task is given out once, when all that it depends on have completed. After a failure `stop` gives
out nothing more, `continue` all that does not depend on what failed, and `compensate`, once nothing
runs any more, the compensations of what has completed, the last first and one at a time: each may
undo what another was built on. A step whose references lead nowhere has failed without having been
started.

Outcomes may be large, so each is kept only as long as a step may still refer to it; those on which
no task depends are kept to the end, for they are what the graph brings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from .errors import Problem
from .graph_references import StepOutcome, resolve
from .graphs import Graph, GraphTask

COMPENSATION_SUFFIX: Final = "/compensate"
"""What makes the step of a compensation of its task's name, which can't hold a slash."""
NEVER_RUN: Final = "not run"
_NAMED_MAX: Final = 3
"""Failures that the one sentence tells; the table has them all."""
_ROWS_MAX: Final = 40
_SENTENCE_MAX: Final = 200
_ID_LENGTH: Final = 12


class Issue(NamedTuple):
    """A step that is to start now."""

    name: str
    """The step's name, unique in the run: the task's, or that with `/compensate` behind it."""
    task: dict[str, Any]
    """The object of POST /api/tasks."""


class GraphOutcome(NamedTuple):
    """What comes of a graph."""

    is_completed: bool
    value: dict[str, Any] | None = None
    """{"tasks": {NAME: {"outcome", "task", "value"?}}}, with the value of each task on which no
    other depends; None where the graph failed."""
    sentence: str = ""
    """Which tasks failed and why."""
    table: str = ""
    """The same with all steps, a line each."""


class GraphRun:
    """The state of one run; every method is a function of the calls before it."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._tasks: dict[str, GraphTask] = {task.name: task for task in graph.tasks}
        self._left = {task.name: len(task.after) for task in graph.tasks}
        """How many tasks each still waits for."""
        self._followers: dict[str, list[str]] = {task.name: [] for task in graph.tasks}
        self._takers: dict[str, set[str]] = {task.name: set() for task in graph.tasks}
        """The steps that may still take a part of each outcome."""
        for task in graph.tasks:
            for name in task.after:
                self._followers[name].append(task.name)
            for name in task.refers:
                self._takers[name].add(task.name)
            for name in task.compensation_refers:
                self._takers[name].add(task.name + COMPENSATION_SUFFIX)
        self._sinks = graph.sinks
        self._issues: list[Issue] = []
        self._running: set[str] = set()
        self._outcomes: dict[str, StepOutcome] = {}
        self._completed: list[str] = []
        self._failed: list[str] = []
        self._blocked: dict[str, str] = {}
        """Tasks that never run, with the failed one that is to blame."""
        self._undo: list[str] | None = None
        """The tasks whose compensation is still to start, the next at the end."""
        self._undone: dict[str, StepOutcome] = {}
        self._offer([task.name for task in graph.tasks if not task.after])

    def next(self) -> list[Issue]:
        """The steps that may start and were not given out before, in the graph's order."""
        issues, self._issues = self._issues, []
        self._running.update(issue.name for issue in issues)
        return issues

    def ended(self, name: str, outcome: StepOutcome) -> None:
        """A step that was given out has ended, however it did."""
        assert name in self._running, f"{name} is not running"
        self._running.discard(name)
        if name.endswith(COMPENSATION_SUFFIX):
            self._undone[name.removesuffix(COMPENSATION_SUFFIX)] = _bare(outcome)
        else:
            self._offer(self._settle(name, outcome))
        self._compensate()

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing is left to start."""
        return not self._running and not self._issues

    @property
    def running(self) -> list[str]:
        """The steps that were given out and have not ended, by name."""
        return sorted(self._running)

    def name_width(self, width_max: int) -> int:
        """How wide a column for the tasks' names is, at most as given."""
        return min(max(map(len, self._tasks)), width_max)

    def _offer(self, names: list[str]) -> None:
        """Readies tasks whose turn it is. One that can't be resolved has failed, which may decide
        over others: so this goes on until nothing more follows."""
        while names:
            name = names.pop(0)
            if self._is_stopped or name in self._blocked:
                continue
            task = self._tasks[name]
            try:
                self._issues.append(Issue(name, resolve(task.task, self._outcomes)))
                self._release(name, task.refers)
            except Problem as problem:
                failed = StepOutcome("failed", code=problem.code, sentence=problem.sentence)
                names += self._settle(name, failed)

    def _settle(self, name: str, outcome: StepOutcome) -> list[str]:
        """Notes how a task ended; returns those whose turn it is now."""
        self._outcomes[name] = outcome
        if outcome.is_completed:
            self._completed.append(name)
            self._strip(name)
            ready: list[str] = []
            for follower in self._followers[name]:
                self._left[follower] -= 1
                if not self._left[follower]:
                    ready.append(follower)
            return ready
        self._outcomes[name] = _bare(outcome)
        self._failed.append(name)
        if self._is_stopped:
            # What was readied and not yet given out must not start any more.
            self._issues.clear()
        else:
            self._block(name)
        return []

    @property
    def _is_stopped(self) -> bool:
        return bool(self._failed) and self._graph.on_failure != "continue"

    def _block(self, failed: str) -> None:
        left = [*self._followers[failed]]
        while left:
            name = left.pop()
            if name not in self._blocked:
                self._blocked[name] = failed
                self._release(name, self._tasks[name].refers)
                left += self._followers[name]

    def _release(self, step: str, names: tuple[str, ...]) -> None:
        for name in names:
            self._takers[name].discard(step)
            self._strip(name)

    def _strip(self, name: str) -> None:
        """Lets go of what no step may refer to any more."""
        if name in self._outcomes and not self._takers[name]:
            kept = self._outcomes[name]
            value = kept.value if name in self._sinks else None
            self._outcomes[name] = _bare(kept)._replace(value=value)

    def _compensate(self) -> None:
        """Once a graph has failed and nothing runs, starts one compensation after another."""
        if self._running or not self._failed or self._graph.on_failure != "compensate":
            return
        if self._undo is None:
            self._undo = [name for name in self._completed if self._tasks[name].compensation]
        while self._undo and not self._issues:
            name = self._undo.pop()
            task = self._tasks[name]
            assert task.compensation is not None
            step = name + COMPENSATION_SUFFIX
            try:
                self._issues.append(Issue(step, resolve(task.compensation, self._outcomes)))
            except Problem as problem:
                failed = StepOutcome("failed", code=problem.code, sentence=problem.sentence)
                self._undone[name] = failed
            self._release(step, task.compensation_refers)

    def result(self) -> GraphOutcome:
        """What comes of the graph, which must be over."""
        assert self.is_over, "the graph still runs"
        if self._failed:
            return GraphOutcome(False, None, self._sentence(), "\n".join(self._table()) + "\n")
        tasks: dict[str, Any] = {}
        for name in self._tasks:
            outcome = self._outcomes[name]
            tasks[name] = {"outcome": outcome.outcome, "task": outcome.task}
            if name in self._sinks:
                tasks[name]["value"] = outcome.value
        return GraphOutcome(True, {"tasks": tasks})

    def _sentence(self) -> str:
        total, failed = len(self._tasks), len(self._failed)
        told = "; ".join(
            f"{name!r} {_why(self._outcomes[name])}" for name in self._failed[:_NAMED_MAX]
        )
        more = f"; and {failed - _NAMED_MAX:,} more" if failed > _NAMED_MAX else ""
        said = [f"{failed:,} of {total:,} tasks failed: {told}{more}."]
        never = total - len(self._outcomes)
        if never:
            said.append(f"{never:,} did not run.")
        if self._undone:
            well = sum(outcome.is_completed for outcome in self._undone.values())
            said.append(f"{well:,} of {len(self._undone):,} compensations completed.")
        return " ".join(said)

    def _table(self) -> Iterator[str]:
        """A line for each step: what went wrong first, then what was undone, then the others."""
        rows: list[tuple[str, StepOutcome]] = [
            (name, self._outcomes[name]) for name in self._failed
        ]
        rows += [(name + COMPENSATION_SUFFIX, one) for name, one in self._undone.items()]
        rows += [(name, self._outcomes[name]) for name in self._completed]
        for name in self._tasks:
            if name not in self._outcomes:
                blamed = self._blocked.get(name)
                why = f"depends on {blamed}" if blamed is not None else ""
                rows.append((name, StepOutcome(NEVER_RUN, sentence=why)))
        return table(rows)


def table(rows: list[tuple[str, StepOutcome]]) -> Iterator[str]:
    """A line for each of the first steps: its name, outcome, task and what went wrong; how the
    others ended is counted."""
    shown = rows if len(rows) <= _ROWS_MAX else rows[: _ROWS_MAX - 1]
    width = max(len(name) for name, _ in shown)
    for name, outcome in shown:
        yield line(name, outcome, width)
    counts: dict[str, int] = {}
    for _, outcome in rows[len(shown) :]:
        counts[outcome.outcome] = counts.get(outcome.outcome, 0) + 1
    if counts:
        yield "… and " + ", ".join(f"{count:,} more {one}" for one, count in counts.items())


def line(name: str, outcome: StepOutcome, width: int = 0) -> str:
    """How a step ended, on one line."""
    task = outcome.task[:_ID_LENGTH]
    why = "" if outcome.is_completed else _on_one_line(outcome)
    return f"{name:<{width}}  {outcome.outcome:<9}  {task:<{_ID_LENGTH}}  {why}".rstrip()


def _on_one_line(outcome: StepOutcome) -> str:
    sentence = " ".join(outcome.sentence.split())
    if len(sentence) > _SENTENCE_MAX:
        sentence = sentence[: _SENTENCE_MAX - 1] + "…"
    return ": ".join(part for part in (outcome.code, sentence) if part)


def _why(outcome: StepOutcome) -> str:
    """How it ended and why, within a sentence that goes on."""
    told = _on_one_line(outcome).rstrip(".")
    return f"{outcome.outcome} ({told})" if told else outcome.outcome


def _bare(outcome: StepOutcome) -> StepOutcome:
    """The outcome without what may be large."""
    return outcome._replace(value=None, stdout="", stderr="", files=())


def shown_steps(names: list[str]) -> str:
    """Some of the names, and how many more there are."""
    more = f" and {len(names) - _NAMED_MAX:,} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(names[:_NAMED_MAX]) + more
