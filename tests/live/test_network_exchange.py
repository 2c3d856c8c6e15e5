"""Pulls and blobs between real nodes: content, bounds, deadlines and what they leave behind."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator

import pytest
import trio
from libp2p.network.stream.exceptions import StreamError

from kowalski_node.network import (
    BlobTooShort,
    Network,
    NetworkError,
    NetworkOptions,
    PeerLied,
)
from kowalski_node.network.exchange import BLOB, PULL
from kowalski_node.network.stream import BufferedStream, framed, open_stream
from tests.live.network_world import KEYS, Recorder, meet, network, process, until

MEBIBYTE = 1024 * 1024


def streams_of(network: Network) -> int:
    """The yamux streams of the network's only connection."""
    (conn,) = network._host.swarm.get_connections()
    return len(conn.muxed_conn.streams)  # type: ignore[attr-defined]


def unread_by(network: Network) -> int:
    """The bytes that arrived at the network's only connection and wait to be read."""
    (conn,) = network._host.swarm.get_connections()
    return sum(map(len, conn.muxed_conn.stream_buffers.values()))  # type: ignore[attr-defined]


async def test_a_request_gets_its_response() -> None:
    there = Recorder()
    async with network(0, there) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        for request in (b"", b"small", bytes(MEBIBYTE)):
            assert await b.request(KEYS[0], request, 5) == b"answer to " + request
        assert there.requests == [b"", b"small", bytes(MEBIBYTE)]
        assert b.traffic()[KEYS[0]]["pull"].sent_bytes == MEBIBYTE + 5


async def test_requests_run_beside_each_other_and_leave_no_stream() -> None:
    async with network(0, Recorder()) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        before = streams_of(a), streams_of(b)
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for number in range(16):
                    nursery.start_soon(_asks, b, b"%d" % number)
        await until(lambda: (streams_of(a), streams_of(b)) == before)


async def _asks(network: Network, request: bytes) -> None:
    assert await network.request(KEYS[0], request, 5) == b"answer to " + request


async def test_requests_that_are_given_up_leave_no_stream() -> None:
    class Slow(Recorder):
        async def answer(self, peer: bytes, request: bytes) -> bytes:
            await trio.sleep_forever()
            return b""

    options = NetworkOptions(answer_timeout_s=0.2)
    async with network(0, Slow(), options) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        before = streams_of(a), streams_of(b)
        for _ in range(20):
            with trio.move_on_after(0.01):
                await b.request(KEYS[0], b"too slow", 5)
            with pytest.raises(NetworkError):
                await b.request(KEYS[0], b"too slow", 0.01)
        with pytest.raises(NetworkError):
            await b.request(KEYS[0], b"too slow", 5)
        await until(lambda: (streams_of(a), streams_of(b)) == before)


async def test_what_is_too_large_is_refused_on_either_side() -> None:
    class Talkative(Recorder):
        async def answer(self, peer: bytes, request: bytes) -> bytes:
            return bytes(int(request))

    options = NetworkOptions(request_bytes=1000, response_bytes=2000)
    generous = NetworkOptions(response_bytes=4000)
    async with network(0, Talkative(), generous) as a, network(1, Recorder(), options) as b:
        await meet(b, 0, a)
        assert len(await b.request(KEYS[0], b"2000", 5)) == 2000
        for asked in (b"2001", b"4001"):  # more than the asker takes, more than the other gives
            with pytest.raises(NetworkError):
                await b.request(KEYS[0], asked, 5)
        with pytest.raises(NetworkError):
            await a.request(KEYS[1], bytes(1001), 5)


async def test_an_answer_that_fails_is_an_error_there_and_here_and_ends_nothing(caplog) -> None:
    class Failing(Recorder):
        async def answer(self, peer: bytes, request: bytes) -> bytes:
            raise ZeroDivisionError

    async with network(0, Failing()) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        begun_s = time.monotonic()
        with pytest.raises(NetworkError):
            await b.request(KEYS[0], b"fail", 5)
        assert time.monotonic() - begun_s < 1
        assert "answer failed" in caplog.text
        assert a.connected()


async def test_asking_nobody_fails_at_once() -> None:
    async with network(0, Recorder()) as a:
        with pytest.raises(NetworkError):
            await a.request(KEYS[1], b"hello", 5)
        with pytest.raises(NetworkError):
            async with a.fetch_blob(KEYS[1], bytes(32), 0):
                pass


async def test_a_request_to_a_frozen_peer_ends_in_time() -> None:
    async with network(0, Recorder()) as a, process(1, (0, a.addresses[0])) as other:
        await until(lambda: a.connected())
        other.freeze()
        begun_s = time.monotonic()
        with pytest.raises(NetworkError):
            await a.request(KEYS[1], b"hello", 0.3)
        assert time.monotonic() - begun_s < 1
        other.thaw()
        assert await a.request(KEYS[1], b"hello", 5) == b"answer to hello"


async def test_a_blob_comes_from_any_offset() -> None:
    blob = hashlib.sha512(b"blob").digest() * 50_000  # 3 MiB
    name = hashlib.sha256(blob).digest()
    there = Recorder()
    there.blobs[name] = blob
    async with network(0, there) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        for offset in (0, 1, 1_000_000, len(blob) - 1, len(blob)):
            received = bytearray()
            async with b.fetch_blob(KEYS[0], name, offset) as fetched:
                assert fetched.size_bytes == len(blob)
                async for chunk in fetched:
                    assert 0 < len(chunk) <= MEBIBYTE + 65536
                    received += chunk
            assert received == blob[offset:]
        with pytest.raises(NetworkError, match="doesn't have"):
            async with b.fetch_blob(KEYS[0], bytes(32), 0):
                pass
        with pytest.raises(BlobTooShort):
            async with b.fetch_blob(KEYS[0], name, len(blob) + 1):
                pass


async def test_a_large_blob_takes_constant_memory_and_may_be_left_half_way() -> None:
    size = 64 * MEBIBYTE
    ahead = 0

    class Endless(Recorder):
        async def serve_blob(
            self, peer: bytes, blob_hash: bytes, offset: int
        ) -> tuple[int, AsyncIterator[bytes]]:
            async def chunks() -> AsyncIterator[bytes]:
                nonlocal ahead
                for _ in range(size // 65536):
                    ahead += 65536
                    yield bytes(65536)

            return size, chunks()

    async with network(0, Endless()) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        before = streams_of(a), streams_of(b)
        async with b.fetch_blob(KEYS[0], bytes(32), 0) as fetched:
            received = 0
            async for chunk in fetched:
                received += len(chunk)
                if received >= 8 * MEBIBYTE:
                    await until(lambda: unread_by(b))
                    break
        # The other side was never far ahead: its window, and what the kernel holds.
        assert ahead < 24 * MEBIBYTE
        await until(lambda: (streams_of(a), streams_of(b)) == before)
        async with b.fetch_blob(KEYS[0], bytes(32), 0) as fetched:
            assert sum([len(chunk) async for chunk in fetched]) == size


async def fetch_whole(network: Network) -> None:
    async with network.fetch_blob(KEYS[0], bytes(32), 0) as fetched:
        async for _ in fetched:
            pass


async def test_a_blob_that_stops_coming_is_given_up() -> None:
    class Stopping(Recorder):
        async def serve_blob(
            self, peer: bytes, blob_hash: bytes, offset: int
        ) -> tuple[int, AsyncIterator[bytes]]:
            async def chunks() -> AsyncIterator[bytes]:
                yield bytes(1000)
                await trio.sleep_forever()

            return 2000, chunks()

    options = NetworkOptions(read_timeout_s=0.3)
    async with network(0, Stopping()) as a, network(1, Recorder(), options) as b:
        await meet(b, 0, a)
        with pytest.raises(NetworkError):
            await fetch_whole(b)


async def test_a_blob_that_ends_early_is_an_error() -> None:
    class Short(Recorder):
        async def serve_blob(
            self, peer: bytes, blob_hash: bytes, offset: int
        ) -> tuple[int, AsyncIterator[bytes]]:
            async def chunks() -> AsyncIterator[bytes]:
                yield bytes(1000)

            return 2000, chunks()

    async with network(0, Short()) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        with pytest.raises(NetworkError):
            await fetch_whole(b)


class Says(Recorder):
    """Says a size, and sends what it likes, in chunks of its own; knows whether it was closed."""

    def __init__(self, size_bytes: int, *chunks: bytes, pause_s: float = 0) -> None:
        super().__init__()
        self._size_bytes = size_bytes
        self._chunks = chunks
        self._pause_s = pause_s
        self.closed = False

    async def serve_blob(
        self, peer: bytes, blob_hash: bytes, offset: int
    ) -> tuple[int, AsyncIterator[bytes]]:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                for chunk in self._chunks:
                    yield chunk
                    await trio.sleep(self._pause_s)  # poll: the pace that the test is about
            finally:
                self.closed = True

        return self._size_bytes, chunks()


async def test_chunks_of_any_size_are_sent() -> None:
    chunks = [bytes([number]) * size for number, size in enumerate((1, 65507, 65508, 5_000_000))]
    there = Says(sum(map(len, chunks)), *chunks)
    async with network(0, there) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        async with b.fetch_blob(KEYS[0], bytes(32), 0) as fetched:
            assert b"".join([chunk async for chunk in fetched]) == b"".join(chunks)
        assert a.traffic()[KEYS[1]]["blob"].sent_bytes == sum(map(len, chunks))
        await until(lambda: there.closed)


async def test_more_bytes_than_were_said_are_not_handed_on() -> None:
    async with network(0, Says(1000, bytes(2000))) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        with pytest.raises(PeerLied):
            await fetch_whole(b)


async def test_a_blob_without_an_end_is_refused_before_its_first_byte() -> None:
    options = NetworkOptions(blob_bytes=5000)
    for size_bytes in (5001, 2**64 - 1):
        there = Says(size_bytes, bytes(size_bytes % 10_000))
        async with network(0, there) as a, network(1, Recorder(), options) as b:
            await meet(b, 0, a)
            with pytest.raises(PeerLied):
                await fetch_whole(b)


async def test_a_blob_that_trickles_is_given_up() -> None:
    options = NetworkOptions(read_timeout_s=0.3)
    there = Says(10**6, *[b"x"] * 1000, pause_s=0.02)
    async with network(0, there) as a, network(1, Recorder(), options) as b:
        await meet(b, 0, a)
        begun_s = time.monotonic()
        with pytest.raises(NetworkError, match="longer"):
            await fetch_whole(b)
        assert time.monotonic() - begun_s < 5
        await until(lambda: there.closed)


async def test_half_a_request_is_given_up_and_its_stream_ended() -> None:
    there = Recorder()
    options = NetworkOptions(read_timeout_s=0.2)
    async with network(0, there, options) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        before = streams_of(a)
        for protocol, begun in ((PULL, framed(bytes(100))[:50]), (BLOB, bytes(10)), (PULL, b"")):
            stream = await open_stream(b._conn(KEYS[0]), protocol)
            await stream.write(begun)
            with trio.fail_after(2):
                await _until_reset(stream)
        await until(lambda: streams_of(a) == before)
        assert there.requests == []


async def _until_reset(stream: BufferedStream) -> None:
    try:
        while True:
            await stream.read_piece()
    except StreamError:
        return
