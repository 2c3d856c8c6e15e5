"""One interpreter that stays in a cell of the sandbox, as the node sees it.

Nothing here runs between the cells of a session. While one runs, the task that asked for it waits
on one descriptor, an epoll of the interpreter's pipes, so that a short cell costs a write, one
wake-up and a read. What comes is hostile: it is bounded, and whatever does not fit ends the
interpreter.

An interrupt is asked of the warden, which says when the signal has been sent. Where the result of
the cell crosses it, that word is waited for before anything else may run: the signal then finds the
interpreter between two cells, where it has nothing to interrupt.
"""

from __future__ import annotations

import marshal
import os
import select
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import cache
from typing import Final

import trio

from kowalski_executors.bootstrap import compiled
from kowalski_executors.confinement import KILLED, Cell, Confinement, Ends
from kowalski_executors.limits import Limits
from kowalski_executors.supervisor import (
    KILL_PATIENCE_S,
    WATCH_FIRST_S,
    Cause,
    Ending,
    end_cell,
    kernel_limits,
    look,
)
from kowalski_node.executor import Output

INTERRUPT_S: Final = 0.15
"""How long an interrupted cell may take to end: what catches KeyboardInterrupt to clean up is done
by then, and of the 250 ms of a cancel enough is left to kill it."""

WATCH_IDLE_S: Final = 1.0
"""How often an interpreter without a cell is looked at that is alone in its sandbox: it waits for
the node, and only a timer of its own could have it do something."""

_ALONE: Final = 2
"""The warden and the interpreter."""
_CHUNK_BYTES: Final = 64 << 10
_PIPE_CHUNKS_MAX: Final = 17
"""A pipe holds a mebibyte at most, so what was in it at one moment has come after so many."""
_HEAD_BYTES_MAX: Final = 64
_FRAME_SLACK_BYTES: Final = 1 << 10


@cache
def _code() -> bytes:
    return marshal.dumps(compiled("session_driver"))


class NotBegun(Exception):
    """The interpreter could not be started."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.ending = Ending(cause=Cause.NOT_STARTED, detail=detail)


class Interpreter:
    """An interpreter for one session; closed by `end`."""

    def __init__(self, cell: Cell, poll: select.epoll, limits: Limits) -> None:
        self.limits = limits
        """What it may use, as it was begun."""
        self.is_over = False
        """Whether it can run no more cells; it must be ended then."""
        self.look_at = trio.current_time() + WATCH_FIRST_S
        """When it is to be looked at next."""
        self.trouble = ""
        """What it did that no interpreter does; then it is over as well."""
        self._cell = cell
        self._opened = AsyncExitStack()
        self._poll = poll
        self._request = self._result = self._stdout = self._stderr = -1
        self._unsent = memoryview(b"")
        self._heard = bytearray()
        self._serial = 0
        self._has_result = False
        self._stands = False
        self._ack: int | None = None
        self._ending = Ending()
        self._output: Output | None = None

    @classmethod
    async def begin(cls, confinement: Confinement, command: str, limits: Limits) -> Interpreter:
        """Starts one: Bash where a command is given, else Python. Raises NotBegun."""
        try:
            async with AsyncExitStack() as opened:
                cell = await opened.enter_async_context(confinement.open(limits))
                poll = select.epoll()
                opened.callback(poll.close)
                self = cls(cell, poll, limits)
                self._opened = opened.pop_all()
        except OSError as error:
            raise NotBegun(str(error)) from error
        try:
            await self._start(command)
        except OSError as error:
            await self.end()
            raise NotBegun(str(error)) from error
        except BaseException:  # guard: a run that is cancelled leaves nothing behind
            await self.end()
            raise
        if self.is_over:
            await self.end()
            raise NotBegun(self._ending.stderr.decode("utf-8", "replace").strip())
        return self

    async def _start(self, command: str) -> None:
        with ExitStack() as theirs:

            def pipe(*, to_program: bool) -> tuple[int, int]:
                read, write = os.pipe2(os.O_CLOEXEC)
                mine, other = (write, read) if to_program else (read, write)
                os.set_blocking(mine, False)
                theirs.callback(os.close, other)
                self._opened.callback(os.close, mine)
                return mine, other

            stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            theirs.callback(os.close, stdin)
            self._stdout, stdout = pipe(to_program=False)
            self._stderr, stderr = pipe(to_program=False)
            self._request, request = pipe(to_program=True)
            self._result, result = pipe(to_program=False)
            bounds = [
                bound
                for bound in kernel_limits(self.limits, self._cell.kernel_counts_processes, False)
                # For a whole session no number is right: it is set for each cell, inside.
                if not bound.startswith("RLIMIT_CPU=")
            ]
            ends = Ends(stdin, stdout, stderr, request, result)
            await self._cell.start(ends, [str(self.limits.value_bytes), "0", *bounds])
        for descriptor in (self._stdout, self._stderr, self._result):
            self._poll.register(descriptor, select.EPOLLIN)
        await trio.lowlevel.wait_readable(self._result)
        if self._read(self._result, 1) != b"R":
            self._drain()
            self.is_over = True
            return
        async with trio.open_nursery() as waiting:
            waiting.start_soon(self._cell.wait)  # a cell is told of only while it is waited for
            await self._cell.stands()
            waiting.cancel_scope.cancel()
        self._stands = True
        parts = (b"", _code(), command.encode())
        head = b" ".join([b"session", *(b"%d" % len(part) for part in parts)])
        self._unsent = memoryview(b"".join([head, b"\n", *parts]))
        while self._unsent and not self.is_over:
            self._send()
            if self._unsent:
                await trio.lowlevel.wait_writable(self._request)

    def check(self) -> bool:
        """Whether it still waits for a cell: it has not ended, and has said nothing unasked."""
        if not self.is_over and (self._read(self._result, 1) is not None):
            self.is_over = True
        return not self.is_over

    def look(self) -> None:
        """Sees whether it uses more than it may, and ends what runs in it if so."""
        seen = look(self._cell, self.limits)
        pause_s = seen.pause_s
        if self._output is None and seen.tasks <= _ALONE:
            pause_s = max(pause_s, WATCH_IDLE_S)
        self.look_at = trio.current_time() + pause_s
        if seen.cause is not None:
            self._stop(seen.cause)

    async def run(
        self, cell: int, text: bytes, deadline: float, limits: Limits, output: Output
    ) -> Ending:
        """Runs a cell and returns how it ended; where `is_over` is set then, with its interpreter.

        At the deadline, and where it is cancelled, the cell is interrupted first, and has
        `INTERRUPT_S` to end.
        """
        self._serial += 1
        head = b"%d %d %d %d\n" % (self._serial, cell, limits.cpu_s, len(text))
        ending = self._ending = Ending()
        self._output = output
        self._unsent = memoryview(head + text)
        self._heard.clear()
        self._has_result = False
        self._send()
        if self._unsent:
            self._poll.register(self._request, select.EPOLLOUT)
        self.look_at = trio.current_time() + WATCH_FIRST_S
        try:
            if not await self._ended_by(deadline):
                ending.cause = Cause.TIMED_OUT
                await self._interrupt()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._interrupt()
                if self.is_over:
                    await self.end()
            self._ending = Ending()
            raise
        finally:
            self._output = None
            self._unsent = memoryview(b"")
            self.look_at = trio.current_time() + WATCH_FIRST_S
        if self.is_over:
            status = await self.end(KILL_PATIENCE_S)
            ending.status = KILLED if status is None else status
        self._ending = Ending()  # nothing of a cell is kept here
        return ending

    async def end(self, patience_s: float = 0.0) -> int | None:
        """Ends it, and all that runs in it; returns its exit status where it had one.

        One that is ending by itself may take `patience_s` for it, and then has its own status.
        """
        self.is_over = True
        status = None
        with trio.CancelScope(shield=True):
            if patience_s > 0:
                with trio.move_on_after(patience_s):
                    await self._cell.wait()
            holds = None
            if not self._stands and self._result >= 0:
                holds = trio.lowlevel.FdStream(os.dup(self._result))
            status = await end_cell(self._cell, holds)
            if holds is not None:
                holds.close()
            self._drain()
            await self._opened.aclose()
        return status

    async def _ended_by(self, deadline: float) -> bool:
        """Waits for the result, or the interpreter's end; False where neither comes in time."""
        while not self._is_done():
            with trio.move_on_at(min(deadline, self.look_at)):
                await trio.lowlevel.wait_readable(self._poll.fileno())
            self._take()
            now = trio.current_time()
            if now >= self.look_at:
                self.look()
            if now >= deadline:
                break
        if self._has_result and not self.is_over:
            self._drain()
        return self._is_done()

    def _is_done(self) -> bool:
        return self.is_over or (self._has_result and self._ack is None)

    async def _interrupt(self) -> None:
        """Has the cell stop what it does; ends the interpreter where it does not."""
        if self._is_done():
            return
        self._ack = self._cell.interrupt()
        if self._ack is not None:
            self._poll.register(self._ack, select.EPOLLIN)
        if self._ack is None or not await self._ended_by(trio.current_time() + INTERRUPT_S):
            self._stop(Cause.TIMED_OUT)

    def _take(self) -> None:
        """Takes in what has come over all pipes."""
        for descriptor, _ in self._poll.poll(0):
            if descriptor == self._result:
                self._hear()
            elif descriptor in (self._stdout, self._stderr):
                self._print(descriptor)
            elif descriptor == self._request:
                self._send()
                if not self._unsent:
                    self._poll.unregister(self._request)
            elif descriptor == self._ack:
                self._poll.unregister(descriptor)
                self._ack = None
                with suppress(OSError):
                    if not os.read(descriptor, 1):  # the warden has ended
                        self.is_over = True

    def _send(self) -> None:
        with suppress(BlockingIOError):
            try:
                while self._unsent:
                    self._unsent = self._unsent[os.write(self._request, self._unsent) :]
            except BrokenPipeError:  # nobody reads any more: the other pipes say why
                self._unsent = memoryview(b"")

    def _hear(self) -> None:
        """Takes in what came of the result; whatever is not one ends the interpreter."""
        data = self._read(self._result, _CHUNK_BYTES)
        if data is None:
            return
        if not data:
            self.is_over = True
            return
        if self._has_result:
            self._distrust()
            return
        self._heard += data
        head, newline, _ = self._heard[:_HEAD_BYTES_MAX].partition(b"\n")
        if not newline and len(self._heard) < _HEAD_BYTES_MAX:
            return
        words = head.split(b" ")
        if len(words) != 3 or not all(word.isdigit() and len(word) < 10 for word in words):
            self._distrust()
            return
        serial, status, size = map(int, words)
        missing = len(head) + 1 + size - len(self._heard)
        if serial != self._serial or status > 255 or missing < 0 or self._unsent:
            self._distrust()
        elif size > self.limits.value_bytes + _FRAME_SLACK_BYTES:
            self._stop(Cause.VALUE_TOO_LARGE)
        elif missing == 0:
            self._ending.status = status
            self._ending.frame = self._heard[len(head) + 1 :]
            self._heard = bytearray()
            self._has_result = True

    def _distrust(self) -> None:
        """Ends it, because what it said can't have been its own word."""
        self.trouble = "What came from the cell in place of its result was none."
        self.is_over = True
        self._cell.kill()

    def _print(self, descriptor: int) -> int:
        """Takes in a piece of what was printed; returns its length."""
        data = self._read(descriptor, _CHUNK_BYTES)
        if data is None:
            return 0
        if not data:
            with suppress(OSError):
                self._poll.unregister(descriptor)
            return 0
        is_error = descriptor == self._stderr
        name, kept = (
            ("stderr", self._ending.stderr) if is_error else ("stdout", self._ending.stdout)
        )
        room = self.limits.output_bytes - len(kept)
        if room > 0:
            kept += data[:room]
            if self._output is not None:
                self._output.write(name, data[:room])
        if len(data) > room:
            self._stop(Cause.OUTPUT_TOO_LARGE, name)
        return len(data)

    def _drain(self) -> None:
        """Takes in what is in the pipes of the output, without waiting for more."""
        for descriptor in (self._stdout, self._stderr):
            for _ in range(_PIPE_CHUNKS_MAX if descriptor >= 0 else 0):
                if self._print(descriptor) < _CHUNK_BYTES:
                    break

    def _read(self, descriptor: int, size: int) -> bytes | None:
        """What can be read at once: None where that is nothing, no bytes at the end."""
        try:
            return os.read(descriptor, size)
        except BlockingIOError:
            return None

    def _stop(self, cause: Cause, detail: str = "") -> None:
        """Kills what runs in it, for a cause; the first one counts."""
        if self._ending.cause is None:
            self._ending.cause = cause
            self._ending.detail = detail
        self.is_over = True
        self._cell.kill()
