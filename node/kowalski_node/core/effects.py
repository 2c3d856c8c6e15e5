"""Everything that a node may ask of its shell, and in which order it must be done.

A step fills an `Outbox`. `append` are events, own and received, that the shell must commit durably
in one transaction. `then` are effects that others can see and that follow from those events: the
shell must not carry them out before that commit is durable. `at_once` depends on nothing. After the
commit the shell cuts the own events into signed frames and publishes them; that order is the whole
law, and the type states it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kowalski_protocol.errors import Problem
from kowalski_protocol.feeds import Event, Feed, Head
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.telemetry import Heartbeat


class Start(msgspec.Struct, frozen=True):
    """Run this attempt here. `place` is where its payload stands: the feed and seq of the
    submission.
    """

    task: TaskId
    attempt: EventHash
    number: int
    kind: str
    requires: dict[str, Any]
    timeout_s: float
    submitter: Author
    submitted_seq: int
    session: str = ""
    cell: int = 0
    after_task: bytes = b""
    after: bytes = b""


class StepEnded(msgspec.Struct, frozen=True):
    """A child for which this attempt waits has ended."""

    attempt: EventHash
    name: str
    child: TaskId
    outcome: str
    taken: bool
    """Whether an earlier attempt had begun it."""


class StepRefused(msgspec.Struct, frozen=True):
    """A step that this attempt asked for can't be accepted."""

    attempt: EventHash
    name: str
    problem: Problem


class StopAttempt(msgspec.Struct, frozen=True):
    """End this running attempt now; `AttemptEnded` follows."""

    attempt: EventHash
    reason: str


class Acknowledge(msgspec.Struct, frozen=True):
    """Tell an author how much of its feed is durable here."""

    peer: Author
    topic: str
    seq: int


class SendHeads(msgspec.Struct, frozen=True):
    """Tell a member how far all feeds reach here, durably."""

    peer: Author
    heads: dict[Feed, Head]
    wants_answer: bool


class SendHeartbeat(msgspec.Struct, frozen=True):
    """Sign and send: on the lanes of these members, and with `gossip` on the telemetry topic as
    well.
    """

    heartbeat: Heartbeat
    gossip: bool


class Pull(msgspec.Struct, frozen=True):
    """Ask a member for what follows in a feed; `PullEnded` comes back."""

    peer: Author
    feed: Feed
    after_seq: int


class Dial(msgspec.Struct, frozen=True):
    """Try to connect; `DialEnded` comes back."""

    peer: Author
    addresses: tuple[str, ...]


class FetchBlob(msgspec.Struct, frozen=True):
    """Bring a result that is a blob here; `BlobArrived` comes back."""

    blob: bytes
    task: TaskId
    device: Author


class Answer(msgspec.Struct, frozen=True):
    """The answer to a request with a ticket: a value, or the problem."""

    ticket: int
    value: Any = None
    problem: Problem | None = None


class Settled(msgspec.Struct, frozen=True):
    """The task's end is durable here: wake whoever waits for it."""

    task: TaskId


class Charge(msgspec.Struct, frozen=True):
    """A member (None: somebody on gossip) sent something that must not be."""

    peer: Author | None
    reason: str


class Stopped(msgspec.Struct, frozen=True):
    """All that could be handed over is; the process may end."""


Effect = (
    Start
    | StepEnded
    | StepRefused
    | StopAttempt
    | Acknowledge
    | SendHeads
    | SendHeartbeat
    | Pull
    | Dial
    | FetchBlob
    | Answer
    | Settled
    | Charge
    | Stopped
)


_MAY_LINGER = frozenset((Acknowledge, Settled))
"""What tells others of their own events: no work waits for it."""


class Outbox:
    """What one step (or several in a row) wants done."""

    __slots__ = ("append", "at_once", "has_own", "then")

    def __init__(self) -> None:
        self.append: list[Event] = []
        self.has_own = False
        """Whether `append` holds events of this node."""
        self.then: list[Effect] = []
        self.at_once: list[Effect] = []

    def is_awaited(self) -> bool:
        """Whether work stands still until the commit; else it may wait a moment for more events."""
        if self.has_own or not self.append:
            return True
        return not _MAY_LINGER.issuperset(map(type, self.then))
