"""What a ledger file adds up to, computed anew from nothing but the file.

Replay needs no node, no network and no event loop: it reads the events in order of arrival,
verifies each feed's chain as it goes (signatures are `audit`'s business) and folds them. Its
digest is the one that every node with the same events shows.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import msgspec

from kowalski_protocol.feeds import Event
from kowalski_protocol.identity import peer_id

from .chain import Broken, ChainReader
from .file import LedgerFile, Progress, open_ledger
from .fold import fold
from .rows import checked_rows
from .schema import corrupt
from .state import State

EMPTY_DIGEST: Final = ""
"""The digest of a file in which no cluster was founded."""


class HeadReport(msgspec.Struct, frozen=True):
    """How far one feed was folded."""

    author: str
    """A peer ID."""
    topic: str
    seq: int
    hash: str


class ReplayReport(msgspec.Struct, frozen=True):
    """What `kowalski replay --json` prints."""

    events: int
    frames: int
    """Signatures in the file. Nodes may hold the same events in other frames."""
    digest: str
    heads: list[HeadReport]
    tasks: dict[str, int]
    """submitted, open, settled, and of these how many ended with each outcome."""
    seconds: float
    events_per_s: float


def replay(
    path: Path, until_hlc: int | None = None, progress: Progress | None = None
) -> ReplayReport:
    """Folds the events of a ledger file, or those with a time up to `until_hlc`.

    Raises `Problem` where the file is missing, foreign, newer or damaged.
    """
    started_s = time.perf_counter()
    with open_ledger(path) as file:
        events, state, heads, frames = _fold_all(file, until_hlc, progress)
        digest = state.digest() if state is not None else EMPTY_DIGEST
    seconds = time.perf_counter() - started_s
    return ReplayReport(
        events=events,
        frames=frames,
        digest=digest,
        heads=heads,
        tasks=task_counts(state),
        seconds=seconds,
        events_per_s=events / seconds,
    )


def task_counts(state: State | None) -> dict[str, int]:
    """How many tasks there are and how they ended."""
    settled = dict(state.settled) if state is not None else {}
    count, unsettled = sum(settled.values()), len(state.open) if state is not None else 0
    return {"submitted": count + unsettled, "open": unsettled, "settled": count, **settled}


def _fold_all(
    file: LedgerFile, until_hlc: int | None, progress: Progress | None
) -> tuple[int, State | None, list[HeadReport], int]:
    cluster = file.cluster()
    if cluster is None:
        if file.count:
            raise corrupt(file.path, "it holds events and names no cluster")
        return 0, None, [], 0
    state = State(cluster)
    chain = ChainReader(cluster, file.feeds())
    ends: dict[tuple[bytes, str], Event] = {}
    count = frames = 0
    try:
        for rows in file.chunks(progress=progress):
            for event in chain.read(checked_rows(rows)):
                if until_hlc is not None and event.hlc > until_hlc:
                    continue
                fold(state, event)
                ends[event.author, event.topic] = event
                count += 1
                if event.signature is not None:
                    frames += 1
        chain.check_ends()
    except (Broken, msgspec.ValidationError) as error:
        raise corrupt(file.path, str(error)) from error
    heads = [
        HeadReport(peer_id(end.author), end.topic, end.seq, end.hash.hex()) for end in ends.values()
    ]
    heads.sort(key=lambda head: (head.author, head.topic))
    return count, state, heads, frames
