"""The Python of a session against plain CPython: the same cells, and no difference.

Small cells are drawn from a seed and run twice: in the session's own code, and by the simplest
thing that runs a cell, `exec` and `eval` in the namespace of one module. What is printed, the
value, the exception and the variables at the end must be the same.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

SEQUENCES = 2_400
BATCHES = 4

STATEMENTS = [
    "{a} = {n}",
    "{a} = {b} = [{n}, {m}]",
    "{a} += {n}",
    "{a}, *{b} = range({n})",
    "del {a}",
    "print({a!r}, {n})",
    "print({a})",
    "print({n}, end='')",
    "def f_{a}(x={n}):\n    return x * 2 + len(str({b}))",
    "def f_{a}(x=1):\n    global {b}\n    {b} = x\n    return {b}",
    (
        "def f_{a}():\n    def inner():\n        nonlocal y\n        y += {n}\n        return y\n"
        "    y = {m}\n    return inner()"
    ),
    "print(f_{a}())",
    "{b} = f_{a}({n})",
    "{a} = [f_{b}, lambda x: x + {n}]",
    "class C_{a}:\n    kept = {n}\n    def get(self): return self.kept + {b}",
    "class C_{a}(C_{b}):\n    def get(self): return [super().get(), {n}]",
    "{a} = C_{b}().get()",
    "print(C_{a}.__module__, C_{a}.__qualname__)",
    "{a} = [x + {n} for x in range({m}) if x % 2]",
    "{a} = {{x: y for x, y in zip('abc', range({n}))}}",
    "{a} = sum(x * {n} for x in range({m}))",
    (
        "try:\n    {a} = {n}\n    raise ValueError({n})\nexcept ValueError as error:\n"
        "    print(error)\n"
        "finally:\n    {b} = 'finally'"
    ),
    "{a} = {n}\nraise KeyError({m})\n{a} = {m}",
    "{a} = {n}; {b} = 1 / 0; {a} = {m}",
    "import sys\n{a} = {n}\nsys.exit({n})",
    "raise SystemExit",
    "exit({n})",
    "assert {a} == {n}, 'not {n}'",
    "import math\n{a} = math.isqrt({n})",
    "import math as {a}",
    "from collections import *",
    "from itertools import chain, islice as {a}",
    "{a} = OrderedDict(x={n})",
    (
        "from functools import lru_cache\n@lru_cache\ndef f_{a}(x={n}):\n    print('computed')\n"
        "    return x"
    ),
    (
        "def wrap(f):\n    def inner(*args):\n        print('called', f.__name__)\n"
        "        return f(*args)\n    return inner"
    ),
    "@wrap\ndef f_{a}(x={n}): return x + {m}",
    "def gen_{a}(n={n}):\n    for x in range(n):\n        yield x\n    return {m}",
    "{b} = list(gen_{a}())",
    "{a} = gen_{b}()",
    "print(next({a}))",
    "for {a} in range({n}):\n    if {a} == {m}: break\nelse:\n    print('whole')",
    "while ({a} := {n}) < {m}:\n    print('less')\n    break",
    (
        "match [{n}, {a}]:\n    case [{m}, _]: print('m')\n"
        "    case [_, int() as {b}]: print('int')\n"
        "    case _: print('other')"
    ),
    "{a}: int = {n}",
    "{a}: nobody",
    "def f_{a}(x: 'int' = {n}) -> str: return str(x)",
    "print(sorted(f_{a}.__annotations__))",
    "from __future__ import annotations",
    "def f_{a}(x: undefined_name = {n}): return x",
    "async def co_{a}():\n    return {n}",
    "import asyncio\n{b} = asyncio.run(co_{a}())",
    "{a} = __name__",
    "import __main__\n{a} = getattr(__main__, '{b}', None) is globals().get('{b}')",
    "__main__.{a} = {n}",
    "globals()['{a}'] = {n}",
    "{a} = sorted(name for name in globals() if name in ('a', 'b', 'c'))",
    "exec('{a} = {n}')",
    "{a} = eval('{n} + {m}')",
    "with open(__file__) as {a}: pass",
    "def f_{a}(n={n}):\n    return f_{a}(n - 1) if n else missing",
    "{a} = 'snow\\u2603' + 'ä'",
    "größe_{a} = {n}",
    "print('日本', {a})",
    "{a} = '''line one\n  line {n}\nline three'''",
    "{a} = (\n    {n} +\n    {m}\n)",
    "{a} = {n} if {b} else \\\n    {m}",
    "# only a comment {n}",
    "",
    "'a docstring {n}'",
    "class Dot:\n    def __getattr__(self, name): return name * {n}\n{a} = Dot().x",
    "lambda: {a}",
    "type Alias_{a} = int",
    "{a} = {n}\n  {b} = {m}",
    "if {a}:\nprint({n})",
    "def broken_{a}(:\n    pass",
    "{a} = 'unclosed",
    "{a} = [{n}, {m}",
    "return {n}",
    "await co_{a}()",
    "yield {n}",
    "{a} = f'{{{b}}} and {{{n}:>4}}'",
    "{a} = {{*'abc'}} - {{'a'}}",
    (
        "try:\n    raise ExceptionGroup('g', [ValueError({n})])\nexcept* ValueError as {a}:\n"
        "    print('group')"
    ),
    "class Bad_{a}:\n    def __repr__(self): raise OSError({n})\n{a} = Bad_{a}()",
    "print('x' * {n});print('y')",
    "if True: {a} = {n}; print({a})",
    "\n\n   \n{a} = {n}",
    "{a} = {n}\r\n{b} = {m}\r\n",
]
"""Some end well only where the cells before have defined what they use, which is the point."""

LAST = [
    "{a}",
    "{a}, {b}",
    "f_{a}()",
    "f_{a}({n})",
    "{n} + {m}",
    "[{a}, {n}, None, True, 1.5]",
    "{{'k': {a}}}",
    "C_{a}()",
    "C_{a}().get()",
    "(\n    {a}\n)",
    "'''a\nb''' * 2",
    "print({n})",
    "({b} := {n})",
    "f'{{{a}}}'",
    "{a} ; {n}",
    "{a} # the last",
    "2 ** {n}{m}",
    "[x for x in range({n}) if x]",
    "{{1: 2}}",
    "__name__",
    "float('inf')",
    "'half \\ud800'",
    "lambda x: x",
    "...",
    "1 if {a} else 2",
    "sorted([{a}, {b}], key=str)",
]

REFERENCE = r"""
import ast, builtins, types
def leave(code=None):
    raise SystemExit(code)
builtins.exit = builtins.quit = leave
FUTURES = 0x1FE0000
class Plain:
    def __init__(self):
        self.module = types.ModuleType("__main__")
        sys.modules["__main__"] = self.module
        self.namespace = self.module.__dict__
        self.flags = 0
    def run(self, text, number):
        name = f"<cell {number}>"
        tree = ast.parse(text, name)
        # `compile` alone sees what the syntax tree does not show, such as a `return` outside.
        whole = compile(text, name, "exec", self.flags, True)
        self.flags |= whole.co_flags & FUTURES
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec", self.flags, True), self.namespace)
        if last is None:
            return None
        last = ast.Expression(last.value)
        return eval(compile(last, name, "eval", self.flags, True), self.namespace)
def begin():
    return Plain()
def value_of(value):
    def is_json(value):
        if isinstance(value, (list, tuple)):
            return all(map(is_json, value))
        if isinstance(value, dict):
            return all(isinstance(k, str) and is_json(v) for k, v in value.items())
        if isinstance(value, float):
            return value - value == 0
        if isinstance(value, bool) or value is None:
            return True
        if isinstance(value, int):
            return -(1 << 63) <= value < 1 << 64
        return isinstance(value, str) and not any("\ud800" <= c < "\ue000" for c in value)
    shown = value if is_json(value) else repr(value)
    return json.loads(json.dumps(shown))
def cell(session, text, number):
    try:
        return ["value", value_of(session.run(text, number))]
    except SystemExit as error:
        code = error.code
        status = code & 255 if isinstance(code, int) else 0 if code is None else 1
        return ["value", None] if status == 0 else ["left", status]
    except BaseException as error:
        return ["raised", type(error).__name__]
"""

SESSION = r"""
driver = {"__name__": "driver"}
exec(compile(asked["driver"], "<driver>", "exec"), driver)
inner = {"__name__": "session_driver"}
exec(compile(asked["session_driver"], "<session_driver>", "exec"), inner)
def begin():
    return inner["Interpreter"](driver, 0, 1, 1 << 20)
def cell(session, text, number):
    status, frame = session.run(f"<cell {number}>", text)
    tag, said = frame[:1], frame[1:]
    if tag == b"V":
        return ["value", json.loads(said)]
    if tag == b"E":
        return ["raised", said.decode().partition(":")[0].rpartition(".")[2]]
    return ["left", status] if tag == b"X" else ["value", None]
"""

RUN = r"""
import io, json, sys, types
asked = json.load(sys.stdin)
exec(asked["how"])
answer, errors = sys.stdout, sys.stderr
own = sys.modules["__main__"]
told = []
def shown(value, depth=0):
    if isinstance(value, (int, float, str, bool, type(None))):
        return repr(value)
    if isinstance(value, (set, frozenset)):
        return sorted(shown(item) for item in value)
    if isinstance(value, (list, tuple)) and depth < 4:
        return [type(value).__name__, *(shown(item, depth + 1) for item in value)]
    if isinstance(value, dict) and depth < 4:
        return [[shown(k, depth + 1), shown(v, depth + 1)] for k, v in value.items()]
    return type(value).__name__
for cells in asked["sequences"]:
    session = begin()
    outcomes = []
    for number, text in enumerate(cells, 1):
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        try:
            outcome = cell(session, text, number)
            outcomes.append([outcome, sys.stdout.getvalue()])
        finally:
            sys.stdout, sys.stderr = answer, errors
    variables = {n: shown(v) for n, v in session.namespace.items() if not n.startswith("__")}
    told.append([outcomes, variables])
    for fd in getattr(session, "streams", {}).values():
        import os
        os.close(fd)
    sys.modules["__main__"] = own
json.dump(told, answer)
"""


def draw(seed: int, count: int) -> list[list[str]]:
    """Sequences of cells."""
    chance = random.Random(seed)
    sequences: list[list[str]] = []
    for _ in range(count):
        cells: list[str] = []
        for _ in range(chance.randint(3, 8)):
            parts = chance.choices(STATEMENTS, k=chance.randint(0, 3))
            if chance.random() < 0.5:
                parts.append(chance.choice(LAST))
            names = {name: chance.choice("abc") for name in "ab"}
            numbers = {name: chance.randint(0, 9) for name in "nm"}
            cells.append("\n".join(parts).format(**names, **numbers))
        sequences.append(cells)
    return sequences


def run(how: str, sequences: list[list[str]]) -> list[Any]:
    """What comes of the sequences, one way."""
    package = resources.files("kowalski_executors")
    texts = {
        name: (package / f"{name}.py").read_text("utf-8") for name in ("driver", "session_driver")
    }
    done = subprocess.run(
        [sys.executable, "-S", "-c", RUN],
        input=json.dumps({"how": how, "sequences": sequences, **texts}),
        capture_output=True,
        text=True,
        timeout=100,
        env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
        cwd=Path("/"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def without_addresses(told: Any) -> str:
    """The same as text, without where objects lie in memory."""
    import re

    return re.sub(r"0x[0-9a-f]+", "0x", json.dumps(told, ensure_ascii=False))


@pytest.mark.parametrize("seed", range(BATCHES))
def test_a_session_of_cells_does_what_plain_python_does(seed: int) -> None:
    sequences = draw(seed, SEQUENCES // BATCHES)
    session, plain = run(SESSION, sequences), run(REFERENCE, sequences)
    assert len(session) == len(plain) == len(sequences)
    for cells, one, other in zip(sequences, session, plain, strict=True):
        assert without_addresses(one) == without_addresses(other), "\n----\n".join(cells)
    kinds = {outcome[0][0] for outcomes, _ in plain for outcome in outcomes}
    raised = {o[0][1] for outcomes, _ in plain for o in outcomes if o[0][0] == "raised"}
    assert kinds == {"value", "raised", "left"}
    assert {"NameError", "SyntaxError", "ZeroDivisionError", "KeyError", "TypeError"} <= raised
    values = [o for outcomes, _ in plain for o in outcomes if o[0][0] == "value"]
    assert len(values) > len(sequences)
