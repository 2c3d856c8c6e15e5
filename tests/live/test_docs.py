"""The manual tells the truth: its commands are typed, its programs run, and their output is
compared.

Each page with a session is one test, in a home folder and on ports of its own; `docs_session` says
what is compared and how. The examples run against three nodes, and what they compute is checked
against the same computed here.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.docs_session import DOCS, ROOT, Shell, play, reader_of, steps_of

PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if any(step.commands for step in steps_of(page.read_text(encoding="utf-8")))
)
NEEDED = ("curl", "sqlite3")
"""Commands that a page may use and a machine may lack."""
NEEDS = re.compile(r"^<!-- needs: ([\w, ]+) -->$", re.MULTILINE)
"""How a page says that it needs others."""
EXAMPLES = DOCS / "examples"


def named(page: Path) -> str:
    return str(page.relative_to(DOCS))


def marked(page: Path) -> object:
    return pytest.param(page, marks=pytest.mark.slow) if page.name == "tutorial.md" else page


@pytest.mark.needs_bubblewrap
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [marked(page) for page in PAGES], ids=named)
def test_a_page_shows_what_its_commands_print(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named_there = NEEDS.search(text)
    needed = [command for command in NEEDED if f"$ {command} " in text]
    for command in (*needed, *(named_there[1].split(", ") if named_there else ())):
        if shutil.which(command) is None:
            pytest.skip(f"{command} is missing: apt-get install {command}")
    with reader_of(text, tmp_path) as shell:
        differing = [str(one) for one in play(text, shell) if one.as_shown is None]
    assert not differing, "\n\n".join([named(page), *differing])


def test_the_tutorial_and_how_tos_are_played() -> None:
    played = {named(page) for page in PAGES}
    assert "tutorial.md" in played
    assert sum(name.startswith("how-to/") for name in played) >= 8


# ------------------------------------------------------------------------------------- examples


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell at the desk of three devices."""
    folder = tmp_path_factory.mktemp("examples")
    with reader_of("<!-- cluster: desk, laptop, mini -->", folder) as shell:
        yield shell


def run(desk: Shell, example: str, arguments: str) -> list[str]:
    """What an example prints; it must end well."""
    command = f"python {EXAMPLES / example} --api http://$KOWALSKI_API {arguments}"
    printed, code = desk.run(command)
    assert code == 0, "\n".join(printed)
    return [line for line in printed if line]


@pytest.mark.needs_bubblewrap
def test_the_word_count_is_that_of_a_plain_count(desk: Shell) -> None:
    files = [ROOT / "LICENSE", ROOT / "README.md"]
    words: Counter[str] = Counter()
    for file in files:
        words.update(re.findall(r"[^\W\d_]+", file.read_text(encoding="utf-8").lower()))
    expected = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:8]
    for _ in range(2):  # the second time the tasks are those of the first
        printed = run(desk, "word_count.py", f"--top 8 {files[0]} {files[1]}")
        assert printed[0] == "2 files in 2 pieces"
        assert printed[2:] == [f"{number:>7} {word}" for word, number in expected]


def test_events_are_watched_from_the_first_on(desk: Shell) -> None:
    first = run(desk, "watch_events.py", "--count 3")
    assert [line.split()[0] for line in first] == ["1", "2", "3"]
    assert first[0].split()[2:] == ["desk", "ClusterFounded"]
    assert run(desk, "watch_events.py", "--after 2 --count 1") == first[2:]


def test_a_shared_file_reaches_every_device(desk: Shell, tmp_path: Path) -> None:
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(range(256)) * 2000)
    printed = run(desk, "shared_file.py", str(file))
    assert printed[0].startswith("large.bin: 512,000 bytes, ")
    assert printed[1:] == ["desk: has it", "laptop: has it", "mini: has it"]


def test_every_example_is_run_here_and_listed() -> None:
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    here = Path(__file__).read_text(encoding="utf-8")
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(programs) >= 2
    assert [name for name in sorted(programs) if f'"{name}"' not in here] == []
    assert [name for name in sorted(programs) if f"]({name})" not in listed] == []
