"""A group of events on its way to the disk: what is checked, and which statements store it.

A group holds whole frames, of any feeds, in any order between feeds. Within a feed it goes on
where the ledger ends, and the last event of a feed is signed: a ledger whose feeds end at signed
events can serve every one of them as a frame, at any instant. Breaking this is a mistake of ours,
hence assertions: what comes from outside was checked when its frame was opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kowalski_protocol.feeds import Event, Feed, Head

from .rows import (
    EVENT_WIDTH,
    INSERT_EVENT,
    ROWS_PER_STATEMENT_MAX,
    insert_rows,
    signed_hlc,
)

Statement = tuple[str, list[Any]]

_EMPTY: Final = Head(0, b"")  # pyright: ignore[reportArgumentType]
_SIGNED_MAX: Final = (1 << 63) - 1
_ROW_BYTES: Final = 128
"""About what a row takes beside its body and attachment."""


class Group:
    """Events laid out as rows; nothing is stored yet."""

    __slots__ = ("_last", "feed_ids", "heads", "position", "size_bytes", "statements")

    def __init__(
        self,
        events: Sequence[Event],
        heads: Mapping[Feed, Head],
        feed_ids: Mapping[Feed, int],
        position: int,
    ) -> None:
        self.heads: dict[Feed, Head] = {}
        """The new heads of the feeds that the group adds to."""
        self.feed_ids: dict[Feed, int] = {}
        """The row numbers of feeds that are new."""
        self.statements: list[Statement] = []
        self._last: dict[Feed, Event] = {}
        values: list[Any] = []
        size_bytes = 0
        author, topic = b"", ""
        last: Event | None = None
        id = seq = 0
        for event in events:
            if event.author != author or event.topic != topic:
                if last is not None:
                    self._end(last)
                author, topic = event.author, event.topic
                feed = Feed(event.author, topic)
                seq = (self.heads.get(feed) or heads.get(feed) or _EMPTY).seq
                id = feed_ids.get(feed) or self.feed_ids.get(feed) or 0
                if id == 0:
                    id = self.feed_ids[feed] = len(feed_ids) + len(self.feed_ids) + 1
                    self.statements.append(
                        ("INSERT INTO feeds VALUES (?, ?, ?)", [id, author, topic])
                    )
            seq += 1
            assert event.seq == seq, f"{event!r} does not follow {seq - 1}"
            position += 1
            hlc, body, attachment = event.hlc, event.body, event.attachment
            values += (
                position,
                id,
                seq,
                hlc if hlc <= _SIGNED_MAX else signed_hlc(hlc),
                event.kind,
                event.hash,
                event.signature,
                body,
                attachment,
            )
            size_bytes += len(body) + _ROW_BYTES
            if attachment is not None:
                size_bytes += len(attachment)
            last = event
        if last is not None:
            self._end(last)
        for last in self._last.values():
            assert last.signature is not None, f"{last!r} ends no frame"
        self.position = position
        self.size_bytes = size_bytes
        step = EVENT_WIDTH * ROWS_PER_STATEMENT_MAX
        for begin in range(0, len(values), step):
            part = values if len(values) <= step else values[begin : begin + step]
            self.statements.append(insert_rows(INSERT_EVENT, EVENT_WIDTH, part))

    def _end(self, last: Event) -> None:
        feed = Feed(last.author, last.topic)
        self._last[feed] = last
        self.heads[feed] = Head(last.seq, last.hash)
