"""What an executor is: the one door between the node and the work that runs on a device.

The core decides that an attempt starts here; the shell finds the executor by the task's kind and
awaits `run` inside a cancel scope. Cancellation is trio's: when the scope is cancelled, `run` must
have stopped all that it began (a whole process group) within 250 ms and let `trio.Cancelled` pass.
Output is streamed through the context while it comes and is bounded there. An executor never
decides where, whether or how often a task runs, and never reads the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from kowalski_protocol.codec import encode
from kowalski_protocol.events import Result


class Attempt(msgspec.Struct, frozen=True):
    """One run of one task on this device. `payload` is the decoded payload that the submitter
    signed.
    """

    task_id: str
    attempt: str
    number: int
    kind: str
    payload: Mapping[str, Any]
    requires: Mapping[str, Any]
    timeout_s: float
    session: str = ""
    """The session whose next cell this is; empty for a program of its own."""
    cell: int = 0
    """Which cell of its session it is, from 1."""
    after: str = ""
    """The attempt that ran the cell before this one; empty for the first of a session."""


class Recorded(msgspec.Struct, frozen=True):
    """A cell that a session has run, on whatever device, as the ledger tells."""

    cell: int
    attempt: str
    payload: Mapping[str, Any]
    requires: Mapping[str, Any]
    is_whole: bool
    """Whether it ran to an end of its own, well or by an error of its own. Else it was stopped on
    the way, or took its interpreter with it: what it had done by then can't be done again.
    """
    result_hash: bytes
    """SHA-256 of the result that it brought (see `encode_result`)."""


class Rebuilt(msgspec.Struct, frozen=True):
    """A session's interpreter was made anew here, from its recorded cells."""

    replayed: int
    diverged: Sequence[int] = ()
    """The cells that brought another result than the recorded one."""
    passed_over: Sequence[int] = ()
    """The cells that could not be run again, as they had not run to their end."""


class OutputFile(msgspec.Struct, frozen=True):
    """A file that an attempt left, as a blob of the device that ran it."""

    path: str
    """As the program named it, relative to its work folder, with `/` between its parts."""
    blob: str
    """Hex SHA-256."""
    size_bytes: int


class Completed(msgspec.Struct, frozen=True):
    """The attempt ended well.

    `value` must be JSON-like: None, bool, int, float, str, list, dict.
    """

    value: Any = None
    stdout: str = ""
    stderr: str = ""
    rebuilt: Rebuilt | None = None
    files: Sequence[OutputFile] = ()


class Failed(msgspec.Struct, frozen=True):
    """The attempt ended badly. `code` is from `kowalski_protocol.errors`; `sentence` is for a
    person.
    """

    code: str
    sentence: str
    stdout: str = ""
    stderr: str = ""
    rebuilt: Rebuilt | None = None


Outcome = Completed | Failed


class StepEnd(msgspec.Struct, frozen=True):
    """How a child of an attempt ended."""

    task: str
    """The child's id, in hex."""
    outcome: str
    """As of a settled task: completed, failed, cancelled, timed_out, dead, ..."""
    value: Any = None
    stdout: str = ""
    stderr: str = ""
    code: str = ""
    sentence: str = ""
    files: Sequence[OutputFile] = ()
    taken_over: bool = False
    """Whether an earlier attempt of the same task had begun it."""


def encode_result(outcome: Outcome) -> bytes | None:
    """The bytes of an outcome's result, as they are hashed and sent; None where its value is not
    JSON-like.
    """
    if isinstance(outcome, Completed):
        files = tuple((file.path, file.blob, file.size_bytes) for file in outcome.files)
        result = Result(True, outcome.value, outcome.stdout, outcome.stderr, files=files)
    else:
        result = Result(False, None, outcome.stdout, outcome.stderr, outcome.code, outcome.sentence)
    try:
        return encode(result)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


class Output(Protocol):
    """Where what is printed goes."""

    def write(self, stream: str, data: bytes) -> None:
        """Passes output on while it comes; `stream` is "stdout" or "stderr".

        Never blocks; bounded.
        """
        ...


class Context(Output, Protocol):
    """What an attempt may ask of its device."""

    async def open_blob(self, blob_hash: str) -> Path:
        """Returns a local read-only file with the blob of this hex SHA-256, fetched from members if
        need be.

        Raises `Problem("not_found")` where no live member has it."""
        ...

    async def store_blob(self, source: Path) -> str:
        """Keeps a file as a blob and returns its hex SHA-256."""
        ...

    async def step(self, name: str, task: Mapping[str, Any]) -> StepEnd:
        """Runs a task as a child of this attempt, and waits for its end, however it ends.

        `task` is the JSON object of POST /api/tasks; `name` is unique in the attempt. Where an
        earlier attempt of the same task, on whatever device, issued the same step with the same
        task, and that has completed or is under way, it is taken and not run again. Children that
        are open when the attempt's task ends are abandoned. Raises `Problem` where the task can't
        be accepted.
        """
        ...

    async def recorded(self) -> Sequence[Recorded]:
        """The cells of the attempt's session that came before it, the oldest first.

        Raises `Problem("session_lost")` where the ledger can't tell all of them any more.
        """
        ...


class Capabilities(msgspec.Struct, frozen=True):
    """What an executor offers, as *probed*. `languages` maps a name to its version."""

    kinds: Sequence[str] = ()
    tools: Sequence[str] = ()
    languages: Mapping[str, str] = {}
    sandbox: str = "none"
    """How strongly code is confined here: "bubblewrap", "none", "unsandboxed"."""
    problems: Sequence[str] = ()
    """Sentences that say what does not work here and how to mend it."""


class Executor(Protocol):
    """One way of running work. All executors pass `tests/ports/test_executor_conformance.py`."""

    name: str
    """The task kind that it runs."""

    async def probe(self) -> Capabilities:
        """Finds out, by trying, what this device can run.

        Called once at start, under a deadline.
        """
        ...

    async def probe_all(self) -> Capabilities:
        """The same with what takes longer to find out; called once the node is at work."""
        ...

    async def run(self, attempt: Attempt, context: Context) -> Outcome:
        """Runs one attempt to its end. The shell enforces `timeout_s` by cancelling as well."""
        ...
