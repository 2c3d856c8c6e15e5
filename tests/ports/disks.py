"""Disks for the store's conformance suite: a real file, and a list, full or failing on demand."""

from __future__ import annotations

import resource
from collections.abc import AsyncGenerator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path
from typing import Protocol

from kowalski_ledger.port import EventStore
from kowalski_ledger.store import Store, open_store
from simulations.disk import MemoryDisk, MemoryStore


class Disk(Protocol):
    """Something that keeps what a store made durable, from one opening to the next."""

    def open(self) -> AbstractAsyncContextManager[EventStore]: ...

    async def fill(self, store: EventStore) -> None:
        """From here on there is no room for anything new."""
        ...

    async def make_room(self, store: EventStore) -> None: ...

    def failing(self) -> AbstractContextManager[None]:
        """Within the block the disk reports errors."""
        ...


class FileDisk:
    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> AbstractAsyncContextManager[EventStore]:
        return open_store(self.path)

    async def fill(self, store: EventStore) -> None:
        assert isinstance(store, Store)
        writer = store._writer._connection
        used = (await writer.run("PRAGMA page_count"))[0][0]
        await writer.run(f"PRAGMA max_page_count = {used}")

    async def make_room(self, store: EventStore) -> None:
        assert isinstance(store, Store)
        await store._writer._connection.run("PRAGMA max_page_count = 1073741823")

    @contextmanager
    def failing(self) -> Iterator[None]:
        # A write past the limit fails with EFBIG, which SQLite reports as an error of the disk.
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


class ListDisk:
    def __init__(self) -> None:
        self.disk = MemoryDisk()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[EventStore]:
        yield MemoryStore(self.disk)

    async def fill(self, store: EventStore) -> None:
        self.disk.is_full = True

    async def make_room(self, store: EventStore) -> None:
        self.disk.is_full = False

    @contextmanager
    def failing(self) -> Iterator[None]:
        self.disk.is_failing = True
        try:
            yield
        finally:
            self.disk.is_failing = False
