"""Attack 24: the power fails while the log is written. What opens is a prefix of whole frames."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from kowalski_ledger.audit import audit
from kowalski_ledger.replay import replay
from kowalski_ledger.store import Store, open_store
from kowalski_protocol.feeds import Event
from tests.ports.ledgers import Story


def companion(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name}-{kind}")


async def live_copy(path: Path, copy: Path) -> tuple[list[list[Event]], list[int]]:
    """A ledger with a long log, copied as it lies on the disk; its frames and the log's lengths."""
    story = Story()
    frames: list[list[Event]] = []
    lengths: list[int] = []
    async with open_store(path) as store:
        await store.found(story.cluster)
        for frame in story.frames(24, frame_tasks=4):
            await store.append(frame)
            frames.append(frame)
            lengths.append(companion(path, "wal").stat().st_size)
        shutil.copy(path, copy)
        shutil.copy(companion(path, "wal"), companion(copy, "wal"))
    return frames, lengths


async def stored(path: Path) -> list[bytes]:
    async with open_store(path) as store:
        assert isinstance(store, Store)
        return [event.hash async for events in store.load() for event in events]


async def test_a_log_cut_anywhere_leaves_a_prefix_of_whole_frames(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    frames, lengths = await live_copy(tmp_path / "ledger.db", copy)
    log = companion(copy, "wal").read_bytes()
    base = copy.read_bytes()
    prefixes = [
        [event.hash for frame in frames[:count] for event in frame]
        for count in range(len(frames) + 1)
    ]
    draw = random.Random(5)
    for cut in [*(draw.randrange(lengths[0], len(log)) for _ in range(40)), *lengths]:
        copy.write_bytes(base)
        companion(copy, "wal").write_bytes(log[:cut])
        companion(copy, "shm").unlink(missing_ok=True)
        # Replay reads the torn log beside the file without touching either.
        assert replay(copy).events in map(len, prefixes)
        got = await stored(copy)
        assert got in prefixes
        whole = sum(length <= cut for length in lengths)
        assert len(got) >= len(prefixes[whole]), "a commit whose bytes are all there is kept"
        assert audit(copy).ok or not got


async def test_a_log_with_a_rotten_byte_leaves_a_prefix_of_whole_frames(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    frames, lengths = await live_copy(tmp_path / "ledger.db", copy)
    log = companion(copy, "wal").read_bytes()
    base = copy.read_bytes()
    prefixes = [
        [event.hash for frame in frames[:count] for event in frame]
        for count in range(len(frames) + 1)
    ]
    draw = random.Random(6)
    for _ in range(40):
        at = draw.randrange(lengths[0], len(log))
        rotten = bytearray(log)
        rotten[at] ^= 1 << draw.randrange(8)
        copy.write_bytes(base)
        companion(copy, "wal").write_bytes(rotten)
        companion(copy, "shm").unlink(missing_ok=True)
        got = await stored(copy)
        assert got in prefixes
        assert len(got) >= len(prefixes[sum(length <= at for length in lengths)])
        assert audit(copy).ok


async def test_the_store_goes_on_behind_what_was_torn_off(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    frames, lengths = await live_copy(tmp_path / "ledger.db", copy)
    log = companion(copy, "wal").read_bytes()
    companion(copy, "wal").write_bytes(log[: lengths[3] + 100])
    async with open_store(copy) as store:
        for frame in frames[4:]:
            await store.append(frame)
    assert await stored(copy) == [event.hash for frame in frames for event in frame]
    assert audit(copy).ok
