"""How long one task takes that is waited for, by HTTP: on another device, and alone on one node."""

from __future__ import annotations

import time
from typing import Any

from kowalski_gateway.local_cluster import LocalNode

from .quantiles import median, percentile, rounded, spread
from .session import Session, Unmeasurable

WARM_UP = 50


async def measure(session: Session) -> None:
    """Reports `latency_p50`, `latency_p99` and `latency_alone_p50`."""
    count = session.times(1_000, 200)
    if session.wants("latency_p50", "latency_p99"):
        async with session.cluster() as cluster:
            await cluster.add_all("desk", "lap", "mini")
            desk = cluster["desk"]
            device = cluster["lap"].peer
            samples_ms = await round_trips(desk, count, requires={"device": device})
            bare_ms = await bare_requests(desk, count)
        session.report(
            "latency_p50",
            median(samples_ms),
            samples=count,
            bare_request_ms=rounded(median(bare_ms)),
        )
        session.report("latency_p99", percentile(samples_ms, 99), **spread(samples_ms))
    if session.wants("latency_alone_p50"):
        async with session.cluster() as cluster:
            node = await cluster.add("desk")
            samples_ms = await round_trips(node, count)
        session.report("latency_alone_p50", median(samples_ms), **spread(samples_ms))


async def round_trips(node: LocalNode, count: int, **options: Any) -> list[float]:
    """Milliseconds from the call to the value, for tasks one after the other."""
    samples_ms: list[float] = []
    for number in range(-WARM_UP, count):
        payload = {"tool": "echo", "args": {"value": number}}
        began_s = time.perf_counter()
        view = await node.client.run("tool", payload, **options)
        ended_s = time.perf_counter()
        if view.result is None or view.result.value != number:
            raise Unmeasurable(f"an echo task ended as {view.outcome or view.state}")
        if number >= 0:
            samples_ms.append((ended_s - began_s) * 1000.0)
    return samples_ms


async def bare_requests(node: LocalNode, count: int) -> list[float]:
    """Milliseconds of requests that ask for nothing: what HTTP itself costs here."""
    samples_ms: list[float] = []
    for _ in range(count):
        began_s = time.perf_counter()
        await node.client.health()
        samples_ms.append((time.perf_counter() - began_s) * 1000.0)
    return samples_ms
