"""Graphs: which are refused with which words, what a reference becomes, and in which order a run
gives out its steps, whatever ends when and however."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_protocol.errors import Problem
from kowalski_protocol.graph_references import StepFile, StepOutcome, resolve
from kowalski_protocol.graph_run import GraphOutcome, GraphRun, Issue
from kowalski_protocol.graphs import GRAPH_TASKS_MAX, Graph, GraphTask, read_graph

BLOB = "0f" * 32
TASK = "00112233445566778899aabbccddeeff"


def echo(value: Any = 1, **more: Any) -> dict[str, Any]:
    return {"kind": "tool", "payload": {"tool": "echo", "args": {"value": value}}, **more}


def code(**more: Any) -> dict[str, Any]:
    return {"kind": "code", "payload": {"language": "python", "code": "1", **more}}


def of(name: Any, *path: Any) -> dict[str, Any]:
    return {"$from": name, "path": [*path]} if path else {"$from": name}


def graph(tasks: Any, **more: Any) -> dict[str, Any]:
    return {"tasks": tasks, **more}


def inner(tasks: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "graph", "payload": graph(tasks, **more)}


def refused(payload: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        read_graph(payload)
    return caught.value


def completed(value: Any = None, **more: Any) -> StepOutcome:
    return StepOutcome("completed", TASK, value, **more)


FAILED = StepOutcome("failed", TASK, code="code_failed", sentence="ValueError: no\nrows.")


# ------------------------------------------------------------------------------------- reading


def test_a_graph_is_read_in_the_order_of_dependence_and_else_of_writing() -> None:
    read = read_graph(
        graph(
            {
                "report": echo([of("merge"), of("count-b")]),
                "merge": code(args=[of("count-a"), {"both": of("count-b", "value", 0)}]),
                "count-b": echo(),
                "count-a": echo(after=["count-b", "count-b"], priority=3, labels={"a": "b"}),
                "alone": echo(after=None),
            }
        )
    )
    assert [task.name for task in read.tasks] == ["count-b", "count-a", "merge", "report", "alone"]
    after = {task.name: (task.after, task.refers) for task in read.tasks}
    assert after["count-a"] == (("count-b",), ())
    assert after["merge"] == (("count-a", "count-b"), ("count-a", "count-b"))
    assert after["report"] == (("merge", "count-b"), ("merge", "count-b"))
    assert read.sinks == {"report", "alone"}
    assert read.on_failure == "stop"
    assert read.tasks[1].task == echo(priority=3, labels={"a": "b"})


def test_a_graph_inside_may_refer_to_all_that_stand_around_it() -> None:
    deepest = inner({"c": echo([of("top"), of("b"), of("d")]), "d": echo(of("top"))})
    read = read_graph(
        graph({"a": inner({"deep": deepest, "b": echo()}), "top": echo(), "b": echo(of("a"))})
    )
    assert [(task.name, task.refers) for task in read.tasks] == [
        ("top", ()),
        ("a", ("top",)),
        ("b", ("a",)),
    ]


def test_all_arguments_of_a_tool_may_be_one_reference() -> None:
    tasks = {"a": echo(), "b": {"kind": "tool", "payload": {"tool": "echo", "args": of("a")}}}
    assert read_graph(graph(tasks)).tasks[1].refers == ("a",)


def test_a_compensation_may_refer_to_all_on_which_its_task_rests() -> None:
    tasks = {
        "a": echo(),
        "b": echo(after=["a"]),
        "c": echo(after=["b"], compensate=echo([of("a"), of("b"), of("c")])),
    }
    read = read_graph(graph(tasks, on_failure="compensate"))
    assert read.tasks[2].compensation_refers == ("a", "b", "c")
    assert read.tasks[2].after == ("b",)


NAME_RULE = "a name has 1 to 64 letters (a to z), digits, '_', '-' and '.'."
ALL_PLACES = "a code payload may in stdin, args, env and inputs."

BAD: list[tuple[Any, str]] = [
    (graph({"a": echo()}, color=1), "A graph's payload has no field 'color'."),
    ({}, "'payload.tasks' must be an object with a task for each name."),
    (graph([]), "'payload.tasks' must be an object with a task for each name."),
    (graph({}), "'payload.tasks' must be an object with a task for each name."),
    (graph(of("a")), "A graph's task can't be named '$from': "),
    (
        graph({"a": echo()}, on_failure="go"),
        "'payload.on_failure' must be one of stop, continue, compensate.",
    ),
    (
        graph({"a": echo()}, on_failure=[]),
        "'payload.on_failure' must be one of stop, continue, compensate.",
    ),
    (graph({"": echo()}), f"A graph's task can't be named '': {NAME_RULE}"),
    (graph({"a/b": echo()}), f"A graph's task can't be named 'a/b': {NAME_RULE}"),
    (graph({"é": echo()}), f"A graph's task can't be named 'é': {NAME_RULE}"),
    (graph({"a\n": echo()}), f"A graph's task can't be named 'a\\n': {NAME_RULE}"),
    (graph({1: echo()}), "'payload' holds something that JSON can't say"),
    (graph({"a": 3}), "Task 'a': it must be an object of kind, payload and options."),
    (graph({"a": echo(colour=1)}), "Task 'a': a task of a graph has no field 'colour'."),
    (graph({"a": echo(owner=None)}), "Task 'a': a task of a graph has no field 'owner'."),
    (graph({"a": echo(session="s")}), "Task 'a': a task of a graph can't have 'session'."),
    (
        graph({"a": echo(idempotency_key="k")}),
        "Task 'a': a task of a graph can't have 'idempotency_key'.",
    ),
    (graph({"a": echo(after="b")}), "Task 'a': 'after' must be a list of names."),
    (graph({"a": echo(after=[1])}), "Task 'a': 'after' must be a list of names."),
    (
        graph({"a": echo(after=["b"])}),
        "Task 'a': 'after' names 'b', which is no task of the graph.",
    ),
    (graph({"a": echo(after=["a"])}), "Task 'a': it depends on itself."),
    (graph({"a": echo(of("a"))}), "Task 'a': it depends on itself."),
    (
        graph({"a": echo(of("b"))}),
        "Task 'a': 'payload.args.value' refers to 'b', which is no task of the graph.",
    ),
    (
        graph({"a": echo({"x y": [0, of("b")]})}),
        "Task 'a': 'payload.args.value['x y'][1]' refers to 'b', which is no task of the graph.",
    ),
    (
        graph({"a": echo(of(3))}),
        "Task 'a': 'payload.args.value' must have the name of a task in '$from'.",
    ),
    (
        graph({"a": echo(), "b": echo({"$from": "a", "file": "x"})}),
        (
            "Task 'b': 'payload.args.value' is a reference, which has no field 'file'; it has"
            " $from, path."
        ),
    ),
    (
        graph({"a": echo(), "b": echo({"$from": "a", "path": "value"})}),
        (
            "Task 'b': 'payload.args.value.path' must be a list that begins with one of value,"
            " stdout, stderr, files."
        ),
    ),
    (
        graph({"a": echo(), "b": echo({"$from": "a", "path": []})}),
        (
            "Task 'b': 'payload.args.value.path' must be a list that begins with one of value,"
            " stdout, stderr, files."
        ),
    ),
    (
        graph({"a": echo(), "b": echo(of("a", "rows"))}),
        (
            "Task 'b': 'payload.args.value.path' must be a list that begins with one of value,"
            " stdout, stderr, files."
        ),
    ),
    (
        graph({"a": echo(), "b": echo(of("a", "value", True))}),
        "Task 'b': 'payload.args.value.path' must be a list of names and whole numbers.",
    ),
    (
        graph({"a": echo(), "b": echo(of("a", "value", -1))}),
        "Task 'b': 'payload.args.value.path' has a negative number, and lists are counted from 0.",
    ),
    (
        graph({"a": echo(), "b": echo(of("a", *["value"] * 65))}),
        "Task 'b': 'payload.args.value.path' has more than 64 entries.",
    ),
    (
        graph({"a": echo(after=["c"]), "b": echo(of("a")), "c": echo(after=["b"])}),
        "The graph has a cycle: a → b → c → a.",
    ),
    (
        graph({"z": echo(of("y")), "y": echo(of("x")), "x": echo(of("y")), "free": echo()}),
        "The graph has a cycle: y → x → y.",
    ),
    (
        graph({f"t{n}": echo(after=[f"t{(n - 1) % 100}"]) for n in range(100)}),
        "The graph has a cycle: t0 → t1 → t2 → t3 → t4 → t5 → t6 → … (100 tasks) → t0.",
    ),
    (graph({"a": {"kind": "tool"}}), "Task 'a': 'payload' must be an object."),
    (
        graph({"a": echo(), "b": {"kind": "tool", "payload": of("a")}}),
        "Task 'b': 'payload' can't be a reference: its parts can.",
    ),
    (
        graph({"a": echo(), "b": {"kind": "tool", "payload": {"tool": of("a")}}}),
        "Task 'b': 'payload.tool' can't hold a reference: a tool payload may in args.",
    ),
    (
        graph({"a": echo(), "b": code(code=of("a"))}),
        f"Task 'b': 'payload.code' can't hold a reference: {ALL_PLACES}",
    ),
    (
        graph({"a": echo(), "b": code(outputs=[of("a")])}),
        f"Task 'b': 'payload.outputs' can't hold a reference: {ALL_PLACES}",
    ),
    (
        graph({"a": echo(), "b": code(inputs=[{"path": of("a"), "blob": BLOB, "size_bytes": 1}])}),
        f"Task 'b': 'payload.inputs[0]' can't hold a reference: {ALL_PLACES}",
    ),
    (graph({"a": echo(), "b": code(args=of("a"))}), "Task 'b': 'payload.args' must be a list."),
    (graph({"a": echo(), "b": code(inputs=of("a"))}), "Task 'b': 'payload.inputs' must be a list."),
    (
        graph({"a": echo(), "b": code(env=of("a"))}),
        "Task 'b': 'payload.env' must be an object of texts.",
    ),
    (graph({"a": code(code=3)}), "Task 'a': 'payload.code' must be a text."),
    (
        graph({"a": echo(), "b": code(code=3, args=[of("a")])}),
        "Task 'b': 'payload.code' must be a text.",
    ),
    (graph({"a": echo(timeout_s=-1)}), "Task 'a': 'timeout_s' must be between 0 and 604800."),
    (graph({"a": echo(priority=10**15)}), "Task 'a': 'priority' must be between -100 and 100."),
    (
        graph({"a": code(outputs=["x"]), "b": code(inputs=[{"path": "in", "$from": "a"}])}),
        (
            "Task 'b': 'payload.inputs[0]' must have texts in path, where the file lies, and file,"
            " its name."
        ),
    ),
    (
        graph({"a": code(), "b": code(inputs=[{"path": "in", "$from": "a", "file": "x"}])}),
        "Task 'b': 'payload.inputs[0]' takes a file of 'a', which has no 'outputs'.",
    ),
    (
        graph(
            {
                "a": code(outputs=["x"]),
                "b": code(inputs=[{"path": "../in", "$from": "a", "file": "x"}]),
            }
        ),
        "Task 'b': 'payload.inputs[0].path' has '..' for one of its parts: '../in'.",
    ),
    (
        graph(
            {
                "a": code(outputs=["x"]),
                "b": code(inputs=[{"path": "in", "$from": "a", "file": "/x"}]),
            }
        ),
        "Task 'b': 'payload.inputs[0].file' begins at the root, and not in the work folder: '/x'.",
    ),
    (
        graph({"a": echo(compensate=echo())}),
        (
            "Task 'a': it has 'compensate', which nothing would run: 'payload.on_failure' must be"
            " compensate."
        ),
    ),
    (
        graph({"a": echo(compensate=7)}, on_failure="compensate"),
        "Task 'a/compensate': it must be an object of kind, payload and options.",
    ),
    (
        graph({"a": echo(compensate=echo(after=[]))}, on_failure="compensate"),
        "Task 'a/compensate': a task of a graph has no field 'after'.",
    ),
    (
        graph({"a": echo(compensate=echo(of("b"))), "b": echo()}, on_failure="compensate"),
        "Task 'a/compensate': it refers to 'b', on which 'a' does not depend.",
    ),
    (
        graph(
            {
                "a": echo(compensate=code(inputs=[{"path": "i", "$from": "a", "file": "x"}])),
            },
            on_failure="compensate",
        ),
        "Task 'a': 'payload.inputs[0]' takes a file of 'a', which has no 'outputs'.",
    ),
    (graph({"a": inner({"b": echo()}, x=1)}), "Task 'a': A graph's payload has no field 'x'."),
    (
        graph({"a": inner({"b": echo()}) | {"timeout_s": 0}}),
        "Task 'a': 'timeout_s' must be between 0 and 604800.",
    ),
    (
        graph({"a": inner({"b": code(code=3)})}),
        "Task 'a/b': 'payload.code' must be a text.",
    ),
    (graph({"a": inner({})}), "Task 'a': 'payload.tasks' must be an object with a task for each"),
    (
        graph({"a": inner({"b": inner({"c": inner({"d": echo()})})})}),
        "Task 'a/b/c': graphs can be at most 3 deep in each other.",
    ),
    (
        graph({"a": inner({"b": echo(of("c"))})}),
        "Task 'a/b': 'payload.args.value' refers to 'c', which is no task of the graph.",
    ),
    (graph({"a": inner({"b": echo(of("a"))})}), "Task 'a': it depends on itself."),
    (
        graph({"a": inner({"b": echo(of("c"))}), "c": echo(after=["a"])}),
        "The graph has a cycle: a → c → a.",
    ),
    (
        graph({"a": inner({"b": echo(), "c": echo()}, on_failure=of("b"))}),
        "Task 'a': 'payload.on_failure' must be one of stop, continue, compensate.",
    ),
    (graph({"a": echo(float("nan"))}), "Task 'a': 'payload' holds something that JSON can't say"),
    (graph({"a": code(stdin=float("nan"))}), "Task 'a': 'payload.stdin' holds what JSON can't say"),
    (graph({"a": echo("\ud800")}), "'payload' holds something that JSON can't say"),
    (graph({"a": echo(2**80)}), "'payload' holds something that JSON can't say"),
    (graph({"a": echo(object())}), "'payload' holds something that JSON can't say"),
]


@pytest.mark.parametrize(("payload", "sentence"), BAD)
def test_a_bad_graph_is_refused_with_what_is_wrong(payload: Any, sentence: str) -> None:
    problem = refused(payload)
    assert problem.sentence.startswith(sentence)
    assert problem.code == "bad_request"


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (graph({"a": {"kind": "poem", "payload": {}}}), "unknown_kind: Task 'a': There is no task"),
        (
            graph({f"t{n}": 0 for n in range(GRAPH_TASKS_MAX + 1)}),
            "spec_too_large: The graph has 1,001 tasks; the limit is 1,000.",
        ),
        (graph({"a": echo("x" * 70_000)}), "spec_too_large: The graph is 70,0"),
        (
            graph({"a": code(inputs=[None] * 1_001)}),
            "spec_too_large: Task 'a': 'payload.inputs' has more than 1,000 entries.",
        ),
    ],
)
def test_other_reasons_keep_their_codes(payload: Any, told: str) -> None:
    assert str(refused(payload)).startswith(told)


def test_a_graph_may_have_as_many_tasks_as_the_limit_says() -> None:
    plain: dict[str, Any] = {"kind": "tool", "payload": {"tool": "x"}}
    tasks = {f"t{n}": dict(plain) for n in range(GRAPH_TASKS_MAX)}
    tasks["t999"]["after"] = [f"t{n}" for n in range(998)]
    assert len(read_graph(graph(tasks)).tasks) == GRAPH_TASKS_MAX


@pytest.mark.parametrize("opening", [{"a": None}, [None]])
def test_deep_nesting_is_refused(opening: Any) -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = {"a": deep} if isinstance(opening, dict) else [deep]
    assert refused(graph({"a": echo(deep)})).code == "bad_request"
    tasks: dict[str, Any] = {"a": echo()}
    for _ in range(30):
        tasks = {"a": inner(tasks)}
    assert refused(graph(tasks)).code == "bad_request"


# ---------------------------------------------------------------------------------- references

OUTCOMES = {
    "make": completed(
        {"rows": [10, {"x": None}], "Größe": "groß"},
        stdout="out\n",
        stderr="err\n",
        files=(StepFile("out.csv", BLOB, 7), StepFile("b", "0e" * 32, 8)),
    ),
    "nothing": completed(),
    "lost": FAILED,
    "evil": completed({"$from": "make"}),
    "nan": completed(float("nan")),
}


@pytest.mark.parametrize(
    ("task", "payload"),
    [
        (echo(of("make", "value", "rows", 1, "x")), echo(None)),
        (echo([of("make", "stdout"), of("make", "stderr")]), echo(["out\n", "err\n"])),
        (echo({"deep": [of("make", "value", "rows")]}), echo({"deep": [[10, {"x": None}]]})),
        (echo(of("make", "files", 0)), echo({"path": "out.csv", "blob": BLOB, "size_bytes": 7})),
        (echo(of("make", "files", 1, "blob")), echo("0e" * 32)),
        (echo(of("evil")), echo({"$from": "make"})),
        (
            {"kind": "tool", "payload": {"tool": "x", "args": of("make")}},
            {"kind": "tool", "payload": {"tool": "x", "args": OUTCOMES["make"].value}},
        ),
        (code(stdin=of("make", "stdout")), code(stdin="out\n")),
        (
            code(stdin=of("make")),
            code(stdin='{"Größe":"groß","rows":[10,{"x":null}]}'),
        ),
        (code(stdin=of("nothing")), code(stdin="null")),
        (code(stdin=None, args=None, env=None), code(stdin=None, args=None, env=None)),
        (
            code(stdin={"b": of("make", "value", "rows", 0), "a": "text"}),
            code(stdin='{"a":"text","b":10}'),
        ),
        (
            code(args=["x", 3, of("make", "value", "rows"), of("make", "value", "Größe")]),
            code(args=["x", "3", '[10,{"x":null}]', "groß"]),
        ),
        (
            code(env={"A": of("make", "value", "rows", 0), "B": "b"}),
            code(env={"A": "10", "B": "b"}),
        ),
        (
            code(
                inputs=[
                    {"path": "kept", "blob": BLOB, "size_bytes": 1},
                    {"path": "in/in.csv", "$from": "make", "file": "out.csv"},
                ]
            ),
            code(
                inputs=[
                    {"path": "kept", "blob": BLOB, "size_bytes": 1},
                    {"path": "in/in.csv", "blob": BLOB, "size_bytes": 7},
                ]
            ),
        ),
        (
            inner({"a": echo(of("make", "stdout")), "b": echo([of("a"), of("nothing")])}),
            inner({"a": echo("out\n"), "b": echo([of("a"), None])}),
        ),
        (
            inner(
                {"make": echo(), "b": code(stdin=of("make"), args=[[of("make"), of("nothing")]])}
            ),
            inner({"make": echo(), "b": code(stdin=of("make"), args=[[of("make"), None]])}),
        ),
        (
            inner({"b": code(args=[of("make", "value", "rows"), of("evil")])}),
            inner({"b": code(args=['[10,{"x":null}]', '{"$from":"make"}'])}),
        ),
        (
            inner({"b": echo(compensate=echo(of("nothing")))}),
            inner({"b": echo(compensate=echo(None))}),
        ),
    ],
)
def test_a_reference_becomes_the_part_that_it_names(task: Any, payload: Any) -> None:
    before = copy.deepcopy(task)
    assert resolve({**task, "priority": 2}, OUTCOMES) == {**payload, "priority": 2}
    assert task == before


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (
            echo(of("make", "value", "lines")),
            "'payload.args.value' refers to 'make', whose value has no 'lines'.",
        ),
        (
            echo(of("make", "value", "rows", 2)),
            "'payload.args.value' refers to 'make', whose value.rows has 2 entries and none at 2.",
        ),
        (
            echo(of("make", "value", 0)),
            "'payload.args.value' refers to 'make', whose value is an object and not a list.",
        ),
        (
            echo(of("make", "value", "rows", "x")),
            "'payload.args.value' refers to 'make', whose value.rows is a list and not an object.",
        ),
        (
            echo(of("nothing", "value", "a b", "c")),
            "'payload.args.value' refers to 'nothing', whose value is null and not an object.",
        ),
        (
            echo(of("make", "stdout", 0)),
            "'payload.args.value' refers to 'make', whose stdout is a text and not a list.",
        ),
        (
            echo(of("make", "value", "rows", 0, "x")),
            "'payload.args.value' refers to 'make', whose value.rows[0] is a number and not an",
        ),
        (
            code(inputs=[{"path": "in", "$from": "make", "file": "c"}]),
            "'payload.inputs[0]' takes the file 'c' of 'make', which left 'out.csv', 'b'.",
        ),
        (
            code(inputs=[{"path": "in", "$from": "nothing", "file": "c"}]),
            "'payload.inputs[0]' takes the file 'c' of 'nothing', which left no files.",
        ),
        (echo(of("lost")), "'payload.args.value' refers to 'lost', which has not completed."),
        (code(args=[of("nan")]), "'payload.args[0]' holds what JSON can't say."),
        (
            inner({"b": echo(of("evil"))}),
            "'payload.tasks.b.payload.args.value' would put data with the name '$from' into a",
        ),
    ],
)
def test_a_reference_that_leads_nowhere_says_where_it_ends(task: Any, sentence: str) -> None:
    with pytest.raises(Problem) as caught:
        resolve(task, OUTCOMES)
    assert caught.value.code == "bad_request"
    assert caught.value.sentence.startswith(sentence)


# ---------------------------------------------------------------------------------------- runs


def names(issues: list[Issue]) -> list[str]:
    return [issue.name for issue in issues]


DIAMOND = {
    "make": echo(),
    "left": echo(of("make", "value", "rows")),
    "right": echo(after=["make"]),
    "join": echo([of("left"), of("right")]),
}


def started(payload: dict[str, Any]) -> GraphRun:
    return GraphRun(read_graph(payload))


def test_each_layer_starts_when_the_one_before_has_completed() -> None:
    run = started(graph(DIAMOND))
    (issue,) = run.next()
    assert issue == Issue("make", echo())
    assert run.next() == []
    assert run.running == ["make"]
    run.ended("make", completed({"rows": [1, 2]}))
    assert run.next() == [Issue("left", echo([1, 2])), Issue("right", echo())]
    run.ended("right", completed("r"))
    assert run.next() == []
    run.ended("left", completed("l"))
    assert not run.is_over
    assert run.next() == [Issue("join", echo(["l", "r"]))]
    run.ended("join", completed({"end": 1}))
    assert run.is_over
    bare = {"outcome": "completed", "task": TASK}
    tasks = {"make": bare, "left": bare, "right": bare, "join": {**bare, "value": {"end": 1}}}
    assert run.result() == GraphOutcome(True, {"tasks": tasks})


def test_after_a_failure_nothing_new_starts_and_what_runs_is_awaited() -> None:
    run = started(graph({**DIAMOND, "other": echo(), "later": echo(after=["other"])}))
    assert names(run.next()) == ["make", "other"]
    run.ended("other", completed())
    # `later` may start, and is not given out any more.
    run.ended("make", FAILED)
    assert run.next() == []
    assert run.is_over
    result = run.result()
    assert not result.is_completed
    assert result.value is None
    assert result.sentence == (
        "1 of 6 tasks failed: 'make' failed (code_failed: ValueError: no rows). 4 did not run."
    )
    assert result.table.splitlines() == [
        "make   failed     001122334455  code_failed: ValueError: no rows.",
        "other  completed  001122334455",
        "left   not run",
        "right  not run",
        "join   not run",
        "later  not run",
    ]


def test_what_does_not_depend_on_a_failure_goes_on_where_it_is_told_to() -> None:
    tasks = {**DIAMOND, "other": echo(), "later": echo(of("other"))}
    run = started(graph(tasks, on_failure="continue"))
    assert names(run.next()) == ["make", "other"]
    run.ended("make", completed({"rows": 0}))
    assert names(run.next()) == ["left", "right"]
    run.ended("left", StepOutcome("timed_out", TASK, code="timed_out", sentence="Too long."))
    assert run.next() == []
    run.ended("right", completed())
    run.ended("other", completed(5))
    assert run.next() == [Issue("later", echo(5))]
    run.ended("later", completed())
    assert run.is_over
    result = run.result()
    assert result.sentence == (
        "1 of 6 tasks failed: 'left' timed_out (timed_out: Too long). 1 did not run."
    )
    assert result.table.splitlines()[-1] == "join   not run                  depends on left"


def test_a_reference_into_nothing_fails_its_task_before_it_starts() -> None:
    run = started(graph({**DIAMOND, "end": echo(of("left"))}, on_failure="continue"))
    run.next()
    run.ended("make", completed("no rows"))
    assert names(run.next()) == ["right"]
    run.ended("right", completed())
    assert run.is_over
    assert run.result().sentence == (
        "1 of 5 tasks failed: 'left' failed (bad_request: 'payload.args.value' refers to 'make',"
        " whose value is a text and not an object). 2 did not run."
    )


def undoing(*, after: list[str] | None = None, undo: Any = "x") -> dict[str, Any]:
    return echo(after=after or [], compensate=echo(undo))


def test_what_has_completed_is_undone_the_last_first_and_one_at_a_time() -> None:
    tasks = {
        "a": undoing(undo=of("a", "value", "id")),
        "b": undoing(after=["a"], undo=[of("b"), of("a", "value", "id")]),
        "c": undoing(after=["a"], undo=of("c", "value", "gone")),
        "d": echo(after=["a"]),
        "e": undoing(after=["a"]),
        "f": undoing(after=["e"]),
    }
    run = started(graph(tasks, on_failure="compensate"))
    run.next()
    run.ended("a", completed({"id": 7}))
    assert names(run.next()) == ["b", "c", "d", "e"]
    run.ended("c", completed({}))
    run.ended("e", FAILED)
    run.ended("b", completed("bee"))
    assert run.next() == []
    assert not run.is_over
    run.ended("d", completed())
    assert run.next() == [Issue("b/compensate", echo(["bee", 7]))]
    assert run.next() == []
    run.ended("b/compensate", FAILED)
    # That of `c` leads nowhere, so it is the turn of the next.
    assert run.next() == [Issue("a/compensate", echo(7))]
    run.ended("a/compensate", completed("undone"))
    assert run.is_over
    result = run.result()
    assert result.sentence == (
        "1 of 6 tasks failed: 'e' failed (code_failed: ValueError: no rows). 1 did not run."
        " 1 of 3 compensations completed."
    )
    assert [row.split()[:2] for row in result.table.splitlines()] == [
        ["e", "failed"],
        ["b/compensate", "failed"],
        ["c/compensate", "failed"],
        ["a/compensate", "completed"],
        ["a", "completed"],
        ["c", "completed"],
        ["b", "completed"],
        ["d", "completed"],
        ["f", "not"],
    ]


def test_outcomes_are_let_go_when_no_step_may_refer_to_them() -> None:
    run = started(graph({**DIAMOND, "undone": echo(after=["make"])}))
    run.next()
    run.ended("make", completed({"rows": "large"}, stdout="large"))
    assert run._outcomes["make"] == completed()
    run.next()
    run.ended("left", completed("large", stdout="large"))
    assert run._outcomes["left"].value == "large"
    run.ended("right", completed("large"))
    assert run._outcomes["left"] == run._outcomes["right"] == completed()
    run.ended("undone", completed("kept", stdout="large"))
    assert run._outcomes["undone"] == completed("kept")


def test_what_a_step_that_never_runs_would_have_taken_is_let_go() -> None:
    large = completed("large", stdout="large")
    tasks = {"kept": echo(), "bad": echo(), "x": echo([of("kept"), of("bad")]), "y": echo(of("x"))}
    tasks |= {"end": echo(after=["kept"]), "alone": echo()}
    run = started(graph(tasks, on_failure="continue"))
    run.next()
    run.ended("alone", FAILED._replace(stderr="large"))
    run.ended("kept", large)
    assert run._outcomes["kept"] == large
    run.ended("bad", FAILED._replace(stdout="large", value="large"))
    assert run._outcomes == {"alone": FAILED, "kept": completed(), "bad": FAILED}
    run.next()
    run.ended("end", completed())
    assert [row.split()[-3:] for row in run.result().table.splitlines()[-2:]] == [
        ["depends", "on", "bad"],
        ["depends", "on", "bad"],
    ]


def test_what_a_compensation_took_is_let_go_when_it_has_started() -> None:
    tasks = {"a": undoing(undo=of("a")), "b": echo(after=["a"])}
    run = started(graph(tasks, on_failure="compensate"))
    run.next()
    run.ended("a", completed("large"))
    run.next()
    assert run._outcomes["a"].value == "large"
    run.ended("b", FAILED)
    assert run._outcomes["a"] == completed()
    assert run.next() == [Issue("a/compensate", echo("large"))]


def test_the_table_of_many_steps_is_short() -> None:
    run = started(graph({f"t{n}": echo() for n in range(300)}, on_failure="continue"))
    run.next()
    for n in range(300):
        run.ended(f"t{n}", FAILED if n % 60 == 0 else completed())
    result = run.result()
    assert "'t120' failed (code_failed: ValueError: no rows); and 2 more." in result.sentence
    lines = result.table.splitlines()
    assert len(lines) == 40
    assert lines[4].startswith("t240  failed")
    assert lines[-1] == "… and 261 more completed"


# -------------------------------------------------------------------------------- any of them


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Any graph of some tasks, written in any order."""
    count = draw(st.integers(1, 12))
    order = draw(st.permutations(range(count)))
    tasks: dict[str, Any] = {}
    policy = draw(st.sampled_from(["stop", "continue", "compensate"]))
    for n in order:
        before = draw(st.sets(st.integers(0, n - 1), max_size=4)) if n else set[int]()
        referred = sorted(draw(st.sets(st.sampled_from(sorted(before))))) if before else []
        task = echo([of(f"t{m}") for m in referred], after=[f"t{m}" for m in before])
        if policy == "compensate" and draw(st.booleans()):
            task["compensate"] = echo([of(f"t{m}") for m in [n, *referred]])
        tasks[f"t{n}"] = task
    return read_graph(graph(tasks, on_failure=policy))


def needed(read: Graph) -> dict[str, GraphTask]:
    return {task.name: task for task in read.tasks}


@given(read=graphs(), data=st.data())
def test_every_task_starts_once_behind_all_it_depends_on_and_never_past_a_failure(
    read: Graph, data: st.DataObject
) -> None:
    tasks = needed(read)
    fail_at_all = data.draw(st.booleans())
    run = GraphRun(read)
    running: list[str] = []
    issued: list[str] = []
    ended: dict[str, bool] = {}
    order: list[str] = []
    undone: list[str] = []
    while not run.is_over:
        for issue in run.next():
            assert issue.name not in issued
            issued.append(issue.name)
            running.append(issue.name)
            if issue.name.endswith("/compensate"):
                assert running == [issue.name]
                undone.append(issue.name.removesuffix("/compensate"))
                continue
            assert all(ended.get(name) for name in tasks[issue.name].after)
            if read.on_failure != "continue":
                assert all(ended.values())
            values = [f"value of {name}" for name in tasks[issue.name].refers]
            assert issue.task["payload"]["args"]["value"] == values
        assert running, "it waits for nothing and is not over"
        name = running.pop(data.draw(st.integers(0, len(running) - 1)))
        ok = not fail_at_all or data.draw(st.integers(0, 4)) > 0
        run.ended(name, completed(f"value of {name}") if ok else FAILED)
        if not name.endswith("/compensate"):
            ended[name] = ok
            order += [name] if ok else []
    result = run.result()
    assert run.next() == []
    assert result.is_completed == all(ended.values())
    if all(ended.values()):
        assert sorted(issued) == sorted(tasks)
        assert result.value is not None
        shown = {name for name, one in result.value["tasks"].items() if "value" in one}
        assert shown == read.sinks
        json.dumps(result.value)
    elif read.on_failure == "continue":
        blocked = {name for name, ok in ended.items() if not ok}
        for task in read.tasks:
            if blocked & set(task.after):
                blocked.add(task.name)
        assert set(tasks) - set(ended) == blocked - set(ended)
    elif read.on_failure == "compensate":
        assert undone == [name for name in reversed(order) if tasks[name].compensation]
    if read.on_failure != "compensate" or all(ended.values()):
        assert undone == []


WHOLE = graph(
    {
        "make": code(outputs=["*.csv"], env={"A": "b"}) | {"compensate": echo(of("make"))},
        "left": code(stdin=of("make"), inputs=[{"path": "i", "$from": "make", "file": "o.csv"}]),
        "right": echo({"deep": [of("make", "value", "rows", 0)]}, after=["left"], priority=1),
        "inner": inner({"x": echo(of("right")), "y": code(args=[of("x", "stdout")])}),
    },
    on_failure="compensate",
)

JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.sampled_from(["make", "left", "x", "graph", "code", "$from", "\ud800", 10**400, {1: 2}])
    | st.sampled_from([of("make"), of("right"), of("x"), of("nobody"), of([]), echo(), object()]),
    lambda within: (
        st.lists(within, max_size=3)
        | st.dictionaries(
            st.sampled_from(["$from", "path", "file", "tasks", "kind", "payload", "a", "\ud800"]),
            within,
            max_size=3,
        )
    ),
    max_leaves=6,
).map(copy.deepcopy)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a value."""
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, list):
        keys = list(range(len(value)))  # pyright: ignore[reportUnknownArgumentType]
    return [(value, key) for key in keys] + [at for key in keys for at in places(value[key])]


def put(data: st.DataObject, container: Any, key: Any) -> None:
    """Changes one place: another value, another name, one less, one more."""
    how = data.draw(st.sampled_from(["replace", "rename", "remove", "add"]))
    if how == "replace":
        container[key] = data.draw(JUNK)
    elif how == "remove":
        del container[key]
    elif isinstance(container, dict):
        name = data.draw(
            st.sampled_from(["$from", "after", "args", "compensate", "session", "a/b", 3, "é"])
        )
        container[name] = container.pop(key) if how == "rename" else data.draw(JUNK)
    else:
        container.append(data.draw(JUNK))


@given(data=st.data())
def test_a_graph_that_was_tampered_with_is_read_or_refused(data: st.DataObject) -> None:
    payload = copy.deepcopy(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        at = places(payload)
        if at:
            put(data, *data.draw(st.sampled_from(at)))
    try:
        read = read_graph(payload)
    except Problem as problem:
        assert problem.sentence.endswith(".")
        assert len(problem.sentence) < 10_000
        problem.sentence.encode()
        return
    run = GraphRun(read)
    while not run.is_over:
        for issue in run.next():
            run.ended(issue.name, completed(data.draw(JUNK)))
    run.result()


def test_the_graph_that_is_tampered_with_is_sound() -> None:
    assert [task.name for task in read_graph(WHOLE).tasks] == ["make", "left", "right", "inner"]


@given(payload=JUNK.filter(lambda value: isinstance(value, dict)))
def test_anything_is_read_or_refused(payload: Any) -> None:
    for whole in (payload, graph(payload), graph({"a": payload}), graph({"a": inner(payload)})):
        with contextlib.suppress(Problem):
            read_graph(whole)
