"""`kowalski batch` given again: what is there stays, what is missing runs, and a file that is not
its own is refused."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kowalski_node.views import Accepted, ErrorView, ResultView
from tests.ports.api_world import Served
from tests.units.cli_runner import Ended, Kowalski

Again = Callable[..., Ended]


def line(value: Any = 1, **options: Any) -> str:
    return json.dumps(
        {"kind": "tool", "payload": {"tool": "echo", "args": {"value": value}}, **options}
    )


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return tmp_path / "tasks.jsonl"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def again(kowalski: Kowalski, tasks: Path, out: Path) -> Again:
    """The same command, given again."""
    return lambda *words: kowalski("batch", str(tasks), "--out", str(out), "--json", *words)


def write(tasks: Path, *lines: str) -> None:
    tasks.write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")


def results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in out.read_text(encoding="utf-8").splitlines()]


def lines_of(out: Path) -> list[int]:
    return [one["line"] for one in results(out)]


def keep_lines(out: Path, *numbers: int) -> None:
    """As if it had been interrupted with these alone."""
    kept = [json.dumps(one) + "\n" for one in results(out) if one["line"] in numbers]
    out.write_text("".join(kept), encoding="utf-8")


def failing(api: Served, wanted: Callable[[Any], bool]) -> None:
    """Tasks whose value is wanted fail, as often as they run."""
    submit = api.node.submit

    async def submitted(specs: Sequence[Any], **options: Any) -> list[Accepted]:
        known = set(api.node._tasks)
        accepted = await submit(specs, **options)
        for spec, one in zip(specs, accepted, strict=True):
            if one.id not in known and wanted(spec["payload"]["args"]["value"]):
                error = ErrorView("tool_failed", "It broke.")
                api.node.settle(one.id, ResultView(False, error=error))
        return accepted

    api.node.submit = submitted


# ------------------------------------------------------------------------------- what is missing


def test_given_again_only_what_is_missing_runs(
    api: Served, tasks: Path, out: Path, again: Again
) -> None:
    write(tasks, *(line(n) for n in range(5)))
    assert again().json["settled_before"] == 0
    assert not out.with_name("out.jsonl.batch").exists()
    before = results(out)
    ended = again()
    assert (ended.code, ended.json["settled_before"]) == (0, 5)
    keep_lines(out, 2, 4)
    ended = again()
    assert ended.json["outcomes"] == {"completed": 5}
    assert ended.json["settled_before"] == 2
    assert sorted(results(out), key=lambda one: one["line"]) == before
    assert len(api.node._tasks) == 5  # those that had been handed in were not run again


def test_tasks_accepted_before_the_first_result_are_not_run_again(
    api: Served, tasks: Path, out: Path, again: Again, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kowalski_gateway.cli import batch_run

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    write(tasks, line(1), line(2))
    with monkeypatch.context() as patch:
        patch.setattr(batch_run.Batch, "_collect", killed)
        assert again().code == 130
    assert out.read_bytes() == b""
    assert len(api.node._tasks) == 2
    assert again().code == 0
    assert lines_of(out) == [1, 2]
    assert len(api.node._tasks) == 2


def test_lines_may_be_added_at_the_end(api: Served, tasks: Path, out: Path, again: Again) -> None:
    write(tasks, line(1), line(2))
    assert again().code == 0
    write(tasks, line(1), line(2), line(3))
    assert again().json["settled_before"] == 2
    assert lines_of(out) == [1, 2, 3]
    assert len({one["batch"] for one in results(out)}) == 1


def test_two_equal_lines_are_two_tasks(api: Served, tasks: Path, out: Path, again: Again) -> None:
    write(tasks, line(1), line(1))
    assert again().code == 0
    keep_lines(out, 2)
    assert again().code == 0
    assert sorted(lines_of(out)) == [1, 2]
    assert len(api.node._tasks) == 2


def test_how_a_line_is_written_does_not_matter(
    api: Served, tasks: Path, out: Path, again: Again
) -> None:
    write(tasks, line(1, priority=3))
    assert again().code == 0
    spec = json.loads(line(1, priority=3))
    write(tasks, json.dumps(dict(reversed(spec.items())), indent=None, separators=(" ,", " : ")))
    assert again().json["settled_before"] == 1


def test_a_key_of_the_tasks_own_is_left_and_a_null_is_none(
    api: Served, tasks: Path, out: Path, again: Again
) -> None:
    write(tasks, line(1, idempotency_key="mine"), line(2, idempotency_key=None), line(3))
    assert again().code == 0
    mine, *derived = api.node._keys
    assert mine == "kmine"
    assert len(derived) == 2
    assert all(key.startswith("kbatch-") for key in derived)


# ------------------------------------------------------------------------------- torn, and foreign


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_torn_last_line_is_cut_off_and_told(
    api: Served, tasks: Path, out: Path, again: Again, cut: int
) -> None:
    write(tasks, line(1), line(2))
    assert again().code == 0
    whole = out.read_bytes()
    out.write_bytes(whole + whole[:cut])
    ended = again()
    assert "was cut short by an interruption" in ended.err
    assert out.read_bytes() == whole


def test_zeros_after_a_power_cut_are_a_torn_line(
    api: Served, tasks: Path, out: Path, again: Again
) -> None:
    write(tasks, line(1))
    assert again().code == 0
    whole = out.read_bytes()
    out.write_bytes(whole + bytes(4096))
    assert again().code == 0
    assert out.read_bytes() == whole


def test_a_whole_last_result_without_its_newline_is_kept(
    api: Served, tasks: Path, out: Path, again: Again
) -> None:
    write(tasks, line(1))
    assert again().code == 0
    out.write_bytes(out.read_bytes().rstrip())
    write(tasks, line(1), line(2))
    assert again().json["settled_before"] == 1
    assert lines_of(out) == [1, 2]


@pytest.mark.parametrize(
    "content",
    [
        b"Dear diary,\n",
        b"Dear diary",
        b"{",
        b'{"line": 1',
        b'{"line": 1}\n',
        b'{"line": 1, "id": "00", "outcome": "completed", "result": null}\n',
        b'{"line": 1, "spec": 7, "batch": "b", "run": 1, "id": "00", "outcome": "completed"}\n',
        b"\n",
        b"\xff\xfe\x00",
        bytes(100),
        b'{"line": ' * 100_000 + b"\n",
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(
    api: Served, tasks: Path, out: Path, again: Again, content: bytes
) -> None:
    write(tasks, line(1))
    out.write_bytes(content)
    ended = again()
    assert (ended.code, ended.json["error"]["code"]) == (2, "bad_request")
    assert "line 1 is no result of a batch" in ended.json["error"]["message"]
    assert out.read_bytes() == content
    assert api.node._tasks == {}
    assert not out.with_name("out.jsonl.batch").exists()


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((line(2), line(1)), id="reordered"),
        pytest.param((line(1), line(3)), id="changed"),
        pytest.param((line(1),), id="removed"),
        pytest.param((line(0), line(1), line(2)), id="inserted"),
        pytest.param(("", line(1), line(2)), id="moved"),
    ],
)
def test_results_of_other_tasks_are_refused(
    api: Served, tasks: Path, out: Path, again: Again, lines: tuple[str, ...]
) -> None:
    write(tasks, line(1), line(2))
    assert again().code == 0
    whole = out.read_bytes()
    write(tasks, *lines)
    ended = again()
    assert ended.code == 2
    assert "is the result of another task" in ended.json["error"]["message"]
    assert out.read_bytes() == whole
    assert len(api.node._tasks) == 2


def test_results_of_two_batches_are_refused(
    api: Served, tasks: Path, out: Path, again: Again
) -> None:
    write(tasks, line(1), line(2))
    assert again().code == 0
    first = out.read_text(encoding="utf-8").splitlines()[0]
    assert again("--fresh").code == 0
    second = out.read_text(encoding="utf-8").splitlines()[1]
    out.write_text(f"{first}\n{second}\n", encoding="utf-8")
    ended = again()
    assert ended.code == 2
    assert "line 2 is a result of another batch" in ended.json["error"]["message"]


def test_a_state_file_that_is_something_else_is_refused(
    api: Served, tasks: Path, out: Path, again: Again
) -> None:
    write(tasks, line(1))
    state = out.with_name("out.jsonl.batch")
    state.write_text("my notes", encoding="utf-8")
    for words in ((), ("--fresh",)):
        ended = again(*words)
        assert ended.code == 2
        assert "is in the way" in ended.json["error"]["message"]
        assert state.read_text(encoding="utf-8") == "my notes"
    assert api.node._tasks == {}


def test_two_commands_do_not_write_to_one_file(
    api: Served, tasks: Path, out: Path, again: Again
) -> None:
    write(tasks, line(1))
    with out.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        ended = again()
        assert ended.code == 2
        assert "Another kowalski batch" in ended.json["error"]["message"]
    assert again().code == 0


# -------------------------------------------------------------------------------------- anew


def test_fresh_begins_anew_whatever_is_there(
    api: Served, tasks: Path, out: Path, again: Again
) -> None:
    write(tasks, line(1), line(2))
    assert again().code == 0
    assert again("--fresh").json["settled_before"] == 0
    assert lines_of(out) == [1, 2]
    assert len(api.node._tasks) == 4
    out.write_text("Dear diary,\n", encoding="utf-8")
    assert again("--fresh").code == 0
    assert lines_of(out) == [1, 2]


def test_whoever_removes_the_results_begins_anew(
    api: Served, tasks: Path, out: Path, again: Again
) -> None:
    write(tasks, line(1))
    state = out.with_name("out.jsonl.batch")
    state.write_text('{"batch": "old", "runs": {}}', encoding="utf-8")
    assert again().code == 0
    assert results(out)[0]["batch"] != "old"
    assert not state.exists()


def test_a_link_and_the_files_mode_stay(api: Served, tasks: Path, out: Path, again: Again) -> None:
    failing(api, lambda value: value == 1)
    write(tasks, line(1), line(2))
    real = out.with_name("real.jsonl")
    real.touch()
    real.chmod(0o640)
    out.symlink_to(real)
    assert again().code == 1
    assert again("--retry-failed").code == 1
    assert out.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert sorted(lines_of(real)) == [1, 2]
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "out.jsonl",
        "real.jsonl",
        "tasks.jsonl",
    ]


def test_what_is_no_regular_file_is_only_written_to(
    api: Served, tasks: Path, kowalski: Kowalski, tmp_path: Path
) -> None:
    write(tasks, line(1), line(2))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert kowalski("batch", str(tasks), "--out", str(pipe), "--ordered").code == 0
        read = [json.loads(text) for text in os.read(reader, 1 << 16).splitlines()]
    finally:
        os.close(reader)
    assert [one["line"] for one in read] == [1, 2]
    assert not (tmp_path / "pipe.batch").exists()


# -------------------------------------------------------------------------------- failed tasks


def test_failed_tasks_count_as_settled_and_are_told_again(
    api: Served, tasks: Path, out: Path, again: Again, kowalski: Kowalski
) -> None:
    failing(api, lambda value: value == 1)
    write(tasks, line(1), line(2))
    assert again().code == 1
    ended = kowalski("batch", str(tasks), "--out", str(out))
    assert ended.code == 1
    assert "all had settled" in ended.out
    assert "error [tool_failed]: line 1: It broke." in ended.err
    assert len(api.node._tasks) == 2


def test_retry_failed_runs_them_again(api: Served, tasks: Path, out: Path, again: Again) -> None:
    is_broken = [True]
    failing(api, lambda value: value < 3 and is_broken[0])
    write(tasks, *(line(n) for n in range(1, 5)))
    assert again().json["outcomes"] == {"failed": 2, "completed": 2}
    is_broken[0] = False
    ended = again("--retry-failed")
    assert (ended.code, ended.json["outcomes"]) == (0, {"completed": 4})
    assert ended.json["settled_before"] == 2
    assert sorted((one["line"], one["run"]) for one in results(out)) == [
        (1, 2),
        (2, 2),
        (3, 1),
        (4, 1),
    ]
    assert len(api.node._tasks) == 6


def test_a_retry_that_was_interrupted_at_once_is_still_wanted(
    api: Served, tasks: Path, out: Path, again: Again
) -> None:
    failing(api, lambda value: value == 1)
    write(tasks, line(1), line(2))
    assert again().code == 1
    batch = results(out)[0]["batch"]
    state = json.dumps({"batch": batch, "runs": {"1": 2}})
    out.with_name("out.jsonl.batch").write_text(state, encoding="utf-8")
    assert again().json["settled_before"] == 1
    assert sorted((one["line"], one["run"]) for one in results(out)) == [(1, 2), (2, 1)]
    assert len(api.node._tasks) == 3


def test_a_task_with_a_key_of_its_own_is_not_run_again(
    api: Served, tasks: Path, out: Path, again: Again
) -> None:
    failing(api, lambda value: True)
    write(tasks, line(1, idempotency_key="mine"), line(2))
    assert again().code == 1
    ended = again("--retry-failed")
    assert ended.json["settled_before"] == 1
    assert "1 failed, and have an idempotency_key of their own" in ended.err
    assert len(api.node._tasks) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ordered",), "--ordered is about the results"),
        (("--retry-failed",), "--retry-failed is about the results"),
        (("--fresh",), "--fresh is about the results"),
        (("--fresh", "--retry-failed", "--out", "new.jsonl"), "those that have failed"),
    ],
)
def test_options_that_contradict_are_refused(
    api: Served, tasks: Path, kowalski: Kowalski, words: tuple[str, ...], said: str
) -> None:
    write(tasks, line(1))
    ended = kowalski("batch", str(tasks), *words)
    assert ended.code == 2
    assert said in ended.err
    assert api.node._tasks == {}
