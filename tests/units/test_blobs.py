"""The store of blobs on one device: names that are right, what stays, and what makes room."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kowalski_node import blob_cache, blob_parts
from kowalski_node.blobs import BlobReader, Blobs, read_file
from kowalski_protocol.errors import Problem
from kowalski_protocol.limits import LIMITS
from tests.units.blob_members import named

MEBIBYTE = 1024 * 1024
A, B, C, D = (bytes([number]) * 1000 for number in range(4))


async def pieces(data: bytes, size: int = 300) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def fetched(blobs: Blobs, data: bytes, upto: int | None = None) -> str:
    """Puts a blob, or its beginning, into the cache as a transfer does."""
    async with blobs.growing(named(data)) as part:
        part.expected_bytes = len(data)
        await part.add(data[part.size_bytes : upto])
        await part.flush()
        if part.name == named(data):
            await blobs.keep(part, pinned=False)
    return named(data)


async def all_of(blobs: Blobs, name: str, offset: int = 0) -> bytes | None:
    found = await blobs.read(name, offset)
    return None if found is None else b"".join([piece async for piece in found[1]])


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_bytes_come_back_by_their_name_from_any_offset(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    data = os.urandom(3 * MEBIBYTE + 7)
    name, size = await blobs.store(pieces(data, 100_000))
    assert (name, size) == (named(data), len(data))
    for offset in (0, 1, MEBIBYTE, len(data) - 1, len(data), len(data) + 1):
        assert await all_of(blobs, name, offset) == data[offset:]
    assert await all_of(blobs, "0" * 64) is None
    assert (await blobs.store(read_file(tmp_path / name)))[0] == name
    assert await blobs.store(pieces(b"")) == (named(b""), 0)
    assert files(tmp_path) == {name, named(b"")}


async def test_storing_what_is_here_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(tmp_path)
    name = await blobs.store_bytes(A)
    before = (tmp_path / name).stat()
    await blobs.store(pieces(A))
    assert (tmp_path / name).stat() == before
    monkeypatch.setattr(os, "pwrite", None)  # any write would fail
    assert await blobs.store_bytes(A) == name
    assert files(tmp_path) == {name}


async def test_what_was_fetched_is_pinned_once_it_is_stored(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    for store in (blobs.store_bytes, lambda data: blobs.store(pieces(data))):
        data = os.urandom(100)
        name = await fetched(blobs, data)
        assert blobs.path(name) == tmp_path / "cache" / name
        assert not blobs.keeps(name)
        await store(data)
        assert blobs.keeps(name)
        assert blobs.path(name) == tmp_path / name
        assert not files(tmp_path / "cache")


async def test_the_least_recently_used_makes_room_and_own_blobs_never_do(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, quota_bytes=3000)
    own = await blobs.store_bytes(b"own" * 5000)
    a, b, c = [await fetched(blobs, data) for data in (A, B, C)]
    assert await all_of(blobs, a) == A  # a use: b is the oldest now
    d = await fetched(blobs, D)
    assert [blobs.path(name) is not None for name in (own, a, b, c, d)] == [1, 1, 0, 1, 1]
    large = await fetched(blobs, bytes(4000))
    assert files(tmp_path) == {own, f"cache/{large}"}, "one that is above the quota is alone"


async def test_a_reader_keeps_what_is_thrown_away_and_a_holder_keeps_the_path(
    tmp_path: Path,
) -> None:
    blobs = Blobs(tmp_path, quota_bytes=2000)
    used = [True]
    blobs.hold(named(A), lambda: bool(used))
    a, b = await fetched(blobs, A), await fetched(blobs, B)
    found = await blobs.read(b)
    assert found is not None
    await fetched(blobs, C)
    await fetched(blobs, D)
    assert blobs.path(b) is None
    assert b"".join([piece async for piece in found[1]]) == B
    assert (tmp_path / "cache" / a).read_bytes() == A
    used.clear()
    await fetched(blobs, B)
    await fetched(blobs, C)
    assert blobs.path(a) is None


async def test_a_part_is_gone_on_with_after_a_restart(tmp_path: Path) -> None:
    data = os.urandom(20 * MEBIBYTE)
    await fetched(Blobs(tmp_path), data, len(data) // 2)
    again = Blobs(tmp_path)
    assert again.path(named(data)) is None
    async with again.growing(named(data)) as part:
        assert part.size_bytes == len(data) // 2
        assert part.name == named(data[: len(data) // 2])
    assert await all_of(again, await fetched(again, data)) == data
    assert files(tmp_path) == {f"cache/{named(data)}"}


async def test_parts_stay_within_age_and_quota(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    for data in (A, B, C):
        await fetched(blobs, data, 900)
    (tmp_path / "0123456789abcdef.part").write_bytes(b"an upload that broke")
    old = tmp_path / "cache" / f"{named(A)}.part"
    os.utime(old, (0, 0))
    Blobs(tmp_path)
    assert files(tmp_path) == {f"cache/{named(data)}.part" for data in (B, C)}
    Blobs(tmp_path, quota_bytes=1000)
    assert files(tmp_path) == {f"cache/{named(C)}.part"}


async def test_a_disk_that_fills_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(tmp_path)
    pwrite, room = os.pwrite, [3 * MEBIBYTE // 2]

    def full(file: int, data: memoryview, offset: int) -> int:
        taken = min(len(data), room[0])
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= taken
        return pwrite(file, data[:taken], offset)

    monkeypatch.setattr(blob_parts.os, "pwrite", full)
    for action in (
        blobs.store(pieces(bytes(5 * MEBIBYTE), MEBIBYTE)),
        fetched(blobs, bytes(10**7)),
    ):
        room[0] = 3 * MEBIBYTE // 2
        with pytest.raises(Problem) as problem:
            await action
        assert problem.value.code == "disk_full"
        assert files(tmp_path) == set()


async def test_large_blobs_leave_the_disk_its_reserve_and_results_may_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [blob_cache.RESERVE_BYTES + 20 * MEBIBYTE]
    monkeypatch.setattr(
        blob_cache.BlobCache,
        "free_bytes",
        lambda self: free[0] - sum(entry.size_bytes for entry in self.entries()),
    )
    blobs = Blobs(tmp_path)
    cached = await fetched(blobs, bytes(18 * MEBIBYTE))
    await blobs.check_room(20 * MEBIBYTE)
    with pytest.raises(Problem):
        await blobs.check_room(21 * MEBIBYTE)
    name, _ = await blobs.store(pieces(b"1" * 18 * MEBIBYTE, MEBIBYTE))
    assert blobs.path(cached) is None, "an upload takes the place of what was only fetched"
    free[0] = 0
    with pytest.raises(Problem) as problem:
        await blobs.store(pieces(b"2" * 18 * MEBIBYTE, MEBIBYTE))
    assert problem.value.code == "disk_full"
    result = await blobs.store_bytes(b"3" * LIMITS.result_size_bytes_max)
    assert files(tmp_path) == {name, result}


async def test_a_broken_upload_and_one_that_is_too_large_leave_nothing(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(2 * MEBIBYTE)
        raise Problem("bad_request", "The body ended early.")

    with pytest.raises(Problem) as problem:
        await blobs.store(broken())
    assert problem.value.code == "bad_request"
    async with blobs.growing(named(A)) as part:
        part.expected_bytes = len(A) - 1
        with pytest.raises(Problem) as problem:
            await part.add(A)
        assert problem.value.code == "too_large"
    assert sum((tmp_path / name).stat().st_size for name in files(tmp_path)) == 0


async def test_a_reader_that_is_left_closes_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * MEBIBYTE))
    reader = BlobReader(tmp_path / "file")
    assert len(await anext(reader)) == MEBIBYTE
    await reader.aclose()
    assert [piece async for piece in reader] == []


@pytest.mark.parametrize(
    ("free", "kept", "quota"),
    [
        (0, 0, blob_cache.QUOTA_BYTES_MIN),
        (3 * 2**30, 2**30, 2**30),
        (2**40, 0, blob_cache.QUOTA_BYTES_MAX),
    ],
)
def test_the_quota_is_a_share_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, kept: int, quota: int
) -> None:
    cache = blob_cache.BlobCache(tmp_path)
    monkeypatch.setattr(cache, "free_bytes", lambda: free)
    assert cache.quota_bytes(kept) == quota
