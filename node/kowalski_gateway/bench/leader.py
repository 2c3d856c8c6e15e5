"""What the end of the leader costs: nothing that runs elsewhere, and a moment without placements.

Thirty tasks that sleep run on three devices when the leader is killed. Those of the two survivors
must end in the attempt in which they began. How long nothing is placed is shown by a task that is
submitted right after the kill.
"""

from __future__ import annotations

import time
from collections import Counter

from kowalski_gateway.local_cluster import LocalCluster
from kowalski_node.client import TaskHandle

from .quantiles import rounded
from .session import Session, Unmeasurable
from .workload import echo, happens, sleep

TASKS = 30
TASK_S = 6.0
SLOTS = "32"
ALL_RUN_TIMEOUT_S = 15.0


async def measure(session: Session) -> None:
    """Reports `leader_tasks_disturbed` and `leader_placements`."""
    disturbed = restarted = 0
    gaps_s: list[float] = []
    async with session.cluster("--slots", SLOTS) as cluster:
        await cluster.add_all("desk", "lap", "mini")
        for _ in range(session.times(5, 2)):
            found = await _round(cluster)
            disturbed += found[0]
            restarted += found[1]
            gaps_s.append(found[2])
            session.say(f"{found[0]} disturbed, {found[1]} moved, placing after {found[2]:.3f} s")
        await cluster.one_digest()
    session.report(
        "leader_tasks_disturbed", disturbed, rounds=len(gaps_s), leaders_own_tasks_moved=restarted
    )
    session.report(
        "leader_placements", max(gaps_s), samples_s=[rounded(sample) for sample in gaps_s]
    )


async def _round(cluster: LocalCluster) -> tuple[int, int, float]:
    """(tasks of survivors disturbed, tasks of the leader moved, seconds until a placement)."""
    leader_id = (await cluster.nodes[0].client.cluster()).leader
    leader = next(node for node in cluster.nodes if node.peer == leader_id)
    client = next(node for node in cluster.nodes if node is not leader).client
    handles = await client.batch([sleep(TASK_S)] * TASKS)

    async def all_run() -> bool:
        return (await client.cluster()).tasks["running"] == TASKS

    if not await happens(all_run, ALL_RUN_TIMEOUT_S):
        raise Unmeasurable(f"{TASKS} tasks did not run at once")
    ran_on = {one.id: (await client.result(one.id, 0)).device for one in handles}
    killed_s = time.perf_counter()
    await leader.kill()
    view = await client.run(**echo("after the leader"))
    gap_s = time.perf_counter() - killed_s
    if view.outcome != "completed":
        raise Unmeasurable(f"the task after the kill ended as {view.outcome}")
    await _all_completed(cluster, handles)
    places = Counter[str]()
    async for event in client.events(follow=False):
        if event.kind == "TaskPlaced":
            places[event.body["task"]] += 1
    again = {one.id for one in handles if places[one.id] > 1}
    disturbed = sum(ran_on[task_id] != leader_id for task_id in again)
    await leader.start()
    await cluster.settle_down()
    return disturbed, len(again) - disturbed, gap_s


async def _all_completed(cluster: LocalCluster, handles: list[TaskHandle]) -> None:
    client = cluster.living()[0].client
    async for view in client.results(handles):
        if view.outcome != "completed":
            raise Unmeasurable(f"a task ended as {view.outcome}")
