"""Starts programs in milliseconds: a zygote that waits in a sandbox and forks (see `zygote.py`).

Each program gets a cell of its own all the same, made anew and gone after it; what it shares with
the others is the outer sandbox's read-only view. A zygote that has ended is made anew with the next
program, which then waits for a cold start once.
"""

from __future__ import annotations

import array
import os
import signal
import socket
import subprocess
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from kowalski_executors import interpreter
from kowalski_executors.bootstrap import Bootstrap, compiled
from kowalski_executors.bubblewrap import Bubblewrap, file_system_sizes
from kowalski_executors.confinement import KILLED, Cell, Ends
from kowalski_executors.input_files import Input
from kowalski_executors.lifeline import ask_interrupt, new_lifeline
from kowalski_executors.limits import Limits, kernel_counts_by_namespace
from kowalski_executors.namespaces import Namespaces

_REPLY_BYTES: Final = 64


class Zygote:
    """One interpreter in a sandbox, and the socket over which it is asked to fork."""

    def __init__(self, outer: Bubblewrap, bootstrap: Bootstrap) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._asking = trio.Lock()
        with theirs, ExitStack() as closing:
            # Pipes, as its children will have: what the interpreter notes of its streams stays.
            read, write = os.pipe2(os.O_CLOEXEC)
            standard = closing.enter_context(ExitStack())
            standard.callback(os.close, read)
            standard.callback(os.close, write)
            command, inherited = outer.outer_command(closing)
            process = subprocess.Popen(
                [
                    *command,
                    *interpreter.FLAGS,
                    "-c",
                    f"import marshal, os\nCONTENT = {bootstrap.read}\nexec(CONTENT[0])",
                    str(theirs.fileno()),
                ],
                stdin=read,
                stdout=write,
                stderr=write,
                pass_fds=(*inherited, bootstrap.descriptor, theirs.fileno()),
                env={},
                start_new_session=True,
            )
            standard.close()
            kept = closing.pop_all()  # what the sandbox has, such as its user, while it stands
        self._end = weakref.finalize(self, _end, self._control, process, kept)

    async def ask(self, message: bytes, descriptors: Sequence[int]) -> bool:
        """Asks for a child; False where the zygote has ended. Raises OSError where this device
        can't.
        """
        async with self._asking:
            while True:
                if not self._end.alive:
                    return False
                try:
                    socket.send_fds(self._control, [message], list(descriptors))
                    return True
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._control)
                except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
                    return False

    def close(self) -> None:
        """Ends it, and all that runs in it."""
        if self._end.alive:
            trio.lowlevel.notify_closing(self._control)
            self._end()


def _end(control: socket.socket, process: subprocess.Popen[bytes], kept: ExitStack) -> None:
    # The zygote ends by itself when its socket closes. While bubblewrap is still setting it up, it
    # is in its monitor's process group.
    control.close()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept.close()


class Warm:
    """Confines programs as `Bubblewrap` does, in children of a zygote."""

    strength = Bubblewrap.strength

    def __init__(self, outer: Bubblewrap) -> None:
        self._outer = outer
        codes = [compiled("warden"), compiled("driver")]
        self._bootstrap = Bootstrap((compiled("zygote"), codes, outer.filter_program))
        self._zygote: Zygote | None = None

    @property
    def own_users(self) -> bool:
        """Whether a program runs under a user that owns nothing outside."""
        return self._outer.own_users

    @asynccontextmanager
    async def open(self, limits: Limits, inputs: Sequence[Input] = ()) -> AsyncIterator[Cell]:
        """Opens a cell."""
        if inputs:
            # What stands in the zygote's sandbox is what all programs may see.
            async with self._outer.open(limits, inputs) as cold:
                yield cold
            return
        # All programs have the zygote's user, so only a kernel that counts by namespace can tell
        # them apart.
        counts = self._outer.kernel_counts_processes and kernel_counts_by_namespace()
        cell = WarmCell(self, limits, counts)
        try:
            yield cell
        finally:
            cell.close()

    async def ask(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Has a child forked; makes a new zygote where the last one has ended."""
        zygote = self._zygote
        if zygote is not None:
            if await zygote.ask(message, descriptors):
                return
            zygote.close()
        # Somebody else may have found out before, and made a new one meanwhile.
        if self._zygote is zygote or self._zygote is None:
            self._zygote = Zygote(self._outer, self._bootstrap)
        if not await self._zygote.ask(message, descriptors):
            raise OSError("the sandbox for programs has ended")


class WarmCell:
    """The namespaces of one child. They are known as soon as the child has them."""

    def __init__(self, warm: Warm, limits: Limits, kernel_counts_processes: bool) -> None:
        self.kernel_counts_processes = kernel_counts_processes
        self._warm = warm
        self._sizes = [str(size) for _, size in file_system_sizes(limits)]
        self._namespaces: Namespaces | None = None
        self._known = trio.Event()
        self._status: int | None = None
        self._reply: socket.socket | None = None
        self._lifeline: int | None = None

    async def start(self, ends: Ends, options: Sequence[str]) -> None:
        self._reply, reply = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._reply.setblocking(False)
        lifeline, self._lifeline = new_lifeline()
        try:
            with reply:
                message = " ".join([*self._sizes, *options]).encode("ascii")
                with trio.CancelScope(shield=True):
                    await self._warm.ask(message, [*ends, lifeline, reply.fileno()])
        finally:
            os.close(lifeline)

    async def stands(self) -> None:
        await self._known.wait()

    async def wait(self) -> int:
        # The status may come before the zygote has told whose it is.
        while self._status is None or not self._known.is_set():
            await self._hear()
        if self._namespaces is not None:
            await trio.lowlevel.wait_readable(self._namespaces.descriptor)
        return self._status

    async def _hear(self) -> None:
        """Takes in the next word of the child: its pidfd, or its status."""
        assert self._reply is not None
        try:
            room = socket.CMSG_SPACE(4)
            flags = socket.MSG_CMSG_CLOEXEC
            said, ancillary, _, _ = self._reply.recvmsg(_REPLY_BYTES, room, flags)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(self._reply)
            return
        except OSError:
            said, ancillary = b"", []
        descriptors = [array.array("i", data)[0] for _, _, data in ancillary]
        if said == b"P" and descriptors:
            self._namespaces = _namespaces(descriptors[0])
        if said == b"P":
            if self._namespaces is None:
                # It has ended, or this device has nothing left to watch it with: it may not run.
                self._cut()
            self._known.set()
        elif said:
            self._status = int(said) if said.isdigit() else KILLED
        else:  # nobody is left who could say more
            self._status = KILLED if self._status is None else self._status
            self._known.set()

    def process_folders(self) -> list[Path]:
        return self._namespaces.process_folders() if self._namespaces is not None else []

    def volumes(self) -> Sequence[int]:
        return self._namespaces.volumes() if self._namespaces is not None else ()

    def interrupt(self) -> int | None:
        return ask_interrupt(self._lifeline)

    def kill(self, *, insist: bool = False) -> None:
        if self._namespaces is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._namespaces.descriptor, signal.SIGKILL)
        self._cut()

    def close(self) -> None:
        """Gives all descriptors back."""
        self._cut()
        if self._reply is not None:
            self._reply.close()
        if self._namespaces is not None:
            self._namespaces.close()
            self._namespaces = None

    def _cut(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def _namespaces(descriptor: int) -> Namespaces | None:
    """The namespaces of which a pidfd is process 1; None where they have ended. Keeps the pidfd."""
    try:
        text = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii")
    except OSError:
        text = ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "Pid" and int(value) > 0:
            return Namespaces(int(value), descriptor)
    os.close(descriptor)
    return None
