"""The sessions of the code executor: which interpreters are kept, and what each of them has run.

What an interpreter holds is named by the attempt that it ran last. If that is the one that a new
cell comes after, the cell runs at once; otherwise the cells that the ledger tells of are run again,
their output thrown away and their results compared with the recorded ones. A cell that was stopped
on its way can't be run to the same point again, so it is passed over.

Interpreters outlive the attempts that began them. `serve` ends those that nobody uses, watches what
they do between cells, and ends all when the node stops; that they end with a node that is killed is
the lifeline's work (see `warden.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import trio
from msgspec import structs

from kowalski_executors.confinement import Confinement
from kowalski_executors.endings import outcome_of
from kowalski_executors.languages import Language
from kowalski_executors.limits import SESSION_IDLE_S, SESSIONS_MAX, Limits, limits_for
from kowalski_executors.payloads import read_payload
from kowalski_executors.session_interpreter import Interpreter, NotBegun
from kowalski_node.executor import (
    Attempt,
    Completed,
    Context,
    Failed,
    Outcome,
    Output,
    Rebuilt,
    Recorded,
    encode_result,
)
from kowalski_protocol.errors import Problem
from kowalski_protocol.tasks import SESSION_LANGUAGES

_REFUSED: Final[Mapping[str, str]] = {
    "args": "its interpreter is started once, for all cells",
    "stdin": "what a cell reads could not be told from what the next one does; assign it to a"
    " variable",
    "env": "its interpreter is started once, for all cells; a cell can set variables itself",
    "inputs": "files are for programs of their own",
    "outputs": "files are for programs of their own",
}
_ENDED: Final = "That ended the session's interpreter; the next cell gets a new one."


class _Unheard:
    """Where the output of a cell goes that is run again."""

    def write(self, stream: str, data: bytes) -> None:
        """Drops it."""


@dataclass(slots=True, eq=False)
class _Session:
    lock: trio.Lock
    interpreter: Interpreter | None = None
    last: str = ""
    """The attempt that the interpreter ran last."""
    users: int = 0
    """Attempts that run in it or wait for it."""
    used_at: float = 0.0
    begins: bool = False
    """Whether an interpreter is being started for it."""


class Sessions:
    """All sessions of one device."""

    def __init__(self, *, idle_s: float = SESSION_IDLE_S, live_max: int = SESSIONS_MAX) -> None:
        self._idle_s = idle_s
        self._live_max = live_max
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._is_closed = False
        self._begun = trio.Event()
        self._pause: trio.CancelScope | None = None

    async def run(
        self,
        confinement: Confinement,
        languages: Mapping[str, Language],
        attempt: Attempt,
        context: Context,
    ) -> Outcome:
        """Runs the next cell of a session. Raises Problem where it can't be run."""
        deadline = trio.current_time() + attempt.timeout_s
        language, text = _read_cell(attempt.payload)
        key = (attempt.session, language)
        session = self._sessions.setdefault(key, _Session(trio.Lock()))
        session.users += 1
        try:
            with trio.move_on_at(deadline) as waiting:
                await session.lock.acquire()
            if waiting.cancelled_caught:
                raise Problem("timed_out", "The cells before it took all of its time.")
            try:
                turn = _Turn(self, session, confinement, _command(language, languages), deadline)
                return await turn.run(attempt, text, context)
            finally:
                session.used_at = trio.current_time()
                session.lock.release()
        finally:
            session.users -= 1
            if session.users == 0 and session.interpreter is None:
                del self._sessions[key]
            elif self._pause is not None and session.interpreter is not None:
                self._pause.deadline = min(self._pause.deadline, session.interpreter.look_at)

    async def serve(self) -> None:
        """Ends what is idle for too long or uses too much, and everything at the end."""
        self._is_closed = False
        try:
            while True:
                wake_at = await self._tend()
                if wake_at is None:
                    self._begun = trio.Event()
                    await self._begun.wait()
                    continue
                with trio.CancelScope(deadline=wake_at) as self._pause:
                    await trio.sleep_forever()
        finally:
            self._is_closed = True
            self._pause = None
            with trio.CancelScope(shield=True):
                await self._end_all()

    async def begin(
        self, session: _Session, confinement: Confinement, command: str, limits: Limits
    ) -> None:
        """Gives a session a new interpreter. Raises Problem where there is no room for one."""
        await self.drop(session)
        live = [s for s in self._sessions.values() if s.interpreter is not None or s.begins]
        idle = [other for other in live if other.users == 0]
        if len(live) >= self._live_max and not idle:
            raise Problem(
                "executor_failed",
                f"All {self._live_max} sessions that this device keeps run a cell just now.",
            )
        if self._is_closed:
            raise Problem("executor_failed", "The node is stopping.")
        session.last = ""
        session.begins = True
        try:
            if len(live) >= self._live_max:
                await self.drop(min(idle, key=lambda other: other.used_at))
            session.interpreter = await Interpreter.begin(confinement, command, limits)
        finally:
            session.begins = False
        self._begun.set()

    async def drop(self, session: _Session) -> None:
        """Ends a session's interpreter, if it has one."""
        interpreter, session.interpreter = session.interpreter, None
        if interpreter is not None:
            await interpreter.end()
        for key, known in [*self._sessions.items()]:
            if known is session and session.users == 0:
                del self._sessions[key]

    async def _tend(self) -> float | None:
        """Looks after the interpreters without a cell; returns when to do so again, or None where
        there are none."""
        wake_at = None
        for session in [*self._sessions.values()]:
            interpreter = session.interpreter
            if interpreter is None:
                continue
            now = trio.current_time()
            expires_at = session.used_at + self._idle_s
            if session.users == 0:
                if interpreter.check() and now >= interpreter.look_at:
                    interpreter.look()
                if now >= expires_at or interpreter.is_over:
                    await self.drop(session)
                    continue
            due_at = min(interpreter.look_at, expires_at)
            # One that runs a cell is looked at by it; what it does afterwards, from here.
            due_at = max(due_at, now + 1.0) if session.users else due_at
            wake_at = due_at if wake_at is None else min(wake_at, due_at)
        return wake_at

    async def _end_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for session in [*self._sessions.values()]:
                nursery.start_soon(self._end_one, session)

    async def _end_one(self, session: _Session) -> None:
        # Whoever runs a cell in it is being cancelled as well.
        async with session.lock:
            await self.drop(session)


class _Turn:
    """The run of one cell, with all that must be run again before."""

    def __init__(
        self,
        sessions: Sessions,
        session: _Session,
        confinement: Confinement,
        command: str,
        deadline: float,
    ) -> None:
        self._sessions = sessions
        self._session = session
        self._confinement = confinement
        self._command = command
        self._deadline = deadline
        self._rebuilt: Rebuilt | None = None

    async def run(self, attempt: Attempt, text: bytes, context: Context) -> Outcome:
        """Runs a cell, in an interpreter that has run those before it."""
        limits = limits_for(attempt.requires, attempt.timeout_s)
        try:
            limits = await self._make_ready(attempt, limits, context)
            if not self._left_s() > 0:
                raise Problem("timed_out", "The attempt has no time left.")
            outcome = await self._run(attempt.attempt, attempt.cell, text, limits, context)
        except NotBegun as problem:
            outcome = outcome_of(problem.ending, limits)
        return structs.replace(outcome, rebuilt=self._rebuilt)

    def _left_s(self) -> float:
        return max(0.0, self._deadline - trio.current_time())

    async def _make_ready(self, attempt: Attempt, limits: Limits, context: Context) -> Limits:
        """Sees to it that the interpreter has the state in which the cell begins; returns what it
        may use."""
        session = self._session
        interpreter = session.interpreter
        if interpreter is not None:
            names_memory = attempt.requires.get("memory_mb") is not None
            memory_bytes = interpreter.limits.memory_bytes
            if not interpreter.check() or (names_memory and memory_bytes != limits.memory_bytes):
                await self._sessions.drop(session)
            elif session.last == attempt.after:
                return replace(limits, memory_bytes=memory_bytes)
        async with self._in_time():
            recorded = await context.recorded() if attempt.after else ()
            done = [at for at, cell in enumerate(recorded) if cell.attempt == session.last]
            if session.interpreter is None or not done:
                again = recorded
                limits = _of_all(attempt, recorded, limits)
                await self._sessions.begin(session, self._confinement, self._command, limits)
            else:
                again = recorded[done[-1] + 1 :]
            assert session.interpreter is not None
            limits = replace(limits, memory_bytes=session.interpreter.limits.memory_bytes)
            if again:
                await self._replay(again, limits)
        return limits

    async def _replay(self, cells: Sequence[Recorded], limits: Limits) -> None:
        replayed = 0
        diverged: list[int] = []
        passed_over: list[int] = []
        for cell in cells:
            if not cell.is_whole:
                passed_over.append(cell.cell)
                self._session.last = cell.attempt
                continue
            outcome = await self._run_again(cell, limits)
            replayed += 1
            if hashlib.sha256(encode_result(outcome) or b"").digest() != cell.result_hash:
                diverged.append(cell.cell)
        self._rebuilt = Rebuilt(replayed, tuple(diverged), tuple(passed_over))

    async def _run_again(self, cell: Recorded, limits: Limits) -> Outcome:
        try:
            _, text = _read_cell(cell.payload)
        except Problem as problem:
            self._session.last = cell.attempt
            return Failed(problem.code, problem.sentence)
        outcome = await self._run(cell.attempt, cell.cell, text, limits, _Unheard())
        if self._session.interpreter is None:
            said = outcome.sentence if isinstance(outcome, Failed) else ""
            raise Problem(
                "session_lost",
                f"When cell {cell.cell} was run again, it ended the interpreter: {said}",
            )
        return outcome

    async def _run(
        self, attempt: str, number: int, text: bytes, limits: Limits, output: Output
    ) -> Outcome:
        session = self._session
        interpreter = session.interpreter
        assert interpreter is not None
        session.last = attempt
        try:
            ending = await interpreter.run(number, text, self._deadline, limits, output)
        finally:
            if interpreter.is_over:
                session.interpreter = None
        outcome = outcome_of(ending, limits)
        if not interpreter.is_over:
            return outcome
        if isinstance(outcome, Completed):
            outcome = Failed("", "The cell left with status 0.", outcome.stdout, outcome.stderr)
        code = "interpreter_lost" if outcome.code in ("", "code_failed") else outcome.code
        sentence = interpreter.trouble or outcome.sentence
        return structs.replace(outcome, code=code, sentence=f"{sentence} {_ENDED}")

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Stops what is done before the cell at the end of the attempt's time."""
        session = self._session
        began = trio.current_time()
        try:
            with trio.fail_at(self._deadline):
                yield
        except trio.TooSlowError:
            await self._sessions.drop(session)
            raise Problem(
                "timed_out",
                f"Making the session's interpreter anew took longer than the"
                f" {self._deadline - began:.3g} s that were left. The task's timeout_s asks for"
                " more.",
            ) from None
        except trio.Cancelled:
            # A cell that was run again has been stopped on its way.
            await self._sessions.drop(session)
            raise


def _read_cell(payload: Mapping[str, Any]) -> tuple[str, bytes]:
    """The language and the text of a cell. Raises Problem where it is none."""
    for name, why in _REFUSED.items():
        if payload.get(name):
            raise Problem("bad_request", f"A cell of a session takes no {name}: {why}.")
    program = read_payload(payload)
    if program.language not in SESSION_LANGUAGES:
        raise Problem(
            "bad_request",
            f"A session is in {' or '.join(SESSION_LANGUAGES)}, and this cell is in"
            f" {program.language[:80]!r}.",
        )
    if b"\0" in program.code and program.language == "bash":
        raise Problem("bad_request", "The cell holds a zero byte, which Bash can't read.")
    return program.language, program.code


def _command(language: str, languages: Mapping[str, Language]) -> str:
    """The command of a session's interpreter; empty for the driver's own."""
    if language == "python":
        return ""
    found = languages.get(language)
    if found is None:
        raise Problem("unknown_language", f"This device does not run {language}.")
    return str(found.command)


def _of_all(attempt: Attempt, recorded: Sequence[Recorded], limits: Limits) -> Limits:
    """The limits of an interpreter that is made anew: what the cell names, else the largest memory
    that a recorded one has named."""
    if attempt.requires.get("memory_mb") is not None:
        return limits
    named = [cell.requires for cell in recorded if cell.requires.get("memory_mb") is not None]
    every = [limits_for(requires, attempt.timeout_s).memory_bytes for requires in named]
    return replace(limits, memory_bytes=max(every)) if every else limits
