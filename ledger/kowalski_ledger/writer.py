"""The one connection that writes: transactions, the log's length, and what happens when the disk
does not.

A transaction of one statement needs no BEGIN and COMMIT around it and so costs one call; that is
the common case by design (see `rows`). Checkpoints, which move the log into the file, are made
here between two transactions, never within a commit.

When the disk is full nothing is written and all stays as it was; a later transaction may succeed.
When the disk fails, what was written last is unknown (after a failed fsync a second one may
report success although the data is gone), so nothing more is written until the file is opened
anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio

from kowalski_protocol.errors import Problem

from .connection import Connection
from .group import Statement
from .settings import CHECKPOINT_BYTES

_COMMIT_BYTES: Final = 12 * 1024
"""About what a commit adds to the log beside its values: the pages that it touches."""


class Writer:
    """The writing side of a store. `lock` is held by whoever builds and runs a transaction."""

    def __init__(self, connection: Connection) -> None:
        self.lock = trio.Lock()
        self._connection = connection
        self._failed: Problem | None = None
        self._log_bytes = 0
        self._checkpoint_due = trio.Event()

    async def commit(self, statements: Sequence[Statement], size_bytes: int) -> list[Any]:
        """Runs the statements as one transaction: afterwards all are durable, or none is stored.

        Returns the rows of the last. `size_bytes` is about what they write.
        """
        assert self.lock.locked()
        if self._failed is not None:
            raise self._failed
        rows: list[Any] = []
        with trio.CancelScope(shield=True):
            try:
                if len(statements) == 1:
                    rows = await self._connection.run(*statements[0])
                elif statements:
                    rows = await self._transaction(statements)
            except Problem as problem:
                self._note(problem)
                raise
        self._log_bytes += size_bytes + _COMMIT_BYTES
        if self._log_bytes >= CHECKPOINT_BYTES:
            self._checkpoint_due.set()
        return rows

    async def _transaction(self, statements: Sequence[Statement]) -> list[Any]:
        rows: list[Any] = []
        await self._connection.run("BEGIN IMMEDIATE")
        try:
            for statement, values in statements:
                rows = await self._connection.run(statement, values)
            await self._connection.run("COMMIT")
        finally:
            # SQLite ends a transaction itself after some errors, not after all.
            if self._connection.in_transaction:
                await self._connection.run("ROLLBACK")
        return rows

    def _note(self, problem: Problem) -> None:
        if problem.code in ("disk_failed", "ledger_corrupt"):
            self._failed = problem

    async def keep_log_short(self) -> None:
        """Makes a checkpoint whenever one is due, until cancelled."""
        while True:
            await self._checkpoint_due.wait()
            self._checkpoint_due = trio.Event()
            self._log_bytes = 0
            async with self.lock:
                if self._failed is not None:
                    return
                try:
                    await self._connection.run("PRAGMA wal_checkpoint(PASSIVE)")
                except Problem as problem:
                    # A full disk or a lock passes, and what the log holds stays there until the
                    # next one.
                    self._note(problem)
