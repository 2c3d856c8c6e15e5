"""Ledgers made to order: a few devices that write true, signed feeds about tasks that ran."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import trio

from kowalski_ledger.fold import cluster_id
from kowalski_ledger.store import open_store
from kowalski_protocol.codec import encode
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import (
    Body,
    ClusterFounded,
    LeaderClaimed,
    MemberAdmitted,
    Result,
    TaskCompleted,
    TaskPlaced,
    TaskSettled,
    TaskSubmitted,
)
from kowalski_protocol.feeds import Event, Feed, event_hash, genesis, signed_message
from kowalski_protocol.identity import Identity
from kowalski_protocol.ids import Author, ClusterId, EventHash
from kowalski_protocol.tasks import TaskSpec, task_id

START_MS = 1_750_000_000_000


class Device:
    """An author: it writes events into its feeds and signs where a frame ends."""

    def __init__(self, number: int) -> None:
        self.identity = Identity(hashlib.sha256(b"device %d" % number).digest())
        self.author: Author = self.identity.author
        self.name = f"device-{number}"
        self.cluster = ClusterId(bytes(32))
        self.ends: dict[str, tuple[int, EventHash]] = {}
        self.hlc = START_MS << 16

    def write(
        self, body: Body, attachment: bytes | None = None, *, hlc: int | None = None
    ) -> Event:
        """The next event of the feed that the body belongs to, not signed."""
        return self.write_raw(
            type(body).topic, type(body).__name__, encode(body), attachment, hlc=hlc
        )

    def write_raw(
        self,
        topic: str,
        kind: str,
        body: bytes,
        attachment: bytes | None = None,
        *,
        hlc: int | None = None,
    ) -> Event:
        """As `write`, whatever the kind and the body's bytes are."""
        self.hlc = self.hlc + (1 << 10) if hlc is None else hlc
        start = (0, genesis(self.cluster, self.author, topic))
        seq, prev = self.ends.get(topic, start)
        hash = event_hash(prev, seq + 1, self.hlc, kind, body)
        self.ends[topic] = (seq + 1, hash)
        return Event(self.author, topic, seq + 1, self.hlc, kind, body, hash, attachment)

    def sign(self, event: Event) -> Event:
        """The same event, as the last of a frame."""
        event.signature = self.identity.sign(signed_message(event.hash))
        return event

    def frame(self, bodies: Iterable[Body]) -> list[Event]:
        """These bodies as one frame of one feed."""
        events = [self.write(body) for body in bodies]
        self.sign(events[-1])
        return events

    def noise(self, count: int, *, topic: str = "task", size_bytes: int = 40) -> list[Event]:
        """A frame of events whose kind nobody knows."""
        seq = self.ends.get(topic, (0, b""))[0]
        events = [
            self.write_raw(
                topic, "SomethingElse", hashlib.shake_128(b"%d" % (seq + i)).digest(size_bytes)
            )
            for i in range(count)
        ]
        self.sign(events[-1])
        return events

    def feed(self, topic: str = "task") -> Feed:
        return Feed(self.author, topic)


class Story:
    """A cluster of devices and what they did, frame by frame."""

    def __init__(self, devices: int = 3) -> None:
        self.devices = [Device(number) for number in range(devices)]
        self.founder = self.devices[0]
        founding = ClusterFounded("home", self.founder.author, self.founder.name, b"nonce")
        self.cluster: ClusterId = cluster_id(encode(founding))
        for device in self.devices:
            device.cluster = self.cluster
        admissions = [
            MemberAdmitted(d.author, d.name, "admin" if d is self.devices[1] else "member")
            for d in self.devices[1:]
        ]
        self.opening = self.founder.frame([founding, *admissions, LeaderClaimed(1, b"")])
        self.claim = self.opening[-1].hash

    def tasks(self, count: int, *, frame_tasks: int = 50, key: str = "") -> Iterator[list[Event]]:
        """Frames about tasks: submitted, placed, completed and settled, with their attachments."""
        for begin in range(0, count, frame_tasks):
            submitted: list[Event] = []
            placed: list[Event] = []
            completed: dict[Device, list[Event]] = {}
            settled: list[Event] = []
            for number in range(begin, min(count, begin + frame_tasks)):
                payload = encode({"tool": "echo", "args": {"value": f"{key}{number}"}})
                spec = encode(
                    TaskSpec("tool", "echo", hashlib.sha256(payload).digest(), len(payload))
                )
                name = f"k{key}{number}".encode()
                task = task_id(self.founder.author, name, spec)
                body = TaskSubmitted(self.founder.author, name, spec)
                submitted.append(self.founder.write(body, payload))
                device = self.devices[number % len(self.devices)]
                placement = TaskPlaced(task, 1, device.author, self.claim, 0.5)
                placed.append(self.founder.write(placement))
                result = encode(Result(True, f"{key}{number}"))
                end = TaskCompleted(
                    task,
                    placed[-1].hash,
                    hashlib.sha256(result).digest(),
                    len(result),
                    START_MS,
                    250,
                )
                completed.setdefault(device, []).append(device.write(end, result))
                settlement = TaskSettled(task, b"", "completed", placed[-1].hash)
                settled.append(self.founder.write(settlement))
            mixed = [event for run in zip(submitted, placed, settled, strict=True) for event in run]
            self.founder.sign(mixed[-1])
            yield mixed
            for device, events in completed.items():
                device.sign(events[-1])
                yield events

    def frames(self, tasks: int, *, frame_tasks: int = 50) -> Iterator[list[Event]]:
        """The whole story from the founding on."""
        yield self.opening
        yield from self.tasks(tasks, frame_tasks=frame_tasks)


async def write_ledger(
    path: Path, story: Story, frames: Iterable[Sequence[Event]], *, group: int = 20
) -> list[Event]:
    """Stores the frames as a node would, some at a time; returns their events as they arrived."""
    waiting = list(frames)
    async with open_store(path) as store:
        await store.found(story.cluster)
        for begin in range(0, len(waiting), group):
            await store.append([e for frame in waiting[begin : begin + group] for e in frame])
    return [event for frame in waiting for event in frame]


def make_ledger(
    path: Path, story: Story, frames: Iterable[Sequence[Event]] | None = None
) -> list[Event]:
    """As `write_ledger`, for tests without an event loop; by default a story of 60 tasks."""
    chosen = story.frames(60, frame_tasks=6) if frames is None else frames
    return trio.run(write_ledger, path, story, chosen)


def refusal(read: Callable[[], object]) -> Problem | None:
    """The problem that a call raises; None where it goes through."""
    try:
        read()
    except Problem as problem:
        return problem
    return None


@contextmanager
def tampering(path: Path) -> Iterator[sqlite3.Connection]:
    """The file in the hands of somebody with a database tool."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        yield connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
