"""Counts the words of text files on all devices of the cluster.

    python word_count.py FILE... [--api URL] [--top N]

Each file is cut into pieces that fit into a task. A piece travels with its task as standard input;
the program that counts it runs in the sandbox of whichever device is free, and its value is the
counts. The same run twice hands in the same tasks (by their idempotency keys), so a second run of
unchanged files is answered from the ledger.
"""

# ruff: noqa: T201 (printing is what an example is for)

from __future__ import annotations

import argparse
import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kowalski_node.client import Client

PIECE_BYTES = 40_000
"""A task's payload holds 64 KiB, written as MessagePack: this leaves room for the program."""
BATCH_TASKS = 200
"""Tasks handed in by one call: 200 of these are 8 MB, half of what one request may have."""

COUNT = """
import re, sys
from collections import Counter

dict(Counter(re.findall(r"[^\\W\\d_]+", sys.stdin.read().lower())).most_common(2000))
"""


def pieces_of(path: Path) -> Iterator[str]:
    """The text of a file in pieces that end at the end of a line."""
    piece: list[str] = []
    size = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            length = len(line.encode())
            if piece and size + length > PIECE_BYTES:
                yield "".join(piece)
                piece, size = [], 0
            piece.append(line[:PIECE_BYTES])
            size += length
    if piece:
        yield "".join(piece)


def task_of(piece: str) -> dict[str, Any]:
    """The task that counts a piece."""
    return {
        "kind": "code",
        "payload": {"language": "python", "code": COUNT, "stdin": piece},
        "idempotency_key": "count-" + hashlib.sha256((COUNT + piece).encode()).hexdigest(),
        "retry": {"max_attempts": 2},
    }


async def count(paths: list[Path], api: str, top: int) -> None:
    """Counts, and prints what was found."""
    pieces = [piece for path in paths for piece in pieces_of(path)]
    words: Counter[str] = Counter()
    ran: Counter[str] = Counter()
    async with Client(api) as kowalski:
        names = {device.id: device.name for device in (await kowalski.cluster()).devices}
        for start in range(0, len(pieces), BATCH_TASKS):
            tasks = [task_of(piece) for piece in pieces[start : start + BATCH_TASKS]]
            async for view in kowalski.results(await kowalski.batch(tasks)):
                if view.outcome != "completed" or view.result is None:
                    raise SystemExit(f"task {view.id} ended as {view.outcome}")
                words.update(view.result.value)
                ran[names.get(view.device or "", "?")] += 1
    print(f"{len(paths)} files in {len(pieces)} pieces")
    print("counted on " + ", ".join(f"{name}: {ran[name]}" for name in sorted(ran)))
    for word, number in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:top]:
        print(f"{number:>7} {word}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Count words on all devices of the cluster.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--api", default="http://127.0.0.1:52420")
    parser.add_argument("--top", type=int, default=10)
    given = parser.parse_args()
    asyncio.run(count(given.files, given.api, given.top))


if __name__ == "__main__":
    main()
