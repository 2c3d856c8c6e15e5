"""What holds of the code in any text: no text makes the search raise, every block has its place, a
program is found again as it was, markdown-it-py agrees, and the time is linear.
"""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kowalski_blocks import CodeBlock, find_blocks
from kowalski_blocks.budget import (
    LOOKAHEAD_COST_MAX,
    LOOKAHEAD_LINE_COST,
    PARSED_CHARACTERS_MAX,
    PARSES_MAX,
    Budget,
)
from tests.units.test_blocks_commonmark import of_oracle, of_ours

FRAGMENTS = [
    "```", "````", "~~~", "~~~~", "```python", "```js", "~~~ a`b", "``` a`b", "``", "`", "\\`",
    "text", "x = 1", "print(1)", "def f():", "$ ls", ">>> 1", "#!/bin/sh", "# h", "---", "===",
    "***", '"""', "'''", "- ", "1. ", "10) ", "> ", ">", "-", " ", "  ", "    ", "\t", "<div>",
    "<!--", "-->", "<pre>", "</pre>", "{", "[", "(", "\\", "\0", "\ud800", "\u2028", "\x0c",
    "\n", "\n", "\n", "\n\n", "\r\n", "\r",
]  # fmt: skip

TEXTS = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join),
    st.text(alphabet=st.sampled_from("`~>-*#1.) \t\n\rpy\"'$\\")),
    st.text(alphabet=st.characters()),
)


def assert_placed(text: str, blocks: list[CodeBlock]) -> None:
    """Every block has its place in the text, and none shares it."""
    before = 0
    ends = [match.end() for match in re.finditer(r"\r\n?|\n", text)]
    for block in blocks:
        assert before <= block.start <= block.end <= len(text)
        before = block.end
        whole = text[block.start : block.end]
        assert block.first_line == 1 + sum(end <= block.start for end in ends)
        if block.is_closed:
            assert block.last_line == 1 + sum(end < block.end for end in ends)
        assert block.first_line <= block.last_line
        if block.kind == "fenced":
            assert whole.startswith(("```", "~~~"))
            assert block.info in whole
            mark = re.match(r"`+|~+", whole)
            assert mark is not None
            assert not block.is_closed or whole.endswith(mark[0])
        elif block.kind == "inline":
            assert whole[0] == whole[-1] == "`"
        elif block.kind == "indented":
            assert whole[0] in " \t"
            last = re.split(r"[\r\n]", whole)[-1].strip(" \t")
            assert last.endswith(block.code.split("\n")[-2].strip(" \t"))
        assert "\r" not in block.code
        assert block.kind == "inline" or block.code == "" or block.code.endswith("\n")
        assert not (block.is_inferred and block.language is None)


@given(TEXTS, st.booleans(), st.booleans())
@example("```python\n\ud800\n```", False, False)
@example("```\n" + "1" * 5000 + "\n```", False, False)
@example("x = " + "-" * 3000 + "1", False, False)
def test_no_text_makes_it_raise_and_every_block_has_its_place(
    text: str, inline: bool, strict: bool
) -> None:
    assert_placed(text, find_blocks(text, inline=inline, strict=strict))


@given(TEXTS.map(lambda text: text.replace("\r", "")), st.booleans())
def test_the_ends_of_lines_change_nothing(text: str, strict: bool) -> None:
    found = [
        [(b.kind, b.code, b.language, b.info, b.first_line, b.last_line, b.is_closed) for b in bs]
        for bs in (
            find_blocks(text, inline=True, strict=strict),
            find_blocks(text.replace("\n", "\r\n"), inline=True, strict=strict),
            find_blocks(text.replace("\n", "\r"), inline=True, strict=strict),
        )
    ]
    assert found[0] == found[1] == found[2]


# ------------------------------------------------------------------------- programs found again

DOC_LINES = st.sampled_from(["Words.", "", "```", "```python", "~~~", "````", "  ```", "f(`x`)"])


@st.composite
def programs(draw: st.DrawFn) -> str:
    """Python that parses, with strings over several lines that hold fences."""
    parts: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["plain", "docstring", "text", "block"]))
        quote = draw(st.sampled_from(['"""', "'''"]))
        inner = "\n".join(draw(st.lists(DOC_LINES, max_size=5)))
        if kind == "docstring":
            parts.append(f"def f(x):\n    {quote}Does.\n{inner}\n    {quote}\n    return x\n")
        elif kind == "text":
            parts.append(f"text = r{quote}\n{inner}\n{quote}  # said\n")
        elif kind == "block":
            parts.append("for i in range(3):\n    print(i, '`')\n\n")
        else:
            parts.append('x = 1  # ``` and """\n')
    return "\n".join(parts)


def fence_for(code: str, mark: str) -> str:
    """A fence longer than any in the code."""
    runs = re.findall(re.escape(mark) + "+", code)
    return mark * max(3, 1 + max(map(len, runs), default=0))


@given(programs(), st.sampled_from("`~"), st.sampled_from(["", "> ", "   ", "> - ", "1. "]))
def test_a_program_in_a_long_enough_fence_is_found_again(
    program: str, mark: str, container: str
) -> None:
    fence = fence_for(program, mark)
    lines = ["Before.", "", f"{fence}python", *program.split("\n")[:-1], fence, "", "After."]
    after = container.replace("-", " ").replace("1.", "  ")
    text = "\n".join(
        (container if number == 0 else after) + line for number, line in enumerate(lines)
    )
    for strict in (False, True):
        blocks = find_blocks(text, strict=strict)
        assert [(b.code, b.language, b.is_closed) for b in blocks] == [(program, "python", True)]


@given(st.lists(programs(), min_size=1, max_size=3))
def test_programs_whose_strings_hold_whole_fences_are_found_again(drawn: list[str]) -> None:
    """The fence is as short as those in the strings, so only the strings tell where it ends."""
    text = "".join(f"Text.\n\n```python\n{program}```\n\n" for program in drawn)
    assert [b.code for b in find_blocks(text)] == drawn


@given(st.text(alphabet=st.characters(exclude_characters="\r")), st.sampled_from("`~"))
def test_any_text_in_a_long_enough_fence_is_found_again(content: str, mark: str) -> None:
    content = content and content.removesuffix("\n") + "\n"
    fence = fence_for(content, mark)
    [block] = find_blocks(f"Text.\n\n{fence}text\n{content}{fence}\n")
    assert (block.code, block.language, block.is_closed) == (content, None, True)


# --------------------------------------------------------------------- agreement with the oracle

BODIES = [
    "```", "````", "~~~", "~~~~", "`````", "``` js", "~~~ a`b", "``` a`b", "text", "", "", "# h",
    "---", "***", "===", "<div>", "<!--", "-->", "<b>", "<pre>", "</pre>", "```  ", "    code",
    "  code",
]  # fmt: skip
# What markdown-it-py reads otherwise than by the rules stays apart: deep lines among containers,
# and tabs behind a quote's mark. The tests by case hold them.
DEEP = ["", "    ", "  ", "   ", " ", "\t", "     ", "  \t"]
CONTAINERS = [
    "", "- ", "> ", "> > ", "- - ", "> - ", "- > ", "  ", "   ", "1. ", "  - ", "> >", "-", ">",
    "1)  ", ">   ", "2. ", "+ ", "  > ",
]  # fmt: skip


def texts_of(prefixes: list[str], bodies: list[str]) -> st.SearchStrategy[str]:
    line = st.tuples(st.sampled_from(prefixes), st.sampled_from(bodies)).map("".join)
    return st.lists(line, min_size=1, max_size=10).map(lambda lines: "\n".join(lines) + "\n")


@given(st.one_of(texts_of(DEEP, BODIES), texts_of(CONTAINERS, BODIES)))
def test_strict_reading_agrees_with_markdown_it(text: str) -> None:
    assert of_ours(text, strict=True) == of_oracle(text)


FLAT = [body for body in BODIES if not body.startswith(("<", "    "))]


@given(texts_of(["", "", " ", "  ", "   ", "> ", "> > "], FLAT))
def test_tolerant_reading_agrees_with_markdown_it_where_nothing_is_wrong(text: str) -> None:
    found = of_ours(text, strict=False)
    assert found == of_oracle(text)


# ------------------------------------------------------------------------------------------ time

DOCUMENT = (
    "# Title\n\nSome prose that explains what is done and why, in a sentence or two of words.\n\n"
    "```python\ndef f(x):\n    return x + 1\n\nprint(f(1))\n```\n\n- one\n- two\n\n  ```bash\n"
    "  ls -la\n  ```\n\n> quoted\n\n"
)
SHAPES: dict[str, str] = {
    "a document": DOCUMENT,
    "fences only": "```\n",
    "Python in strings that nothing ends": '```python\nx = """\n```\n',
    "strings that end and do not parse": '```python\ns = """\n```\ntext"""\n) \n',
    "untagged Python": "```\nprint(1)\n```\n",
    "untagged Rust": '```\nfn main() {\n    println!("x");\n}\n```\n',
    "untagged nests": "```\n" + "{a:" * 55 + "\n```\n",
    "fences too deep": "    ```python\n",
    "fences too deep in paragraphs": "x\n     ```\n\n",
    "fences in lists that break": "- ```\nx\n",
    "fences in quotes": "> ```\n> x\n> ```\n",
    "ragged fences": "  ```python\nx\n  y\n  ```\n",
    "indented code": "    x = foo(1)\n\ntext\n\n",
    "quotes in one line": "> ",
    "lists in one line": "- ",
    "quotes and lists in one line": "> - ",
    "blank lines": "\n",
    "lines of blanks": " \t\n",
    "backticks": "`",
    "unequal backticks": "` `` ``` ",
    "escapes": "\\`",
    "tabs": "\t",
    "an open tag": "<a b='",
    "comments": "<!-- x\n",
    "comments in lists": "- <!-- x\n  -\n",
    "brackets": "([{",
    "NUL": "\0",
}
SIZE = 1_000_000


def shaped(shape: str, size: int) -> str:
    return (shape * (size // len(shape) + 1))[:size]


def quickest_s(text: str, repetitions: int) -> float:
    """The processor time of the quickest of some searches: what else runs here counts little."""
    times: list[float] = []
    for _ in range(repetitions):
        start = time.process_time()
        find_blocks(text, inline=True)
        times.append(time.process_time() - start)
    return min(times)


SECONDS_MAX = 4.0
"""The slowest shapes, of 125,000 blocks each, take about one second; a busy machine may need three.
"""


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_megabyte_takes_a_bounded_and_linear_time(shape: str) -> None:
    whole = quickest_s(shaped(shape, SIZE), 1)
    if whole >= SECONDS_MAX:
        # Once more before it is called slow: the first may have been disturbed.
        whole = quickest_s(shaped(shape, SIZE), 3)
    assert whole < SECONDS_MAX
    quarter = quickest_s(shaped(shape, SIZE // 4), 2)
    # Four times as much text, eight times the time at most; what is spent on short texts at once,
    # within the budget, is let pass.
    if whole > 8 * quarter + 0.05:
        whole = quickest_s(shaped(shape, SIZE), 3)
    assert whole <= 8 * quarter + 0.05


def test_a_list_as_deep_as_can_be_before_a_megabyte_of_blank_lines() -> None:
    assert quickest_s("- " * 32 + "x\n" + "\n" * SIZE, 2) < SECONDS_MAX


def test_what_is_tried_is_bounded_and_the_rest_is_read_by_the_rules() -> None:
    long = "print(1)\n" * (1 + PARSED_CHARACTERS_MAX // 9)
    [block] = find_blocks(f"```\n{long}```\n")
    assert (block.code, block.language) == (long, None)
    [block] = find_blocks(f"```python\n{long}```\n")
    assert (block.code, block.language) == (long, "python")
    blocks = find_blocks("```\nprint(1)\n```\n" * (PARSES_MAX + 1))
    assert {block.language for block in blocks[:PARSES_MAX]} == {"python"}
    assert blocks[PARSES_MAX].language is None


def test_looking_ahead_is_bounded() -> None:
    budget = Budget()
    looks = 0
    while budget.allows_look("x" * 100):
        looks += 1
    assert looks == LOOKAHEAD_COST_MAX // (100 + LOOKAHEAD_LINE_COST)
    far = "x\n" * LOOKAHEAD_COST_MAX
    assert find_blocks(f"    ```python\n{far}    ```\n", strict=False)[0].kind == "indented"


HOSTILE_SOURCES = [
    "x = " + "-" * 100_000 + "1",
    "x = 1" + "+1" * 60_000,
    "a" + ".b" * 60_000,
    "\n".join(" " * depth + "if x:" for depth in range(400)),
    "x = " + "(" * 50_000 + ")" * 50_000,
    "x = " + "not " * 30_000 + "x",
    "lambda: " * 15_000 + "0",
    "print(" + "9" * 100_000 + ")",
    "'''" + "a\n" * 60_000,
    "print(\0)",
    "print('\ud800')",
    "with " + "(" * 59 + "a" + ")" * 59 + " as b c",
    "{a:" * 55,
    "f(" * 58 + "a=",
]


@pytest.mark.parametrize("source", HOSTILE_SOURCES, ids=range(len(HOSTILE_SOURCES)))
def test_no_source_brings_the_parser_down(source: str) -> None:
    for text in (source, f"```\n{source}\n```", f"```python\n '''\n```\n'''\n{source}\n```"):
        assert quickest_s(text, 1) < SECONDS_MAX
        assert_placed(text, find_blocks(text))
