"""A node that was away takes up what it missed, and what it says afterwards arrives."""

from __future__ import annotations

import time

import pytest
import trio
from libp2p.pubsub.gossipsub import PROTOCOL_ID

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_node.views import ClusterView
from kowalski_protocol.identity import author_of
from kowalski_protocol.ids import ClusterId
from kowalski_protocol.topics import TASK
from tests.live.evidence import assert_all_agree, assert_ledgers_agree, settled, tool
from tests.live.outsider import HEAR_S, admitted, gossiper, until

AWAY_EVENTS = 20_000
BATCH = 2500
CAUGHT_UP_S = 30.0


def held(view: ClusterView) -> int:
    """How many events a node holds."""
    return sum(head.seq for head in view.heads)


def own_seq(view: ClusterView, author: str, topic: str) -> int:
    return next(
        (head.seq for head in view.heads if (head.author, head.topic) == (author, topic)), 0
    )


async def work(node: LocalNode, count: int) -> list[str]:
    handles = await node.client.batch([tool("echo", value=number) for number in range(count)])
    ids = [handle.id for handle in handles]
    with trio.fail_after(60):
        await settled(node, ids)
    return ids


@pytest.mark.timeout(180)
async def test_a_node_that_was_away_for_20000_events_catches_up(cluster: LocalCluster) -> None:
    await cluster.add_all("desk", "lap", "mini")
    desk, mini = cluster["desk"], cluster["mini"]
    ids = await work(desk, 100)
    await cluster.one_digest()
    await mini.kill()
    before = held(await desk.client.cluster())
    while held(await desk.client.cluster()) - before < AWAY_EVENTS:
        ids += await work(desk, BATCH)
    missed = held(await desk.client.cluster()) - before
    await mini.start(ready=False)
    begun_s = time.monotonic()
    await cluster.one_digest(CAUGHT_UP_S)
    took_s = time.monotonic() - begun_s
    print(f"{missed} missed events were there {took_s:.2f} s after the API answered")  # noqa: T201
    ids += await work(mini, 10)
    await assert_all_agree(cluster, ids)
    await assert_ledgers_agree(cluster, ids)


async def test_after_a_restart_with_the_same_identity_everything_that_it_publishes_arrives(
    cluster: LocalCluster,
) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster["desk"], cluster["lap"]
    author = author_of(lap.peer)
    assert author is not None
    ids: list[str] = []
    # Gossip alone, and only by way of desk: neighbours must not take a restarted node's messages
    # for those that they had seen before.
    identity, answer = await admitted(desk, "listener")
    async with gossiper(identity, desk, ClusterId(answer.cluster), PROTOCOL_ID) as client:
        heard = client.heard.seqs.setdefault((TASK, author), set())
        for life in range(3):
            await cluster.settle_down()
            first = own_seq(await lap.client.cluster(), lap.peer, TASK) + 1
            for number in range(10):
                handle = await lap.client.submit("tool", tool("echo", value=number)["payload"])
                ids.append(handle.id)
            last = own_seq(await lap.client.cluster(), lap.peer, TASK)
            assert last - first >= 9
            wanted = set(range(first, last + 1))
            await until(lambda: wanted <= heard)  # noqa: B023
            await cluster.until(
                lambda views: all(own_seq(v, lap.peer, TASK) >= last for v in views),  # noqa: B023
                HEAR_S,
            )
            if life < 2:
                await lap.kill()
                await lap.start()
    await assert_all_agree(cluster, ids)
    await assert_ledgers_agree(cluster, ids)
