"""Which paths a pattern means, and what the frames of files may be."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from kowalski_executors.collector import matches
from kowalski_executors.output_files import OutputFiles
from kowalski_protocol.errors import Problem
from kowalski_protocol.task_files import OUTPUT_FILES_MAX
from tests.ports.executors import Recorder


@pytest.mark.parametrize(
    ("pattern", "path", "does"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", ".csv", True),
        ("*.csv", "a/b.csv", False),
        ("a/*.csv", "a/b.csv", True),
        ("a/*.csv", "a/b/c.csv", False),
        ("**/*.csv", "a.csv", True),
        ("**/*.csv", "a/b/c.csv", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/x/y/c", False),
        ("a/**", "a", False),
        ("a/**", "a/b", True),
        ("a/**", "a/b/c", True),
        ("**", "a", True),
        ("**", "a/b/c", True),
        ("**/**/a", "a", True),
        ("**/a/**", "x/a/y", True),
        ("**/a/**", "x/a", False),
        ("?.txt", "é.txt", True),
        ("[a-c].txt", "b.txt", True),
        ("[!a-c].txt", "b.txt", False),
        ("[a", "[a", True),
        ("A.csv", "a.csv", False),
        ("*", "a\nb", True),
    ],
)
def test_a_pattern_means_these_paths(pattern: str, path: str, does: bool) -> None:
    assert matches(path, pattern) is does


def test_no_pattern_takes_long_with_any_path() -> None:
    began = time.perf_counter()
    assert not matches("a" * 255, "*a" * 120 + "b")
    assert not matches("/".join("a" * 64), "/".join(["**", "a"] * 31 + ["b"]))
    assert not matches("/".join("a" * 64), "/".join(["**", *"*" * 62, "b"]))
    assert time.perf_counter() - began < 1


def frame(tag: str, body: bytes = b"") -> bytes:
    return tag.encode() + b"%d\n" % len(body) + body


def receiver(folder: Path, *patterns: str, bytes_max: int = 1000) -> OutputFiles:
    return OutputFiles(patterns or ("**",), folder, bytes_max, 100)


class Keeper(Recorder):
    """Keeps the bytes that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[bytes] = []

    async def store_blob(self, source: Path) -> str:
        data = await trio.Path(source).read_bytes()
        self.kept.append(data)
        return f"blob {len(self.kept)}"


GOOD = b"".join(
    [
        frame("V", b'{"a": 1}'),
        frame("O", b"a"),
        frame("D", b"one "),
        frame("D", b"two"),
        frame("O", "b/ü".encode()),
        frame("Z"),
    ]
)


@pytest.mark.parametrize("piece", [1, 2, 7, 1000])
async def test_files_come_whole_however_the_pipe_cuts_them(tmp_path: Path, piece: int) -> None:
    files = receiver(tmp_path)
    own = b""
    for at in range(0, len(GOOD), piece):
        own += await files.take(GOOD[at : at + piece])
    assert files.problem is None
    assert own == b'V{"a": 1}'
    keeper = Keeper()
    stored = await files.store(keeper)
    assert [(one.path, one.size_bytes) for one in stored] == [("a", 7), ("b/ü", 0)]
    assert {one.path: keeper.kept[int(one.blob.split()[1]) - 1] for one in stored} == {
        "a": b"one two",
        "b/ü": b"",
    }
    assert [*tmp_path.iterdir()] == []  # noqa: ASYNC240


@pytest.mark.parametrize(
    ("sent", "code", "word"),
    [
        (b"O12345678901234567890", "code_failed", "form"),
        (b"O-1\n", "code_failed", "form"),
        (b"O\n", "code_failed", "form"),
        (b"O 1\na", "code_failed", "form"),
        (b"O99999999\n", "code_failed", "form"),
        (b"D99999999\n", "code_failed", "form"),
        (b"V9999\n", "code_failed", "form"),
        (b"P9999\n", "code_failed", "form"),
        (frame("D", b"x"), "code_failed", "form"),
        (frame("Z") + frame("O", b"a"), "code_failed", "form"),
        (frame("O", b"a") + frame("O", b"a") + frame("Z"), "code_failed", "form"),
        (frame("O", b"a") + frame("O", b"a/b") + frame("Z"), "code_failed", "form"),
        (frame("O", b"../a"), "code_failed", "'..'"),
        (frame("O", b"/etc/passwd"), "code_failed", "root"),
        (frame("O", b"a\nb"), "code_failed", "control"),
        (frame("O", b"a\\b"), "code_failed", "backslash"),
        (frame("O", b"\xff"), "code_failed", "not Unicode"),
        (frame("O", b"\xed\xa0\x80"), "code_failed", "not Unicode"),
        (frame("O", b"a/" * 600), "code_failed", "longer"),
        (frame("O", b"a") + frame("D", b"x" * 1001), "output_too_large", "together"),
        (frame("U", b"a\xff\n"), "code_failed", "can't be read"),
        (frame("N"), "output_too_large", "archive"),
        (frame("B"), "output_too_large", "together"),
    ],
)
async def test_what_is_not_of_the_form_is_refused(
    tmp_path: Path, sent: bytes, code: str, word: str
) -> None:
    files = receiver(tmp_path)
    await files.take(sent)
    await files.take(frame("V", b"1"))
    files.close()
    assert files.problem is not None
    assert files.problem.code == code
    assert word in files.problem.sentence
    assert files.problem.sentence.isprintable()


async def test_a_file_that_was_not_asked_for_is_refused(tmp_path: Path) -> None:
    files = receiver(tmp_path, "*.csv")
    await files.take(frame("O", b".bashrc"))
    assert files.problem is not None
    assert "not asked for" in files.problem.sentence


async def test_more_files_than_may_be_are_refused(tmp_path: Path) -> None:
    files = receiver(tmp_path)
    for number in range(OUTPUT_FILES_MAX):
        await files.take(frame("O", b"%d" % number))
    assert files.problem is None
    await files.take(frame("O", b"last"))
    assert files.problem is not None
    assert files.problem.code == "output_too_large"


async def test_nothing_is_kept_before_all_has_come_and_every_pattern_has_its_file(
    tmp_path: Path,
) -> None:
    keeper = Keeper()
    files = receiver(tmp_path, "*.csv", "*.png")
    await files.take(frame("O", b"a.csv"))
    with pytest.raises(Problem, match="did not come whole"):
        await files.store(keeper)
    await files.take(frame("Z"))
    with pytest.raises(Problem, match=r"no file that matches '\*\.png'"):
        await files.store(keeper)
    assert keeper.kept == []


async def test_a_store_that_is_full_is_told_by_its_problem(tmp_path: Path) -> None:
    class Full(Recorder):
        async def store_blob(self, source: Path) -> str:
            await trio.lowlevel.checkpoint()
            raise Problem("disk_full", f"No room for {source.name}.")

    files = receiver(tmp_path)
    await files.take(b"".join(frame("O", b"%d" % number) for number in range(20)) + frame("Z"))
    with pytest.raises(Problem, match="No room"):
        await files.store(Full())
