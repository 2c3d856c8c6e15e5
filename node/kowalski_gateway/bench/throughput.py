"""How many tasks a second: one batch call, three nodes, everything durable and everywhere."""

from __future__ import annotations

import msgspec

from .quantiles import median, rounded
from .session import Session
from .workload import all_hold_everything, check_results, run_batch

TASKS = 5_000
NODES = ("desk", "lap", "mini")


async def measure(session: Session) -> None:
    """Reports `throughput` and `throughput_share`."""
    rates: list[float] = []
    shares: list[dict[str, int]] = []
    accepted_s: list[float] = []
    events = 0
    async with session.cluster() as cluster:
        await cluster.add_all(*NODES)
        node = cluster["desk"]
        for _ in range(session.times(5, 2)):
            run = await run_batch(node, TASKS)
            await check_results(node.client, run.handles)
            events = await all_hold_everything(cluster)
            rates.append(TASKS / run.seconds)
            shares.append(run.shares)
            accepted_s.append(run.accepted_s)
            session.say(f"{rates[-1]:,.0f} tasks/s, {msgspec.json.encode(run.shares).decode()}")
    session.report(
        "throughput",
        median(rates),
        rates=[rounded(rate, 4) for rate in rates],
        accepted_s=rounded(median(accepted_s)),
        events_on_every_node=events,
    )
    smallest = min(min(run.values()) for run in shares)
    session.report("throughput_share", smallest / TASKS, shares=shares)
