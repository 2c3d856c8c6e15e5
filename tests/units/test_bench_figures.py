"""The catalogue of figures: each can be measured, and each verdict is the target's."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

from kowalski_gateway.bench import run_bench
from kowalski_gateway.bench.figures import CATALOGUE, GROUPS, Target, chosen, judged, target_text
from kowalski_gateway.bench.session import Session


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_has_a_module_that_measures_it(group: str) -> None:
    module = importlib.import_module(f"kowalski_gateway.bench.{group}")
    assert inspect.iscoroutinefunction(module.measure)


@pytest.mark.parametrize("group", GROUPS)
def test_every_figure_of_a_group_is_named_in_its_module(group: str) -> None:
    module = importlib.import_module(f"kowalski_gateway.bench.{group}")
    text = Path(inspect.getfile(module)).read_text(encoding="utf-8")
    for definition in CATALOGUE.values():
        # The throughputs by number of processes are named by a pattern.
        if definition.group == group and not definition.name.startswith("throughput_"):
            assert f'"{definition.name}"' in text


@pytest.mark.parametrize(
    ("target", "value", "is_met"),
    [
        (Target("at most", 8), 8, True),
        (Target("at most", 8), 8.001, False),
        (Target("at most", 0), 0, True),
        (Target("at least", 2500), 2500, True),
        (Target("at least", 2500), 2499.9, False),
    ],
)
def test_a_target_is_met_up_to_its_bound(target: Target, value: float, is_met: bool) -> None:
    assert target.is_met(value) is is_met


def test_a_figure_is_judged_by_the_catalogue() -> None:
    met = judged("latency_p50", 7.5, {"samples": 600})
    assert (met.ok, met.unit, met.target) == (True, "ms", "at most 8 ms")
    assert judged("latency_p50", 8.5, {}).ok is False
    assert judged("throughput", 2600, {}).ok is True
    assert judged("throughput_dask", 650, {}).ok is None
    assert judged("latency_p50", None, {"reason": "no node"}).ok is None


def test_a_target_reads_as_a_sentence_would() -> None:
    assert target_text(CATALOGUE["throughput"]) == "at least 2,500 tasks/s"
    assert target_text(CATALOGUE["throughput_share"]) == "at least 0.2"
    assert target_text(CATALOGUE["throughput_1"]) is None


def test_figures_are_chosen_by_name_or_by_group() -> None:
    assert chosen(()) == frozenset(CATALOGUE)
    assert chosen(("replay",)) == {"replay"}
    assert chosen(("dask", "replay")) == {
        "throughput_dask",
        "throughput_times_dask",
        "latency_dask_p50",
        "latency_dask_p99",
        "replay",
    }
    with pytest.raises(KeyError, match="speed"):
        chosen(("replay", "speed"))


def test_an_unknown_figure_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_bench({"only": "speed"}) == 2
    said = capsys.readouterr()
    assert "speed" in said.err
    assert "throughput" in said.err
    assert said.out == ""


def test_a_session_tells_what_was_asked_for_and_remembers_the_rest(tmp_path: Path) -> None:
    told: list[str] = []
    session = Session(
        tmp_path, chosen(("replay",)), quick=True, tell=lambda figure: told.append(figure.figure)
    )
    session.report("replay", 61234.5678, events=100_000)
    session.report("audit", 30_000.0)
    session.give_up(["replay", "join_30000"], "no room")
    assert told == ["replay"]
    assert session.value("replay") == 61235
    assert session.value("audit") == 30_000
    assert session.value("join_30000") is None
    assert session.figures["join_30000"].detail == {"reason": "no room"}
    assert session.times(20, 5) == 5
