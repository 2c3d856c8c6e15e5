"""Finds out what this device can run, by running it.

That a `bwrap` command is there says little: containers, hardened kernels and Ubuntu's AppArmor
rules refuse it the namespaces that it needs, and a sandbox that starts may still show too much. So
a program is run in the very sandbox that tasks would get. It computes something, and tries what no
task may be able to do: to read a file outside, to reach a listener on the device's loopback, to
write elsewhere than to its work folder, to see the node's processes. Only a sandbox in which all
that fails is offered; any other is refused with the cause and the command that mends it.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
from msgspec import structs

from kowalski_executors.bootstrap import driver
from kowalski_executors.bubblewrap import Bubblewrap
from kowalski_executors.confinement import Confinement
from kowalski_executors.interpreter import find_interpreter, folder_to_show
from kowalski_executors.languages import Language, find_languages, python_job
from kowalski_executors.limits import MEBIBYTE, Limits, kernel_counts_by_namespace
from kowalski_executors.payloads import Program
from kowalski_executors.seccomp import machine
from kowalski_executors.supervisor import Cause, Ending, supervise
from kowalski_executors.unsandboxed import Unsandboxed
from kowalski_executors.user_mapping import make_user_mapping
from kowalski_executors.warm import Warm
from kowalski_node.executor import Capabilities
from kowalski_protocol.errors import Problem

_log = logging.getLogger("kowalski.sandbox")

PROBE_S: Final = 5.0
"""How long a probe may take on a busy device."""

_RUN_S: Final = 3.0
"""How long the program in it may take."""

_MEMORY_BYTES: Final = 128 * MEBIBYTE

_INSTALL: Final = "sudo apt-get install bubblewrap"
_CONTAINER: Final = (
    "start the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined,"
    " or run the node outside of one"
)

# What the kernel or the distribution can be set to: file, the value that forbids, cause, mend.
_SETTINGS: Final = (
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor lets ordinary programs make no user namespaces",
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "the kernel lets ordinary users make no user namespaces",
        "sudo sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "the kernel is set to allow no user namespaces",
        "sudo sysctl -w user.max_user_namespaces=15000",
    ),
)

# Every "could" must come back false.
_PROGRAM: Final = """
import json, os, platform, socket, sys
asked = json.loads(sys.stdin.read())
could = {}
def attempt(what, action):
    try:
        could[what] = action()
    except OSError:
        could[what] = False
def read_outside():
    with open(asked["canary"]) as file:
        return file.read() == asked["secret"]
def reach_loopback():
    with socket.create_connection(("127.0.0.1", asked["port"]), timeout=1):
        return True
def write_outside():
    done = False
    for folder in ("/", "/usr", "/etc", "/dev", "/proc/sys/kernel", sys.prefix, asked["folder"]):
        file = os.path.join(folder, asked["file"])
        try:
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except OSError:
            continue
        done = True
        os.unlink(file)
    return done
def see_the_node():
    for name in os.listdir("/proc"):
        if name.isdecimal():
            if int(name) > 64:
                return True
            for file in ("environ", "cmdline"):
                try:
                    text = open(f"/proc/{name}/{file}", errors="replace").read()
                except OSError:
                    continue
                if asked["secret"] in text or asked["folder"] in text:
                    return True
    return False
attempt("read a file outside", read_outside)
attempt("reach the device's loopback", reach_loopback)
attempt("write outside the work folder", write_outside)
attempt("see the node's processes", see_the_node)
def keep_in_work_folder():
    with open("kept", "x") as file:
        file.write(asked["secret"])
    try:
        return open("kept").read()[::-1]
    finally:
        os.unlink("kept")
try:
    back = keep_in_work_folder()
except OSError as error:
    back = str(error)
{"could": could, "back": back, "version": platform.python_version()}
"""

_PLAIN_PROGRAM: Final = """
import json, platform, sys
{"could": {}, "back": json.loads(sys.stdin.read())["secret"][::-1],
 "version": platform.python_version()}
"""


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found: the way to run programs, if there is one, and what to tell the cluster."""

    confinement: Confinement | None
    capabilities: Capabilities
    languages: Sequence[Language] = ()
    """Those besides Python whose commands are here, not tried yet."""


class _Answer(msgspec.Struct):
    """What the probe's program gives back."""

    could: dict[str, bool]
    back: str
    version: str


class NoOutput:
    """The context of the probe's own program, whose output nobody waits for."""

    def write(self, stream: str, data: bytes) -> None:
        """Drops it: it is also in the ending."""

    async def open_blob(self, blob_hash: str) -> Path:
        """Programs open no blobs by themselves."""
        raise Problem("not_found", f"No blob {blob_hash}.")

    async def store_blob(self, source: Path) -> str:
        """Programs store no blobs by themselves."""
        raise Problem("not_found", f"No store for {source}.")


async def probe_sandbox(work_root: Path, *, warm: bool = True) -> Probed:
    """Tries a bubblewrap sandbox on this device, and whether programs can start warm in it."""
    languages = await trio.to_thread.run_sync(_languages, work_root)
    probed = await _probe_sandbox(work_root, languages, warm=warm)
    return replace(probed, languages=languages)


async def _probe_sandbox(work_root: Path, languages: Sequence[Language], *, warm: bool) -> Probed:
    cold = await _probe(work_root, partial(_make_bubblewrap, languages), _PROGRAM)
    outer = cold.confinement
    if not warm or not isinstance(outer, Bubblewrap):
        return cold
    forked = await _probe(work_root, lambda _: Warm(outer), _PROGRAM)
    if forked.confinement is not None:
        return forked
    _log.info("no warm starts: %s", " ".join(forked.capabilities.problems))
    problem = (
        "Programs start cold here, which takes some 20 ms more each: what runs in the sandbox may"
        " make no namespaces of its own."
    )
    problems = (*cold.capabilities.problems, problem)
    return replace(cold, capabilities=structs.replace(cold.capabilities, problems=problems))


async def probe_unsandboxed(work_root: Path) -> Probed:
    """Tries to run programs without a sandbox."""
    probed = await _probe(work_root, _make_unsandboxed, _PLAIN_PROGRAM)
    return replace(probed, languages=await trio.to_thread.run_sync(find_languages))


async def _probe(work_root: Path, make: Callable[[Path], Confinement], program: str) -> Probed:
    try:
        with trio.fail_after(PROBE_S):
            confinement = await trio.to_thread.run_sync(make, work_root, abandon_on_cancel=True)
            with _canaries(work_root) as asked:
                ending = await supervise(
                    confinement,
                    python_job(Program(program.encode(), stdin=json.dumps(asked).encode())),
                    Limits(wall_s=_RUN_S, memory_bytes=_MEMORY_BYTES),
                    NoOutput(),
                )
    except trio.TooSlowError:
        return _refused(f"The sandbox did not answer within {PROBE_S:g} s.")
    except Problem as problem:
        return _refused(problem.sentence, problem.mend)
    except OSError as error:
        return _refused(f"The sandbox can't be tried: {error}.")
    answer = _read_answer(ending)
    if answer is None:
        return _refused(*_why_not(ending))
    broken = [what for what, done in answer.could.items() if done]
    if broken:
        return _refused(f"In its sandbox a program could {' and '.join(broken)}.")
    if answer.back != asked["secret"][::-1]:
        return _refused(f"In its sandbox a program lost what it wrote ({answer.back[:100]}).")
    return Probed(
        confinement,
        Capabilities(
            kinds=("code",),
            languages={"python": answer.version},
            sandbox=confinement.strength,
            problems=_reservations(confinement),
        ),
    )


def _private(work_root: Path) -> list[Path]:
    """Folders that no sandbox may show."""
    private = [work_root]
    with suppress(RuntimeError):  # a user without a home folder has none to protect
        private.append(Path.home())
    return private


def _languages(work_root: Path) -> list[Language]:
    """The languages whose folders can be shown."""
    private = [folder.resolve() for folder in _private(work_root)]
    return [
        language
        for language in find_languages()
        if not any(folder.is_relative_to(shown) for shown in language.shown for folder in private)
    ]


def _make_bubblewrap(languages: Sequence[Language], work_root: Path) -> Confinement:
    if sys.platform != "linux":
        raise Problem("sandbox_unavailable", "A sandbox for code exists on Linux only.")
    command = shutil.which("bwrap")
    if command is None:
        raise Problem(
            "sandbox_unavailable", "The sandbox command bwrap is not installed.", mend=_INSTALL
        )
    work_root.mkdir(mode=0o700, parents=True, exist_ok=True)
    interpreter = find_interpreter()
    own = folder_to_show(interpreter, _private(work_root))
    shown = [*([own] if own is not None else []), *(f for one in languages for f in one.shown)]
    return Bubblewrap(
        Path(command),
        driver(),
        interpreter,
        shown,
        make_user_mapping(interpreter.executable),
        machine(),
        # Before, it counts all processes of the user, and a limit of 64 would leave a desktop's
        # user none. User 0 is exempt from it anyway.
        kernel_counts_by_namespace() and os.geteuid() != 0,
    )


def _make_unsandboxed(work_root: Path) -> Confinement:
    if sys.platform != "linux":
        raise Problem("sandbox_unavailable", "Code runs on Linux only in this release.")
    work_root.mkdir(mode=0o700, parents=True, exist_ok=True)
    confinement = Unsandboxed(driver(), find_interpreter(), work_root)
    confinement.sweep()
    return confinement


@contextmanager
def _canaries(work_root: Path) -> Iterator[dict[str, Any]]:
    """Lays out what a sandboxed program must not find, and says where it is."""
    secret = secrets.token_hex(16)
    canary = work_root / f"canary-{secrets.token_hex(4)}"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        try:
            canary.write_text(secret, encoding="ascii")
            yield {
                "canary": str(canary.absolute()),
                "folder": str(work_root.absolute()),
                "file": f"kowalski-{secrets.token_hex(8)}",
                "secret": secret,
                "port": listener.getsockname()[1],
            }
        finally:
            canary.unlink(missing_ok=True)


def _read_answer(ending: Ending) -> _Answer | None:
    if ending.cause is not None or ending.status != 0 or not ending.frame.startswith(b"V"):
        return None
    try:
        return msgspec.json.decode(memoryview(ending.frame)[1:], type=_Answer)
    except msgspec.MsgspecError:
        return None


def _why_not(ending: Ending) -> tuple[str, str | None]:
    """Returns the cause and the mend for a sandbox in which the program did not run to its end."""
    said = (ending.detail or ending.stderr.decode("utf-8", "replace")).strip()[-300:]
    if ending.cause is Cause.TIMED_OUT:
        return f"The sandbox did not run a program within {_RUN_S:g} s.", None
    if ending.frame:
        return f"In its sandbox a plain program failed: {said}.", None
    if "Unknown option" in said:
        return f"bubblewrap is too old, 0.7 or newer is needed ({said}).", _INSTALL
    if os.geteuid() != 0:
        for file, forbidding, cause, mend in _SETTINGS:
            try:
                if Path(file).read_text(encoding="ascii").strip() == forbidding:
                    return f"bubblewrap can't make a sandbox, since {cause} ({said}).", mend
            except OSError:
                continue
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        cause = "this container may not make namespaces"
        return f"bubblewrap can't make a sandbox, since {cause} ({said}).", _CONTAINER
    return f"bubblewrap can't make a sandbox here: {said or f'status {ending.status}'}.", None


def _reservations(confinement: Confinement) -> tuple[str, ...]:
    """Returns what is weaker here than it could be, though programs are confined."""
    if not isinstance(confinement, Bubblewrap | Warm):
        return ()
    weaker: list[str] = []
    if machine() is None:
        weaker.append(
            f"There is no system call filter for {platform.machine()}: code is confined by"
            " namespaces alone."
        )
    if os.geteuid() == 0 and not confinement.own_users:
        weaker.append(
            "The node runs as root and can't give code a user of its own here (CAP_SETUID is"
            " missing). To mend it: run the node as an ordinary user."
        )
    return tuple(weaker)


def _refused(sentence: str, mend: str | None = None) -> Probed:
    told = sentence + (f" To mend it: {mend}" if mend else "")
    return Probed(None, Capabilities(kinds=(), problems=(told,)))
