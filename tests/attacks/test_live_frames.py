"""Attacks 1 to 6 and 10 on real nodes: forged, replayed, misplaced and misdated frames.

A member with a key of its own sends them on its lanes and by gossip. They change no digest, they
are charged to it by name, and its feed goes on afterwards like anybody's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from time import time_ns

import msgspec
import psutil
import pytest

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_protocol.codec import decode, encode
from kowalski_protocol.events import CancelRequested
from kowalski_protocol.feeds import FrameHeader
from kowalski_protocol.ids import ClusterId, EventHash
from kowalski_protocol.messages import FRAME, frame_message
from kowalski_protocol.topics import RESULT, TASK
from tests.attacks.live_outlaw import (
    Forger,
    Outlaw,
    digests,
    honest_work,
    key_of,
    outlaw,
    until_charged,
    until_head,
    watched,
)
from tests.live.evidence import assert_all_agree, assert_ledgers_agree

pytestmark = [pytest.mark.attack, pytest.mark.live]

HEADERS = msgspec.msgpack.Decoder(FrameHeader)
IN_2100 = 4_102_444_800_000 << 16
THE_END = (1 << 64) - 1
CHARGED = ("signature", "frame of another cluster", "time does not rise")
CPU_MS_MAX = 2.0
"""A refused frame, on the attacked node's own processor time."""


def fork_of(bad: Outlaw) -> Forger:
    """The outlaw's feed once more, as far as it is, to be written on in another way."""
    twin = Forger(bad.identity, bad.cluster)
    twin.seq, twin.hlc, twin.last = bad.forger.seq, bad.forger.hlc, bad.forger.last
    return twin


def forgeries(bad: Outlaw, others: LocalNode) -> Iterator[tuple[str, bytes]]:
    """(the reason for which it is refused, a frame), each following the outlaw's feed as it is."""
    good = decode(fork_of(bad).says(CancelRequested(bytes(16))), HEADERS)

    def but(**changes: object) -> bytes:
        return encode(msgspec.structs.replace(good, **changes))

    yield "signature", but(signature=bytes(64))
    yield "signature", but(signature=good.signature[:-1] + bytes([good.signature[-1] ^ 1]))
    yield "signature", but(signature=bad.identity.sign(good.last_hash))
    yield "signature size", but(signature=good.signature[:63])
    yield "signature size", but(signature=b"")
    # Another's name, now and in a future of its feed.
    yield "signature", but(author=key_of(others), first_seq=1 << 40)
    yield "sequence number", but(first_seq=1 << 63)
    yield "sequence number", but(first_seq=(1 << 63) - 1)
    yield "event count", but(count=2)
    yield "frame version", but(version=2)
    yield "unknown topic", but(topic="gossip")
    yield "frame of another cluster", Forger(bad.identity, ClusterId(bytes(32))).mark()
    elsewhere = fork_of(bad)
    elsewhere.cluster = ClusterId(b"c" * 32)
    yield "frame of another cluster", elsewhere.mark()
    wrong = fork_of(bad)
    wrong.last = EventHash(b"w" * 32)
    yield "chain does not end at the signed hash", wrong.mark()
    for hlc in (0, bad.forger.hlc):
        late = fork_of(bad)
        yield "time does not rise", late.frame([late.event("Late", b"", hlc)])


async def test_what_is_forged_is_refused_and_charged_by_name(cluster: LocalCluster) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    async with outlaw(desk, lap) as bad:
        twin = fork_of(bad)
        # Both have one branch before the other comes: what becomes of a feed of which two devices
        # saw different branches first is not settled yet.
        for _ in range(2):
            await bad.heard_out(desk, lap)
        fork = twin.frame([twin.event("Other", b"1"), twin.event("Other", b"2")])
        before = await cluster.one_digest()
        forged = [*forgeries(bad, lap), ("fork: two events of one author, topic and seq", fork)]
        for _, frame in forged:
            for node in (desk, lap):
                await bad.tell(node, *[frame_message(frame)] * 20)
            for topic in (TASK, RESULT):
                bad.network.publish(topic, frame)
        await bad.heard_out(desk, lap)
        assert await digests(cluster) == {before}
        # The feed has gone on since: what does not fit its end is made anew.
        anew = list(forgeries(bad, lap))
        reasons = dict(anew)
        for reason in CHARGED:
            await until_charged(bad, desk, frame_message(reasons[reason]), reason)
        flood = [frame_message(frame) for _, frame in anew] * 150
        async with watched(lap, desk) as watch:
            spent = psutil.Process(desk.pid).cpu_times()
            await bad.tell(desk, *flood)
            await bad.heard_out(desk)
            now = psutil.Process(desk.pid).cpu_times()
        spent_ms = 1000 * (now.user + now.system - spent.user - spent.system)
        assert spent_ms / len(flood) < CPU_MS_MAX
    await assert_all_agree(cluster, watch.ids)
    await assert_ledgers_agree(cluster, watch.ids)


async def test_what_honest_nodes_said_may_be_said_again_without_end(cluster: LocalCluster) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    async with outlaw(desk, lap) as bad:
        _, ids = await honest_work(lap)
        await assert_all_agree(cluster, ids)
        before = await cluster.one_digest()
        heard = [data for _, data in bad.heard.messages]
        assert {key_of(desk), key_of(lap)} <= {peer for peer, _ in bad.heard.messages}
        assert any(data[0] == FRAME for data in heard)
        # Frames, heartbeats, heads: to those who said them and to those who heard them.
        again = (heard * (4000 // len(heard) + 1))[:4000]
        for node in (desk, lap):
            await bad.tell(node, *again)
        await bad.heard_out(desk, lap)
        assert await digests(cluster) == {before}
        async with watched(lap, desk, lap) as watch:
            for node in (desk, lap):
                await bad.tell(node, *again)
    await assert_all_agree(cluster, [*ids, *watch.ids])
    await assert_ledgers_agree(cluster, [*ids, *watch.ids])


def newest_ms(node: LocalNode) -> int:
    """The latest time of an event that the node itself wrote, from its file."""
    with closing(sqlite3.connect(node.home / "ledger.db")) as file:
        (hlc,) = file.execute(
            "SELECT max(hlc) FROM events JOIN feeds ON feeds.id = feed WHERE author = ?",
            (key_of(node),),
        ).fetchone()
    return hlc >> 16


async def test_gaps_wrong_times_and_kinds_of_nobody_are_kept_within_bounds(
    cluster: LocalCluster,
) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    async with outlaw(desk, lap) as bad:
        before = await cluster.one_digest()
        kinds = [("Heir", encode([b"x"] * 9)), ("K" * 64, b"\xc1"), ("no\x1b[31m name", b"")]
        for topic, times in ((TASK, (1, 2, 3)), (RESULT, (IN_2100, THE_END - 1, THE_END))):
            feed = Forger(bad.identity, bad.cluster, topic)
            events = [feed.event(*said, at) for said, at in zip(kinds, times, strict=True)]
            await bad.tell(desk, frame_message(feed.frame(events)))
            for node in (desk, lap):
                await until_head(node, bad.identity.peer_id, topic, len(events))
            if topic == TASK:
                bad.forger = feed
        far = fork_of(bad)
        frames: list[bytes] = []
        for _ in range(150):
            far.seq += 1000
            events = [far.event("Large", bytes(60_000)) for _ in range(8)]
            frames.append(frame_message(far.frame(events)))
        assert await digests(cluster) == {before}
        async with watched(lap, desk) as watch:
            # Seventy megabytes that follow nothing, of which a node keeps 64 frames.
            await bad.tell(desk, *frames)
            await bad.heard_out(desk)
    await assert_all_agree(cluster, watch.ids)
    await assert_ledgers_agree(cluster, watch.ids)
    for node in (desk, lap):
        assert newest_ms(node) < time_ns() // 1_000_000 + 31_000, "the own clock was led astray"
