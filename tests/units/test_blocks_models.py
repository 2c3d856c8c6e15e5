"""What models answer, awkward as it is, and the code that a person sees in it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from kowalski_blocks import CodeBlock, find_blocks
from kowalski_blocks.languages import ALIASES
from kowalski_protocol.tasks import LANGUAGE_ALIASES

ROOT = Path(__file__).resolve().parents[2]

Seen = tuple[str, str | None, str]
"""A block's code, its language, and what else there is to say: kind, `inferred`, `open`."""


def seen(block: CodeBlock) -> Seen:
    marks = [] if block.kind == "fenced" else [block.kind]
    marks += ["inferred"] * block.is_inferred + ["open"] * (not block.is_closed)
    return block.code, block.language, " ".join(marks)


DOCSTRING = '''\
def f():
    """Like this:

```python
f()
```

    And so on.
    """
    return 1
'''
WRITES_MARKDOWN = """\
text = '''
# Title

```
nothing
```

```bash
ls
```
'''
print(text)
"""
PROGRAM = "import math\n\nprint(math.pi)\n"

CASES: list[tuple[str, str, list[Seen]]] = [
    # ------------------------------------------------------------------ fences as they should be
    ("prose around", "Sure!\n\n```python\nx = 1\n```\n\nDone.", [("x = 1\n", "python", "")]),
    ("no line end at the end", "```python\nx = 1\n```", [("x = 1\n", "python", "")]),
    ("right behind a paragraph", "So:\n```python\nx = 1\n```", [("x = 1\n", "python", "")]),
    ("tildes", "~~~python\nx = 1\n~~~", [("x = 1\n", "python", "")]),
    ("four backticks", "````python\nx = 1\n````", [("x = 1\n", "python", "")]),
    ("a longer close", "```python\nx = 1\n``````", [("x = 1\n", "python", "")]),
    ("blanks behind both fences", "```python \t\nx = 1\n``` \t\n", [("x = 1\n", "python", "")]),
    (
        "two blocks",
        "```python\na\n```\nthen\n```bash\nls\n```",
        [("a\n", "python", ""), ("ls\n", "bash", "")],
    ),
    (
        "two blocks without a line between",
        "```python\na\n```\n```js\nb\n```",
        [("a\n", "python", ""), ("b\n", "javascript", "")],
    ),
    ("an empty block", "```python\n```\nNothing.", [("", "python", "")]),
    ("an empty block without a language", "```\n```", [("", None, "")]),
    ("a block of blank lines", "```python\n\n\n```", [("\n\n", "python", "")]),
    ("blank lines are kept", "```python\n\nx\n\n\ny\n\n```", [("\nx\n\n\ny\n\n", "python", "")]),
    ("CRLF", "Hi\r\n\r\n```python\r\nx = 1\r\n```\r\n", [("x = 1\n", "python", "")]),
    ("carriage returns alone", "```python\rx = 1\r```\r", [("x = 1\n", "python", "")]),
    (
        "tabs in a Makefile",
        "```makefile\nall:\n\techo hi\n```",
        [("all:\n\techo hi\n", "makefile", "")],
    ),
    (
        "line separators of Unicode are characters",
        "```python\ns = 'a\u2028b\x0cc'\n```",
        [("s = 'a\u2028b\x0cc'\n", "python", "")],
    ),
    # ------------------------------------------------------------------- not closed
    (
        "cut short",
        "```python\nfor x in y:\n    pri",
        [("for x in y:\n    pri\n", "python", "open")],
    ),
    ("cut right behind the fence", "Here:\n\n```python", [("", "python", "open")]),
    (
        "cut in the second block",
        "```python\na\n```\n```python\nb",
        [("a\n", "python", ""), ("b\n", "python", "open")],
    ),
    ("closed by too few", "````python\nx\n```\n", [("x\n```\n", "python", "open")]),
    ("closed by the other kind", "```python\nx\n~~~\n", [("x\n~~~\n", "python", "open")]),
    ("closed with a word", "```python\nx\n``` end\n", [("x\n``` end\n", "python", "open")]),
    # ------------------------------------------------------------------------- fences in fences
    (
        "a longer fence holds a shorter one",
        "````markdown\n```python\nx\n```\n````",
        [("```python\nx\n```\n", "markdown", "")],
    ),
    (
        "tildes hold backticks",
        "~~~markdown\n```python\nx\n```\n~~~",
        [("```python\nx\n```\n", "markdown", "")],
    ),
    ("a fence in a docstring", f"```python\n{DOCSTRING}```\nEnd", [(DOCSTRING, "python", "")]),
    (
        "a program that writes Markdown",
        f"```python\n{WRITES_MARKDOWN}```\nEnd",
        [(WRITES_MARKDOWN, "python", "")],
    ),
    (
        "a program that writes Markdown, untagged",
        f"```\n{WRITES_MARKDOWN}```\nEnd",
        [(WRITES_MARKDOWN, "python", "inferred")],
    ),
    (
        "a fence in a docstring, and another block behind",
        f"```python\n{DOCSTRING}```\n\n```bash\nls\n```",
        [(DOCSTRING, "python", ""), ("ls\n", "bash", "")],
    ),
    (
        "a string that nothing ends takes no other block in",
        '```python\nx = """\n```\n\nText.\n\n```python\ny = """doc"""\n```',
        [('x = """\n', "python", ""), ('y = """doc"""\n', "python", "")],
    ),
    (
        "three quotes in a comment open nothing",
        "```python\n# not \"\"\" a string\nx = '\"\"\"'\n```\n```python\ny\n```",
        [("# not \"\"\" a string\nx = '\"\"\"'\n", "python", ""), ("y\n", "python", "")],
    ),
    (
        "another language does not wait",
        '```text\n"""\n```\n"""\n```\n',
        [('"""\n', None, ""), ("", None, "open")],
    ),
    (
        "quotes alone are no program",
        "```\n'''\n```\n'''\n```\n",
        [("'''\n", None, ""), ("", None, "open")],
    ),
    (
        "a docstring's fence in a list",
        "1. So:\n\n   ```python\n   s = '''\n   ```\n   '''\n   ```\n\n2. Done.",
        [("s = '''\n```\n'''\n", "python", "")],
    ),
    # ---------------------------------------------------------------------- lists, quotes, indents
    (
        "in a numbered list",
        "1. Install:\n   ```bash\n   ls\n   ```\n2. Run:\n   ```python\n   x\n     y\n   ```\n",
        [("ls\n", "bash", ""), ("x\n  y\n", "python", "")],
    ),
    (
        "in a list in a list",
        "- a\n  - b\n\n    ```python\n    if x:\n        y\n    ```\n",
        [("if x:\n    y\n", "python", "")],
    ),
    ("on the item's own line", "- ```python\n  x\n  ```\n", [("x\n", "python", "")]),
    ("in a quote", "> Try:\n>\n> ```python\n> x\n>   y\n> ```\n", [("x\n  y\n", "python", "")]),
    ("in a quote in a list", "- > ```python\n  > x\n  > ```", [("x\n", "python", "")]),
    ("a quote that ends", "> ```python\n> x\n\nText", [("x\n", "python", "open")]),
    (
        "in a list by a tab",
        "-\tSo:\n\n\t```python\n\tif x:\n\t\ty\n\t```",
        [("if x:\n\ty\n", "python", "")],
    ),
    (
        "indented as a whole by four",
        "Here:\n\n    ```python\n    if x:\n        y\n    ```\n",
        [("if x:\n    y\n", "python", "")],
    ),
    (
        "indented as a whole, behind a paragraph",
        "Here:\n     ```python\n     x\n     ```\nEnd",
        [("x\n", "python", "")],
    ),
    ("indented as a whole by a tab", "\t```python\n\tx\n\t```\n", [("x\n", "python", "")]),
    (
        "indented as a whole and never closed",
        "    ```python\n    x\n",
        [("```python\nx\n", None, "indented")],
    ),
    (
        "content that lacks the list's indentation",
        "1. Run:\n\n   ```python\nif x:\n    y\n   ```\n\n2. End",
        [("if x:\n    y\n", "python", "")],
    ),
    (
        "fence on the item's line, the rest at the margin",
        "1. ```python\nx\n```\n2. ```python\ny\n```\n",
        [("x\n", "python", ""), ("y\n", "python", "")],
    ),
    (
        "fences indented by two, the content not",
        "  ```python\ndef f():\n  return 1\n  ```\n",
        [("def f():\n  return 1\n", "python", "")],
    ),
    (
        "the content indented, the fences not",
        "```python\n    x = 1\n    if x:\n        y = 2\n```\n",
        [("x = 1\nif x:\n    y = 2\n", "python", "")],
    ),
    ("indented code", "So:\n\n    some text\n\nEnd", [("some text\n", None, "indented")]),
    (
        "indented code that is Python",
        "So:\n\n    for x in range(3):\n\n        print(x)\n\nEnd",
        [("for x in range(3):\n\n    print(x)\n", "python", "indented inferred")],
    ),
    ("a paragraph's indented line is text", "So:\n    print(1)\n", []),
    ("a list's fence that is cut short", "- ```\n  a\nText\n\n```\nb\n```\n",
     [("a\n", None, "open"), ("b\n", None, "")]),
    ("a list's fence before another block", "- ```python\nText\n```js\nb\n```\n",
     [("", "python", "open"), ("b\n", "javascript", "")]),
    # ---------------------------------------------------------------------------------- around HTML
    ("behind a tag", "<answer>\n```python\nx\n```\n</answer>", [("x\n", "python", "")]),
    ("in a comment", "<!--\n```python\nx\n```\n-->\ntext", []),
    (
        "behind a comment",
        "<!-- note -->\n```python\nx\n```\n",
        [("x\n", "python", "")],
    ),
    ("behind a tag that nothing ends", "<script> is bad\n```js\nx\n```",
     [("x\n", "javascript", "")]),
    ("in <pre>", "<pre>\n```python\nx\n```\n</pre>\n", []),
    (
        "thoughts first",
        "<think>\nI could use ```x```.\n</think>\n```python\nx\n```",
        [("x\n", "python", "")],
    ),
    # --------------------------------------------------------------------------------- no language
    ("untagged Python", "```\nimport os\nprint(os.name)\n```",
     [("import os\nprint(os.name)\n", "python", "inferred")]),
    ("untagged, shebang", "```\n#!/bin/sh\nx\n```", [("#!/bin/sh\nx\n", "bash", "")]),
    ("untagged output", "```\n42\n```", [("42\n", None, "")]),
    ("untagged text", "```\nHello there, world.\n```", [("Hello there, world.\n", None, "")]),
    ("said to be text", "```text\nprint(1)\n```", [("print(1)\n", None, "")]),
    ("said to be output", "```output\nprint(1)\n```", [("print(1)\n", None, "")]),
    ("a language that nobody knows", "```blub\nprint(1)\n```", [("print(1)\n", None, "")]),
    ("a shell transcript", "```console\n$ ls\na\n```", [("$ ls\na\n", None, "")]),
    ("a transcript called bash", "```bash\n$ ls\na\n```", [("$ ls\na\n", None, "")]),
    ("a transcript without a name", "```\n$ pip install x\n```", [("$ pip install x\n", None, "")]),
    ("a Python session", "```python\n>>> 1\n1\n```", [(">>> 1\n1\n", None, "")]),
    ("only spans of code", "Use ```print(1)``` or `x`.", []),
    ("a one-line fence that is a span", "```python print(1)```", []),
    ("a transcript behind a comment", "```sh\n# a\n\n$ ls\n```", [("# a\n\n$ ls\n", None, "")]),
    # ----------------------------------------------------------------------------- raw programs
    ("a raw program", PROGRAM, [(PROGRAM, "python", "raw inferred")]),
    ("a raw program between blank lines", f"\n\n{PROGRAM}\n\n",
     [(PROGRAM, "python", "raw inferred")]),
    ("a raw program without its last line end", "print('hi')",
     [("print('hi')\n", "python", "raw inferred")]),
    ("a raw program with fences in a string", DOCSTRING, [(DOCSTRING, "python", "raw inferred")]),
    ("a raw program behind the fence's lost name", f"python\n{PROGRAM}",
     [(PROGRAM, "python", "raw inferred")]),
    ("a raw program with CRLF", PROGRAM.replace("\n", "\r\n"),
     [(PROGRAM, "python", "raw inferred")]),
    ("raw, by its shebang: python", "#!/usr/bin/env python3\nx\n",
     [("#!/usr/bin/env python3\nx\n", "python", "raw")]),
    ("raw, by its shebang: bash", "#!/bin/bash\nset -e\nls\n",
     [("#!/bin/bash\nset -e\nls\n", "bash", "raw")]),
    ("raw, by its shebang: node", "#!/usr/bin/env -S node --no-warnings\nf()\n",
     [("#!/usr/bin/env -S node --no-warnings\nf()\n", "javascript", "raw")]),
    ("a shebang line that is prose", "#!/bin/bash is the first line.\n", []),
    ("nothing", "", []),
    ("blank", " \n\t\n", []),
    ("one word", "Yes", []),
    ("a number", "42", []),
    ("a sentence", "The answer is 42.", []),
    ("a label", "Answer: 42", []),
    ("a list of names", "alpha, beta, gamma", []),
    ("words that parse", "import duty", []),
    ("a word before code", "Sure\nprint(1)", []),
    ("a lone assignment", "x = 5", []),
    ("JSON", '{"answer": 42}', []),
    ("Markdown that is all comments", "# Title\n\n# Another\n", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_the_code_in_an_answer_is_found(text: str, expected: list[Seen]) -> None:
    assert [seen(block) for block in find_blocks(text)] == expected


INFOS: list[tuple[str, str | None]] = [
    ("python", "python"), ("Python", "python"), ("PYTHON3", "python"), ("py", "python"),
    ("py3", "python"), ("python3.11", "python"), ("python-3.12", "python"), ("pyw", "python"),
    ("python2", None), ('python title="x.py"', "python"), ("python {linenos=1}", "python"),
    ("python{1,3-5}", "python"), ("{.python}", "python"), ("{.python .numberLines}", "python"),
    ("{python}", "python"), ("{ .python }", "python"), ("{code-cell} ipython3", "python"),
    ("{code-block} python", "python"), ("python:src/app.py", "python"), ("app.py", "python"),
    ("src/app.py", "python"), ("language-python", "python"), ("lang-js", "javascript"),
    ("js", "javascript"), ("node", "javascript"), ("nodejs", "javascript"), ("sh", "bash"),
    ("zsh", "bash"), ("shell", "bash"), ("rs", "rust"), ("rust,no_run", "rust"), ("java", "java"),
    ("javascript", "javascript"), ("ts", "typescript"), ("c++", "cpp"), ("C#", "csharp"),
    ("golang", "go"), ("yml", "yaml"), ("Dockerfile", "dockerfile"), ("json", "json"),
    ("console", None), ("shell-session", None), ("pycon", None), ("text", None), ("output", None),
    ("plaintext", None), ("diff", "diff"), ("{#id}", None), ("\u00fc", None), (".", None),
]  # fmt: skip


@pytest.mark.parametrize(("info", "language"), INFOS)
def test_the_info_string_says_the_language(info: str, language: str | None) -> None:
    [block] = find_blocks(f"~~~ {info} \nprint(1)\n~~~")
    assert (block.info, block.language, block.is_inferred) == (info, language, False)


@pytest.mark.parametrize("info", ["", "code", 'title="x"', "{linenos=1}", "{}"])
def test_an_info_string_that_says_nothing_leaves_room_for_inference(info: str) -> None:
    [block] = find_blocks(f"```{info}\nprint(1)\n```")
    assert (block.language, block.is_inferred) == ("python", True)


UNTAGGED: list[tuple[str, str | None]] = [
    ("def f(x):\n    return x\n", "python"),
    ("x: int = 5\n", "python"),
    ("import numpy as np\n", "python"),
    ("import mine\nmine.run()\n", "python"),
    ("total = sum(range(10))\ntotal\n", "python"),
    ("async def f():\n    await g()\n", "python"),
    ("x = 1\ny = 2\n", None),
    ("name = 'demo'\nversion = '1.0'\n", None),
    ("[tool.demo]\nname = 'x'\n", None),
    ("Name: str\nAge: int\n", None),
    ("ls - la\n", None),
    ("1 + 1\n", None),
    ("foo(1)\n", None),
    ("import os, print everything\n", None),
    ('{"a": [1, 2, null]}\n', "json"),
    ("[1, 2, 3]\n", "json"),
    ("{'a': 1}\n", None),
    ("pip install requests\n", "bash"),
    ("sudo apt-get update\nsudo apt-get install -y git\n", "bash"),
    ("cd /tmp\nmkdir -p x\n# now\nls -la | wc -l\n", "bash"),
    ("for f in *.txt; do\n  cat \"$f\"\ndone\n", "bash"),
    ("if [ -f x ]; then\n  echo \"yes\"\nfi\n", "bash"),
    ("git clone https://example.org/x.git\ncd x/y\n", "bash"),
    ("ls -la\nfoo\nbar\n", None),
    ("make sure that you save\n", None),
    ("find the file.\n", None),
    ("cat and dog\n", None),
    ("total 12\ndrwxr-xr-x 2 a a 4096 x\n", None),
    ("const x = 5;\nconsole.log(x);\n", "javascript"),
    ("function f(a, b) {\n  return a + b;\n}\n", "javascript"),
    ("const f = require('fs');\n", "javascript"),
    ("const add = (a, b) => a + b;\n", "javascript"),
    ("interface X {\n  a: string\n}\nconst x: X = f();\nconsole.log(x)\n", None),
    ("let x = 5\n", None),
    ("fn main() {\n    println!(\"hi\");\n}\n", "rust"),
    ("use std::io;\n\npub fn f() -> Result<(), io::Error> { Ok(()) }\n", "rust"),
    ("fn f() {}\n", None),
    ("public class Main {\n  public static void main(String[] args) {}\n}\n", "java"),
    ("System.out.println(1);\n", "java"),
    ("using System;\nclass X { static void Main() { Console.WriteLine(1); } }\n", None),
    ("#include <stdio.h>\nint main() { return 0; }\n", None),
    ("package main\n\nfunc main() { fmt.Println(1) }\n", None),
    ("<?php\n$x = 1;\n", None),
    ("<script>console.log(1)</script>\n", None),
    ("SELECT * FROM t;\n", None),
    ("Traceback (most recent call last):\n  File \"x\", line 1\n", None),
    ("#!/usr/bin/env node\nx\n", "javascript"),
    ("#!/usr/bin/perl\nprint 1;\n", None),
    ("src/\n  a.py\n  b.py\n", None),
]  # fmt: skip


@pytest.mark.parametrize(("code", "language"), UNTAGGED)
def test_an_untagged_block_gets_a_language_only_beyond_doubt(
    code: str, language: str | None
) -> None:
    [block] = find_blocks(f"Text\n\n~~~\n{code}~~~\n")
    assert (block.code, block.language) == (code, language)


SPANS: list[tuple[str, list[str]]] = [
    ("Use `x` and `y`.", ["x", "y"]),
    ("Use `` a ` b `` here", ["a ` b"]),
    ("Use ```print(1)``` here", ["print(1)"]),
    ("over `two\nlines` here", ["two lines"]),
    ("not `closed\n\nat all` here", []),
    ("escaped \\`x` and `y`", ["and"]),
    ("in a code `\\` span", ["\\"]),
    ("# A `heading`\n- an `item`\n> a `quote`", ["heading", "item", "quote"]),
    ("`` ` `` and `   `", ["`", "   "]),
    ("unequal ``a`", []),
    ("escaped \\`x`` and unequal", []),
]


@pytest.mark.parametrize(("text", "codes"), SPANS)
def test_spans_are_found_where_they_are_asked_for(text: str, codes: list[str]) -> None:
    assert find_blocks(text) == []
    spans = find_blocks(text, inline=True)
    assert [span.code for span in spans] == codes
    assert all(span.kind == "inline" and span.language is None for span in spans)
    assert all(text[s.start] == text[s.end - 1] == "`" for s in spans)


def test_spans_and_blocks_come_in_their_order() -> None:
    text = "a `b`\n\n```python\n`c`\n```\n\n    `d`\n\nand `e`"
    found = [(b.kind, b.code, b.first_line) for b in find_blocks(text, inline=True)]
    assert found == [
        ("inline", "b", 1),
        ("fenced", "`c`\n", 3),
        ("indented", "`d`\n", 7),
        ("inline", "e", 9),
    ]


def test_a_block_knows_its_place() -> None:
    text = "Hi\r\n\r\n- So:\r\n\r\n  ```python x\r\n  y\r\n  ```  \r\nEnd"
    [block] = find_blocks(text)
    assert text[block.start : block.end] == "```python x\r\n  y\r\n  ```"
    assert (block.first_line, block.last_line, block.info) == (5, 7, "python x")


def test_strict_reading_is_that_of_commonmark_alone() -> None:
    assert find_blocks("print(1)", strict=True) == []
    deep = find_blocks("    ```python\n    x\n    ```\n", strict=True)
    assert [(b.kind, b.code) for b in deep] == [("indented", "```python\nx\n```\n")]
    assert find_blocks("<answer>\n```python\nx\n```\n", strict=True) == []
    assert [b.code for b in find_blocks("```python\n'''\n```\n'''\n```\n", strict=True)] == [
        "'''\n",
        "",
    ]


def test_the_page_on_code_blocks_lists_all_aliases() -> None:
    page = (ROOT / "docs/concepts/code-blocks.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `([\w-]+)` \| (`.*`) \|$", page.partition("## Aliases")[2], re.MULTILINE
    )
    listed = {alias: name for name, cell in rows for alias in re.findall(r"`([^`]+)`", cell)}
    assert listed == ALIASES
    assert LANGUAGE_ALIASES.items() <= ALIASES.items()


def test_candidates_raise_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [block] = find_blocks("import re\nprint(re.match('\\d', '1') is 1)\n")
    assert block.kind == "raw"
