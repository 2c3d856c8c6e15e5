"""The demo's input: the sources of this machine's Python standard library, one task each.

Real files of very different sizes, present wherever Python is, that nobody minds being read. A
source travels compressed in its task's payload; the few that do not fit into one are left out and
counted.
"""

from __future__ import annotations

import sysconfig
import tokenize
import zlib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from kowalski_protocol.limits import LIMITS

_LEFT_OUT: Final = frozenset(
    {"test", "tests", "site-packages", "dist-packages", "__pycache__", "idlelib", "encodings"}
    | {"lib2to3", "distutils", "turtledemo", "ensurepip", "pydoc_data", "__phello__"}
)
"""Tests, tables of characters, applications and what other projects installed."""
_SLACK_BYTES: Final = 256
"""What a payload has beside program and input."""

PROGRAM_END: Final = """
import binascii, sys, zlib
facts_of(zlib.decompress(binascii.a2b_base64(sys.stdin.read())).decode())
"""
"""The last lines of a task's program; the value of the last one is the task's result."""


class Source(NamedTuple):
    """One file of the library."""

    name: str
    path: Path
    text: str


class Sources(NamedTuple):
    """What there is to analyse."""

    chosen: list[Source]
    too_large: int


def library() -> Path:
    """The folder of the standard library's sources."""
    return Path(sysconfig.get_path("stdlib"))


def find_sources(count_max: int, folder: Path | None = None) -> Sources:
    """Up to so many sources, spread evenly over all in the order of their names."""
    root = library() if folder is None else folder
    fitting: list[Source] = []
    too_large = 0
    for source in _readable(root):
        if len(packed(source.text)) + len(program()) + _SLACK_BYTES > LIMITS.payload_size_bytes_max:
            too_large += 1
        else:
            fitting.append(source)
    if len(fitting) > count_max:
        step = len(fitting) / count_max
        fitting = [fitting[int(number * step)] for number in range(count_max)]
    return Sources(fitting, too_large)


def _readable(root: Path) -> Iterator[Source]:
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if _LEFT_OUT.isdisjoint(name.parts) and not name.parts[0].startswith("config-"):
            try:
                with tokenize.open(path) as file:  # minds the encoding that the source declares
                    yield Source(name.as_posix(), path, file.read())
            except (OSError, SyntaxError, UnicodeDecodeError):
                continue


def program() -> str:
    """The program of every task."""
    return Path(__file__).with_name("source_facts.py").read_text(encoding="utf-8") + PROGRAM_END


def packed(text: str) -> str:
    """A source as it travels in a payload."""
    return b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def specs(sources: list[Source]) -> list[dict[str, Any]]:
    """One `code` task per source."""
    code = program()
    return [
        {
            "kind": "code",
            "payload": {"language": "python", "code": code, "stdin": packed(source.text)},
            "timeout_s": 60.0,
            "labels": {"source": source.name},
        }
        for source in sources
    ]
