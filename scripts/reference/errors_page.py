"""docs/reference/errors.md: the catalogue of errors, with the commands that mend them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kowalski_gateway.cli import main as command_line
from kowalski_protocol import errors
from kowalski_protocol.errors import CODES

from .markdown import code, fence, page, table
from .named_errors import NAMED
from .source import mends

EXAMPLE = """
{"error": {"code": "port_busy", "message": "Another process listens on 127.0.0.1:52420.",
           "mend": "kowalski-node --api 127.0.0.1:52430"}}
"""


def render() -> str:
    """The page."""
    return page(
        "Errors",
        "Everything that can go wrong in a person's or a program's sight has a stable `code`, a"
        " sentence and, where there is one, the command that mends it. Match on the code: sentences"
        " may change.",
        fence(EXAMPLE, "json"),
        "HTTP answers with the status below and this body; with 429 and 503 comes `Retry-After`."
        " In Python the same is a `kowalski_protocol.errors.Problem` with `code`, `sentence` and"
        " `mend`. The command line prints `error [code]: sentence` and, on the next line, `mend:"
        " command` on stderr, with `--json` the body above on stdout, and exits with:",
        _exit_codes(),
        *(f"## {title}\n\n{_table(codes)}" for title, codes in _groups()),
        "## What the specification calls them",
        "The documents that Kowalski was specified in name these errors (`RLMError`). Here each"
        " is told by one of these codes:",
        _named(),
    )


def _named() -> str:
    rows = ((code(one.name), ", ".join(map(code, one.codes)), one.when) for one in NAMED)
    return table(("error", "codes", "when"), rows)


def _exit_codes() -> str:
    rows = (
        ("0", "all went well"),
        (str(command_line.EXIT_FAILED), "the task or the check failed, or a problem was told"),
        (str(command_line.EXIT_USAGE), "the command was used wrongly"),
        (str(command_line.EXIT_UNREACHABLE), "no node answers, or what answers is none"),
        (str(command_line.EXIT_INTERRUPTED), "interrupted with Ctrl-C"),
    )
    return table(("exit code", "meaning"), rows)


def _groups() -> Iterator[tuple[str, list[str]]]:
    """The sections of the catalogue, by the comments in it."""
    text = Path(errors.__file__).read_text(encoding="utf-8")
    body = text[text.index("CODES: Final") : text.index("\n}\n")]
    title = ""
    found: dict[str, list[str]] = {}
    for line in body.splitlines():
        if heading := re.match(r"    # (.+?)\.?$", line):
            title = heading[1]
        elif entry := re.match(r'    "(\w+)": Code\(', line):
            found.setdefault(title, []).append(entry[1])
    assert sorted(c for codes in found.values() for c in codes) == sorted(CODES)
    yield from found.items()


def _table(codes: list[str]) -> str:
    known = mends()
    rows = [
        (
            code(name),
            str(CODES[name].status) if CODES[name].status >= 400 else "",
            CODES[name].meaning,
            ", ".join(code(command) for command in known.get(name, ())),
        )
        for name in codes
    ]
    return table(("code", "HTTP", "meaning", "mend"), rows)
