"""`kowalski batch`: all of a file's tasks, checked first, kept within bounds, written as they
settle."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kowalski_gateway.cli import batch_run
from kowalski_gateway.cli.main import run
from kowalski_node.views import Accepted, ErrorView, ResultView, TaskView
from kowalski_protocol.errors import Problem
from tests.ports.api_world import Served, served
from tests.ports.scripted_node import ScriptedNode


def line(value: Any = 1, tool: str = "echo", **options: Any) -> str:
    args = {"value": value} if tool == "echo" else {"seconds": value}
    return json.dumps({"kind": "tool", "payload": {"tool": tool, "args": args}, **options})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with served() as one:
        monkeypatch.setenv("KOWALSKI_API", one.url)
        yield one


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return tmp_path / "tasks.jsonl"


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def test_every_task_is_run_and_its_result_written_with_its_line(
    api: Served, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line(n) for n in range(2500)]
    lines.insert(3, "")  # empty lines are nothing, and count as lines
    tasks.write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = tasks.with_name("out.jsonl")
    assert run(["batch", str(tasks), "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["tasks"] == 2500
    assert summary["outcomes"] == {"completed": 2500}
    values = {one["line"]: one["result"]["value"] for one in written(out)}
    assert values == {n + 1 + (n >= 3): n for n in range(2500)}


def test_no_more_than_max_parallel_are_under_way(
    api: Served, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = [0]
    submit = api.node.submit

    async def watched(specs: Sequence[Any], **options: Any) -> list[Accepted]:
        accepted = await submit(specs, **options)
        still_open = [view for view in api.node._tasks.values() if view.state != "settled"]
        most[0] = max(most[0], len(still_open))
        for view in still_open[: len(still_open) // 2 + 1]:
            api.node.settle(view.id, ResultView(True, value=1))
        return accepted

    task = api.node.task

    async def hurried(task_id: str) -> TaskView:
        view = await task(task_id)
        if view.state != "settled":
            api.node.settle(task_id, ResultView(True, value=1))
        return view

    api.node.submit = watched
    api.node.task = hurried
    tasks.write_text("\n".join(line(60, "sleep") for _ in range(50)), encoding="utf-8")
    monkeypatch.setattr(batch_run, "RESULTS_WAIT_S", 0.01)
    assert run(["batch", str(tasks), "--max-parallel", "7"]) == 0
    assert 1 < most[0] <= 7


def test_slow_tasks_hide_no_quick_ones(
    api: Served, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_run, "RESULTS_ASKED_MAX", 2)
    monkeypatch.setattr(batch_run, "RESULTS_WAIT_S", 0.01)
    lines = [line(60, "sleep") for _ in range(4)] + [line(n) for n in range(4)]
    tasks.write_text("\n".join(lines), encoding="utf-8")
    out = tasks.with_name("out.jsonl")
    ended: list[int] = []
    thread = threading.Thread(
        target=lambda: ended.append(run(["batch", str(tasks), "--out", str(out)]))
    )
    thread.start()
    while not out.exists() or len(written_so_far(out)) < 4:
        assert thread.is_alive()
    assert {one["line"] for one in written_so_far(out)} == {5, 6, 7, 8}
    for view in [*api.node._tasks.values()]:
        if view.state != "settled":
            api.do(lambda view=view: api.node.settle(view.id, ResultView(True, value=1)))
    thread.join(10)
    assert ended == [0]
    assert len(written(out)) == 8


def written_so_far(path: Path) -> list[dict[str, Any]]:
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(text) for text in whole.splitlines()]


def test_a_failed_task_is_told_and_exits_with_1(
    api: Served, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit = api.node.submit

    async def failing(specs: Sequence[Any], **options: Any) -> list[Accepted]:
        accepted = await submit(specs, **options)
        error = ErrorView("tool_failed", "The tool broke.")
        api.node.settle(accepted[1].id, ResultView(False, error=error))
        return accepted

    api.node.submit = failing
    tasks.write_text(f"{line(1)}\n{line(60, 'sleep')}\n", encoding="utf-8")
    assert run(["batch", str(tasks)]) == 1
    out, err = capsys.readouterr()
    assert "2: 1 completed, 1 failed" in out
    assert "error [tool_failed]: line 2: The tool broke." in err


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{", "line 3"),
        ("[]", "line 3"),
        ('{"kind": "dance", "payload": {}}', "line 3"),
        ('{"kind": "tool", "payload": {"tool": "echo"}, "colour": 1}', "colour"),
        ('{"a": ' * 100_000, "line 3"),
        ("x" * (1024 * 1024 + 1), "1 MiB"),
        ('{"kind": "tool", "payload": {"tool": "echo", "args": {"value": NaN}}}', "line 3"),
        ("\ufeff" + line(1), "line 3"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_submitted(
    api: Served, tasks: Path, bad: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks.write_text(f"{line(1)}\n{line(2)}\n{bad}\n", encoding="utf-8")
    assert run(["batch", str(tasks)]) in (1, 2)
    assert said in capsys.readouterr().err
    assert api.node._tasks == {}


def test_what_the_node_refuses_is_told_with_the_lines(
    api: Served, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks.write_text(f"\n{line(1)}\n{line(2)}\n", encoding="utf-8")
    api.node.refuse_with = Problem("disk_full", "The disk is full.")
    assert run(["batch", str(tasks)]) == 1
    assert "Lines 2 to 3 were refused: The disk is full." in capsys.readouterr().err


def test_a_full_node_is_waited_for(
    api: Served, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_run.time, "sleep", lambda _: None)
    refusals = [Problem("too_many_tasks", "Full.")] * 3
    submit = api.node.submit

    async def full_at_first(specs: Sequence[Any], **options: Any) -> list[Accepted]:
        if refusals:
            raise refusals.pop()
        return await submit(specs, **options)

    api.node.submit = full_at_first
    tasks.write_text(line(1), encoding="utf-8")
    assert run(["batch", str(tasks)]) == 0
    assert refusals == []


def test_the_same_key_twice_is_one_task_and_two_results(api: Served, tasks: Path) -> None:
    tasks.write_text(f"{line(1, idempotency_key='k')}\n" * 2, encoding="utf-8")
    out = tasks.with_name("out.jsonl")
    assert run(["batch", str(tasks), "--out", str(out)]) == 0
    first, second = written(out)
    assert (first["line"], second["line"]) == (1, 2)
    assert first["id"] == second["id"]


def test_an_empty_file_is_an_empty_batch(
    api: Served, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks.touch()
    assert run(["batch", str(tasks), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == 0


def test_large_tasks_are_cut_into_several_requests(api: Served, tasks: Path) -> None:
    asked: list[int] = []
    submit = api.node.submit

    async def watched(specs: Sequence[Any], **options: Any) -> list[Accepted]:
        asked.append(len(json.dumps(specs)))
        return await submit(specs, **options)

    api.node.submit = watched
    tasks.write_text("\n".join(line("x" * 60_000) for _ in range(150)), encoding="utf-8")
    assert run(["batch", str(tasks)]) == 0
    assert len(asked) > 1
    assert max(asked) < 5 * 1024 * 1024
    assert isinstance(api.node, ScriptedNode)


@pytest.mark.parametrize("name", ["tasks.jsonl", "link.jsonl", "twin.jsonl", "new/../tasks.jsonl"])
def test_the_results_never_overwrite_the_tasks(
    api: Served, tasks: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks.write_text(line(1), encoding="utf-8")
    tasks.with_name("link.jsonl").symlink_to(tasks)
    tasks.with_name("twin.jsonl").hardlink_to(tasks)
    tasks.with_name("new").mkdir()
    assert run(["batch", str(tasks), "--out", str(tasks.parent / name)]) == 2
    assert "would overwrite the tasks" in capsys.readouterr().err
    assert tasks.read_text(encoding="utf-8") == line(1)
    assert api.node._tasks == {}


def test_nor_where_the_tasks_come_from_standard_input(
    api: Served, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.write_text(line(1), encoding="utf-8")
    with tasks.open(encoding="utf-8") as opened:
        monkeypatch.setattr("sys.stdin", opened)
        assert run(["batch", "-", "--out", str(tasks)]) == 2
        assert tasks.read_text(encoding="utf-8") == line(1)
        assert run(["batch", "-", "--out", str(tasks.with_name("out.jsonl"))]) == 0
    assert len(written(tasks.with_name("out.jsonl"))) == 1


def test_an_interrupted_batch_says_what_goes_on_and_what_it_has_written(
    api: Served, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batch_run, "RESULTS_WAIT_S", 0.01)
    lines = [line(n) for n in range(3)] + [line(60, "sleep") for _ in range(4)]
    tasks.write_text("\n".join(lines), encoding="utf-8")
    out = tasks.with_name("out.jsonl")
    collect = batch_run.Batch._collect
    times: list[float] = []

    def interrupted(self: batch_run.Batch, wait_s: float) -> None:
        times.append(wait_s)
        if len(times) == 3:
            raise KeyboardInterrupt
        collect(self, wait_s)

    monkeypatch.setattr(batch_run.Batch, "_collect", interrupted)
    assert run(["batch", str(tasks), "--out", str(out), "--max-parallel", "5"]) == 130
    stdout, err = capsys.readouterr()
    assert stdout == ""
    assert "7 of 7 tasks were accepted; 3 have settled and the others go on" in err
    assert "`kowalski tasks`" in err
    assert "`kowalski result ID`" in err
    assert f"{out} holds 3 of 7 results." in err
    assert len(written(out)) == 3


def test_a_batch_interrupted_while_it_sends_says_what_is_unsure(
    api: Served, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(batch_run.NodeApi, "ask", interrupted)
    tasks.write_text(f"{line(1)}\n{line(2)}\n", encoding="utf-8")
    assert run(["batch", str(tasks)]) == 130
    err = capsys.readouterr().err
    assert "0 of 2 tasks were accepted, and perhaps 2 that were being sent" in err
    assert "results." not in err
