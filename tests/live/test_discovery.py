"""Discovery on real networks: this machine's own, and small ones made of network namespaces.

A node of these tests is this file run as a program; it prints one JSON line per advert and problem.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import pytest
import trio

from kowalski_node.addresses import InterfaceAddress, parse_multiaddr
from kowalski_node.adverts import (
    BURST_INTERVAL_S,
    BURST_MAX,
    PEER_INTERVAL_S,
    SERVICE,
    Advert,
    cluster_tag,
)
from kowalski_node.discovery import Discovery
from kowalski_node.interfaces import interface_addresses
from kowalski_protocol.identity import Identity

pytestmark = pytest.mark.live

WAIT_S = 20.0
"""Far above what anything here takes: only a failure waits this long."""
CLUSTER = bytes(range(32))


def peer(number: int) -> str:
    return Identity(number.to_bytes(32, "big")).peer_id


class Seen:
    """The adverts that one node was told of, and a way to wait for more."""

    def __init__(self) -> None:
        self.adverts: list[Advert] = []
        self._news = trio.Event()

    def __call__(self, advert: Advert) -> None:
        self.adverts.append(advert)
        self._news.set()
        self._news = trio.Event()

    async def until(self, wanted: Callable[[Advert], bool]) -> Advert:
        with trio.fail_after(WAIT_S):
            while True:
                for advert in self.adverts:
                    if wanted(advert):
                        return advert
                await self._news.wait()


def node(number: int, seen: Callable[[Advert], None], **options: Any) -> Discovery:
    return Discovery(
        peer=peer(number),
        cluster=CLUSTER,
        port=options.pop("port", 50_000 + number),
        name=f"device {number}",
        found=seen,
        **options,
    )


@pytest.fixture
async def multicast() -> None:
    """Skips where this machine has no network with multicast: a container without any, say."""
    seen = Seen()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(node(201, lambda _: None))
        await stack.enter_async_context(node(202, seen))
        with trio.move_on_after(5) as patience:
            await seen.until(lambda advert: advert.peer == peer(201))
        if patience.cancelled_caught:
            pytest.skip("multicast DNS does not work on this machine's networks")


@pytest.mark.usefixtures("multicast")
async def test_two_nodes_of_one_network_find_each_other() -> None:
    one, two = Seen(), Seen()
    async with node(1, one), node(2, two):
        found = await one.until(lambda advert: advert.peer == peer(2))
        assert (await two.until(lambda advert: advert.peer == peer(1))).name == "device 1"
    assert found.cluster_tag == cluster_tag(CLUSTER)
    assert found.name == "device 2"
    hosts = {parse_multiaddr(address).host for address in found.addresses}
    assert hosts & {address.ip for address in interface_addresses()}
    assert {parse_multiaddr(address).port for address in found.addresses} == {50_002}


@pytest.mark.usefixtures("multicast")
async def test_a_node_is_never_told_of_itself_and_a_goodbye_tells_nothing() -> None:
    seen, late = Seen(), Seen()
    async with node(1, seen):
        async with node(2, lambda _: None):
            await seen.until(lambda advert: advert.peer == peer(2))
        # Node 2 has said goodbye; node 3 comes after it on the same wire.
        async with node(3, late):
            await seen.until(lambda advert: advert.peer == peer(3))
    assert peer(1) not in [advert.peer for advert in seen.adverts]
    assert all(advert.addresses for advert in seen.adverts)


@pytest.mark.usefixtures("multicast")
async def test_a_change_of_port_or_cluster_is_told() -> None:
    seen = Seen()
    async with node(1, seen), node(2, lambda _: None) as changing:
        await seen.until(lambda advert: advert.peer == peer(2))
        changing.update(port=60_002, cluster=b"another")
        changed = await seen.until(lambda advert: advert.addresses[0].endswith("/60002"))
    assert changed.cluster_tag == cluster_tag(b"another")
    assert all(address.endswith("/tcp/60002") for address in changed.addresses)


@pytest.mark.usefixtures("multicast")
async def test_new_addresses_are_told_once_the_device_has_them() -> None:
    seen = Seen()
    own = interface_addresses()
    extra = InterfaceAddress("198.51.100.7", own[-1].interface, own[-1].index)
    now = [own]
    async with node(1, seen), node(2, lambda _: None, hosts=lambda: now[0], check_s=0.1):
        await seen.until(lambda advert: advert.peer == peer(2))
        now[0] = (*own, extra)
        await seen.until(lambda advert: "/ip4/198.51.100.7/tcp/50002" in advert.addresses)


@pytest.mark.usefixtures("multicast")
async def test_a_killed_node_that_comes_back_unchanged_is_told_again() -> None:
    seen = Seen()
    async with node(1, seen):
        with process(2) as first:
            before = await seen.until(lambda advert: advert.peer == peer(2))
            first.kill()  # no goodbye
        with process(2):
            after = await seen.until(
                lambda advert: advert.peer == peer(2) and advert.boot != before.boot
            )
    assert after.addresses == before.addresses


@pytest.mark.usefixtures("multicast")
async def test_a_device_without_any_address_says_so_and_recovers() -> None:
    seen = Seen()
    now: list[tuple[InterfaceAddress, ...]] = [()]
    async with node(1, seen, hosts=lambda: now[0], check_s=0.05) as lost:
        with trio.fail_after(WAIT_S):
            while lost.problem is None:
                await trio.sleep(0.01)  # poll: the problem is a plain attribute
        assert lost.problem == "No network interface of this device has an address."
        now[0] = interface_addresses()
        async with node(2, lambda _: None):
            await seen.until(lambda advert: advert.peer == peer(2))
        assert lost.problem is None


@pytest.mark.usefixtures("multicast")
async def test_hostile_packets_neither_stop_discovery_nor_flood_the_node() -> None:
    seen = Seen()
    async with node(1, seen) as under_attack:
        async with node(2, lambda _: None):
            await seen.until(lambda advert: advert.peer == peer(2))
        told_before, start_s = len(seen.adverts), trio.current_time()
        await trio.to_thread.run_sync(_attack)
        async with node(3, lambda _: None):
            await seen.until(lambda advert: advert.peer == peer(3))
        assert under_attack.problem is None
    elapsed_s = trio.current_time() - start_s
    told = seen.adverts[told_before:]
    forged = Counter(advert.peer for advert in told)
    assert len(forged) > 1, "the attack reached nobody"
    assert max(forged.values()) <= elapsed_s / PEER_INTERVAL_S + 1
    assert len(told) <= (elapsed_s / BURST_INTERVAL_S + 1) * BURST_MAX
    for advert in told:
        assert advert.name.isprintable()
        assert len(advert.addresses) <= 16


def _attack() -> None:
    """Garbage, forged announcements and forged goodbyes, from an ordinary socket."""
    from zeroconf import DNSOutgoing  # pyright: ignore[reportPrivateImportUsage]
    from zeroconf.asyncio import AsyncServiceInfo

    source = next(
        address.ip
        for address in interface_addresses()
        if "." in address.ip and not address.ip.startswith("127.")
    )
    response, authoritative = 0x8000, 0x0400
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        target = ("224.0.0.251", 5353)
        for size in range(0, 1400, 7):
            sender.sendto(os.urandom(size), target)
        # Header of a response that promises 65,535 records, then a name that points at itself.
        sender.sendto(struct.pack(">6H", 0, 0x8400, 0, 65535, 65535, 65535), target)
        sender.sendto(struct.pack(">6H", 0, 0x8400, 0, 1, 0, 0) + b"\xc0\x0c\x00\x0c", target)
        for number in range(2000):
            forged = AsyncServiceInfo(
                SERVICE,
                f"forged{number}.{SERVICE}",
                port=number % 70000,
                properties={
                    "v": "1",
                    "id": peer(1000 + number % 500) if number % 3 else "\x1b[31m",
                    "c": "0" * 16,
                    "n": "\x1b]0;owned\x07\u202e" + "x" * 200,
                    "b": f"{number:08x}",
                },
                server=f"forged{number}.local.",
                parsed_addresses=[f"10.{number % 250}.0.{last}" for last in range(1, 20)],
            )
            for ttl in (None, 0):
                out = DNSOutgoing(response | authoritative)
                for made in (
                    forged.dns_pointer(ttl),
                    forged.dns_service(ttl),
                    forged.dns_text(ttl),
                    *forged.dns_addresses(ttl),
                ):
                    out.add_answer_at_time(made, 0)
                for packet in out.packets():
                    sender.sendto(packet, target)
        goodbye = AsyncServiceInfo(
            SERVICE, f"{peer(2)}.{SERVICE}", port=1, properties={}, server=f"{peer(2)}.local."
        )
        out = DNSOutgoing(response | authoritative)
        out.add_answer_at_time(goodbye.dns_pointer(0), 0)
        for _ in range(200):
            for packet in out.packets():
                sender.sendto(packet, target)


@pytest.mark.usefixtures("multicast")
async def test_no_packet_of_a_node_names_its_host_or_user() -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with closing(listener):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("", 5353))
        for address in interface_addresses():
            if "." in address.ip and not address.ip.startswith("127."):
                group = socket.inet_aton("224.0.0.251") + socket.inet_aton(address.ip)
                listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        listener.setblocking(False)
        seen = Seen()
        async with node(1, seen), node(2, lambda _: None):
            await seen.until(lambda advert: advert.peer == peer(2))
        packets: list[bytes] = []
        while select.select([listener], [], [], 0)[0]:
            packets.append(listener.recv(9000))
    told = b"\n".join(packets)
    assert peer(2).encode() in told
    for private in (socket.gethostname(), Path.home().name, CLUSTER.hex()):
        if len(private) > 3:
            assert private.encode() not in told
    assert CLUSTER not in told


# ------------------------------------------------------------------ networks made for the test


@pytest.fixture
def wire() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a cable that is not plugged in yet: `eth0` on both ends."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the ip command")
    one, two = (f"kowalski-{os.getpid()}-{side}" for side in "ab")
    try:
        for name in (one, two):
            if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
                pytest.skip("network namespaces can't be made here")
        ip(
            "link",
            "add",
            "eth0",
            "netns",
            one,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            two,
        )
        yield one, two
    finally:
        for name in (one, two):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def plug_in(space: str, *addresses: str, ipv6: bool = True) -> None:
    """Brings `eth0` of a namespace up; IPv6 without the second of looking for duplicates."""
    settings = {"accept_dad": 0, "disable_ipv6": 0 if ipv6 else 1}
    for name, value in settings.items():
        path = f"/proc/sys/net/ipv6/conf/eth0/{name}"
        subprocess.run(
            ["ip", "netns", "exec", space, "sh", "-c", f"echo {value} > {path}"], check=True
        )
    ip("-n", space, "link", "set", "lo", "up")
    for address in addresses:
        ip("-n", space, "address", "add", address, "dev", "eth0")
    ip("-n", space, "link", "set", "eth0", "up")


class Process:
    """A node in a process of its own, its lines as they come."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self.running = running
        self.lines: SimpleQueue[dict[str, Any]] = SimpleQueue()
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.running.stdout is not None
        for line in self.running.stdout:
            self.lines.put(json.loads(line))

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline_s = time.monotonic() + WAIT_S
        seen: list[dict[str, Any]] = []
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except Empty:
                raise AssertionError(f"never came; what came was {seen}") from None
            if wanted(line):
                return line
            seen.append(line)

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()


@contextmanager
def process(number: int, space: str | None = None) -> Iterator[Process]:
    command = [sys.executable, __file__, str(number)]
    if space is not None:
        command = ["ip", "netns", "exec", space, *command]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        yield Process(running)
    finally:
        running.kill()
        running.wait()
        for pipe in (running.stdout, running.stdin):
            assert pipe is not None
            pipe.close()


def addresses_of(number: int) -> Callable[[dict[str, Any]], bool]:
    return lambda line: line.get("peer") == peer(number)


@pytest.mark.needs_netns
def test_nodes_on_two_machines_find_each_other_by_every_address(wire: tuple[str, str]) -> None:
    plug_in(wire[0], "10.77.0.1/24", "fd77::1/64")
    plug_in(wire[1], "10.77.0.2/24", "fd77::2/64")
    with process(1, wire[0]) as one, process(2, wire[1]) as two:
        found = one.until(lambda line: addresses_of(2)(line) and len(line["addresses"]) == 3)
        two.until(addresses_of(1))
    assert found["addresses"][:2] == ["/ip4/10.77.0.2/tcp/50002", "/ip6/fd77::2/tcp/50002"]
    assert found["addresses"][2].startswith("/ip6zone/")
    # The node dialled all three, the link-local one by its zone, and each was answered.
    assert found["answered"] == [True, True, True]


@pytest.mark.needs_netns
def test_two_machines_without_any_configured_address_find_each_other(
    wire: tuple[str, str],
) -> None:
    for space in wire:
        plug_in(space)
    with process(1, wire[0]) as one, process(2, wire[1]):
        found = one.until(addresses_of(2))
    assert len(found["addresses"]) == 1
    assert parse_multiaddr(found["addresses"][0]).zone
    assert found["answered"] == [True]


@pytest.mark.needs_netns
def test_two_machines_without_ipv6_find_each_other(wire: tuple[str, str]) -> None:
    plug_in(wire[0], "10.77.0.1/24", ipv6=False)
    plug_in(wire[1], "10.77.0.2/24", ipv6=False)
    with process(1, wire[0]) as one, process(2, wire[1]):
        found = one.until(addresses_of(2))
    assert found["addresses"] == ["/ip4/10.77.0.2/tcp/50002"]


@pytest.mark.needs_netns
def test_a_node_that_starts_without_a_network_finds_others_once_it_has_one(
    wire: tuple[str, str],
) -> None:
    with process(1, wire[0]) as one, process(2, wire[1]) as two:
        for side in (one, two):
            problem = side.until(lambda line: line.get("problem") is not None)["problem"]
            assert problem == "No network interface of this device has an address."
        plug_in(wire[0], "10.77.0.1/24")
        plug_in(wire[1], "10.77.0.2/24")
        one.until(addresses_of(2))
        two.until(addresses_of(1))


@pytest.mark.needs_netns
def test_two_nodes_of_a_device_without_any_network_find_each_other(wire: tuple[str, str]) -> None:
    ip("-n", wire[0], "link", "set", "lo", "up")
    with process(1, wire[0]) as one, process(2, wire[0]):
        found = one.until(addresses_of(2))
    assert "/ip4/127.0.0.1/tcp/50002" in found["addresses"]


@pytest.mark.needs_netns
def test_a_program_that_keeps_the_port_to_itself_is_named(wire: tuple[str, str]) -> None:
    plug_in(wire[0], "10.77.0.1/24")
    holder = (
        "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
        "s.bind(('::', 5353)); print('held', flush=True); input()"
    )
    held = subprocess.Popen(
        ["ip", "netns", "exec", wire[0], sys.executable, "-c", holder],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert held.stdout is not None
    assert held.stdin is not None
    with held:
        assert held.stdout.readline() == "held\n"
        with process(1, wire[0]) as one:
            line = one.until(lambda line: line.get("problem") is not None)
            assert "port 5353" in line["problem"]
            held.stdin.write("\n")
            held.stdin.flush()
            # Once it is free, the node is found without a restart.
            assert one.until(lambda line: "problem" in line)["problem"] is None


async def _program(number: int) -> None:
    """A node: listens on every address, tells what it finds, and dials what it is told."""
    queue_in, queue_out = trio.open_memory_channel[Advert](64)

    async def tell_problems(discovery: Discovery) -> None:
        told: str | None = None
        while True:
            if discovery.problem != told:
                told = discovery.problem
                print(json.dumps({"problem": told}), flush=True)  # noqa: T201
            await trio.sleep(0.02)  # poll: the problem is a plain attribute

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"k")

    listeners = [
        *await trio.open_tcp_listeners(50_000 + number, host="0.0.0.0"),
        *await trio.open_tcp_listeners(50_000 + number, host="::"),
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, greet, listeners)
        async with node(number, queue_in.send_nowait, check_s=0.1) as discovery:
            nursery.start_soon(tell_problems, discovery)
            async for advert in queue_out:
                print(  # noqa: T201
                    json.dumps(
                        {
                            "peer": advert.peer,
                            "boot": advert.boot,
                            "addresses": advert.addresses,
                            "answered": [await _answers(each) for each in advert.addresses],
                        }
                    ),
                    flush=True,
                )


async def _answers(multiaddr: str) -> bool:
    address = parse_multiaddr(multiaddr)
    with trio.move_on_after(2):
        try:
            async with await trio.open_tcp_stream(address.dial_host, address.port) as stream:
                return await stream.receive_some(1) == b"k"
        except OSError:
            pass
    return False


if __name__ == "__main__":
    trio.run(_program, int(sys.argv[1]))
