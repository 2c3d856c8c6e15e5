"""How a node must behave towards people and other nodes, judged by what it knows itself.

The other checks compare devices with each other. These look at a single one at the very step in
which it writes something, and at what it was asked and has not answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kowalski_node.core.attempts import is_abandoned
from kowalski_node.core.election import is_home, may_lead
from kowalski_node.core.submissions import MIN_REPLICAS_WAIT_S
from kowalski_protocol.codec import decode_body
from kowalski_protocol.events import AttemptLost, LeaderClaimed
from kowalski_protocol.feeds import Event, Feed
from kowalski_protocol.ids import Author

if TYPE_CHECKING:
    from .device import Device
    from .world import World

ANSWER_S = MIN_REPLICAS_WAIT_S + 5.0
"""Whoever asks waits no longer."""
JUDGED = ("LeaderClaimed", "AttemptLost")
"""The kinds of events that a node may write only where it must."""
OWN_HEAD_WAIT_S = 0.9
"""So long at least a node that starts asks others how far its feeds reach; see `core.node`."""


class Conduct:
    """What each node of a world did, and what it left undone."""

    def __init__(self, world: World, fail: Callable[..., None]) -> None:
        self._world = world
        self._fail = fail
        self._booted_s: dict[str, float] = {}
        self._asked: dict[tuple[str, int, int], float] = {}
        """(device, its life, ticket) -> when."""

    def booted(self, device: Device) -> None:
        """A device has started."""
        self._booted_s[device.name] = self._world.agenda.now_s

    def up_s(self, device: Device) -> float:
        """For how long a device has been up."""
        return self._world.agenda.now_s - self._booted_s.get(device.name, 0.0)

    # What people ask.

    def asked(self, device: Device, ticket: int) -> None:
        """Somebody wants something of a device, and waits."""
        self._asked[device.name, device.life, ticket] = self._world.agenda.now_s

    def answered(self, device: Device, ticket: int) -> None:
        """It has answered."""
        self._asked.pop((device.name, device.life, ticket), None)

    def judge(self) -> None:
        """At the end: whoever asked a node that has lived since then was answered."""
        lives = {(device.name, device.life): device for device in self._world.devices}
        for (name, life, ticket), at_s in self._asked.items():
            device = lives.get((name, life))
            waits_s = self._world.agenda.now_s - at_s
            if device is not None and device.is_up and waits_s > ANSWER_S:
                self._fail(
                    "whoever asks is answered",
                    f"{device} owes an answer, {ticket}, of {at_s:.3f} s",
                )

    # What it writes.

    def wrote(self, device: Device, event: Event) -> None:
        """A node has written an event of its own."""
        core = device.core
        if core.disk_full:
            self._fail("nothing is written on a full disk", f"{device} writes {event!r}")
        if event.kind not in JUDGED:
            return
        body = decode_body(event.kind, event.body)
        if isinstance(body, LeaderClaimed):
            self._claimed(device, body)
        elif isinstance(body, AttemptLost):
            task = core.state.tasks[body.task]  # pyright: ignore[reportArgumentType]
            attempt = task.attempt(body.attempt)
            if attempt is not None and attempt.device in core.peers.present:
                name = self._world.name_of(attempt.device)
                self._fail(
                    "what runs is left alone", f"{device} gives up what {name} has", task=task.id
                )

    def _claimed(self, device: Device, claim: LeaderClaimed) -> None:
        core, timers = device.core, self._world.timers
        state, me = core.state, device.author
        previous = state.claims.get(claim.previous)  # pyright: ignore[reportArgumentType]
        there = {author for author in core.peers.writers if may_lead(state, author)} | {me}
        if previous is not None and previous.author in there - {me}:
            name = self._world.name_of(previous.author)
            self._fail("a leader that is there stays", f"{device} outbids {name}")
        in_line = [author for author in state.members if author in there]
        first = next((author for author in in_line if is_home(state, author)), in_line[0])
        if first != me:
            name = self._world.name_of(first)
            self._fail("who claims is next in line", f"{device} claims before {name}")
        if len(state.members) > 1 and self.up_s(device) < 0.9 * timers.suspect_s:
            self._fail("who has just started is patient", f"{device} claims")

    def look(self, device: Device) -> None:
        """A leader leaves nothing with a device that is gone."""
        core, now_s = device.core, device.clock.now().mono_s
        if not (core.leader.is_ready and core.leader.leading and core.book.may_write):
            return
        if core.stopping or device.backlog or device.step_s or core.peers.may_have_changed(now_s):
            return
        for task in core.state.open.values():
            ends = any(attempt.end is not None for attempt in task.attempts)
            if task.submitted_hash is None or task.cancel is not None or ends:
                continue
            if is_abandoned(core.state, task):
                continue  # Its owner ends it; it is run nowhere else.
            for attempt in task.attempts:
                if attempt.is_open and attempt.device not in core.peers.present:
                    name = self._world.name_of(attempt.device)
                    self._fail(
                        "what is lost is given up", f"{device} waits for {name}", task=task.id
                    )

    def forked(self, device: Device, event: Event) -> None:
        """A node has written in a place of its own feed that was filled otherwise before."""
        feed, wire = Feed(event.author, event.topic), self._world.wire
        if self.up_s(device) >= OWN_HEAD_WAIT_S:
            return
        for other in self._world.devices:
            head = other.store.heads_now.get(feed)
            is_there = other.is_listening and wire.is_connected(device.author, other.author)
            if is_there and head is not None and head.seq >= event.seq:
                self._fail(
                    "who starts asks how far it came",
                    f"{device} writes {event!r} before {other} could tell",
                    feed=feed,
                )

    def stopped(self, device: Device) -> None:
        """A node ends by itself: what it owns has another owner, where there is one."""
        core, me = device.core, device.author
        if not core.peers.writers - {me} or not core.book.may_write:
            return
        for task in core.state.open.values():
            if task.owner == me == task.submitter and task.submitted_hash is not None:
                self._fail("who stops hands over", f"{device} keeps a task", task=task.id)


def unaware(devices: list[Device], conduct: Conduct, settled_s: float) -> tuple[Any, Any] | None:
    """Two devices, both up for so long, of which the first does not count on the second.

    Who was admitted by an event that went with a disk, or that lies on a branch, is no member to
    the others, who can't know better.
    """
    ready = [device for device in devices if conduct.up_s(device) >= settled_s]
    authors: dict[Author, Device] = {device.author: device for device in ready}
    for device in ready:
        for author, other in authors.items():
            if other is device or author in device.core.peers.alive:
                continue
            if device.author in other.core.state.members and author in device.core.state.members:
                return device, other
    return None
