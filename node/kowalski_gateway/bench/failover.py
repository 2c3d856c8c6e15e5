"""How soon the work of a lost device starts elsewhere: the device is killed, or frozen.

Each round submits a task that runs for a minute, with the filter "not on the submitter's device",
waits until it runs, and takes that device away, be it the leader or not. The submitter changes from
round to round. What counts is when the next attempt began, as its device wrote it down; all clocks
here are the same machine's.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from kowalski_gateway.local_cluster import LocalCluster, LocalNode

from .quantiles import percentile, rounded, spread
from .session import Session, Unmeasurable
from .workload import happens, sleep

NODES = ("desk", "lap", "mini")
TASK_S = 120.0
LOST_TIMEOUT_S = 30.0
RUN_FIRST_S = 0.3
"""How long the task has run when its device goes."""


async def measure(session: Session) -> None:
    """Reports `failover_killed` and `failover_frozen`."""
    for name, take_away, give_back in (
        ("failover_killed", LocalNode.kill, LocalNode.start),
        ("failover_frozen", _freeze, _thaw),
    ):
        if session.wants(name):
            async with session.cluster() as cluster:
                await cluster.add_all(*NODES)
                await _rounds(session, cluster, name, take_away, give_back)


async def _freeze(node: LocalNode) -> None:
    node.freeze()


async def _thaw(node: LocalNode) -> None:
    node.thaw()


async def _rounds(
    session: Session,
    cluster: LocalCluster,
    name: str,
    take_away: Callable[[LocalNode], Awaitable[None]],
    give_back: Callable[[LocalNode], Awaitable[None]],
) -> None:
    samples_s: list[float] = []
    leaders = 0
    for number in range(session.times(20, 5)):
        submitter = cluster.nodes[number % len(cluster.nodes)]
        task_id, victim = await _running_task(cluster, submitter)
        led = (await submitter.client.cluster()).leader == victim.peer
        taken_s = time.time()
        await take_away(victim)
        sample_s = await _started_elsewhere(submitter, task_id, victim.peer) - taken_s
        samples_s.append(sample_s)
        leaders += led
        session.say(f"{victim.name}{', the leader' if led else ''}: {sample_s:.3f} s")
        await submitter.client.cancel(task_id)
        await give_back(victim)
        await cluster.settle_down()
    await cluster.one_digest()
    session.report(
        name,
        percentile(samples_s, 99),
        **spread(samples_s),
        leaders_among_them=leaders,
        samples_s=[rounded(sample) for sample in samples_s],
    )


async def _running_task(cluster: LocalCluster, submitter: LocalNode) -> tuple[str, LocalNode]:
    """A long task that runs on another device than the submitter's, and that device."""
    handle = await submitter.client.submit(**sleep(TASK_S, device_filter="network"))

    async def runs() -> bool:
        started_s = (await submitter.client.result(handle.id, 0)).times["started"]
        return started_s is not None and time.time() - started_s > RUN_FIRST_S

    if not await happens(runs, LOST_TIMEOUT_S):
        raise Unmeasurable("a task did not begin to run")
    device = (await submitter.client.result(handle.id, 0)).device
    return handle.id, next(node for node in cluster.nodes if node.peer == device)


async def _started_elsewhere(submitter: LocalNode, task_id: str, lost: str) -> float:
    """When the task began on another device, as Unix time."""
    started_s: float | None = None

    async def runs_elsewhere() -> bool:
        nonlocal started_s
        view = await submitter.client.result(task_id, 0)
        started_s = view.times["started"] if view.device != lost else None
        return started_s is not None

    await happens(runs_elsewhere, LOST_TIMEOUT_S)
    if started_s is None:
        raise Unmeasurable(f"a task did not start elsewhere within {LOST_TIMEOUT_S:g} s")
    return started_s
