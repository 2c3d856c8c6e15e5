"""Every link in the project's Markdown leads to a file that is there, and to a heading in it.

All pages of the manual are reached from its index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

MADE_BY_RUNS = {DOCS / "benchmarks.md"}
"""Pages that a checkout may lack: `make bench` writes them where it measures."""

FENCE = re.compile(r"^ *(```|~~~)")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^(#{1,6}) +(.*?) *$")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(text: str) -> Iterator[str]:
    """The lines outside of code, without code within them."""
    inside = False
    for line in text.splitlines():
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            yield line


def links(text: str) -> list[str]:
    """The targets of a page's links."""
    whole = re.sub(r"`[^`\n]*`", "code", "\n".join(prose(text)))
    return LINK.findall(whole)


def anchors(text: str) -> set[str]:
    """The names of a page's headings, as links to them say it."""
    found: dict[str, int] = {}
    names: set[str] = set()
    for line in prose(text):
        heading = HEADING.match(line)
        if heading is None:
            continue
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading[2]).replace("`", "")
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = found.get(name, 0)
        found[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def broken(page: Path, text: str) -> Iterator[str]:
    """The links of a page that lead nowhere."""
    for link in links(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if target in MADE_BY_RUNS:
            continue
        if not target.is_relative_to(ROOT) or not target.exists():
            yield f"{link}: there is no such file"
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8") if path else text):
            yield f"{link}: {target.name} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(broken(page, page.read_text(encoding="utf-8"))) == []


def test_every_page_of_the_manual_is_reached_from_its_index() -> None:
    reached: set[Path] = set()
    waiting = [DOCS / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in links(page.read_text(encoding="utf-8")):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_file():
                waiting.append(target)
    assert [named(page) for page in sorted(DOCS.rglob("*.md")) if page not in reached] == []


PAGE = """\
# The `first` one, and more

See [here](#the-first-one-and-more), [there](other.md#part) and `[not](this)`.

```
[nor](that)
```

## Part
## Part
"""


def test_links_and_headings_are_read_as_people_see_them() -> None:
    assert links(PAGE) == ["#the-first-one-and-more", "other.md#part"]
    assert anchors(PAGE) == {"the-first-one-and-more", "part", "part-1"}


def test_a_broken_link_is_found() -> None:
    text = (
        "# Here\n[a](nowhere.md) [b](tutorial.md#nowhere) [c](tutorial.md) [d](#here) [e](#there)"
    )
    assert list(broken(DOCS / "README.md", text)) == [
        "nowhere.md: there is no such file",
        "tutorial.md#nowhere: tutorial.md has no such heading",
        "#there: README.md has no such heading",
    ]
