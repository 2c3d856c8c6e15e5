"""The tasks of a batch as they are read from a file: all of them checked, each with a fingerprint.

The fingerprint is of what the line says and not of how it is written, so that another order of
fields or another spacing is the same task. With it a result can be recognised as that of the very
task which stands on its line, and with the batch's random id it makes the idempotency key that
keeps a line from running twice.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

import click
import msgspec

from kowalski_protocol.errors import Problem

LINE_SIZE_BYTES_MAX: Final = 1024 * 1024
TASKS_MAX: Final = 1_000_000
DIGEST_LENGTH: Final = 32
"""Hexadecimal characters, 128 bits: no two tasks of a batch have the same by chance."""


class Line(NamedTuple):
    """A task and where it stands."""

    number: int
    task: bytes
    spec: str
    """The task's fingerprint."""
    has_key: bool
    """Whether it brings an idempotency key of its own."""

    def keyed(self, batch: str, run: int) -> bytes:
        """The task with an idempotency key, its own or that of this line in this batch.

        The key stands last: where the line says `"idempotency_key": null`, the last one counts.
        """
        if self.has_key:
            return self.task
        text = f"{batch}:{self.number}:{run}:{self.spec}"
        key = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
        return self.task[:-1] + b',"idempotency_key":"batch-' + key.encode() + b'"}'


def read_tasks(file: str) -> Iterator[Line]:
    """The lines that hold tasks; UsageError or Problem where one is none."""
    from kowalski_protocol.tasks import parse_task

    try:
        with _source(file) as source:
            number = 0
            while line := source.readline(LINE_SIZE_BYTES_MAX + 1):
                number += 1
                if len(line) > LINE_SIZE_BYTES_MAX:
                    raise click.UsageError(f"{file}, line {number} is longer than 1 MiB.")
                if number > TASKS_MAX:
                    raise click.UsageError(f"{file} has more than {TASKS_MAX:,} lines.")
                if not line.strip():
                    continue
                try:
                    # As the node reads it; `json` takes more, such as a byte order mark.
                    spec = _object(msgspec.json.decode(line))
                    has_key = parse_task(spec).key is not None
                    said = msgspec.json.encode(spec, order="deterministic")
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                    raise click.UsageError(f"{file}, line {number} is no task: {error}.") from None
                except Problem as problem:
                    sentence = f"{file}, line {number}: {problem.sentence}"
                    raise Problem(problem.code, sentence, mend=problem.mend) from None
                digest = hashlib.sha256(said).hexdigest()[:DIGEST_LENGTH]
                yield Line(number, line.strip(), digest, has_key)
    except (OSError, ValueError) as error:  # the latter for a name that can't be one
        reason = getattr(error, "strerror", None) or error
        raise click.UsageError(f"{file} can't be read: {reason}.") from None


def _object(spec: Any) -> dict[str, Any]:
    if isinstance(spec, dict):
        return cast("dict[str, Any]", spec)
    raise Problem("bad_request", "A task is a JSON object.")


def is_same(file: str, out: Path) -> bool:
    """Whether the tasks come from the very file that --out names, by whatever name."""
    try:
        read = os.fstat(sys.stdin.fileno()) if file == "-" else Path(file).stat()
        return stat.S_ISREG(read.st_mode) and os.path.samestat(read, out.stat())
    except (OSError, ValueError):  # one of them isn't there, or stdin is no file
        return False


@contextmanager
def _source(file: str) -> Iterator[IO[bytes]]:
    if file == "-":
        yield sys.stdin.buffer
        return
    with Path(file).open("rb") as opened:
        yield opened
