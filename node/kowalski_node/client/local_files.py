"""Which files of this device go with a task, and that they are what they were when they were named.

A file is named as LOCAL or as LOCAL=PATH. Without a PATH it lies in the work folder as it does
here: below the current folder at the same place, elsewhere by its own name. A folder is taken with
all that is below it, and a pattern (`data/*.csv`) as the shell would take it. Links that are named
are followed; links that are found in a folder are not, since they may lead anywhere.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kowalski_protocol.errors import Problem
from kowalski_protocol.task_files import shown_path

PIECE_SIZE_BYTES: Final = 1024 * 1024
FILES_FOUND_MAX: Final = 100_000
"""Where a search ends that was begun in too large a folder; a task takes far fewer."""

FileSource = str | Path | tuple[str | Path, str]
"""LOCAL, "LOCAL=PATH", or the two apart."""
Progress = Callable[[int], None]
"""Told how many bytes more were read."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this device, as it was found."""

    path: str
    """Where it will lie in the work folder."""
    source: Path
    size_bytes: int
    state: tuple[int, int, int, int]

    def pieces(self, progress: Progress | None = None) -> Iterator[bytes]:
        """What is in it, piece by piece. Raises Problem where it is not the file that was found,
        or changes meanwhile."""
        left = self.size_bytes
        try:
            # Should a pipe be in its place by now, opening it must not wait.
            opened = os.open(self.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(opened, "rb", buffering=0) as file:
                self._check(os.fstat(opened))
                while piece := file.read(min(PIECE_SIZE_BYTES, left + 1)):
                    left -= len(piece)
                    if left < 0:
                        raise _changed(self.source)
                    if progress is not None:
                        progress(len(piece))
                    yield piece
                self._check(os.fstat(opened))
        except OSError as error:
            raise _unreadable(self.source, error) from None
        if left:
            raise _changed(self.source)

    def blob(self, progress: Progress | None = None) -> str:
        """The hex SHA-256 of what is in it. Raises Problem as `pieces`."""
        digest = hashlib.sha256()
        for piece in self.pieces(progress):
            digest.update(piece)
        return digest.hexdigest()

    def check_sent(self, blob: str, stored: str) -> None:
        """Raises Problem where a node got other bytes than those that were hashed before."""
        if blob != stored:
            raise _changed(self.source)

    def _check(self, now: os.stat_result) -> None:
        if _state(now) != self.state:
            raise _changed(self.source)


def find_files(sources: Iterable[FileSource]) -> tuple[list[LocalFile], list[Path]]:
    """The files that are named, and what was found beside them and is left out: links, and what is
    no file. Raises Problem `bad_request` where one can't be taken."""
    files: list[LocalFile] = []
    left_out: list[Path] = []
    for source in sources:
        for local, path in _named(source):
            _take(local, path, files, left_out)
    return files, left_out


def _named(source: FileSource) -> Sequence[tuple[Path, str]]:
    """What one source names, each with its place in the work folder ("" being that itself)."""
    if isinstance(source, tuple):
        local, place = str(source[0]), source[1]
    else:
        local, place = str(source), None
        if isinstance(source, str) and "=" in local and not os.path.lexists(local):
            local, _, place = local.rpartition("=")
    if not local or "\0" in local:
        raise Problem("bad_request", f"{shown_path(local)} is no file's name.")
    if os.path.lexists(local):
        found = [local]
    else:
        found = sorted(glob.glob(local, recursive=True))  # noqa: PTH207
        if not found:
            raise Problem("bad_request", f"There is no file {shown_path(local)}.")
        if place is not None and not place.endswith("/"):
            raise Problem(
                "bad_request",
                f"{shown_path(local)} is a pattern, so what is behind '=' must be a folder and end"
                f" with a slash: {shown_path(place + '/')}.",
            )
    return [(Path(one), _place(one, place)) for one in found]


def _place(local: str, place: str | None) -> str:
    own = os.path.normpath(local)
    if place is None:
        outside = Path(own).is_absolute() or os.pardir in Path(own).parts
        placed = _name(own) if outside else own
        return "" if placed == os.curdir else placed.replace(os.sep, "/")
    if place.endswith("/"):
        return place + _name(own)
    return place


def _name(local: str) -> str:
    """What a file or folder is called, `..` included; a link by its own name."""
    return Path(os.path.normpath(Path.cwd() / local)).name


def _take(local: Path, path: str, files: list[LocalFile], left_out: list[Path]) -> None:
    try:
        found = local.stat()
        if not stat.S_ISDIR(found.st_mode):
            if not stat.S_ISREG(found.st_mode):
                raise Problem(
                    "bad_request", f"{shown_path(str(local))} is neither file nor folder."
                )
            files.append(LocalFile(path, local, found.st_size, _state(found)))
            return
        waiting = [(local, path)]
        while waiting:
            folder, place = waiting.pop()
            for entry in sorted(os.scandir(folder), key=lambda one: one.name, reverse=True):
                below = f"{place}/{entry.name}" if place else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((Path(entry.path), below))
                elif entry.is_file(follow_symlinks=False):
                    now = Path(entry.path).lstat()
                    files.append(LocalFile(below, Path(entry.path), now.st_size, _state(now)))
                else:
                    left_out.append(Path(entry.path))
                if len(files) + len(left_out) + len(waiting) > FILES_FOUND_MAX:
                    raise Problem(
                        "spec_too_large",
                        f"More than {FILES_FOUND_MAX:,} files are below {shown_path(str(local))}.",
                    )
    except OSError as error:
        raise _unreadable(local, error) from None


def _state(now: os.stat_result) -> tuple[int, int, int, int]:
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns


def _changed(source: Path) -> Problem:
    return Problem("bad_request", f"{shown_path(str(source))} changed while it was being read.")


def _unreadable(source: Path, error: OSError) -> Problem:
    name = error.filename if isinstance(error.filename, str) else str(source)
    return Problem("bad_request", f"{shown_path(name)} can't be read: {error.strerror or error}.")
