"""Attacks 13 and 14 on real nodes: one who claims to lead and does not hear, and foreign results.

It says in its own name what a leader, a device and an owner would say. It hears nobody, so nobody
follows it, and its word on the work of others is evidence and no more.
"""

from __future__ import annotations

import secrets

import pytest

from kowalski_gateway.local_cluster import LocalCluster
from kowalski_protocol.events import LeaderClaimed, TaskCompleted, TaskPlaced, TaskSettled
from kowalski_protocol.identity import peer_id
from kowalski_protocol.messages import DATAGRAM, datagram_message, frame_message
from kowalski_protocol.telemetry import Heartbeat, decode_datagram, encode_datagram
from kowalski_protocol.topics import RESULT
from tests.attacks.live_outlaw import (
    Forger,
    Outlaw,
    assert_files_sound,
    outlaw,
    until_head,
    watched,
)
from tests.live.evidence import Evidence, assert_all_agree, tool
from tests.live.outsider import until

pytestmark = [pytest.mark.attack, pytest.mark.live]

FAR = (1 << 63) - 1
CLAIMS = 4


def followed(bad: Outlaw) -> bytes:
    """The claim that was last heard to be followed."""
    for _, data in reversed(bad.heard.messages):
        if data[:1] == bytes([DATAGRAM]):
            claim = decode_datagram(data[1:], bad.cluster)[1].leader
            if claim:
                return claim
    return b""


def heartbeat(bad: Outlaw, counter: int, claim: bytes) -> bytes:
    """A sign of life of one who hears nobody."""
    beat = Heartbeat(1, counter, 0, (), bad.forger.seq, 0, bytes(32), claim, 0, 0, False)
    return encode_datagram(bad.cluster, bad.identity.author, bad.identity.sign, beat)


async def speak_of_the_work_of_another(bad: Outlaw, cluster: LocalCluster) -> str:
    """Says wrongly what becomes of a task that runs; the task's id once it has ended well."""
    desk, lap = cluster.nodes
    handle = await lap.client.submit("tool", tool("sleep", seconds=1.5)["payload"])
    await cluster.until(lambda views: all(v.tasks.get("running") for v in views), 10.0)
    ((attempt, device),) = Evidence(desk.home).placements()[handle.id]
    task = bytes.fromhex(handle.id)
    results = Forger(bad.identity, bad.cluster, RESULT)
    lies = [
        results.says(TaskCompleted(task, bytes.fromhex(attempt), bytes(32), 1, 1, 1)),
        results.says(TaskCompleted(task, bytes(32), bytes(32), 1, 1, 1)),
        bad.forger.says(TaskPlaced(task, 99, bad.identity.author, followed(bad), 1.0)),
        bad.forger.says(TaskSettled(task, b"", "failed", b"", "tool_failed")),
    ]
    for node in (desk, lap):
        await bad.tell(node, *map(frame_message, lies))
        for feed in (bad.forger, results):
            await until_head(node, bad.identity.peer_id, feed.topic, feed.seq)
    view = await handle.result(20.0)
    assert (view.outcome, view.attempt, view.device) == ("completed", 1, peer_id(device))
    return handle.id


async def claim_in_turn(bad: Outlaw, cluster: LocalCluster) -> None:
    """Claims after the claim that is followed, and shows signs of life but hears nobody's."""
    desk, lap = cluster.nodes
    honest = {desk.peer, lap.peer}
    for counter in range(1, CLAIMS + 1):
        epoch = (await desk.client.cluster()).epoch
        before = followed(bad)
        frame = bad.forger.says(LeaderClaimed(epoch + 1, before))
        claim = bad.forger.last
        beat = heartbeat(bad, counter, claim)
        for node in (desk, lap):
            await bad.tell(node, frame_message(frame), datagram_message(beat))
        # It leads until it is seen that it does not hear, and then one who does.
        await until(lambda known=(before, claim): followed(bad) not in known)
        await cluster.until(
            lambda views: len({view.leader for view in views}) == 1 and views[0].leader in honest,
            10.0,
        )


async def test_who_claims_to_lead_and_does_not_hear_leads_nobody(cluster: LocalCluster) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    async with outlaw(desk, lap) as bad:
        await until(lambda: followed(bad))
        own = await speak_of_the_work_of_another(bad, cluster)
        async with watched(lap, desk, lap) as watch:
            for epoch in (FAR, (1 << 64) - 1, 0, 7):
                for previous in (b"", secrets.token_bytes(32), followed(bad)):
                    frame = bad.forger.says(LeaderClaimed(epoch, previous))
                    await bad.tell(desk, frame_message(frame))
            before = (await desk.client.cluster()).epoch
            await claim_in_turn(bad, cluster)
        # Each claim that counted was answered by one that does now; those out of the air by none.
        after = (await desk.client.cluster()).epoch
        assert before + CLAIMS <= after < before + 1000
    await assert_all_agree(cluster, [own, *watch.ids])
    await assert_files_sound(cluster)
