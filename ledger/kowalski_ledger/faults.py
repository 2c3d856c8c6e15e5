"""What SQLite says when something is wrong, told as a `Problem`.

SQLite's result codes tell apart what matters to a person: the disk is full (nothing is lost, and
writing goes on once there is room), the disk failed (what was written last may or may not be
there, so nothing more is written until a restart has read the file anew), the file is damaged,
the file is no ledger, another program holds it. Everything else is a mistake of ours and goes up
as it is.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from kowalski_protocol.errors import Problem

from .schema import corrupt

_DAMAGED: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH}
)
_UNUSABLE: Final = frozenset(
    {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_NOLFS,
    }
)
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SHORT_READ: Final = sqlite3.SQLITE_IOERR | (2 << 8)
_CORRUPT_FILE_SYSTEM: Final = sqlite3.SQLITE_IOERR | (33 << 8)


def problem_of(error: sqlite3.Error, path: Path) -> Problem | None:
    """The problem that an error of SQLite's on this file means; None where it is a mistake of
    ours.
    """
    extended: int | None = getattr(error, "sqlite_errorcode", None)
    if extended is None:
        # Raised by Python's module itself: the one case that a file can cause is text that is not
        # UTF-8.
        if isinstance(error, sqlite3.OperationalError) and "decode" in str(error):
            return corrupt(path, str(error))
        return None
    primary = extended & 0xFF
    if primary == sqlite3.SQLITE_FULL:
        return Problem(
            "disk_full",
            f"The disk of {path} is full: nothing new is written, reading goes on. Writing starts"
            " again by itself once there is room.",
        )
    if primary == sqlite3.SQLITE_NOTADB:
        return Problem("ledger_foreign", f"{path} is not a database, so not a Kowalski ledger.")
    if primary in _DAMAGED or extended in (_SHORT_READ, _CORRUPT_FILE_SYSTEM):
        return corrupt(path, str(error))
    if primary == sqlite3.SQLITE_IOERR:
        return Problem(
            "disk_failed",
            f"The disk of {path} reported an error ({error}): nothing new is written until the node"
            " is started again.",
        )
    if primary in _BUSY:
        return Problem("home_locked", f"Another program holds a lock on {path}.")
    if primary in _UNUSABLE:
        return Problem("home_unusable", f"{path} can't be opened ({error}).")
    return None


def damage_of(error: sqlite3.Error, path: Path) -> Problem:
    """As `problem_of`, where the statements are known to be right: the file is what is wrong."""
    return problem_of(error, path) or corrupt(path, str(error))
