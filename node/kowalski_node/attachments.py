"""Payloads and results of the last moments, kept in memory for who reads them next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from kowalski_protocol.feeds import Event
from kowalski_protocol.ids import Author

ATTACHMENTS_BYTES = 32 * 1024 * 1024
"""So that the hot path does not read the disk."""


class Attachments:
    """Bytes beside recent events, by where the event stands; the oldest go first."""

    def __init__(self, size_bytes_max: int = ATTACHMENTS_BYTES) -> None:
        self._kept: OrderedDict[tuple[Author, str, int], bytes] = OrderedDict()
        self._size = 0
        self._max = size_bytes_max

    def keep(self, events: Sequence[Event]) -> None:
        """Remembers what rides beside these events."""
        for event in events:
            if event.attachment is not None:
                self._kept[(event.author, event.topic, event.seq)] = event.attachment
                self._size += len(event.attachment) + 200
        while self._size > self._max:
            _, old = self._kept.popitem(last=False)
            self._size -= len(old) + 200

    def get(self, author: Author, topic: str, seq: int) -> bytes | None:
        """What rode beside an event, if it is still remembered."""
        return self._kept.get((author, topic, seq))
