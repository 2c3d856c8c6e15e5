"""Pages in a browser on this device: cross-site requests, re-pointed names, forms, and the token.

Whoever opens a page lets it send requests to loopback. None of them may reach a handler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from kowalski_gateway.http.guard import KNOWN_HOSTS_MAX, Guard
from kowalski_gateway.http.server import serve_api
from tests.ports.api_world import Wire, ask, serving
from tests.ports.scripted_node import ScriptedNode

PATHS = ("/api/health", "/api/cluster", "/metrics", "/openapi.json", "/api/nothing", "/api/events")


class Untouched(ScriptedNode):
    """A node that nobody may reach."""

    def __getattribute__(self, name: str) -> Any:
        assert name.startswith("__"), f"the request reached the node: {name}"
        return super().__getattribute__(name)


def untouched() -> ScriptedNode:
    return object.__new__(Untouched)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "localhost.evil.example:{port}",
        "127.0.0.1.evil.example:{port}",
        "127.0.0.1:1",
        "127.0.0.1",
        "localhost",
        "192.168.1.7:{port}",
        "2130706433:{port}",
        "0x7f.1:{port}",
        "127.1:{port}",
        "0.0.0.0:{port}",
        "[::]:{port}",
        "[::ffff:127.0.0.1]:{port}",
        "localhost:{port}@evil.example",
        "localhost:{port}.evil.example",
        "localhost:0{port}0",
        "user@localhost:{port}",
        "localhost.:{port}",
        "LOCALHOST:{port}:{port}",
        "-",
    ],
)
async def test_a_host_that_is_not_this_api_is_refused(host: str) -> None:
    async with serving(untouched()) as port:
        for path in PATHS:
            name = host.format(port=port)
            answer = await ask(port, "GET", path, headers={"host": name})
            assert (answer.status, answer.code) == (403, "foreign_origin"), name


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "LocalHost:{port}", "127.8.9.1:{port}"])
async def test_this_devices_own_names_are_let_in(host: str) -> None:
    async with serving(ScriptedNode()) as port:
        headers = {"host": host.format(port=port)}
        assert (await ask(port, "GET", "/api/health", headers=headers)).status == 200


async def test_the_target_of_a_request_does_not_stand_for_its_host() -> None:
    async with serving(untouched()) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            for target in (f"http://127.0.0.1:{port}/api/health", "*", "api/health"):
                one = Wire(stream, port)
                answer = await one.ask("GET", target, headers={"host": "evil.example"})
                assert answer.status in (400, 403)
                assert answer.code in ("bad_request", "foreign_origin")
                if answer.status == 400:
                    break


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://127.0.0.1:{port}",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "http://127.0.0.1:{port}.evil.example",
        "http://127.0.0.1:{port}/",
        "http://localhost:{port}@evil.example",
        "null",
        "file://",
        "chrome-extension://abc",
        "http://",
    ],
)
async def test_a_foreign_origin_is_refused(origin: str) -> None:
    async with serving(untouched()) as port:
        headers = {"origin": origin.format(port=port)}
        for method, path in (("GET", "/api/cluster"), ("POST", "/api/tasks"), ("OPTIONS", "/api")):
            answer = await ask(port, method, path, headers=headers)
            assert (answer.status, answer.code) == (403, "foreign_origin")
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "anything"])
async def test_a_request_that_the_browser_calls_foreign_is_refused(site: str) -> None:
    async with serving(untouched()) as port:
        headers = {"sec-fetch-site": site}
        answer = await ask(port, "GET", "/api/cluster", headers=headers)
        assert (answer.status, answer.code) == (403, "foreign_origin")


async def test_the_nodes_own_page_is_let_in() -> None:
    async with serving(ScriptedNode()) as port:
        for name in ("127.0.0.1", "localhost"):
            headers = {"origin": f"http://{name}:{port}", "sec-fetch-site": "same-origin"}
            assert (await ask(port, "GET", "/api/cluster", headers=headers)).status == 200
        answer = await ask(port, "GET", "/api/cluster", headers={"sec-fetch-site": "none"})
        assert answer.status == 200


@pytest.mark.parametrize(
    "media",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
        "application/jsonp",
        "",
    ],
)
async def test_a_body_that_a_form_can_send_is_refused(media: str) -> None:
    async with serving(untouched()) as port:
        for method, path in (
            ("POST", "/api/tasks"),
            ("POST", "/api/tasks/batch"),
            ("POST", "/api/invites"),
            ("PUT", "/api/weights"),
            ("PUT", "/api/blobs"),
        ):
            content = b'{"role": "admin"}'
            headers = {"content-type": media}
            answer = await ask(port, method, path, content=content, headers=headers)
            assert (answer.status, answer.code) == (415, "unsupported_media_type")


WRONG_TOKENS = [
    None,
    "",
    "Bearer",
    "Bearer wrong",
    "Bearer righ",
    "Bearer rightt",
    "Bearer RIGHT",
    "Basic right",
    "right",
    "Bearer right right",
    "Bearer\tright",
]


@pytest.mark.parametrize("authorization", WRONG_TOKENS)
async def test_without_the_token_nothing_is_told(authorization: str | None) -> None:
    async with serving(untouched(), token="right") as port:
        for path in PATHS:
            headers = {} if authorization is None else {"authorization": authorization}
            answer = await ask(port, "GET", path, headers=headers)
            assert (answer.status, answer.code) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_token_in_the_address_is_none() -> None:
    async with serving(untouched(), token="right") as port:
        for path in ("/api/health?token=right", "/api/health?access_token=right"):
            assert (await ask(port, "GET", path)).status == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_with_the_token_everything_is(scheme: str) -> None:
    async with serving(ScriptedNode(), token="right") as port:
        headers = {"authorization": f"{scheme} right"}
        assert (await ask(port, "GET", "/api/cluster", headers=headers)).status == 200


async def test_the_token_opens_nothing_to_a_foreign_page() -> None:
    async with serving(untouched(), token="right") as port:
        foreign: Sequence[dict[str, str]] = (
            {"origin": "http://evil.example"},
            {"host": "evil.example"},
            {"sec-fetch-site": "cross-site"},
        )
        for headers in foreign:
            whole = {"authorization": "Bearer right", **headers}
            answer = await ask(port, "GET", "/api/cluster", headers=whole)
            assert (answer.status, answer.code) == (403, "foreign_origin")


async def test_on_all_interfaces_the_address_that_was_dialled_is_a_host() -> None:
    async with trio.open_nursery() as nursery:

        async def start(task_status: trio.TaskStatus[str]) -> None:
            await serve_api(
                ScriptedNode(), host="0.0.0.0", port_number=0, token="t", task_status=task_status
            )

        url: str = await nursery.start(start)
        port = int(url.rpartition(":")[2])
        headers = {"authorization": "Bearer t"}
        assert (await ask(port, "GET", "/api/health", headers=headers)).status == 200
        foreign = {**headers, "host": f"192.0.2.9:{port}"}
        assert (await ask(port, "GET", "/api/health", headers=foreign)).status == 403
        nursery.cancel_scope.cancel()


def test_the_guard_remembers_a_bounded_number_of_hosts() -> None:
    guard = Guard("127.0.0.1", 80, None)
    for number in range(10 * KNOWN_HOSTS_MAX):
        host = b"127.0.%d.%d:80" % divmod(number, 256)
        assert guard.refusal([(b"host", host)], "127.0.0.1") is None
    assert len(guard._known) <= KNOWN_HOSTS_MAX
