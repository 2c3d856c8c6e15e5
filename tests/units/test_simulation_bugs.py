"""Planted bugs: each changes the core for as long as it is planted, and the checks notice."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from simulations.__main__ import main
from simulations.bugs import BUGS, Bug, Change, CoreHasChanged, UnknownBug, caught, planted
from simulations.bugs.planting import function_at
from simulations.options import Options
from simulations.running import run

SOON = ("acknowledged_before_commit", "replicas_miscounted", "settled_before_commit")
"""Bugs that the first world shows."""


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_in_the_core_while_it_is_planted_and_not_after(name: str) -> None:
    functions = [function_at(change.where) for change in BUGS[name].changes]
    before = [function.__code__ for function in functions]
    with planted(name):
        assert all(f.__code__ is not code for f, code in zip(functions, before, strict=True))
    assert all(f.__code__ is code for f, code in zip(functions, before, strict=True))
    with pytest.raises(KeyError), planted(name):
        raise KeyError
    assert all(f.__code__ is code for f, code in zip(functions, before, strict=True))


def test_there_are_at_least_twenty() -> None:
    assert len(BUGS) >= 20
    assert all(bug.sentence.endswith(".") for bug in BUGS.values())


@pytest.mark.parametrize("name", SOON)
def test_a_bug_is_caught_where_all_holds_without_it(name: str) -> None:
    found = caught(name, range(3), minutes=1.0)
    assert found is not None
    assert run(Options(seed=found.seed, minutes=1.0)).ok


def test_a_bug_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UnknownBug, match="no planted bug 'none_such'"), planted("none_such"):
        pass


def test_a_bug_whose_lines_the_core_no_longer_has_is_not_planted_silently() -> None:
    bug = Bug("stale", "Nothing.", Change("core.device:Device.start", "no such line", "another"))
    with pytest.raises(CoreHasChanged), bug.apply():
        pass


def test_the_command_tells_what_caught_each_bug() -> None:
    ended = CliRunner().invoke(
        main, ["bugs", "replicas_miscounted", "--seeds", "3", "--processes", "1"]
    )
    assert ended.exit_code == 0
    assert "replicas are true" in ended.stdout
    assert "1 of 1 caught" in ended.stdout
