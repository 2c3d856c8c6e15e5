"""The executor of graphs, with children that a script ends: how wide it runs, what a failure does,
what it says of each, and what is left of it when it is stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kowalski_executors import make_executors
from kowalski_executors.graph_executor import GraphExecutor
from kowalski_node.executor import Capabilities, Completed, Failed, Outcome, OutputFile, StepEnd
from kowalski_protocol.errors import Problem
from tests.ports.executors import Recorder, attempt

BLOB = "0f" * 32
SECONDS = 1.0
"""How long a child takes, on a clock that jumps."""


def echo(value: Any = 1, **more: Any) -> dict[str, Any]:
    return {"kind": "tool", "payload": {"tool": "echo", "args": {"value": value}}, **more}


def of(name: str, *path: Any) -> dict[str, Any]:
    return {"$from": name, "path": [*path]} if path else {"$from": name}


def task_id(name: str) -> str:
    return name.encode().hex().ljust(32, "0")


def completed(name: str, value: Any = None, **more: Any) -> StepEnd:
    return StepEnd(task_id(name), "completed", value, **more)


class Children(Recorder):
    """A context whose children end as they were told to, after a second each, or never; those of
    which nothing was said complete with their name."""

    def __init__(self, ends: Mapping[str, StepEnd | Problem | None] | None = None) -> None:
        super().__init__()
        self.ends = dict(ends or {})
        self.takes_s: dict[str, float] = {}
        self.tasks: dict[str, Mapping[str, Any]] = {}
        self.under_way: set[str] = set()
        self.widest = 0
        self.abandoned: set[str] = set()

    async def step(self, name: str, task: Mapping[str, Any]) -> StepEnd:
        """Runs a child."""
        assert name not in self.tasks, f"{name} was issued twice"
        self.tasks[name] = task
        end = self.ends.get(name, completed(name, name))
        if isinstance(end, Problem):
            raise end
        self.under_way.add(name)
        self.widest = max(self.widest, len(self.under_way))
        try:
            takes_s = self.takes_s.get(name, SECONDS)
            with trio.move_on_after(takes_s if end is not None else math.inf):
                await trio.sleep_forever()
            assert end is not None
            return end
        except trio.Cancelled:
            self.abandoned.add(name)
            raise
        finally:
            self.under_way.discard(name)


async def run(
    context: Children, tasks: Mapping[str, Any], *, timeout_s: float = 300.0, **more: Any
) -> Outcome:
    """Runs one graph."""
    payload = {"tasks": tasks, **more}
    return await GraphExecutor().run(attempt(payload, kind="graph", timeout_s=timeout_s), context)


def lines(context: Children) -> list[str]:
    return context.text("stdout").decode().splitlines()


async def test_it_offers_graphs_and_nothing_else(tmp_path: Path) -> None:
    executors = {one.name: one for one in make_executors(work_root=tmp_path)}
    graphs = executors["graph"]
    assert await graphs.probe() == await graphs.probe_all() == Capabilities(kinds=("graph",))


async def test_a_layer_runs_side_by_side_and_the_next_takes_what_it_brought(
    autojump_clock: MockClock,
) -> None:
    wide = {f"part-{n}": echo(n) for n in range(200)}
    tasks = {**wide, "sum": echo([of(name) for name in wide]), "end": echo(of("sum", "stdout"))}
    context = Children({"sum": completed("sum", 3, stdout="three\n")})
    began = trio.current_time()
    outcome = await run(context, tasks)
    assert trio.current_time() - began == pytest.approx(3 * SECONDS)
    assert context.widest == 200
    assert context.tasks["part-7"] == echo(7)
    assert sorted(context.tasks["sum"]["payload"]["args"]["value"]) == sorted(wide)
    assert context.tasks["end"] == echo("three\n")
    assert isinstance(outcome, Completed)
    shown = outcome.value["tasks"]
    assert shown["end"] == {"outcome": "completed", "task": task_id("end"), "value": "end"}
    assert shown["sum"] == {"outcome": "completed", "task": task_id("sum")}
    assert len(shown) == len(lines(context)) == 202


async def test_a_task_starts_while_others_of_an_earlier_layer_still_run(
    autojump_clock: MockClock,
) -> None:
    tasks = {"slow": echo(), "quick": echo(), "next": echo(of("quick"))}
    context = Children({"slow": None})
    outcome = await run(context, tasks, timeout_s=5 * SECONDS)
    assert context.tasks["next"] == echo("quick")
    assert outcome == Failed("timed_out", "The graph ran past its 5 s, with slow under way.")
    assert context.abandoned == {"slow"}


async def test_a_file_of_one_task_is_an_input_of_another(autojump_clock: MockClock) -> None:
    def code(**more: Any) -> dict[str, Any]:
        return {"kind": "code", "payload": {"language": "python", "code": "1", **more}}

    left = (OutputFile("a.csv", BLOB, 7), OutputFile("b.csv", "0e" * 32, 8))
    context = Children({"make": completed("make", files=left)})
    take = [{"path": "in.csv", "$from": "make", "file": "b.csv"}]
    outcome = await run(context, {"make": code(outputs=["*.csv"]), "take": code(inputs=take)})
    assert isinstance(outcome, Completed)
    inputs = [{"path": "in.csv", "blob": "0e" * 32, "size_bytes": 8}]
    assert context.tasks["take"]["payload"]["inputs"] == inputs


async def test_each_end_is_told_on_a_line_of_its_own(autojump_clock: MockClock) -> None:
    broken = StepEnd(task_id("b"), "failed", code="code_failed", sentence="No\nrows\x1b.")
    context = Children({"a": completed("a", taken_over=True), "long-name": broken})
    await run(context, {"a": echo(), "long-name": echo(after=["a"])})
    assert lines(context) == [
        "a          completed  610000000000  (taken over)",
        "long-name  failed     620000000000  code_failed: No rows\x1b.",
    ]


POLICIES = {
    "stop": ("1 of 5 tasks failed: 'bad' {}. 2 did not run.", {"make", "bad", "good"}, []),
    "continue": (
        "1 of 5 tasks failed: 'bad' {}. 1 did not run.",
        {"make", "bad", "good", "last"},
        [],
    ),
    "compensate": (
        "1 of 5 tasks failed: 'bad' {}. 2 did not run. 2 of 2 compensations completed.",
        {"make", "bad", "good", "good/compensate", "make/compensate"},
        ["good/compensate", "make/compensate"],
    ),
}


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_failing_child_does_what_the_graph_says(
    autojump_clock: MockClock, policy: str
) -> None:
    undo = {"compensate": echo(of("make"))} if policy == "compensate" else {}
    tasks = {
        "make": echo(**undo),
        "bad": echo(after=["make"]),
        "good": echo(after=["make"], **undo),
        "blocked": echo(of("bad")),
        "last": echo(of("good")),
    }
    end = StepEnd(task_id("bad"), "failed", code="code_failed", sentence="ValueError: no.")
    context = Children({"bad": end})
    context.takes_s["good"] = 2 * SECONDS  # it runs when the other fails, and completes
    outcome = await run(context, tasks, on_failure=policy)
    sentence, issued, undone = POLICIES[policy]
    assert isinstance(outcome, Failed)
    assert outcome.code == "graph_failed"
    assert outcome.sentence == sentence.format("failed (code_failed: ValueError: no)")
    assert outcome.stdout.splitlines()[0] == (
        "bad              failed     626164000000  code_failed: ValueError: no."
        if undone
        else "bad      failed     626164000000  code_failed: ValueError: no."
    )
    assert set(context.tasks) == issued
    assert [name for name in context.tasks if name.endswith("/compensate")] == undone
    if undone:
        assert context.tasks["make/compensate"] == echo("make")


async def test_a_child_that_is_not_accepted_has_failed(autojump_clock: MockClock) -> None:
    context = Children({"a": Problem("impossible_requirement", "No device could run it.")})
    outcome = await run(context, {"a": echo(), "b": echo(after=["a"])})
    assert isinstance(outcome, Failed)
    assert outcome.sentence == (
        "1 of 2 tasks failed: 'a' failed (impossible_requirement: No device could run it)."
        " 1 did not run."
    )
    assert lines(context) == [
        "a  failed                   impossible_requirement: No device could run it."
    ]


async def test_a_device_that_stops_leaves_the_graph_to_the_next_attempt(
    autojump_clock: MockClock,
) -> None:
    context = Children({"b": Problem("stopping", "The node is stopping.")})
    outcome: list[Outcome] = []
    with trio.move_on_after(100):
        outcome.append(await run(context, {"a": echo(), "b": echo(after=["a"])}))
    assert outcome == []
    assert lines(context) == ["a  completed  610000000000"]


async def test_a_cancelled_graph_stops_all_that_it_waits_for() -> None:
    context = Children({f"t{n}": None for n in range(50)})
    ended = False
    async with trio.open_nursery() as nursery:

        async def one() -> None:
            nonlocal ended
            await run(context, {f"t{n}": echo() for n in range(50)})
            ended = True

        nursery.start_soon(one)
        await wait_all_tasks_blocked()
        assert context.widest == 50
        nursery.cancel_scope.cancel()
    assert not ended
    assert len(context.abandoned) == 50
    assert not context.under_way


async def test_a_payload_that_is_no_graph_is_refused_with_a_sentence() -> None:
    context = Children()
    outcome = await run(context, {"a": echo(after=["b"]), "b": echo(of("a"))})
    assert outcome == Failed("bad_request", "The graph has a cycle: a → b → a.")
    assert context.tasks == {}
    none = await GraphExecutor().run(attempt({"script": 1}, kind="graph"), context)
    assert none == Failed("bad_request", "A graph's payload has no field 'script'.")
