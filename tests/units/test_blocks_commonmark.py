"""CommonMark 0.31 on code blocks, case by case: the scanner and markdown-it-py say the same.

The cases are those that the specification's sections on fenced code, indented code, quotes, list
items and HTML blocks tell apart, in words and inputs of our own. What is expected is written here,
and markdown-it-py is asked as well, so neither can be wrong alone.
"""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from kowalski_blocks import find_blocks

Block = tuple[str, str, str]
"""Kind, info string, code."""

ORACLE = MarkdownIt("commonmark")


def fence(code: str, info: str = "") -> Block:
    return "fenced", info, code


def indented(code: str) -> Block:
    return "indented", "", code


def of_oracle(text: str) -> list[Block]:
    """What markdown-it-py finds; it leaves the last line of an unclosed fence without its end."""
    found: list[Block] = []
    for token in ORACLE.parse(text):
        if token.type in ("fence", "code_block"):
            code = token.content
            if code and not code.endswith("\n"):
                code += "\n"
            kind = "fenced" if token.type == "fence" else "indented"
            found.append((kind, token.info.strip(), code))
    return found


def of_ours(text: str, *, strict: bool) -> list[Block]:
    return [(b.kind, b.info, b.code) for b in find_blocks(text, strict=strict)]


CASES: list[tuple[str, str, list[Block]]] = [
    # ------------------------------------------------------------------------------ fenced code
    ("backticks", "```\na\n b\n```\n", [fence("a\n b\n")]),
    ("tildes", "~~~\na\n b\n~~~\n", [fence("a\n b\n")]),
    ("two are too few", "``\nfoo\n``\n", []),
    ("tildes do not close backticks", "```\nx\n~~~\n```\n", [fence("x\n~~~\n")]),
    ("backticks do not close tildes", "~~~\nx\n```\n~~~\n", [fence("x\n```\n")]),
    ("a shorter one does not close", "````\nx\n```\n``````\n", [fence("x\n```\n")]),
    ("a shorter one of tildes", "~~~~\nx\n~~~\n~~~~\n", [fence("x\n~~~\n")]),
    ("unclosed, empty", "```\n", [fence("")]),
    ("unclosed at the very end", "```", [fence("")]),
    ("unclosed to the end", "`````\n\n```\nx\n", [fence("\n```\nx\n")]),
    ("the quote's end ends it", "> ```\n> x\n\ny\n", [fence("x\n")]),
    ("blank lines are content", "```\n\n  \n```\n", [fence("\n  \n")]),
    ("no content", "```\n```\n", [fence("")]),
    ("indented by one", " ```\n x\nx\n```\n", [fence("x\nx\n")]),
    ("indented by two", "  ```\nx\n  x\nx\n  ```\n", [fence("x\nx\nx\n")]),
    ("indented by three", "   ```\n   x\n    x\n  x\n   ```\n", [fence("x\n x\nx\n")]),
    ("the close indented by two", "```\nx\n  ```\n", [fence("x\n")]),
    ("open and close indented differently", "   ```\nx\n  ```\n", [fence("x\n")]),
    ("a close indented by four", "```\nx\n    ```\n", [fence("x\n    ```\n")]),
    ("blanks within a fence", "``` ```\nx\n", []),
    ("blanks within a closing fence", "~~~~~~\nx\n~~~ ~~\n", [fence("x\n~~~ ~~\n")]),
    ("it interrupts a paragraph", "a\n```\nb\n```\nc\n", [fence("b\n")]),
    ("between headings", "a\n---\n~~~\nb\n~~~\n# c\n", [fence("b\n")]),
    ("an info string", "```ruby\nx\n```\n", [fence("x\n", "ruby")]),
    (
        "an info string of several words",
        "~~~~    ruby startline=3 $%@#$\nx\n~~~~~~~\n",
        [fence("x\n", "ruby startline=3 $%@#$")],
    ),
    ("an info string of a mark", "````;\n````\n", [fence("", ";")]),
    ("backticks in the info string", "``` aa ```\nx\n", []),
    ("backticks in a tilde fence's", "~~~ aa ``` ~~~\nx\n~~~\n", [fence("x\n", "aa ``` ~~~")]),
    ("a close has no info string", "```\n``` aaa\n```\n", [fence("``` aaa\n")]),
    ("a close may have blanks behind it", "```\nx\n```  \t\ny\n", [fence("x\n")]),
    ("tabs are content", "```\n\tx\n```\n", [fence("\tx\n")]),
    ("nothing in it is Markdown", "```\n> a\n- b\n# c\n```\n", [fence("> a\n- b\n# c\n")]),
    # ---------------------------------------------------------------------------- indented code
    ("indented", "    a\n      b\n", [indented("a\n  b\n")]),
    ("a list item's paragraph", "  - foo\n\n    bar\n", []),
    ("a numbered item's paragraph", "1.  foo\n\n    - bar\n", []),
    ("nothing in it is Markdown, either", "    <a/>\n    *b*\n\n    - c\n",
     [indented("<a/>\n*b*\n\n- c\n")]),
    ("chunks apart", "    a\n\n    b\n  \n \n \n    c\n", [indented("a\n\nb\n\n\n\nc\n")]),
    ("blanks beyond the fourth", "    a\n      \n      b\n", [indented("a\n  \n  b\n")]),
    ("it interrupts no paragraph", "Foo\n    bar\n", []),
    ("a paragraph right behind", "    foo\nbar\n", [indented("foo\n")]),
    ("between other leaves", "# H\n    foo\nH\n------\n    foo\n----\n",
     [indented("foo\n"), indented("foo\n")]),
    ("more on the first line", "        foo\n    bar\n", [indented("    foo\nbar\n")]),
    ("blank lines around", "\n    \n    foo\n    \n\n", [indented("foo\n")]),
    ("blanks at the end are kept", "    foo  \n", [indented("foo  \n")]),
    ("by a tab", "\tfoo\tbaz\n", [indented("foo\tbaz\n")]),
    ("by blanks and a tab", "  \tfoo\n", [indented("foo\n")]),
    ("a fence too deep", "    ```\n    aaa\n    ```\n", [indented("```\naaa\n```\n")]),
    # --------------------------------------------------------------------------------- quotes
    ("a quote's code", ">     code\n\n>    not code\n", [indented("code\n")]),
    ("code is not continued without the mark", ">     foo\n    bar\n",
     [indented("foo\n"), indented("bar\n")]),
    ("nor is a fence", "> ```\nfoo\n```\n", [fence(""), fence("")]),
    ("a quote after a tab", ">\t\tfoo\n", [indented("  foo\n")]),
    ("a fence in quotes of quotes", "> > ~~~ x\n> > a\n>> ~~~\n", [fence("a\n", "x")]),
    ("a lazy line is no code", "> foo\n    - bar\n", []),
    ("an underline is never lazy", "> foo\n===\n    x\n", []),
    ("a quote that is too deep", "    > foo\n", [indented("> foo\n")]),
    # ------------------------------------------------------------------------------ list items
    ("code in an item", "1.  A\n\n        code\n\n    > Q\n", [indented("code\n")]),
    ("deeper than the item", "- foo\n\n   bar\n\n        code\n", [indented("  code\n")]),
    ("a fence in an item", "1.  foo\n\n    ```\n    bar\n    ```\n\n    baz\n", [fence("bar\n")]),
    ("blank lines in an item's code", "- Foo\n\n      bar\n\n\n      baz\n",
     [indented("bar\n\n\nbaz\n")]),
    ("blank lines in an item's fence", "- ```\n  a\n\n\n  b\n  ```\n", [fence("a\n\n\nb\n")]),
    ("an item that begins with code", "1.     code\n\n   text\n\n       more\n",
     [indented("code\n"), indented("more\n")]),
    ("an item that begins with deeper code", "1.      code\n", [indented(" code\n")]),
    ("an item that begins with a blank line",
     "-\n  foo\n-\n  ```\n  bar\n  ```\n-\n      baz\n", [fence("bar\n"), indented("baz\n")]),
    ("an item begins with one blank line at most", "-\n\n      foo\n", [indented("  foo\n")]),
    ("a blank line of blanks, too", "-\n  \n      foo\n", [indented("  foo\n")]),
    ("an item indented by three", "   1.  A\n\n           code\n", [indented("code\n")]),
    ("an item indented by four", "    1.  A\n\n            code\n",
     [indented("1.  A\n\n        code\n")]),
    ("an item's tab", "-\t\tfoo\n", [indented("  foo\n")]),
    ("an item and a tab", "- foo\n\n\t\tbar\n", [indented("  bar\n")]),
    ("tabs in tabs", " - foo\n   - bar\n\t - baz\n", []),
    ("a rule is no item", "* * *\n      x\n", [indented("  x\n")]),
    ("a number that interrupts nothing", "a\n14. ```\nx\n", []),
    ("a number of ten digits", "1234567890. ```\n\n    x\n", [indented("x\n")]),
    ("the item's end ends the fence", "- ~~~\n  x\ny\n", [fence("x\n")]),
    ("code between lists", "- a\n\n<!-- -->\n\n    code\n", [indented("code\n")]),
    ("a list that ends before code", "1. a\n\n  2. b\n\n    3. c\n", [indented("3. c\n")]),
    # ------------------------------------------------------------------------------------ HTML
    ("in a comment", "<!-- a\n\n```\nx\n```\n-->\n```\ny\n```\n", [fence("y\n")]),
    ("in <pre>", "<pre>\n\n```\nx\n</pre>\n", []),
    ("in <script>", "<script>\n```\n\n    x\n</script>\n\n    y\n", [indented("y\n")]),
    ("in an instruction", "<?php\n\n```\n?>\n", []),
    ("in CDATA", "<![CDATA[\n\n```\n]]>\n", []),
    ("in an element", "<div>\n```\nx\n</div>\n", []),
    ("behind an element's blank line", "<div>\n\n```\nx\n```\n</div>\n", [fence("x\n")]),
    ("in a tag alone", "<a href='b'>\n```\nx\n", []),
    ("a tag in a paragraph", "x\n<a>\n```\ny\n```\n", [fence("y\n")]),
    ("a comment that is too deep", "    <!-- x -->\n", [indented("<!-- x -->\n")]),
]  # fmt: skip

DEVIATING = {
    "a fence too deep": "a fenced block that is indented as a whole is one",
    "in an element": "a fence right behind a tag is one",
    "in a tag alone": "a fence right behind a tag is one",
}


@pytest.mark.parametrize(("text", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_strict_reading_is_that_of_commonmark(text: str, expected: list[Block]) -> None:
    assert of_ours(text, strict=True) == expected
    assert of_oracle(text) == expected


@pytest.mark.parametrize(("name", "text", "expected"), CASES, ids=[c[0] for c in CASES])
def test_tolerant_reading_differs_only_where_it_says_so(
    name: str, text: str, expected: list[Block]
) -> None:
    same = of_ours(text, strict=False) == expected
    assert same is (name not in DEVIATING), DEVIATING.get(name)


def test_what_markdown_it_leaves_out_is_read_by_the_rules() -> None:
    """Three rules that markdown-it-py does not keep; the specification's text decides."""
    # The mark of a quote stands behind three columns of blanks at most.
    assert of_ours("> ```\n    > x\n", strict=True) == [fence(""), indented("> x\n")]
    # A tab of which the quote's mark takes one column leaves the others as blanks.
    assert of_ours("> ```\n>\tx\n> ```\n", strict=True) == [fence("  x\n")]
    # A line indented by four columns continues a paragraph, whatever it begins with.
    assert of_ours("1)   a\n    ```\n", strict=True) == []
