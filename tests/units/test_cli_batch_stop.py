"""`kowalski batch` stopped by its person, and by a node that goes away for a while."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kowalski_gateway.cli import batch_run
from kowalski_gateway.cli.transport import NodeApi
from kowalski_node.views import Accepted, ResultView
from kowalski_protocol.errors import Problem
from tests.ports.api_world import Served
from tests.units.cli_runner import Kowalski

LINES = 10


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "RESULTS_WAIT_S", 0.01)
    monkeypatch.setattr(batch_run, "AWAY_PAUSE_S_MAX", 0.01)
    monkeypatch.setattr(batch_run, "AWAY_PAUSE_S_MIN", 0.01)


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Signals are heard, also where whoever started the tests had them ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Ten tasks that settle when the test says so."""
    path = tmp_path / "tasks.jsonl"
    task = {"kind": "tool", "payload": {"tool": "sleep", "args": {"seconds": 60}}}
    path.write_text(f"{json.dumps(task)}\n" * LINES, encoding="utf-8")
    return path


def lines_of(out: Path) -> list[int]:
    return [json.loads(text)["line"] for text in out.read_text(encoding="utf-8").splitlines()]


def settle_all(api: Served) -> None:
    for view in [*api.node._tasks.values()]:
        if view.state != "settled":
            api.node.settle(view.id, ResultView(True, value=1))


def signalled(
    api: Served, monkeypatch: pytest.MonkeyPatch, numbers: Sequence[int], *, when: int = 1
) -> None:
    """The signals come once so many tasks are submitted, one at each look; at the look after the
    last of them, all that is under way settles."""
    left = [*numbers]
    ask = NodeApi.ask

    def asked(self: NodeApi, method: str, path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("/results") and len(api.node._tasks) >= when:
            if left:
                os.kill(os.getpid(), left.pop(0))
            else:
                api.do(lambda: settle_all(api))
        return ask(self, method, path, *arguments, **options)

    monkeypatch.setattr(NodeApi, "ask", asked)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ordered", [False, True])
def test_the_first_signal_waits_for_what_is_under_way(
    api: Served,
    kowalski: Kowalski,
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    ordered: bool,
) -> None:
    out = tasks.with_name("out.jsonl")
    words = ["batch", str(tasks), "--out", str(out), "--max-parallel", "4"]
    words += ["--ordered"] * ordered
    with monkeypatch.context() as patch:
        signalled(api, patch, [number])
        ended = kowalski(*words)
    assert (ended.code, ended.out) == (130, "")
    assert "Stopping: no more is submitted, and 4 under way are waited for." in ended.err
    assert "Stopped: 4 of 10 tasks have settled." in ended.err
    assert f"{out} holds 4 of 10 results. The same command goes on from there." in ended.err
    assert lines_of(out) == [1, 2, 3, 4]
    assert len(api.node._tasks) == 4
    signalled(api, monkeypatch, [])
    assert kowalski(*words).code == 0
    assert sorted(lines_of(out)) == [*range(1, LINES + 1)]
    assert len(api.node._tasks) == LINES


def test_the_second_signal_leaves_at_once(
    api: Served, kowalski: Kowalski, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tasks.with_name("out.jsonl")
    signalled(api, monkeypatch, [signal.SIGINT, signal.SIGTERM])
    ended = kowalski("batch", str(tasks), "--out", str(out), "--max-parallel", "4")
    assert (ended.code, ended.out) == (130, "")
    assert "4 of 10 tasks were accepted; 0 have settled and the others go on" in ended.err
    assert lines_of(out) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_batch_that_was_all_under_way_ends_as_ever(
    api: Served, kowalski: Kowalski, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled(api, monkeypatch, [signal.SIGINT])
    ended = kowalski("batch", str(tasks), "--json")
    assert ended.code == 0
    assert ended.json["outcomes"] == {"completed": LINES}


def test_a_signal_that_is_ignored_stays_ignored(
    api: Served, kowalski: Kowalski, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        signalled(api, monkeypatch, [signal.SIGINT] * 3)
        assert kowalski("batch", str(tasks), "--max-parallel", "5").code == 0
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------ the node is away


class Away:
    """From a request on, that one included, so many find no node; `after` says that the first of
    them was heard and its answer lost."""

    def __init__(
        self, patch: pytest.MonkeyPatch, *, at: int, times: int, after: bool, code: str
    ) -> None:
        self.asked = 0
        ask = NodeApi.ask

        def asked(api: NodeApi, *arguments: Any, **options: Any) -> Any:
            self.asked += 1
            if at <= self.asked < at + times:
                if after and self.asked == at:
                    ask(api, *arguments, **options)
                raise Problem(code, "No node answers.")
            return ask(api, *arguments, **options)

        patch.setattr(NodeApi, "ask", asked)


@pytest.mark.parametrize("at", range(2, 7))
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("code", ["node_unreachable", "stopping", "not_ready"])
def test_a_node_that_comes_back_is_gone_on_with_and_runs_nothing_twice(
    api: Served,
    kowalski: Kowalski,
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    after: bool,
    code: str,
) -> None:
    submit = api.node.submit

    async def settling(specs: Sequence[Any], **options: Any) -> list[Accepted]:
        accepted = await submit(specs, **options)
        settle_all(api)
        return accepted

    api.node.submit = settling
    away = Away(monkeypatch, at=at, times=5, after=after, code=code)
    ended = kowalski("batch", str(tasks), "--max-parallel", "3", "--json")
    assert ended.code == 0
    assert ended.err == ""
    assert ended.json["outcomes"] == {"completed": LINES}
    assert away.asked >= at + 5
    assert len(api.node._tasks) == LINES


def test_a_node_that_never_answered_is_not_waited_for(
    kowalski: Kowalski, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waited(seconds: float) -> None:
        raise AssertionError(f"it waits for {seconds} s")

    monkeypatch.setattr(batch_run.time, "sleep", waited)
    monkeypatch.setenv("KOWALSKI_API", "127.0.0.1:1")
    ended = kowalski("batch", str(tasks))
    assert ended.code == 3
    assert "error [node_unreachable]" in ended.err


def test_a_node_that_stays_away_is_given_up(
    api: Served, kowalski: Kowalski, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_run, "AWAY_S_MAX", 0.05)
    Away(monkeypatch, at=2, times=1000, after=False, code="node_unreachable")
    out = tasks.with_name("out.jsonl")
    ended = kowalski("batch", str(tasks), "--out", str(out))
    assert ended.code == 3
    assert f"{out} holds 0 of 10 results. The same command goes on from there." in ended.err


def test_a_node_that_is_too_busy_to_tell_results_is_asked_again(
    api: Served, kowalski: Kowalski, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_run, "BUSY_PAUSE_S", 0.01)
    signalled(api, monkeypatch, [])
    Away(monkeypatch, at=2, times=3, after=False, code="too_many_requests")
    assert kowalski("batch", str(tasks)).code == 0
