"""Whole nodes that find each other on the local network, and what an advert of others is worth.

All that these nodes remember of each other leads nowhere: they were restarted on other ports. So
whoever is connected here was found by multicast DNS. It is spoken on this machine's own interfaces
and looped back by the system: no other machine takes part. Where that does not work, the tests are
skipped with the node's own words.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from multiaddr import Multiaddr
from zeroconf import DNSOutgoing  # pyright: ignore[reportPrivateImportUsage]
from zeroconf.asyncio import AsyncServiceInfo

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_node.adverts import SERVICE, Advert, text_record
from kowalski_node.discovery import Discovery
from kowalski_node.interfaces import interface_addresses
from kowalski_node.multicast import NAMES_PER_ROUND
from kowalski_node.views import ClusterView
from kowalski_protocol.identity import Identity

FOUND_S = 5.0
"""Half a second on an idle machine; the tests share theirs with others."""
PROBE_S = 5.0
"""How long two adverts on this machine may take to meet before it counts as one without multicast.
"""
APART_S = 3.0
"""Longer than two members that know an address need to meet; they redial every 2 s at most."""
EVERYWHERE = "0.0.0.0"
"""Loopback is not advertised by a device that has any other address."""


def identity() -> Identity:
    return Identity(secrets.token_bytes(32))


def advertised(
    peer: str, cluster: bytes, port: int, found: Callable[[Advert], None] = lambda _: None
) -> Discovery:
    """Advertises a peer with a port of this machine, in whoever's name, while it is entered."""
    return Discovery(peer=peer, cluster=cluster, port=port, name="lap", found=found)


async def is_heard(peer: str, cluster: bytes) -> bool:
    """Waits until an advert of this peer has come over the network; false where none ever does."""
    news = trio.Event()

    def found(advert: Advert) -> None:
        if advert.peer == peer:
            news.set()

    async with advertised(identity().peer_id, cluster, 9, found):
        with trio.move_on_after(PROBE_S):
            await news.wait()
    return news.is_set()


async def lacks_multicast() -> str | None:
    """Why no advert arrives on this machine, or None where one does."""
    cluster, probe = secrets.token_bytes(32), identity().peer_id
    async with advertised(probe, cluster, 9) as one:
        if await is_heard(probe, cluster):
            return None
        return one.problem or "Two adverts on this machine's networks do not meet."


@pytest.fixture(scope="module")
def multicast() -> None:
    """Skips where this machine has no network with multicast: a container without any, say."""
    # Not in the tests' own event loop, where the reason of a skip is lost.
    problem = trio.run(lacks_multicast)
    if problem is not None:
        pytest.skip(f"multicast DNS does not work here: {problem}")


@pytest.fixture
async def lan(multicast: None, tmp_path: Path) -> AsyncIterator[LocalCluster]:
    """An empty cluster whose nodes look for each other by multicast."""
    options = ["--preset", "local"]
    async with LocalCluster(tmp_path, options=options, host=EVERYWHERE, mdns=True) as nodes:
        yield nodes


async def restart(*nodes: LocalNode, mdns: bool = True) -> None:
    """Stops these and starts them on other ports, where nobody knows them."""

    async def again(node: LocalNode) -> None:
        if node.alive:
            await node.stop()
        node.forget_port()
        node.mdns = mdns
        await node.start()

    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(again, node)


def sees(view: ClusterView, other: LocalNode) -> bool:
    """Whether a node is connected to another one and takes it for alive."""
    connected = {link.peer for link in view.links if link.connected}
    return other.peer in connected & {device.id for device in view.devices if device.alive}


async def meet(one: LocalNode, two: LocalNode, within_s: float) -> bool:
    """Whether both see each other within a time."""
    with trio.move_on_after(within_s):
        while True:
            views = [await node.client.cluster() for node in (one, two)]
            if sees(views[0], two) and sees(views[1], one):
                return True
            await trio.sleep(0.02)  # poll: what two nodes say of each other
    return False


async def names(node: LocalNode) -> set[str]:
    return {device.name for device in (await node.client.cluster()).devices}


@pytest.mark.slow
async def test_members_whose_addresses_lead_nowhere_find_each_other_and_no_neighbours(
    lan: LocalCluster, tmp_path: Path
) -> None:
    await lan.add_all("desk", "lap")
    desk, lap = lan.nodes
    async with LocalCluster(tmp_path / "next door", host=EVERYWHERE, mdns=True) as others:
        neighbour = await others.add("neighbour")
        await restart(desk, lap, mdns=False)
        assert not await meet(desk, lap, APART_S), "they need no discovery to meet"
        await restart(desk, lap)
        assert await meet(desk, lap, FOUND_S)
        await lan.settle_down()
        echo = {"tool": "echo", "args": {"value": "found"}}
        view = await desk.client.run("tool", echo, requires={"device": lap.peer})
        assert view.result is not None
        assert (view.device, view.result.value) == (lap.peer, "found")
        # All three were on one network all the time.
        assert await is_heard(neighbour.peer, b"any")
        assert await names(desk) == await names(lap) == {"desk", "lap"}
        assert await names(neighbour) == {"neighbour"}
        assert (await neighbour.client.cluster()).links == []


class Listener:
    """A stranger's node: a libp2p host with a key of its own that counts who knocks."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.knocks = 0
        self._more = trio.Event()

    async def knocked(self, times: int) -> None:
        """Waits until somebody has knocked so often."""
        with trio.fail_after(FOUND_S):
            while self.knocks < times:
                await self._more.wait()

    def note(self) -> None:
        self.knocks += 1
        self._more.set()
        self._more = trio.Event()


@asynccontextmanager
async def listener(own: Identity) -> AsyncIterator[Listener]:
    """Listens on all interfaces, and hands every connection on to a real libp2p host."""
    host = new_host(key_pair=create_new_key_pair(own.seed))
    sockets = await trio.open_tcp_listeners(0, host=EVERYWHERE)
    seen = Listener(sockets[0].socket.getsockname()[1])

    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
            await sink.send_eof()
        except trio.BrokenResourceError:
            pass

    async def hand_on(caller: trio.SocketStream) -> None:
        seen.note()
        port = host.get_addrs()[0].value_for_protocol("tcp")
        assert port is not None
        inner = await trio.open_tcp_stream("127.0.0.1", int(port))
        async with caller, inner, trio.open_nursery() as nursery:
            nursery.start_soon(pump, caller, inner)
            nursery.start_soon(pump, inner, caller)

    async with (
        host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(trio.serve_listeners, hand_on, sockets)
        yield seen
        nursery.cancel_scope.cancel()


def announce(peers: Iterable[str], cluster: bytes) -> None:
    """Sends one announcement in the name of each of these, as any program on the network can."""
    own = [address.ip for address in interface_addresses() if "." in address.ip]
    source = next((ip for ip in own if not ip.startswith("127.")), "127.0.0.1")
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        for peer in peers:
            service = AsyncServiceInfo(
                SERVICE,
                f"{peer}.{SERVICE}",
                port=9,
                properties=text_record(peer=peer, cluster=cluster, name="crowd", boot="00000001"),
                server=f"{peer}.local.",
                parsed_addresses=["192.0.2.1"],
            )
            out = DNSOutgoing(0x8400)  # A response with authority.
            for record in (
                service.dns_pointer(),
                service.dns_service(),
                service.dns_text(),
                *service.dns_addresses(),
            ):
                out.add_answer_at_time(record, 0)
            for packet in out.packets():
                sender.sendto(packet, ("224.0.0.251", 5353))


async def test_a_stranger_that_advertises_itself_grants_itself_nothing(lan: LocalCluster) -> None:
    await lan.add_all("desk", "lap")
    desk, lap = lan.nodes
    cluster = bytes.fromhex((await desk.client.cluster()).cluster)
    await lap.stop()
    stranger = identity()
    async with listener(stranger) as door, listener(stranger) as trap:
        # As itself: with the cluster's own tag, which everybody on the network can read.
        async with advertised(stranger.peer_id, cluster, door.port):
            assert await is_heard(stranger.peer_id, cluster)
            # In a member's name: an advert is a hint where to dial, so the member is looked for
            # there, twice, since the first time it is somebody else who answers.
            async with advertised(lap.peer, cluster, trap.port):
                await trap.knocked(2)
                view = await desk.client.cluster()
                assert {device.id for device in view.devices} == {desk.peer, lap.peer}
                assert not any(link.connected for link in view.links)
                assert [device.id for device in view.devices if device.alive] == [desk.peer]
            assert door.knocks == 0, "nobody dials one who is no member"
            # The true one is found all the same, though a false address is known of it.
            await restart(lap)
            assert await meet(desk, lap, FOUND_S)
        assert await names(desk) == await names(lap) == {"desk", "lap"}
        assert door.knocks == 0


async def test_a_crowd_of_strangers_makes_no_node_deaf(lan: LocalCluster) -> None:
    await lan.add_all("desk", "lap")
    desk, lap = lan.nodes
    cluster = bytes.fromhex((await desk.client.cluster()).cluster)
    await lap.stop()
    crowd = [identity().peer_id for _ in range(2 * NAMES_PER_ROUND + 1)]
    announce(crowd, cluster)
    async with listener(identity()) as trap, advertised(lap.peer, cluster, trap.port):
        await trap.knocked(1)
    assert await names(desk) == {"desk", "lap"}
    assert "Traceback" not in desk.log_end(1 << 20)
