"""docs/reference/python.md: the client library, from its signatures and docstrings."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kowalski_node.client import Client, TaskHandle, TaskOptions
from kowalski_node.client import client as client_module
from kowalski_protocol.errors import Problem

from .markdown import code, fence, page, table
from .source import doc_of, fields, tree

EXAMPLE = """
from kowalski_node.client import Client

async with Client() as kowalski:
    view = await kowalski.run("code", {"language": "python", "code": "sum(range(10))"})
    print(view.result.value)
"""


def render() -> str:
    """The page."""
    return page(
        "Python",
        "`from kowalski_node.client import Client, TaskHandle, TaskOptions`",
        doc_of(client_module.Client) + " It works on trio and on asyncio.",
        fence(EXAMPLE, "python"),
        "What the node answers comes as the types of the [HTTP API](http.md#types); they are in"
        " `kowalski_node.views`. What it refuses is raised as `kowalski_protocol.errors.Problem`"
        " with the `code` of [errors](errors.md).",
        "## Client",
        fence(_signature(Client, "Client"), "python"),
        *_methods(Client),
        "## TaskHandle",
        doc_of(TaskHandle) + " `submit` and `batch` return it; it has `id` and `replicas`.",
        *_methods(TaskHandle),
        "## TaskOptions",
        "The keyword arguments of `submit` and `run`, as [TaskRequest](http.md#taskrequest) has"
        " them. What this release does not build is refused with `not_supported`.",
        table(("option", "type"), ((code(s.name), code(s.type)) for s in fields(TaskOptions))),
        "## Problem",
        doc_of(Problem),
        table(
            ("attribute", "meaning"),
            (
                (code("code"), "stable; one of [errors](errors.md)"),
                (code("sentence"), "for a person"),
                (code("mend"), "the command that mends it, or None"),
                (code("status"), "the HTTP status of the code"),
            ),
        ),
    )


def _class(cls: type[Any]) -> ast.ClassDef:
    path = inspect.getsourcefile(cls)
    assert path is not None
    return next(
        node
        for node in tree(Path(path)).body
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    )


def _signature(cls: type[Any], shown: str) -> str:
    made = next(
        node
        for node in _class(cls).body
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    return f"{shown}({_arguments(made)})"


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    text = ast.unparse(function.args).removeprefix("self").removeprefix(", ")
    return re.sub(r"(?<=[\w\]])=(?=\S)", " = ", text)


def _methods(cls: type[Any]) -> Iterator[str]:
    for node in _class(cls).body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        returns = ast.unparse(node.returns) if node.returns else "None"
        is_stream = returns.startswith("Async")
        verb = "async for … in " if is_stream else "await "
        yield f"### {cls.__name__}.{node.name}"
        yield fence(f"{verb}{node.name}({_arguments(node)}) -> {returns}", "python")
        yield " ".join((ast.get_docstring(node) or "").split())
