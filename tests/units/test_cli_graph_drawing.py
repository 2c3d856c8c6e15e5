"""Graphs drawn for a terminal: what a person reads of few tasks, of many, and of hostile ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from kowalski_gateway.cli import graph_drawing
from kowalski_gateway.cli.graph_drawing import WIDTH, TaskShown, draw, layers

DIAMOND = {
    "make": TaskShown((), "completed", "desk", 0.412),
    "left": TaskShown(("make",), "completed", "mini", 12.1),
    "right": TaskShown(("make",), "failed", "laptop", 0.002),
    "spare": TaskShown(("make",), "running", "laptop", None),
    "some": TaskShown(("left", "right", "left"), "not run", "", None),
    "join": TaskShown(("left", "right", "spare"), "not run", "", None),
    "end": TaskShown(("join", "make"), "not run", "", None),
}


def test_a_graph_is_drawn_in_layers() -> None:
    assert draw(DIAMOND, ascii_only=False) == [
        "│ ✓ make   completed  desk    412 ms",
        "│",
        "┌ ✓ left   completed  mini    12.1 s  ← make",
        "├ ✗ right  failed     laptop  2.0 ms  ← make",
        "└ ● spare  running    laptop          ← make",
        "│",
        "┌ ○ some   not run                    ← left, right",
        "└ ○ join   not run                    ← all 3 above",
        "│",
        "│ ○ end    not run                    ← join, make",
    ]


def test_a_terminal_without_unicode_gets_ascii() -> None:
    lines = draw({**DIAMOND, "Größe": TaskShown((), "running", "Büro", 0.5)}, ascii_only=True)
    assert lines[:5] == [
        "/ + make   completed  desk    412 ms",
        "\\ > Gr??e  running    B?ro    500 ms",
        "|",
        "/ + left   completed  mini    12.1 s  <- make",
        "| x right  failed     laptop  2.0 ms  <- make",
    ]
    assert all(map(str.isascii, lines))


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_terminal_decides_unless_somebody_says(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    import io

    from rich.console import Console

    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(graph_drawing, "console", lambda: Console(file=file))
    assert draw(DIAMOND) == draw(DIAMOND, ascii_only=encoding == "ascii")


def test_columns_in_which_nothing_stands_are_left_out() -> None:
    waiting = {"a": TaskShown((), "waiting", "", None), "b": TaskShown(("a",), "waiting", "", None)}
    assert draw(waiting, ascii_only=False) == ["│ ○ a  waiting", "│", "│ ○ b  waiting  ← a"]
    assert draw({}) == []


def state_of(part: int) -> str:
    if part in (50, 77):
        return "failed"
    return "running" if part > 94 else "completed"


def many() -> dict[str, TaskShown]:
    parts = {f"part-{n}": TaskShown(("split",), state_of(n), "", None) for n in range(100)}
    return {
        "split": TaskShown((), "completed", "", None),
        **parts,
        "sum": TaskShown(tuple(parts), "waiting", "", None),
        "half": TaskShown(tuple(parts)[:50], "waiting", "", None),
    }


def test_a_wide_layer_shows_what_failed_and_runs_and_counts_the_others() -> None:
    assert draw(many(), ascii_only=False) == [
        "│ ✓ split    completed",
        "│",
        "┌ ✓ part-0   completed  ← split",
        "├ ✗ part-50  failed     ← split",
        "├ ✗ part-77  failed     ← split",
        "├ ● part-95  running    ← split",
        "├ ● part-96  running    ← split",
        "├ ● part-97  running    ← split",
        "├ ● part-98  running    ← split",
        "├ ● part-99  running    ← split",
        "└ … and 92 more completed",
        "│",
        "┌ ○ sum      waiting    ← all 100 above",
        f"└ ○ half     waiting    ← {', '.join(f'part-{n}' for n in range(8))} and 42 more",
    ]


def test_several_states_are_counted_each() -> None:
    states = ["failed"] * 9 + ["running"] * 2 + ["completed"] * 1_200
    tasks = {f"t{n}": TaskShown((), state, "", None) for n, state in enumerate(states)}
    lines = draw(tasks, ascii_only=False)
    assert len(lines) == 9
    assert lines[-1] == "└ … and 1,203 more: 1 failed, 2 running, 1,200 completed"


@pytest.mark.parametrize("count", [8, 9, 10])
def test_what_is_hardly_more_than_fits_is_shown_whole(count: int) -> None:
    tasks = {f"t{n}": TaskShown((), "failed", "", None) for n in range(count)}
    assert len(draw(tasks)) == count


def test_a_long_chain_is_folded_where_its_layers_are_alike() -> None:
    states = ["completed"] * 150 + ["running"] + ["waiting"] * 49
    tasks = {
        f"s{n}": TaskShown((f"s{n - 1}",) if n else (), state, "", None)
        for n, state in enumerate(states)
    }
    assert draw(tasks, ascii_only=False) == [
        "│ ✓ s0    completed",
        "│",
        "… and 148 more layers: 148 completed",
        "│",
        "│ ✓ s149  completed  ← s148",
        "│",
        "│ ● s150  running    ← s149",
        "│",
        "│ ○ s151  waiting    ← s150",
        "│",
        "… and 47 more layers: 47 waiting",
        "│",
        "│ ○ s199  waiting    ← s198",
    ]


def test_long_names_keep_their_ends() -> None:
    tasks = {f"{'name' * 10}-{n}": TaskShown((), "running", "d" * 40, None) for n in range(2)}
    assert draw(tasks, ascii_only=False) == [
        "┌ ● namenamenamenamen…namename-0  running  ddddddddddddddd…",
        "└ ● namenamenamenamen…namename-1  running  ddddddddddddddd…",
    ]


def test_a_cycle_and_names_of_nobody_are_drawn_all_the_same() -> None:
    tasks = {
        "a": TaskShown(("b", "nobody"), "waiting", "", None),
        "b": TaskShown(("a",), "waiting", "", None),
        "c": TaskShown(("nobody",), "waiting", "", None),
    }
    assert layers(tasks) == [["c"], ["a", "b"]]
    assert draw(tasks, ascii_only=False) == [
        "│ ○ c  waiting",
        "│",
        "┌ ○ a  waiting  ← b",
        "└ ○ b  waiting  ← a",
    ]
    assert layers({"a": TaskShown(("a",), "", "", None)}) == [["a"]]


TEXTS = st.text(max_size=40) | st.sampled_from(
    ["\x1b[31m", "a\nb", "笔记本" * 20, "\u202e", "x" * 200, "\ud800", "ok"]
)
STATES = st.sampled_from(["completed", "failed", "running", "waiting", "not run", "", "\x9b" * 30])


@st.composite
def drawn(draw_: st.DrawFn) -> dict[str, TaskShown]:
    """Any tasks, in any shape, cycles too."""
    names = draw_(st.lists(TEXTS, unique=True, max_size=30))
    some = st.lists(st.sampled_from([*names, "nobody"]), max_size=4)
    times = st.none() | st.floats()
    return {
        name: TaskShown(draw_(some), draw_(STATES), draw_(TEXTS), draw_(times)) for name in names
    }


@given(tasks=drawn(), ascii_only=st.booleans())
def test_any_graph_fits_the_screen_and_commands_it_nothing(
    tasks: dict[str, TaskShown], ascii_only: bool
) -> None:
    lines = draw(tasks, ascii_only=ascii_only)
    for one in lines:
        assert cell_len(one) <= WIDTH
        assert one == one.rstrip()
        assert not any(c < " " or "\x7f" <= c <= "\x9f" or c == "\u202e" for c in one)
        assert one.isascii() or not ascii_only
    found: list[Any] = [name for layer in layers(tasks) for name in layer]
    assert sorted(found) == sorted(tasks)


@given(
    edges=st.lists(st.sets(st.integers(0, 19), max_size=3), min_size=1, max_size=20),
)
def test_each_task_stands_below_all_that_it_depends_on(edges: list[set[int]]) -> None:
    tasks = {
        f"t{n}": TaskShown([f"t{m}" for m in needed if m < n], "waiting", "", None)
        for n, needed in enumerate(edges)
    }
    depth = {name: at for at, layer in enumerate(layers(tasks)) for name in layer}
    for name, shown in tasks.items():
        above = [depth[one] for one in shown.after]
        assert depth[name] == max(above, default=-1) + 1
