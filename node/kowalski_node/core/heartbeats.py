"""Saying "I am here": what a node tells all others several times a second.

Heartbeats go on the lanes of connected members, and less often by gossip for those without one.
They carry only what is committed. Above `PEERS_PER_HEARTBEAT` members they grow rarer in
proportion, and so do the deadlines that wait for them, so that their cost a node stays level.
"""

from __future__ import annotations

from typing import Any

from kowalski_protocol.limits import Timers
from kowalski_protocol.telemetry import Heartbeat
from kowalski_protocol.topics import RESULT, TASK

from .book import Book
from .device import Device
from .effects import Outbox, SendHeartbeat
from .inputs import Now
from .peers import Peers

PEERS_PER_HEARTBEAT = 16


class Heartbeats:
    """The heartbeats of one node."""

    def __init__(self, book: Book, peers: Peers, device: Device, timers: Timers, now: Now) -> None:
        self._book = book
        self._peers = peers
        self._device = device
        self._timers = timers
        self.due_s = now.mono_s
        """When the next one is sent on lanes."""
        self._gossip_at_s = now.mono_s
        self._sample_sent: dict[str, Any] | None = None
        self.sample: dict[str, Any] | None = None
        """The newest telemetry of this device."""
        self.addresses: tuple[str, ...] = ()
        """Where this node listens, for those who might dial it."""

    def members(self, count: int) -> None:
        """The cluster has so many members now."""
        self._peers.scale = max(1.0, count / PEERS_PER_HEARTBEAT)

    def hasten(self, now: Now) -> None:
        """Alive is mutual: lets a member that was just heard hear so with the next tick."""
        self.due_s = min(self.due_s, now.mono_s)

    def tick(self, now: Now, out: Outbox) -> None:
        """Sends one where it is due."""
        if now.mono_s >= self.due_s:
            self.send(now, out)

    def send(self, now: Now, out: Outbox) -> None:
        """Sends one now."""
        gossip = now.mono_s >= self._gossip_at_s
        if gossip:
            self._gossip_at_s = now.mono_s + self._timers.gossip_heartbeat_s * self._peers.scale
        self.due_s = now.mono_s + self._timers.heartbeat_s * self._peers.scale
        sample = self.sample if self.sample is not self._sample_sent else None
        self._sample_sent = self.sample
        heartbeat = Heartbeat(
            self._peers.boot,
            self._peers.next_counter(now.mono_s),
            now.wall_ms,
            self._peers.echoes(now.mono_s),
            self._book.own_committed(TASK),
            self._book.own_committed(RESULT),
            self._book.heads_hash(),
            self._leader(),
            len(self._device.running),
            len(self._device.waiting),
            self._device.stopping,
            self._book.may_write,
            self.addresses if gossip else (),
            sample,
        )
        out.at_once.append(SendHeartbeat(heartbeat, gossip))

    def _leader(self) -> bytes:
        """The claim that this node follows, once it is on the disk."""
        claim = self._book.state.leader
        known = claim is not None and self._book.is_committed(claim.author, TASK, claim.seq)
        return claim.hash if claim is not None and known else b""
