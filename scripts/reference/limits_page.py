"""docs/reference/limits.md: every bound with its unit and its reason."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

from kowalski_gateway.http.bounds import BOUNDS
from kowalski_node.network.interface import NetworkOptions
from kowalski_protocol.limits import LIMITS, PRESETS, Timers

from .markdown import cell, code, page, table
from .source import Said, constants, fields

CONSTANTS = (
    ("Files of a task", "kowalski_protocol.task_files"),
    ("Code in the sandbox", "kowalski_executors.limits"),
    ("Work ahead on a device", "kowalski_node.core.attempts"),
    ("Telemetry kept in the ledger file", "kowalski_ledger.samples"),
    ("The ledger file", "kowalski_ledger.settings"),
    ("Discovery", "kowalski_node.adverts"),
)
"""Modules whose constants are bounds."""


def render() -> str:
    """The page."""
    return page(
        "Limits and timers",
        "Every bound with its unit and the reason that stands beside it in the code. Sizes and"
        " counts of the protocol are the same on all nodes of a cluster; timers are chosen per"
        " node by `--preset`; the rest is each node's own and not configurable.",
        "## The protocol\n\n`kowalski_protocol.limits.Limits`: changing one is a change of the"
        " protocol.",
        _values(LIMITS),
        "## Timers\n\n`kowalski-node --preset local|lan|wan`: `local` is for one machine and"
        " tests, `lan` for a home or a lab (the default), `wan` for devices that meet over the"
        " internet or a VPN. Seconds unless the name says otherwise; what differs from `lan` is"
        " bold.",
        _timers(),
        "## HTTP\n\nWhat a node's API grants a client.",
        _values(BOUNDS),
        "## Connections between members",
        _values(NetworkOptions()),
        *(f"## {title}\n\n{_constants(module)}" for title, module in CONSTANTS),
    )


def _values(holder: Any) -> str:
    kind: type[Any] = holder.__class__
    return _table([(s, getattr(holder, s.name)) for s in fields(kind)])


def _constants(module: str) -> str:
    loaded = importlib.import_module(module)
    rows = [
        (s, getattr(loaded, s.name))
        for s in constants(module)
        if s.doc and isinstance(getattr(loaded, s.name), int | float)
    ]
    return _table(rows)


def _table(rows: Sequence[tuple[Said, Any]]) -> str:
    return table(
        ("name", "value", "unit", "reason"),
        ((code(s.name), number(s.name, v), unit(s.name), s.doc) for s, v in rows),
    )


def _timers() -> str:
    rows: list[list[str]] = []
    for said in fields(Timers):
        lan = getattr(PRESETS["lan"], said.name)
        values = [getattr(PRESETS[name], said.name) for name in ("local", "lan", "wan")]
        shown = [f"{v:g}" if v == lan else f"**{v:g}**" for v in values]
        rows.append([code(said.name), *shown, cell(said.doc)])
    return table(("name", "local", "lan", "wan", "reason"), rows)


UNITS = (
    (r"bytes_s", "bytes per second"),
    (r"(_|^)bytes(_|$)|_bytes$", "bytes"),
    (r"_ms(_|$)", "milliseconds"),
    (r"_s(_|$)", "seconds"),
    (r"_mb$", "MiB"),
    (r"_factor$", "times"),
)


def unit(name: str) -> str:
    """The unit of a bound, which stands last in its name."""
    for pattern, word in UNITS:
        if re.search(pattern, name.lower()):
            return word
    return "characters" if "length" in name.lower() else "count"


def number(name: str, value: Any) -> str:
    """A value as people read it."""
    if unit(name).startswith("bytes") and isinstance(value, int):
        for size, word in ((1 << 20, "Mi"), (1 << 10, "Ki")):
            if value >= size and value % size == 0:
                return f"{value // size:,} {word}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"
