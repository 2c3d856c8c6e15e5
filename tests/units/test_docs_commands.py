"""Every command that the manual names exists, with the options that it is shown with.

The live tests type what is marked to be typed. Here all the rest is parsed as the programs would
parse it: blocks that are only shown, commands within a sentence, and the commands that problems
name as their mend. Files of the manual that other programs read are read by their parsers.
"""

from __future__ import annotations

import argparse
import configparser
import plistlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kowalski_gateway import node_main
from kowalski_gateway.cli.catalogue import COMMANDS
from kowalski_gateway.cli.main import build
from scripts.reference.source import mends

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PROGRAMS = ("kowalski", "kowalski-node", "make")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:kowalski|kowalski-node|make) [^`]*)`", re.DOTALL)
UNSAID = ("…", "...", "COMMAND")
"""A text with one of these is no whole command."""


def shown(page: Path) -> str:
    return str(page.relative_to(ROOT))


def mentions_in(text: str) -> Iterator[list[str]]:
    """Each command within a sentence, as its words; often without its arguments."""
    for inline in INLINE.findall(FENCE.sub("", text)):
        yield from commands_of(inline)


def commands_in(text: str) -> Iterator[list[str]]:
    """Each command in a block of a page, as its words."""
    for language, body in FENCE.findall(text):
        if language == "console":
            typed = re.sub(r"^> ?", " ", body.replace("\n> ", "\n "), flags=re.MULTILINE)
            lines = re.findall(r"^\$ (.*(?:\n .*)*)", typed, flags=re.MULTILINE)
        else:
            lines = body.splitlines() if language in ("sh", "ini") else []
        for line in lines:
            yield from commands_of(line)


def commands_of(line: str) -> Iterator[list[str]]:
    """The commands of our programs in a line of shell, also in the middle of a pipe."""
    for part in re.findall(r"\$\(([^()]*)\)", line):
        yield from commands_of(part)
    line = re.sub(r"\$\([^()]*\)", "TEXT", line)
    if any(word in line for word in UNSAID):
        return
    lexer = shlex.shlex(line.replace("\n", " "), posix=True, punctuation_chars="|&;<>")
    lexer.commenters = "#"
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;"):
            yield from started(words)
            words = []
        else:
            words.append(word)


def started(words: list[str]) -> Iterator[list[str]]:
    """The words of a command, without what stands before it and where its output goes."""
    at = next((i for i, word in enumerate(words) if Path(word).name in PROGRAMS), None)
    if at is None or not all("=" in word or word == "sudo" for word in words[:at]):
        return
    kept: list[str] = []
    rest = iter(words[at:])
    for word in rest:
        if set(word) <= set("<>&"):
            next(rest, None)
        else:
            kept.append(word)
    yield [Path(kept[0]).name, *(word for word in kept[1:] if not re.fullmatch(r"\d", word))]


def wrong_with(words: list[str], *, is_whole: bool = True) -> str | None:
    """What is wrong with a command; None where it could be typed, or is the beginning of one."""
    program, *arguments = words
    try:
        if program == "kowalski":
            return wrong_with_kowalski(arguments)
        if program == "kowalski-node" and arguments in (["--help"], ["--version"]):
            return None  # the parser would end the process
        if program == "kowalski-node":
            NodeParser.of(node_main.parser()).parse_args(arguments)
        elif arguments and arguments[0] not in targets():
            return f"there is no target {arguments[0]}"
    except (click.ClickException, ValueError) as error:
        is_begun = isinstance(error, click.MissingParameter) or "requires an argument" in str(error)
        return str(error) if is_whole or not is_begun else None
    return None


def wrong_with_kowalski(arguments: list[str]) -> str | None:
    if not arguments or arguments[0] in ("--help", "--version"):
        return None
    if arguments[0] not in COMMANDS:
        return f"there is no command {arguments[0]}"
    group = build()
    with click.Context(group, info_name="kowalski") as context:
        command = group.get_command(context, arguments[0])
        assert command is not None
        try:
            command.make_context(arguments[0], arguments[1:], parent=context)
        except click.exceptions.Exit:  # --help ends there
            return None
    return None


class NodeParser(argparse.ArgumentParser):
    """The parser of kowalski-node, which tells its errors instead of ending the process."""

    @classmethod
    def of(cls, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser.__class__ = cls
        return parser

    def error(self, message: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise ValueError(message)


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_command_of_a_page_could_be_typed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = [(words, wrong_with(words)) for words in commands_in(text)]
    found += [(words, wrong_with(words, is_whole=False)) for words in mentions_in(text)]
    assert [f"{shlex.join(words)}: {why}" for words, why in found if why] == []


def test_commands_are_found_in_all_pages_together() -> None:
    named = {
        words[1]
        for page in PAGES
        for words in commands_in(page.read_text(encoding="utf-8"))
        if words[0] == "kowalski" and len(words) > 1
    }
    assert set(COMMANDS) - named == set()


@pytest.mark.parametrize("code", sorted(mends()))
def test_every_mend_could_be_typed(code: str) -> None:
    for mend in mends()[code]:
        if mend.startswith(PROGRAMS):
            (words,) = commands_of(mend.replace("…", "1"))
            assert wrong_with(words) is None, mend


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ("kowalski status | grep digest", [["kowalski", "status"]]),
        (
            "TOKEN=$(kowalski invite | grep -o 'kow1[^ ]*')",
            [["kowalski", "invite"]],
        ),
        (
            "kowalski-node --home desk > desk.log 2>&1 &",
            [["kowalski-node", "--home", "desk"]],
        ),
        ("export PATH=$PWD/.venv/bin:$PATH    # so that kowalski is found", []),
        ("make test ARGS='-k ledger' # all", [["make", "test", "ARGS=-k ledger"]]),
        ("kowalski batch - --json < keyed.jsonl", [["kowalski", "batch", "-", "--json"]]),
    ],
)
def test_commands_are_cut_out_of_shell_lines(line: str, commands: list[list[str]]) -> None:
    assert [*commands_of(line)] == commands


@pytest.mark.parametrize(
    "line",
    [
        "kowalski stats",
        "kowalski submit x.py --devise mini",
        "kowalski tasks --state done",
        "kowalski-node --joyn TOKEN",
        "kowalski-node --preset moon",
        "make tests",
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    (words,) = commands_of(line)
    assert wrong_with(words) is not None


def test_every_metric_that_is_named_is_one_of_ours() -> None:
    sources = ("kowalski_node/metrics.py", "kowalski_gateway/http/metrics.py")
    code = "".join((ROOT / "node" / name).read_text(encoding="utf-8") for name in sources)
    ours = set(re.findall(r'"(kowalski_\w+)"', code))
    named: set[str] = set()
    for page in ("how-to/monitor-with-prometheus.md", "debugging.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        named |= set(re.findall(r"`(kowalski_\w+)", text))
    samples = {name for name in named if name.startswith("kowalski_device_")}
    assert len(named) > 8
    assert named - samples - ours == set()


# ---------------------------------------------------------------- files that other programs read


def files_of(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [body for found, body in FENCE.findall(text) if found == language]


def test_the_systemd_unit_is_one() -> None:
    (unit,) = files_of("how-to/keep-a-node-running.md", "ini")
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    parsed.read_string(unit)
    assert set(parsed.sections()) == {"Unit", "Service", "Install"}
    assert parsed["Service"]["ExecStart"].endswith("/.venv/bin/kowalski-node")


def test_the_launchd_list_is_one() -> None:
    (plist,) = files_of("how-to/keep-a-node-running.md", "xml")
    parsed = plistlib.loads(plist.encode())
    assert parsed["Label"] == "kowalski.node"
    assert parsed["ProgramArguments"][0].endswith("/.venv/bin/kowalski-node")


@pytest.mark.parametrize("page", ["reference/configuration.md", "how-to/without-multicast.md"])
def test_a_configuration_that_is_shown_is_accepted(page: str, tmp_path: Path) -> None:
    for text in files_of(page, "toml"):
        (tmp_path / "config.toml").write_text(text, encoding="utf-8")
        listen = ["--listen", "/ip4/127.0.0.1/tcp/0"]
        options, _ = node_main.options_from(["--home", str(tmp_path), *listen])
        for name, value in tomllib.loads(text).items():
            if name in ("name", "slots"):
                assert getattr(options, name) == value
            elif name == "peer":
                assert len(options.peers) == len(value)
            elif name == "label":
                assert options.labels == dict(one.split("=") for one in value)
