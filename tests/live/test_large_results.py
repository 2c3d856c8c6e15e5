"""A result above 64 KiB travels as a blob, and nobody who asks for it has to know: its value and
output are in the answer of every node, which also names the blob."""

from __future__ import annotations

import hashlib

import msgspec
import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_node.views import ResultView
from kowalski_protocol.events import Result
from kowalski_protocol.limits import LIMITS

WAIT_S = 30.0
EDGE = LIMITS.attachment_size_bytes_max


async def brought(cluster: LocalCluster, code: str) -> ResultView:
    """What a program brings that one node was given and another ran; all nodes show the same."""
    desk, lap = cluster.nodes
    payload = {"language": "python", "code": code}
    view = await desk.client.run("code", payload, requires={"device": lap.peer}, wait_s=WAIT_S)
    assert (view.state, view.device) == ("settled", lap.peer)
    assert view.result is not None
    assert await shown_by(lap, view.id) == view.result
    return view.result


async def shown_by(node: LocalNode, task_id: str) -> ResultView:
    with trio.fail_after(WAIT_S):
        while True:
            view = await node.client.result(task_id, WAIT_S)
            if view.result is not None:
                return view.result
            await trio.sleep(0.02)  # poll: the owner's word and the bytes come one after the other


async def signed(cluster: LocalCluster, blob: str) -> Result:
    """The result as its device signed it, fetched by the name that the view gave."""
    data, *others = [await node.client.get_blob(blob) for node in cluster.nodes]
    assert hashlib.sha256(data).hexdigest() == blob
    assert others == [data]
    assert len(data) > EDGE
    return msgspec.msgpack.decode(data, type=Result)


async def test_a_large_result_is_in_the_answer_and_names_its_blob(cluster: LocalCluster) -> None:
    for name in ("desk", "lap"):
        await cluster.add(name, "--unsandboxed")
    await cluster.settle_down()

    small = await brought(cluster, "'x' * 1000")
    assert (small.value, small.blob) == ("x" * 1000, None)

    large = await brought(cluster, f"print('said')\n'x' * {EDGE}")
    assert (large.ok, large.value, large.stdout) == (True, "x" * EDGE, "said\n")
    assert large.blob is not None
    assert await signed(cluster, large.blob) == Result(True, "x" * EDGE, "said\n")

    talkative = await brought(cluster, f"print('x' * {EDGE})")
    assert (talkative.value, len(talkative.stdout)) == (None, EDGE + 1)
    assert talkative.blob is not None
    assert (await signed(cluster, talkative.blob)).stdout == talkative.stdout

    failed = await brought(cluster, f"print('x' * {EDGE})\n1 / 0")
    assert failed.error is not None
    assert (failed.ok, failed.error.code) == (False, "code_failed")
    assert failed.blob is not None
    assert (await signed(cluster, failed.blob)).code == "code_failed"


async def test_a_result_whose_bytes_are_away_is_named(cluster: LocalCluster) -> None:
    for name in ("desk", "lap", "mini"):
        await cluster.add(name, "--unsandboxed")
    await cluster.settle_down()
    desk, lap, mini = cluster.nodes
    payload = {"language": "python", "code": f"'x' * {EDGE}"}
    view = await desk.client.run("code", payload, requires={"device": lap.peer}, wait_s=WAIT_S)
    assert view.result is not None
    await cluster.one_digest()
    await desk.kill()
    await lap.kill()
    there = await mini.client.result(view.id, WAIT_S)
    assert there.result == ResultView(True, blob=view.result.blob)
    await lap.start()
    await cluster.settle_down()
    assert (await mini.client.result(view.id, WAIT_S)).result == view.result
