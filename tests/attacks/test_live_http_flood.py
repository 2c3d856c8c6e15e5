"""Attack 12 on a real node: a program gives its own node more tasks than it may have open.

Past the bound it is refused with 429 and told when to try again; others go on working, and with
room the node takes work again.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from kowalski_gateway.local_cluster import LocalCluster
from kowalski_protocol.errors import Problem
from kowalski_protocol.limits import LIMITS
from tests.attacks.live_outlaw import watched
from tests.live.evidence import assert_all_agree, tool

pytestmark = [pytest.mark.attack, pytest.mark.live]

NOBODY_CAN: dict[str, Any] = {
    **tool("echo", value=1),
    "requires": {"labels": {"roof": "glass"}},
    "failover": "queue",
}


async def test_a_flood_of_tasks_is_refused_past_the_bound_and_others_go_on(
    cluster: LocalCluster,
) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    room = LIMITS.tasks_open_per_author_max
    handles: list[Any] = []
    while room > 0:
        count = min(room, LIMITS.tasks_per_batch_max)
        handles += await desk.client.batch([NOBODY_CAN] * count)
        room -= count
    # Who leads has them all in its queue; the others know only that they are there.
    await cluster.until(
        lambda views: (
            any(view.tasks["waiting"] == len(handles) for view in views)
            and all(sum(view.tasks.values()) == len(handles) for view in views)
        ),
        30.0,
    )
    async with watched(lap, desk, lap) as watch, httpx.AsyncClient(base_url=desk.url) as client:
        for _ in range(30):
            answer = await client.post("/api/tasks", json=NOBODY_CAN)
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "too_many_tasks"
            assert int(answer.headers["retry-after"]) >= 1
        with pytest.raises(Problem, match="20,000"):
            await desk.client.batch([NOBODY_CAN] * 10_000)
    view = await desk.client.cluster()
    assert sum(view.tasks.values()) == len(handles) + len(watch.ids)
    # One less, and one more is taken.
    await handles[0].cancel()
    assert (await handles[0].result(20.0)).outcome == "cancelled"
    await desk.client.batch([NOBODY_CAN])
    await assert_all_agree(cluster, [*watch.ids, handles[0].id])
