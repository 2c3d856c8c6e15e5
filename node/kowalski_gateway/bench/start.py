"""How long a node takes from the start of its process until it takes work."""

from __future__ import annotations

import time

from kowalski_gateway.local_cluster import LocalNode

from .quantiles import median, spread
from .session import Session


async def measure(session: Session) -> None:
    """Reports `start` and `restart`."""
    first_s: list[float] = []
    again_s: list[float] = []
    for number in range(session.times(7, 3)):
        async with session.cluster() as cluster:
            began_s = time.perf_counter()
            node = await cluster.add(f"node-{number}")
            first_s.append(time.perf_counter() - began_s)
            await node.stop()
            again_s.append(await _start(node))
            session.say(f"{first_s[-1]:.2f} s, again {again_s[-1]:.2f} s")
    session.report("start", median(first_s), **spread(first_s))
    session.report("restart", median(again_s), **spread(again_s))


async def _start(node: LocalNode) -> float:
    began_s = time.perf_counter()
    await node.start()
    return time.perf_counter() - began_s
