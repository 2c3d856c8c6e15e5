"""Shares a file with the cluster and has every device check it.

    python shared_file.py FILE [--api URL]

The file becomes a blob: bytes named by their SHA-256, in the store of this device. Then each live
device gets a task of the tool `hash`, pinned to it. A device that lacks the blob fetches it from a
member first, so afterwards all of them have it.
"""

# ruff: noqa: T201 (printing is what an example is for)

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from kowalski_node.client import Client


async def share(path: Path, size_bytes: int, api: str) -> None:
    """Stores the file and prints what each device makes of it."""
    async with Client(api) as kowalski:
        blob = await kowalski.put_blob(path)
        devices = [device for device in (await kowalski.cluster()).devices if device.alive]
        tasks = await kowalski.batch(
            {
                "kind": "tool",
                "payload": {"tool": "hash", "args": {"blob": blob}},
                "requires": {"device": device.id},
            }
            for device in devices
        )
        names = {task.id: device.name for task, device in zip(tasks, devices, strict=True)}
        found: dict[str, bool] = {}
        async for view in kowalski.results(tasks):
            found[names[view.id]] = view.result is not None and view.result.value == {
                "algorithm": "sha256",
                "digest": blob,
                "size": size_bytes,
            }
        print(f"{path.name}: {size_bytes:,} bytes, {blob}")
        for name in sorted(found):
            print(f"{name}: {'has it' if found[name] else 'could not get it'}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Share a file with all devices.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--api", default="http://127.0.0.1:52420")
    given = parser.parse_args()
    asyncio.run(share(given.file, given.file.stat().st_size, given.api))


if __name__ == "__main__":
    main()
