"""Everything that can happen to a node, as values.

The shell turns what it sees (bytes, closed connections, ended runs, requests of people, the passing
of time) into one of these and hands it to `Node.step` together with `Now`. Randomness, where it is
needed, comes in with the input that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kowalski_protocol.events import CapabilitiesAdvertised
from kowalski_protocol.feeds import Feed, Head
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.tasks import Submission


class Now(msgspec.Struct, frozen=True, gc=False):
    """The two times of an input: one to wait by, one to date by."""

    mono_s: float
    """Monotonic seconds from an arbitrary start."""
    wall_ms: int
    """Unix milliseconds, as the device believes."""


class Tick(msgspec.Struct, frozen=True):
    """Time has passed; comes every `Timers.tick_s`."""


class FrameReceived(msgspec.Struct, frozen=True):
    """A frame came from a member's lane or, with `peer` None, from gossip."""

    peer: Author | None
    data: bytes


class PullEnded(msgspec.Struct, frozen=True):
    """A pull was answered with frames, or failed (None)."""

    peer: Author
    feed: Feed
    frames: tuple[bytes, ...] | None


class HeadsReceived(msgspec.Struct, frozen=True):
    """A member says how far each of its feeds reaches, and whether it wants to be told the same."""

    peer: Author
    heads: Mapping[Feed, Head]
    wants_answer: bool


class AckReceived(msgspec.Struct, frozen=True):
    """A member has committed our feed up to here."""

    peer: Author
    topic: str
    seq: int


class DatagramReceived(msgspec.Struct, frozen=True):
    """A telemetry datagram came; `peer` is set where it came on its author's own lane."""

    peer: Author | None
    data: bytes


class PeerConnected(msgspec.Struct, frozen=True):
    peer: Author
    address: str


class PeerDisconnected(msgspec.Struct, frozen=True):
    peer: Author


class DialEnded(msgspec.Struct, frozen=True):
    """A dial that the core asked for has ended."""

    peer: Author
    connected: bool


class AddressesLearned(msgspec.Struct, frozen=True):
    """Somebody (an advert, a member, the command line) says where a device may be reached."""

    peer: Author
    addresses: tuple[str, ...]
    fresh: bool
    """Whether it is a sign of life, so that a dial is worth trying at once."""


class Committed(msgspec.Struct, frozen=True):
    """These heads are durable now."""

    heads: Mapping[Feed, Head]


class CommitFailed(msgspec.Struct, frozen=True):
    """The ledger can't be written; authoring stops until a commit succeeds."""

    code: str


class Submit(msgspec.Struct, frozen=True):
    """A person or program hands in tasks; `keys` holds 16 random bytes for each."""

    ticket: int
    submissions: Sequence[Submission]
    keys: Sequence[bytes]
    min_replicas: int | None = None
    """How many nodes must hold it before the answer; None: one more if one is live, within a bound.
    """
    wait_for_replica: bool = True


class IssueStep(msgspec.Struct, frozen=True):
    """An attempt that runs here asks for one of its steps to be run."""

    attempt: EventHash
    name: str
    submission: Submission


class Cancel(msgspec.Struct, frozen=True):
    task: TaskId


class Admit(msgspec.Struct, frozen=True):
    """An invite was redeemed at this node."""

    ticket: int
    member: Author
    name: str
    role: str
    invite: bytes


class SetWeights(msgspec.Struct, frozen=True):
    ticket: int
    kind: str
    weights: Mapping[str, float]


class Advertise(msgspec.Struct, frozen=True):
    """What this device can do was probed, or has changed."""

    capabilities: CapabilitiesAdvertised


class SampleTaken(msgspec.Struct, frozen=True):
    """The newest telemetry of this device's sensors."""

    sample: Mapping[str, Any]


class Rebuilt(msgspec.Struct, frozen=True):
    """How the interpreter of an attempt's session was made anew."""

    replayed: int
    diverged: tuple[int, ...]
    passed_over: tuple[int, ...]


class AttemptEnded(msgspec.Struct, frozen=True):
    """The shell's executor has ended an attempt; `result` is an encoded `events.Result`."""

    attempt: EventHash
    ok: bool
    code: str
    result: bytes
    result_hash: bytes
    is_blob: bool
    started_ms: int
    run_us: int
    result_size_bytes: int = 0
    rebuilt: Rebuilt | None = None
    files: tuple[bytes, ...] = ()


class BlobArrived(msgspec.Struct, frozen=True):
    """A blob that the owner needs before it settles is here, durably."""

    blob: bytes
    task: TaskId
    ok: bool


class Stop(msgspec.Struct, frozen=True):
    """The owner of the device asked the node to end: hand over and finish."""


Input = (
    Tick
    | FrameReceived
    | PullEnded
    | HeadsReceived
    | AckReceived
    | DatagramReceived
    | PeerConnected
    | PeerDisconnected
    | DialEnded
    | AddressesLearned
    | Committed
    | CommitFailed
    | Submit
    | IssueStep
    | Cancel
    | Admit
    | SetWeights
    | Advertise
    | SampleTaken
    | AttemptEnded
    | BlobArrived
    | Stop
)
