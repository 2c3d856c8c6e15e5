"""The server itself: connections, requests one after another, and the orderly end."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from kowalski_gateway.http.bounds import HttpBounds
from kowalski_gateway.http.server import serve_api
from kowalski_node.views import ResultView
from kowalski_protocol.errors import Problem
from tests.ports.api_world import Wire, ask, serving, wire
from tests.ports.scripted_node import ScriptedNode

SLEEP = {"kind": "tool", "payload": {"tool": "sleep", "args": {"seconds": 60}}}


def get(port: int, path: str = "/api/health", extra: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{extra}\r\n".encode()


async def read(stream: trio.SocketStream, wanted: bytes, count: int = 1) -> bytes:
    got = b""
    with trio.fail_after(5):
        while got.count(wanted) < count:
            piece = await stream.receive_some(65536)
            assert piece, got
            got += piece
    return got


async def test_a_connection_serves_many_requests() -> None:
    async with serving(ScriptedNode()) as port, wire(port) as one:
        for _ in range(50):
            answer = await one.ask("GET", "/api/health")
            assert answer.status == 200
            assert "connection" not in answer.headers


async def test_requests_sent_at_once_are_answered_in_order() -> None:
    async with serving(ScriptedNode()) as port, wire(port) as one:
        paths = ["/api/health", "/api/nothing", "/api/cluster", "/metrics"]
        await one.stream.send_all(b"".join(get(port, path) for path in paths))
        got = await read(one.stream, b"HTTP/1.1", 4)
        assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200", b"404", b"200", b"200"]


async def test_a_head_that_comes_byte_by_byte_is_read() -> None:
    async with serving(ScriptedNode()) as port, wire(port) as one:
        for byte in get(port):
            await one.stream.send_all(bytes([byte]))
        await read(one.stream, b'"ok":true')


async def test_connection_close_is_kept_to() -> None:
    async with serving(ScriptedNode()) as port, wire(port) as one:
        await one.stream.send_all(get(port, extra="Connection: close\r\n"))
        got = await one.closed()
        assert b'"ok":true' in got
        assert b"connection: close" in got.lower()


async def test_http_1_0_is_answered_and_closed() -> None:
    async with serving(ScriptedNode()) as port, wire(port) as one:
        await one.stream.send_all(get(port).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert b'"ok":true' in await one.closed()


async def test_head_has_the_headers_and_no_body() -> None:
    async with serving(ScriptedNode()) as port, wire(port) as one:
        answer = await one.ask("HEAD", "/api/health")
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["content-length"]) > 0
        assert (await one.ask("GET", "/api/health")).json["ok"]


async def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    async with serving(ScriptedNode()) as port, wire(port) as one:
        body = b'{"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}'
        head = (
            f"POST /api/tasks HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nExpect: 100-continue\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        await one.stream.send_all(head.encode())
        await read(one.stream, b"HTTP/1.1 100")
        await one.stream.send_all(body)
        await read(one.stream, b"HTTP/1.1 202")


async def test_a_chunked_body_is_read() -> None:
    async with serving(ScriptedNode()) as port, wire(port) as one:
        head = (
            f"POST /api/tasks HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        body = b'{"kind":"tool","payload":{"tool":"echo","args":{"value":1}}}'
        await one.stream.send_all(head.encode())
        for byte in body:
            await one.stream.send_all(b"1\r\n" + bytes([byte]) + b"\r\n")
        await one.stream.send_all(b"0\r\n\r\n")
        await read(one.stream, b"HTTP/1.1 202")


async def test_small_answers_leave_without_delay() -> None:
    """Nagle's algorithm and a client's delayed acknowledgements would cost 40 ms each time."""
    async with serving(ScriptedNode()) as port, wire(port) as one:
        began = trio.current_time()
        for _ in range(100):
            await one.ask("GET", "/api/health")
        assert trio.current_time() - began < 2.0


async def test_where_all_connections_are_in_use_a_newcomer_is_told_to_come_back() -> None:
    node = ScriptedNode()
    bounds = HttpBounds(connections_max=2)
    async with serving(node, bounds=bounds) as port, wire(port) as first, wire(port) as second:
        for one in (first, second):
            await one.send("GET", "/api/events")
            await one.head()
        answer = await ask(port, "GET", "/api/health")
        assert (answer.status, answer.code) == (429, "too_many_requests")
        assert int(answer.headers["retry-after"]) >= 1


async def test_an_idle_connection_makes_room_for_a_newcomer() -> None:
    node = ScriptedNode()
    bounds = HttpBounds(connections_max=2)
    async with serving(node, bounds=bounds) as port, wire(port) as first, wire(port) as second:
        await first.ask("GET", "/api/health")
        await second.send("GET", "/api/events")
        await second.head()
        assert (await ask(port, "GET", "/api/health")).status == 200
        assert await first.closed() == b""


async def test_a_stopping_server_finishes_what_is_in_flight() -> None:
    node = ScriptedNode()
    entered = trio.Event()
    go_on = trio.Event()

    class Slow(ScriptedNode):
        async def why(self, task_id: str) -> Any:
            entered.set()
            await go_on.wait()
            return await super().why(task_id)

    node = Slow()
    async with trio.open_nursery() as outer:
        url: str = await outer.start(_serve, node, HttpBounds(stop_s=5))
        port = int(url.rpartition(":")[2])
        task_id = (await ask(port, "POST", "/api/tasks", SLEEP)).json["id"]
        async with wire(port) as busy, wire(port) as idle:
            await idle.ask("GET", "/api/health")
            await busy.send("GET", f"/api/tasks/{task_id}/why")
            await entered.wait()
            outer.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await idle.closed() == b""
                with pytest.raises(OSError, match="all attempts to connect"):
                    await trio.open_tcp_stream("127.0.0.1", port)
                go_on.set()
                answer = await busy.answer()
                assert answer.status == 200
                assert answer.headers["connection"] == "close"


async def _serve(node: ScriptedNode, bounds: HttpBounds, task_status: trio.TaskStatus[str]) -> None:
    await serve_api(node, port_number=0, bounds=bounds, task_status=task_status)


async def test_a_stopping_server_ends_streams_at_once_and_waits_for_nobody_else_for_long() -> None:
    class Stuck(ScriptedNode):
        async def why(self, task_id: str) -> Any:
            await trio.sleep_forever()

    async with trio.open_nursery() as outer:
        url: str = await outer.start(_serve, Stuck(), HttpBounds(stop_s=1))
        port = int(url.rpartition(":")[2])
        task_id = (await ask(port, "POST", "/api/tasks", SLEEP)).json["id"]
        async with wire(port) as stream, wire(port) as stuck:
            await stream.send("GET", "/api/events")
            await stream.head()
            await stuck.send("GET", f"/api/tasks/{task_id}/why")
            await ask(port, "GET", "/api/health")
            outer.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                began = trio.current_time()
                rest = [piece async for piece in stream.pieces()]  # ends as HTTP wants it
                assert trio.current_time() - began < 1
                assert len(rest) <= 2
                await stuck.closed()
                assert trio.current_time() - began < 5


async def test_a_client_that_does_not_read_does_not_keep_the_server_from_stopping() -> None:
    class Blob(ScriptedNode):
        async def open_blob(self, blob_hash: str) -> tuple[int, AsyncIterator[bytes]]:
            async def pieces() -> AsyncIterator[bytes]:
                for _ in range(1000):
                    await trio.lowlevel.checkpoint()
                    yield bytes(1_000_000)

            return 1_000_000_000, pieces()

    with trio.fail_after(5):
        async with trio.open_nursery() as outer:
            url: str = await outer.start(_serve, Blob(), HttpBounds(stop_s=0.1))
            async with wire(int(url.rpartition(":")[2])) as one:
                await one.send("GET", f"/api/blobs/{'0' * 64}")
                await one.head()
                outer.cancel_scope.cancel()


async def test_a_waiting_request_is_answered_when_the_server_stops() -> None:
    node = ScriptedNode()
    async with trio.open_nursery() as outer:
        url: str = await outer.start(_serve, node, HttpBounds(stop_s=5, watch_after_s=0.01))
        port = int(url.rpartition(":")[2])
        task_id = (await ask(port, "POST", "/api/tasks", SLEEP)).json["id"]
        async with wire(port) as one:
            await one.send("GET", f"/api/tasks/{task_id}?wait_s=600")
            await ask(port, "GET", "/api/health")
            outer.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                answer = await one.answer()
                assert (answer.status, answer.json["state"]) == (200, "submitted")


async def test_a_busy_port_is_a_problem_with_a_mend() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Problem) as problem:
            await serve_api(ScriptedNode(), port_number=port)
    assert problem.value.code == "port_busy"
    assert problem.value.mend is not None
    assert problem.value.mend.startswith("kowalski-node --api")


@pytest.mark.parametrize(
    ("host", "port"),
    [("203.0.113.7", 0), ("no.such.host.invalid", 0), ("127.0.0.1", 70_000), ("127.0.0.1", -1)],
)
async def test_an_address_that_is_not_ours_is_a_problem(host: str, port: int) -> None:
    with pytest.raises(Problem) as problem:
        await serve_api(ScriptedNode(), host=host, port_number=port, token="t")
    assert problem.value.code == "bad_request"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", "localhost.evil"])
async def test_an_address_that_others_reach_needs_a_token(host: str) -> None:
    with pytest.raises(Problem) as problem:
        await serve_api(ScriptedNode(), host=host, port_number=0)
    assert problem.value.code == "token_required"


@pytest.mark.parametrize("token", ["", "  "])
async def test_an_empty_token_is_no_token(token: str) -> None:
    with pytest.raises(Problem) as problem:
        await serve_api(ScriptedNode(), port_number=0, token=token)
    assert problem.value.code == "token_required"


async def test_ipv6_loopback_is_served() -> None:
    async with trio.open_nursery() as nursery:

        async def start(task_status: trio.TaskStatus[str]) -> None:
            await serve_api(ScriptedNode(), host="::1", port_number=0, task_status=task_status)

        url: str = await nursery.start(start)
        assert url.startswith("http://[::1]:")
        port = int(url.rpartition(":")[2])
        stream = await trio.open_tcp_stream("::1", port)
        async with stream:
            headers = {"host": f"[::1]:{port}"}
            answer = await Wire(stream, port).ask("GET", "/api/health", headers=headers)
            assert answer.json["ok"]
        nursery.cancel_scope.cancel()


async def test_a_settled_result_is_on_the_wire_before_the_next_request_is_read() -> None:
    node = ScriptedNode()
    async with serving(node) as port, wire(port) as one:
        task_id = (await one.ask("POST", "/api/tasks", SLEEP)).json["id"]
        node.settle(task_id, ResultView(True, value="x" * 3_000_000))
        answer = await one.ask("GET", f"/api/tasks/{task_id}")
        assert len(answer.json["result"]["value"]) == 3_000_000
        assert (await one.ask("GET", "/api/health")).json["ok"]
