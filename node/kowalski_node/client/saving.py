"""Files that a task left, written below a folder of this device and nowhere else.

Their names were chosen by a program on another device, so they are held to the rules for paths
again, and each folder on the way is opened for itself and never through a link. A file is written
under a name of its own beside its place and gets its real name once it is whole and is what its
hash says; what has that name already stays, unless it may be overwritten.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from kowalski_protocol.errors import Problem
from kowalski_protocol.task_files import OUTPUT_FILES_MAX, clash, path_flaw, shown_path

_FOLDER_FLAGS: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_NEW_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class Left(Protocol):
    """A file that a task left, as a result's view names it."""

    @property
    def path(self) -> str:
        """Relative to the program's work folder."""
        ...

    @property
    def blob(self) -> str:
        """Hex SHA-256."""
        ...

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        ...


class Target:
    """A file on its way to its place."""

    def __init__(self, file: int, shown: str, left: Left) -> None:
        self._file = file
        self._shown = shown
        self._left = left
        self._digest = hashlib.sha256()
        self._size_bytes = 0

    def write(self, piece: bytes) -> None:
        """Adds what came. Raises Problem."""
        self._size_bytes += len(piece)
        if self._size_bytes > self._left.size_bytes:
            raise self._wrong()
        self._digest.update(piece)
        try:
            view = memoryview(piece)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            raise _cannot(self._shown, error) from None

    def check(self) -> None:
        """Raises Problem where what came is not the file that was asked for."""
        is_whole = self._size_bytes == self._left.size_bytes
        if not is_whole or self._digest.hexdigest() != self._left.blob.lower():
            raise self._wrong()

    def _wrong(self) -> Problem:
        return Problem("bad_answer", f"The bytes that came are not those of {self._shown}.")


class Saving:
    """A folder into which files are saved; use `open_saving`."""

    def __init__(self, root: int, folder: Path, overwrite: bool) -> None:
        self._root = root
        self._folder = folder
        self._overwrite = overwrite

    @contextmanager
    def target(self, left: Left) -> Iterator[Target]:
        """What the file's bytes are written to; it has its name when the context ends well."""
        *parts, name = left.path.split("/")
        shown = shown_path(str(self._folder / left.path))
        part = f".kowalski-{secrets.token_hex(8)}.part"
        try:
            folder = self._opened(parts, make=True)
        except OSError as error:
            raise _cannot(shown, error) from None
        assert folder is not None
        try:
            try:
                file = os.open(part, _NEW_FLAGS, 0o666, dir_fd=folder)
            except OSError as error:
                raise _cannot(shown, error) from None
            try:
                target = Target(file, shown, left)
                yield target
                target.check()
                self._name(folder, part, name, shown)
            finally:
                os.close(file)
                with suppress(OSError):
                    os.unlink(part, dir_fd=folder)
        finally:
            os.close(folder)

    def check(self, left: Left) -> None:
        """Raises Problem where the file could not get its name."""
        *parts, name = left.path.split("/")
        shown = shown_path(str(self._folder / left.path))
        try:
            folder = self._opened(parts, make=False)
            if folder is None:
                return
            try:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            finally:
                os.close(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _cannot(shown, error) from None
        if stat.S_ISDIR(found.st_mode):
            raise Problem("bad_request", f"{shown} is a folder.")
        if not self._overwrite:
            raise _exists(shown)

    def _opened(self, parts: Sequence[str], *, make: bool) -> int | None:
        """The folder below, opened; None where it isn't there and is not to be made."""
        folder = os.dup(self._root)
        for part in parts:
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=folder)
                below = os.open(part, _FOLDER_FLAGS, dir_fd=folder)
            except FileNotFoundError:
                if make:
                    raise
                return None
            finally:
                os.close(folder)
            folder = below
        return folder

    def _name(self, folder: int, part: str, name: str, shown: str) -> None:
        try:
            if not self._overwrite:
                try:
                    # Unlike a renaming, this fails where the name is taken meanwhile.
                    os.link(part, name, src_dir_fd=folder, dst_dir_fd=folder)
                    return
                except FileExistsError:
                    raise _exists(shown) from None
                except OSError:  # a file system without hard links
                    if _is_there(name, folder):
                        raise _exists(shown) from None
            os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            raise _cannot(shown, error) from None


@contextmanager
def open_saving(folder: Path | str, files: Sequence[Left], *, overwrite: bool) -> Iterator[Saving]:
    """A folder, made where it isn't there, in which all these files have a place.

    Raises Problem before anything is written where one of them has none.
    """
    if len(files) > OUTPUT_FILES_MAX:
        raise Problem("bad_answer", f"The result names more than {OUTPUT_FILES_MAX:,} files.")
    for left in files:
        flaw = path_flaw(left.path)
        if flaw is not None:
            raise Problem(
                "bad_answer",
                f"A file of the result can't be saved: {shown_path(left.path)} {flaw}.",
            )
    clashing = clash([left.path for left in files])
    if clashing is not None:
        raise Problem("bad_answer", f"The result names {shown_path(clashing[0])} twice.")
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        root = os.open(place, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError as error:
        raise _cannot(shown_path(str(place)), error) from None
    try:
        saving = Saving(root, place, overwrite)
        for left in files:
            saving.check(left)
        yield saving
    finally:
        os.close(root)


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _exists(shown: str) -> Problem:
    return Problem(
        "bad_request",
        f"{shown} is there already; it is replaced only where that is asked for (--overwrite).",
    )


def _cannot(shown: str, error: OSError) -> Problem:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return Problem(
            "bad_request", f"{shown} can't be written: a folder on the way is a link or a file."
        )
    code = "disk_full" if error.errno in _NO_SPACE else "bad_request"
    return Problem(code, f"{shown} can't be written: {error.strerror or error}.")
