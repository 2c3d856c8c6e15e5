"""`python -m simulations`: what it prints, what it refuses, and how it ends.

Runs that break are made to by a check that finds fault with a sound world; planting bugs in the
core is another matter.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from simulations.__main__ import commit, main
from simulations.checks import Checks
from simulations.faults import KINDS
from simulations.liveness import Liveness
from simulations.options import PRESETS, Options
from simulations.running import run
from simulations.world import World

ROOT = Path(__file__).resolve().parents[2]
BRIEF = ("--hours", "0.002", "--nodes", "3", "--preset", "local")
"""Seven seconds in which anything may go wrong."""


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, words, catch_exceptions=False)


def run_brief(seed: int, *words: str) -> Result:
    return invoke("run", "--seed", str(seed), *BRIEF, *words)


def plain(text: str) -> str:
    """In one line: click breaks its sentences where a terminal would."""
    return " ".join(text.split())


Break = Callable[[World], object]


@pytest.fixture
def break_where(monkeypatch: pytest.MonkeyPatch) -> Callable[[Break], None]:
    """Lets a world break at its end where a predicate of it is true."""

    def patch(is_broken: Break) -> None:
        sound = Liveness.check

        def check(self: Liveness) -> None:
            sound(self)
            world = self._world
            if is_broken(world):
                id = next(iter(world.checks.acknowledged), None)
                world.checks.fail("a made-up promise", "it does not hold", task=id)

        monkeypatch.setattr(Liveness, "check", check)

    return patch


@pytest.fixture
def broken(break_where: Callable[[Break], None]) -> None:
    break_where(lambda _world: True)


# Help.


def test_help_names_each_command_with_what_it_does() -> None:
    for words in (["--help"], ["-h"]):
        shown = invoke(*words)
        assert shown.exit_code == 0
        for command, about in (
            ("run", "Run one world"),
            ("sweep", "Run many seeds"),
            ("shrink", "Find the few faults"),
        ):
            assert re.search(rf"^  {command} +{about}", shown.output, re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("run", ["--seed", "--nodes", "--hours", "--preset", "--faults", "--leave-out", "--bug"]),
        ("run", ["--story", "--json"]),
        ("sweep", ["--seeds", "--first", "--nodes", "--hours", "--preset", "--faults"]),
        ("sweep", ["--processes", "--keep-going"]),
        ("shrink", ["--seed", "--nodes", "--hours", "--preset", "--faults", "--bug"]),
    ],
)
def test_the_help_of_a_command_explains_its_options(command: str, options: list[str]) -> None:
    shown = invoke(command, "--help")
    assert shown.exit_code == 0
    for option in options:
        explained = re.search(rf"^  {option}\b(.*)$(?:\n {{6,}}.*)*", shown.output, re.MULTILINE)
        assert explained, option
        assert len(explained.group().split()) >= 4, option
    if "--faults" in options:
        assert all(kind in plain(shown.output).replace("- ", "-") for kind in KINDS)


def test_it_runs_as_a_module() -> None:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("protocol", "ledger", "node", "."))
    ended = subprocess.run(
        [sys.executable, "-m", "simulations", "run", "--seed", "1", *BRIEF, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["seed"] == 1


# Usage.


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run"], "Missing option '--seed'"),
        (["run", "--seed", "one"], "'one' is not a valid integer"),
        (["run", "--seed", "1", "--nodes", "0"], "0 is not in the range 1<=x<=128"),
        (["run", "--seed", "1", "--hours", "0"], "0.0 is not in the range"),
        (["run", "--seed", "1", "--hours", "nan"], "a number of hours is wanted"),
        (["run", "--seed", "1", "--preset", "moon"], "'moon' is not one of"),
        (["run", "--seed", "1", "--faults", "crash,rain"], "there is no fault 'rain'; there are"),
        (["run", "--seed", "1", "--faults", ""], "there is no fault ''; there are"),
        (["run", "--seed", "1", "--faults", "none,crash"], "there is no fault 'none'"),
        (["run", "--seed", "1", "--leave-out", "3,x"], "a list of numbers is wanted, such as 3,7"),
        (["run", "--seed", "1", "--story", "xyz"], "the first digits of a task's id are wanted"),
        (["run", "--seed", "1", "--bug", "none_such"], "there is no bug 'none_such'"),
        (["sweep", "--seeds", "0"], "0 is not in the range x>=1"),
        (["sweep", "--processes", "0"], "0 is not in the range x>=1"),
        (["sweep", "--faults", "rain"], "there is no fault 'rain'"),
        (["shrink"], "Missing option '--seed'"),
        (["shrink", "--seed", "1", "--faults", "rain"], "there is no fault 'rain'"),
        (["shrink", "--seed", "1", "--bug", "none_such"], "there is no bug 'none_such'"),
        (["play"], "No such command 'play'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_refused_with_a_sentence(words: list[str], sentence: str) -> None:
    ended = invoke(*words)
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert sentence in plain(ended.stderr)
    assert "Traceback" not in ended.output


def test_the_sentence_about_a_wrong_fault_names_those_that_there_are() -> None:
    said = plain(run_brief(1, "--faults", "rain").stderr)
    assert all(kind in said for kind in KINDS)


# One run.


def test_a_run_that_holds_says_so_and_ends_with_0() -> None:
    ended = run_brief(3, "--faults", "none")
    report = run(Options(seed=3, nodes=3, minutes=0.12, preset="local", faults=()))
    assert ended.exit_code == 0
    lines = ended.stdout.splitlines()
    assert lines[0] == f"seed 3: all held; digest {report.digest}"
    assert lines[1].startswith(f"  3 nodes, local, {report.tasks} tasks, 0 faults,")
    assert lines[2] == "  faults drawn: none"
    assert len(lines) == 3


def test_what_is_given_decides_what_happens() -> None:
    ended = run_brief(3, "--nodes", "5", "--preset", "wan", "--faults", "crash,pause,crash")
    assert ended.exit_code == 0
    assert "  5 nodes, wan, " in ended.stdout
    assert "  faults drawn: crash, pause\n" in ended.stdout


def test_json_is_one_document_and_the_same_again(broken: None) -> None:
    documents: list[dict[str, Any]] = []
    for _ in range(2):
        ended = run_brief(4, "--json")
        assert ended.exit_code == 1
        assert ended.stderr == ""
        documents.append(json.loads(ended.stdout))
        del documents[-1]["core_s"]
    assert documents[0] == documents[1]
    assert documents[0]["ok"] is False
    assert documents[0]["check"] == "a made-up promise"
    assert documents[0]["sentence"].endswith("it does not hold")
    assert documents[0]["story"][0].startswith("the story of task ")


def test_json_of_a_run_that_holds() -> None:
    ended = run_brief(4, "--faults", "none", "--json")
    document = json.loads(ended.stdout)
    assert ended.exit_code == 0
    assert (document["ok"], document["check"], document["kinds"]) == (True, "", [])
    assert (document["nodes"], document["preset"], document["seed"]) == (3, "local", 4)


def test_a_run_that_breaks_tells_why_and_how_to_see_it_again(broken: None) -> None:
    ended = run_brief(4, "--faults", "crash,pause")
    assert ended.exit_code == 1
    lines = ended.stdout.splitlines()
    assert lines[0] == "seed 4: a made-up promise"
    assert re.fullmatch(r"  at [\d.]+ s, it does not hold", lines[1])
    assert lines[3] == "  faults drawn: crash, pause"
    assert lines[4].startswith(f"  commit {commit()}; again: python -m simulations run --seed 4 ")
    assert lines[5].startswith("  the story of task ")
    assert lines[-4:-3] == ["  what each device shows"]
    # The command that it prints shows the same once more.
    words = shlex.split(lines[4].partition("again: python -m simulations ")[2])
    again = invoke(*words)
    assert again.exit_code == 1
    assert without_times(again.stdout) == without_times(ended.stdout)


def without_times(text: str) -> list[str]:
    """Without how long it took on this machine."""
    return [line.partition(";")[0] if " of a core" in line else line for line in text.splitlines()]


def test_an_error_of_the_code_is_a_failure_with_its_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stumble(self: Checks, device: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(Checks, "booted", stumble)
    ended = run_brief(4)
    assert ended.exit_code == 1
    assert ended.stdout.splitlines()[0] == "seed 4: ZeroDivisionError"
    assert "a mistake" in ended.stdout.splitlines()[1]
    assert "in stumble" in ended.stdout


def test_the_story_of_a_task_can_be_asked_for() -> None:
    world = World(Options(seed=3, nodes=3, minutes=0.12, preset="local", faults=()))
    world.run()
    id = next(iter(world.checks.acknowledged))
    ended = run_brief(3, "--faults", "none", "--story", id.hex())
    assert ended.exit_code == 0
    lines = [line.strip() for line in ended.stdout.splitlines()]
    at = lines.index(f"the story of task {id.hex()[:16]}")
    assert any("TaskSubmitted" in line for line in lines[at:])
    shown = lines[lines.index("what each device shows") + 1 :]
    assert [line.split()[:2] for line in shown] == [[f"n{n}", "settled"] for n in range(3)]


@pytest.mark.parametrize(
    "options",
    [
        Options(seed=9, minutes=0.12),
        Options(seed=9, minutes=0.12, nodes=4, preset="wan", faults=()),
        Options(seed=9, minutes=0.6, nodes=3, faults=("crash", "pause"), left_out=(0, 2)),
        Options(seed=-9, minutes=0.5, nodes=2, preset="local", faults=("pause",)),
    ],
    ids=lambda options: options.command().partition("--seed ")[2],
)
def test_the_command_of_a_run_replays_it(options: Options) -> None:
    words = shlex.split(options.command())
    assert words[:4] == ["python", "-m", "simulations", "run"]
    document = json.loads(invoke(*words[3:], "--json").stdout)
    assert document["digest"] == run(options).digest


def test_a_run_of_ten_minutes_needs_no_length_in_its_command() -> None:
    assert Options(seed=5).command() == "python -m simulations run --seed 5"
    assert sorted(PRESETS) == ["lan", "local", "wan"]


# Many runs.


def sweep(*words: str) -> Result:
    return invoke("sweep", "--processes", "1", *BRIEF, *words)


def test_a_sweep_of_seeds_that_hold_ends_with_0() -> None:
    ended = sweep("--seeds", "3", "--first", "40", "--faults", "none")
    assert ended.exit_code == 0
    figures = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in ended.stdout.splitlines())
    assert figures["seeds"].strip() == "3 from 40, 0 broken"
    assert figures["faults"].strip() == "0"
    tasks = [
        run(Options(seed=seed, nodes=3, minutes=0.12, preset="local", faults=())).tasks
        for seed in (40, 41, 42)
    ]
    assert figures["tasks"].strip() == str(sum(tasks))


def test_a_sweep_on_several_cores_runs_each_seed_once() -> None:
    # In a process of its own: a pool leaves a helper process behind for as long as its maker lives.
    words = ["-m", "simulations", "sweep", "--processes", "2", "--seeds", "4", *BRIEF]
    ended = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "4 from 0, 0 broken" in ended.stdout


def test_a_sweep_stops_at_the_first_that_breaks(break_where: Callable[[Break], None]) -> None:
    break_where(lambda world: world.options.seed >= 41)
    ended = sweep("--seeds", "5", "--first", "40")
    assert ended.exit_code == 1
    assert "2 from 40, 1 broken" in ended.stdout
    assert "seed 41: a made-up promise\n" in ended.stdout
    assert "again: python -m simulations run --seed 41 --nodes 3" in ended.stdout
    assert re.search(r"seed 41: a made-up promise: at .* it does not hold", ended.stdout)


def test_a_sweep_that_keeps_going_tells_of_all_that_break(
    break_where: Callable[[Break], None],
) -> None:
    break_where(lambda world: world.options.seed % 2 == 0)
    ended = sweep("--seeds", "5", "--first", "40", "--keep-going")
    assert ended.exit_code == 1
    assert "5 from 40, 3 broken" in ended.stdout
    last = ended.stdout.splitlines()[-3:]
    assert [line.split(":")[0].strip() for line in last] == ["seed 40", "seed 42", "seed 44"]


# Shrinking.


def test_a_seed_that_holds_is_not_shrunk() -> None:
    ended = invoke("shrink", "--seed", "3", *BRIEF, "--faults", "none")
    assert ended.exit_code == 0
    assert ended.stdout.startswith("seed 3: all held")


@pytest.mark.parametrize("needed", [("pause",), ("crash", "pause"), ()], ids=" and ".join)
def test_shrinking_leaves_the_faults_without_which_nothing_breaks(
    break_where: Callable[[Break], None], needed: tuple[str, ...]
) -> None:
    kinds = ("crash", "pause", "delay", "jitter", "slow_disk")

    def options_of(seed: int) -> Options:
        return Options(seed=seed, nodes=3, minutes=1.2, preset="local", faults=kinds)

    def draws_enough(seed: int) -> bool:
        drawn = [fault.kind for fault in World(options_of(seed)).schedule]
        return {"crash", "pause"} <= set(drawn) and len(drawn) > 3

    seed = next(filter(draws_enough, range(1000)))
    break_where(lambda world: set(needed) <= {fault.kind for fault in world.faults.happened})
    ended = invoke(
        "shrink", "--seed", str(seed), "--nodes", "3", "--hours", "0.02", "--preset", "local",
        "--faults", ",".join(kinds),
    )  # fmt: skip
    assert ended.exit_code == 1
    assert ended.stdout.startswith(f"seed {seed}: a made-up promise\n")
    assert f", {len(needed)} faults," in ended.stdout
    # And they are what the command replays that it prints.
    words = shlex.split(ended.stdout.partition("again: python -m simulations ")[2].splitlines()[0])
    left_out = {int(n) for n in words[words.index("--leave-out") + 1].split(",")}
    kept = [
        fault.kind for fault in World(options_of(seed)).schedule if fault.number not in left_out
    ]
    assert sorted(kept) == sorted(needed)
    again = invoke(*words)
    assert again.exit_code == 1
    assert without_times(again.stdout) == without_times(ended.stdout)


def test_shrinking_tells_on_the_side_how_far_it_is(break_where: Callable[[Break], None]) -> None:
    break_where(lambda _world: True)
    ended = invoke("shrink", "--seed", "7", *BRIEF, "--faults", "crash,pause,delay")
    assert ended.exit_code == 1
    assert "shrinking" not in ended.stdout
    assert "shrinking" in ended.stderr


# The manual.


def shown() -> list[list[str]]:
    """The words of each command that the page about simulation shows."""
    text = (ROOT / "docs/concepts/simulation.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("words", shown(), ids=" ".join)
def test_a_command_that_the_manual_shows_is_understood(words: list[str]) -> None:
    if words[0] == "make":
        assert words[1] == "sim"
        assert {word.partition("=")[0] for word in words[2:]} <= {"SEEDS", "FIRST", "ARGS"}
        return
    assert words[:3] == [".venv/bin/python", "-m", "simulations"]
    command = main.commands[words[3]]
    command.make_context(words[3], words[4:])


def test_each_command_is_shown_in_the_manual() -> None:
    assert {words[3] for words in shown() if words[0] != "make"} | {"sweep"} == set(main.commands)
