"""A cell that one command of this process makes: the cold start, with a sandbox or without."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from kowalski_executors import interpreter
from kowalski_executors.bootstrap import Bootstrap
from kowalski_executors.confinement import Ends
from kowalski_executors.lifeline import ask_interrupt, new_lifeline


class ProcessCell:
    """What the cells of a cold start share; see `confinement.Cell`."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        self.command: Sequence[str] = ()
        """The interpreter, and what must come before it so that it runs in the cell."""
        self.environment: Mapping[str, str] = {}
        """The whole environment of the command; never the node's own, which can be read in /proc
        by what runs inside.
        """
        self.directory: Path | None = None
        """Where the command starts; None where it goes there by itself."""
        self.inherited: list[int] = []
        """Descriptors that the command needs."""
        self.process: subprocess.Popen[bytes] | None = None
        self._bootstrap = bootstrap
        self._exit: int | None = None
        lifeline_read, lifeline_write = new_lifeline()
        self.given_up_at_start = [lifeline_read]
        """What only the command keeps once it has started."""
        self._lifeline = lifeline_read
        self._lifeline_write: int | None = lifeline_write

    async def start(self, ends: Ends, options: Sequence[str]) -> None:
        # Started by this very thread, which takes about 0.2 ms: trio's `open_process` would take a
        # worker thread for it, and a signal that is tied to the parent's death, should one ever be
        # used, arrives when *that thread* ends, after 10 s of idleness.
        self.process = subprocess.Popen(  # noqa: ASYNC220
            [
                *self.command,
                *interpreter.FLAGS,
                "-c",
                f"import marshal, os\nfor code in {self._bootstrap.read}: exec(code)",
                str(self._lifeline),
                str(ends.result),
                str(ends.request),
                *options,
            ],
            stdin=ends.stdin,
            stdout=ends.stdout,
            stderr=ends.stderr,
            pass_fds=(
                *self.inherited,
                self._lifeline,
                self._bootstrap.descriptor,
                ends.request,
                ends.result,
            ),
            env=dict(self.environment),
            cwd=self.directory,
            start_new_session=True,
        )
        self._give_up()
        try:
            self._exit = os.pidfd_open(self.process.pid)
        except OSError:  # this device has no descriptors left
            self.kill(insist=True)
            self.process.wait()
            raise
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def stands(self) -> None:
        self.root()
        await trio.lowlevel.checkpoint()

    def root(self) -> int | None:
        """A pidfd that becomes readable when everything in the cell has ended; the cell keeps it.

        None where that is the command's own process, or while the cell has no other.
        """
        return None

    async def wait(self) -> int:
        assert self.process is not None
        assert self._exit is not None
        await trio.lowlevel.wait_readable(self._exit)
        root = self.root()
        status = self.process.wait()  # has ended, so this only reaps it
        if root is not None:
            await trio.lowlevel.wait_readable(root)
        return status

    def interrupt(self) -> int | None:
        """Has the warden send SIGINT to the program."""
        return ask_interrupt(self._lifeline_write)

    def kill(self, *, insist: bool = False) -> None:
        """Cuts the lifeline; a cell knows more."""
        self._cut()

    def close(self) -> None:
        """Gives all descriptors back."""
        self._give_up()
        self._cut()
        if self._exit is not None:
            os.close(self._exit)
            self._exit = None

    @property
    def is_lifeline_held(self) -> bool:
        """Whether the warden still has reason to wait."""
        return self._lifeline_write is not None

    def _cut(self) -> None:
        if self._lifeline_write is not None:
            os.close(self._lifeline_write)
            self._lifeline_write = None

    def _give_up(self) -> None:
        while self.given_up_at_start:
            os.close(self.given_up_at_start.pop())
