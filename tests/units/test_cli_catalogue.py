"""The command line as a whole: its help, its speed's cause, and the commands that errors name."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kowalski_gateway.cli.catalogue import COMMANDS, SECTIONS, TO_COME
from kowalski_gateway.cli.main import build
from kowalski_gateway.cli.settings import NodeCommand
from kowalski_gateway.node_main import parser

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("rich", "httpx", "http.client", "trio", "libp2p", "starlette", "segno", "msgspec")


def command(name: str) -> NodeCommand:
    found = build().get_command(click.Context(build()), name)
    assert isinstance(found, NodeCommand)
    return found


def test_the_help_lists_every_command_in_its_section() -> None:
    shown = CliRunner().invoke(build(), ["--help"])
    assert shown.exit_code == 0
    assert [line[:-1] for line in shown.output.splitlines() if line.rstrip(":") in SECTIONS] == [
        *SECTIONS
    ]
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.summary)}$", shown.output, re.MULTILINE)


def test_the_contracts_commands_of_this_release_are_all_there() -> None:
    wanted = (
        "status devices tasks invite submit batch result cancel why logs replay audit export"
        " sessions weights doctor demo bench completion"
    )
    assert set(wanted.split()) == set(COMMANDS)
    later = (
        "pending admit remove forget rlm chat remember recall top checkpoint config service pause"
        " resume drain leave"
    )
    assert set(later.split()) == set(TO_COME)
    assert not TO_COME & set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_has_its_sentence_its_options_and_examples(name: str) -> None:
    shown = CliRunner().invoke(build(), [name, "--help"])
    assert shown.exit_code == 0
    assert " ".join(COMMANDS[name].summary.split()) in " ".join(shown.output.split())
    assert all(option in shown.output for option in ("--api", "--token", "--json"))
    examples = command(name).examples
    assert examples
    for example in examples:
        assert f"kowalski {name}" in example
        assert f"  {example}\n" in shown.output
    assert max(map(len, shown.output.splitlines())) <= 80


def parse(name: str, arguments: list[str]) -> None:
    """Raises click's UsageError where the command would not take the arguments."""
    found = command(name)
    found.make_context(name, arguments, resilient_parsing=False).close()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_are_commands_that_are_understood(name: str) -> None:
    for example in command(name).examples:
        for part in re.split(r"[|<>]", example):
            words = shlex.split(part.strip().removeprefix('eval "$(').removesuffix(')"'))
            if words[:2] == ["kowalski", name]:
                parse(name, words[2:])


def test_summaries_are_one_sentence_that_fits_on_a_line() -> None:
    for name, entry in COMMANDS.items():
        assert entry.section in SECTIONS
        assert entry.summary.endswith(".")
        assert len(entry.summary) <= 64, name


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from kowalski_gateway.cli.main import run; code = run(['--help']);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr);"
        "sys.exit(code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert ran.stderr.strip() == "[]"


def mends() -> Iterator[tuple[str, str]]:
    """(place, command) of every mend in what ships, as far as it is fixed text."""
    for folder in ("protocol", "ledger", "node"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if not isinstance(node, ast.Call):
                    continue
                name = getattr(node.func, "id", "")
                values = [word.value for word in node.keywords if word.arg == "mend"]
                if name in ("ErrorView", "Finding", "error_line"):
                    values += node.args[1:]
                for value in values:
                    text = _fixed(value)
                    if re.match(r"kowalski(-node)?( |$)", text):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def _fixed(value: ast.expr) -> str:
    """A string as written, with WORD for what is filled in."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    if isinstance(value, ast.JoinedStr):
        return "".join(_fixed(part) for part in value.values)
    return "WORD" if isinstance(value, ast.FormattedValue) else ""


MENDS = [*mends()]


def test_there_are_mends_to_check() -> None:
    assert len(MENDS) > 10


@pytest.mark.parametrize(("place", "mend"), MENDS, ids=[place for place, _ in MENDS])
def test_the_command_that_mends_an_error_exists(place: str, mend: str) -> None:
    program, *words = shlex.split(mend)
    if program == "kowalski-node":
        known = parser()._option_string_actions
        assert all(word in known for word in words if word.startswith("--")), mend
        return
    if words == ["--help"]:
        return
    assert words[0] in COMMANDS, mend
    options = {name for one in command(words[0]).params for name in one.opts}
    assert all(word in options for word in words[1:] if word.startswith("-")), mend
