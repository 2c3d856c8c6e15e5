"""A feed's chain is checked from hashes alone: it verifies although bodies were dropped."""

from __future__ import annotations

import hashlib

from kowalski_protocol.events import CancelRequested, LeaderClaimed
from kowalski_protocol.feeds import EventHash, event_hash_of_parts, genesis
from kowalski_protocol.topics import TASK
from tests.units.histories import Writer


def test_a_chain_is_followed_by_the_hashes_of_its_bodies() -> None:
    writer = Writer("desk")
    for number in range(3):
        writer.write(CancelRequested(bytes((number,)) * 16))
    writer.write(LeaderClaimed(1, b""))
    prev = genesis(writer.cluster, writer.author, TASK)
    for event in writer.feeds[TASK]:
        body_hash = hashlib.sha256(event.body).digest()
        prev = event_hash_of_parts(prev, event.seq, event.hlc, event.kind, body_hash)
        assert prev == event.hash


def test_every_part_counts() -> None:
    writer = Writer("desk")
    event = writer.write(CancelRequested(bytes(16)))
    prev = genesis(writer.cluster, writer.author, TASK)
    body_hash = hashlib.sha256(event.body).digest()
    other = EventHash(bytes(32))
    changed = [
        event_hash_of_parts(other, 1, event.hlc, event.kind, body_hash),
        event_hash_of_parts(prev, 2, event.hlc, event.kind, body_hash),
        event_hash_of_parts(prev, 1, event.hlc + 1, event.kind, body_hash),
        event_hash_of_parts(prev, 1, event.hlc, "LeaderClaimed", body_hash),
        event_hash_of_parts(prev, 1, event.hlc, event.kind, bytes(32)),
    ]
    assert event.hash not in changed
    assert len(set(changed)) == len(changed)
