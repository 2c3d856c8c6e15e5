"""The loop around the core: inputs in, one commit at a time, effects out in the order that the core
states.

Two tasks. The *stepper* hands inputs to the core as they come and gathers what it wants done; what
depends on nothing is done at once. The *committer* takes all that was gathered, signs the own
events as one frame per feed, writes everything in one transaction, and only then publishes the
frames and carries out what had to wait. While one commit is under way the next fills, so under load
commits and frames grow instead of queues. What only others wrote, and no work waits for, lingers
for a moment: a bystander of many tasks commits once for several of them.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from kowalski_ledger.port import EventStore
from kowalski_protocol.errors import Problem
from kowalski_protocol.feeds import Event, Feed, Head, encode_frame, signed_message
from kowalski_protocol.identity import Identity
from kowalski_protocol.limits import Limits

from .core.effects import Effect, Outbox
from .core.inputs import CommitFailed, Committed, Input, Now
from .core.node import Node

_log = logging.getLogger("kowalski.pipeline")

INPUTS_PER_TURN = 64
"""After so many steps others on the event loop get their turn."""
RETRY_S = 1.0
"""Between two tries of a commit that the disk refused."""


class Carrier(Protocol):
    """Who carries out effects; called on trio's thread, never blocking."""

    def carry_out(self, effect: Effect) -> None: ...

    def publish(self, topic: str, frame: bytes) -> None:
        """Sends a committed frame of our own to everybody."""
        ...

    def committed(self, events: Sequence[Event], position: int) -> None:
        """These events are durable; the last of them stands at `position`."""
        ...

    def received(self, events: Sequence[Event]) -> None:
        """These events are in the state and will be committed.

        Their attachments are at hand now.
        """
        ...


def now() -> Now:
    """The two times, as this device tells them."""
    return Now(time.monotonic(), time.time_ns() // 1_000_000)


def cut_frames(events: Sequence[Event], identity: Identity, limits: Limits) -> list[list[Event]]:
    """Signs the own events of a commit, as few runs per topic as the limits allow."""
    by_topic: dict[str, list[Event]] = {}
    for event in events:
        if event.author == identity.author and event.signature is None:
            by_topic.setdefault(event.topic, []).append(event)
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
        frame[-1].signature = identity.sign(signed_message(frame[-1].hash))
    return frames


class Pipeline:
    """Feeds one core and commits what comes of it."""

    def __init__(
        self,
        node: Node,
        store: EventStore,
        identity: Identity,
        carrier: Carrier,
        clock: Callable[[], Now] = now,
    ) -> None:
        self._node = node
        self._store = store
        self._identity = identity
        self._carrier = carrier
        self._clock = clock
        self._limits = node.config.limits
        self._linger_s = node.config.timers.commit_linger_s
        self._inputs: deque[Input] = deque()
        self._wake_stepper = trio.Event()
        self._wake_committer = trio.Event()
        self._gathered = Outbox()
        self.commits = 0
        self.events_committed = 0
        self.steps = 0

    def feed(self, input: Input) -> None:
        """Hands in something that happened; returns at once."""
        self._inputs.append(input)
        self._wake_stepper.set()

    @property
    def backlog(self) -> int:
        """How many inputs wait."""
        return len(self._inputs)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._commit_forever)
            task_status.started()
            while True:
                await self._wake_stepper.wait()
                self._step_some()
                if not self._inputs:
                    self._wake_stepper = trio.Event()
                await trio.lowlevel.checkpoint()

    def _step_some(self, inputs_max: int = INPUTS_PER_TURN) -> None:
        out = self._gathered
        taken = len(out.append)
        step, clock, inputs = self._node.step, self._clock, self._inputs
        for _ in range(min(len(inputs), inputs_max)):
            step(inputs.popleft(), clock(), out)
            self.steps += 1
        if len(out.append) > taken:
            self._carrier.received(out.append[taken:])
        if out.at_once:
            at_once, out.at_once = out.at_once, []
            for effect in at_once:
                self._carrier.carry_out(effect)
        if out.append or out.then:
            self._wake_committer.set()

    async def _commit_forever(self) -> None:
        while True:
            await self._wake_committer.wait()
            await self._linger()
            gathered, self._gathered = self._gathered, Outbox()
            if gathered.at_once:
                self._gathered.at_once = gathered.at_once
            await self._commit(gathered)

    async def _linger(self) -> None:
        """Waits for more where nothing stands still meanwhile: a commit takes a millisecond."""
        with trio.move_on_after(self._linger_s):
            while not self._gathered.is_awaited():
                self._wake_committer = trio.Event()
                await self._wake_committer.wait()
        self._wake_committer = trio.Event()

    async def _commit(self, gathered: Outbox) -> None:
        events = gathered.append
        if events:
            frames = cut_frames(events, self._identity, self._limits)
            position = await self._append(events)
            self.commits += 1
            self.events_committed += len(events)
            heads: dict[Feed, Head] = {}
            for event in events:
                heads[Feed(event.author, event.topic)] = Head(event.seq, event.hash)
            for frame in frames:
                data = encode_frame(self._node.state.cluster, frame)
                self._carrier.publish(frame[0].topic, data)
            # At once and not in its turn: whom an effect below wakes asks the core what is durable.
            self._inputs.appendleft(Committed(heads))
            self._step_some(1)
            self._carrier.committed(events, position)
        for effect in gathered.then:
            self._carrier.carry_out(effect)

    async def _append(self, events: Sequence[Event]) -> int:
        """Commits, trying again for as long as the disk is full.

        What was chained can't be unmade.
        """
        while True:
            try:
                return await self._store.append(events)
            except Problem as problem:
                if problem.code != "disk_full":
                    raise
                _log.warning("%s", problem)
                self.feed(CommitFailed(problem.code))
                await trio.sleep(RETRY_S)
