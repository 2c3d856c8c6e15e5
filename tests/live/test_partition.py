"""Real nodes on a real network whose cables are pulled: each side goes on, and they agree again."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_node.views import ClusterView
from tests.live.evidence import assert_all_agree, assert_ledgers_agree, settled, tool
from tests.live.namespaces import lan

pytestmark = [pytest.mark.needs_netns, pytest.mark.timeout(180)]

APART_S = 10.0
TOGETHER_S = 30.0


def sees(view: ClusterView) -> set[str]:
    return {device.name for device in view.devices if device.alive}


async def part(cluster: LocalCluster, side: list[LocalNode], other: list[LocalNode]) -> None:
    """Waits until each side knows that it is alone, and has a leader of its own."""
    for nodes in (side, other):
        names, peers = {node.name for node in nodes}, {node.peer for node in nodes}
        await cluster.until(
            lambda views: all(sees(v) == names and v.leader in peers for v in views),  # noqa: B023
            APART_S,
            nodes,
        )


async def work(node: LocalNode, count: int) -> list[str]:
    """Submits tasks at a node and waits until they have settled there."""
    handles = await node.client.batch([tool("echo", value=number) for number in range(count)])
    ids = [handle.id for handle in handles]
    with trio.fail_after(APART_S):
        views = await settled(node, ids)
    assert {view.outcome for view in views.values()} == {"completed"}
    return ids


async def assert_both_sides_go_on_and_agree(folder: Path, alone: str) -> None:
    """Three nodes; the cable of one is pulled, both sides work, it is put back, all agree."""
    with lan() as network:
        async with LocalCluster(folder) as cluster:
            for name in ("desk", "lap", "mini"):
                await cluster.admit(network.node(name, folder))
            await cluster.settle_down()
            ids = await work(cluster["lap"], 20)
            # Work of a node of each side that is under way while the cable is pulled.
            running = [
                handle.id
                for node in cluster.nodes
                for handle in await node.client.batch([tool("sleep", seconds=1.5)] * 4)
            ]
            one = [cluster[alone]]
            two = [node for node in cluster.nodes if node not in one]
            network.pull(*one)
            await part(cluster, one, two)
            for node in cluster.nodes:
                ids += await work(node, 20)
            network.put_back(*one)
            await cluster.settle_down(TOGETHER_S)
            for node in cluster.nodes:
                ids += await work(node, 5)
            await assert_all_agree(cluster, ids + running)
            await assert_ledgers_agree(cluster, ids + running)


async def test_a_member_alone_and_the_two_others_go_on_and_agree_after_the_heal(
    tmp_path: Path,
) -> None:
    await assert_both_sides_go_on_and_agree(tmp_path, "mini")
