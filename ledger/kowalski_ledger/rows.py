"""How events lie in the table `events`: the statements that write and read many of them at once.

Python's sqlite3 gives up the interpreter lock at each step of a statement and takes it back
after. While trio's thread is busy each taking back can last up to the interpreter's switch
interval (5 ms), so a statement stepped once per row is slow exactly when a node is under load: a
hundred rows took 157 ms. Therefore a group of events is written by *one* statement of many rows,
which is also its own transaction, and a range is read as one row of JSON that SQLite puts
together: one step each, whatever the main thread does.

To let SQLite keep its prepared statements, groups are filled up to one of a few sizes with rows
of NULLs, which the statement itself leaves out.

A hybrid logical clock reading is an unsigned 64-bit integer and SQLite's are signed: readings
from 2^63 on (the year 6429; only a broken or hostile clock writes them) are stored as the
negative number of the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import msgspec

from kowalski_protocol.feeds import Event, Feed
from kowalski_protocol.ids import EventHash

ROWS_PER_STATEMENT_MAX: Final = 512
HLC_MASK: Final = (1 << 64) - 1
_SIGN: Final = 1 << 63

EVENT_WIDTH: Final = 9
INSERT_EVENT: Final = "events (position, feed, seq, hlc, kind, hash, signature, body, attachment)"
INSERT_SAMPLE: Final = "telemetry (author, taken_ms, sample)"
SAMPLE_WIDTH: Final = 3

HEADER_SIZE_BYTES_MAX: Final = 320
"""What a frame weighs without its events, at most."""
EVENT_OVERHEAD_BYTES: Final = 24
"""What an event weighs in a frame beyond kind, body and attachment, at most."""


def filled(count: int) -> int:
    """The number of rows of the statement that takes `count` rows: few sizes, at most a fifth of
    NULLs.
    """
    if count <= 8:
        return count
    step = 1 << max(0, (count - 1).bit_length() - 3)
    return -(-count // step) * step


@cache
def insert(target: str, width: int, count: int) -> str:
    """The statement that inserts those of `count` rows whose first value is not NULL."""
    row = "(" + ",".join("?" * width) + ")"
    rows = ",".join([row] * count)
    if count == 1:
        return f"INSERT INTO {target} VALUES {row}"
    return f"INSERT INTO {target} SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL"


def insert_rows(target: str, width: int, values: list[Any]) -> tuple[str, list[Any]]:
    """The statement and its values, for rows given one after the other in one flat list."""
    count = len(values) // width
    rows = filled(count)
    if rows > count:
        values = values + [None] * (width * (rows - count))
    return insert(target, width, rows), values


def signed_hlc(hlc: int) -> int:
    """A clock reading as SQLite stores it."""
    return hlc if hlc < _SIGN else hlc - (1 << 64)


# One event, or many without their attachments, as plain rows.

SELECT_CHUNK: Final = """
SELECT position, feed, seq, hlc, kind, hash, signature, body
FROM events WHERE position > ? AND position <= ? ORDER BY position LIMIT ?
"""
"""Events in order of arrival, as the fold wants them: attachments stay on the disk."""

EventRow = tuple[int, int, int, int, str, bytes, bytes | None, bytes]
"""A row of `SELECT_CHUNK`."""

SELECT_SIZED: Final = """
SELECT position, feed, seq, hlc, kind, hash, signature, body, length(attachment)
FROM events WHERE position > ? AND position <= ? ORDER BY position LIMIT ?
"""
"""As `SELECT_CHUNK`, and what the attachments weigh."""

SELECT_WHOLE: Final = """
SELECT position, feed, seq, hlc, kind, hash, signature, body, attachment
FROM events WHERE position > ? AND position <= ? ORDER BY position LIMIT ?
"""
"""Events in order of arrival with their attachments."""

WholeRow = tuple[int, int, int, int, str, bytes, bytes | None, bytes, bytes | None]
"""A row of `SELECT_WHOLE`."""

SELECT_EVENT: Final = """
SELECT hlc, kind, hash, signature, body, attachment FROM events WHERE feed = ? AND seq = ?
"""
SELECT_HASH: Final = "SELECT hash FROM events WHERE feed = ? AND seq = ?"
SELECT_ATTACHMENT: Final = "SELECT attachment FROM events WHERE feed = ? AND seq = ?"

SELECT_HEADS: Final = """
SELECT f.id, f.author, f.topic, e.seq, e.hash, e.signature IS NOT NULL
FROM feeds AS f LEFT JOIN events AS e
    ON e.feed = f.id AND e.seq = (SELECT max(seq) FROM events WHERE feed = f.id)
"""
"""Every feed with its newest event."""


def checked_rows(rows: Sequence[Any]) -> list[EventRow]:
    """The same rows, known to have the columns' types; raises `msgspec.ValidationError`.

    A file from elsewhere may hold a text where the table says integer: STRICT binds only those
    who write through SQLite.
    """
    return msgspec.convert(rows, list[EventRow], builtin_types=(bytes,))


# A range of one feed, as one row of JSON.

_PACK_EVENT: Final = """
json_group_array(json_array(
    seq, hlc, kind, hex(hash), iif(signature IS NULL, NULL, hex(signature)),
    hex(body), iif(attachment IS NULL, NULL, hex(attachment))))
"""

SELECT_RANGE: Final = f"""
WITH run AS (
    SELECT seq, signature,
        sum(length(kind) + length(body) + ifnull(length(attachment), 0) + {EVENT_OVERHEAD_BYTES})
            OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) AS size_bytes
    FROM events WHERE feed = :feed AND seq > :after ORDER BY seq LIMIT :events_max)
SELECT {_PACK_EVENT} FROM (
    SELECT * FROM events
    WHERE feed = :feed AND seq > :after AND seq <= (
        SELECT max(seq) FROM run WHERE signature IS NOT NULL AND size_bytes <= :size_bytes_max)
    ORDER BY seq)
"""
"""The longest run after `after` that ends at a signed event within both bounds."""

SELECT_FRAME: Final = f"""
SELECT {_PACK_EVENT} FROM (
    SELECT * FROM events
    WHERE feed = :feed AND seq > :after AND seq <= (
        SELECT seq FROM events
        WHERE feed = :feed AND seq > :after AND signature IS NOT NULL ORDER BY seq LIMIT 1)
    ORDER BY seq LIMIT :events_max)
"""
"""The run after `after` up to the first signed event."""

_packed_range: Final = msgspec.json.Decoder(
    list[tuple[int, int, str, str, str | None, str, str | None]]
)

SELECT_NEW: Final = """
SELECT json_group_array(json_array(
    position, feed, seq, hlc, kind,
    hex(hash), iif(signature IS NULL, NULL, hex(signature)), hex(body)))
FROM (
    SELECT * FROM events WHERE position > ? AND position <= ? ORDER BY position LIMIT ?)
"""
"""Events in order of arrival without attachments, as `SELECT_CHUNK`, for when the node is under
load.
"""

_packed_new: Final = msgspec.json.Decoder(
    list[tuple[int, int, int, int, str, str, str | None, str]]
)


def unpack_range(feed: Feed, packed: str) -> list[Event]:
    """The events of a `SELECT_RANGE`, in order."""
    unhex = bytes.fromhex
    events = [
        Event(
            feed.author,
            feed.topic,
            seq,
            hlc & HLC_MASK,
            kind,
            unhex(body),
            EventHash(unhex(hash)),
            None if attachment is None else unhex(attachment),
            None if signature is None else unhex(signature),
        )
        for seq, hlc, kind, hash, signature, body, attachment in _packed_range.decode(packed)
    ]
    events.sort(key=_by_seq)
    return events


def unpack_new(packed: str) -> list[EventRow]:
    """The rows of a `SELECT_NEW`, in order."""
    unhex = bytes.fromhex
    rows = [
        (
            position,
            feed,
            seq,
            hlc,
            kind,
            unhex(hash),
            None if signature is None else unhex(signature),
            unhex(body),
        )
        for position, feed, seq, hlc, kind, hash, signature, body in _packed_new.decode(packed)
    ]
    rows.sort()
    return rows


def _by_seq(event: Event) -> int:
    return event.seq
