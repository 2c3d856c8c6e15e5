"""The work that the figures are measured with, and how one knows that it was done.

Waiting must not disturb what is waited for: a view of the whole cluster costs a node milliseconds
while thousands of tasks are open. So a batch is first waited for by its last task, in one request
that the node answers when that has settled, and only the few that are then still open are polled
for.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_node.client import Client, TaskHandle
from kowalski_node.views import ClusterView

from .session import Unmeasurable

POLL_S = 0.005
SETTLE_TIMEOUT_S = 300.0


class BatchRun(NamedTuple):
    """One batch that has settled."""

    handles: Sequence[TaskHandle]
    seconds: float
    accepted_s: float
    shares: dict[str, int]
    """How many of the tasks each device ran, by its name."""


async def happens(
    condition: Callable[[], Awaitable[bool]], timeout_s: float, poll_s: float = POLL_S
) -> bool:
    """Whether the condition comes true in time; asks again and again."""
    with trio.move_on_after(timeout_s):
        while True:
            if await condition():
                return True
            await trio.sleep(poll_s)
    return False


def echo(value: object) -> dict[str, Any]:
    """The spec of an echo task."""
    return {"kind": "tool", "payload": {"tool": "echo", "args": {"value": value}}}


def sleep(seconds: float, **options: Any) -> dict[str, Any]:
    """The spec of a task that sleeps."""
    return {"kind": "tool", "payload": {"tool": "sleep", "args": {"seconds": seconds}}, **options}


async def run_batch(node: LocalNode, count: int) -> BatchRun:
    """Submits `count` echo tasks in one call and waits until all have settled on this node."""
    client = node.client
    before = await client.cluster()
    specs = [echo(number) for number in range(count)]
    began_s = time.perf_counter()
    handles = await client.batch(specs)
    accepted_s = time.perf_counter() - began_s
    after = await settled(client, handles, before.tasks["settled"] + count)
    seconds = time.perf_counter() - began_s
    return BatchRun(handles, seconds, accepted_s, _shares(before, after))


async def settled(client: Client, handles: Sequence[TaskHandle], total: int) -> ClusterView:
    """Waits until so many tasks of the ledger have settled, the last of `handles` among them."""
    with trio.move_on_after(SETTLE_TIMEOUT_S):
        await client.result(handles[-1].id)
        while True:
            view = await client.cluster()
            if view.tasks["settled"] >= total:
                return view
            await trio.sleep(POLL_S)
    raise Unmeasurable(f"{len(handles):,} tasks did not settle in {SETTLE_TIMEOUT_S:g} s")


def _shares(before: ClusterView, after: ClusterView) -> dict[str, int]:
    had = {device.id: device.completed for device in before.devices}
    return {
        device.name: device.completed - had.get(device.id, 0)
        for device in after.devices
        if device.alive
    }


async def check_results(client: Client, handles: Sequence[TaskHandle]) -> None:
    """Raises where a task of `echo(number)` did not bring its number."""
    await check_values(client, handles, lambda number: number)


async def check_values(
    client: Client, handles: Sequence[TaskHandle], value_of: Callable[[int], object]
) -> None:
    """Raises where a task did not bring the value of its number."""
    expected = {handle.id: value_of(number) for number, handle in enumerate(handles)}
    async for view in client.results(handles):
        got = view.result.value if view.result is not None else None
        if view.outcome != "completed" or got != expected.pop(view.id):
            raise Unmeasurable(f"task {view.id} ended as {view.outcome} with {got!r}")
    if expected:
        raise Unmeasurable(f"{len(expected)} tasks brought no result")


async def all_hold_everything(cluster: LocalCluster, timeout_s: float = 30.0) -> int:
    """Waits until all live nodes show equal heads and one digest; returns the number of events."""
    views = await cluster.until(_is_one, timeout_s)
    return events_of(views[0])


def _is_one(views: list[ClusterView]) -> bool:
    heads = {frozenset((h.author, h.topic, h.seq, h.hash) for h in view.heads) for view in views}
    return len(heads) == 1 and len({view.digest for view in views}) == 1


def events_of(view: ClusterView) -> int:
    """How many events a node holds."""
    return sum(head.seq for head in view.heads)
