"""The house style, executed.

Each rule is a function from a file's text to the lines that break it, and one test runs it over
every file of the project that git does not ignore. A second test hands each rule a text that
breaks it and one that does not, so a rule that has gone blind is noticed. There is no list of
exceptions: a rule that is wrong is changed here, for all files.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("protocol", "ledger", "node", "simulations")
LINES_MAX = 500

Rule = Callable[[str], list[int]]


def project_files() -> list[Path]:
    """Every file of the project, as git sees it, or as the disk does where there is no git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        names = [Path(name) for name in listed.decode().split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        # An unpacked release: what is hidden or built there is the tools'.
        names = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
        built = {"build", "dist", "htmlcov"}
        names = [n for n in names if not n.parts[0].startswith(".") and n.parts[0] not in built]
    return sorted(name for name in names if (ROOT / name).is_file())


def read(name: Path) -> str | None:
    """The text of a file, or None where it is not text."""
    try:
        return (ROOT / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def assert_kept(rule: Rule, names: list[Path]) -> None:
    """Fails with every place, as `file:line`, where one of the files breaks the rule."""
    found: list[str] = []
    for name in names:
        text = read(name)
        if text is not None:
            found += [f"{name}:{line}" for line in rule(text)]
    if found:
        why = (rule.__doc__ or rule.__name__).splitlines()[0]
        pytest.fail("\n".join([why, *found]), pytrace=False)


FILES = project_files()
PYTHON = [name for name in FILES if name.suffix == ".py"]
SHIPPED = [name for name in PYTHON if name.parts[0] in PACKAGES]
TESTS = [name for name in PYTHON if name.parts[0] == "tests"]


# ------------------------------------------------------------------------------------- rules


def too_long(text: str) -> list[int]:
    """A file of more than `LINES_MAX` lines answers two questions."""
    return [LINES_MAX + 1] if text.count("\n") > LINES_MAX else []


def without_theory(text: str) -> list[int]:
    """A module opens with a docstring that says what it is; an empty one has nothing to say."""
    return [1] if text.strip() and not ast.get_docstring(ast.parse(text)) else []


def comments(text: str) -> dict[int, str]:
    """The comment on each line that has one."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


def explained(text: str, line: int, mark: str) -> bool:
    """Whether the line's comment is `# mark: why`, with a why."""
    comment = comments(text).get(line, "")
    return re.search(rf"# {mark}: *\w+", comment) is not None


def _catches_all(caught: ast.expr | None) -> bool:
    if caught is None:
        return True
    nodes = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(isinstance(n, ast.Name) and n.id in ("Exception", "BaseException") for n in nodes)


def unguarded_excepts(text: str) -> list[int]:
    """Catching everything hides our own mistakes; where it must be, `# guard:` says why."""
    lines: list[int] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler) and _catches_all(node.type):
            lines.append(node.lineno)
        elif isinstance(node, ast.Call) and _called(node) == "suppress":
            lines += [node.lineno for argument in node.args if _catches_all(argument)]
    return [line for line in lines if not explained(text, line, "guard")]


def _called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _on_mock_time(tree: ast.AST) -> set[ast.AST]:
    """All that stands in a test whose clock jumps: its sleeps cost nothing and are exact."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef)
        and {"autojump_clock", "mock_clock"} & {argument.arg for argument in node.args.args}
        for inner in ast.walk(node)
    }


def sleeps(text: str) -> list[int]:
    """A test waits for something, not for a while: on an event, a predicate or a mock clock.

    Between two looks at a real process a pause is right; `# poll:` says what is looked at.
    """
    tree = ast.parse(text)
    virtual = _on_mock_time(tree)
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _called(node) in ("sleep", "sleep_until")
        if node not in virtual
    ]
    return [line for line in lines if not explained(text, line, "poll")]


# Written in pieces, so that this file does not break its own rule.
FORBIDDEN_WORDS = re.compile(
    "|".join(
        (
            re.escape("pypi" + ".org"),
            re.escape("python" + "hosted"),
            re.escape("registry." + "npmjs"),
            re.escape("deb." + "debian.org"),
            re.escape("archive." + "ubuntu.com"),
            r"/wor" + r"k/(main|shared|steering|\.library)\b",
            "/fa" + "rm/",
            "sub" + "agent",
            r"\bC" + r"EO\b",
            # Where this very checkout stands.
            re.escape(str(ROOT)) + r"\b",
        )
    )
)


def forbidden_words(text: str) -> list[int]:
    """No package server and no path of a machine: the project works on anybody's."""
    lines = enumerate(text.splitlines(), start=1)
    return [number for number, line in lines if FORBIDDEN_WORDS.search(line)]


UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|raise NotImpl" + r"ementedError")


def unfinished(text: str) -> list[int]:
    """What is not done is in the issues, not in the code."""
    lines = enumerate(text.splitlines(), start=1)
    return [number for number, line in lines if UNFINISHED.search(line)]


VAGUE_NAMES = {"util", "utils", "helper", "helpers", "manager", "managers", "common", "misc"}


def vague(name: Path) -> bool:
    """A name that says nothing about what is inside collects whatever comes."""
    return any(part in VAGUE_NAMES for part in name.with_suffix("").parts)


# ---------------------------------------------------------------------------------- the tests


def test_there_is_something_to_check() -> None:
    """Otherwise every other test here would pass on nothing."""
    tops = {name.parts[0] for name in SHIPPED}
    assert {"protocol", "ledger", "node"} <= tops
    assert len(TESTS) > 2


def sources() -> Iterator[Path]:
    for name in FILES:
        if name.suffix in (".py", ".sh", ".js", ".css", ".html") and name.parts[0] != "tests":
            yield name


def test_no_source_file_is_longer_than_500_lines() -> None:
    assert_kept(too_long, list(sources()))


def test_every_module_opens_with_its_theory() -> None:
    assert_kept(without_theory, PYTHON)


def test_nothing_catches_everything_without_saying_why() -> None:
    assert_kept(unguarded_excepts, PYTHON)


def test_no_test_sleeps() -> None:
    assert_kept(sleeps, TESTS)


def test_no_package_server_and_no_machine_path_is_named() -> None:
    assert_kept(forbidden_words, FILES)


def test_nothing_is_marked_as_unfinished() -> None:
    assert_kept(unfinished, [name for name in FILES if name.suffix != ".lock"])


def test_no_module_has_a_vague_name() -> None:
    assert [str(name) for name in PYTHON if vague(name)] == []


def test_every_package_tells_type_checkers_that_it_is_typed() -> None:
    packages = {name.parent for name in SHIPPED if name.name == "__init__.py"}
    packages = {p for p in packages if p.parts[0] != "simulations"}  # not shipped
    top = {package for package in packages if package.parent not in packages}
    assert [str(p) for p in sorted(top) if not (ROOT / p / "py.typed").exists()] == []


EXCEPT = "try:\n    pass\nexcept {}\n    pass\n"

PLANTED: list[tuple[Rule, str, str]] = [
    (too_long, "x = 1\n" * 501, "x = 1\n" * 500),
    (without_theory, "import re\n", '"""What it is."""\n'),
    (without_theory, "# only a comment\n", ""),
    (unguarded_excepts, EXCEPT.format("Exception:"), EXCEPT.format("OSError:")),
    (unguarded_excepts, EXCEPT.format(":"), EXCEPT.format("Exception:  # guard: a plugin's")),
    (
        unguarded_excepts,
        EXCEPT.format("(OSError, BaseException):  # guard:"),
        EXCEPT.format("(OSError, ValueError):"),
    ),
    (unguarded_excepts, "suppress(OSError, Exception)\n", "suppress(OSError)\n"),
    (sleeps, "time.sleep(1)\n", "time.sleep(1)  # poll: the node answers\n"),
    (sleeps, "await trio.sleep(0)\n", "await trio.sleep_forever()\n"),
    (sleeps, "async def t(x):\n    await sleep(1)\n", "async def t(mock_clock):\n    sleep(1)\n"),
    (sleeps, "sleep(2)\n", 'CODE = "time.sleep(60)"\n'),
    (forbidden_words, "see https://pypi" + ".org/p\n", "see the package index\n"),
    (forbidden_words, f"cd {ROOT}/docs\n", "cd docs\n"),
    (unfinished, "x = 1  # TO" + "DO: more\n", "x = 1  # done\n"),
]


@pytest.mark.parametrize(("rule", "bad", "good"), PLANTED)
def test_a_planted_breach_is_found_and_a_clean_text_is_not(rule: Rule, bad: str, good: str) -> None:
    assert rule(bad) != []
    assert rule(good) == []


def test_a_vague_name_is_found() -> None:
    assert vague(Path("node/kowalski_node/utils.py"))
    assert vague(Path("node/common/clock.py"))
    assert not vague(Path("node/kowalski_node/commonality.py"))
