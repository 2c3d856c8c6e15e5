"""docs/reference/configuration.md: where each option may stand, and what the home folder holds."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

from kowalski_gateway import node_main
from kowalski_node import home
from kowalski_node.addresses import API_PORT, PEER_PORT

from .markdown import code, fence, page, table
from .source import tree

CONFIG = """
name = "desk"
slots = 4
label = ["home=yes", "room=study"]
peer = ["mini.local"]
cost = { code = 0.5 }
no-mdns = false
"""
FILES = (
    (home.KEY_FILE, "the device's key: whoever has it is the device. Readable by its owner alone"),
    (home.LEDGER_FILE, "the ledger; while the node runs, `-wal` and `-shm` stand beside it"),
    (
        "blobs/",
        "large payloads and results, each named by its SHA-256; what others made in `cache/`",
    ),
    ("work/", "where running code has its folders"),
    ("config.toml", "the options of the owner; read at start, never written"),
    ("port", "the port for members that was found at the first start"),
    (home.LOCK_FILE, "held while a node uses the folder"),
)


def render() -> str:
    """The page."""
    return page(
        "Configuration",
        "An option of `kowalski-node` may stand on the command line, in the environment or in"
        " `config.toml` in the home folder. The first of these that has it counts. In the"
        " environment several values are separated by commas. A key of `config.toml` that is no"
        " option, and a value that an option can't use, keep the node from starting: the message"
        " names the place and what is wanted.",
        _options(),
        "A `config.toml`:",
        fence(CONFIG, "toml"),
        "## The command line",
        table(
            ("variable", "meaning"),
            (
                (
                    code("KOWALSKI_API"),
                    (
                        "the API that `kowalski` and the Python `Client()` ask, HOST:PORT or a"
                        f" URL; default 127.0.0.1:{API_PORT}. The same variable tells"
                        " `kowalski-node` where to serve it, HOST:PORT"
                    ),
                ),
                (code("KOWALSKI_API_TOKEN"), "the API's token, for all three"),
                (
                    code("KOWALSKI_HOME"),
                    "the home folder; `replay`, `audit`, `export` and `doctor` look there too",
                ),
                (code("NO_COLOR"), "no colours"),
            ),
        ),
        "## The home folder",
        "`--home`, else `KOWALSKI_HOME`, else `$XDG_DATA_HOME/kowalski`"
        " (`~/.local/share/kowalski`), on macOS `~/Library/Application Support/kowalski`.",
        table(("file", "what it is"), ((code(name), what) for name, what in FILES)),
        "## Ports",
        table(
            ("port", "what"),
            (
                (
                    f"TCP {PEER_PORT}",
                    "members, on all interfaces; the next free one where it is taken",
                ),
                (f"TCP {API_PORT}", "the HTTP API, on the loopback"),
                ("any TCP port", "the join door, only while an invite is open"),
                ("UDP 5353", "LAN discovery (multicast DNS), unless `--no-mdns`"),
            ),
        ),
    )


def _options() -> str:
    everywhere = _read_everywhere()
    rows: list[tuple[str, str, str, str]] = []
    for action in node_main.parser()._actions:  # noqa: SLF001 (listed nowhere else)
        if action.help in (None, argparse.SUPPRESS) or action.dest in ("help", "version"):
            continue
        name = action.dest
        variable = f"KOWALSKI_{name.upper()}" if name in everywhere or name == "home" else ""
        key = name if name in everywhere else ""
        rows.append((code(action.option_strings[-1]), code(variable), code(key), str(action.help)))
    return table(("option", "environment", "config.toml", "meaning"), rows)


def _read_everywhere() -> set[str]:
    """The options that are looked up in all three places, as the source does it."""
    module = tree(Path(node_main.__file__))
    return {
        str(node.args[0].value)
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "value"
        and isinstance(node.args[0], ast.Constant)
    }
