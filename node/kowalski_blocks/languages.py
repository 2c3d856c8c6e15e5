"""What an info string says about the language.

The first word behind a fence names the language by convention only, and writers add what their
renderer understands: a title, line numbers, braces, a file's name. `read_info` tells three cases
apart: a language is named (its canonical name), something else is said (plain text, a transcript,
a name that is not known: no program, and nothing to infer), or nothing is said.
"""

from __future__ import annotations

import functools
import re
from typing import Final

import msgspec

from kowalski_protocol.tasks import LANGUAGE_ALIASES

_MORE_ALIASES: Final = {
    "bat": "batch", "c#": "csharp", "c++": "cpp", "cc": "cpp", "cjs": "javascript",
    "cmd": "batch", "cs": "csharp", "cxx": "cpp", "docker": "dockerfile",
    "ecmascript": "javascript", "ex": "elixir", "f#": "fsharp", "golang": "go", "gql": "graphql",
    "hs": "haskell", "htm": "html", "ipython": "python", "ipython3": "python", "jl": "julia",
    "ksh": "bash", "kt": "kotlin", "kts": "kotlin", "make": "makefile", "md": "markdown",
    "mjs": "javascript", "ml": "ocaml", "node.js": "javascript", "nodejs": "javascript",
    "objc": "objective-c", "objectivec": "objective-c", "patch": "diff", "pl": "perl",
    "postgres": "sql", "postgresql": "sql", "ps1": "powershell", "pwsh": "powershell",
    "pyw": "python", "rb": "ruby", "rustlang": "rust", "shell": "bash", "shellscript": "bash",
    "sqlite": "sql", "tex": "latex", "ts": "typescript", "yml": "yaml",
}  # fmt: skip

ALIASES: Final[dict[str, str]] = {**_MORE_ALIASES, **LANGUAGE_ALIASES}
"""Other names, in lower case, and the canonical one: those that tasks know, and more."""

LANGUAGES: Final = frozenset(
    {
        "ada", "apl", "asm", "awk", "clojure", "c", "cmake", "cobol", "css", "csv", "cuda", "d",
        "dart", "elm", "erlang", "fortran", "groovy", "hcl", "ini", "java", "json", "json5",
        "jsonc", "jsonl", "jsx", "lean", "less", "lisp", "lua", "matlab", "mermaid", "nim", "nix",
        "octave", "pascal", "php", "prolog", "protobuf", "r", "racket", "raku", "sas", "sass",
        "scala", "scheme", "scss", "solidity", "svelte", "svg", "swift", "tcl", "terraform",
        "toml", "tsx", "vb", "verilog", "vhdl", "vue", "wasm", "xml", "zig",
    }
    | set(ALIASES.values())
)  # fmt: skip
"""Canonical names; a word that is neither here nor an alias names no language."""

TRANSCRIPTS: Final = frozenset(
    {
        "bash-session", "console", "doctest", "irb", "pycon", "python-console", "python-repl",
        "sh-session", "shell-session", "shellsession", "terminal", "zsh-session",
    }
)  # fmt: skip
"""What a person typed and what was answered: no program, so no language."""

_UNTAGGED: Final = frozenset({"", "code", "snippet", "source"})
_DIRECTIVES: Final = frozenset({"code", "code-block", "code-cell", "sourcecode"})
_PYTHON: Final = re.compile(r"(?:python|py|cpython)-?3(?:\.[0-9]{1,3}){0,2}")
_NAME: Final = re.compile(r"[^\s,;{}:=\"'()<>|]+")
_ATTRIBUTE: Final = re.compile(r"[\w-]+\s*=")
_SHEBANG: Final = re.compile(
    r"#!\s*(?:/\S*/)?(?:env\s+(?:-S\s+)?)?([A-Za-z]+)([0-9.]*)((?:\s+-\S+)*)[ \t]*"
)
_PROMPT: Final = re.compile(r"(?:[ \t]*+(?:#[^\n]*+)?\n)*+[ \t]*+(\$|>>>) ")
_INTERPRETERS: Final = {"bash", "sh", "zsh", "dash", "ksh", "python", "node", "nodejs"}


class Said(msgspec.Struct, frozen=True):
    """What an info string says."""

    language: str | None
    is_untagged: bool
    """Whether nothing is said at all, so that the language may be inferred."""


def canonical(word: str) -> str | None:
    """The canonical name of the language that one word names; None where it names none.

    Python 2 is none: its programs do not run where Python's do.
    """
    name = word.lower()
    if _PYTHON.fullmatch(name):
        return "python"
    name = ALIASES.get(name, name)
    return name if name in LANGUAGES else None


def _word_to_language(word: str) -> str | None:
    word = word.lstrip(".")
    for prefix in ("language-", "lang-"):
        word = word.removeprefix(prefix)
    named = canonical(word)
    if named is None and "." in word:
        # A file's name: what stands behind its last dot is a language's name more often than not.
        named = canonical(word.rpartition(".")[2])
    return named


@functools.lru_cache(maxsize=256)
def read_info(info: str) -> Said:
    """What an info string says: `python title="x"`, `{.python}`, `js{1,3}`, `python:app.py`."""
    rest = info.strip().lstrip("{").lstrip()
    first = _NAME.match(rest)
    if first is not None and first[0].lower() in _DIRECTIVES and info.lstrip().startswith("{"):
        rest = rest[first.end() :].lstrip("} \t")
        first = _NAME.match(rest)
    if first is None or _ATTRIBUTE.match(rest) is not None:
        return Said(None, is_untagged=_says_nothing(info))
    word = first[0]
    if word.lower() in _UNTAGGED:
        return Said(None, is_untagged=True)
    return Said(_word_to_language(word), is_untagged=False)


def _says_nothing(info: str) -> bool:
    """Whether an info string without a language's name is empty or holds attributes alone."""
    inner = info.strip().strip("{}").strip()
    return not inner or _ATTRIBUTE.match(inner) is not None


def shebang_language(code: str) -> str | None:
    """The language that the code's first line names as `#!/usr/bin/env python3` does."""
    if not code.startswith("#!"):
        return None
    line = code.partition("\n")[0].rstrip("\r")
    said = _SHEBANG.fullmatch(line[:200])
    if said is None or said[1] not in _INTERPRETERS or (said[1] == "python" and said[2] == "2"):
        return None
    return "bash" if said[1] == "dash" else canonical(said[1])


def is_transcript(code: str, language: str | None) -> bool:
    """Whether code begins, behind comments, as what was typed at a prompt: `$ ` or `>>> `."""
    prompt = _PROMPT.match(code)
    if prompt is None:
        return False
    return language in (None, "bash" if prompt[1] == "$" else "python")
