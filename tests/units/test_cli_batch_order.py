"""`kowalski batch --ordered`: results in the order of the tasks, and a bound on what is held."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_gateway.cli import batch_order
from kowalski_gateway.cli.batch_order import InOrder
from kowalski_node.views import ResultView, TaskView
from tests.ports.api_world import Served
from tests.units.cli_runner import Kowalski


def record(line: int) -> bytes:
    return b"%d" % line * 10


class Node:
    """Has all results, and notes which are asked for again."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def again(self, ids: dict[int, str]) -> dict[int, bytes]:
        assert all(task_id == f"id {line}" for line, task_id in ids.items())
        self.asked += ids
        first = dict([*ids.items()][:2])  # an answer may end early
        return {line: record(line) for line in first}


@given(st.permutations(range(12)), st.integers(0, 200))
def test_records_leave_in_order_and_no_more_is_held_than_may_be(
    order: Sequence[int], size_bytes_max: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_order, "HELD_SIZE_BYTES_MAX", size_bytes_max)
        waiting = InOrder(range(12), Node().again)
        left: list[bytes] = []
        for line in order:
            waiting.add(line, f"id {line}", record(line))
            left += waiting.ready()
            held = [one for one in waiting._held.values() if isinstance(one, bytes)]
            assert sum(map(len, held)) <= size_bytes_max + 2 * len(record(11))
    assert left == [record(line) for line in range(12)]
    assert not waiting.holds_some


def test_a_result_that_the_node_does_not_send_yet_is_waited_for() -> None:
    answers: list[dict[int, bytes]] = [{}, {2: record(2)}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_order, "HELD_SIZE_BYTES_MAX", 0)
        waiting = InOrder([1, 2], lambda _: answers.pop(0))
        waiting.add(2, "id 2", record(2))
        assert [*waiting.ready()] == []
        waiting.add(1, "id 1", record(1))
        assert [*waiting.ready()] == [record(1)]
        assert waiting.holds_some
        assert [*waiting.ready()] == [record(2)]


@pytest.fixture
def slow_first(api: Served) -> Served:
    """The task of kind sleep settles once all ten are there and were looked at for a while."""
    looks = [0]
    task = api.node.task

    async def looked_at(task_id: str) -> TaskView:
        looks[0] += 1
        if len(api.node._tasks) == 10 and looks[0] > 30:
            for one in [*api.node._tasks.values()]:
                if one.state != "settled":
                    api.node.settle(one.id, ResultView(True, value="slow"))
        return await task(task_id)

    api.node.task = looked_at
    return api


def write(tasks: Path) -> None:
    slow = {"kind": "tool", "payload": {"tool": "sleep", "args": {"seconds": 60}}}
    quick = [{"kind": "tool", "payload": {"tool": "echo", "args": {"value": n}}} for n in range(9)]
    tasks.write_text("\n".join(map(json.dumps, [slow, *quick])), encoding="utf-8")


@pytest.mark.parametrize("size_bytes_max", [16 * 1024 * 1024, 0])
def test_a_slow_first_task_holds_the_others_back(
    slow_first: Served,
    kowalski: Kowalski,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size_bytes_max: int,
) -> None:
    monkeypatch.setattr(batch_order, "HELD_SIZE_BYTES_MAX", size_bytes_max)
    monkeypatch.setattr(batch_order, "ASKED_AGAIN_MAX", 4)
    tasks, out = tmp_path / "tasks.jsonl", tmp_path / "out.jsonl"
    write(tasks)
    words = ("batch", str(tasks), "--out", str(out), "--ordered", "--max-parallel", "3")
    assert kowalski(*words).code == 0
    read = [json.loads(text) for text in out.read_text(encoding="utf-8").splitlines()]
    assert [one["line"] for one in read] == [*range(1, 11)]
    assert [one["result"]["value"] for one in read] == ["slow", *range(9)]


def test_results_that_are_there_in_another_order_are_put_in_order(
    api: Served, kowalski: Kowalski, tmp_path: Path
) -> None:
    tasks, out = tmp_path / "tasks.jsonl", tmp_path / "out.jsonl"
    task = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}
    tasks.write_text(f"{json.dumps(task)}\n" * 5, encoding="utf-8")
    words = ("batch", str(tasks), "--out", str(out))
    assert kowalski(*words).code == 0
    whole = out.read_text(encoding="utf-8").splitlines()
    for left in ([4, 1, 3], [4, 3, 2, 1, 0], [2]):
        out.write_text("".join(f"{whole[n]}\n" for n in left), encoding="utf-8")
        assert kowalski(*words, "--ordered").code == 0
        assert out.read_text(encoding="utf-8").splitlines() == whole
