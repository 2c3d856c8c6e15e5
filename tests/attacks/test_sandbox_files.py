"""Attack on the files of programs: out of the work folder, into the blob store, past the bounds.

Each test runs a hostile program, in the sandbox (started warm and cold) and without one, with a
real blob store; afterwards the store must hold what it held before, and nothing may be left over
in the executor's own folder.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from kowalski_executors import sandbox_probe
from kowalski_executors.code_executor import CodeExecutor
from kowalski_node.blobs import Blobs, read_file
from kowalski_node.executor import Completed, Failed, Outcome
from kowalski_protocol.errors import Problem
from tests.ports.executors import (
    SANDBOXES,
    Recorder,
    attempt,
    children,
    marked,
    marking,
    new_mark,
    python,
    until,
)

WAYS: dict[str, dict[str, Any]] = {**SANDBOXES, "unsandboxed": {"unsandboxed": True}}
INPUT = b"number,text\n1,one\n2,two\n"

pytestmark = pytest.mark.needs_bubblewrap


class Device(Recorder):
    """A device: an executor and a blob store, with one input in it."""

    def __init__(self, home: Path, way: str) -> None:
        super().__init__()
        self.is_sandboxed = way != "unsandboxed"
        self.work = home / "work"
        self.folder = home / "blobs"
        self.store = Blobs(self.folder)
        self.executor = CodeExecutor(work_root=self.work, **WAYS[way])
        self.input = ""

    async def open_blob(self, blob_hash: str) -> Path:
        path = self.store.path(blob_hash)
        if path is None:
            raise Problem("not_found", "No live member has this blob.")
        return path

    async def store_blob(self, source: Path) -> str:
        return (await self.store.store(read_file(source)))[0]

    async def run(
        self, code: str, *, path: str = "data/in.csv", size: int = len(INPUT), **more: Any
    ) -> Outcome:
        """Runs a Python program with the input."""
        inputs = [{"path": path, "blob": self.input, "size_bytes": size}]
        payload: Mapping[str, Any] = {"inputs": inputs, **more}
        with trio.fail_after(60):
            return await self.executor.run(attempt(python(code, **payload)), self)

    async def files(self, code: str, *patterns: str, **more: Any) -> dict[str, bytes]:
        """The files that a program brings back that must end well."""
        outcome = await self.run(code, outputs=[*patterns], **more)
        assert isinstance(outcome, Completed), outcome
        brought: dict[str, bytes] = {}
        for file in outcome.files:
            brought[file.path] = (self.folder / file.blob).read_bytes()
            assert len(brought[file.path]) == file.size_bytes
        return brought

    async def refused(self, code: str, *patterns: str, **more: Any) -> Failed:
        """How a program ends whose files are refused; nothing of them may be kept."""
        before = self.blobs_there()
        outcome = await self.run(code, outputs=[*patterns], **more)
        assert isinstance(outcome, Failed), outcome
        assert self.blobs_there() == before
        return outcome

    def blobs_there(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if path.is_file()}


@pytest.fixture(params=list(WAYS))
async def device(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Device]:
    device = Device(tmp_path, request.param)
    device.input = await device.store.store_bytes(INPUT)
    (tmp_path / "secret").write_text("the key of a device")
    yield device
    assert (device.folder / device.input).read_bytes() == INPUT
    assert [p.name for p in device.work.iterdir() if p.name.startswith(("files-", "run-"))] == []


ATTACKING = """
import mmap, os, shutil
path = "data/in.csv"
done = []
def attempt(name, action):
    try:
        action()
        done.append(name)
    except (OSError, ValueError):
        pass
attempt("write", lambda: open(path, "w"))
attempt("append", lambda: open(path, "a"))
attempt("chmod", lambda: os.chmod(path, 0o666))
attempt("write now", lambda: open(path, "w").write("x"))
attempt("truncate", lambda: os.truncate(path, 0))
attempt("proc", lambda: open(f"/proc/self/fd/{os.open(path, os.O_RDONLY)}", "w").write("x"))
attempt("map", lambda: mmap.mmap(os.open(path, os.O_RDONLY), 4, prot=mmap.PROT_WRITE))
attempt("times", lambda: os.utime(path, (0, 0)))
attempt("link", lambda: os.link(path, "hard"))
attempt("replace", lambda: os.replace("data/in.csv", "gone"))
attempt("unlink", lambda: os.unlink(path))
attempt("folder", lambda: os.rename("data", "moved"))
attempt("tree", lambda: shutil.rmtree("moved"))
done
"""


async def test_an_input_that_a_program_attacks_stays_as_it_was(device: Device) -> None:
    outcome = await device.run(ATTACKING)
    assert isinstance(outcome, Completed), outcome
    if device.is_sandboxed:
        assert {*outcome.value} <= {"folder"}
    state = (device.folder / device.input).stat()
    assert state.st_nlink == 1
    assert state.st_mode & 0o222 == 0


async def test_an_input_stays_as_it_was_where_the_program_has_the_nodes_own_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_probe, "make_user_mapping", lambda _: None)
    device = Device(tmp_path, "cold")
    device.input = await device.store.store_bytes(INPUT)
    outcome = await device.run(ATTACKING)
    assert isinstance(outcome, Completed), outcome
    assert {*outcome.value} <= {"folder"}
    stored = device.folder / device.input
    assert stored.read_bytes() == INPUT
    assert stored.stat().st_mode & 0o777 == 0o400


async def test_an_input_is_read_from_the_blob_and_written_beside(device: Device) -> None:
    code = """
import os
with open("data/in.csv") as file, open("data/out.csv", "w") as out:
    out.write(file.read().upper())
sorted(os.listdir("data"))
"""
    brought = await device.files(code, "data/*.csv")
    assert brought == {"data/out.csv": INPUT.upper()}


async def test_an_input_comes_back_only_where_it_was_replaced(device: Device) -> None:
    code = """
import os
os.rename("data", "moved")
os.mkdir("data")
open("data/in.csv", "w").write("mine")
"""
    assert await device.files(code, "**/in.csv") == {"data/in.csv": b"mine"}
    kept = await device.refused("1", "**/*.csv")
    assert kept.code == "code_failed"
    assert "no file that matches" in kept.sentence


async def test_an_input_of_another_size_is_refused_before_the_start(device: Device) -> None:
    outcome = await device.run("open('data/in.csv')", size=len(INPUT) + 1)
    assert isinstance(outcome, Failed)
    assert outcome.code == "bad_request"
    device.input, was = "0" * 64, device.input
    outcome = await device.run("1")
    device.input = was
    assert isinstance(outcome, Failed)
    assert outcome.code == "not_found"


@pytest.mark.parametrize("path", ["../in.csv", "/etc/cron.d/x", "a/../../b", "program/main.py"])
async def test_an_input_goes_nowhere_but_below_the_work_folder(device: Device, path: str) -> None:
    outcome = await device.run("1", path=path)
    assert isinstance(outcome, Failed)
    assert outcome.code == "bad_request"


async def test_links_are_neither_followed_nor_brought(device: Device, tmp_path: Path) -> None:
    code = f"""
import os
os.mkdir("out")
os.symlink({str(tmp_path / "secret")!r}, "out/secret.txt")
os.symlink("/etc/passwd", "out/passwd.txt")
os.symlink("/", "out/root")
os.symlink("..", "out/loop")
os.symlink("nothing", "out/nothing.txt")
os.symlink("../data/in.csv", "out/input.txt")
open("out/own.txt", "w").write("own")
os.link("out/own.txt", "out/hard.txt")
"""
    assert await device.files(code, "out/**", "**/*.txt") == {
        "out/own.txt": b"own",
        "out/hard.txt": b"own",
    }


async def test_what_is_no_file_holds_nobody_up(device: Device) -> None:
    code = """
import os, socket
os.mkfifo("pipe.txt")
socket.socket(socket.AF_UNIX).bind("socket.txt")
os.mkdir("folder.txt")
open("own.txt", "w").write("own")
"""
    assert await device.files(code, "*.txt") == {"own.txt": b"own"}


@pytest.mark.parametrize(
    ("name", "word"),
    [
        (b"a\nb.txt", "control"),
        (b"a\\..\\b.txt", "backslash"),
        (b"\xff.txt", "not Unicode"),
        (b"\xed\xa0\x80.txt", "not Unicode"),
        (b"\x1b[2J.txt", "control"),
        (b"/".join([b"d" * 200] * 6) + b"/a.txt", "longer"),
        (b"d/" * 64 + b"a.txt", "parts"),
    ],
)
async def test_names_that_can_not_be_carried_are_refused(
    device: Device, name: bytes, word: str
) -> None:
    code = f"""
import os
name = {name!r}
os.makedirs(os.path.dirname(name) or b".", exist_ok=True)
open(name, "w").write("x")
"""
    failed = await device.refused(code, "**/*.txt")
    assert failed.code == "code_failed"
    assert word in failed.sentence
    assert failed.sentence.isprintable()
    assert isinstance(await device.run(code, outputs=[]), Completed)


async def test_sparse_files_are_bounded_by_what_is_read_of_them(device: Device) -> None:
    code = """
import os
for number in range(3):
    with open(f"{number}.bin", "wb") as file:
        file.truncate(200 << 20)
"""
    failed = await device.refused(code, "*.bin")
    assert failed.code == "output_too_large"
    assert "256 MiB" in failed.sentence


async def test_a_file_that_grows_for_ever_ends(device: Device) -> None:
    mark = new_mark()
    code = (
        marking(mark)
        + """
import os
open("log.txt", "w")
if os.fork() == 0:
    while True:
        try:
            os.truncate("log.txt", 0)
            with open("log.txt", "ab", 0) as file:
                for _ in range(64):
                    file.write(bytes(1 << 20))
        except OSError:
            pass
"""
    )
    outcome = await device.run(code, outputs=["log.txt"])
    assert isinstance(outcome, Completed | Failed)
    await until(lambda: not marked(mark))


async def test_more_files_than_may_be_are_not_begun(device: Device) -> None:
    code = """
for number in range(1_200):
    open(f"{number}.txt", "w").close()
"""
    failed = await device.refused(code, "*.txt")
    assert failed.code == "output_too_large"
    assert "1,000" in failed.sentence


async def test_a_hundred_thousand_files_end_the_program_or_the_search(device: Device) -> None:
    code = """
import os
for folder in range(100):
    os.mkdir(str(folder))
    for number in range(1_000):
        os.close(os.open(f"{folder}/{number}.txt", os.O_CREAT))
"""
    failed = await device.refused(code, "**/*.txt")
    assert failed.code == ("code_failed" if device.is_sandboxed else "output_too_large")
    assert "files" in failed.sentence


FORGING = """
import os, stat
def pipes():
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        try:
            if number > 2 and stat.S_ISFIFO(os.fstat(number).st_mode):
                yield number
        except OSError:
            continue
def say(*frames):
    for pipe in pipes():
        for tag, body in frames:
            try:
                os.write(pipe, tag + b"%d\\n" % len(body) + body)
            except OSError:
                pass
open("own.txt", "w").write("own")
"""


@pytest.mark.parametrize(
    "frames",
    [
        [(b"O", b"../../evil.txt"), (b"D", b"x"), (b"Z", b"")],
        [(b"O", b"/etc/evil.txt"), (b"D", b"x"), (b"Z", b"")],
        [(b"O", b".bashrc"), (b"D", b"x"), (b"Z", b"")],
        [(b"O", b".bashrc"), (b"D", b"x")],
        [(b"O", b"../../evil.txt"), (b"D", b"x")],
        [(b"O", b"a.txt"), (b"D", b"x"), (b"O", b"a.txt"), (b"D", b"y")],
        [(b"O", b"a.txt"), (b"O", b"a.txt/b.txt")],
        [(b"O", b"a.txt"), (b"Z", b"")],
        [(b"D", b"x")],
        [(b"?" * 40, b"")],
    ],
)
async def test_forged_frames_bring_nothing_that_was_not_asked_for(
    device: Device, frames: list[tuple[bytes, bytes]]
) -> None:
    failed = await device.refused(FORGING + f"say(*{frames!r})\n", "*.txt")
    assert failed.code == "code_failed"


async def test_a_forged_end_does_not_pass_for_a_program_that_was_killed(device: Device) -> None:
    frames = [(b"O", b"a.txt"), (b"D", b"x"), (b"Z", b"")]
    code = FORGING + f"say(*{frames!r})\nimport signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    assert (await device.refused(code, "*.txt")).code == "code_failed"


async def test_who_kills_the_one_that_stands_over_it_has_failed(device: Device) -> None:
    mark = new_mark()
    code = (
        marking(mark)
        + "import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)"
    )
    before = children()
    failed = await device.refused(code, "*.txt")
    assert failed.code == "code_failed"
    await until(lambda: not marked(mark))
    assert children() <= before


async def test_a_program_that_fails_or_leaves_early_is_told_as_without_files(
    device: Device,
) -> None:
    wrote = "open('a.txt', 'w').write('x')\n"
    failed = await device.refused(wrote + "1 / 0", "*.txt")
    assert (failed.code, failed.sentence) == ("code_failed", "ZeroDivisionError: division by zero")
    failed = await device.refused(wrote + "import sys\nsys.exit(3)", "*.txt")
    assert "status 3" in failed.sentence
    failed = await device.refused(wrote + "import os\nos.abort()", "*.txt")
    assert "SIGABRT" in failed.sentence
    assert await device.files(wrote + "import os\nos._exit(0)", "*.txt") == {"a.txt": b"x"}
    assert await device.files(wrote + "raise SystemExit", "*.txt") == {"a.txt": b"x"}
    became = "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo y > b.txt'])"
    assert await device.files(wrote + became, "*.txt") == {"a.txt": b"x", "b.txt": b"y\n"}


async def test_a_cancelled_run_leaves_nothing(device: Device) -> None:
    mark = new_mark()
    code = (
        marking(mark)
        + "open('a.txt', 'w').write('x')\nimport time\nprint(1, flush=True)\ntime.sleep(60)"
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: device.run(code, outputs=["*.txt"]))
        await device.printed.wait()
        nursery.cancel_scope.cancel()
    await until(lambda: not marked(mark))


@pytest.mark.parametrize("device", list(SANDBOXES), indirect=True)
async def test_inputs_are_all_that_a_sandbox_shows_of_the_store(device: Device) -> None:
    other = await device.store.store_bytes(b"another task's input")
    code = f"""
import os
lines = [line for line in open("/proc/self/mountinfo") if "/blobs/" in line]
reached = []
for path in ({str(device.folder)!r}, {str(device.folder / other)!r}, "data/../../blobs"):
    try:
        os.stat(path)
        reached.append(path)
    except OSError:
        pass
(len(lines), [{other!r} in line for line in lines], reached)
"""
    outcome = await device.run(code)
    assert isinstance(outcome, Completed), outcome
    assert outcome.value == [1, [False], []]


@pytest.mark.parametrize("language", ["bash", "javascript", "rust", "java"])
async def test_every_language_has_its_files(device: Device, language: str) -> None:
    programs = {
        "bash": "tr a-z A-Z < data/in.csv > out.csv",
        "javascript": """
            const fs = require("fs");
            fs.writeFileSync("out.csv", fs.readFileSync("data/in.csv", "utf8").toUpperCase());
        """,
        "rust": """
            use std::fs;
            fn main() {
                let text = fs::read_to_string("data/in.csv").unwrap();
                fs::write("out.csv", text.to_uppercase()).unwrap();
            }
        """,
        "java": """
            import java.nio.file.*;
            class Main {
                public static void main(String[] arguments) throws Exception {
                    String text = Files.readString(Path.of("data/in.csv"));
                    Files.writeString(Path.of("out.csv"), text.toUpperCase());
                }
            }
        """,
    }
    capabilities = await device.executor.probe_all()
    if language not in capabilities.languages:
        pytest.skip(f"this machine runs no {language}")
    assert await device.files(programs[language], "*.csv", language=language) == {
        "out.csv": INPUT.upper()
    }


async def test_a_node_that_was_killed_leaves_no_files_behind_for_long(tmp_path: Path) -> None:
    left = tmp_path / "work" / "files-abandoned"
    left.mkdir(parents=True)
    (left / "0").write_bytes(os.urandom(10))
    await CodeExecutor(work_root=tmp_path / "work").probe()
    assert not left.exists()
