"""A ledger as lines of text, one JSON object per event, for other programs and for reading.

The author is a peer ID, the time a date, all other bytes lower-case hex. Lines are plain ASCII
(anything else is escaped), so that a name made to confuse a terminal can't. The bytes beside an
event are told by their size alone: they are in the ledger, and may be dropped there.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final, cast

import msgspec

from kowalski_protocol.clock import wall_ms
from kowalski_protocol.codec import decode_body
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import TaskSubmitted
from kowalski_protocol.feeds import Event, Feed
from kowalski_protocol.identity import peer_id
from kowalski_protocol.ids import EventHash
from kowalski_protocol.tasks import decode_spec

from .chain import Broken, ChainReader
from .file import LedgerFile, Progress, open_ledger
from .rows import SELECT_SIZED, checked_rows
from .schema import corrupt

FORMATS: Final = ("jsonl",)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_peer_id = lru_cache(maxsize=4096)(peer_id)
_encode = msgspec.json.Encoder().encode


def export(
    path: Path, out: Path | str, format: str = "jsonl", progress: Progress | None = None
) -> int:
    """Writes every event of a ledger file to `out` ("-" for standard output); returns how many.

    Raises `Problem` where the file is missing, foreign, newer or damaged, or `out` can't be
    written.
    """
    if format not in FORMATS:
        raise Problem("bad_request", f"There is no export format {format[:20]!r}; there is jsonl.")
    if out != "-" and _is_of_ledger(Path(out), path):
        raise Problem("bad_request", "The export would overwrite the ledger itself.")
    count = 0
    with open_ledger(path) as file, _opened(out) as stream:
        for lines in _lines(file, progress):
            stream.write("".join(lines))
            count += len(lines)
    return count


def _is_of_ledger(out: Path, ledger: Path) -> bool:
    """Whether `out` is the ledger or a file that SQLite keeps beside it, by whatever name."""
    own = Path(os.path.realpath(ledger))
    files = [own, *(own.with_name(own.name + end) for end in ("-wal", "-shm", "-journal"))]
    if Path(os.path.realpath(out)) in files:
        return True
    with suppress(OSError):  # what isn't there is nobody's; what can't be looked at is told later
        return any(file.exists() and out.samefile(file) for file in files)
    return False


@contextmanager
def _opened(out: Path | str) -> Generator[IO[str]]:
    """Where to write: a file appears under its name once it is whole."""
    if out == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    target = Path(out)
    try:
        mode = _mode(target)
        if mode is None or stat.S_ISREG(mode):
            with _replaced(Path(os.path.realpath(target)), mode) as stream:
                yield stream
        else:
            # A pipe or a device is written to as it is: a file in its place would be no use to
            # whoever reads it, and a device node is not ours to replace.
            with target.open("w", encoding="ascii") as stream:
                yield stream
    except OSError as error:
        code = "disk_full" if error.errno == errno.ENOSPC else "bad_request"
        raise Problem(code, f"{target} can't be written ({error.strerror}).") from error


def _mode(target: Path) -> int | None:
    """The type and permissions of what stands there, or of what a link leads to; None for
    nothing."""
    try:
        return target.stat().st_mode
    except FileNotFoundError:
        return None


@contextmanager
def _replaced(target: Path, mode: int | None) -> Generator[IO[str]]:
    """A stream whose text takes the place of the file at its end, with the permissions that the
    file had."""
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("x", encoding="ascii") as stream:
            yield stream
        if mode is not None:
            part.chmod(stat.S_IMODE(mode))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _lines(file: LedgerFile, progress: Progress | None) -> Generator[list[str]]:
    cluster = file.cluster()
    if cluster is None:
        return
    chain = ChainReader(cluster, file.feeds())
    prevs = {link.feed: link.hash for link in chain.links.values()}
    try:
        for rows in file.chunks(SELECT_SIZED, progress):
            sizes = [row[-1] for row in rows]
            lines: list[str] = []
            for event, size in zip(
                chain.read(checked_rows([row[:-1] for row in rows])), sizes, strict=True
            ):
                feed = Feed(event.author, event.topic)
                lines.append(_line(describe(event, prevs[feed], size)))
                prevs[feed] = event.hash
            yield lines
    except (Broken, msgspec.ValidationError) as error:
        raise corrupt(file.path, str(error)) from error


def _line(described: dict[str, Any]) -> str:
    line = _encode(described).decode()
    is_plain = line.isascii() and line.isprintable()
    return (line if is_plain else json.dumps(json.loads(line))) + "\n"


def describe(event: Event, prev: EventHash, attachment_size_bytes: int | None) -> dict[str, Any]:
    """An event as a JSON object for people and programs; `body` is null where it can't be read."""
    return {
        "author": _peer_id(event.author),
        "topic": event.topic,
        "seq": event.seq,
        "hash": event.hash.hex(),
        "prev": prev.hex(),
        "hlc": event.hlc,
        "time": _time(event.hlc),
        "kind": event.kind,
        "body": describe_body(event.kind, event.body),
        "body_hex": event.body.hex() if decode_body(event.kind, event.body) is None else None,
        "attachment_size_bytes": attachment_size_bytes,
        "signature": event.signature.hex() if event.signature is not None else None,
    }


def describe_body(kind: str, body: bytes) -> dict[str, Any] | None:
    """A body's fields by name, bytes as hex; None for a kind or a form that this release can't
    read.
    """
    said = decode_body(kind, body)
    if said is None:
        return None
    fields: dict[str, Any] = {name: _plain(getattr(said, name)) for name in said.__struct_fields__}
    if isinstance(said, TaskSubmitted):
        spec = decode_spec(said.spec)
        if spec is not None:
            fields["spec"] = {name: _plain(getattr(spec, name)) for name in spec.__struct_fields__}
    return fields


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        entries = cast("dict[Any, Any]", value)
        return {str(_plain(key)): _plain(entry) for key, entry in entries.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def _time(hlc: int) -> str | None:
    """The date of a reading; None where it is past what a date can say (the year 9999)."""
    try:
        date = _EPOCH + timedelta(milliseconds=wall_ms(hlc))
    except OverflowError:
        return None
    return date.isoformat(timespec="milliseconds").replace("+00:00", "Z")
