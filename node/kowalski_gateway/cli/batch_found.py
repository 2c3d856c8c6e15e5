"""What an earlier run of a batch left: the results in its file, and the small file beside it.

Results are read as they were written, one JSON object a line. A last line that was cut in the
middle is what a killed writer leaves; everything else that is no result of the tasks at hand means
that the file is somebody else's, and it is refused rather than written to.

Before the first task is sent, `FILE.batch` is written: the batch's random id, from which all
idempotency keys are derived, and for lines that were asked to run again how many times they have
been. It is needed only while the batch is incomplete, and removed at the end; each result carries
the id too, so that lines can be added to a finished batch.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final, NamedTuple

import click
import msgspec

from kowalski_node.views import ErrorView

from .batch_files import Line

RECORD_HEAD: Final = b'{"line": '
RECORD_SIZE_BYTES_MAX: Final = 256 * 1024 * 1024
"""As much as an answer of the node may have."""
STATE_SIZE_BYTES_MAX: Final = 64 * 1024 * 1024
FAILED_SHOWN_MAX: Final = 5
FRESH: Final = "--fresh begins anew and overwrites it."


class _Result(msgspec.Struct, frozen=True):
    error: ErrorView | None = None


class Record(msgspec.Struct, frozen=True):
    """What is read again of a written result."""

    line: int
    spec: str
    batch: str
    run: int
    id: str
    outcome: str
    result: _Result | None = None


class State(msgspec.Struct, forbid_unknown_fields=True):
    """What stands in `FILE.batch`."""

    batch: str
    runs: dict[int, int] = {}
    """How often each line was asked to run, for those that were asked more than once."""


class Failed(NamedTuple):
    """A task that did not complete."""

    line: int
    task_id: str
    code: str | None
    sentence: str


class Tally:
    """How many tasks ended how, and the first that did not complete."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failed: list[Failed] = []

    @property
    def settled(self) -> int:
        """All of them."""
        return self.outcomes.total()

    @property
    def failures(self) -> int:
        """Those that did not complete."""
        return self.settled - self.outcomes["completed"]

    def add(self, line: int, task_id: str, outcome: str, error: ErrorView | None) -> None:
        """One more has settled."""
        self.outcomes[outcome] += 1
        if outcome != "completed" and len(self.failed) < FAILED_SHOWN_MAX:
            sentence = error.message if error else ""
            sentence = sentence or f"it ended as {outcome}"
            self.failed.append(Failed(line, task_id, error.code if error else None, sentence))


class Place(NamedTuple):
    """A result in the file."""

    offset: int
    size_bytes: int
    run: int
    task_id: str
    outcome: str
    error: ErrorView | None


class Found:
    """The results that a file holds."""

    def __init__(self) -> None:
        self.places: dict[int, Place] = {}
        self.batch: str | None = None
        self.in_order = True
        self.has_others = False
        """Whether there are records that count no more."""
        self.end = 0
        """Where what can be read ends."""
        self.torn_bytes = 0
        self.lacks_newline = False


_record = msgspec.json.Decoder(Record)


def scan(file: IO[bytes], name: str, lines: Mapping[int, Line], state: State | None) -> Found:
    """Reads all results; UsageError where one is not of these tasks."""
    found = Found()
    runs = state.runs if state else {}
    found.batch = state.batch if state else None
    number = last = 0
    file.seek(0)
    while start := file.readline(len(RECORD_HEAD)):
        number += 1
        is_zeros = not start.strip(b"\0")  # what some file systems leave where the power went
        rest = start == RECORD_HEAD or is_zeros
        text = start + (file.readline(RECORD_SIZE_BYTES_MAX) if rest else b"")
        record = _decoded(text)
        if record is None:
            torn = not text.endswith(b"\n") and not file.read(1)
            begins = RECORD_HEAD.startswith(start) or is_zeros
            if torn and begins and (state is not None or found.places):
                found.torn_bytes = len(text)
                return found
            raise click.UsageError(f"{name}, line {number} is no result of a batch. {FRESH}")
        _check(record, name, number, lines, found.batch)
        found.batch = record.batch
        before = found.places.get(record.line)
        if record.run < runs.get(record.line, 1) or (before and before.run >= record.run):
            found.has_others = True
        else:
            error = record.result.error if record.result else None
            found.has_others |= before is not None
            found.places[record.line] = Place(
                found.end, len(text), record.run, record.id, record.outcome, error
            )
        found.in_order &= record.line > last
        last = record.line
        found.end += len(text)
        found.lacks_newline = not text.endswith(b"\n")
    return found


def _decoded(text: bytes) -> Record | None:
    if not text.startswith(RECORD_HEAD):
        return None
    try:
        return _record.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _check(
    record: Record, name: str, number: int, lines: Mapping[int, Line], batch: str | None
) -> None:
    line = lines.get(record.line)
    if line is None or line.spec != record.spec:
        raise click.UsageError(
            f"{name}, line {number} is the result of another task than the one that now stands on"
            f" line {record.line}. Lines may only be added at the end. {FRESH}"
        )
    if batch not in (None, record.batch):
        raise click.UsageError(f"{name}, line {number} is a result of another batch. {FRESH}")


def state_file(out: Path) -> Path:
    """Where the state of the batch with these results is."""
    return out.with_name(out.name + ".batch")


def load_state(path: Path) -> State | None:
    """The state that was written there, if any was."""
    try:
        with path.open("rb") as file:
            text = file.read(STATE_SIZE_BYTES_MAX)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(text, type=State)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise click.UsageError(f"{path} is not the state of a batch, and is in the way.") from None


def save_state(path: Path, state: State) -> None:
    """The state is on the disk, whole, whenever this program ends."""
    new = path.with_name(path.name + "-new")
    with new.open("wb") as file:
        file.write(msgspec.json.encode(state) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Names that were given in the folder outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
