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


class Completed(msgspec.Struct, frozen=True):
    """The attempt ended well.

    `value` must be JSON-like: None, bool, int, float, str, list, dict.
    """

    value: Any = None
    stdout: str = ""
    stderr: str = ""


class Failed(msgspec.Struct, frozen=True):
    """The attempt ended badly. `code` is from `kowalski_protocol.errors`; `sentence` is for a
    person.
    """

    code: str
    sentence: str
    stdout: str = ""
    stderr: str = ""


Outcome = Completed | Failed


class Context(Protocol):
    """What an attempt may ask of its device."""

    def write(self, stream: str, data: bytes) -> None:
        """Passes output on while it comes; `stream` is "stdout" or "stderr".

        Never blocks; bounded.
        """
        ...

    async def open_blob(self, blob_hash: str) -> Path:
        """Returns a local read-only file with the blob of this hex SHA-256, fetched from members if
        need be.

        Raises `Problem("not_found")` where no live member has it."""
        ...

    async def store_blob(self, source: Path) -> str:
        """Keeps a file as a blob and returns its hex SHA-256."""
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
