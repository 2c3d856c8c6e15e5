"""Two nodes' records of each other, `desk` and `laptop`, that exchange heartbeats by hand.

The clock is a number, and nothing is sent: what one says is handed to the other.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kowalski_node.core.peers import Peers
from kowalski_protocol.ids import Author
from kowalski_protocol.limits import LAN
from kowalski_protocol.telemetry import Heartbeat

DESK, LAPTOP, ATTIC = (Author(letter * 32) for letter in (b"d", b"l", b"a"))
WINDOW_S = LAN.suspect_s
GOSSIP_WINDOW_S = 3 * LAN.gossip_heartbeat_s
GRACE_S = LAN.disconnect_grace_s
WALL_MS = 1_790_000_000_000
QUIET = Heartbeat(1, 1, WALL_MS, (), 0, 0, b"", b"", 0, 0, False)
MEMBERS = (DESK, LAPTOP)


class Side:
    """One node's record, and what it would say."""

    def __init__(self, author: Author, boot: int = 1) -> None:
        self.author = author
        self.peers = Peers(author, boot, LAN)

    def says(self, now_s: float, **changes: Any) -> Heartbeat:
        said = msgspec.structs.replace(
            QUIET,
            boot=self.peers.boot,
            counter=self.peers.next_counter(now_s),
            echoes=self.peers.echoes(now_s),
        )
        return msgspec.structs.replace(said, **changes)

    def hears(self, other: Side, said: Heartbeat, now_s: float, now_ms: int = WALL_MS) -> bool:
        return self.peers.heard(other.author, said, now_s, now_ms)

    def sees(self, author: Author, now_s: float) -> bool:
        return self.peers.is_present(author, now_s)


class Pair:
    """Desk and laptop, who heard each other and know so at second 100."""

    def __init__(self, *, connected: bool = True) -> None:
        self.desk, self.laptop = Side(DESK), Side(LAPTOP)
        if connected:
            self.desk.peers.connected(LAPTOP, "memory")
            self.laptop.peers.connected(DESK, "memory")
        self.exchange(99.8)
        self.exchange(100.0)
        self.desk.peers.refresh(MEMBERS, 100.0)

    def exchange(self, now_s: float, one_way_s: float = 0.0, **changes: Any) -> None:
        """Desk speaks and laptop answers."""
        self.laptop.hears(self.desk, self.desk.says(now_s), now_s + one_way_s)
        answer = self.laptop.says(now_s + one_way_s, **changes)
        self.desk.hears(self.laptop, answer, now_s + 2 * one_way_s)

    def told(self, now_s: float, **changes: Any) -> None:
        """Laptop speaks, and desk notices."""
        self.desk.hears(self.laptop, self.laptop.says(now_s, **changes), now_s)
        self.desk.peers.refresh(MEMBERS, now_s)

    def is_seen_until(self, last_s: float) -> None:
        """Desk takes laptop for alive up to this instant and no longer."""
        assert self.desk.sees(LAPTOP, last_s - 0.001)
        assert not self.desk.sees(LAPTOP, last_s + 0.001)
