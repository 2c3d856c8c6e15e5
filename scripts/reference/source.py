"""Reading what only the source says: the sentences under fields and constants, and the calls that
raise a problem.

Python keeps no docstrings of fields, so they are taken from the syntax tree: a string that stands
alone after an assignment belongs to it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kowalski_protocol.errors import CODES

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "protocol/kowalski_protocol",
    "ledger/kowalski_ledger",
    "node/kowalski_node",
    "node/kowalski_executors",
    "node/kowalski_gateway",
)


class Said(NamedTuple):
    """A field or constant as the source has it."""

    name: str
    type: str
    default: str
    doc: str


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def module_tree(name: str) -> ast.Module:
    """The syntax tree of a module."""
    path = inspect.getsourcefile(importlib.import_module(name))
    assert path is not None
    return tree(Path(path))


def _assignments(body: list[ast.stmt]) -> Iterator[Said]:
    for index, node in enumerate(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, kind, value = node.target.id, ast.unparse(node.annotation), node.value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, kind, value = node.targets[0].id, "", node.value
        else:
            continue
        after = body[index + 1] if index + 1 < len(body) else None
        doc = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            said = after.value.value
            doc = " ".join(said.split()) if isinstance(said, str) else ""
        yield Said(name, kind, "" if value is None else ast.unparse(value), doc)


@cache
def fields(cls: type[Any]) -> tuple[Said, ...]:
    """The fields of a struct or dataclass with their sentences, its bases' first."""
    found: dict[str, Said] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith(("kowalski_",)):
            continue
        for node in module_tree(base.__module__).body:
            if isinstance(node, ast.ClassDef) and node.name == base.__name__:
                found |= {s.name: s for s in _assignments(node.body) if _is_field(s)}
    return tuple(found.values())


def _is_field(said: Said) -> bool:
    return bool(said.type) and not said.type.startswith("ClassVar")


def constants(module: str) -> list[Said]:
    """The public constants of a module with their sentences."""
    return [s for s in _assignments(module_tree(module).body) if s.name.isupper()]


def doc_of(thing: Any) -> str:
    """The own docstring of a class or function, as paragraphs of one line each."""
    text = inspect.cleandoc(thing.__dict__.get("__doc__") or "")
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def files() -> list[Path]:
    """The sources that ship."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def mends() -> dict[str, tuple[str, ...]]:
    """The commands that problems name, by code, as the sources say them."""
    found: dict[str, dict[str, None]] = {}
    for path in files():
        module = tree(path)
        names = {s.name: s.default for s in _assignments(module.body)}
        for node, known in _calls(module):
            mend = next((k.value for k in node.keywords if k.arg == "mend"), None)
            if mend is None and _called(node) == "ErrorView" and len(node.args) > 2:
                mend = node.args[2]
            if mend is None or not node.args:
                continue
            for code in _texts(node.args[0], names) or known:
                for command in _texts(mend, names):
                    found.setdefault(code, {})[command] = None
    return {code: tuple(commands) for code, commands in found.items()}


def _calls(module: ast.Module) -> Iterator[tuple[ast.Call, list[str]]]:
    """The calls that make a problem. Where the code is a variable: the codes that its function
    names.
    """
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
            known = [t for t in dict.fromkeys(texts) if t in CODES]
            for inner in ast.walk(node):
                if isinstance(inner, ast.Call) and _called(inner) in ("Problem", "ErrorView"):
                    is_variable = bool(inner.args) and isinstance(inner.args[0], ast.Name)
                    yield inner, known if is_variable else []


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _texts(node: ast.expr, names: dict[str, str]) -> list[str]:
    """What an expression may be as a text; nothing where only a run can tell."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.IfExp):
        return _texts(node.body, names) + _texts(node.orelse, names)
    if isinstance(node, ast.JoinedStr):
        parts = [
            part.value if isinstance(part, ast.Constant) else _placeholder(part)
            for part in node.values
        ]
        return ["".join(map(str, parts))]
    if isinstance(node, ast.Name) and node.id in names:
        value = ast.parse(names[node.id], mode="eval").body
        return _texts(value, {}) if not isinstance(value, ast.Name) else []
    return []


def _placeholder(part: ast.expr) -> str:
    inner = part.value if isinstance(part, ast.FormattedValue) else part
    name = ast.unparse(inner)
    for word, shown in (
        ("home", "FOLDER"),
        ("path", "FILE"),
        ("folder", "FOLDER"),
        ("port", "PORT"),
        ("host", "HOST"),
        ("id", "ID"),
    ):
        if word in name.lower():
            return shown
    return "…"
