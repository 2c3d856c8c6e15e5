"""What people and programs see of a node: the JSON of the HTTP API, as types.

The views are snapshots computed from the ledger's state and the node's own measurements; nothing
reads them back into the core. Field names are part of the stable surface (docs/reference), so they
change only by addition. Ids are lower-case hex, devices are peer IDs, times are Unix seconds as
floats, durations carry their unit.
"""

from __future__ import annotations

from typing import Any

import msgspec


class ErrorView(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as every surface shows it."""

    code: str
    message: str
    mend: str | None = None


class HeadView(msgspec.Struct, frozen=True):
    """How far one feed reaches here."""

    author: str
    topic: str
    seq: int
    hash: str


class LinkView(msgspec.Struct, frozen=True):
    """What this node measures of its connection to one member."""

    peer: str
    connected: bool
    round_trip_ms: float | None
    bytes_in: dict[str, int]
    bytes_out: dict[str, int]
    address: str | None = None


class PauseView(msgspec.Struct, frozen=True):
    """A kind of task that a device gets none of, or one at a time: several failed in a row there
    for reasons that tell of the device.
    """

    kind: str
    code: str
    """Of the last failure."""
    failures: int
    """How many tasks have failed in a row, as this node has seen."""
    for_s: float
    """Seconds until it is tried again; 0 where it is tried with one task at a time."""


class DeviceView(msgspec.Struct, frozen=True):
    """One member and what is known of its device here and now."""

    id: str
    name: str
    role: str
    alive: bool
    self: bool
    leader: bool
    last_heard_s: float | None
    """Seconds since its last heartbeat; null if never heard, 0 for this device."""
    capabilities: dict[str, Any]
    """kinds, tools, languages, sandbox, slots, cores, memory_total_bytes, accelerators, labels,
    problems.
    """
    sample: dict[str, Any] | None
    """The newest telemetry sample, as the sampler's fields; null if none came."""
    running: int
    queued: int
    completed: int
    clock_offset_s: float | None = None
    addresses: list[str] = []
    pauses: list[PauseView] = []


class ClusterView(msgspec.Struct, frozen=True):
    """GET /api/cluster."""

    cluster: str
    self: str
    name: str
    leader: str | None
    epoch: int
    digest: str
    """"VERSION:HEX": digests of different fold versions are not comparable."""
    heads: list[HeadView]
    devices: list[DeviceView]
    links: list[LinkView]
    tasks: dict[str, int]
    """How many tasks are in each state."""
    warnings: list[ErrorView]
    version: str


class FileView(msgspec.Struct, frozen=True):
    """A file that a program left, for GET /api/blobs/{blob}."""

    path: str
    """Relative to the program's work folder, with `/` between its parts."""
    blob: str
    """Hex SHA-256."""
    size_bytes: int


class ResultView(msgspec.Struct, frozen=True):
    """What an attempt brought. Where `blob` is named and value, stdout and stderr are all empty,
    no member that is connected holds the bytes.
    """

    ok: bool
    value: Any = None
    """Always inline where the bytes can be had, however large."""
    blob: str | None = None
    """Above 64 KiB a result is a blob, and this is its hash: the bytes that the device signed, as
    MessagePack [ok, value, stdout, stderr, code, sentence]. Null for a smaller one.
    """
    stdout: str = ""
    stderr: str = ""
    error: ErrorView | None = None
    files: list[FileView] = []
    """What of `payload.outputs` the program left."""


class RebuiltView(msgspec.Struct, frozen=True):
    """How a session's interpreter was made anew: its recorded cells were run again."""

    replayed: int
    diverged: list[int]
    """Cells that brought another result than before: what the session knows may differ."""
    passed_over: list[int]
    """Cells that could not be run again, as they had come to no end of their own."""


class CellView(msgspec.Struct, frozen=True):
    """The place of a task in its session."""

    name: str
    language: str
    cell: int
    """Counted from 1; 0 before it is placed."""
    rebuilt: RebuiltView | None = None
    """Set where the interpreter had to be made anew for this cell."""


class SessionView(msgspec.Struct, frozen=True):
    """One of GET /api/sessions."""

    name: str
    language: str
    device: str | None
    """Where its last cell ran, and the next one goes while that device is there."""
    cells: int
    """How many have run."""
    open: int
    """How many run or wait."""
    last: float | None
    """When the last one ended, Unix seconds."""


class TaskView(msgspec.Struct, frozen=True):
    """GET /api/tasks/{id}."""

    id: str
    kind: str
    state: str
    """submitted | waiting | placed | running | completed | settled"""
    outcome: str | None
    """completed | failed | cancelled | timed_out | refused | outcome_unknown | dead, once settled
    """
    attempt: int
    device: str | None
    replicas: int
    result: ResultView | None
    times: dict[str, float | None]
    """submitted, placed, started, ended, settled: Unix seconds; and run_s."""
    owner: str
    submitter: str
    priority: int
    labels: dict[str, str]
    waiting: str | None = None
    """Why it is not placed yet, as a sentence, where this node knows."""
    session: CellView | None = None
    parent: str | None = None
    """The task of which this one is a step."""
    step: str | None = None
    trace: str | None = None
    """What the submitter said that it belongs to, such as a W3C traceparent."""


class Accepted(msgspec.Struct, frozen=True):
    """The answer to a submission that is durable."""

    id: str
    replicas: int


class EventView(msgspec.Struct, frozen=True):
    """One event of the ledger, as GET /api/events and `kowalski logs` show it."""

    position: int
    """Rises with arrival on this node; the cursor of `after`."""
    author: str
    topic: str
    seq: int
    hash: str
    time: float
    kind: str
    counted: bool
    body: dict[str, Any]


class WhyStep(msgspec.Struct, frozen=True):
    """One line of a task's story."""

    time: float
    what: str
    """The event's kind."""
    who: str
    sentence: str
    details: dict[str, Any]


class GraphTaskView(msgspec.Struct, frozen=True):
    """One task of a graph, as `kowalski why` draws it."""

    name: str
    after: list[str]
    id: str | None
    """The child that stands for it; null before it is due."""
    state: str
    """As a task's state, and its outcome once it has settled."""
    device: str | None = None
    run_s: float | None = None


class WhyView(msgspec.Struct, frozen=True):
    """GET /api/tasks/{id}/why: the story of a task, told from the ledger alone."""

    id: str
    state: str
    outcome: str | None
    steps: list[WhyStep]
    waiting: str | None = None
    """Why it is not placed yet, as a sentence, where this node knows: the leader does."""
    graph: list[GraphTaskView] = []
    """Of a graph: its tasks, in the order of their dependence."""


class InviteView(msgspec.Struct, frozen=True):
    """POST /api/invites."""

    token: str
    expires: float
    role: str


class OutputChunk(msgspec.Struct, frozen=True):
    """A piece of a running task's output, streamed live."""

    stream: str
    text: str
    offset: int
