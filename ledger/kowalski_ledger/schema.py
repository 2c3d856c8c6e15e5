"""What a ledger file looks like inside, and how an older one becomes a newer one.

The file is an ordinary SQLite database that a person can read: one row per event in `events`, in
order of arrival, the feeds that they belong to in `feeds`, and a view, `events_readable`, that
shows keys and hashes in hex and times as dates. `application_id` says that it is a ledger and
`user_version` how far its tables have come. `MIGRATIONS` is the history of the tables: step n
leads from version n to n + 1, a new file runs through all of them, an older one through those
that it lacks, in one transaction, and a newer one is refused rather than guessed at.

Before anything is read from a file, its tables are compared with what the steps make of an empty
one. A file that came from elsewhere may otherwise hold a view in place of a table, or a trigger,
and so run for ever.
"""

from __future__ import annotations

import shlex
import sqlite3
from pathlib import Path
from typing import Final

from kowalski_protocol.errors import Problem

APPLICATION_ID: Final = 0x4B4F574C
"""The letters KOWL: how `file` and SQLite tell a ledger from another database."""

_TABLES: Final = (
    """
    CREATE TABLE meta (
        key TEXT PRIMARY KEY NOT NULL,
        value BLOB NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE feeds (
        id INTEGER PRIMARY KEY,
        author BLOB NOT NULL, -- the member's Ed25519 public key
        topic TEXT NOT NULL,
        UNIQUE (author, topic)
    ) STRICT
    """,
    """
    CREATE TABLE events (
        position INTEGER PRIMARY KEY, -- order of arrival on this device
        feed INTEGER NOT NULL REFERENCES feeds (id),
        seq INTEGER NOT NULL, -- place in the feed, from 1
        hlc INTEGER NOT NULL, -- 48 bits of Unix milliseconds, 16 bits of counter, read as signed
        kind TEXT NOT NULL,
        hash BLOB NOT NULL, -- covers the hash before it, seq, hlc, kind and body
        signature BLOB, -- the author's over hash, where a frame ended
        body BLOB NOT NULL, -- MessagePack
        attachment BLOB, -- the bytes whose hash the body names, while this device keeps them
        UNIQUE (feed, seq)
    ) STRICT
    """,
    """
    CREATE TABLE telemetry (
        id INTEGER PRIMARY KEY,
        author BLOB NOT NULL,
        taken_ms INTEGER NOT NULL,
        sample TEXT NOT NULL -- JSON
    ) STRICT
    """,
    "CREATE INDEX telemetry_by_time ON telemetry (taken_ms)",
    """
    CREATE VIEW events_readable AS
    SELECT
        e.position,
        lower(hex(f.author)) AS author,
        f.topic,
        e.seq,
        strftime('%Y-%m-%dT%H:%M:%fZ', (e.hlc >> 16) / 1000.0, 'unixepoch') AS time,
        e.kind,
        lower(hex(e.hash)) AS hash,
        e.signature IS NOT NULL AS ends_frame,
        length(e.body) AS body_size_bytes,
        length(e.attachment) AS attachment_size_bytes
    FROM events AS e JOIN feeds AS f ON f.id = e.feed
    """,
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_TABLES,)
"""Per step its statements. A step that was released is never changed; a new one is added."""

VERSION: Final = len(MIGRATIONS)


def migrate(connection: sqlite3.Connection, migrations: tuple[tuple[str, ...], ...]) -> None:
    """Brings the tables up to the last step, all in one transaction; the caller checked the
    version.
    """
    version = user_version(connection)
    if version == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in migrations[version:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def user_version(connection: sqlite3.Connection) -> int:
    """How many steps the file's tables have come."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether nothing was ever written to the file."""
    return connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0


def check_version(
    connection: sqlite3.Connection,
    path: Path,
    migrations: tuple[tuple[str, ...], ...] = MIGRATIONS,
) -> None:
    """Raises `Problem` unless the file is a ledger of this release or an older one."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise Problem("ledger_foreign", f"{path} is a database, but not a Kowalski ledger.")
    version = user_version(connection)
    if version > len(migrations):
        raise Problem(
            "ledger_newer",
            f"{path} was written by a newer release (its tables are of version {version}, this one"
            f" knows {len(migrations)}).",
        )
    if version < 1:
        raise Problem("ledger_foreign", f"{path} says that it is a ledger and has no version.")


def check_tables(
    connection: sqlite3.Connection,
    path: Path,
    migrations: tuple[tuple[str, ...], ...] = MIGRATIONS,
) -> None:
    """Raises `Problem` unless the tables are exactly those that this release's steps make.

    Views are let pass: a person may add one, and nothing here reads a view.
    """
    expected = _shape(_model(migrations[: user_version(connection)]))
    found = _shape(connection)
    if found != expected:
        names = sorted({name for _, name, _ in found ^ expected})
        shown = ", ".join(repr(name[:40]) for name in names[:3])
        raise Problem("ledger_foreign", f"The tables of {path} are not a ledger's: see {shown}.")


def check_pages(connection: sqlite3.Connection, path: Path) -> None:
    """Raises `Problem` where SQLite finds the file's pages damaged (about 0.7 s per GB)."""
    found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    if found != "ok":
        raise corrupt(path, found)


def corrupt(path: Path, what: str) -> Problem:
    """The problem of a damaged file: what is wrong, and the command that shows all of it."""
    return Problem(
        "ledger_corrupt",
        f"The ledger {path} is damaged: {what.strip().rstrip('.')[:200]}. Other members hold its"
        " events: once it is moved aside, a new invite brings them back.",
        mend=f"kowalski audit --ledger {shlex.quote(str(path))}",
    )


def _model(migrations: tuple[tuple[str, ...], ...]) -> sqlite3.Connection:
    model = sqlite3.connect(":memory:", isolation_level=None)
    migrate(model, migrations)
    return model


def _shape(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    return {
        (str(kind), str(name), str(sql))
        for kind, name, sql in connection.execute(
            "SELECT type, name, sql FROM sqlite_schema"
            " WHERE type != 'view' AND name NOT LIKE 'sqlite_stat%' LIMIT 1000"
        )
    }
