"""Nodes are killed at random instants, in starting and in working, while work comes in."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack

import pytest
import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode, NodeFailed
from kowalski_node.client import Client
from kowalski_protocol.errors import Problem
from tests.live.evidence import assert_all_agree, assert_ledgers_agree, tool

KILLS = 100
STARTS_PER_PAUSE = 1.3
"""The longest pause between two kills, in times that a node takes to start: most kills hit a node
at work, some a starting one, on a slow machine as on a fast one.
"""
PAUSE_S = (1.2, 1.8)
"""Its bounds."""
ACKNOWLEDGED_MIN = 200
"""Fewer would mean that there was no load."""


class Load:
    """Submits small batches to whichever nodes answer, and notes what was acknowledged."""

    def __init__(self, cluster: LocalCluster, chance: random.Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self._numbers = itertools.count()
        self.acknowledged: dict[str, object] = {}
        """Task -> the value that it must bring."""
        self.refused: Counter[str] = Counter()

    def _draw(self) -> tuple[dict[str, object], object]:
        """A task and what it must bring."""
        if self._chance.random() < 0.1:
            seconds = round(self._chance.random() / 2, 3)
            return tool("sleep", seconds=seconds), {"slept_s": seconds}
        number = next(self._numbers)
        return tool("echo", value=number), number

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Goes on until cancelled."""
        task_status.started()
        clients: dict[str, Client] = {}
        async with AsyncExitStack() as open_clients:
            while True:
                node = self._chance.choice(self._cluster.living() or self._cluster.nodes)
                client = clients.get(node.url)
                if client is None:
                    client = clients[node.url] = Client(node.url)
                    await open_clients.enter_async_context(client)
                taken = await self._submit(client)
                await trio.sleep(0.15 * self._chance.random() if taken else 0.01)  # poll: its pace

    async def _submit(self, client: Client) -> bool:
        drawn = [self._draw() for _ in range(self._chance.randint(1, 8))]
        try:
            handles = await client.batch([spec for spec, _ in drawn])
        except Problem as problem:
            self.refused[problem.code] += 1
            return False
        for (_, value), handle in zip(drawn, handles, strict=True):
            self.acknowledged[handle.id] = value
        return True


async def keep_running(node: LocalNode) -> None:
    """Starts the node again whenever it was killed; any other end fails the test."""
    while True:
        try:
            if not node.alive:
                await node.start()
        except NodeFailed:
            assert node.process is not None
            if node.process.returncode != -signal.SIGKILL:
                raise
        await node.ended()


@pytest.mark.timeout(400)
@pytest.mark.slow
async def test_kill_9_at_100_random_instants_loses_nothing_and_settles_nothing_twice(
    cluster: LocalCluster, chance: random.Random
) -> None:
    await cluster.add_all("desk", "lap", "mini")
    begun_s = time.monotonic()
    await cluster["mini"].kill()
    await cluster["mini"].start()
    start_s = time.monotonic() - begun_s
    pause_max_s = min(max(PAUSE_S[0], STARTS_PER_PAUSE * start_s), PAUSE_S[1])
    load = Load(cluster, random.Random(chance.random()))
    async with trio.open_nursery() as nursery:
        for node in cluster.nodes:
            nursery.start_soon(keep_running, node)
        await nursery.start(load.run)
        await nursery.start(load.run)
        for _ in range(KILLS):
            await trio.sleep(pause_max_s * chance.random())  # poll: a random instant
            chance.choice(cluster.living() or cluster.nodes).signal(signal.SIGKILL)
        nursery.cancel_scope.cancel()
    for node in cluster.nodes:
        if not node.alive or not await node.answers():
            await node.kill()
            await node.start()
    await cluster.settle_down(30)
    assert len(load.acknowledged) >= ACKNOWLEDGED_MIN
    views = await assert_all_agree(cluster, load.acknowledged)
    evidence = await assert_ledgers_agree(cluster, load.acknowledged)
    lost = evidence[0].bodies("AttemptLost")
    print(  # noqa: T201
        f"a start took {start_s:.2f} s; {len(views)} tasks, {len(lost)} attempts lost,"
        f" refused {dict(load.refused)},"
        f" outcomes {Counter(view.outcome for view in views.values())}"
    )
    # A device that came back and found that it had begun was lost with the attempt as well.
    gone = {body.attempt.hex() for _, body in lost}
    gone |= {
        body.attempt.hex()
        for _, body in evidence[0].bodies("TaskDeclined")
        if body.reason == "restarted"
    }
    for id, view in views.items():
        if view.outcome == "dead":
            devices = {
                device for attempt, device in evidence[0].placements()[id] if attempt in gone
            }
            assert len(devices) >= 3, f"{id} is dead and lost only {len(devices)} devices"
        else:
            assert view.outcome == "completed", id
            assert view.result is not None
            assert view.result.value == load.acknowledged[id], id
