"""docs/reference/command-line.md: every command and option, from their declarations."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator

import click

from kowalski_gateway.cli.catalogue import COMMANDS, SECTIONS
from kowalski_gateway.cli.main import build
from kowalski_gateway.cli.settings import NodeCommand, shared_options
from kowalski_gateway.node_main import parser

from .markdown import code, fence, page, table

INTRODUCTION = """
`kowalski` talks to the node on this device; `kowalski-node` is the node. Every `kowalski` command
takes the options of the next table, before its name as well as after it, and `--json`, with which
stdout holds one JSON document and nothing else. [Errors](errors.md) lists the exit codes.
"""
IDS = """
A task is named by its id of 32 hex digits or by any beginning of it that is unique; a device by its
name, its peer ID, or a beginning or end of that. Output that is not a terminal has no colours, no
frames and no progress bars; `NO_COLOR` turns colours off on a terminal too.
"""


def render() -> str:
    """The page."""
    group = build()
    context = click.Context(group, info_name="kowalski")
    blocks: list[str] = []
    for section in SECTIONS:
        blocks.append(f"## {section}")
        for name, entry in COMMANDS.items():
            if entry.section == section:
                command = group.get_command(context, name)
                assert isinstance(command, NodeCommand)
                blocks += _command(command, context)
    return page(
        "Command line",
        " ".join(INTRODUCTION.split()),
        _options(shared_options(), context),
        " ".join(IDS.split()),
        *blocks,
        "## kowalski-node",
        *_node(),
    )


def _command(command: NodeCommand, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=command.name, parent=parent)
    yield f"### kowalski {command.name}"
    yield inspect.cleandoc(command.help or "")
    pieces = " ".join(piece for piece in command.collect_usage_pieces(context))
    yield fence(f"kowalski {command.name} {pieces}")
    shared = {option.name for option in shared_options()}
    own = [p for p in command.params if isinstance(p, click.Option) and p.name not in shared]
    if own:
        yield _options(own, context)
    if command.examples:
        yield "Examples:"
        yield fence("\n".join(command.examples), "sh")


def _options(options: list[click.Parameter] | list[click.Option], context: click.Context) -> str:
    rows: list[tuple[str, str]] = []
    for option in options:
        record = option.get_help_record(context)
        if record is not None:
            rows.append((code(record[0]), record[1]))
    return table(("option", "meaning"), rows)


def _node() -> Iterator[str]:
    made = parser()
    yield f"{made.description} SIGTERM or Ctrl-C ends it in order; a second one at once."
    rows = [
        (code(_option(action)), str(action.help))
        for action in made._actions  # noqa: SLF001 (argparse lists its options nowhere else)
        if action.help not in (None, argparse.SUPPRESS)
    ]
    yield table(("option", "meaning"), rows)
    yield "[Configuration](configuration.md) tells where else each option may stand."


def _option(action: argparse.Action) -> str:
    value = action.metavar or ("{" + ",".join(action.choices) + "}" if action.choices else "")
    names = ", ".join(action.option_strings)
    return f"{names} {value}".strip() if action.nargs != 0 else names
