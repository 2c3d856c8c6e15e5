"""The languages besides Python: which of them this device has, and how their programs are run.

A program is one file. It is built, where its language is compiled, and then takes the driver's
place in the cell, so that what ends, prints and is counted is the program itself. What is looked
for is the ordinary command of each language; whether it works is found out by running a program of
it in the sandbox (see `sandbox_probe`).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kowalski_executors.limits import MEBIBYTE, Limits
from kowalski_executors.payloads import Program

COMPILED_BYTES_MAX: Final = 32 * MEBIBYTE
"""What is kept of a compiled program; a larger one is compiled each time."""

_FOLDER: Final = "{folder}"
"""In a command: the program's own folder in the cell, which the driver chooses."""
_COMMAND_S: Final = 5.0
"""How long a command may take to say where its parts are."""
_BUILT: Final = "program"


@dataclass(frozen=True, slots=True)
class Job:
    """What the driver is asked to do (see its `main`)."""

    mode: bytes
    parts: tuple[bytes, ...]
    stdin: bytes = b""
    reserves_addresses: bool = False
    """Whether the language's runtime maps far more than it uses, so that the limit is on what is
    used and not on what is mapped."""
    kept_bytes_max: int = 0
    """How much the driver may send back of what it built."""


def python_job(program: Program) -> Job:
    """A program in Python, which the driver runs itself."""
    parts = (_joined(program.environment), program.code, *program.arguments)
    return Job(b"python", parts, program.stdin)


_SMALL: Final = Limits(wall_s=1.0, memory_bytes=64 * MEBIBYTE)


@dataclass(frozen=True, slots=True)
class Language:
    """A language of this device."""

    name: str
    file: str
    """What a program's file is called."""
    run: Callable[[Limits], Sequence[str]]
    build: Sequence[str] = ()
    """The command that makes the file `program` in the program's folder; empty where it is not
    compiled."""
    shown: Sequence[Path] = ()
    """Folders that its commands need besides /usr."""
    reserves_addresses: bool = False
    hello: str = ""
    """A program that prints the language's version."""
    version: str = ""
    """Set once it is known."""

    @property
    def command(self) -> Path:
        """The command that decides whether it works."""
        return Path(self.build[0] if self.build else self.run(_SMALL)[0])

    def job(self, program: Program, limits: Limits, compiled: bytes | None = None) -> Job:
        """What the driver has to do for a program, or for one that was compiled before."""
        build = b"" if compiled is not None else _words(self.build)
        file, content = (self.file, program.code) if compiled is None else (_BUILT, compiled)
        run = _words(self.run(limits))
        how = (_joined(program.environment), file.encode(), content, build, run)
        return Job(
            b"exec",
            (*how, *program.arguments),
            program.stdin,
            reserves_addresses=self.reserves_addresses and compiled is None,
            kept_bytes_max=COMPILED_BYTES_MAX if build else 0,
        )

    def key(self, program: Program) -> str | None:
        """By what a compiled program is known again; None where nothing is compiled."""
        if not self.build:
            return None
        digest = hashlib.sha256()
        for part in (self.name, self.version, *self.build):
            digest.update(part.encode() + b"\0")
        for part in (*program.environment, b"", program.code):  # a compiler may look at variables
            digest.update(part + b"\0")
        return digest.hexdigest()


def _words(command: Sequence[str]) -> bytes:
    return _joined([word.encode() for word in command])


def _joined(words: Sequence[bytes]) -> bytes:
    return b"\0".join(words)


def _bash() -> Language | None:
    found = shutil.which("bash")
    if found is None:
        return None
    command = (found, f"{_FOLDER}/main.sh")
    return Language("bash", "main.sh", lambda _: command, hello='echo "$BASH_VERSION"')


def _javascript() -> Language | None:
    found = shutil.which("node")
    if found is None:
        return None
    node = str(Path(found).resolve())

    def run(limits: Limits) -> Sequence[str]:
        # The heap is most of what it uses; it must notice its end before the limit does.
        heap_mb = max(16, limits.memory_bytes * 3 // 4 // MEBIBYTE)
        return (node, f"--max-old-space-size={heap_mb}", f"{_FOLDER}/main.js")

    return Language(
        "javascript",
        "main.js",
        run,
        shown=_node_parts(Path(node)),
        reserves_addresses=True,
        hello="console.log(process.versions.node)",
    )


def _rust() -> Language | None:
    found = shutil.which("rustc")
    if found is None or shutil.which("cc") is None:
        return None
    # What is found may be a switch between toolchains, which works in its owner's home alone.
    root = _output([found, "--print", "sysroot"])
    compiler = Path(root, "bin", "rustc")
    if not root or not compiler.is_file():
        return None
    build = (
        str(compiler),
        "--edition=2021",
        "--crate-name=program",
        "-Copt-level=2",
        "-Cstrip=symbols",
        "-o",
        f"{_FOLDER}/{_BUILT}",
        f"{_FOLDER}/main.rs",
    )
    version = _output([str(compiler), "--version"]).split()
    return Language(
        "rust",
        "main.rs",
        lambda _: (f"{_FOLDER}/{_BUILT}",),
        build,
        shown=[*_outside_usr(compiler, root=Path(root)), *_links("/etc/alternatives")],
        reserves_addresses=True,
        hello=f'fn main() {{ println!("{version[1] if len(version) > 1 else "unknown"}"); }}',
    )


def _java() -> Language | None:
    found = shutil.which("java")
    if found is None:
        return None
    java = Path(found).resolve()
    home = java.parent.parent
    if not (home / "bin" / "javac").exists():
        return None  # without a compiler it runs no source

    def run(limits: Limits) -> Sequence[str]:
        return (
            str(java),
            # It divides this among heap, code and stacks by itself.
            f"-XX:MaxRAM={limits.memory_bytes}",
            # What starts fast and has few threads: programs here are short.
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",
            "-Dfile.encoding=UTF-8",
            f"{_FOLDER}/Main.java",
        )

    settings = [path.resolve().parent for path in home.glob("conf/*") if path.is_symlink()]
    settings = [folder for folder in settings if folder.match("/etc/java*")]
    return Language(
        "java",
        "Main.java",
        run,
        shown=[*_outside_usr(java, root=home), *sorted({*settings})[:4]],
        reserves_addresses=True,
        hello=(
            "class Main { public static void main(String[] args) {"
            ' System.out.println(System.getProperty("java.version")); } }'
        ),
    )


_FINDERS: Final[Mapping[str, Callable[[], Language | None]]] = {
    "bash": _bash,
    "javascript": _javascript,
    "rust": _rust,
    "java": _java,
}


def find_languages() -> list[Language]:
    """The languages whose commands are on this device. Takes some 50 ms."""
    return [language for find in _FINDERS.values() if (language := find()) is not None]


def with_version(language: Language, version: str) -> Language:
    """The language, once a program of it has said its version."""
    return replace(language, version=version)


def _outside_usr(file: Path, *, root: Path | None = None) -> list[Path]:
    """The folder that must be shown for a file; nothing where it lies in /usr."""
    folder = root or file.parent.parent
    return [] if folder.is_relative_to("/usr") else [folder]


def _node_parts(node: Path) -> list[Path]:
    """The command's own folder where it has one, else the command alone."""
    folder = node.parent.parent
    is_its_own = (folder / "include" / "node").is_dir() and folder.name != ".local"
    return _outside_usr(node) if is_its_own or folder.is_relative_to("/usr") else [node]


def _links(folder: str) -> list[Path]:
    return [Path(folder)] if Path(folder).is_dir() else []


def _output(command: Sequence[str]) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_S, check=True
        )
        return done.stdout.strip()
    return ""
