"""How SQLite is told to treat the ledger file.

One connection writes and makes the checkpoints. All others open the file `mode=ro` and make none:
before SQLite 3.51.3 two connections that write or checkpoint at once can corrupt the write-ahead
log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

BUSY_TIMEOUT_S: Final = 5.0
"""How long a statement waits for another program's lock (somebody's `sqlite3` shell)."""
STATEMENTS_KEPT: Final = 128
"""Prepared statements per connection: more than there are (see `rows.filled`)."""
CHECKPOINT_BYTES: Final = 2 * 1024 * 1024
"""After about so much the store moves the log into the file: 1 to 5 ms during which the next
group waits.
"""
CHECKPOINT_PAGES: Final = 16_384
"""A net below that: past 64 MiB of log SQLite makes a checkpoint within a commit."""
WAL_SIZE_BYTES_KEPT: Final = 16 * 1024 * 1024
"""To what the log is cut back after a long reader let it grow."""

GUARDS: Final = ("PRAGMA trusted_schema = OFF", "PRAGMA cell_size_check = ON")
"""Against files from elsewhere."""

WRITER_SETTINGS: Final = (
    *GUARDS,
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    # On macOS only this waits for the platter; elsewhere it changes nothing.
    "PRAGMA fullfsync = ON",
    f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}",
    f"PRAGMA journal_size_limit = {WAL_SIZE_BYTES_KEPT}",
    "PRAGMA temp_store = MEMORY",
    # What `forget` drops is overwritten, not only unlinked.
    "PRAGMA secure_delete = ON",
)

READER_SETTINGS: Final = (
    *GUARDS,
    "PRAGMA query_only = ON",
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA temp_store = MEMORY",
)


def file_uri(path: Path, *, read_only: bool) -> str:
    """The file as SQLite is told of it; a writer's file must exist, so that its mode bits are
    ours.
    """
    return f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
