"""Lanes between real nodes: order, size, slow and frozen peers, and lanes that break."""

from __future__ import annotations

import time

import trio

from kowalski_node.network import NetworkOptions
from kowalski_node.network.border import attempt
from kowalski_node.network.lanes import LANE
from kowalski_node.network.stream import open_stream
from tests.live.network_world import KEYS, Recorder, meet, network, process, until

MEBIBYTE = 1024 * 1024


async def test_messages_arrive_whole_and_in_order() -> None:
    sizes = [0, 1, 3, 4, 5, 1000, 65535, 65536, 262144, MEBIBYTE, 3 * MEBIBYTE, 7]
    sent = [bytes([number]) * size for number, size in enumerate(sizes)]
    here = Recorder()
    async with network(0, here) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        for message in sent:
            assert b.send(KEYS[0], message)
        await until(lambda: len(here.messages) == len(sent))
        assert here.messages == [(KEYS[1], message) for message in sent]
        counted = a.traffic()[KEYS[1]]["lane"].received_bytes
        assert counted == sum(sizes)


async def test_ten_thousand_messages_arrive_in_order() -> None:
    here = Recorder()
    async with network(0, here) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        for number in range(10_000):
            assert b.send(KEYS[0], b"message %d" % number)
        await until(lambda: len(here.messages) == 10_000)
        assert [m for _, m in here.messages] == [b"message %d" % n for n in range(10_000)]


async def test_what_is_sent_just_before_leaving_arrives() -> None:
    here = Recorder()
    async with network(0, here) as a:
        async with network(1, Recorder()) as b:
            await meet(b, 0, a)
            for number in range(1000):
                # Both ways, so that something unread is there when the connection closes.
                a.send(KEYS[1], b"%d" % number)
                assert b.send(KEYS[0], b"message %d" % number)
            b.publish("task", b"the last word")
        await until(lambda: here.disconnected)
        assert [message for _, message in here.messages] == [b"message %d" % n for n in range(1000)]
        assert ("task", KEYS[1], b"the last word") in here.gossip


async def test_without_a_lane_or_over_the_size_nothing_is_sent() -> None:
    async with network(0, Recorder()) as a, network(1, Recorder()) as b:
        assert not b.send(KEYS[0], b"nobody there")
        await meet(b, 0, a)
        assert not b.send(KEYS[0], bytes(4 * MEBIBYTE + 1))
        assert b.send(KEYS[0], b"fits")


async def test_over_its_bound_the_queue_is_emptied_and_the_node_told() -> None:
    options = NetworkOptions(lane_queue_bytes=MEBIBYTE)
    here, there = Recorder(), Recorder()
    async with network(0, here) as a, network(1, there, options) as b:
        await meet(b, 0, a)
        # No task switch in between, so nothing of it can be written.
        accepted = [b.send(KEYS[0], bytes(100_000)) for _ in range(11)]
        assert accepted == [True] * 10 + [False]
        assert there.overflowed == []  # told later, not inside of `send`
        await until(lambda: there.overflowed == [KEYS[0]])
        assert b.send(KEYS[0], b"after the overflow")
        await until(lambda: here.messages)
        assert here.messages == [(KEYS[1], b"after the overflow")]


async def test_a_frozen_peer_blocks_nobody() -> None:
    there, other = Recorder(), Recorder()
    options = NetworkOptions(lane_queue_bytes=2 * MEBIBYTE, write_stall_s=3.0)
    async with (
        network(0, there, options) as a,
        network(2, other) as c,
        process(1, (0, a.addresses[0])) as frozen,
    ):
        await until(lambda: a.connected())
        await meet(a, 2, c)
        frozen.freeze()
        worst_s = 0.0
        for number in range(300):
            begun_s = time.perf_counter()
            a.send(KEYS[1], bytes(65536))
            a.publish("task", b"%d" % number + bytes(4096))
            worst_s = max(worst_s, time.perf_counter() - begun_s)
            if number % 20 == 0:
                expected = len(other.messages) + 1
                begun_s = time.perf_counter()
                assert a.send(KEYS[2], b"to the living")
                await until(lambda expected=expected: len(other.messages) == expected)
                worst_s = max(worst_s, time.perf_counter() - begun_s)
        assert worst_s < 1  # to block would mean the three seconds of the stall
        await until(lambda: len(other.gossip) == 300)
        assert KEYS[1] in there.overflowed
        # It is still connected, as far as anybody can know; past the stall it is cut.
        await until(lambda: there.disconnected == [KEYS[1]])
        frozen.thaw()


async def test_a_peer_that_was_frozen_for_a_moment_is_served_again() -> None:
    there = Recorder()
    async with network(0, there) as a, process(1, (0, a.addresses[0])) as other:
        await until(lambda: a.connected())
        other.freeze()
        for _ in range(200):
            a.send(KEYS[1], bytes(65536))
        other.thaw()
        with trio.fail_after(10):
            while not there.messages:
                a.send(KEYS[1], b"are you there")
                await trio.sleep(0.01)  # poll: the echo
        assert there.messages[0] == (KEYS[1], b"are you there")


async def test_a_lane_that_the_other_side_closes_is_opened_again() -> None:
    here, there = Recorder(), Recorder()
    async with network(0, here) as a, network(1, there) as b:
        await meet(b, 0, a)
        for round_ in range(3):
            message = b"round %d" % round_
            (peer,) = a._peers.announced()
            peer.reader.cancel()  # a stops reading b's lane, and closes it
            with trio.fail_after(10):
                while (KEYS[1], message) not in here.messages:
                    b.send(KEYS[0], message)
                    await trio.sleep(0.01)  # poll: the message
        assert KEYS[0] in there.overflowed
        assert (here.disconnected, there.disconnected) == ([], [])


async def test_a_length_that_lies_closes_the_lane_and_nothing_else() -> None:
    here = Recorder()
    async with network(0, here) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        liar = await open_stream(b._conn(KEYS[0]), LANE)
        await liar.write(b"\x7f\xff\xff\xff" + bytes(100))
        with trio.fail_after(5):
            while not await _is_over(liar):
                pass
        with trio.fail_after(10):
            while (KEYS[1], b"the honest lane") not in here.messages:
                b.send(KEYS[0], b"the honest lane")
                await trio.sleep(0.01)  # poll: the message
        assert here.disconnected == []


async def _is_over(stream: object) -> bool:
    from kowalski_node.network import NetworkError
    from kowalski_node.network.stream import BufferedStream

    assert isinstance(stream, BufferedStream)
    try:
        await attempt("reading", 1, stream.read_piece)
    except NetworkError:
        return True
    return False


async def test_a_mistake_of_the_node_in_a_callback_is_logged_and_ends_nothing(caplog) -> None:
    class Clumsy(Recorder):
        def lane_received(self, peer: bytes, data: bytes) -> None:
            super().lane_received(peer, data)
            raise ZeroDivisionError

    here = Clumsy()
    async with network(0, here) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        b.send(KEYS[0], b"one")
        b.send(KEYS[0], b"two")
        await until(lambda: len(here.messages) == 2)
        assert "lane_received failed" in caplog.text
