"""Holds a program in namespaces of its own, made by bubblewrap.

The program has its own user, mount, process, network, IPC and host-name namespaces, no capability,
no way to gain one, and a filter on system calls. It sees /usr, the interpreter, a /proc of its own
processes, five devices and three file systems in memory, of which /task is where it starts;
everything else is read-only or not there. A task's inputs are the blobs' own files, read-only; in
/proc/self/mountinfo the program finds where on the device they lie, which gives it no way there. It
has no network but a loopback of its own, and no environment of the node's.

How it ends matters as much. bubblewrap stays outside as a monitor; inside, process 1 is our warden
(see `warden.py`), and when that ends, for whatever reason, the kernel kills all that is in the
namespace, double-forked or not. So to kill a program is to kill its process 1, or to cut the
warden's lifeline; a node that dies cuts it. Process 1 is hidden from the program, which could
otherwise reach into its memory.
"""

from __future__ import annotations

import os
import signal
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from kowalski_executors.bootstrap import Bootstrap
from kowalski_executors.input_files import Input, make_readable
from kowalski_executors.interpreter import ENVIRONMENT, Interpreter
from kowalski_executors.limits import Limits
from kowalski_executors.namespaces import WORK_FOLDER, WRITABLE, Namespaces
from kowalski_executors.process_cell import ProcessCell
from kowalski_executors.seccomp import filter_program
from kowalski_executors.user_mapping import SANDBOX_ID, UserMapping
from kowalski_protocol.errors import Problem

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
        bootstrap: Bootstrap,
        interpreter: Interpreter,
        shown: Sequence[Path],
        mapping: UserMapping | None,
        machine: str | None,
        kernel_counts_processes: bool,
    ) -> None:
        self.own_users = mapping is not None
        """Whether a program runs under a user that owns nothing outside."""
        self._bootstrap = bootstrap
        self._mapping = mapping
        self._interpreter = interpreter
        self.kernel_counts_processes = kernel_counts_processes or mapping is not None
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
        self.filter_program = filter_program(machine) if machine is not None else b""
        """The filter on system calls; empty where there is none for this machine."""
        self._filter: int | None = None
        if self.filter_program:
            self._filter = os.memfd_create("kowalski-system-calls", os.MFD_CLOEXEC)
            weakref.finalize(self, os.close, self._filter)
            os.write(self._filter, self.filter_program)

    @asynccontextmanager
    async def open(
        self, limits: Limits, inputs: Sequence[Input] = ()
    ) -> AsyncIterator[BubblewrapCell]:
        """Opens a cell. Raises Problem where this device runs as many programs as it may."""
        if inputs and self._mapping is not None:
            await trio.to_thread.run_sync(make_readable, inputs)
        with ExitStack() as closing:
            users, inherited = self._user(closing)
            # A file, not a pipe: bubblewrap would break off at a pipe that the node's death has
            # closed, and leave behind a child that waits for it.
            info = os.memfd_create("kowalski-sandbox", os.MFD_CLOEXEC)
            closing.callback(os.close, info)
            cell = BubblewrapCell(self._bootstrap, info, self.kernel_counts_processes)
            closing.callback(cell.close)
            options = ["--info-fd", str(info)]
            if self._filter is not None:
                # A descriptor with an offset of its own: bubblewrap reads it to its end.
                opened = os.open(f"/proc/self/fd/{self._filter}", os.O_RDONLY | os.O_CLOEXEC)
                cell.given_up_at_start.append(opened)
                inherited.append(opened)
                options += ["--seccomp", str(opened)]
            cell.inherited = [*inherited, info]
            cell.command = [
                *self._static,
                *users,
                *options,
                *_memory_file_systems(limits),
                *_bound(inputs),
                "--chdir",
                WORK_FOLDER,
                "--",
                str(self._interpreter.executable),
            ]
            yield cell

    def outer_command(self, closing: ExitStack) -> tuple[list[str], list[int]]:
        """The interpreter in a sandbox for a zygote, and the descriptors that it inherits.

        Without a filter, since its children make namespaces; with an uncovered /proc, since the
        kernel lets nobody mount another one who can't see all of this one; and with nothing to
        write to. What the sandbox needs as long as it stands is put into `closing`.
        """
        users, inherited = self._user(closing)
        folders = [word for path in WRITABLE for word in ("--dir", path)]
        executable = str(self._interpreter.executable)
        return [*self._static, *users, *folders, "--remount-ro", "/", "--", executable], inherited

    def _user(self, closing: ExitStack) -> tuple[list[str], list[int]]:
        """Options for the user that a program runs as, and the descriptors that they name."""
        if self._mapping is None:
            return ["--unshare-user", "--uid", str(SANDBOX_ID), "--gid", str(SANDBOX_ID)], []
        user = self._mapping.take()
        if user is None:
            raise Problem("executor_failed", "This device runs too many programs at once.")
        closing.callback(self._mapping.give_back, user)
        namespace = self._mapping.namespace
        return ["--userns", str(namespace), "--uid", str(user), "--gid", str(user)], [namespace]


class BubblewrapCell(ProcessCell):
    """One set of namespaces. Its process 1 is known as soon as bubblewrap has made them."""

    def __init__(self, bootstrap: Bootstrap, info: int, kernel_counts_processes: bool) -> None:
        super().__init__(bootstrap)
        self.kernel_counts_processes = kernel_counts_processes
        self._info = info
        self._namespaces: Namespaces | None = None

    def root(self) -> int | None:
        monitor = self.process
        if self._namespaces is None and monitor is not None and monitor.returncode is None:
            # bubblewrap writes this before it lets process 1 go on, and it is that process's
            # parent: while it is not reaped itself, the number is not given to another process.
            with suppress(msgspec.MsgspecError, OSError):
                first = msgspec.json.decode(os.pread(self._info, 4096, 0), type=_Info).first
                self._namespaces = Namespaces(first, os.pidfd_open(first))
        return self._namespaces.descriptor if self._namespaces is not None else None

    def process_folders(self) -> list[Path]:
        return self._namespaces.process_folders() if self.root() and self._namespaces else []

    def volumes(self) -> Sequence[int]:
        return self._namespaces.volumes() if self.root() and self._namespaces else ()

    def kill(self, *, insist: bool = False) -> None:
        monitor = self.process
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
        super().kill()

    def close(self) -> None:
        super().close()
        if self._namespaces is not None:
            self._namespaces.close()
            self._namespaces = None


def _read_only_view(shown: Sequence[Path]) -> list[str]:
    """Returns the options that show what an interpreter needs, all of it read-only."""
    options = ["--ro-bind", "/usr", "/usr"]
    for name in _ROOT_FOLDERS:
        folder = Path("/", name)
        if folder.is_symlink():  # the usual case: /lib is usr/lib
            options += ["--symlink", os.readlink(folder), str(folder)]  # noqa: PTH115
        elif folder.is_dir():
            options += ["--ro-bind", str(folder), str(folder)]
    options += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for folder in dict.fromkeys(shown):
        # One that has gone since, as after an upgrade, must not stop every program.
        options += ["--ro-bind-try", str(folder), str(folder)]
    options += ["--proc", "/proc"]
    for name in _DEVICES:
        options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in _LINKS_IN_DEV.items():
        options += ["--symlink", f"/proc/self/{target}", f"/dev/{name}"]
    options.append("--clearenv")
    for name, value in {**_ENVIRONMENT, **ENVIRONMENT}.items():
        options += ["--setenv", name, value]
    return options


def _bound(inputs: Sequence[Input]) -> list[str]:
    """Returns the options that show each input at its place, read-only. bubblewrap makes the
    folders above it, which are the program's own."""
    options: list[str] = []
    for one in inputs:
        options += ["--ro-bind", str(one.source), f"{WORK_FOLDER}/{one.path}"]
    return options


def file_system_sizes(limits: Limits) -> list[tuple[str, int]]:
    """The file systems in memory that a program may write to, and the bytes that each may hold."""
    return [
        (path, limits.work_folder_bytes if path == WORK_FOLDER else limits.scratch_bytes)
        for path in WRITABLE
    ]


def _memory_file_systems(limits: Limits) -> list[str]:
    """Returns the options for what a program may write to, and for nothing else being writable."""
    # What lies over process 1 hides its memory, its descriptors and its command line.
    options = ["--size", "4096", "--tmpfs", "/proc/1", "--remount-ro", "/proc/1"]
    for path, size in file_system_sizes(limits):
        mode = "0755" if path == WORK_FOLDER else "1777"
        options += ["--perms", mode, "--size", str(size), "--tmpfs", path]
    # The root is a file system in memory as well, without a bound, and would belong to the program.
    return [*options, "--remount-ro", "/"]
