"""Gossip between real nodes, and with a program that is only a py-libp2p gossipsub client."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from libp2p import new_host
from libp2p.abc import ISubscriptionAPI
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import PROTOCOL_ID, PROTOCOL_ID_V11, PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from kowalski_node.network.bundle import bundled, unbundled
from tests.live.network_world import (
    CLUSTER,
    IDENTITIES,
    KEYS,
    Recorder,
    gossips,
    meet,
    network,
    process,
    until,
)

TASK = f"/kowalski/{CLUSTER.hex()[:16]}/task"
RESULT = f"/kowalski/{CLUSTER.hex()[:16]}/result"


def heard(recorder: Recorder) -> list[bytes]:
    return [data for _, _, data in recorder.gossip]


async def test_an_item_reaches_everybody_once_with_its_topic_and_source() -> None:
    first, second, third = Recorder(), Recorder(), Recorder()
    async with network(0, first) as a, network(1, second) as b, network(2, third) as c:
        await meet(a, 1, b)
        await meet(a, 2, c)
        await meet(b, 2, c)
        for topic in ("task", "result", "telemetry"):
            a.publish(topic, topic.encode())
            for recorder in (second, third):
                await until(lambda: (topic, KEYS[0], topic.encode()) in recorder.gossip)  # noqa: B023
        b.publish("task", b"from b")
        await until(lambda: first.gossip and b"from b" in heard(third))
        assert len(second.gossip) == 3
        assert len(third.gossip) == 4


async def test_a_burst_of_a_thousand_events_reaches_both_others_within_two_seconds() -> None:
    second, third = Recorder(), Recorder()
    async with network(0, Recorder()) as a, network(1, second) as b, network(2, third) as c:
        await meet(a, 1, b)
        await meet(a, 2, c)
        await meet(b, 2, c)
        events = [hashlib.sha512(b"%d" % number).digest() * 5 for number in range(1000)]
        begun_s = time.monotonic()
        for event in events:
            a.publish("task", event)
        await until(lambda: len(second.gossip) == len(third.gossip) == 1000)
        assert time.monotonic() - begun_s < 2
        assert heard(second) == heard(third) == events
        assert a._gossip.dropped_items == 0


async def test_thousands_of_large_items_all_arrive() -> None:
    second, third = Recorder(), Recorder()
    async with network(0, Recorder()) as a, network(1, second) as b, network(2, third) as c:
        await meet(a, 1, b)
        await meet(a, 2, c)
        sent = 0
        while sent < 800:  # 50 MiB
            if a._gossip._queued_bytes < 4 * 1024 * 1024:
                a.publish("task", b"%d" % sent + bytes(65536))
                sent += 1
            else:
                await trio.sleep(0.001)  # poll: room in the queue
        await until(lambda: len(second.gossip) == len(third.gossip) == 800, 30)
        assert a._gossip.dropped_items == 0


async def test_what_does_not_fit_is_counted_and_the_newest_is_kept() -> None:
    second = Recorder()
    async with network(0, Recorder()) as a, network(1, second) as b:
        await meet(a, 1, b)
        a.publish("task", bytes(1024 * 1024))
        assert a._gossip.dropped_items == 1
        for number in range(200):
            a.publish("task", b"%03d" % number + bytes(65536))
        dropped = a._gossip.dropped_items - 1
        assert 60 < dropped < 90
        await until(lambda: len(second.gossip) == 200 - dropped)
        assert heard(second)[-1].startswith(b"199")


async def test_where_all_are_connected_a_message_crosses_each_link_once() -> None:
    recorders = [Recorder() for _ in range(4)]
    async with (
        network(0, recorders[0]) as a,
        network(1, recorders[1]) as b,
        network(2, recorders[2]) as c,
        network(3, recorders[3]) as d,
    ):
        everybody = [a, b, c, d]
        for number, one in enumerate(everybody):
            for other in range(number + 1, 4):
                await meet(one, other, everybody[other])
        # Each must have told the others whom it reaches.
        await until(
            lambda: all(len(p.reached) == 3 for each in everybody for p in each._peers.announced())
        )
        before = {number: _received(each) for number, each in enumerate(everybody)}
        for number in range(20):
            a.publish("task", b"%d" % number + bytes(10_000))
            await until(lambda number=number: all(len(r.gossip) > number for r in recorders[1:]))
        for number, each in list(enumerate(everybody))[1:]:
            assert _received(each) - before[number] < 1.2 * 20 * 10_000
        assert _received(a) == before[0]


def _received(each) -> int:
    return sum(traffic["gossip"].received_bytes for traffic in each.traffic().values())


async def test_where_not_all_are_connected_members_pass_it_on() -> None:
    recorders = [Recorder() for _ in range(4)]
    async with (
        network(0, recorders[0]) as a,
        network(1, recorders[1]) as b,
        network(2, recorders[2]) as c,
        network(3, recorders[3]) as d,
    ):
        await meet(a, 1, b)
        await meet(b, 2, c)
        await meet(c, 3, d)
        await until(lambda: gossips(d, KEYS[2]) and gossips(c, KEYS[1]) and gossips(b, KEYS[0]))
        await until(lambda: all(p.reached for n in (a, b, c, d) for p in n._peers.announced()))
        a.publish("task", b"along the line")
        await until(lambda: ("task", KEYS[0], b"along the line") in recorders[3].gossip)
        d.publish("result", b"and back")
        await until(lambda: ("result", KEYS[3], b"and back") in recorders[0].gossip)


async def test_a_restarted_node_is_heard_from_its_first_message() -> None:
    here = Recorder()
    async with network(0, here) as a:
        expected: list[bytes] = []
        for life in range(2):
            async with process(1, (0, a.addresses[0])):
                await until(lambda: gossips(a, KEYS[1]))
                for number in range(20):
                    message = b"life %d message %d" % (life, number)
                    expected.append(message)
                    a.send(KEYS[1], b"publish " + message)
                await until(lambda: len(here.gossip) == len(expected))
            await until(lambda life=life: len(here.disconnected) == life + 1)
        assert heard(here) == expected


@asynccontextmanager
async def plain_client(number: int, *protocols: str) -> AsyncIterator[tuple[Pubsub, object]]:
    """A gossipsub program as py-libp2p's documentation has it, all options at their defaults."""
    host = new_host(key_pair=create_new_key_pair(IDENTITIES[number].seed))
    router = GossipSub(protocols=protocols, degree=3, degree_low=2, degree_high=4)  # pyright: ignore
    pubsub = Pubsub(host, router)
    async with (
        host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]),
        background_trio_service(pubsub),
        background_trio_service(router),
    ):
        await pubsub.wait_until_ready()
        yield pubsub, host


async def next_data(subscription: ISubscriptionAPI) -> bytes:
    with trio.fail_after(10):
        return (await subscription.get()).data


async def test_a_plain_gossipsub_client_with_a_members_key_publishes_and_hears() -> None:
    for protocols in ((PROTOCOL_ID,), (PROTOCOL_ID_V12, PROTOCOL_ID_V11, PROTOCOL_ID)):
        first, second = Recorder(), Recorder()
        async with network(0, first) as a, network(1, second) as b:
            await meet(a, 1, b)
            await until(lambda: all(p.reached for n in (a, b) for p in n._peers.announced()))
            async with plain_client(5, *protocols) as (pubsub, host):
                results = await pubsub.subscribe(RESULT)
                tasks = await pubsub.subscribe(TASK)
                await host.connect(info_from_p2p_addr(Multiaddr(a.addresses[0])))  # type: ignore
                await pubsub.wait_for_subscription(host.get_peerstore and a._host.id, TASK)  # type: ignore
                await until(lambda: KEYS[5] in a.connected())
                await until(lambda: pubsub.my_id in a._gossip._pubsub.peer_topics.get(RESULT, ()))
                # One bare item, as it is; both nodes hear it, also the one it isn't connected to.
                await pubsub.publish(TASK, b"a plain task")
                for recorder in (first, second):
                    await until(lambda: ("task", KEYS[5], b"a plain task") in recorder.gossip)  # noqa: B023
                assert await next_data(tasks) == b"a plain task"
                # It speaks no lanes, and the node is told so.
                await until(lambda: not a.send(KEYS[5], b"by lane"))
                # It hears what its neighbour publishes, and what others do.
                a.publish("result", b"from its neighbour")
                assert await next_data(results) == b"from its neighbour"
                b.publish("result", b"from afar")
                assert await next_data(results) == b"from afar"
                # What comes faster than libp2p sends is bundled, and it may take that apart.
                for number in range(100):
                    a.publish("task", b"%d" % number)
                items: list[bytes] = []
                while len(items) < 100:
                    items += unbundled(await next_data(tasks))
                assert items == [b"%d" % number for number in range(100)]
        assert first.disconnected[0] in KEYS


async def test_a_plain_client_whose_key_is_no_members_gets_nothing() -> None:
    first = Recorder(members=KEYS[:3])
    async with network(0, first) as a, plain_client(5, PROTOCOL_ID) as (pubsub, host):
        await pubsub.subscribe(TASK)
        with trio.move_on_after(2):
            try:
                await host.connect(info_from_p2p_addr(Multiaddr(a.addresses[0])))  # type: ignore
            except Exception:  # guard: whatever py-libp2p makes of a refusal
                pass
        await pubsub.publish(TASK, b"let me in")
        assert (a.connected(), first.connected, first.gossip) == ([], [], [])


def test_a_bundle_comes_apart_into_its_items() -> None:
    for items in ([b"one"], [b"one", b"two"], [b""], [b"\xc1 mark"], [b"", b"\xc1", b"x" * 70000]):
        assert list(unbundled(bundled(items))) == items
    assert bundled([b"one"]) == b"one"


def test_a_malformed_bundle_gives_what_came_before_the_mistake() -> None:
    whole = bundled([b"one", b"two"])
    for length in range(1, len(whole)):
        assert list(unbundled(whole[:length])) in ([], [b"one"])
    assert list(unbundled(b"\xc1\xff\xff\xff\xffabc")) == []
