"""Holds a program in namespaces of its own, made by bubblewrap.

The program has its own user, mount, process, network, IPC and host-name namespaces, no capability,
no way to gain one, and a filter on system calls. It sees /usr, the interpreter, a /proc of its own
processes, five devices and three file systems in memory, of which /task is where it starts;
everything else is read-only or not there. It has no network but a loopback of its own, and no
environment of the node's.

How it ends matters as much. bubblewrap stays outside as a monitor; inside, process 1 is our warden
(see `warden.py`), and when that ends, for whatever reason, the kernel kills all that is in the
namespace, double-forked or not. So to kill a program is to kill its process 1, or to cut the
warden's lifeline; a node that dies cuts it. Process 1 is hidden from the program, which could
otherwise reach into its memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from kowalski_executors.interpreter import Interpreter
from kowalski_executors.limits import Limits
from kowalski_executors.seccomp import filter_program
from kowalski_executors.user_mapping import SANDBOX_ID, UserMapping
from kowalski_protocol.errors import Problem

WORK_FOLDER: Final = "/task"
"""Where a program starts, and the only folder that is its own."""

WRITABLE: Final = (WORK_FOLDER, "/tmp", "/dev/shm")
"""The file systems that a program may write to."""

_ENVIRONMENT: Final[Mapping[str, str]] = {
    "HOME": WORK_FOLDER,
    "LANG": "C.UTF-8",
    # An allocator's arena maps 64 MiB: one per thread would use up the address space for nothing.
    "MALLOC_ARENA_MAX": "2",
    "PATH": "/usr/bin:/bin",
    "TMPDIR": "/tmp",
    "USER": "task",
}

_DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_LINKS_IN_DEV: Final = {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_ROOT_FOLDERS: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


class _Info(msgspec.Struct):
    """The part of what `bwrap --info-fd` writes that is used here."""

    first: int = msgspec.field(name="child-pid")


class Bubblewrap:
    """Confines programs with the `bwrap` command. Keeps the system call filter in a descriptor."""

    strength = "bubblewrap"

    def __init__(
        self,
        executable: Path,
        interpreter: Interpreter,
        shown: Path | None,
        mapping: UserMapping | None,
        machine: str | None,
        kernel_counts_processes: bool,
    ) -> None:
        self.own_users = mapping is not None
        """Whether a program runs under a user that owns nothing outside."""
        self._mapping = mapping
        self._interpreter = interpreter
        self._kernel_counts_processes = kernel_counts_processes or mapping is not None
        self._static = [
            str(executable),
            "--unshare-pid",
            "--unshare-net",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup-try",
            "--as-pid-1",
            "--new-session",
            "--hostname",
            "sandbox",
            # Without this, a bubblewrap that root starts hands root's capabilities on.
            "--cap-drop",
            "ALL",
            *_read_only_view(shown),
        ]
        self._filter: int | None = None
        if machine is not None:
            self._filter = os.memfd_create("kowalski-system-calls", os.MFD_CLOEXEC)
            weakref.finalize(self, os.close, self._filter)
            os.write(self._filter, filter_program(machine))

    @asynccontextmanager
    async def open(self, limits: Limits) -> AsyncIterator[BubblewrapCell]:
        """Opens a cell. Raises Problem where this device runs as many programs as it may."""
        with ExitStack() as closing:
            user = SANDBOX_ID
            names = ["--unshare-user"]
            inherited: list[int] = []
            if self._mapping is not None:
                taken = self._mapping.take()
                if taken is None:
                    raise Problem("executor_failed", "This device runs too many programs at once.")
                closing.callback(self._mapping.give_back, taken)
                user = taken
                names = ["--userns", str(self._mapping.namespace)]
                inherited.append(self._mapping.namespace)
            # A file, not a pipe: bubblewrap would break off at a pipe that the node's death has
            # closed, and leave behind a child that waits for it.
            info = os.memfd_create("kowalski-sandbox", os.MFD_CLOEXEC)
            closing.callback(os.close, info)
            lifeline_read, lifeline_write = os.pipe2(os.O_CLOEXEC)
            cell = BubblewrapCell(
                info, lifeline_read, lifeline_write, self._kernel_counts_processes
            )
            closing.callback(cell.close)
            inherited += [info, lifeline_read]
            options = ["--uid", str(user), "--gid", str(user), "--info-fd", str(info)]
            if self._filter is not None:
                # A descriptor with an offset of its own: bubblewrap reads it to its end.
                opened = os.open(f"/proc/self/fd/{self._filter}", os.O_RDONLY | os.O_CLOEXEC)
                cell.given_up_at_start.append(opened)
                inherited.append(opened)
                options += ["--seccomp", str(opened)]
            cell.descriptors = inherited
            cell.command = [
                *self._static,
                *names,
                *options,
                *_memory_file_systems(limits),
                "--chdir",
                WORK_FOLDER,
                "--",
                str(self._interpreter.executable),
            ]
            yield cell


class BubblewrapCell:
    """One set of namespaces. Its process 1 is known as soon as bubblewrap has made them."""

    directory: Path | None = None

    def __init__(
        self, info: int, lifeline_read: int, lifeline_write: int, kernel_counts_processes: bool
    ) -> None:
        self.command: Sequence[str] = ()
        self.descriptors: Sequence[int] = ()
        self.environment: Mapping[str, str] = {}
        self.kernel_counts_processes = kernel_counts_processes
        self.lifeline = lifeline_read
        self.given_up_at_start = [lifeline_read]
        self._lifeline_write: int | None = lifeline_write
        self._info = info
        self._first: int | None = None
        self._first_descriptor: int | None = None
        self._monitor: subprocess.Popen[bytes] | None = None
        self._volumes: list[int] | None = None

    def started(self, process: subprocess.Popen[bytes]) -> None:
        self._monitor = process
        self._give_up()

    def root(self) -> int | None:
        monitor = self._monitor
        if self._first_descriptor is None and monitor is not None and monitor.returncode is None:
            # bubblewrap writes this before it lets process 1 go on, and it is that process's
            # parent: while it is not reaped itself, the number is not given to another process.
            with suppress(msgspec.MsgspecError, OSError):
                first = msgspec.json.decode(os.pread(self._info, 4096, 0), type=_Info).first
                self._first_descriptor = os.pidfd_open(first)
                self._first = first
        return self._first_descriptor

    def process_folders(self) -> list[Path]:
        if self.root() is None:
            return []
        # Process 1's own view of /proc shows exactly the processes of its namespace.
        folder = Path("/proc", str(self._first), "root", "proc")
        try:
            return [folder / name for name in os.listdir(folder) if name.isdecimal()]  # noqa: PTH208
        except OSError:
            return []

    def volumes(self) -> Sequence[int]:
        if self._volumes is None and self.root() is not None:
            self._volumes = []
            base = Path("/proc", str(self._first), "root")
            with suppress(OSError):
                for path in WRITABLE:
                    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                    self._volumes.append(os.open(f"{base}{path}", flags))
        return self._volumes or ()

    def kill(self, *, insist: bool = False) -> None:
        monitor = self._monitor
        if monitor is None:
            return
        first = self.root()
        if first is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(first, signal.SIGKILL)
        if monitor.returncode is None:
            # Before process 1 has a session of its own it is in the monitor's process group, so the
            # two die together; after that, it finds its lifeline cut.
            with suppress(ProcessLookupError):
                os.killpg(monitor.pid, signal.SIGKILL)
        self._cut()

    def close(self) -> None:
        """Gives all descriptors back."""
        self._give_up()
        self._cut()
        for descriptor in (self._first_descriptor, *(self._volumes or ())):
            if descriptor is not None:
                os.close(descriptor)

    def _cut(self) -> None:
        if self._lifeline_write is not None:
            os.close(self._lifeline_write)
            self._lifeline_write = None

    def _give_up(self) -> None:
        while self.given_up_at_start:
            os.close(self.given_up_at_start.pop())


def _read_only_view(shown: Path | None) -> list[str]:
    """Returns the options that show what an interpreter needs, all of it read-only."""
    options = ["--ro-bind", "/usr", "/usr"]
    for name in _ROOT_FOLDERS:
        folder = Path("/", name)
        if folder.is_symlink():  # the usual case: /lib is usr/lib
            options += ["--symlink", os.readlink(folder), str(folder)]  # noqa: PTH115
        elif folder.is_dir():
            options += ["--ro-bind", str(folder), str(folder)]
    options += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    if shown is not None:
        options += ["--ro-bind", str(shown), str(shown)]
    # What lies over process 1 hides its memory, its descriptors and its command line.
    options += ["--proc", "/proc"]
    options += ["--size", "4096", "--tmpfs", "/proc/1", "--remount-ro", "/proc/1"]
    for name in _DEVICES:
        options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in _LINKS_IN_DEV.items():
        options += ["--symlink", f"/proc/self/{target}", f"/dev/{name}"]
    options.append("--clearenv")
    for name, value in _ENVIRONMENT.items():
        options += ["--setenv", name, value]
    return options


def _memory_file_systems(limits: Limits) -> list[str]:
    """Returns the options for what a program may write to, and for nothing else being writable."""
    options: list[str] = []
    for path in WRITABLE:
        size = limits.work_folder_bytes if path == WORK_FOLDER else limits.scratch_bytes
        mode = "0755" if path == WORK_FOLDER else "1777"
        options += ["--perms", mode, "--size", str(size), "--tmpfs", path]
    # The root is a file system in memory as well, without a bound, and would belong to the program.
    return [*options, "--remount-ro", "/"]
