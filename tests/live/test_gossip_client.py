"""A program that is only a py-libp2p gossipsub client, with a member's key, takes part.

What it publishes counts like any member's word and no more than that, and it hears all three topics
although members that speak lanes tell each other most things there.
"""

from __future__ import annotations

import secrets

from libp2p.pubsub.gossipsub import PROTOCOL_ID, PROTOCOL_ID_V11, PROTOCOL_ID_V12

from kowalski_gateway.local_cluster import LocalCluster
from kowalski_protocol.events import TaskSettled
from kowalski_protocol.feeds import check_signature, decode_header, genesis, open_frame
from kowalski_protocol.identity import Identity, author_of
from kowalski_protocol.ids import ClusterId
from kowalski_protocol.topics import RESULT, TASK, TELEMETRY
from tests.live.evidence import assert_all_agree, assert_ledgers_agree, tool
from tests.live.outsider import HEAR_S, Writer, admitted, gossiper, shown, until


async def test_a_plain_gossipsub_client_with_a_members_key_has_its_task_run(
    cluster: LocalCluster,
) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    identity, answer = await admitted(desk, "script")
    cluster_id = ClusterId(answer.cluster)
    writer = Writer(identity, cluster_id)
    async with gossiper(identity, desk, cluster_id, PROTOCOL_ID) as client:
        id, frame = writer.task(tool("echo", value="by gossip alone"), lap.peer, b"k1")
        await client.publish(TASK, frame)
        for node in (desk, lap):
            view = await shown(node, id)
            assert view.outcome == "completed"
            assert view.result is not None
            assert view.result.value == "by gossip alone"
            assert (view.owner, view.submitter) == (lap.peer, identity.peer_id)
        # The nodes have lanes to each other, and the client hears all three topics still.
        heard = client.heard
        await until(lambda: heard.of("TaskSettled", id))
        assert heard.of("TaskPlaced", id)
        assert heard.of("TaskCompleted", id)
        assert heard.of("TaskSettled", id) == [author_of(lap.peer)]
        both = {author_of(desk.peer), author_of(lap.peer)}
        await until(lambda: both <= heard.beats)
        assert {topic for topic, *_ in heard.events} == {TASK, RESULT}
        assert heard.faults == []
    await assert_all_agree(cluster, [id.hex()])
    await assert_ledgers_agree(cluster, [id.hex()])


async def test_it_hears_the_work_of_others_while_lanes_carry_it(cluster: LocalCluster) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    identity, answer = await admitted(desk, "listener")
    protocols = (PROTOCOL_ID_V12, PROTOCOL_ID_V11, PROTOCOL_ID)
    async with gossiper(identity, lap, ClusterId(answer.cluster), *protocols) as client:
        handles = await desk.client.batch([tool("echo", value=n) for n in range(200)])
        ids = [handle.id for handle in handles]
        await assert_all_agree(cluster, ids)
        heard = client.heard

        def told(kind: str) -> set[str]:
            return {body.task.hex() for _, _, said, body in heard.events if said == kind}

        for kind in ("TaskPlaced", "TaskCompleted", "TaskSettled"):
            await until(lambda kind=kind: told(kind) >= set(ids))
        submitted = [body for _, _, kind, body in heard.events if kind == "TaskSubmitted"]
        assert len(submitted) == len(ids)
        assert heard.faults == []


async def test_what_it_publishes_wrongly_changes_nothing(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    identity, answer = await admitted(desk, "careless")
    cluster_id = ClusterId(answer.cluster)
    writer = Writer(identity, cluster_id)
    before = (await desk.client.cluster()).tasks
    async with gossiper(identity, desk, cluster_id, PROTOCOL_ID) as client:
        _, other_cluster = Writer(identity, ClusterId(bytes(32))).task(
            tool("echo", value=1), desk.peer, b"k"
        )
        stranger = Writer(Identity(secrets.token_bytes(32)), cluster_id)
        _, not_a_member = stranger.task(tool("echo", value=2), desk.peer, b"k")
        id, good = writer.task(tool("echo", value="good"), desk.peer, b"good")
        flipped = bytearray(good)
        flipped[-3] ^= 1
        for bad in (b"", b"\xc1", b"nonsense", other_cluster, not_a_member, bytes(flipped)):
            await client.publish(TASK, bad)
            await client.publish(RESULT, bad)
            await client.publish(TELEMETRY, bad)
        await client.publish(TASK, good)
        view = await shown(desk, id)
        assert view.result is not None
        assert view.result.value == "good"
        assert sum((await desk.client.cluster()).tasks.values()) == sum(before.values()) + 1
    await assert_ledgers_agree(cluster, [id.hex()])


async def test_it_can_not_settle_a_task_that_it_does_not_own(cluster: LocalCluster) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    identity, answer = await admitted(desk, "usurper")
    writer = Writer(identity, ClusterId(answer.cluster))
    handle = await lap.client.submit("tool", tool("sleep", seconds=1.0)["payload"])
    async with gossiper(identity, desk, writer.cluster, PROTOCOL_ID) as client:
        forged = TaskSettled(bytes.fromhex(handle.id), b"", "failed", b"", "tool_failed")
        await client.publish(TASK, writer.frame(forged))
        # Both nodes hold its word, for it is a member's; it counts for nothing.
        await cluster.until(
            lambda views: all(
                identity.peer_id in {head.author for head in view.heads} for view in views
            ),
            HEAR_S,
        )
        assert (await handle.result(HEAR_S)).outcome == "completed"
    await assert_all_agree(cluster, [handle.id])


def test_a_frame_made_by_hand_is_a_frame() -> None:
    identity, cluster = Identity(bytes(range(32))), ClusterId(bytes(32))
    writer = Writer(identity, cluster)
    floor, last = 0, genesis(cluster, identity.author, TASK)
    for number in range(3):
        _, data = writer.task(tool("echo", value=number), identity.peer_id, b"%d" % number)
        header = decode_header(data, cluster)
        assert check_signature(header)
        (event,) = open_frame(header, last, floor)
        last, floor = event.hash, event.hlc
