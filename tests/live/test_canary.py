"""What people's work says stays with it: no metric, sample or log of a real node repeats a word.

A word that is nowhere else is planted in a program, its output, its error, its input, in a task's
arguments, key, label and trace, and in requests that are refused. Then all that a node shows of
itself is searched for it, its log at the most talkative level.
"""

from __future__ import annotations

import msgspec
import pytest
import trio

from kowalski_gateway.local_cluster import LocalCluster
from kowalski_protocol.errors import Problem
from tests.live.evidence import settled, tool

CANARY = "quetzalcoatlus"


def program(code: str) -> dict[str, object]:
    return {"kind": "code", "payload": {"language": "python", "code": code}}


@pytest.mark.needs_bubblewrap
async def test_no_metric_sample_or_log_repeats_what_people_work_on(cluster: LocalCluster) -> None:
    cluster.options += ["--log", "debug"]
    await cluster.add_all("desk", "lap")
    tasks = [
        program(f"print('{CANARY}')"),
        program(f"raise ValueError('{CANARY}')"),
        program(f"import sys; open('{CANARY}.txt', 'w').write('x'); sys.exit('{CANARY}')"),
        {
            **tool("echo", value=CANARY),
            "labels": {"project": CANARY},
            "idempotency_key": CANARY,
            "trace": CANARY,
        },
        tool("echo", value=CANARY * 3000),
    ]
    told = 0
    for node in cluster.nodes:
        ids = [handle.id for handle in await node.client.batch(tasks)]
        with trio.fail_after(60):
            views = await settled(node, ids)
        told += sum(CANARY in msgspec.json.encode(view).decode() for view in views.values())
        strange = {"kind": "code", "payload": {"language": CANARY, "code": CANARY}}
        for wrong in ({"kind": CANARY}, tool(CANARY), strange, {**tool("echo"), CANARY: CANARY}):
            with pytest.raises(Problem):
                await node.client.batch([wrong])
    assert told >= len(cluster.nodes) * 4, "the word is where it belongs"
    for node in cluster.nodes:
        metrics = (await node.client._wire.send("GET", "/metrics")).decode()
        assert "kowalski_events_total" in metrics
        assert CANARY not in metrics
        view = await node.client.cluster()
        shown = msgspec.json.encode([device.sample for device in view.devices]).decode()
        assert "load" in shown
        assert CANARY not in shown
        log = node.log.read_text(encoding="utf-8", errors="replace")
        assert len(log) > 100
        assert CANARY not in log
