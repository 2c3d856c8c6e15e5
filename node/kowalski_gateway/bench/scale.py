"""How throughput changes with the number of processes, and what a long life costs in memory."""

from __future__ import annotations

from .idle import memory_mb, own_memory_mb
from .quantiles import median, rounded
from .session import Session
from .workload import all_hold_everything, run_batch

TASKS = 5_000
BATCHES = 20
"""Of `TASKS` each: 100,000 tasks."""


async def measure(session: Session) -> None:
    """Reports `throughput_1` to `throughput_8` and `memory_100000`."""
    for processes in (1, 2, 5, 8):
        name = f"throughput_{processes}"
        if session.wants(name):
            await _throughput(session, processes, name)
    if session.wants("memory_100000"):
        await _memory(session)


async def _throughput(session: Session, processes: int, name: str) -> None:
    rates: list[float] = []
    async with session.cluster() as cluster:
        await cluster.add_all(*(f"node-{number}" for number in range(1, processes + 1)))
        for _ in range(session.times(3, 1)):
            run = await run_batch(cluster.nodes[0], TASKS)
            await all_hold_everything(cluster)
            rates.append(TASKS / run.seconds)
            session.say(f"{processes} processes: {rates[-1]:,.0f} tasks/s")
    session.report(name, median(rates), rates=[rounded(rate, 4) for rate in rates])


async def _memory(session: Session) -> None:
    after: dict[str, float] = {}
    rates: list[float] = []
    async with session.cluster() as cluster:
        await cluster.add_all("desk", "lap", "mini")
        after["0"] = rounded(max(map(memory_mb, cluster.nodes)))
        for number in range(1, BATCHES + 1):
            run = await run_batch(cluster.nodes[0], TASKS)
            rates.append(TASKS / run.seconds)
            if number % (BATCHES // 4) == 0:
                await all_hold_everything(cluster)
                after[str(number * TASKS)] = rounded(max(map(memory_mb, cluster.nodes)))
                session.say(f"{number * TASKS:,} tasks: {after[str(number * TASKS)]:g} MB")
        largest = max(map(memory_mb, cluster.nodes))
        own = max(map(own_memory_mb, cluster.nodes))
        file_mb = (cluster.nodes[0].home / "ledger.db").stat().st_size / 1e6
    session.report(
        "memory_100000",
        largest,
        after_tasks=after,
        unshared=rounded(own),
        ledger_mb=rounded(file_mb),
        rate_of_first_batch=rounded(rates[0], 4),
        rate_of_last_batch=rounded(rates[-1], 4),
    )
