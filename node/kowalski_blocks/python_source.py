"""Judging a text as Python: does it parse, does a string end, does it look like a program?

Parsing means building the syntax tree, which runs nothing and, unlike compiling to bytecode,
computes nothing either. The parser may refuse a text in more ways than with a syntax error: too
deep (RecursionError, MemoryError), NUL or half a surrogate pair (ValueError), a number of too many
digits; each means that it is no program. All attempts draw on a budget.

Much that is no program parses: `yes`, `42`, `Answer: 42`, `a, b`, `make - j`. So a tree is only
evidence together with statements that prose, configuration and program output do not have.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import warnings
from typing import Final

from .budget import Budget

_FLAGS: Final = ast.PyCF_ONLY_AST
_NESTING_MAX: Final = 60
"""Brackets open at once: the parser's second pass, which words the error, is slow on deep ones."""

_TOKEN: Final = re.compile(
    r"""#[^\n]*|\"{3}|'{3}|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?""", re.DOTALL
)
_END_OF: Final = {
    '"""': re.compile(r'(?:[^"\\]++|\\.|"(?!""))*+"""', re.DOTALL),
    "'''": re.compile(r"(?:[^'\\]++|\\.|'(?!''))*+'''", re.DOTALL),
}


def has_triple_quote(source: str) -> bool:
    """Whether a string over several lines could begin here at all."""
    return '"""' in source or "'''" in source


class OpenString:
    """Follows Python source, piece by piece, and knows whether a string of three quotes is open.

    Pieces end where lines end. Strings of one quote are taken to end with their line.
    """

    def __init__(self) -> None:
        self._quote: str | None = None

    @property
    def is_open(self) -> bool:
        return self._quote is not None

    def feed(self, piece: str) -> None:
        """Takes the next lines of the source."""
        at = 0
        while True:
            if self._quote is not None:
                end = _END_OF[self._quote].match(piece, at)
                if end is None:
                    return
                at, self._quote = end.end(), None
            token = _TOKEN.search(piece, at)
            if token is None:
                return
            at = token.end()
            if token[0] in _END_OF:
                self._quote = token[0]


def _too_deep(source: str) -> bool:
    if sum(map(source.count, "([{")) <= _NESTING_MAX:
        return False
    depth = deepest = 0
    for bracket in re.findall(r"[\[\](){}]", source):
        depth = depth + 1 if bracket in "([{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest > _NESTING_MAX


def parse(source: str, budget: Budget) -> ast.Module | None:
    """The syntax tree; None where the source is not Python or the budget is spent. Never raises."""
    if not budget.allows_parse(len(source)) or _too_deep(source):
        return None
    try:
        with warnings.catch_warnings():
            # A candidate's `"\d"` is nobody's concern, least of all an error under `-W error`.
            warnings.simplefilter("ignore")
            tree = compile(source, "<block>", "exec", _FLAGS, dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return None
    return tree if isinstance(tree, ast.Module) else None


def parses(source: str, budget: Budget) -> bool:
    """Whether the source is Python, as far as the budget lets that be found out."""
    return parse(source, budget) is not None


_BUILTINS: Final = frozenset(
    name
    for name in dir(builtins)
    if name[:1].islower() and name not in {"copyright", "credits", "license", "exit", "quit"}
)
_KNOWN_MODULES: Final = sys.stdlib_module_names | {
    "bs4", "click", "django", "fastapi", "flask", "httpx", "jax", "keras", "matplotlib", "msgspec",
    "networkx", "numpy", "pandas", "plotly", "polars", "psutil", "pydantic", "pytest", "requests",
    "rich", "scipy", "seaborn", "sklearn", "sqlalchemy", "sympy", "tensorflow", "torch", "tqdm",
    "transformers", "trio", "yaml",
}  # fmt: skip
_BLOCKS: Final = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.AsyncFor, ast.While,
    ast.With, ast.AsyncWith, ast.Try, ast.If, ast.Match,
)  # fmt: skip


def _calls_builtin(statement: ast.stmt) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _BUILTINS
        for node in ast.walk(statement)
    )


def _is_known(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in _KNOWN_MODULES


def _imports(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Import):
        return all(_is_known(alias.name) for alias in statement.names)
    return isinstance(statement, ast.ImportFrom) and _is_known(statement.module)


def _is_prose(statement: ast.stmt) -> bool:
    """A statement that does nothing and reads as a word: `Sure`, `Note: this`."""
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None
    return isinstance(statement, ast.Expr) and isinstance(
        statement.value, ast.Name | ast.Tuple | ast.Compare | ast.BinOp
    )


def looks_like_program(tree: ast.Module) -> bool:
    """Whether a syntax tree is that of a Python program beyond doubt.

    At least one statement must be Python's own: a definition or another block, an import of a
    module that exists, a call of a built-in function, an annotated value. No statement but the
    last, whose value a program may end with, may be a mere word. A lone assignment is no evidence:
    configuration files are full of them.
    """
    body = tree.body
    if any(_is_prose(statement) for statement in body[:-1]):
        return False
    return any(
        isinstance(statement, _BLOCKS)
        or _imports(statement)
        or (isinstance(statement, ast.AnnAssign) and statement.value is not None)
        or (
            isinstance(statement, ast.Expr | ast.Assign | ast.AugAssign)
            and _calls_builtin(statement)
        )
        for statement in body
    ) or _is_imported_and_used(body)


def _is_imported_and_used(body: list[ast.stmt]) -> bool:
    """An import of some module, and something besides imports that does something."""
    imports = [s for s in body if isinstance(s, ast.Import | ast.ImportFrom)]
    return bool(imports) and any(
        isinstance(s, ast.Assign | ast.AugAssign)
        or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Call | ast.Await))
        for s in body
    )
