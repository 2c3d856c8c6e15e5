"""Large blobs between two real nodes, in at one's HTTP door and out at the other's: what breaks is
gone on with, and neither needs memory for it."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from tests.live.network_world import until

MEBIBYTE = 1024 * 1024
SIZE = 64 * MEBIBYTE
GROWTH = 64 * MEBIBYTE


def resident(node: LocalNode) -> int:
    """The bytes that a node's process holds now."""
    return _status(node, "VmRSS")


def peak(node: LocalNode) -> int:
    """The bytes that a node's process held at most."""
    return _status(node, "VmHWM")


def _status(node: LocalNode, key: str) -> int:
    status = Path(f"/proc/{node.pid}/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024


def made(path: Path) -> str:
    """Fills a file with random bytes, and names their hash."""
    with path.open("wb") as file:
        for _ in range(SIZE // MEBIBYTE):
            file.write(os.urandom(MEBIBYTE))
    return hash_of(path)


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def test_a_blob_whose_sender_is_killed_half_way_arrives_in_constant_memory(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    for name in ("desk", "lap"):
        await cluster.add(name, "--unsandboxed")
    await cluster.settle_down()
    desk, lap = cluster.nodes
    name = made(tmp_path / "file")
    before = resident(desk), resident(lap)
    assert await desk.client.put_blob(tmp_path / "file") == name
    grown = [peak(desk) - before[0]]

    part = lap.home / "blobs" / "cache" / f"{name}.part"
    kept = [0]

    def half() -> bool:
        kept[0] = part.stat().st_size if part.exists() else kept[0]
        return kept[0] > SIZE // 4

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lap.client.save_blob, name, tmp_path / "copy")
        await until(half, 30)
        await desk.kill()
        came, written = part.stat().st_size, part.stat().st_ino
        assert SIZE // 4 < came < SIZE
        await desk.start()
        began = resident(desk)
        await until(lambda: not part.exists(), 60)
    grown += [peak(desk) - began, peak(lap) - before[1]]

    assert hash_of(tmp_path / "copy") == name
    place = lap.home / "blobs" / "cache" / name
    assert place.stat().st_ino == written, "the part that was there, and not a new one"
    assert max(grown) < GROWTH, grown
    metrics = (await desk.client._wire.send("GET", "/metrics")).decode()
    sent = re.findall(r'^kowalski_sent_bytes_total{.*purpose="blob"} (\S+)$', metrics, re.MULTILINE)
    assert 0 < sum(map(float, sent)) <= SIZE - came, "what was there was not sent again"
