"""How soon a member is found by zeroconf alone.

Two members that know each other are stopped and started on new ports, so that what each remembers
of the other leads nowhere. The second one's first listening socket starts the watch, and the
connection that the first one shows stops it.
"""

from __future__ import annotations

import time
from functools import partial

import psutil
import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode

from .quantiles import rounded
from .session import Session, Unmeasurable
from .workload import happens

TIMEOUT_S = 15.0


async def measure(session: Session) -> None:
    """Reports `discovery`."""
    samples_s: list[float] = []
    async with session.cluster(mdns=True, host="0.0.0.0") as cluster:
        await cluster.add_all("desk", "lap")
        for _ in range(session.times(10, 3)):
            samples_s.append(await _round(cluster))
            session.say(f"connected {samples_s[-1] * 1000:.0f} ms after listening")
    session.report(
        "discovery",
        max(samples_s) * 1000.0,
        samples_ms=[rounded(sample * 1000.0) for sample in samples_s],
    )


async def _round(cluster: LocalCluster) -> float:
    first, second = cluster.nodes
    for node in (second, first):
        await node.stop()
        node.forget_port()
    await first.start()
    problems = [w for w in (await first.client.cluster()).warnings if w.code == "no_discovery"]
    if problems:
        raise Unmeasurable(problems[0].message)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.start)
        listens = await happens(partial(_listens, second), TIMEOUT_S)
        listened_s = time.perf_counter()
        found = listens and await happens(partial(_sees, first, second), TIMEOUT_S)
        connected_s = time.perf_counter()
    if not found:
        raise Unmeasurable(f"the two did not find each other within {TIMEOUT_S:g} s")
    return connected_s - listened_s


async def _listens(node: LocalNode) -> bool:
    if node.process is None or not node.alive:
        return False
    try:
        sockets = psutil.Process(node.pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN for one in sockets)


async def _sees(node: LocalNode, other: LocalNode) -> bool:
    links = (await node.client.cluster()).links
    return any(link.peer == other.peer and link.connected for link in links)
