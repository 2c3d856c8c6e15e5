"""Attack 23: names, output and errors that try to drive a terminal are shown and never obeyed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kowalski_gateway.cli.main import run
from kowalski_node.views import ErrorView, ResultView
from kowalski_protocol.errors import Problem
from tests.ports.api_world import Served, served

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b1m\u202eelif\r[bold]x[/bold] :skull: \u2066\x00"
SLEEP = {"kind": "tool", "payload": {"tool": "sleep", "args": {"seconds": 1}}}
NEVER = "\x1b\x07\x9b\r\x00\u202e\u2066"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with served() as one:
        monkeypatch.setenv("KOWALSKI_API", one.url)
        yield one


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    run(arguments)
    out, err = capsys.readouterr()
    return out + err


def hostile_task(api: Served) -> str:
    """A task whose every text is hostile."""
    from trio import run as trio_run

    async def submit() -> str:
        return (await api.node.submit([{**SLEEP, "labels": {"a": EVIL}}]))[0].id

    task_id = trio_run(submit)
    error = ErrorView("tool_failed", EVIL, EVIL)
    api.do(lambda: api.node.start(task_id))
    api.do(lambda: api.node.say(task_id, EVIL))
    api.do(
        lambda: api.node.settle(task_id, ResultView(False, stdout=EVIL, stderr=EVIL, error=error))
    )
    return task_id


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("devices",),
        ("devices", "--links"),
        ("tasks",),
        ("logs",),
        ("result", "ID"),
        ("why", "ID"),
        ("logs", "ID"),
        ("cancel", "ID"),
        ("submit", "--tool", "echo", "--device", EVIL),
        ("submit", "--tool", "echo", "--args", '{"value": "\\u001b[2J\\u202e"}', "--wait"),
        ("result", EVIL),
        (EVIL,),
        ("status", "--api", EVIL),
        ("submit", EVIL),
        ("batch", EVIL),
        ("replay", "--ledger", EVIL.replace("\x00", "")),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_hostile_reaches_the_terminal(
    api: Served, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], as_json: bool
) -> None:
    api.node.name = EVIL
    api.node.device_names = {"12D3KooW" + EVIL: EVIL}
    api.node.warnings.append(ErrorView("one_admin", EVIL, EVIL))
    task_id = hostile_task(api)
    words = [task_id if word == "ID" else word for word in arguments]
    text = shown(capsys, *words, *(["--json"] if as_json else []))
    assert text
    assert not set(NEVER) & set(text), repr(text)


def test_a_nodes_refusal_is_escaped_too(api: Served, capsys: pytest.CaptureFixture[str]) -> None:
    api.node.refuse_with = Problem("disk_full", EVIL, mend=EVIL)
    text = shown(capsys, "submit", "--tool", "echo")
    assert "\\x1b[2J" in text
    assert "[bold]x[/bold] :skull:" in text  # no markup, no emoji codes
    assert not set(NEVER) & set(text)
