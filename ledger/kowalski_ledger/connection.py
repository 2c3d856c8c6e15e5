"""One connection to the ledger file, called from trio.

aiosqlite gives each connection a thread of its own and speaks asyncio; trio-asyncio lets trio wait
for it, at about 0.1 ms a call. So everything here is one call per statement: run it, fetch all
rows, come back. A caller that is cancelled no longer waits, but the statement goes on in its
thread: whoever writes shields itself, because the outcome must be known.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import aiosqlite
import trio
import trio_asyncio

from .faults import problem_of
from .settings import (
    BUSY_TIMEOUT_S,
    READER_SETTINGS,
    STATEMENTS_KEPT,
    WRITER_SETTINGS,
    file_uri,
)

# At its most talkative it would log every statement with its values, which are people's work.
logging.getLogger("aiosqlite").setLevel(logging.WARNING)


class Connection:
    """A thread with an SQLite connection; made by `open_connection`."""

    def __init__(
        self, path: Path, connection: aiosqlite.Connection, loop: trio_asyncio.TrioEventLoop
    ) -> None:
        self._path = path
        self._connection = connection
        self._loop = loop

    async def run(self, statement: str, values: Any = ()) -> list[Any]:
        """Runs one statement and returns all of its rows; raises `Problem` (see `faults`)."""
        try:
            rows: Any = await self._loop.run_aio_coroutine(  # pyright: ignore[reportUnknownMemberType]
                self._connection.execute_fetchall(statement, values)
            )
        except sqlite3.Error as error:
            problem = problem_of(error, self._path)
            if problem is None:
                raise
            raise problem from error
        return rows

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._connection.in_transaction


@asynccontextmanager
async def open_connection(
    path: Path, loop: trio_asyncio.TrioEventLoop, *, read_only: bool
) -> AsyncGenerator[Connection]:
    """A connection that is closed, and its thread ended, when the block is left."""
    opened = aiosqlite.connect(
        file_uri(path, read_only=read_only),
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_S,
        cached_statements=STATEMENTS_KEPT,
    )
    with trio.CancelScope(shield=True):
        try:
            await loop.run_aio_coroutine(opened.__aenter__())  # pyright: ignore[reportUnknownMemberType]
        except sqlite3.Error as error:
            raise problem_of(error, path) or error from error
    try:
        connection = Connection(path, opened, loop)
        for setting in READER_SETTINGS if read_only else WRITER_SETTINGS:
            await connection.run(setting)
        yield connection
    finally:
        with trio.CancelScope(shield=True):
            await loop.run_aio_coroutine(opened.close())  # pyright: ignore[reportUnknownMemberType]


@asynccontextmanager
async def asyncio_loop() -> AsyncGenerator[trio_asyncio.TrioEventLoop]:
    """The asyncio loop of this trio run: the caller's where it has one, else one for the block."""
    current: Any = trio_asyncio.current_loop.get()
    if current is not None:
        yield current
        return
    async with trio_asyncio.open_loop() as loop:  # pyright: ignore[reportUnknownMemberType]
        yield loop


@contextmanager
def plain_errors() -> Generator[None]:
    """What goes wrong in the block comes out as it was raised, not in the groups of nurseries.

    The nurseries of an asyncio loop and of a store are nobody else's business. Several errors at
    once stay a group.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        alone = _alone(group)
        if alone is None:
            raise
        raise alone from alone.__cause__


def _alone(error: BaseException) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        if len(group.exceptions) != 1:
            return None
        error = group.exceptions[0]
    return error
