"""Reading a node's event streams: bytes in, events out, whatever pieces they came in. Pure.

The part of the format that a node writes (one `data:` line of JSON, `event:` for the kind,
comments to keep the connection) and no more; other fields are ignored as the format demands.
"""

from __future__ import annotations

from typing import Final

import msgspec

from kowalski_protocol.errors import Problem

EVENT_SIZE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Above the largest result; a stream without an end of line must not fill memory."""


class ServerEvent(msgspec.Struct, frozen=True):
    """One event: `kind` is "message" unless the stream says otherwise."""

    kind: str
    data: bytes


class EventReader:
    """Cuts a stream into its events."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._kind = ""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """Takes the next bytes; returns the events that they complete."""
        self._buffer += piece
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        if len(self._buffer) + sum(map(len, self._data)) > EVENT_SIZE_BYTES_MAX:
            raise Problem("bad_answer", "The node's stream has an event larger than any can be.")
        events: list[ServerEvent] = []
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                events.append(event)
        return events

    def _line(self, line: bytes) -> ServerEvent | None:
        if line:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                self._data.append(value)
            elif field == b"event":
                self._kind = value.decode("utf-8", "replace")
            return None
        event = ServerEvent(self._kind or "message", b"\n".join(self._data)) if self._data else None
        self._kind = ""
        self._data.clear()
        return event
