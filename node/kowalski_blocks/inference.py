"""Which language a block is in that does not say so.

A wrong guess is run and fails, or does something else than was meant; no guess is asked about. So
each language wants evidence that others do not share, and what more than one could claim stays
None. Python is judged by its own parser; the others by patterns whose matches are counted over the
code's first lines only. JSON is what a JSON parser takes, as an object or a list.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from .budget import Budget
from .python_source import looks_like_program, parse

_JUDGED_CHARACTERS_MAX: Final = 4096
"""Enough to see what a file is, and little enough for ten thousand blocks."""


def _patterns(*sources: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(source, re.MULTILINE) for source in sources)


_OTHERS: Final = re.compile(
    r"""^\#include\b|^package\ \w+$|^[ \t]*func\ |^[ \t]*fun\ \w+\(|\bConsole\.Write|^using\ [\w.]+;
    |<\?php|^[ \t]*\$\w+\s?=|^[ \t]*(?:def|end|elsif|module)\b|\bstd::c(?:out|in)
    |^[ \t]*namespace\ \w|^[ \t]*(?:val|var)\ \w+\s?:|^[ \t]*(?:interface|type|enum)\ \w+\s?[={]
    |:\ (?:string|number|void)\b|^[ \t]*(?:int|float|double|char)\ \w+\s?[=\[;]
    |^[ \t]*object\ \w+|^[ \t]*local\ \w+\s?=""",
    re.MULTILINE | re.VERBOSE,
)
"""Marks of languages that are not told apart here, and that share some with those that are."""

_JAVASCRIPT_STRONG: Final = _patterns(
    r"\bconsole\.(?:log|error|warn)\(",
    r"\brequire\(['\"][\w./@:-]+['\"]\)",
    r"^[ \t]*(?:async )?function\*? ?\w*\([\w\s,={}\[\]]{0,200}\) ?\{",
    r"^import [\w{}*,\s]{1,200} from ['\"]",
    r"^export (?:default|const|function|class) ",
    r"\bmodule\.exports\b",
    r"\bdocument\.(?:getElementById|querySelector|createElement|addEventListener)\(",
)
_JAVASCRIPT_WEAK: Final = _patterns(
    r"^[ \t]*const \w+ = ",
    r"=> ?[{(\w]",
    r"===|!==",
    r"\bawait fetch\(",
    r"^[ \t]*let \w+ = [^;\n]*;$",
)
_RUST: Final = _patterns(
    r"^[ \t]*(?:pub )?fn \w+[<(]",
    r"\blet mut \w",
    r"\b(?:println|vec|format|panic|assert_eq)!\s?[\[(]",
    r"^[ \t]*impl\b[^\n{]{0,200}\{",
    r"^[ \t]*use (?:std|crate|self)::",
    r"&mut \w",
    r"-> (?:Result|Option)<",
    r"#\[derive\(",
)
_JAVA: Final = _patterns(
    r"\bpublic static void main\s?\(\s?String",
    r"\bSystem\.(?:out|err)\.print",
    r"^import (?:static )?javax?\.[\w.]+\*?;",
    r"^[ \t]*public (?:final |abstract )?class \w+",
    r"^[ \t]*@Override\b",
)

_COMMAND: Final = re.compile(
    r"""(?:sudo\ )?(?:
      (?:apt|apt-get|dnf|yum|brew|pip3?|npm|pnpm|yarn|cargo|conda|uv|gem|rustup|snap|poetry)
        \ (?:install|add|update|upgrade|remove|run|init|build|test|ci|create|sync|list|freeze
            |uninstall|new|pip|venv|lock)\b
      |git\ (?:clone|add|commit|push|pull|checkout|switch|branch|status|log|diff|init|merge|rebase
            |reset|fetch|remote|stash|tag|config)\b
      |(?:cd|mkdir|rm|cp|mv|ls|chmod|chown|touch|cat|grep|sed|awk|find|tar|ssh|scp|rsync|curl|wget
         |docker|kubectl|systemctl|source|head|tail|python3?|node|bash|sh|make|unzip|du|df|ps|kill)
        (?:\ \S+)*?\ ["']?(?:-{1,2}\w|[./~$]|\w[\w-]*[./=:]\S)
      |(?:export|declare)\ [A-Za-z_]\w*=|set\ -[a-z]+|(?:echo|printf)\ ["'$]
      |(?:ls|pwd|whoami|df|clear)$
    )""",
    re.VERBOSE,
)
_SHELL_KEYWORD: Final = re.compile(
    r"(?:if|elif|while|until) (?:\[|!|\w+ )[^\n]*(?:; ?(?:then|do))?$|for \w+ in [^\n]*"
    r"|(?:then|fi|do|done|esac|else)$|\w+\(\) ?\{$|\}$|[A-Za-z_]\w*=\S*$|[A-Za-z_]\w*=[\"'$(].*"
)
_SHELL_BLOCK: Final = re.compile(
    r"(?:if|while|until) \[{1,2} |for \w+ in [^\n]*; ?do$|\w+\(\) ?\{$"
)


def _count(patterns: tuple[re.Pattern[str], ...], code: str) -> int:
    return sum(pattern.search(code) is not None for pattern in patterns)


def _is_json(code: str) -> bool:
    text = code.strip()
    if text[:1] + text[-1:] not in ("{}", "[]"):
        return False
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True


def _may_be_command(line: str) -> bool:
    """Whether a line may stand between commands: it begins as one, and ends as no sentence does."""
    if line.endswith((";", ".", ":", ",")) and line != ";;":
        return False
    return bool(_SHELL_KEYWORD.match(line) or re.match(r"[a-z./$\[(}-]", line))


def _is_bash(code: str) -> bool:
    """Whether every line could be a command, and half of them can be little else."""
    lines = [line.strip() for line in code.replace("\\\n", " ").splitlines()[:100]]
    lines = [line for line in lines if line and not line.startswith("#")]
    certain = 0
    for line in lines:
        if _COMMAND.match(line) or _SHELL_BLOCK.match(line):
            certain += 1
        elif not _may_be_command(line):
            return False
    return 0 < len(lines) <= 2 * certain


def _is_javascript(code: str) -> bool:
    return 2 * _count(_JAVASCRIPT_STRONG, code) + _count(_JAVASCRIPT_WEAK, code) >= 2


def infer_language(code: str, budget: Budget) -> str | None:
    """The language that the code is in beyond doubt, as a canonical name; None otherwise."""
    start = code.lstrip()[:2]
    if not start or start[0] == "<":
        # Nothing, or markup, which may hold any language.
        return None
    if _is_json(code):
        return "json"
    tree = parse(code, budget)
    if tree is not None and looks_like_program(tree):
        return "python"
    head = code[:_JUDGED_CHARACTERS_MAX]
    claims: list[str] = []
    if _count(_RUST, head) >= 2:
        claims.append("rust")
    if _count(_JAVA, head) and not re.search(r"^[ \t]*(?:fun|val|object|def) ", head, re.MULTILINE):
        claims.append("java")
    if not _OTHERS.search(head):
        if _is_javascript(head):
            claims.append("javascript")
        if _is_bash(head):
            claims.append("bash")
    return claims[0] if len(claims) == 1 else None
