"""The pure parts are pure: what they do depends on their arguments alone.

The protocol, the fold and the node's core run the same on every node, in the simulator and years
later in a replay, because nothing in them can reach a clock, a disk, a network, a source of chance
or the order of a process's memory. The import contracts in pyproject.toml check the directions
between packages; here the syntax tree of every pure module is read, and it may import only what
stands on a short list, only other pure modules of ours, and may call none of the built-ins that
reach outside or differ from process to process.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Folder or module: where it stands on disk. One that vanishes fails the test, so that moving code
# can't take it out of the check.
PURE: dict[str, str] = {
    "kowalski_protocol": "protocol/kowalski_protocol",
    "kowalski_ledger.digest": "ledger/kowalski_ledger/digest.py",
    "kowalski_ledger.fold": "ledger/kowalski_ledger/fold.py",
    "kowalski_ledger.task_fold": "ledger/kowalski_ledger/task_fold.py",
    "kowalski_ledger.membership": "ledger/kowalski_ledger/membership.py",
    "kowalski_ledger.state": "ledger/kowalski_ledger/state.py",
    "kowalski_node.core": "node/kowalski_node/core",
}

# A list of what is allowed catches also what nobody thought of forbidding (datetime, uuid, secrets,
# threading, logging, ...). Each of these computes, and does nothing else.
ALLOWED = {
    "__future__", "abc", "base64", "binascii", "bisect", "collections", "contextlib", "copy",
    "dataclasses", "enum", "fractions", "functools", "hashlib", "heapq", "hmac", "ipaddress",
    "itertools", "json", "math", "operator", "re", "string", "struct", "types", "typing",
    "typing_extensions", "unicodedata", "zlib",
    "base58", "cryptography", "msgspec",
}  # fmt: skip

OURS = ("kowalski_", "simulations", "tests")

# `hash` and `id` differ between processes, so nothing that two nodes compare may come from them.
FORBIDDEN_CALLS = {
    "open", "print", "input", "exec", "eval", "compile", "breakpoint", "__import__", "hash", "id",
}  # fmt: skip

# Methods that read a clock or draw at random, whatever they are reached through.
FORBIDDEN_METHODS = {
    "now", "utcnow", "today", "time_ns", "monotonic", "perf_counter", "urandom", "uuid4", "uuid1",
    "token_bytes", "token_hex", "randbytes", "generate", "read_text", "read_bytes", "write_text",
    "write_bytes",
}  # fmt: skip


def modules_of(name: str, place: Path) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module in a pure folder, or of the one module."""
    if place.is_file():
        yield name, place
    for path in sorted(place.rglob("*.py")):
        parts = path.relative_to(place).with_suffix("").parts
        yield ".".join((name, *(part for part in parts if part != "__init__"))), path


def is_pure(module: str) -> bool:
    return any(module == name or module.startswith(name + ".") for name in PURE)


def _imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that is imported, with relative names made whole."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join((*base, *((node.module,) if node.module else ())))
            for alias in node.names:
                # `from package import name`: the name may be a module of it.
                inner = f"{source}.{alias.name}"
                yield node.lineno, inner if _on_disk(inner) else source


def _on_disk(module: str) -> bool:
    path = Path(*module.split("."))
    tops = (ROOT / top / path for top in ("protocol", "ledger", "node", "."))
    return any(top.with_suffix(".py").is_file() or (top / "__init__.py").is_file() for top in tops)


def _calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of every forbidden call; `__hash__` is where `hash` belongs."""
    inside_hash = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__hash__"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in FORBIDDEN_CALLS:
            if function.id != "hash" or node not in inside_hash:
                yield node.lineno, f"{function.id}()"
        elif isinstance(function, ast.Attribute) and function.attr in FORBIDDEN_METHODS:
            yield node.lineno, f".{function.attr}()"


def impurities(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What in the source of a pure module reaches outside."""
    tree = ast.parse(source)
    found: list[str] = []
    for line, name in _imports(tree, module, is_package):
        if name.startswith(OURS):
            if not is_pure(name):
                found.append(f"{module}:{line} imports {name}, which is not pure")
        elif name.split(".")[0] not in ALLOWED:
            found.append(f"{module}:{line} imports {name}")
    return found + [f"{module}:{line} calls {name}" for line, name in _calls(tree)]


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_reach_nothing_outside(name: str) -> None:
    place = ROOT / PURE[name]
    found = list(modules_of(name, place))
    assert found, f"{PURE[name]} is gone: the list of pure parts has to follow it"
    problems = [
        problem
        for module, path in found
        for problem in impurities(
            path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py"
        )
    ]
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


def test_importing_the_pure_parts_loads_no_machinery() -> None:
    """What they import, imports nothing of the kind either: checked in a fresh interpreter."""
    names = [module for name, place in PURE.items() for module, _ in modules_of(name, ROOT / place)]
    program = (
        "import importlib, sys\n"
        f"sys.path[:0] = {[str(ROOT / top) for top in ('protocol', 'ledger', 'node')]!r}\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "machinery = {'trio', 'asyncio', 'anyio', 'libp2p', 'sqlite3', 'aiosqlite', 'socket',\n"
        "             'subprocess', 'zeroconf', 'httpx', 'starlette', 'multiprocessing'}\n"
        "print(*sorted(machinery & set(sys.modules)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import trio",
        "import os.path",
        "from random import random",
        "from datetime import datetime",
        "import uuid",
        "import secrets",
        "from socket import AF_INET",
        "import sqlite3 as storage",
        "def late():\n    import libp2p",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import trio",
        "from kowalski_node import port",
        "from ..network import interface",
        "import kowalski_gateway",
        "x = open('file')",
        "x = hash('differs in each process')",
        "key = Ed25519PrivateKey.generate()",
        "x = clock.now()",
    ],
)
def test_a_planted_impurity_is_found(source: str) -> None:
    assert impurities(source, "kowalski_node.core.planted") != []


@pytest.mark.parametrize(
    "source",
    [
        "from __future__ import annotations\nimport hashlib, math\nfrom collections import abc",
        "from kowalski_protocol import ids",
        "from .effects import Append",
        "from . import effects",
        "class Id:\n    def __hash__(self):\n        return hash(self.text)",
        "def step(state, now):\n    return state.hash(now)",
    ],
)
def test_what_computes_only_is_let_through(source: str) -> None:
    assert impurities(source, "kowalski_node.core.planted") == []
