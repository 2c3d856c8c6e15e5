"""Sessions on the command line: the list of them, and what is told when one was made anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from kowalski_node.views import RebuiltView, ResultView, TaskView
from tests.ports.api_world import Served
from tests.ports.scripted_node import OTHER
from tests.units.cli_runner import Kowalski

Settling = Callable[[RebuiltView | None], None]


@pytest.fixture
def cell(tmp_path: Path) -> str:
    """A program."""
    path = tmp_path / "cell.py"
    path.write_text("x = 1\nx")
    return str(path)


@pytest.fixture
def settling(api: Served) -> Settling:
    """Has the node run each cell at once, in an interpreter that it made anew like this."""

    def settle(rebuilt: RebuiltView | None) -> None:
        async def submit_and_wait(spec: Mapping[str, Any], wait_s: float) -> TaskView:
            (accepted,) = await api.node.submit([spec])
            api.node.start(accepted.id)
            api.node.settle(accepted.id, ResultView(True, value=1))
            view = api.node._tasks[accepted.id]
            place = view.session and structs.replace(view.session, cell=13, rebuilt=rebuilt)
            view = structs.replace(view, device=OTHER, session=place)
            api.node._tasks[accepted.id] = view
            return view

        api.node.submit_and_wait = submit_and_wait

    return settle


def test_without_sessions_it_says_how_one_begins(api: Served, kowalski: Kowalski) -> None:
    assert kowalski("sessions") == (
        0,
        "No sessions. `kowalski submit FILE --session NAME` begins one.\n",
        "",
    )
    assert kowalski("sessions", "--json").json == []


def test_sessions_are_listed_with_their_device_and_cells(
    api: Served, kowalski: Kowalski, settling: Settling, cell: str
) -> None:
    settling(None)
    for name in ("notes", "notes", "evil\x1b[2J"):
        assert kowalski("submit", cell, "--session", name, "--wait").code == 0
    kowalski("submit", cell, "--session", "notes")
    ended = kowalski("sessions")
    assert ended.out.splitlines()[0].split("  ")[0] == "NAME"
    assert re.search(r"^notes +python +– +2 +1 +–$", ended.out, re.MULTILINE)
    assert re.search(r"^evil\\x1b\[2J +python +laptop +1 +– +\d+ d ago$", ended.out, re.MULTILINE)
    shown = kowalski("sessions", "--json").json
    assert [(one["name"], one["cells"], one["open"]) for one in shown] == [
        ("notes", 2, 1),
        ("evil\x1b[2J", 1, 0),
    ]
    assert {*shown[0]} == {"name", "language", "device", "cells", "open", "last"}


def test_a_cell_in_an_interpreter_that_was_kept_shows_its_value_alone(
    api: Served, kowalski: Kowalski, settling: Settling, cell: str
) -> None:
    settling(None)
    assert kowalski("submit", cell, "--session", "notes", "--wait") == (0, "1\n", "")
    assert kowalski("submit", cell, "--wait") == (0, "1\n", "")


PASSED_OVER = "had not come to an end of"
OVER = "passed over."


@pytest.mark.parametrize(
    ("rebuilt", "told"),
    [
        (RebuiltView(1, [], []), "from 1 cell."),
        (RebuiltView(12, [3, 7], []), "from 12 cells; cells 3 and 7 came out otherwise."),
        (
            RebuiltView(3, [2], [4]),
            f"from 3 cells; cell 2 came out otherwise; cell 4 {PASSED_OVER} its own and was {OVER}",
        ),
        (
            RebuiltView(1_200, [], [1, 2, 3]),
            f"from 1,200 cells; cells 1, 2 and 3 {PASSED_OVER} their own and were {OVER}",
        ),
        (
            RebuiltView(40, [*range(1, 13)], []),
            "from 40 cells; cells 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more came out otherwise.",
        ),
    ],
)
def test_a_session_that_was_made_anew_is_told_beside_the_value(
    api: Served,
    kowalski: Kowalski,
    settling: Settling,
    cell: str,
    rebuilt: RebuiltView,
    told: str,
) -> None:
    settling(rebuilt)
    submit = ("submit", cell, "--session", "notes", "--wait")
    sentence = f"The session was made anew on laptop {told}\n"
    assert kowalski(*submit) == (0, "1\n", sentence)
    ended = kowalski(*submit, "--json")
    assert ended.err == ""
    assert ended.json["session"]["rebuilt"]["replayed"] == rebuilt.replayed
    api.node.device_names.clear()
    assert kowalski(*submit).err == sentence.replace("laptop", "…Peer2222")


def test_only_what_has_an_interpreter_that_is_kept_takes_a_session(
    api: Served, kowalski: Kowalski, tmp_path: Path
) -> None:
    (tmp_path / "x.js").write_text("1")
    for words, code in (((str(tmp_path / "x.js"),), 1), (("--tool", "echo"), 2)):
        ended = kowalski("submit", *words, "--session", "notes", "--json")
        assert (ended.code, ended.json["error"]["code"]) == (code, "bad_request")
    assert api.node._payloads == {}


@pytest.mark.parametrize("option", ["--arg", "--env", "--stdin", "--file", "--output"])
def test_what_a_cell_does_not_take_is_refused_before_it_is_submitted(
    api: Served, kowalski: Kowalski, cell: str, option: str
) -> None:
    given = {"--env": "A=b", "--stdin": cell, "--file": cell}.get(option, "x")
    ended = kowalski("submit", cell, "--session", "notes", option, given)
    assert ended.code == 2
    assert f"{option} is for programs of their own" in ended.err
    assert api.node._payloads == {}
