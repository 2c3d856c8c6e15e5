"""What a large ledger costs: to a node that joins, and to `replay` and `audit`.

The ledger is a real one: it grows by echo tasks on its founder, four events each. A newcomer is a
new process with a new home and an invite; it is there when its heads and digest equal the
founder's, which it can only get by verifying every chain and signature.
"""

from __future__ import annotations

import time
from pathlib import Path

import trio

from kowalski_gateway.local_cluster import LocalCluster
from kowalski_ledger.audit import audit
from kowalski_ledger.replay import replay

from .quantiles import median, rounded
from .session import Session, Unmeasurable
from .workload import all_hold_everything, events_of, run_batch

EVENTS_PER_TASK = 4
BATCH = 5_000
JOIN_TIMEOUT_S = 120.0
READINGS = 3


async def measure(session: Session) -> None:
    """Reports `join_30000`, `join_100000`, `replay` and `audit`."""
    async with session.cluster() as cluster:
        founder = await cluster.add("desk")
        if session.wants("join_30000"):
            await _grow(cluster, 30_000)
            await _join(session, cluster, "lap", "join_30000")
        if session.wants("join_100000", "replay", "audit"):
            await _grow(cluster, 100_000)
        if session.wants("join_100000"):
            await _join(session, cluster, "mini", "join_100000")
        await founder.stop()
        if session.wants("replay"):
            await _replay(session, founder.home / "ledger.db")
        if session.wants("audit"):
            await _audit(session, founder.home / "ledger.db")


async def _grow(cluster: LocalCluster, events: int) -> None:
    """Lets the founder's ledger grow to at least so many events."""
    founder = cluster.nodes[0]
    while (missing := events - events_of(await founder.client.cluster())) > 0:
        await run_batch(founder, min(BATCH, -(-missing // EVENTS_PER_TASK)))


async def _join(session: Session, cluster: LocalCluster, name: str, figure: str) -> None:
    began_s = time.perf_counter()
    node = await cluster.add(name)
    ready_s = time.perf_counter() - began_s
    events = await all_hold_everything(cluster, JOIN_TIMEOUT_S)
    seconds = time.perf_counter() - began_s
    session.report(figure, seconds, events=events, api_ready_s=rounded(ready_s))
    await node.kill()


async def _replay(session: Session, path: Path) -> None:
    reports = [await trio.to_thread.run_sync(replay, path) for _ in range(READINGS)]
    session.report(
        "replay",
        median([report.events_per_s for report in reports]),
        events=reports[0].events,
        frames=reports[0].frames,
        file_mb=rounded(_size_bytes(path) / 1e6),
    )


async def _audit(session: Session, path: Path) -> None:
    rates: list[float] = []
    signatures = events = 0
    for _ in range(READINGS):
        began_s = time.perf_counter()
        report = await trio.to_thread.run_sync(audit, path)
        rates.append(report.events / (time.perf_counter() - began_s))
        if not report.ok:
            raise Unmeasurable(f"audit: {report.problems[0].what}")
        events, signatures = report.events, report.signatures
    session.report("audit", median(rates), events=events, signatures=signatures)


def _size_bytes(path: Path) -> int:
    return path.stat().st_size
