"""Clients that dribble, stall or never read: each is cut off in its time, and others notice
nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from kowalski_gateway.http.bounds import HttpBounds
from tests.ports.api_world import PATIENCE_S, ask, serving, wire
from tests.ports.scripted_node import ScriptedNode

QUICK = HttpBounds(
    head_s=0.2, idle_s=0.2, body_grace_s=0.2, body_rate_bytes_s_min=1000, send_s=0.2, linger_s=0.2
)


def head(port: int, length: int, path: str = "/api/tasks") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def test_a_silent_connection_is_closed() -> None:
    async with serving(ScriptedNode(), bounds=QUICK) as port, wire(port) as one:
        assert await one.closed() == b""


async def test_a_head_that_does_not_end_is_cut_off() -> None:
    async with serving(ScriptedNode(), bounds=QUICK) as port, wire(port) as one:
        await one.stream.send_all(b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1")
        assert await one.closed() == b""


async def test_a_head_that_dribbles_is_cut_off_all_the_same() -> None:
    async with serving(ScriptedNode(), bounds=QUICK) as port, wire(port) as one:
        with trio.fail_after(PATIENCE_S):
            await one.stream.send_all(b"GET / HTTP/1.1\r\n")
            cut_off = False
            while not cut_off:
                # Each byte comes in good time; the whole head does not.
                try:
                    await one.stream.send_all(b"x")
                    with trio.move_on_after(0.01):
                        cut_off = await one.stream.receive_some(1) == b""
                except trio.BrokenResourceError:
                    cut_off = True


async def test_a_kept_connection_without_a_request_is_closed() -> None:
    async with serving(ScriptedNode(), bounds=QUICK) as port, wire(port) as one:
        await one.ask("GET", "/api/health")
        assert await one.closed() == b""


async def test_a_body_that_stalls_is_answered_with_408() -> None:
    async with serving(ScriptedNode(), bounds=QUICK) as port, wire(port) as one:
        await one.stream.send_all(head(port, 100) + b"{")
        answer = await one.closed()
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"too_slow" in answer


async def test_a_body_below_the_minimum_pace_is_answered_with_408() -> None:
    async with serving(ScriptedNode(), bounds=QUICK) as port, wire(port) as one:
        await one.stream.send_all(head(port, 100_000))
        got = b""
        with trio.fail_after(PATIENCE_S):
            while b"too_slow" not in got:
                with trio.move_on_after(0.01):
                    got += await one.stream.receive_some(65536)
                if not got:
                    await one.stream.send_all(b" ")


async def test_a_body_that_keeps_the_pace_is_read_however_long_it_takes() -> None:
    bounds = HttpBounds(body_grace_s=0.2, body_rate_bytes_s_min=200)
    async with serving(ScriptedNode(), bounds=bounds) as port, wire(port) as one:
        body = b'{"kind":"tool","payload":{"tool":"echo","args":{"value":1}}}'
        body += b" " * 900
        got = b""
        began = trio.current_time()
        await one.stream.send_all(head(port, len(body)))
        for at in range(0, len(body), 20):
            await one.stream.send_all(body[at : at + 20])
            with trio.move_on_after(0.012):
                got += await one.stream.receive_some(65536)
        assert trio.current_time() - began > bounds.body_grace_s
        got = got or await one.answer_raw()
        assert got.startswith(b"HTTP/1.1 202")


async def test_a_client_that_takes_no_answer_is_cut_off_and_its_source_closed() -> None:
    closed = trio.Event()

    class Blob(ScriptedNode):
        async def open_blob(self, blob_hash: str) -> tuple[int, AsyncIterator[bytes]]:
            async def pieces() -> AsyncIterator[bytes]:
                try:
                    while True:
                        await trio.lowlevel.checkpoint()
                        yield bytes(1_000_000)
                finally:
                    closed.set()

            return 10**12, pieces()

    async with serving(Blob(), bounds=QUICK) as port, wire(port) as one:
        await one.send("GET", f"/api/blobs/{'0' * 64}")
        with trio.fail_after(PATIENCE_S):
            await closed.wait()


async def test_three_hundred_silent_connections_keep_nobody_out() -> None:
    async with serving(ScriptedNode()) as port:
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(300)]
        began = trio.current_time()
        for _ in range(20):
            assert (await ask(port, "GET", "/api/health")).status == 200
        assert trio.current_time() - began < 2
        for stream in silent:
            await stream.aclose()


async def test_a_flood_of_refused_newcomers_is_bounded() -> None:
    bounds = HttpBounds(connections_max=2, refusals_max=3, linger_s=5)
    node = ScriptedNode()
    async with serving(node, bounds=bounds) as port, wire(port) as first, wire(port) as second:
        for one in (first, second):
            await one.send("GET", "/api/events")
            await one.head()
        refused = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(3)]
        for stream in refused:
            assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 429")
        async with wire(port) as fourth:
            assert await fourth.closed() == b""
        for stream in refused:
            await stream.aclose()
