"""A ledger file without a node: making it ready for one, and reading it for `replay`, `audit` and
`export`.

Reading takes nothing but the file. It never writes, makes no checkpoint, and works while a node
runs (the file's write-ahead log is read beside it) and on a disk that can't be written. It reads
by position in chunks, each a transaction of its own, up to the last position there was at the
start: an append-only table needs no long snapshot, which would keep a running node from cutting
its log.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from kowalski_protocol.errors import Problem
from kowalski_protocol.feeds import Feed
from kowalski_protocol.identity import is_weak_key
from kowalski_protocol.ids import Author, ClusterId
from kowalski_protocol.topics import FEED_TOPICS

from .faults import damage_of, problem_of
from .rows import SELECT_CHUNK
from .schema import (
    APPLICATION_ID,
    MIGRATIONS,
    check_pages,
    check_tables,
    check_version,
    corrupt,
    is_empty,
    migrate,
)
from .settings import BUSY_TIMEOUT_S, GUARDS, file_uri

CLUSTER_KEY: Final = "cluster"
"""Where `meta` holds the cluster's id."""
CHUNK_ROWS_FIRST: Final = 512
CHUNK_ROWS_MAX: Final = 5000
CHUNK_SIZE_BYTES: Final = 8 * 1024 * 1024
"""About what a chunk of rows may weigh in memory."""
_HEADER_SIZE_BYTES: Final = 512
"""The least page, so the least file, of SQLite."""
VALUE_SIZE_BYTES_MAX: Final = 1024 * 1024
"""No column of a ledger holds more; a file from elsewhere might."""

Progress = Callable[[int, int], None]
"""(events done, events in all), called a few times a second at most."""


def prepare(path: Path, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> None:
    """Makes the file a sound ledger of this release: new, checked, or brought up from an older
    one.
    """
    try:
        if not path.exists():
            _create(path)
    except OSError as error:
        raise Problem("home_unusable", f"{path} can't be made ({error.strerror}).") from error
    try:
        connection = _connect(file_uri(path, read_only=False))
    except sqlite3.Error as error:
        raise damage_of(error, path) from error
    with closing(connection):
        try:
            if not _is_new(connection, path):
                check_version(connection, path, migrations)
                check_tables(connection, path, migrations)
                check_pages(connection, path)
        except sqlite3.Error as error:
            raise damage_of(error, path) from error
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            migrate(connection, migrations)
        except sqlite3.Error as error:
            raise problem_of(error, path) or error from error


def _is_new(connection: sqlite3.Connection, path: Path) -> bool:
    # SQLite takes a file too short for its header for an empty one.
    is_whole = path.stat().st_size == 0 or path.stat().st_size >= _HEADER_SIZE_BYTES
    may_be_ours = _application_id(connection) in (0, APPLICATION_ID)
    return is_whole and may_be_ours and is_empty(connection)


def _create(path: Path) -> None:
    # The file holds people's tasks, so it is its owner's alone; SQLite makes its companions alike.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)
    for guard in GUARDS:
        connection.execute(guard)
    return connection


def _application_id(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA application_id").fetchone()[0])


class LedgerFile:
    """An open ledger file; made by `open_ledger`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self.last_position, self.count = self._first(
            "SELECT ifnull(max(position), 0), count(*) FROM events"
        )

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """All rows of a statement; raises `Problem`."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise damage_of(error, self.path) from error

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with the file's pages and indexes."""
        found = [str(row[0]) for row in self.execute("PRAGMA integrity_check(100)")]
        return [line for line in found if line != "ok"]

    def _first(self, statement: str) -> Any:
        return self.execute(statement)[0]

    def cluster(self) -> ClusterId | None:
        """The cluster that the file says it belongs to; None before one was founded or joined."""
        rows = self.execute("SELECT value FROM meta WHERE key = ?", (CLUSTER_KEY,))
        if not rows:
            return None
        if not isinstance(rows[0][0], bytes) or len(rows[0][0]) != 32:
            raise corrupt(self.path, "the cluster's id is no hash")
        return ClusterId(rows[0][0])

    def feeds(self) -> dict[int, Feed]:
        """The file's feeds by their row number; raises `Problem` where one is impossible."""
        feeds: dict[int, Feed] = {}
        for id, author, topic in self.execute("SELECT id, author, topic FROM feeds"):
            if not isinstance(author, bytes) or is_weak_key(author) or topic not in FEED_TOPICS:
                raise corrupt(self.path, f"feed {id} has an author or a topic that can't be")
            feeds[id] = Feed(Author(author), topic)
        if len(set(feeds.values())) < len(feeds):
            raise corrupt(self.path, "a feed is listed twice")
        return feeds

    def chunks(
        self, statement: str = SELECT_CHUNK, progress: Progress | None = None
    ) -> Generator[list[Any]]:
        """The rows of `statement` in order of arrival, in chunks.

        The statement takes (position after which to begin, last position, number of rows) and
        gives the position first. Raises `Problem` where positions do not rise, as in a file whose
        pages form a ring.
        """
        position, rows_max, done = -(1 << 63), CHUNK_ROWS_FIRST, 0
        while rows := self.execute(statement, (position, self.last_position, rows_max)):
            yield rows
            done += len(rows)
            if progress is not None:
                progress(done, self.count)
            last = rows[-1][0]
            if not isinstance(last, int) or last <= position:
                raise corrupt(self.path, "the rows of its events are out of order")
            position, rows_max = last, next_chunk(rows)


def next_chunk(rows: list[Any], rows_max: int = CHUNK_ROWS_MAX) -> int:
    """How many rows to ask for next, so that a chunk of rows like these stays within its weight."""
    sample = rows[:: max(1, len(rows) // 64)]
    weight = sum(len(value) for row in sample for value in row if isinstance(value, bytes))
    per_row = 256 + weight // len(sample)
    return min(rows_max, max(16, CHUNK_SIZE_BYTES // per_row))


@contextmanager
def open_ledger(path: Path, *, is_lenient: bool = False) -> Generator[LedgerFile]:
    """A ledger file to read; raises `Problem` where it is missing, foreign, newer or damaged.

    Lenient reading takes text that is not UTF-8 for what it can be read as, so that it can be told.
    """
    if not path.is_file():
        raise Problem("ledger_missing", f"There is no ledger file at {path}.")
    try:
        connection = _connect_to_read(path)
    except sqlite3.Error as error:
        raise damage_of(error, path) from error
    with closing(connection):
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_SIZE_BYTES_MAX)
            if is_lenient:
                connection.text_factory = _lenient_text
            check_version(connection, path)
            check_tables(connection, path)
        except sqlite3.Error as error:
            raise damage_of(error, path) from error
        yield LedgerFile(path, connection)


def _lenient_text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _connect_to_read(path: Path) -> sqlite3.Connection:
    uri = file_uri(path, read_only=True)
    try:
        return _probed(uri)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        # On a disk that can't be written SQLite can't make the log's index. Without a log none is
        # needed.
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size > 0:
            raise Problem(
                "home_unusable",
                f"{path} has a log beside it ({log.name}) and lies where nothing can be written, so"
                " it can't be read in place: copy both to another disk and read them there.",
            ) from error
        return _probed(uri + "&immutable=1")


def _probed(uri: str) -> sqlite3.Connection:
    connection = _connect(uri)
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection
