"""How a bug is put into the core and taken out again.

A bug is written as what it is: lines of the core as they are, and as they would be with the bug in
them. The function is compiled anew from its changed text, and the code of the one that exists is
exchanged, so whoever holds the function (a table of handlers, a module that imported it by name)
runs the changed one. Afterwards the function has the very code object that it had.

Where the core no longer has the lines, planting fails and says so: a bug that is planted nowhere
would look like one that nobody can find.
"""

from __future__ import annotations
import __future__

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from ..options import Options


class CoreHasChanged(Exception):
    """The core has no longer what a bug would change: the bug must be written anew."""


class Change(NamedTuple):
    """Lines of one function, before and after."""

    where: str
    """`module:name` or `module:Class.name`, without the package of the module."""
    before: str
    after: str
    """Its further lines are indented as the first one is."""


class Bug:
    """A small mistake that somebody might make in the core."""

    def __init__(
        self,
        name: str,
        sentence: str,
        *changes: Change,
        where: Options | None = None,
    ) -> None:
        self.name = name
        self.sentence = sentence
        """What is broken."""
        self.changes = changes
        self.where = where or Options(seed=0)
        """The worlds in which it is looked for: any, unless it wants certain faults to show."""

    def __repr__(self) -> str:
        return f"<Bug {self.name}>"

    @contextmanager
    def apply(self) -> Iterator[None]:
        """Within the block the core has this bug; afterwards it is as it was before."""
        planned = [(function, changed(function, edits)) for function, edits in self._by_function()]
        originals = [(function, function.__code__) for function, _ in planned]
        try:
            for function, code in planned:
                function.__code__ = code
            yield
        finally:
            for function, code in originals:
                function.__code__ = code

    def _by_function(self) -> list[tuple[FunctionType, list[Change]]]:
        found: dict[str, list[Change]] = {}
        for change in self.changes:
            found.setdefault(change.where, []).append(change)
        return [(function_at(where), edits) for where, edits in found.items()]


_PACKAGES = {
    "core": "kowalski_node.core",
    "ledger": "kowalski_ledger",
    "protocol": "kowalski_protocol",
    "simulations": "simulations",
}


def function_at(where: str) -> FunctionType:
    """The function that `package.module:Class.name` names."""
    module_name, _, path = where.partition(":")
    package, _, module_name = module_name.partition(".")
    found: Any = importlib.import_module(f"{_PACKAGES[package]}.{module_name}")
    for name in path.split("."):
        found = inspect.getattr_static(found, name, None)
    if isinstance(found, staticmethod | classmethod):
        inner: Any = found  # pyright: ignore[reportUnknownVariableType]
        found = inner.__func__
    elif isinstance(found, property):
        found = found.fget
    if not isinstance(found, FunctionType):
        raise CoreHasChanged(f"There is no function {where}.")
    return found


def changed(function: FunctionType, edits: list[Change]) -> CodeType:
    """The function's code with these lines changed."""
    text = textwrap.dedent(inspect.getsource(function))
    for edit in edits:
        text = _edited(text, edit)
    code = compile(
        text, f"<{edits[0].where} with a bug>", "exec", __future__.annotations.compiler_flag, True
    )
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and constant.co_name == function.__name__:
            return constant
    raise AssertionError(f"{edits[0].where} is no longer itself")


def _edited(text: str, edit: Change) -> str:
    first, *_ = edit.before.split("\n", 1)
    found: list[tuple[int, str]] = []
    at = text.find(first)
    while at >= 0:
        line = text[text.rfind("\n", 0, at) + 1 : at]
        indent = "\n" + line[: len(line) - len(line.lstrip())]
        if text.startswith(edit.before.replace("\n", indent), at):
            found.append((at, indent))
        at = text.find(first, at + 1)
    if len(found) != 1:
        raise CoreHasChanged(f"{edit.where} has {len(found)} times, and not once: {edit.before}")
    ((at, indent),) = found
    end = at + len(edit.before.replace("\n", indent))
    return text[:at] + edit.after.replace("\n", indent) + text[end:]
