"""A graph goes on without its submitter, and without the device that ran it; nothing runs twice."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_node.views import TaskView
from kowalski_protocol.tasks import decode_spec, task_id
from tests.live.evidence import Evidence, assert_ledgers_agree

pytestmark = pytest.mark.needs_bubblewrap

LAYERS = ("make", "count", "sum")
WORKS_S = 0.25
PATIENCE_S = 40.0


def program(code: str, *args: object) -> dict[str, Any]:
    text = f"import sys, json, time\ntime.sleep({WORKS_S})\n{code}"
    return {"kind": "code", "payload": {"language": "python", "code": text, "args": [*args]}}


def three_layers() -> dict[str, Any]:
    """Three that make numbers, three that count them, and one that adds up: 3 * (1 + 2 + 3)."""
    tasks: dict[str, Any] = {}
    for n in range(1, 4):
        tasks[f"make-{n}"] = program(f"[{n}, {n}, {n}]")
        tasks[f"count-{n}"] = program("sum(json.loads(sys.argv[1]))", {"$from": f"make-{n}"})
    counts = [{"$from": f"count-{n}"} for n in range(1, 4)]
    tasks["sum"] = program("sum(map(int, sys.argv[1:]))", *counts)
    return {"kind": "graph", "payload": {"tasks": tasks}}


async def look(node: LocalNode, task: str) -> TaskView:
    return await node.client.result(task, 0)


async def until(node: LocalNode, task: str, *states: str) -> TaskView:
    with trio.fail_after(PATIENCE_S):
        while True:
            view = await look(node, task)
            if view.state in states:
                return view
            await trio.sleep(0.02)  # poll: it has come so far


async def children(node: LocalNode, graph: str) -> list[TaskView]:
    page = await node.client.tasks(limit=200)
    return [view for view in page.tasks if view.parent == graph]


async def test_a_graph_runs_in_layers_wherever_there_is_room(cluster: LocalCluster) -> None:
    await cluster.add_all("desk", "lap", "mini")
    desk = cluster["desk"]
    with trio.fail_after(PATIENCE_S):
        view = await desk.client.run("graph", three_layers()["payload"], wait_s=PATIENCE_S)
    assert view.outcome == "completed", view
    assert view.result is not None
    assert view.result.value["tasks"]["sum"]["value"] == 18
    found = await children(desk, view.id)
    assert Counter(str(child.step).partition("-")[0] for child in found) == {
        "make": 3,
        "count": 3,
        "sum": 1,
    }
    why = await desk.client.why(view.id)
    drawn = {task.name: task for task in why.graph}
    assert drawn["sum"].after == ["count-1", "count-2", "count-3"]
    assert {task.state for task in why.graph} == {"completed"}


@pytest.mark.parametrize("home", [False, True], ids=["owner returns", "a home device owns it"])
async def test_without_its_submitter_and_without_its_device_a_graph_ends(
    cluster: LocalCluster, chance: random.Random, home: bool
) -> None:
    for name in ("desk", "lap", "mini"):
        await cluster.add(name, *(["--label", "home=yes"] if home and name == "mini" else []))
    await cluster.settle_down()
    lap = cluster["lap"]
    graph = (await lap.client.submit("graph", three_layers()["payload"])).id
    await lap.kill()
    others = [cluster["desk"], cluster["mini"]]
    view = await until(others[0], graph, "running", "completed", "settled")
    await trio.sleep(chance.random() * 4 * WORKS_S)  # poll: at any point of the graph
    running = next((node for node in others if node.peer == view.device), None)
    if home and running is cluster["mini"]:
        running = None  # then the owner would be away as well, which is the other case
    if running is not None:
        await running.kill()
    left = next(node for node in others if node is not running)
    view = await until(left, graph, "completed", "settled")
    assert view.result is not None
    assert view.result.value["tasks"]["sum"]["value"] == 18
    if home:
        await until(left, graph, "settled")
    if running is not None:
        await running.start()
    await lap.start()
    view = await until(left, graph, "settled")
    assert view.outcome == "completed"
    ids = [graph, *(child.id for child in await children(left, graph))]
    for id in ids:
        await until(left, id, "settled")
    await assert_ledgers_agree(cluster, ids)
    assert_no_completed_step_ran_again(Evidence(left.home), graph)


def assert_no_completed_step_ran_again(ledger: Evidence, graph: str) -> None:
    """On the device that was there all the time: no step was submitted that it knew as completed.

    What the killed device had completed and could tell nobody, nobody could know.
    """
    step_of: dict[str, str] = {}
    completed: set[str] = set()
    for kind, body in ledger.in_order():
        if kind == "TaskSubmitted":
            spec = decode_spec(body.spec)
            assert spec is not None
            if spec.parent.hex() == graph:
                assert spec.step not in completed, f"{spec.step} runs again"
                step_of[task_id(body.owner, body.key, body.spec).hex()] = spec.step
        elif kind == "TaskCompleted" and body.task.hex() in step_of:
            completed.add(step_of[body.task.hex()])
    assert len(completed) == 7


async def test_a_graph_with_a_broken_task_says_which_and_what_did_not_run(
    cluster: LocalCluster,
) -> None:
    desk = await cluster.add("desk")
    payload = three_layers()["payload"]
    payload["tasks"]["count-2"]["payload"]["code"] = "1 / 0"
    with trio.fail_after(PATIENCE_S):
        view = await desk.client.run("graph", payload, wait_s=PATIENCE_S)
    assert view.outcome == "failed"
    assert view.result is not None
    assert view.result.error is not None
    assert view.result.error.code == "graph_failed"
    assert "'count-2' failed (code_failed: ZeroDivisionError" in view.result.error.message
    states = {task.name: task.state for task in (await desk.client.why(view.id)).graph}
    assert (states["count-2"], states["sum"]) == ("failed", "not run")
