"""Devices are lost, killed or stopped while they run, lead and own; work goes on without them."""

from __future__ import annotations

import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_node.client import TaskHandle
from kowalski_protocol.identity import peer_id
from tests.live.evidence import Evidence, assert_all_agree, assert_ledgers_agree, settled, tool

GO_ON_S = 5.0
"""A generous bound on anything that a failover waits for; what it really takes is the bench's."""


def sleeps(count: int, seconds: float, **options: object) -> list[dict[str, object]]:
    return [{**tool("sleep", seconds=seconds), **options} for _ in range(count)]


async def until_running(node: LocalNode, ids: list[str]) -> dict[str, str]:
    """Waits until all of the tasks run; returns who runs each."""
    with trio.fail_after(2 * GO_ON_S):
        while True:
            views = [await node.client.result(id, 0) for id in ids]
            if all(view.state == "running" for view in views):
                return {view.id: str(view.device) for view in views}
            await trio.sleep(0.02)  # poll: all of them have started


async def until_completed(node: LocalNode, handles: list[TaskHandle]) -> None:
    """Waits until a node shows all of the tasks as completed, none of them as settled."""
    with trio.fail_after(20):
        while True:
            views = [await node.client.result(handle.id, 0) for handle in handles]
            assert not any(view.state == "settled" for view in views)
            if all(view.state == "completed" for view in views):
                return
            await trio.sleep(0.02)  # poll: all of them have run


async def leader(cluster: LocalCluster) -> LocalNode:
    view = await cluster.living()[0].client.cluster()
    return next(node for node in cluster.nodes if node.peer == view.leader)


async def test_a_killed_devices_running_task_starts_elsewhere(cluster: LocalCluster) -> None:
    cluster.options += ["--slots", "2"]
    await cluster.add_all("desk", "lap", "mini")
    desk = cluster["desk"]
    handles = await desk.client.batch(sleeps(6, 3.0))
    devices = await until_running(desk, [handle.id for handle in handles])
    handle = next(handle for handle in handles if devices[handle.id] != desk.peer)
    first = devices[handle.id]
    killed = next(node for node in cluster.nodes if node.peer == first)
    await killed.kill()
    with trio.fail_after(GO_ON_S):
        while True:
            view = await desk.client.result(handle.id, 0)
            if view.state == "running" and view.device != first:
                break
            await trio.sleep(0.02)  # poll: it runs elsewhere
    assert view.attempt == 2
    await killed.start()
    views = await assert_all_agree(cluster, devices)
    assert (views[handle.id].outcome, views[handle.id].attempt) == ("completed", 2)
    ledger = (await assert_ledgers_agree(cluster, devices))[0]
    ((_, lost),) = ledger.of_task("AttemptLost", handle.id)
    placed = ledger.placements()[handle.id]
    assert placed[0][0] == lost.attempt.hex()
    assert peer_id(placed[0][1]) == first != peer_id(placed[1][1])


async def test_lost_work_of_a_batch_gets_the_next_free_slots(cluster: LocalCluster) -> None:
    cluster.options += ["--slots", "2"]
    await cluster.add_all("desk", "lap", "mini")
    desk, mini = cluster["desk"], cluster["mini"]
    assert await leader(cluster) is desk
    ids = [handle.id for handle in await desk.client.batch(sleeps(40, 0.5))]
    lost: list[str] = []
    with trio.fail_after(GO_ON_S):
        while not lost:
            views = [await desk.client.result(id, 0) for id in ids[:12]]
            lost = [v.id for v in views if v.state == "running" and v.device == mini.peer]
    await mini.kill()
    await assert_all_agree(cluster, ids)
    ledger = (await assert_ledgers_agree(cluster, ids))[0]
    again = [id for id in lost if len(ledger.of_task("TaskPlaced", id)) > 1]
    assert again, "it ran nothing when it was killed"
    order = [body.task.hex() for _, body in ledger.bodies("TaskPlaced")]
    for id in again:
        came_back = len(order) - 1 - order[::-1].index(id)
        # Two slots of each of two devices, and what they were given ahead.
        assert len(order) - came_back > 15, ledger.story(id)


async def test_a_killed_leader_costs_no_running_task_and_placing_goes_on(
    cluster: LocalCluster,
) -> None:
    cluster.options += ["--slots", "16"]
    await cluster.add_all("desk", "lap", "mini")
    lost = await leader(cluster)
    survivors = [node for node in cluster.nodes if node is not lost]
    ids = [handle.id for handle in await survivors[0].client.batch(sleeps(30, 4.0))]
    devices = await until_running(survivors[0], ids)
    before = Evidence(survivors[0].home).placements()
    assert len(set(devices.values())) == 3
    await lost.kill()
    with trio.fail_after(GO_ON_S):
        view = await survivors[1].client.run("tool", tool("echo", value="on")["payload"])
    assert view.result is not None
    assert view.result.value == "on"
    await assert_all_agree(cluster, ids)
    assert await leader(cluster) is not lost
    await lost.start()
    await assert_all_agree(cluster, ids)
    for ledger in await assert_ledgers_agree(cluster, ids):
        after = ledger.placements()
        for id in ids:
            if devices[id] == lost.peer:
                assert len(after[id]) > 1
                assert peer_id(after[id][-1][1]) != lost.peer
            else:
                # The very attempt that ran when the leader died, by its name.
                assert after[id] == before[id], ledger.story(id)


async def test_a_batch_of_a_node_killed_at_once_runs_and_settles_when_it_returns(
    cluster: LocalCluster,
) -> None:
    await cluster.add_all("desk", "lap", "mini")
    lap, mini = cluster["lap"], cluster["mini"]
    handles = await lap.client.batch([tool("echo", value=number) for number in range(300)])
    await lap.kill()
    assert all(handle.replicas >= 2 for handle in handles)
    await until_completed(mini, handles)
    await lap.start()
    views = await assert_all_agree(cluster, [handle.id for handle in handles])
    assert {view.outcome for view in views.values()} == {"completed"}
    assert {view.owner for view in views.values()} == {lap.peer}
    await assert_ledgers_agree(cluster, views)


async def test_a_batch_of_a_node_killed_at_once_settles_at_once_where_a_home_device_lives(
    cluster: LocalCluster,
) -> None:
    await cluster.add("desk")
    await cluster.add("lap")
    await cluster.add("mini", "--label", "home=yes")
    await cluster.settle_down()
    lap, mini = cluster["lap"], cluster["mini"]
    handles = await lap.client.batch([tool("echo", value=number) for number in range(300)])
    await lap.kill()
    with trio.fail_after(20):
        views = await settled(mini, [handle.id for handle in handles])
    assert {view.outcome for view in views.values()} == {"completed"}
    assert {view.owner for view in views.values()} == {mini.peer}
    await lap.start()
    await assert_all_agree(cluster, views)
    await assert_ledgers_agree(cluster, views)


async def test_a_stopping_node_finishes_hands_its_tasks_over_and_they_settle_without_it(
    cluster: LocalCluster,
) -> None:
    await cluster.add_all("desk", "lap", "mini")
    desk, lap = cluster["desk"], cluster["lap"]
    specs = [tool("echo", value=number) for number in range(200)] + sleeps(12, 1.0)
    handles = await lap.client.batch(specs)
    assert await lap.stop() == 0
    with trio.fail_after(20):
        views = await settled(desk, [handle.id for handle in handles])
    assert {view.outcome for view in views.values()} == {"completed"}
    await lap.start()
    await assert_all_agree(cluster, views)
    for ledger in await assert_ledgers_agree(cluster, views):
        assert ledger.bodies("TaskOwnershipMoved")
        assert not ledger.bodies("AttemptLost")


async def test_a_stopping_node_lets_its_running_task_end_and_gives_back_what_waits(
    cluster: LocalCluster,
) -> None:
    cluster.options += ["--slots", "1"]
    await cluster.add_all("desk", "lap")
    desk, lap = cluster["desk"], cluster["lap"]
    pinned = {"requires": {"device": lap.peer}}
    (running,) = await desk.client.batch(sleeps(1, 1.5, **pinned))
    await until_running(desk, [running.id])
    waiting = await desk.client.batch([tool("echo", value=number) for number in range(20)])
    assert await lap.stop() == 0
    views = await settled(desk, [running.id, *(handle.id for handle in waiting)])
    assert {view.outcome for view in views.values()} == {"completed"}
    assert (views[running.id].attempt, views[running.id].device) == (1, lap.peer)
