"""Whoever waits for a task sees that it lives: on a terminal, on stderr, and nowhere else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from kowalski_node.views import ResultView
from tests.ports.api_world import Served, served
from tests.units.test_cli_process import command, environment, on_a_terminal

SLEEP = ("submit", "--tool", "sleep", "--args", '{"seconds": 60}')


@pytest.fixture
def api() -> Iterator[Served]:
    with served() as one:
        yield one


class Screen:
    """A terminal, and what was written to it."""

    def __init__(self, ours: int) -> None:
        self._ours = ours
        self.shown = ""

    def until(self, pattern: str) -> str:
        """Reads on until the pattern has been shown since the last call; returns what was."""
        seen = ""
        while not re.search(pattern, seen):
            seen += self._more()
        return seen

    def rest(self) -> str:
        """What is written until the other side is closed."""
        rest = ""
        try:
            while True:
                rest += self._more()
        except OSError:  # Linux's way of saying so
            return rest

    def _more(self) -> str:
        piece = os.read(self._ours, 65536).decode()
        self.shown += piece
        return piece


@contextmanager
def on_screen(
    *arguments: str, env: Mapping[str, str], stdout: int | None = None
) -> Iterator[tuple[Screen, subprocess.Popen[bytes]]]:
    """A command whose stderr is a terminal, and its stdout as well unless that is given."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*arguments), stdin=theirs, stdout=stdout or theirs, stderr=theirs, env=dict(env)
    )
    os.close(theirs)
    try:
        yield Screen(ours), process
        process.wait(30)
    finally:
        process.kill()
        process.wait(30)
        os.close(ours)


def terminal(api: Served) -> dict[str, str]:
    return environment(api, TERM="xterm", COLUMNS="100", LANG="C.UTF-8")


def only_task(api: Served) -> str:
    (task_id,) = api.node._tasks
    return task_id


def submitted(api: Served) -> str:
    submit = subprocess.run(
        command(*SLEEP), capture_output=True, text=True, check=True, timeout=60,
        env=environment(api),
    )  # fmt: skip
    return submit.stdout.strip()


def drawn(text: str) -> list[str]:
    """What a screen shows after this text: each line as it was last written or erased."""
    lines, at, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if piece == "\n":
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif piece == "\r":
            column = 0
        elif piece.endswith("A") and piece.startswith("\x1b"):
            at -= int(piece[2:-1] or 1)
        elif piece == "\x1b[2K":
            lines[at] = ""
        elif not piece.startswith("\x1b"):
            lines[at] = lines[at][:column].ljust(column) + piece + lines[at][column + len(piece) :]
            column += len(piece)
    return [line.rstrip() for line in lines if line.strip()]


def test_waiting_for_a_result_shows_state_device_and_time_and_leaves_nothing(api: Served) -> None:
    task_id = submitted(api)
    with on_screen("result", task_id, "--wait", "60", env=terminal(api)) as (screen, process):
        screen.until(rf"task {task_id[:12]}: submitted, \d s")
        api.do(lambda: api.node.start(task_id))
        screen.until(rf"task {task_id[:12]}: running on laptop, \d+ s")
        api.do(lambda: api.node.settle(task_id, ResultView(True, value=42)))
        screen.rest()
    assert process.returncode == 0
    assert drawn(screen.shown) == ["42"]


def test_a_submission_that_waits_shows_it_between_its_output(api: Served) -> None:
    with on_screen(*SLEEP, "--wait", "60", env=terminal(api)) as (screen, process):
        screen.until(r"task [0-9a-f]{12}: submitted, \d s")
        task_id = only_task(api)
        api.do(lambda: api.node.start(task_id))
        api.do(lambda: api.node.say(task_id, "one\n"))
        screen.until("one")
        screen.until(r"running on laptop, \d+ s")
        api.do(lambda: api.node.say(task_id, "two\n"))
        screen.until("two")
        api.do(lambda: api.node.settle(task_id, ResultView(True, value=42, stdout="one\ntwo\n")))
        screen.rest()
    assert process.returncode == 0
    assert drawn(screen.shown) == [f"task {task_id[:12]}", "one", "two", "42"]


def test_half_a_line_of_output_is_left_alone(api: Served) -> None:
    with on_screen(*SLEEP, "--wait", "2.8", env=terminal(api)) as (screen, process):
        screen.until("task [0-9a-f]{12}")
        task_id = only_task(api)
        api.do(lambda: api.node.start(task_id))
        api.do(lambda: api.node.say(task_id, "half"))
        screen.until("half")
        after = screen.rest()
    assert process.returncode == 1  # it was not waited for any longer
    assert "running on" not in after
    assert drawn(screen.shown)[1].startswith("half")


def test_a_narrow_screen_gets_one_line(api: Served) -> None:
    task_id = submitted(api)
    env = {**terminal(api), "COLUMNS": "30"}
    with on_screen("result", task_id, "--wait", "60", env=env) as (screen, _):
        screen.until("task [0-9a-f]{12}: sub")
        screen.until("task [0-9a-f]{12}: sub")
        api.do(lambda: api.node.settle(task_id, ResultView(True, value=42)))
        screen.rest()
    assert "…" in screen.shown
    assert drawn(screen.shown) == ["42"]


def test_it_goes_to_stderr_and_a_document_comes_alone(api: Served) -> None:
    task_id = submitted(api)
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb") as piped,
        on_screen("result", task_id, "--wait", "60", env=terminal(api), stdout=writer) as (
            screen,
            _,
        ),
    ):
        os.close(writer)
        screen.until("submitted, 1 s")
        api.do(lambda: api.node.settle(task_id, ResultView(True, value=42)))
        screen.rest()
        assert piped.read() == b"42\n"


@pytest.mark.parametrize("wait", ["1.8"])
def test_json_and_pipes_get_nothing_of_it(api: Served, wait: str) -> None:
    task_id = submitted(api)
    for arguments in (("result", task_id), SLEEP):
        shown = on_a_terminal(*arguments, "--wait", wait, "--json", env=terminal(api))
        assert shown.startswith("{")
        assert "submitted, 1 s" not in shown
        ran = subprocess.run(
            command(*arguments, "--wait", wait), capture_output=True, text=True, check=False,
            timeout=60, env=environment(api),
        )  # fmt: skip
        assert ran.stdout == ""
        assert re.fullmatch(
            r"(task [0-9a-f]{12}\n)?error \[not_settled\]: .*\nmend: .*\n", ran.stderr
        )
