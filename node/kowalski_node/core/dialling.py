"""Keeping connections to all members: whom to dial, where, and when again.

libp2p's own schedule forgets a peer for many seconds after a failed dial, so the node has one of
its
own: at once on any fresh sign of life, else after a wait that doubles up to a bound. Addresses are
hints from anybody (adverts, heartbeats, invites, the command line); the handshake proves who is
there.
"""

from __future__ import annotations

import math

from kowalski_protocol.ids import Author
from kowalski_protocol.limits import Timers

from .book import Book
from .effects import Dial, Outbox
from .inputs import AddressesLearned, DialEnded, Now
from .peers import Peers
from .sync import Sync

ADDRESSES_MAX = 16
"""Per member; the newest hints come first."""


class Dialling:
    """The dialling side of one node."""

    def __init__(self, book: Book, peers: Peers, sync: Sync, timers: Timers) -> None:
        self._book = book
        self._peers = peers
        self._sync = sync
        self._timers = timers
        self.due_s = 0.0
        """When somebody may be dialled next."""

    def learn(self, learned: AddressesLearned, now: Now) -> None:
        """Somebody said where a device may be."""
        peer = self._peers.peer(learned.peer)
        peer.addresses = tuple(dict.fromkeys((*learned.addresses, *peer.addresses)))[:ADDRESSES_MAX]
        if learned.fresh and not peer.connected:
            peer.dial_at_s = now.mono_s
            peer.dial_wait_s = 0.0
        self.due_s = min(self.due_s, peer.dial_at_s)

    def ended(self, ended: DialEnded, now: Now) -> None:
        """A dial has succeeded or failed."""
        peer = self._peers.peer(ended.peer)
        peer.dialling = False
        if not ended.connected:
            peer.dial_wait_s = min(
                self._timers.redial_max_s, max(self._timers.redial_min_s, 2 * peer.dial_wait_s)
            )
            # The larger key waits a little longer, so that two do not always dial at once.
            spread = 1.25 if self._book.author > ended.peer else 1.0
            peer.dial_at_s = now.mono_s + peer.dial_wait_s * spread
            self.due_s = min(self.due_s, peer.dial_at_s)

    def dial(self, now: Now, out: Outbox) -> None:
        """Dials whoever is a member, away, and due."""
        self.due_s = math.inf
        for author, peer in self._peers.by_author.items():
            if peer.connected or peer.dialling or not peer.addresses:
                continue
            if now.mono_s < peer.dial_at_s:
                self.due_s = min(self.due_s, peer.dial_at_s)
            elif self._may_dial(author):
                peer.dialling = True
                out.at_once.append(Dial(author, peer.addresses))

    def _may_dial(self, author: Author) -> bool:
        members = self._book.state.members
        # A newcomer knows no member yet, only where its inviter said that some are.
        return author in members or not members or author == self._sync.founder_hint
