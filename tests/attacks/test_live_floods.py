"""Attacks 11 and 12 on real nodes: floods of frames, heads, heartbeats and tasks by one member.

What is well made is stored and what is false is forgotten; neither keeps others from their work.
"""

from __future__ import annotations

import secrets

import pytest
import trio
from libp2p.pubsub.gossipsub import PROTOCOL_ID

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_protocol.codec import encode
from kowalski_protocol.events import TaskSubmitted
from kowalski_protocol.feeds import Feed, Head
from kowalski_protocol.identity import Identity
from kowalski_protocol.ids import Author, ClusterId, EventHash
from kowalski_protocol.messages import datagram_message, frame_message, heads_message
from kowalski_protocol.tasks import parse_task
from kowalski_protocol.telemetry import Heartbeat, encode_datagram
from kowalski_protocol.topics import FEED_TOPICS, TASK, TELEMETRY
from tests.attacks.live_outlaw import (
    AT_LEAST,
    GROWTH_BYTES_MAX,
    WAIT_S,
    Forger,
    Memory,
    Outlaw,
    honest_work,
    key_of,
    outlaw,
    watched,
)
from tests.live.evidence import assert_all_agree, assert_ledgers_agree, tool
from tests.live.outsider import admitted, gossiper

pytestmark = [pytest.mark.attack, pytest.mark.live]

FRAMES = 2000
TASKS = 5000
TASKS_PER_FRAME = 2500
FAR = (1 << 63) - 1
FLOOD_SLACK_S = 5.0
"""Nodes have no budget per author yet: what a flood takes of the processor is missing for a while.
"""


def lies(bad: Outlaw, nodes: list[LocalNode]) -> list[bytes]:
    """Heads of feeds that nobody has, and of feeds that reach much less far."""
    nothing = EventHash(bytes(32))
    made_up = {
        Feed(Author(secrets.token_bytes(32)), topic): Head(FAR, nothing)
        for _ in range(1000)
        for topic in FEED_TOPICS
    }
    beyond = {
        Feed(author, topic): Head(FAR, nothing)
        for author in (*map(key_of, nodes), bad.identity.author)
        for topic in FEED_TOPICS
    }
    return [heads_message(made_up, True), heads_message(beyond, True)]


def false_heartbeat(identity: Identity, cluster: ClusterId, counter: int) -> bytes:
    """A heartbeat that rises, and in which everything else is a lie."""
    echoes = tuple((secrets.token_bytes(8), FAR, FAR, 0) for _ in range(40))
    addresses = tuple(f"/ip4/127.0.0.1/tcp/{port}" for port in range(1, 100))
    sample = {f"s{number}": float(number) for number in range(40)}
    return encode_datagram(
        cluster,
        identity.author,
        identity.sign,
        Heartbeat(
            1 << 62, counter, FAR, echoes, FAR, FAR, bytes(32), b"leader" * 6, FAR, FAR, False,
            True, addresses, sample,
        ),
    )  # fmt: skip


async def test_frames_heads_and_heartbeats_without_end_keep_nobody_from_work(
    cluster: LocalCluster,
) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    async with outlaw(desk, lap) as bad:
        async with watched(lap, desk, lap, slack_s=FLOOD_SLACK_S) as watch:
            told = lies(bad, cluster.nodes)
            for number in range(FRAMES):
                messages = [frame_message(bad.forger.mark())]
                if number % 2 == 0:
                    beat = false_heartbeat(bad.identity, bad.cluster, number + 1)
                    messages.append(datagram_message(beat))
                if number % 100 == 0:
                    messages += told
                for node in (desk, lap):
                    await bad.tell(node, *messages)
            await bad.heard_out(desk, lap)
        view = await desk.client.cluster()
        assert view.leader in {desk.peer, lap.peer}
    await assert_all_agree(cluster, watch.ids)
    await assert_ledgers_agree(cluster, watch.ids)


def flood_of_tasks(forger: Forger, owner: Author) -> list[bytes]:
    """Frames that submit tasks, each well made."""
    frames: list[bytes] = []
    for first in range(0, TASKS, TASKS_PER_FRAME):
        events = []
        for number in range(first, first + TASKS_PER_FRAME):
            spec = parse_task(tool("echo", value=number))
            body = TaskSubmitted(owner, b"flood %d" % number, spec.spec_bytes)
            event = forger.event("TaskSubmitted", encode(body))
            event.attachment = spec.payload
            events.append(event)
        frames.append(forger.frame(events))
    return frames


async def test_tasks_without_end_by_gossip_alone_keep_nobody_from_work(
    cluster: LocalCluster,
) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    identity, answer = await admitted(desk, "flood")
    forger = Forger(identity, ClusterId(answer.cluster))
    frames = flood_of_tasks(forger, key_of(desk))
    async with gossiper(identity, desk, forger.cluster, PROTOCOL_ID) as client:
        normal_s, ids = await honest_work(lap)
        memories = [Memory(node) for node in (desk, lap)]
        for number, frame in enumerate(frames):
            await client.publish(TASK, frame)
            beat = false_heartbeat(identity, forger.cluster, number + 1)
            await client.publish(TELEMETRY, beat)
        took_s, during = await honest_work(lap)
        # Who submits little does not wait for all of one who submits much.
        left = TASKS + len(ids + during) - (await lap.client.cluster()).tasks.get("settled", 0)
        assert took_s <= normal_s / AT_LEAST + FLOOD_SLACK_S or left > TASKS / 4, (took_s, normal_s)
        ids += during
        # It is no wrong to submit many: all of them end, once each, on all nodes.
        with trio.fail_after(3 * WAIT_S):
            while (await lap.client.cluster()).tasks.get("settled") != TASKS + len(ids):
                await trio.sleep(0.05)  # poll: the nodes work the flood off
        assert max(memory.grown_bytes() for memory in memories) < GROWTH_BYTES_MAX
    await assert_all_agree(cluster, ids)
    await assert_ledgers_agree(cluster, ids)
