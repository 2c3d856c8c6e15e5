"""Whatever is stored, fetched, broken off, lied about, opened and restarted, in any order: what has
a name has its bytes, own blobs stay, and the cache keeps its quota."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from trio.testing import MockClock

from kowalski_node.blob_fetches import BlobFetches
from kowalski_node.blobs import BlobReader, Blobs
from tests.units.blob_members import Member, Members, named

T = TypeVar("T")

QUOTA = 10_000
SIZE_MAX = 8_000
CONTENTS = [hashlib.shake_256(bytes([number])).digest(number * 800) for number in range(11)]
EVERYTHING = {named(data): data for data in CONTENTS}
contents = st.integers(0, len(CONTENTS) - 1).map(lambda number: CONTENTS[number])
lengths = st.integers(0, SIZE_MAX)


def members() -> st.SearchStrategy[Member]:
    """Members that have everything; some break off, send other bytes, or lie about the size."""
    return st.builds(
        Member,
        blobs=st.builds(lambda: EVERYTHING),
        sends=st.none() | st.none() | lengths.map(bytes) | contents,
        says=st.none() | st.none() | st.integers(-1, 2 * SIZE_MAX) | st.just(2**63),
        breaks_after=st.none() | lengths,
        left_after=st.none() | st.integers(1, 3),
    )


def run(action: Callable[[], Awaitable[T]]) -> T:
    return trio.run(action, clock=MockClock(autojump_threshold=0))


class Store(RuleBasedStateMachine):
    """One device's blobs, across its restarts."""

    readers = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.own: set[str] = set()
        self.held: dict[str, list[bool]] = {}
        self.restart(QUOTA)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(quota=st.just(QUOTA))
    def restart(self, quota: int) -> None:
        for held in self.held.values():
            held.clear()
        self.held.clear()
        self.blobs = Blobs(self.folder, quota_bytes=quota)
        self.network = Members()
        self.fetches = BlobFetches(self.blobs, lambda: self.network)

    @rule(data=contents, in_pieces=st.booleans())
    def store(self, data: bytes, in_pieces: bool) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(data), 3000):
                yield data[start : start + 3000]

        async def stored() -> str:
            if in_pieces:
                return (await self.blobs.store(pieces()))[0]
            return await self.blobs.store_bytes(data)

        assert run(stored) == named(data)
        self.own.add(named(data))

    @rule(data=contents, one=members(), two=members(), pinned=st.booleans())
    def fetch(self, data: bytes, one: Member, two: Member, pinned: bool) -> None:
        self.network.members = {"one": one, "two": two}

        async def fetched() -> bool:
            if self.blobs.path(named(data)) is not None:
                return not pinned or await self.blobs.pin(named(data))
            return await self.fetches.fetch(named(data), None, pinned=pinned)

        if run(fetched):
            assert self.blobs.path(named(data)) is not None
            if pinned:
                self.own.add(named(data))

    @rule(data=contents, cut=lengths)
    def lose_power(self, data: bytes, cut: int) -> None:
        """The end of a part that was not durable is gone, or never was what was written."""
        part = self.folder / "cache" / f"{named(data)}.part"
        if part.exists():
            kept = part.read_bytes()[:cut]
            part.write_bytes(kept + bytes(cut % 3))
        self.restart(QUOTA)

    @rule(data=contents)
    def hold(self, data: bytes) -> None:
        if self.blobs.path(named(data)) is not None and named(data) not in self.held:
            held = self.held[named(data)] = [True]
            self.blobs.hold(named(data), lambda: bool(held))

    @rule()
    def let_go(self) -> None:
        for held in self.held.values():
            held.clear()
        self.held.clear()

    @rule(target=readers, data=contents, offset=lengths)
    def open(self, data: bytes, offset: int) -> tuple[BlobReader, bytes] | None:
        async def opened() -> BlobReader | None:
            found = await self.blobs.read(named(data), offset)
            assert found is None or found[0] == len(data)
            return None if found is None else found[1]  # type: ignore[return-value]

        reader = run(opened)
        return None if reader is None else (reader, data[offset:])

    @rule(opened=readers)
    def read(self, opened: tuple[BlobReader, bytes] | None) -> None:
        async def rest(reader: BlobReader) -> bytes:
            return b"".join([piece async for piece in reader])

        if opened is not None:
            assert run(lambda: rest(opened[0])) in (opened[1], b""), "b'' where it was read before"

    @invariant()
    def what_has_a_name_has_its_bytes(self) -> None:
        for path in self.folder.rglob("*"):
            if path.is_file() and path.suffix != ".part":
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name

    @invariant()
    def own_and_held_blobs_are_here(self) -> None:
        assert all((self.folder / name).is_file() for name in self.own)
        assert all(self.blobs.path(name) is not None for name in self.held)

    @invariant()
    def the_cache_keeps_its_quota(self) -> None:
        held = {name for name in self.held if name not in self.own}
        sizes = {path.name: path.stat().st_size for path in (self.folder / "cache").iterdir()}
        free = sum(size for name, size in sizes.items() if name not in held)
        assert free <= max(QUOTA, max(sizes.values(), default=0))

    @invariant()
    def no_upload_is_left(self) -> None:
        assert not list(self.folder.glob("*.part"))


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
