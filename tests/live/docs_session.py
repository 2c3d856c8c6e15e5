"""Plays the manual: what a page tells a reader to type is typed, and what it shows is compared.

A page marks what is played with a comment before the fence. `<!-- run -->` stands before a session:
lines after `$ ` are commands (`> ` goes on with one), the others are what they print.
`<!-- file NAME -->` stands before a file that the page has the reader write. All sessions of a page
run in one shell, with a home folder and ports of its own, so a page can be played anywhere. A page
that takes running nodes for granted names them: `<!-- cluster: desk, laptop -->`.

A page shows the output of a real run. Times, sizes, ids, peer IDs and ports differ from run to
run, so both sides are blurred before they are compared (`blur`); everything else must be the same.
`...` stands for a part that is left out, and on a line of its own for any number of lines. A
command that only looks is asked again until it shows what the page shows, for a while: a reader
does the same. `python -m tests.live.docs_session PAGE...` plays pages and writes into them what
was printed, so that a page shows one run.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import trio

from kowalski_gateway.local_cluster import LocalCluster

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
READER: Final = "/home/ada"
"""Where the reader's home is on the pages."""
LOOK_AGAIN_S: Final = 25.0
COMMAND_S: Final = 90.0
POLL_S: Final = 0.25
API_PORT: Final = 52420
END: Final = "end-of-command"

MARK: Final = re.compile(r"^<!-- (run|file (?P<name>[\w./-]+)) -->$")
CLUSTER: Final = re.compile(r"^<!-- cluster: ([\w, ]+) -->$", re.MULTILINE)
DEVICES: Final = {
    "desk": (),
    "laptop": ("--label", "room=study"),
    "mini": ("--label", "room=attic", "--slots", "1"),
}
"""The nodes that a page may take for granted, with their options; the reader is at the first."""
PORT: Final = re.compile(r"\b524\d\d\b")
LOOKS: Final = re.compile(
    r"^(kowalski (status|devices|tasks|why|result|logs|doctor|audit|replay|weights$)"
    r"|curl |cat |tail |grep |sqlite3 )"
)
"""Commands that change nothing, so that they can be repeated."""
SLOW: Final = re.compile(r"^task [0-9a-f]{12}$")
"""What `submit --wait` says of a task that has not ended at once: how soon one does, differs."""
JOBS: Final = re.compile(r"^(\S*bash|\S+): line \d+: +\d+ (Killed|Terminated)|^\[\d+\]")
"""What the shell says of processes that ended; a shell without a terminal says it anywhere."""


@dataclass
class Command:
    """One command of a page and what the page shows of its output."""

    text: str
    shown: list[str]
    first_line: int
    """The index of the page's line where its output begins."""


@dataclass
class Step:
    """Something that is played: a file to write, or commands."""

    line: int
    file: str | None = None
    content: str = ""
    commands: list[Command] = field(default_factory=list[Command])


def steps_of(page: str) -> Iterator[Step]:
    """What a page has to play, from its beginning."""
    lines = page.splitlines()
    for at, line in enumerate(lines):
        marked = MARK.match(line)
        if marked is None:
            continue
        start = at + 1
        assert lines[start].startswith("```"), f"line {at + 1}: no fence follows the mark"
        end = next(i for i in range(start + 1, len(lines)) if lines[i] == "```")
        body = lines[start + 1 : end]
        if marked["name"]:
            yield Step(at + 1, file=marked["name"], content="\n".join(body) + "\n")
        else:
            yield Step(at + 1, commands=[*_commands(body, start + 1)])


def _commands(body: Sequence[str], offset: int) -> Iterator[Command]:
    command: Command | None = None
    for index, line in enumerate(body):
        if line.startswith("$ "):
            if command is not None:
                yield command
            command = Command(line[2:], [], offset + index + 1)
        elif command is not None and line.startswith("> ") and not command.shown:
            command.text += "\n" + line[2:]
            command.first_line = offset + index + 1
        elif command is not None:
            command.shown.append(line)
    if command is not None:
        yield command


LANGUAGE: Final = r"(?:bash|java|javascript|python|rust)\b(?: \d[\w.()-]*| PYTHON)?"
"""A language that a device has, with its version or without: each machine has others."""
BLURS: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"kow1\.[\w-]+", "TOKEN"),
        (r"12D3KooW\w{44}", "PEER"),
        (r"…\w{8}\b", "…PEER"),
        (r"\b(?:[0-9a-f]{8}-){7}[0-9a-f]{8}\b", "CODE"),
        (r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b(…?)", "HEX"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?", "TIME"),
        (r"pid=\d+", "pid=N"),
        (r"\b(just now|\d+ (s|min|h|d) ago)\b", "AGO"),
        (r"\+\d+\.\d{3} s", "+T"),
        (r"\b[\d.,]+ (events|tasks)/s", r"RATE"),
        (r"\b\d[\d,.]* ?(ms|s|min|h)\b", "DURATION"),
        (r"\b\d[\d,.]* ?(B|KiB|MiB|GiB|TiB|bytes)\b", "SIZE"),
        (r"\b\d+ %", "N %"),
        (r"/tcp/\d+", "/tcp/PORT"),
        (r"^(events|signatures) +[\d,]+( in [\d,]+ frames)?", r"\1 N"),
        (r"^Wrote [\d,]+ events", "Wrote N events"),
        (r"^\d+\|TIME\|", "POSITION|TIME|"),
        (r"^TIME\|[\d.]+$", "TIME|NUMBER"),
        (r"\b\d/\d+ +[\d,]+ ", "RUNS DONE "),
        (r"\b0\.\d{3}\b", "SCORE"),
        (r"\b3\.\d+\.\d+\b", "PYTHON"),
        (rf"\b{LANGUAGE}(?:, {LANGUAGE})*", "LANGUAGES"),
        (r"\b\d{13,}\b|\b\d{10}\.\d+\b", "MOMENT"),
        (r" {2,}", "  "),
    )
)


def blur(line: str) -> str:
    """The line without what differs from run to run."""
    for pattern, replacement in BLURS:
        line = pattern.sub(replacement, line)
    return line.strip()


def as_shown(shown: Sequence[str], printed: Sequence[str]) -> list[str] | None:
    """What was printed, with what the page leaves out left out; None where they differ."""
    return _aligned([line for line in shown if line.strip()], [*printed])


def _aligned(want: list[str], have: list[str]) -> list[str] | None:
    if have and not have[0].strip():
        rest = _aligned(want, have[1:])
        return None if rest is None else ["", *rest]
    if not want or not have:
        return [] if not have and want in ([], ["..."]) else None
    if want[0] == "...":
        for at in range(len(have) + 1):
            rest = _aligned(want[1:], have[at:])
            if rest is not None:
                return ["...", *rest]
        return None
    if not _line_matches(blur(want[0]), blur(have[0])):
        return None
    rest = _aligned(want[1:], have[1:])
    return None if rest is None else [want[0] if "..." in want[0] else have[0], *rest]


def _line_matches(want: str, have: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in want.split("..."))
    return re.fullmatch(pattern, have) is not None


class Shell:
    """The reader's shell, in a home folder of its own; all that it started ends with it."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.home = folder / "ada"
        self.home.mkdir(parents=True)
        self._ports: dict[str, str] = {}
        if environment is not None:
            self._ports[str(API_PORT)] = environment["KOWALSKI_API"].rpartition(":")[2]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("KOWALSKI", "XDG"))}
        self._environment = {
            **inherited,
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}:{inherited.get('PATH', '')}",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "PYTHONUNBUFFERED": "1",
            # Nothing on the machine's network may be part of the session.
            "KOWALSKI_NO_MDNS": "1",
            "KOWALSKI_API": f"127.0.0.1:{self._port(str(API_PORT))}",
            **(environment or {}),
        }

    def __enter__(self) -> Self:
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=self.home,
            start_new_session=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        for pipe in (self._bash.stdin, self._bash.stdout):
            if pipe is not None:
                pipe.close()

    def _port(self, shown: str) -> str:
        """The free port that stands for one on the page."""
        if shown not in self._ports:
            with socket.create_server(("127.0.0.1", 0)) as found:
                self._ports[shown] = str(found.getsockname()[1])
        return self._ports[shown]

    def write(self, name: str, content: str) -> None:
        """The reader writes a file, in the folder where the shell is."""
        folder = Path(self.run("pwd -P")[0][0].replace(READER, str(self.home)))
        (folder / name).write_text(content, encoding="utf-8")

    def run(self, command: str) -> tuple[list[str], int]:
        """What a command prints, as the reader of the page would see it, and its exit code."""
        typed = PORT.sub(lambda port: self._port(port[0]), command).replace(READER, str(self.home))
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{typed}\nprintf '\\n{END} %d\\n' $?\n".encode())
        self._bash.stdin.flush()
        text = self._read_until_end(command)
        printed, _, code = text.rpartition(f"\n{END} ")
        for real, shown in self._names():
            printed = printed.replace(real, shown)
        lines = [line for line in printed.splitlines() if not JOBS.match(line)]
        return lines, int(code)

    def _names(self) -> Iterator[tuple[str, str]]:
        home = self._environment.get("KOWALSKI_HOME")
        if home is not None:
            yield home, f"{READER}/.local/share/kowalski"
        yield str(self.home), READER
        yield str(ROOT), f"{READER}/kowalski"
        for shown, real in self._ports.items():
            yield f":{real}", f":{shown}"

    def _read_until_end(self, command: str) -> str:
        assert self._bash.stdout is not None
        output = self._bash.stdout.fileno()
        deadline = time.monotonic() + COMMAND_S
        read = b""
        while re.search(rb"\n" + END.encode() + rb" \d+\n$", read) is None:
            left_s = deadline - time.monotonic()
            ready, _, _ = select.select([output], [], [], max(0.0, left_s))
            piece = os.read(output, 1 << 16) if ready else b""
            if not piece:
                raise TimeoutError(f"{command!r} did not end; so far:\n{read.decode()}")
            read += piece
        return read.decode("utf-8", "replace").rstrip("\n")


@dataclass
class Played:
    """A command of a page and what came of it."""

    command: Command
    printed: list[str]
    code: int
    as_shown: list[str] | None
    """What was printed, in the page's form; None where that is not what the page shows."""

    def __str__(self) -> str:
        shown = "\n".join(f"  | {line}" for line in self.command.shown) or "  | (nothing)"
        printed = "\n".join(f"  | {line}" for line in self.printed) or "  | (nothing)"
        return (
            f"line {self.command.first_line}: $ {self.command.text}\n shown:\n{shown}\n"
            f" printed (exit {self.code}):\n{printed}"
        )


def play(page: str, shell: Shell) -> list[Played]:
    """Plays all of a page."""
    played: list[Played] = []
    for step in steps_of(page):
        if step.file is not None:
            shell.write(step.file, step.content)
        played += [_played(command, shell) for command in step.commands]
    return played


def _played(command: Command, shell: Shell) -> Played:
    until = time.monotonic() + LOOK_AGAIN_S
    while True:
        printed, code = shell.run(command.text)
        if not any(map(SLOW.match, command.shown)):
            printed = [line for line in printed if not SLOW.match(line)]
        good = as_shown(command.shown, printed) if code == 0 or _may_fail(command) else None
        if good is not None or not LOOKS.match(command.text) or time.monotonic() > until:
            return Played(command, printed, code, good)
        time.sleep(POLL_S)  # poll: what the cluster shows


def _may_fail(command: Command) -> bool:
    """Whether the page shows that the command fails."""
    return any(line.startswith(("error:", "error [", "kowalski-node: ")) for line in command.shown)


def rewritten(page: str, played: Sequence[Played]) -> str:
    """The page with what was really printed, all of one run."""
    lines = page.splitlines()
    for one in reversed(played):
        first = one.command.first_line
        real = one.printed if one.as_shown is None else one.as_shown
        lines[first : first + len(one.command.shown)] = [line.rstrip() for line in real]
    return "\n".join(lines) + "\n"


@contextmanager
def reader_of(page: str, folder: Path) -> Iterator[Shell]:
    """The shell of a page's reader, with the nodes that the page takes for granted."""
    named = CLUSTER.search(page)
    if named is None:
        with Shell(folder) as shell:
            yield shell
        return
    cluster = LocalCluster(folder / "cluster")

    async def begin() -> None:
        await cluster.__aenter__()
        for name in map(str.strip, named[1].split(",")):
            await cluster.add(name, *DEVICES[name])
        await cluster.settle_down()
        for node in cluster.nodes:
            await node.close_client()

    try:
        trio.run(begin)
        first = cluster.nodes[0]
        api = first.url.removeprefix("http://")
        with Shell(folder, {"KOWALSKI_API": api, "KOWALSKI_HOME": str(first.home)}) as shell:
            yield shell
    finally:
        trio.run(cluster.__aexit__, None, None, None)


def main(pages: Sequence[str]) -> None:
    """Plays pages and writes into them what was really printed."""
    for path in map(Path, pages):
        page = path.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder, reader_of(page, Path(folder)) as shell:
            played = play(page, shell)
        path.write_text(rewritten(page, played), encoding="utf-8")
        differing = [str(one) for one in played if one.as_shown is None]
        sys.stdout.write("\n\n".join([*differing, f"{path}: {len(differing)} differed\n"]))


if __name__ == "__main__":
    main(sys.argv[1:])
