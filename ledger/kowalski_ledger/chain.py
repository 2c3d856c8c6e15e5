"""Reading a feed back from the file and checking, on the way, that it is still the chain it was.

SQLite's pages carry no checksum: a bit that flips in a body, or a row that somebody edited, reads
back as if nothing had happened. The feeds are hash chains, so it costs about 2 µs an event to
know, and whoever reads a whole ledger (a node that starts, `replay`, `export`) reads it through
here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kowalski_protocol.feeds import Event, Feed, event_hash, genesis
from kowalski_protocol.ids import ClusterId, EventHash
from kowalski_protocol.limits import LIMITS

from .rows import HLC_MASK, EventRow

_KIND_LENGTH_MAX: Final = LIMITS.kind_length_max


class Broken(Exception):
    """The feed does not verify from this sequence number on."""

    def __init__(self, feed: Feed | None, seq: int, what: str) -> None:
        where = f"{feed.author.hex()[:16]}/{feed.topic}/{seq}: " if feed else ""
        super().__init__(where + what)
        self.feed = feed
        self.seq = seq
        self.what = what


class Link:
    """How far one feed has been read."""

    __slots__ = ("feed", "hash", "hlc", "is_signed", "seq")

    def __init__(self, cluster: ClusterId, feed: Feed) -> None:
        self.feed = feed
        self.seq = 0
        self.hash = genesis(cluster, feed.author, feed.topic)
        self.hlc = 0
        self.is_signed = True
        """Whether a signature covers everything up to here."""


class ChainReader:
    """Turns rows in order of arrival into events; raises `Broken` where they are not whole
    chains.
    """

    def __init__(self, cluster: ClusterId, feeds: dict[int, Feed]) -> None:
        self.links = {id: Link(cluster, feed) for id, feed in feeds.items()}
        self.position = -(1 << 63)

    def read(self, rows: Iterable[EventRow]) -> list[Event]:
        """The events of these rows, which follow those read before."""
        events: list[Event] = []
        append, links, mask, new = events.append, self.links, HLC_MASK, Event
        for position, feed_id, seq, hlc, kind, hash, signature, body in rows:
            link = links.get(feed_id)
            if link is None:
                raise Broken(None, seq, f"row {position} belongs to no feed")
            if position <= self.position:
                raise Broken(link.feed, seq, "the rows are out of order")
            hlc &= mask
            if seq != link.seq + 1:
                raise Broken(link.feed, seq, f"it follows {link.seq}: events are missing")
            if hlc <= link.hlc:
                raise Broken(link.feed, seq, "its time does not rise")
            if not 1 <= len(kind) <= _KIND_LENGTH_MAX or not kind.isascii():
                raise Broken(link.feed, seq, "its kind is no name")
            if event_hash(link.hash, seq, hlc, kind, body) != hash:
                raise Broken(link.feed, seq, "it does not match its hash")
            feed = link.feed
            link.seq, link.hlc, link.hash = seq, hlc, EventHash(hash)
            link.is_signed = signature is not None
            self.position = position
            append(new(feed.author, feed.topic, seq, hlc, kind, body, link.hash, None, signature))
        return events

    def check_ends(self) -> None:
        """Raises `Broken` where a feed ends in events that no signature covers."""
        for link in self.links.values():
            if not link.is_signed:
                raise Broken(
                    link.feed, link.seq, "no signature covers it: the end of its frame is missing"
                )
