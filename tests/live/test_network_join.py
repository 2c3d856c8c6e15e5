"""The join door: strangers speak to it and to nothing else, a little and not for long."""

from __future__ import annotations

import socket
import time

import pytest
import trio

from kowalski_node.network import JoinListener, NetworkError, ask_to_join
from kowalski_node.network import join_listener as door
from tests.live.network_world import IDENTITIES, KEYS, LOOPBACK, Recorder, network, until

STRANGER = 9


class Inviter:
    def __init__(self) -> None:
        self.calls: list[tuple[bytes, bytes]] = []

    async def answer(self, peer: bytes, request: bytes) -> bytes:
        self.calls.append((peer, request))
        await trio.lowlevel.checkpoint()
        return b"welcome, " + request


def listener(inviter: Inviter, number: int = 0, listen: str = LOOPBACK) -> JoinListener:
    return JoinListener(seed=IDENTITIES[number].seed, listen=[listen], answer=inviter.answer)


async def call(addresses: list[str], request: bytes = b"stranger", timeout_s: float = 5) -> bytes:
    return await ask_to_join(IDENTITIES[STRANGER].seed, KEYS[0], addresses, request, timeout_s)


async def test_a_stranger_is_answered_and_known_by_its_key() -> None:
    inviter = Inviter()
    async with listener(inviter) as opened:
        assert await call(["/ip4/127.0.0.1/tcp/1", *opened.addresses]) == b"welcome, stranger"
        assert inviter.calls == [(KEYS[STRANGER], b"stranger")]
        begun_s = time.monotonic()
    assert time.monotonic() - begun_s < 1
    with pytest.raises(NetworkError):
        await call(opened.addresses)


async def test_the_caller_talks_to_its_inviter_alone() -> None:
    inviter = Inviter()
    async with listener(inviter, number=1) as opened:
        plain = [address.partition("/p2p/")[0] for address in opened.addresses]
        with pytest.raises(NetworkError):
            await call(plain)
    assert inviter.calls == []


async def test_the_main_listener_does_not_open_the_door_and_the_door_opens_nothing_else() -> None:
    recorder, inviter = Recorder(members=KEYS[:3]), Inviter()
    async with network(0, recorder) as main, listener(inviter) as opened:
        with pytest.raises(NetworkError):
            await call(main.addresses)
        # A stranger with the whole protocol gets no lane, no gossip and no pull out of the door.
        outside = Recorder()
        async with network(STRANGER, outside) as stranger:
            await stranger.dial(KEYS[0], opened.addresses, 2)
            stranger.publish("task", b"let me in")
            stranger.send(KEYS[0], b"let me in")
            with pytest.raises(NetworkError):
                await stranger.request(KEYS[0], b"let me in", 2)
    assert (recorder.connected, recorder.messages, recorder.gossip) == ([], [], [])
    assert (recorder.requests, inviter.calls) == ([], [])


async def test_messages_are_bounded() -> None:
    inviter = Inviter()
    async with listener(inviter) as opened:
        largest = bytes(64 * 1024)
        with pytest.raises(AssertionError):
            await call(opened.addresses, largest + b"!")
        with pytest.raises(NetworkError):  # the welcome makes the response too long
            await call(opened.addresses, largest)
        assert await call(opened.addresses, largest[:-9]) == b"welcome, " + largest[:-9]


async def test_a_guesser_gets_few_tries() -> None:
    inviter = Inviter()
    async with listener(inviter) as opened:
        answered = 0
        for _ in range(30):
            try:
                await call(opened.addresses, timeout_s=2)
                answered += 1
            except NetworkError:
                pass
        assert answered == len(inviter.calls) == door.CALLS_IN_A_ROW_MAX


def test_a_budget_refills_with_time_and_is_bounded_in_sources() -> None:
    budget = door.Budget()
    assert [budget.take("one", 0.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert budget.take("another", 0.0)
    assert [budget.take("one", door.CALL_EVERY_S) for _ in range(2)] == [True, False]
    assert [budget.take("one", 1e6) for _ in range(11)] == [True] * 10 + [False]
    for number in range(5000):
        budget.take(f"source {number}", 1e6)
    assert len(budget._used) == door.SOURCES_MAX


async def test_silent_callers_are_closed_and_at_most_eight_at_once(monkeypatch) -> None:
    monkeypatch.setattr(door, "CALL_S", 0.5)
    inviter = Inviter()
    async with listener(inviter) as opened:
        port = int(opened.addresses[0].split("/")[4])
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(12)]
        try:
            begun_s = time.monotonic()
            for each in silent:
                each.settimeout(5)
                await trio.to_thread.run_sync(_read_to_end, each)
            assert time.monotonic() - begun_s < 3
        finally:
            for each in silent:
                each.close()
    assert inviter.calls == []


def _read_to_end(connection: socket.socket) -> None:
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass


async def test_two_doors_on_one_port_are_a_clear_problem() -> None:
    from kowalski_protocol.errors import Problem

    inviter = Inviter()
    async with listener(inviter) as opened:
        address = opened.addresses[0].partition("/p2p/")[0]
        with pytest.raises(Problem) as raised:
            async with listener(inviter, listen=address):
                pass
        assert raised.value.code == "port_busy"
    await until(lambda: True)
