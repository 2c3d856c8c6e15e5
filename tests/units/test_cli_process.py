"""`kowalski` as a process: exit codes, pipes, colours, and the terminal's width."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kowalski_gateway.cli.main import run
from tests.ports.api_world import Served, served
from tests.ports.ledgers import Story, make_ledger

ROOT = Path(__file__).resolve().parents[2]
FULL = Path("/dev/full")
"""Only ever opened for writing, which is what a shell's `>` does."""


@pytest.fixture
def api() -> Iterator[Served]:
    with served() as one:
        yield one


def environment(api: Served | None, **more: str) -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("protocol", "ledger", "node"))
    whole = {**os.environ, "PYTHONPATH": path, "KOWALSKI_API": api.url if api else "127.0.0.1:1"}
    whole.pop("NO_COLOR", None)
    return {**whole, **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kowalski_gateway.cli.main", *arguments]


def kowalski(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=60, env=dict(env)
    )


def on_a_terminal(*arguments: str, env: Mapping[str, str]) -> str:
    """What the command writes to a terminal."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=dict(env)
        )
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:
            pass  # Linux's way of saying that the other side is closed
        process.wait(60)
    finally:
        os.close(ours)
    return shown.decode()


def test_exit_codes_are_0_1_2_and_3(api: Served) -> None:
    env = environment(api)
    echo = ("submit", "--tool", "echo", "--args", '{"value": 1}', "--wait")
    assert kowalski(*echo, env=env).stdout == "1\n"
    assert kowalski("status", env=env).returncode == 0
    assert kowalski("why", "00", env=env).returncode == 1
    assert kowalski("why", env=env).returncode == 2
    gone = kowalski("status", env=environment(None))
    assert (gone.returncode, gone.stdout) == (3, "")


def test_json_is_one_ascii_document(api: Served) -> None:
    api.node.device_names["12D3KooWX"] = "ü\u202e\x9b"
    shown = kowalski("devices", "--json", env=environment(api))
    assert shown.stdout.isascii()
    assert "\x1b" not in shown.stdout
    assert json.loads(shown.stdout)[-1]["name"] == "ü\u202e\x9b"
    assert shown.stderr == ""


def test_piped_output_has_no_colours_and_whole_cells(api: Served) -> None:
    api.node.device_names["12D3KooWX"] = "a very long name " * 8
    shown = kowalski("devices", env=environment(api, COLUMNS="40"))
    assert "\x1b" not in shown.stdout
    assert ("a very long name " * 8).strip() in shown.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminals_width_is_kept_to(api: Served, columns: int) -> None:
    api.node.device_names["12D3KooWX"] = "a very long name " * 8
    env = environment(api, COLUMNS=str(columns), TERM="xterm", NO_COLOR="1")
    for arguments in (("devices",), ("devices", "--links"), ("tasks",), ("status",)):
        shown = on_a_terminal(*arguments, env=env)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
        assert max(map(len, lines)) <= columns
        assert "\x1b[3" not in shown


def test_colours_are_for_terminals_and_no_color_is_respected(api: Served) -> None:
    coloured = on_a_terminal("devices", env=environment(api, TERM="xterm", COLUMNS="100"))
    assert "\x1b[" in coloured
    gone = on_a_terminal("status", env=environment(None, TERM="xterm"))
    assert "\x1b[31merror [node_unreachable]: \x1b[0mNo node" in gone
    plain = on_a_terminal("status", env=environment(None, TERM="xterm", NO_COLOR="1"))
    assert plain.startswith("error [node_unreachable]: No node")


@pytest.mark.skipif(not FULL.exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize(
    "arguments", ["status", "status --json", "devices", "--help", "audit", "export --out -"]
)
def test_a_full_disk_behind_standard_output_is_one_sentence(
    api: Served, tmp_path: Path, arguments: str
) -> None:
    make_ledger(tmp_path / "ledger.db", Story())
    with FULL.open("w") as full:
        ran = subprocess.run(
            command(*arguments.split()), stdout=full, stderr=subprocess.PIPE, text=True,
            check=False, timeout=60, env=environment(api, KOWALSKI_HOME=str(tmp_path)),
        )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr == (
        "error [disk_full]: The output can't be written: No space left on device.\n"
    )


def test_a_file_that_the_system_refuses_is_named(
    api: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", "/home/other/ledger.db")

    monkeypatch.setattr(Path, "exists", refused)
    assert run(["replay", "--ledger", "x"]) == 1
    assert capsys.readouterr().err == (
        "error [bad_request]: /home/other/ledger.db: Permission denied.\n"
    )


def test_a_mistake_of_ours_is_not_told_as_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> bool:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(Path, "exists", broken)
    with pytest.raises(OSError, match="Invalid argument"):
        run(["replay", "--ledger", "x"])


def test_a_reader_that_has_enough_is_no_error(api: Served) -> None:
    for _ in range(3):
        kowalski("submit", "--tool", "sleep", "--args", '{"seconds": 1}', env=environment(api))
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        command("logs"), stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
        timeout=60, env=environment(api),
    )  # fmt: skip
    os.close(writer)
    assert ran.stderr == ""


def test_the_invite_shows_a_qr_code_on_a_terminal_alone(api: Served) -> None:
    assert "█" in on_a_terminal("invite", env=environment(api, TERM="xterm", COLUMNS="100"))
    assert "█" not in on_a_terminal("invite", "--no-qr", env=environment(api, TERM="xterm"))
    assert "█" not in kowalski("invite", env=environment(api)).stdout


def test_a_shell_is_given_the_commands(api: Served) -> None:
    env = environment(api, _KOWALSKI_COMPLETE="bash_complete", COMP_WORDS="kowalski st")
    shown = kowalski(env={**env, "COMP_CWORD": "1"})
    assert shown.stdout == "plain,status\n"


def test_the_release_is_told(api: Served) -> None:
    assert kowalski("--version", env=environment(api)).stdout.startswith("kowalski ")
