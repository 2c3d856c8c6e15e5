"""Where a batch's results go: nowhere, into a pipe, or into a file that can be gone on with.

A file keeps its results whatever ends the command. New ones are appended and flushed; where others
must go (failed ones that are run again, an order to be mended), the whole file is written anew
beside the old one and takes its place, so that at no instant there is less than before. A lock
keeps two commands from writing to one file.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

import click

from .batch_files import Line
from .batch_found import (
    Found,
    Place,
    State,
    Tally,
    load_state,
    save_state,
    scan,
    state_file,
    sync_folder,
)
from .screen import cannot_write
from .wording import safe

BATCH_ID_BYTES: Final = 16
COPY_SIZE_BYTES: Final = 1024 * 1024


class Results:
    """What is settled and where it is written; this one forgets it."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        """The file, as a person called it."""
        self.batch = secrets.token_hex(BATCH_ID_BYTES)
        self.runs: dict[int, int] = {}
        self.tally = Tally()
        self.done: frozenset[int] = frozenset()
        """Lines whose results were there before."""
        self.written = 0
        """How many results it holds."""

    @property
    def can_go_on(self) -> bool:
        """Whether the same command, given again, runs only what is missing."""
        return False

    def write(self, records: Iterable[bytes]) -> None:
        """They are with the system when this returns."""

    def finish(self, *, ordered: bool) -> None:
        """Nothing is missing any more."""


class Stream(Results):
    """A pipe, a terminal, `/dev/null`: written to and never read."""

    def __init__(self, file: IO[bytes], out: Path) -> None:
        super().__init__(str(out))
        self._file = file

    def write(self, records: Iterable[bytes]) -> None:
        for record in records:
            self._file.write(record)
            self.written += 1
        self._file.flush()


class ResultsFile(Results):
    """A regular file, locked."""

    def __init__(self, out: Path, lines: Mapping[int, Line]) -> None:
        super().__init__(str(out))
        self._said = str(out)
        self._path = out.resolve()
        self._state_path = state_file(self._path)
        self._lines = lines
        self._needs_sorting = False
        self._file = _locked(self._path, self._state_path)

    @property
    def can_go_on(self) -> bool:
        return True

    def close(self) -> None:
        """Lets others write to it."""
        self._file.close()

    def begin(self, *, fresh: bool, retry_failed: bool) -> None:
        """Reads what is there, and makes the file ready for what is missing."""
        if fresh:
            # First the state: until the file is empty, it can be gone on with as before.
            if load_state(self._state_path) is not None:
                self._state_path.unlink()
            self._file.truncate(0)
        state = load_state(self._state_path)
        found = scan(self._file, self._said, self._lines, state)
        self.batch = found.batch or self.batch
        self.runs = dict(state.runs) if state else {}
        if retry_failed:
            self._ask_again(found)
        for line, place in found.places.items():
            self.tally.add(line, place.task_id, place.outcome, place.error)
        self.done = frozenset(found.places)
        self.written = len(self.done)
        if len(self.done) < len(self._lines):
            # Before anything is taken out of the file: it says why that is missing.
            save_state(self._state_path, State(self.batch, self.runs))
        self._mend(found)
        last = max(self.done, default=0)
        missing = (line for line in self._lines if line not in self.done)
        self._needs_sorting = not found.in_order or next(missing, last + 1) < last

    def write(self, records: Iterable[bytes]) -> None:
        for record in records:
            self._file.write(record)
            self.written += 1
        self._file.flush()

    def finish(self, *, ordered: bool) -> None:
        if ordered and self._needs_sorting:
            found = scan(self._file, self._said, self._lines, State(self.batch, self.runs))
            self._rewrite(place for _, place in sorted(found.places.items()))
        os.fsync(self._file.fileno())
        self._state_path.unlink(missing_ok=True)

    def _ask_again(self, found: Found) -> None:
        failed = [line for line, place in found.places.items() if place.outcome != "completed"]
        kept = [line for line in failed if self._lines[line].has_key]
        for line in failed:
            if not self._lines[line].has_key:
                self.runs[line] = found.places.pop(line).run + 1
                found.has_others = True
        if kept:
            said = f"{len(kept):,} failed, and have an idempotency_key of their own, with which"
            click.echo(f"note: {said} they run once: not run again.", err=True)

    def _mend(self, found: Found) -> None:
        if found.torn_bytes:
            said = f"the last line of {safe(self._said)} was cut short by an interruption"
            click.echo(f"note: {said}: taken out, and its result is asked for again.", err=True)
            self._file.truncate(found.end)
        self._file.seek(0, os.SEEK_END)
        if found.lacks_newline:
            self._file.write(b"\n")
            self._file.flush()
            line, place = max(found.places.items(), key=lambda item: item[1].offset)
            if place.offset + place.size_bytes == found.end:
                found.places[line] = place._replace(size_bytes=place.size_bytes + 1)
        if found.has_others:
            self._rewrite(found.places.values())

    def _rewrite(self, places: Iterable[Place]) -> None:
        """The file holds these results alone, in this order."""
        new_path = self._path.with_name(self._path.name + ".batch-new")
        new = new_path.open("w+b")
        try:
            _lock(new, new_path)
            os.fchmod(new.fileno(), stat.S_IMODE(os.fstat(self._file.fileno()).st_mode))
            for place in places:
                self._copy(place, new)
            new.flush()
            os.fsync(new.fileno())
            new_path.replace(self._path)
            sync_folder(self._path.parent)
        except BaseException:  # guard: whatever happened, the half-written file must go
            new.close()
            new_path.unlink(missing_ok=True)
            raise
        self._file.close()
        self._file = new

    def _copy(self, place: Place, new: IO[bytes]) -> None:
        self._file.seek(place.offset)
        left = place.size_bytes
        while left:
            piece = self._file.read(min(left, COPY_SIZE_BYTES))
            if not piece:
                raise OSError(None, "it became shorter while it was read")
            new.write(piece)
            left -= len(piece)


def _locked(path: Path, state_path: Path) -> IO[bytes]:
    """The file at the path, made where it isn't there, which no other command writes to."""
    while True:
        if not path.exists():
            # What an earlier batch left, whose results somebody has removed to begin anew.
            if load_state(state_path) is not None:
                state_path.unlink(missing_ok=True)
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        file = path.open("r+b")
        try:
            _lock(file, path)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass  # it was removed between the two
        except BaseException:  # guard: an open file is closed whatever comes
            file.close()
            raise
        file.close()  # another command has put a new file in its place


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said = f"Another kowalski batch writes its results to {path}."
        raise click.UsageError(said) from None


@contextmanager
def opened(
    out: Path | None, lines: Mapping[int, Line], *, fresh: bool, retry_failed: bool
) -> Iterator[Results]:
    """Where results go for as long as the context is open."""
    if out is None:
        yield Results()
        return
    try:
        if out.exists() and not out.is_file():
            with out.open("wb") as file:
                yield Stream(file, out)
            return
        results = ResultsFile(out, lines)
        try:
            results.begin(fresh=fresh, retry_failed=retry_failed)
            yield results
        finally:
            results.close()
    except OSError as error:
        raise cannot_write(str(out), error) from None
