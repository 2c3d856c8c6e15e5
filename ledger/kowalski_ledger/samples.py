"""The telemetry table: what devices measured, for a while.

Samples are no events: nobody signs them for keeping, no digest covers them, and they go by age
and by number. They are stored as JSON, for whoever reads the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from kowalski_protocol.ids import Author

from .connection import Connection
from .group import Statement
from .port import Sample
from .rows import INSERT_SAMPLE, ROWS_PER_STATEMENT_MAX, SAMPLE_WIDTH, insert_rows
from .writer import Writer

AGE_MS_MAX: Final = 7 * 86_400_000
"""A week, by the newest sample."""
ROWS_MAX: Final = 200_000
"""Of these the newest: eight devices for half a day at a sample every two seconds, some 60 MB."""
SAMPLE_SIZE_BYTES_MAX: Final = 16 * 1024
"""As large as a datagram can be."""
_PRUNE_EVERY: Final = 64

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class SampleTable:
    """Samples kept beside the events."""

    def __init__(
        self,
        writer: Writer,
        reader: Connection,
        age_ms_max: int = AGE_MS_MAX,
        rows_max: int = ROWS_MAX,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._age_ms_max = age_ms_max
        self._rows_max = rows_max
        self._calls = 0

    async def add(self, samples: Sequence[Sample]) -> int:
        """Keeps those that can be said in JSON; returns how many."""
        values: list[Any] = []
        for sample in samples:
            text = _json(sample)
            if text is not None:
                values += (sample.author, sample.taken_ms, text)
        if not values:
            return 0
        step = SAMPLE_WIDTH * ROWS_PER_STATEMENT_MAX
        statements: list[Statement] = [
            insert_rows(INSERT_SAMPLE, SAMPLE_WIDTH, values[begin : begin + step])
            for begin in range(0, len(values), step)
        ]
        if self._calls % _PRUNE_EVERY == 0:
            statements += self._prune()
        self._calls += 1
        async with self._writer.lock:
            await self._writer.commit(statements, sum(len(text) for text in values[2::3]))
        return len(values) // SAMPLE_WIDTH

    def _prune(self) -> list[Statement]:
        return [
            (
                "DELETE FROM telemetry WHERE taken_ms < (SELECT max(taken_ms) FROM telemetry) - ?",
                [self._age_ms_max],
            ),
            (
                "DELETE FROM telemetry WHERE id <= (SELECT max(id) FROM telemetry) - ?",
                [self._rows_max],
            ),
        ]

    async def newest(self, author: Author | None, since_ms: int, limit: int) -> list[Sample]:
        """The newest samples since a time, newest first."""
        rows = await self._reader.run(
            "SELECT author, taken_ms, sample FROM telemetry"
            " WHERE taken_ms >= ? AND (? IS NULL OR author = ?)"
            " ORDER BY taken_ms DESC, id DESC LIMIT ?",
            (since_ms, author, author, limit),
        )
        return [Sample(Author(who), taken_ms, _decode(text)) for who, taken_ms, text in rows]


def _json(sample: Sample) -> str | None:
    try:
        text = _encode(sample.values).decode()
    except (TypeError, ValueError, RecursionError, OverflowError):
        return None
    return text if len(text) <= SAMPLE_SIZE_BYTES_MAX else None
