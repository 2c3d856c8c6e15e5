"""How soon a burst of one node is everywhere: a thousand submissions that no device can run."""

from __future__ import annotations

import time
from typing import Any

import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode

from .quantiles import rounded
from .session import Session, Unmeasurable
from .workload import all_hold_everything, echo, happens

EVENTS = 1_000
CALLS_AT_ONCE = 32
TIMEOUT_S = 60.0
POLL_S = 0.01


async def measure(session: Session) -> None:
    """Reports `burst`."""
    samples_s: list[float] = []
    async with session.cluster() as cluster:
        await cluster.add_all("desk", "lap", "mini")
        for _ in range(session.times(5, 2)):
            samples_s.append(await _burst(cluster, _in_one_call))
            session.say(f"{EVENTS:,} events everywhere after {samples_s[-1]:.3f} s")
        single_s = await _burst(cluster, _in_single_calls)
        await all_hold_everything(cluster)
    session.report(
        "burst",
        max(samples_s),
        samples_s=[rounded(sample) for sample in samples_s],
        by_single_calls_s=rounded(single_s),
    )


async def _burst(cluster: LocalCluster, submit: Any) -> float:
    author, *others = cluster.nodes
    goal = await _events_of(author, author) + EVENTS
    began_s = time.perf_counter()
    await submit(author)

    async def is_everywhere() -> bool:
        return min([await _events_of(author, node) for node in others]) >= goal

    if not await happens(is_everywhere, TIMEOUT_S, POLL_S):
        raise Unmeasurable(f"{EVENTS:,} events were not everywhere within {TIMEOUT_S:g} s")
    return time.perf_counter() - began_s


async def _events_of(author: LocalNode, node: LocalNode) -> int:
    """How many events of the author's task feed a node holds."""
    heads = (await node.client.cluster()).heads
    return max((h.seq for h in heads if (h.author, h.topic) == (author.peer, "task")), default=0)


def _unplaceable(number: int) -> dict[str, Any]:
    return {**echo(number), "requires": {"labels": {"place": "nowhere"}}, "failover": "queue"}


async def _in_one_call(author: LocalNode) -> None:
    await author.client.batch([_unplaceable(number) for number in range(EVENTS)])


async def _in_single_calls(author: LocalNode) -> None:
    numbers = iter(range(EVENTS))

    async def submit() -> None:
        for number in numbers:
            await author.client.submit(**_unplaceable(number))

    async with trio.open_nursery() as nursery:
        for _ in range(CALLS_AT_ONCE):
            nursery.start_soon(submit)
