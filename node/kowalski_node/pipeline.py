"""The loop around the core: inputs in, one commit at a time, effects out.

Two tasks. The *stepper* hands inputs to the core as they come, and what depends on nothing is done
at once. The *committer* writes what was gathered in one transaction and then does what had to wait.
The order is that of `core.commits`.
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
from kowalski_protocol.feeds import Event
from kowalski_protocol.identity import Identity

from .core.commits import Commit, Commits
from .core.effects import Effect
from .core.inputs import CommitFailed, Input, Now
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
        self._carrier = carrier
        self._clock = clock
        self._commits = Commits(node, identity, node.config.limits)
        self._linger_s = node.config.timers.commit_linger_s
        self._inputs: deque[Input] = deque()
        self._wake_stepper = trio.Event()
        self._wake_committer = trio.Event()
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
        commits = self._commits
        taken = len(commits.gathered.append)
        step, clock, inputs = commits.step, self._clock, self._inputs
        for _ in range(min(len(inputs), inputs_max)):
            step(inputs.popleft(), clock())
            self.steps += 1
        if len(commits.gathered.append) > taken:
            self._carrier.received(commits.gathered.append[taken:])
        for effect in commits.at_once():
            self._carrier.carry_out(effect)
        if commits.is_wanted:
            self._wake_committer.set()

    async def _commit_forever(self) -> None:
        while True:
            await self._wake_committer.wait()
            await self._linger()
            await self._commit(self._commits.begin())

    async def _linger(self) -> None:
        """Waits for more where nothing stands still meanwhile: a commit takes a millisecond."""
        with trio.move_on_after(self._linger_s):
            while not self._commits.gathered.is_awaited():
                self._wake_committer = trio.Event()
                await self._wake_committer.wait()
        self._wake_committer = trio.Event()

    async def _commit(self, commit: Commit) -> None:
        if commit.events:
            position = await self._append(commit.events)
            self.commits += 1
            self.events_committed += len(commit.events)
            for topic, data in commit.messages(self._node.state.cluster):
                self._carrier.publish(topic, data)
            self._inputs.appendleft(commit.committed())
            self._step_some(1)
            self._carrier.committed(commit.events, position)
        for effect in commit.then:
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
