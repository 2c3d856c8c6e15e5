"""Requests that are wrong in form: too large, nested, smuggled, not HTTP. Each is refused, nothing
breaks."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from kowalski_gateway.http.bounds import BOUNDS
from tests.ports.api_world import ask, serving, wire
from tests.ports.scripted_node import ScriptedNode

ECHO = b'{"kind":"tool","payload":{"tool":"echo","args":{"value":1}}}'


def rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/api/tasks", BOUNDS.task_body_bytes_max),
        ("/api/tasks/batch", BOUNDS.batch_body_bytes_max),
        ("/api/invites", BOUNDS.small_body_bytes_max),
    ],
)
async def test_a_body_that_says_it_is_too_large_is_refused_unread(path: str, limit: int) -> None:
    async with serving(ScriptedNode()) as port, wire(port) as one:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {limit + 1}\r\n\r\n"
        )
        await one.stream.send_all(head.encode())
        answer = await one.answer_raw()
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"too_large" in answer
        assert b"connection: close" in answer.lower()


async def test_a_chunked_body_without_an_end_is_refused_at_the_limit() -> None:
    async with serving(ScriptedNode()) as port, wire(port) as one:
        head = (
            f"POST /api/tasks HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await one.stream.send_all(head.encode())
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        got = b""
        sent = 0
        with trio.fail_after(10):
            while not got and sent < 64:
                await one.stream.send_all(piece)
                sent += 1
                with trio.move_on_after(0.001):
                    got = await one.stream.receive_some(65536)
        got = got or await one.answer_raw()
        assert got.startswith(b"HTTP/1.1 413")


async def test_who_sends_much_before_reading_still_reads_the_refusal() -> None:
    """Without reading the rest away the refusal would be lost in a reset."""
    async with serving(ScriptedNode()) as port, wire(port) as one:
        size = 4 * 1024 * 1024
        head = (
            f"POST /api/invites HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
        )
        await one.stream.send_all(head.encode())
        await one.stream.send_all(b" " * size)
        assert (await one.answer_raw()).startswith(b"HTTP/1.1 413")


async def test_a_large_blob_goes_through_in_constant_memory() -> None:
    class Sink(ScriptedNode):
        async def store_blob(self, chunks: object) -> tuple[str, int]:
            size = 0
            async for chunk in chunks:  # type: ignore[attr-defined]
                size += len(chunk)
                assert len(chunk) <= 256 * 1024
            return "0" * 64, size

    async with serving(Sink()) as port, wire(port) as one:
        size = 200 * 1024 * 1024
        head = (
            f"PUT /api/blobs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
        )
        before = rss_bytes()
        await one.stream.send_all(head.encode())
        piece = bytes(1024 * 1024)
        for _ in range(size // len(piece)):
            await one.stream.send_all(piece)
        assert b'"size_bytes":209715200' in await one.answer_raw()
        assert rss_bytes() - before < 64 * 1024 * 1024


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"1e999",
        b'{"kind":NaN}',
        b"\xff\xfe",
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"{}" * 2,
        b"{'kind':'tool'}",
        b"\x00" * 100,
    ],
)
async def test_a_body_that_is_no_task_is_a_400(body: bytes) -> None:
    async with serving(ScriptedNode()) as port, wire(port) as one:
        for path in ("/api/tasks", "/api/tasks/batch"):
            if (path, body) == ("/api/tasks/batch", b"[]"):
                continue
            answer = await one.ask("POST", path, content=body)
            assert (answer.status, answer.code) == (400, "bad_request")
        assert (await one.ask("GET", "/api/health")).status == 200


@pytest.mark.parametrize(
    "fields",
    ['"wait_s":"1"', '"wait_s":-1', '"wait_s":1e9', '"min_replicas":0', '"min_replicas":1.5'],
)
async def test_waiting_options_that_make_no_sense_are_a_400(fields: str) -> None:
    async with serving(ScriptedNode()) as port:
        body = ECHO[:-1] + b"," + fields.encode() + b"}"
        answer = await ask(port, "POST", "/api/tasks", content=body)
        assert (answer.status, answer.code) == (400, "bad_request")


TWO_LENGTHS = b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"
MALFORMED = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",  # HTTP/2 with prior knowledge
    b"GET /api/health HTTP/9.9\r\nHost: 127.0.0.1:{port}\r\n\r\n",
    b"GET /api/health\r\n\r\n",
    b"GET  /api/health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n",
    b"GET /api/health HTTP/1.1\r\n\r\n",
    b"GET /api/health HTTP/1.1\r\nHost: a\r\nHost: 127.0.0.1:{port}\r\n\r\n",
    b"GET /api/h\x00 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n",
    b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX: a\x00b\r\n\r\n",
    b"GET /api/health HTTP/1.1\r\nHost : 127.0.0.1:{port}\r\n\r\n",
    b"POST /api/tasks HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/tasks HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 1, 2\r\n\r\nab",
    b"POST /api/tasks HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n" + TWO_LENGTHS,
    b"POST /api/tasks HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
    b"\r\n" * 50_000,
    b"a" * 100_000,
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
async def test_what_is_not_http_is_refused_and_the_connection_closed(data: bytes) -> None:
    async with serving(ScriptedNode()) as port:
        async with wire(port) as one:
            await one.stream.send_all(data.replace(b"{port}", b"%d" % port))
            answer = await one.closed()
            assert answer == b"" or answer.split()[1].startswith(b"4"), answer[:200]
            assert b"200 OK" not in answer
        assert (await ask(port, "GET", "/api/health")).status == 200


async def test_a_body_is_never_taken_for_the_next_request() -> None:
    """Where lengths disagree, the connection ends; nothing inside a body is ever served."""
    hidden = b"GET /api/cluster HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"
    async with serving(ScriptedNode()) as port, wire(port) as one:
        inner = hidden % port
        body = b"0\r\n\r\n" + inner
        head = (
            f"POST /api/tasks HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        )
        await one.stream.send_all(head.encode() + body)
        answer = await one.closed()
        assert b'"cluster"' not in answer
    async with serving(ScriptedNode()) as port, wire(port) as one:
        # An early refusal leaves the body unread: it must not be read as a request.
        inner = hidden % port
        head = (
            f"POST /api/nothing HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Content-Length: {len(inner)}\r\n\r\n"
        )
        await one.stream.send_all(head.encode() + inner)
        got = await one.answer_raw(b"lists them")
        assert got.startswith(b"HTTP/1.1 404")
        assert b'"cluster"' not in got


async def test_upgrades_are_not_known() -> None:
    async with serving(ScriptedNode()) as port:
        for extra in (
            ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"],
            ["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk"],
        ):
            async with wire(port) as one:
                lines = ["GET /api/health HTTP/1.1", f"Host: 127.0.0.1:{port}", *extra, "", ""]
                request = "\r\n".join(lines)
                await one.stream.send_all(request.encode())
                assert (await one.answer_raw()).startswith(b"HTTP/1.1 200")


@given(data=st.binary(max_size=2000))
def test_random_bytes_never_end_the_server(data: bytes) -> None:
    async def main() -> None:
        async with serving(ScriptedNode()) as port:
            async with wire(port) as one:
                await one.stream.send_all(data)
                await one.stream.send_eof()
                await one.closed()
            assert (await ask(port, "GET", "/api/health")).status == 200

    trio.run(main)


async def test_a_damaged_request_never_ends_the_server() -> None:
    chance = random.Random(7)
    async with serving(ScriptedNode()) as port:
        whole = (
            f"POST /api/tasks HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json"
            f"\r\nContent-Length: {len(ECHO)}\r\n\r\n"
        ).encode() + ECHO
        for _ in range(300):
            damaged = bytearray(whole)
            for _ in range(chance.randint(1, 5)):
                at = chance.randrange(len(damaged))
                damaged[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 4))
            async with wire(port) as one:
                await one.stream.send_all(bytes(damaged))
                await one.stream.send_eof()
                await one.closed()
        assert (await ask(port, "GET", "/api/health")).status == 200
