"""What a Python source says about itself: the work of one demo task.

This file is the program of every task: its text, followed by one line that calls `facts_of`, is
what travels to a device and runs in the sandbox there. The plain local run that the results are
compared with calls the same function in an ordinary process. So it imports the standard library
alone, and its answer depends on the source alone.
"""

from __future__ import annotations

import ast
from typing import Any

_BRANCHES = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.IfExp,
    ast.ExceptHandler,
    ast.BoolOp,
    ast.comprehension,
    ast.match_case,
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def facts_of(source: str) -> dict[str, Any]:
    """Counts, extremes and imports of one source, as plain JSON values."""
    tree = ast.parse(source)
    functions: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
    classes = documented = 0
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS):
            functions.append(node)
            documented += ast.get_docstring(node, clean=False) is not None
        elif isinstance(node, ast.ClassDef):
            classes += 1
            documented += ast.get_docstring(node, clean=False) is not None
        elif isinstance(node, ast.Import):
            imports |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports.add(node.module.partition(".")[0])
    longest = max(functions, key=_length, default=None)
    branchiest = max(functions, key=_branches, default=None)
    return {
        "lines": source.count("\n"),
        "functions": len(functions),
        "coroutines": sum(isinstance(one, ast.AsyncFunctionDef) for one in functions),
        "classes": classes,
        "documented": documented,
        "imports": sorted(imports - {"__future__"}),
        "longest": None if longest is None else [longest.name, _length(longest)],
        "branchiest": None if branchiest is None else [branchiest.name, _branches(branchiest)],
    }


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _branches(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return sum(isinstance(node, _BRANCHES) for node in ast.walk(function))
