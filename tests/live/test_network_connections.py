"""Connections between real nodes: who gets one, how many there are, when their end is noticed."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack

import pytest
import trio

from kowalski_node.network import NetworkError, NetworkOptions
from kowalski_protocol.errors import Problem
from kowalski_protocol.identity import peer_id
from tests.live.network_world import KEYS, LOOPBACK, ROOT, Recorder, meet, network, process, until


async def test_two_members_meet_and_are_told_of_each_other_once() -> None:
    one, other = Recorder(), Recorder()
    async with network(0, one) as a, network(1, other) as b:
        assert a.addresses[0].endswith(f"/p2p/{peer_id(KEYS[0])}")
        assert await b.dial(KEYS[0], a.addresses, 5)
        await until(lambda: a.connected() and b.connected())
        assert await b.dial(KEYS[0], a.addresses, 5)  # there already
        assert (one.connected, other.connected) == ([KEYS[1]], [KEYS[0]])
        assert other.addresses == [a.addresses[0].partition("/p2p/")[0]]
    assert (one.disconnected, other.disconnected) == ([KEYS[1]], [KEYS[0]])


async def test_leaving_the_network_takes_less_than_a_second_and_frees_the_port() -> None:
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(network(n, Recorder())) for n in (1, 2, 3)]
        async with network(0, Recorder()) as a:
            for other in others:
                assert await other.dial(KEYS[0], a.addresses, 5)
            await until(lambda: len(a.connected()) == 3)
            address = a.addresses[0].partition("/p2p/")[0]
            begun_s = time.monotonic()
        assert time.monotonic() - begun_s < 1
        async with network(0, Recorder(), listen=address):
            pass


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with network(0, Recorder()):
            raise ZeroDivisionError


async def test_a_stranger_is_refused_before_any_handler_in_both_directions() -> None:
    stranger, member = 9, 0
    gate, outside = Recorder(members=KEYS[:3]), Recorder()
    async with network(member, gate) as a, network(stranger, outside) as s:
        begun_s = time.monotonic()
        assert not await s.dial(KEYS[member], a.addresses, 5)
        assert not await a.dial(KEYS[stranger], s.addresses, 5)
        assert time.monotonic() - begun_s < 1
        assert KEYS[stranger] in gate.asked
        assert (gate.connected, gate.messages, gate.gossip) == ([], [], [])
        assert (a.connected(), a.traffic()) == ([], {})
        with pytest.raises(NetworkError):
            await s.request(KEYS[member], b"let me in", 1)
        assert gate.requests == []


async def test_a_node_does_not_take_another_for_the_one_it_dialled() -> None:
    one = Recorder()
    async with network(0, one) as a, network(1, Recorder()) as b:
        plain = [address.partition("/p2p/")[0] for address in b.addresses]
        assert not await a.dial(KEYS[2], plain, 5)
        assert one.connected == []


async def test_a_removed_member_gets_no_new_connection() -> None:
    gate = Recorder()
    async with network(0, gate) as a, network(1, Recorder()) as b:
        assert await b.dial(KEYS[0], a.addresses, 5)
        await until(lambda: a.connected())
        gate.members.discard(KEYS[1])
        await a.disconnect(KEYS[1])
        await until(lambda: not b.connected())
        assert not await b.dial(KEYS[0], a.addresses, 5)


@pytest.mark.parametrize("round_", range(5))
async def test_two_nodes_that_dial_at_once_end_with_one_connection(round_: int) -> None:
    one, other = Recorder(), Recorder()
    async with network(0, one) as a, network(1, other) as b, trio.open_nursery() as nursery:
        nursery.start_soon(a.dial, KEYS[1], b.addresses, 5)
        nursery.start_soon(b.dial, KEYS[0], a.addresses, 5)
        await until(lambda: a.connected() and b.connected())
        assert a.send(KEYS[1], b"from a")
        assert b.send(KEYS[0], b"from b")
        await until(lambda: one.messages or one.overflowed)
        # Whichever connection won, both ways work and stay.
        a.send(KEYS[1], b"again from a")
        b.send(KEYS[0], b"again from b")
        await until(lambda: (KEYS[0], b"again from a") in other.messages)
        await until(lambda: (KEYS[1], b"again from b") in one.messages)
        for recorder, peer in ((one, KEYS[1]), (other, KEYS[0])):
            assert (recorder.connected, recorder.disconnected) == ([peer], [])
        for each in (a, b):
            assert len(each._host.swarm.get_connections()) == 1


async def test_a_peer_that_comes_again_unnoticed_replaces_its_old_connection() -> None:
    here = Recorder()
    async with network(0, here) as a, network(1, Recorder()) as b:
        assert await b.dial(KEYS[0], a.addresses, 5)
        await until(lambda: a.connected())
        # The same identity from another place, as after a restored laptop: the newer one counts.
        async with network(1, Recorder()) as again:
            with trio.fail_after(10):
                while not await again.dial(KEYS[0], a.addresses, 5):
                    pass
            await until(lambda: not b.connected())
            await until(lambda: a.connected() == [KEYS[1]])
            assert a.send(KEYS[1], b"to the new one")
            recorder = again._handler
            assert isinstance(recorder, Recorder)
            await until(lambda: recorder.messages or here.overflowed)


async def test_the_first_address_that_works_is_used() -> None:
    async with network(0, Recorder()) as a, network(1, Recorder()) as b:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            dead = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
            begun_s = time.monotonic()
            addresses = ["/ip4/127.0.0.1/tcp/1", "nonsense", dead, *b.addresses]
            assert await a.dial(KEYS[1], addresses, 8)
            # The one that only listens must not hold up the one that works for its whole deadline.
            assert time.monotonic() - begun_s < 3


async def test_dialling_nobody_ends_in_time() -> None:
    async with network(0, Recorder()) as a:
        begun_s = time.monotonic()
        assert not await a.dial(KEYS[1], ["/ip4/127.0.0.1/tcp/1"], 1)
        assert not await a.dial(KEYS[1], [], 1)
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            address = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
            assert not await a.dial(KEYS[1], [address], 0.3)
        assert time.monotonic() - begun_s < 1


async def test_ipv6_works_and_shares_its_port_with_ipv4() -> None:
    async with network(0, Recorder()) as a:
        port = a.addresses[0].split("/")[4]
        seen = Recorder()
        try:
            async with network(1, seen, listen=f"/ip6/::1/tcp/{port}") as six:
                assert six.addresses[0].startswith(f"/ip6/::1/tcp/{port}/")
                assert await a.dial(KEYS[1], six.addresses, 5)
                await until(lambda: seen.connected)
                assert seen.addresses[0].startswith("/ip6/::1/tcp/")
        except Problem as problem:
            pytest.skip(f"this machine has no IPv6: {problem}")


async def test_a_port_that_another_has_is_a_clear_problem() -> None:
    async with network(0, Recorder()) as a:
        address = a.addresses[0].partition("/p2p/")[0]
        with pytest.raises(Problem) as raised:
            async with network(1, Recorder(), listen=address):
                pass
    assert raised.value.code == "port_busy"
    assert raised.value.mend


async def test_sockets_do_not_wait_to_fill_a_packet() -> None:
    async with network(0, Recorder()) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        for each in (a, b):
            (peer,) = each._peers.announced()
            assert peer.connection is not None
            option = peer.connection.wire._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert option


async def test_a_killed_process_is_noticed_at_once() -> None:
    here = Recorder()
    async with network(0, here) as a, process(1, (0, a.addresses[0])) as other:
        await until(lambda: a.connected())
        killed_s = time.monotonic()
        other.kill()
        await until(lambda: here.disconnected == [KEYS[1]])
        # Milliseconds, where libp2p takes 200; the rest is for a machine that has other work.
        assert time.monotonic() - killed_s < 0.5
        assert a.connected() == []
        assert not a.send(KEYS[1], b"too late")


async def test_a_restarted_process_is_dialled_and_heard_at_once() -> None:
    here = Recorder()
    async with network(0, here) as a:
        for life in range(3):
            async with process(1) as other:
                begun_s = time.monotonic()
                assert await a.dial(KEYS[1], [other.address], 5)
                assert a.send(KEYS[1], b"publish life %d" % life)
                await until(lambda life=life: any(d == b"life %d" % life for *_, d in here.gossip))
                # Far below the minutes for which libp2p would not hear or dial it again.
                assert time.monotonic() - begun_s < 5
                other.kill()
            await until(lambda life=life: len(here.disconnected) == life + 1)


async def test_a_failed_dial_does_not_delay_the_next_one() -> None:
    async with network(0, Recorder()) as a:
        for _ in range(3):
            assert not await a.dial(KEYS[1], ["/ip4/127.0.0.1/tcp/1"], 1)
        async with network(1, Recorder()) as b:
            with trio.fail_after(1):
                assert await a.dial(KEYS[1], b.addresses, 1)


async def test_many_members_meet_each_other() -> None:
    count = 6
    recorders = [Recorder() for _ in range(count)]
    async with AsyncExitStack() as stack:
        networks = [
            await stack.enter_async_context(network(number, recorder))
            for number, recorder in enumerate(recorders)
        ]
        async with trio.open_nursery() as nursery:
            for one in range(count):
                for other in range(count):
                    if one != other:
                        addresses = networks[other].addresses
                        nursery.start_soon(networks[one].dial, KEYS[other], addresses, 10)
        await until(lambda: all(len(each.connected()) == count - 1 for each in networks))
        for number, recorder in enumerate(recorders):
            assert sorted(recorder.connected) == sorted(set(KEYS[:count]) - {KEYS[number]})
            assert recorder.disconnected == []


@pytest.mark.parametrize("seed", [1, 2])
async def test_after_any_number_of_breaks_everything_works_again(seed: int) -> None:
    chance = random.Random(seed)
    count, faults = 3, 60
    recorders = [Recorder() for _ in range(count)]
    async with AsyncExitStack() as stack:
        networks = [
            await stack.enter_async_context(network(number, recorder))
            for number, recorder in enumerate(recorders)
        ]

        async def dial_for_ever(number: int) -> None:
            while True:
                other = (number + chance.randrange(1, count)) % count
                await networks[number].dial(KEYS[other], networks[other].addresses, 2)
                await trio.sleep(chance.random() * 0.05)  # poll: whether to dial again

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(dial_for_ever, number)
            for _ in range(faults):
                each = chance.choice(networks)
                each.publish("task", os.urandom(20))
                if each.connected():
                    await each.disconnect(chance.choice(each.connected()))
                await trio.sleep(chance.random() * 0.1)  # poll: the next fault
            # Then quiet: all find each other, on one connection each, by every way.
            await until(lambda: all(len(each.connected()) == count - 1 for each in networks))
            nursery.cancel_scope.cancel()
        await until(lambda: all(len(each._gossip.reached()) == count - 1 for each in networks), 30)
        for one in range(count):
            mark = os.urandom(8)
            networks[one].publish("task", mark)
            for other in set(range(count)) - {one}:
                here = recorders[other]
                await until(lambda: ("task", KEYS[one], mark) in here.gossip)  # noqa: B023
                assert networks[one].send(KEYS[other], mark)
                await until(lambda: (KEYS[one], mark) in here.messages)  # noqa: B023
                assert await networks[one].request(KEYS[other], mark, 5) == b"answer to " + mark
            gone = len(recorders[one].connected) - len(recorders[one].disconnected)
            assert gone == count - 1
            assert len(networks[one]._host.swarm.get_connections()) == count - 1


async def test_silent_handshakes_are_bounded_and_members_still_pass() -> None:
    options = NetworkOptions(handshakes_per_address_max=8, handshake_timeout_s=1.0)
    async with network(0, Recorder(), options) as a, network(1, Recorder()) as b:
        port = int(a.addresses[0].split("/")[4])
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        try:
            # Those over the bound are closed at once, the others when their time is up.
            for each in silent:
                each.settimeout(5)
            ends = [await trio.to_thread.run_sync(_ends, each) for each in silent[8:12]]
            assert ends == [True] * 4
            with trio.fail_after(5):
                while not await b.dial(KEYS[0], a.addresses, 5):
                    pass
        finally:
            for each in silent:
                each.close()


def _ends(connection: socket.socket) -> bool:
    """Whether the other side closes the connection."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def test_naming_the_package_does_not_load_libp2p() -> None:
    code = "import sys, kowalski_node.network; sys.exit('libp2p' in sys.modules)"
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("protocol", "node"))
    environment = {**os.environ, "PYTHONPATH": paths}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )


def test_listening_addresses_are_checked() -> None:
    assert LOOPBACK == "/ip4/127.0.0.1/tcp/0"
    for wrong in ("", "/ip4/127.0.0.1", "/dns/localhost/tcp/1", "/ip4/8.8.8.8/tcp/0"):
        with pytest.raises(Problem):
            trio.run(_enter, wrong)


async def _enter(listen: str) -> None:
    async with network(0, Recorder(), listen=listen):
        pass
