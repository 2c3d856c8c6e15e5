"""From steps to commits: what a node's steps gather, and what one commit takes of it.

While one commit is under way the next gathers, so under load commits and frames grow instead of
queues. The order is the same for whoever drives it, a shell on a real disk or a simulator:

1. `step` as inputs come, and carry out `at_once` after each few.
2. `begin` takes all that was gathered, with the own events cut into signed frames. Its events are
   made durable in one transaction.
3. Only then its frames are published; `Committed` is stepped before any other input, since whom an
   effect wakes asks the core what is durable; and `then` is carried out.

What only others wrote, and no work waits for, may linger for `Timers.commit_linger_s`: a bystander
of many tasks commits once for several of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kowalski_protocol.feeds import Event, Feed, Head, encode_frame, signed_message
from kowalski_protocol.ids import Author, ClusterId
from kowalski_protocol.limits import Limits

from .effects import Effect, Outbox
from .inputs import Committed, Input, Now
from .node import Node


class Signer(Protocol):
    """Who signs the own frames: an `Identity`, or a simulator's."""

    @property
    def author(self) -> Author: ...

    def sign(self, message: bytes) -> bytes: ...


class Commit:
    """One transaction, and what follows once it is durable."""

    __slots__ = ("events", "frames", "then")

    def __init__(self, events: list[Event], frames: list[list[Event]], then: list[Effect]) -> None:
        self.events = events
        self.frames = frames
        self.then = then

    def committed(self) -> Committed:
        """What to tell the core of it."""
        return Committed({Feed(e.author, e.topic): Head(e.seq, e.hash) for e in self.events})

    def messages(self, cluster: ClusterId) -> list[tuple[str, bytes]]:
        """The own frames as they are published, each with its topic."""
        return [(frame[0].topic, encode_frame(cluster, frame)) for frame in self.frames]


class Commits:
    """The steps and commits of one node."""

    def __init__(self, node: Node, signer: Signer, limits: Limits) -> None:
        self._node = node
        self._signer = signer
        self._limits = limits
        self.gathered = Outbox()

    def step(self, input: Input, now: Now) -> bool:
        """Hands an input to the core; False where there was nothing to do."""
        return self._node.step(input, now, self.gathered)

    def at_once(self) -> list[Effect]:
        """Takes what depends on no commit."""
        effects, self.gathered.at_once = self.gathered.at_once, []
        return effects

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything for a commit."""
        return bool(self.gathered.append or self.gathered.then)

    def begin(self) -> Commit:
        """Takes what was gathered; from now on the next commit gathers."""
        taken, self.gathered = self.gathered, Outbox()
        self.gathered.at_once = taken.at_once
        frames = cut_frames(taken.append, self._signer, self._limits) if taken.has_own else []
        return Commit(taken.append, frames, taken.then)


def cut_frames(events: Sequence[Event], signer: Signer, limits: Limits) -> list[list[Event]]:
    """Signs the own events among these, as few runs per topic as the limits allow."""
    by_topic: dict[str, list[Event]] = {}
    for event in events:
        if event.author != signer.author:
            continue
        if event.signature is None:
            by_topic.setdefault(event.topic, []).append(event)
        else:
            # An own frame that others kept and this device lost: it stays as it was cut.
            by_topic.pop(event.topic, None)
    frames: list[list[Event]] = []
    for run in by_topic.values():
        current: list[Event] = []
        size = 0
        for event in run:
            more = len(event.body) + len(event.attachment or b"") + len(event.kind) + 32
            if current and (
                size + more > limits.frame_cut_bytes or len(current) >= limits.frame_events_max
            ):
                frames.append(current)
                current, size = [], 0
            current.append(event)
            size += more
        frames.append(current)
    for frame in frames:
        frame[-1].signature = signer.sign(signed_message(frame[-1].hash))
    return frames
