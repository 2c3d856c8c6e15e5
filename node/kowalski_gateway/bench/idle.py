"""What a node costs that has nothing to do: heartbeats, comparisons of heads, samples."""

from __future__ import annotations

import psutil
import trio

from kowalski_gateway.local_cluster import LocalNode

from .quantiles import rounded
from .session import Session

SETTLE_S = 5.0
"""After joining: until what a start brings with it is over."""
MEGABYTE = 1_000_000


async def measure(session: Session) -> None:
    """Reports `idle_cpu` and `idle_memory`."""
    watched_s = session.times(30, 10)
    async with session.cluster() as cluster:
        await cluster.add_all("desk", "lap", "mini")
        await trio.sleep(SETTLE_S)
        before_s = {node.name: _cpu_s(node) for node in cluster.nodes}
        began_s = trio.current_time()
        await trio.sleep(watched_s)
        seconds = trio.current_time() - began_s
        percents = {
            node.name: 100.0 * (_cpu_s(node) - before_s[node.name]) / seconds
            for node in cluster.nodes
        }
        memory = {node.name: memory_mb(node) for node in cluster.nodes}
        own = {node.name: own_memory_mb(node) for node in cluster.nodes}
    session.report(
        "idle_cpu", max(percents.values()), nodes={n: rounded(p) for n, p in percents.items()}
    )
    session.report(
        "idle_memory",
        max(memory.values()),
        nodes={n: rounded(m) for n, m in memory.items()},
        unshared={n: rounded(m) for n, m in own.items()},
    )


def _cpu_s(node: LocalNode) -> float:
    times = psutil.Process(node.pid).cpu_times()
    return times.user + times.system


def memory_mb(node: LocalNode) -> float:
    """The node's resident set."""
    return psutil.Process(node.pid).memory_info().rss / MEGABYTE


def own_memory_mb(node: LocalNode) -> float:
    """What would be free again if the node ended: the resident set without what others share."""
    return psutil.Process(node.pid).memory_full_info().uss / MEGABYTE
