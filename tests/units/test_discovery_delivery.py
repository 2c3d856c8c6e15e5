"""How adverts cross from the multicast thread to trio: in bounds, in time, on the right thread."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
import trio_asyncio

import kowalski_node.discovery as discovery_module
from kowalski_node.addresses import InterfaceAddress
from kowalski_node.adverts import REPEAT_S, Advert, cluster_tag
from kowalski_node.discovery import STOP_S, Discovery
from kowalski_node.multicast import (
    Announcement,
    Multicast,
    NoMulticastError,
    NoNetworkError,
    _senders,
    _sentence,
)
from kowalski_protocol.identity import Identity

PEER = Identity(bytes(range(32))).peer_id
ADVERT = Advert(PEER, cluster_tag(b"x"), ("/ip4/10.0.0.1/tcp/1",), "desk")


class Thread:
    """Stands in for `Multicast`: runs until stopped and lets the test play the network."""

    hangs = False
    made: list[Thread]

    def __init__(
        self,
        announcement: Announcement,
        *,
        heard: Callable[[Advert], None],
        trouble: Callable[[str | None], None],
        hosts: Callable[[], Any],
        check_s: float,
    ) -> None:
        self.announced = [announcement]
        self.heard, self.trouble = heard, trouble
        self.stopped = threading.Event()
        self.made.append(self)

    def run(self) -> None:
        self.stopped.wait()

    def stop(self) -> None:
        if not self.hangs:
            self.stopped.set()

    def update(self, announcement: Announcement) -> None:
        self.announced.append(announcement)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> type[Thread]:
    class Network(Thread):
        made: list[Thread] = []  # noqa: RUF012

    monkeypatch.setattr(discovery_module, "Multicast", Network)
    return Network


def discover(found: Callable[[Advert], None]) -> Discovery:
    return Discovery(peer=PEER, cluster=b"x" * 32, port=1, name="desk", found=found)


async def test_an_advert_reaches_the_node_on_trios_thread(network: type[Thread]) -> None:
    got = trio.Event()
    threads: list[int] = []

    def found(advert: Advert) -> None:
        threads.append(threading.get_ident())
        got.set()

    async with discover(found):
        await trio.to_thread.run_sync(network.made[0].heard, ADVERT)
        with trio.fail_after(5):
            await got.wait()
    assert threads == [threading.get_ident()]


async def test_a_storm_becomes_one_call_a_second(
    network: type[Thread], autojump_clock: trio.testing.MockClock
) -> None:
    told: list[tuple[float, str]] = []
    start_s = trio.current_time()

    def found(advert: Advert) -> None:
        told.append((trio.current_time() - start_s, advert.boot))

    async with discover(found):
        for number in range(35):
            network.made[0].heard(msgspec.structs.replace(ADVERT, boot=f"{number:08x}"))
            await trio.sleep(0.1)
        await trio.sleep(10)
    assert [round(at_s, 3) for at_s, _ in told] == [0, 1, 2, 3, 4]
    assert told[-1][1] == f"{34:08x}"


async def test_a_storm_wakes_trio_once_however_many_adverts_it_has(
    network: type[Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[None] = []
    told: list[Advert] = []
    wake = Discovery._wake
    monkeypatch.setattr(Discovery, "_wake", lambda self: (woken.append(None), wake(self)))
    async with discover(told.append):
        await trio.testing.wait_all_tasks_blocked()
        for number in range(10_000):
            network.made[0].heard(msgspec.structs.replace(ADVERT, boot=f"{number:08x}"))
        await trio.testing.wait_all_tasks_blocked(0.01)
    # One wake-up may be under way when the next advert comes; ten thousand never queue.
    assert 1 <= len(woken) <= 2
    assert len(told) == 1


async def test_what_is_heard_again_after_a_silence_is_told_again(
    network: type[Thread], autojump_clock: trio.testing.MockClock
) -> None:
    told: list[Advert] = []
    async with discover(told.append):
        for _ in range(3):
            network.made[0].heard(ADVERT)
            await trio.sleep(REPEAT_S - 1)
    assert told == [ADVERT, ADVERT]


async def test_an_update_keeps_what_it_does_not_name(network: type[Thread]) -> None:
    async with discover(lambda _: None) as discovery:
        discovery.update(port=2)
        discovery.update(cluster=b"y" * 32, name="lap")
    first, second, third = network.made[0].announced
    assert (second.port, second.cluster, second.name) == (2, b"x" * 32, "desk")
    assert (third.port, third.cluster, third.name) == (2, b"y" * 32, "lap")
    assert first.boot == second.boot == third.boot
    assert first.peer == third.peer == PEER


async def test_each_start_draws_its_own_boot(network: type[Thread]) -> None:
    for _ in range(2):
        async with discover(lambda _: None):
            pass
    first, second = (thread.announced[0].boot for thread in network.made)
    assert first != second
    assert len(first) == 8


async def test_the_problem_comes_and_goes(network: type[Thread]) -> None:
    async with discover(lambda _: None) as discovery:
        assert discovery.problem is None
        network.made[0].trouble("No network.")
        assert discovery.problem == "No network."
        network.made[0].trouble(None)
        assert discovery.problem is None


async def test_a_cancelled_node_still_stops_its_thread(network: type[Thread]) -> None:
    with trio.CancelScope() as scope:
        async with discover(lambda _: None):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert network.made[0].stopped.is_set()


async def test_a_thread_that_hangs_keeps_no_node_from_ending(
    network: type[Thread], autojump_clock: trio.testing.MockClock
) -> None:
    network.hangs = True
    async with discover(lambda _: None):
        start_s = trio.current_time()
    assert trio.current_time() - start_s == pytest.approx(STOP_S)
    network.made[0].stopped.set()


async def test_an_advert_after_the_end_is_dropped(network: type[Thread]) -> None:
    told: list[Advert] = []
    async with discover(told.append):
        pass
    network.made[0].heard(ADVERT)
    await trio.testing.wait_all_tasks_blocked()
    assert told == []


def test_an_advert_after_trio_ended_is_dropped(network: type[Thread]) -> None:
    async def main() -> None:
        async with discover(lambda _: None):
            pass

    trio.run(main)
    network.made[0].heard(ADVERT)


# ----------------------------------------------------------------------------- the thread's loop


async def test_a_packet_is_read_with_a_running_loop_also_where_the_ledger_has_its_own() -> None:
    """Else what a packet asks for, such as an announcement's other pieces, is never asked."""
    packet, sender = socket.socketpair()
    started: SimpleQueue[str] = SimpleQueue()
    asked: set[asyncio.Task[None]] = set()

    async def ask() -> None:
        started.put("asked")

    def arrived() -> None:
        packet.recv(1)
        try:
            asked.add(asyncio.get_running_loop().create_task(ask()))
        except RuntimeError as error:
            started.put(str(error))

    def hosts() -> tuple[InterfaceAddress, ...]:
        asyncio.get_running_loop().add_reader(packet, arrived)
        return ()

    announcement = Announcement(peer=PEER, cluster=b"x" * 32, port=1, name="desk", boot="1")
    with packet, sender:
        packet.setblocking(False)
        sender.send(b"!")
        multicast = Multicast(
            announcement, heard=lambda _: None, trouble=lambda _: None, hosts=hosts
        )
        async with trio_asyncio.open_loop(), trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, multicast.run)
            try:
                said = await trio.to_thread.run_sync(partial(started.get, timeout=STOP_S * 10))
            finally:
                multicast.stop()
    assert said == "asked"


# ------------------------------------------------------------------- which senders, which words


def test_each_interface_sends_once_per_ip_version_and_over_ipv6_from_its_link() -> None:
    hosts = (
        InterfaceAddress("192.168.1.7", "eth0", 2),
        InterfaceAddress("192.168.1.8", "eth0", 2),
        InterfaceAddress("10.0.0.7", "wlan0", 3),
        InterfaceAddress("fd00::7", "eth0", 2),
        InterfaceAddress("fe80::7", "eth0", 2),
        InterfaceAddress("fd00:1::7", "wlan0", 3),
    )
    assert _senders(hosts, by_address=True) == [
        "192.168.1.7",
        "10.0.0.7",
        "fe80::7",
        "fd00:1::7",
    ]
    assert _senders(hosts, by_address=False) == ["192.168.1.7", "10.0.0.7", 2, 3]
    assert _senders((InterfaceAddress("127.0.0.1", "lo", 1), InterfaceAddress("::1", "lo", 1))) == [
        "127.0.0.1"
    ]
    assert _senders(()) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NoNetworkError(), "No network interface"),
        (NoMulticastError(), "takes part in multicast"),
        (OSError(98, "Address already in use"), "port 5353"),
        (PermissionError(1, "Operation not permitted"), "does not allow"),
        (OSError(101, "/secret/path"), "ENETUNREACH"),
        (OSError(99999, "odd"), "unknown"),
        (ValueError("secret"), "ValueError"),
    ],
)
def test_a_failure_is_told_in_a_sentence_without_details_of_the_device(
    error: BaseException, words: str
) -> None:
    sentence = _sentence(error)
    assert words in sentence
    assert "secret" not in sentence
    assert sentence.endswith(".")
