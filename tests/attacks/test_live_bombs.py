"""Attacks 7 and 8 on real nodes: bytes made to hurt the reader, and more of them than is allowed.

A member sends them wherever a node reads: as frames, heartbeats, heads and acknowledgements on a
lane, as requests, and by gossip from a program that is nothing but py-libp2p.
"""

from __future__ import annotations

import psutil
import pytest
import trio
from libp2p.pubsub.gossipsub import PROTOCOL_ID

from kowalski_gateway.local_cluster import LocalCluster
from kowalski_node.network import NetworkError
from kowalski_protocol.codec import encode
from kowalski_protocol.events import KINDS
from kowalski_protocol.ids import ClusterId
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.messages import ACK, DATAGRAM, FRAME, HEADS, RangeRequest, decode_frames
from kowalski_protocol.topics import RESULT, TASK, TELEMETRY
from tests.attacks.live_outlaw import (
    assert_files_sound,
    digests,
    key_of,
    outlaw,
    until_charged,
    until_head,
    watched,
)
from tests.attacks.test_codec_bombs import BOMBS
from tests.live.evidence import assert_all_agree, assert_ledgers_agree
from tests.live.outsider import Writer, admitted, gossiper

pytestmark = [pytest.mark.attack, pytest.mark.live]

DOORS = (FRAME, DATAGRAM, HEADS, ACK)
TOO_LARGE = {
    "frame too large": bytes([FRAME]) + b"\x91" * (LIMITS.frame_size_bytes_max + 1),
    "datagram too large": bytes([DATAGRAM]) + b"\x91" * (LIMITS.datagram_size_bytes_max + 1),
}
CPU_MS_MAX = 2.0
"""A refused message, on the attacked node's own processor time."""


async def test_bombs_on_a_lane_are_refused_and_cost_little(cluster: LocalCluster) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    async with outlaw(desk, lap) as bad:
        before = await cluster.one_digest()
        bombs = [bytes([door]) + bomb for door in DOORS for bomb in BOMBS.values()]
        for node in (desk, lap):
            await bad.tell(node, *bombs, b"", b"Z", *TOO_LARGE.values())
        await bad.heard_out(desk, lap)
        assert await digests(cluster) == {before}
        for reason, message in TOO_LARGE.items():
            await until_charged(bad, desk, message, reason)
        async with watched(lap, desk) as watch:
            spent = psutil.Process(desk.pid).cpu_times()
            await bad.tell(desk, *bombs * 50)
            await bad.heard_out(desk)
            now = psutil.Process(desk.pid).cpu_times()
        spent_ms = 1000 * (now.user + now.system - spent.user - spent.system)
        assert spent_ms / (50 * len(bombs)) < CPU_MS_MAX
    await assert_all_agree(cluster, watch.ids)
    await assert_ledgers_agree(cluster, watch.ids)


async def test_bombs_in_signed_bodies_and_for_requests_count_for_nothing(
    cluster: LocalCluster,
) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    wrong = [
        RangeRequest(bytes(31), TASK, 0),
        RangeRequest(key_of(desk), TASK, -1),
        RangeRequest(key_of(desk), TASK, (1 << 63) - 1),
        RangeRequest(key_of(desk), "gossip\x00", 0),
        RangeRequest(bytes(32), RESULT, 0),
    ]
    async with outlaw(desk, lap) as bad:

        async def ask(request: bytes) -> bytes:
            return await bad.network.request(key_of(desk), request, 10.0)

        before = await cluster.one_digest()
        async with watched(lap, desk, lap) as watch:
            for kind in KINDS:
                events = [bad.forger.event(kind, bomb) for bomb in BOMBS.values()]
                await bad.tell(desk, bytes([FRAME]) + bad.forger.frame(events))
            for node in (desk, lap):
                await until_head(node, bad.identity.peer_id, TASK, bad.forger.seq)
            for bomb in BOMBS.values():
                assert await ask(bomb) == b""
            for request in wrong:
                assert await ask(encode(request)) == encode([])
            with pytest.raises(NetworkError):
                await ask(bytes(2 * 1024 * 1024))
            # An honest question after these is answered as ever.
            assert decode_frames(await ask(encode(RangeRequest(key_of(desk), TASK, 0))))
        view = await desk.client.cluster()
        assert sum(view.tasks.values()) == len(watch.ids)
        assert view.digest != before, "honest work went on"
    await assert_all_agree(cluster, watch.ids)
    await assert_files_sound(cluster)


async def test_bombs_by_gossip_alone_hurt_nobody(cluster: LocalCluster) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    identity, answer = await admitted(desk, "bomber")
    writer = Writer(identity, ClusterId(answer.cluster))
    async with gossiper(identity, desk, writer.cluster, PROTOCOL_ID) as client:
        async with watched(lap, desk, lap) as watch:
            for bomb in [*BOMBS.values(), b"\x91" * 900_000, b"\xc1\xff\xff\xff\xff" + bytes(9000)]:
                for topic in (TASK, RESULT, TELEMETRY):
                    await client.publish(topic, bomb)
                await trio.sleep(0.02)  # poll: a plain client drops what it publishes faster
        for node in (desk, lap):
            assert client.heard.faults == []
            assert sum((await node.client.cluster()).tasks.values()) == len(watch.ids)
    await assert_all_agree(cluster, watch.ids)
    await assert_ledgers_agree(cluster, watch.ids)
