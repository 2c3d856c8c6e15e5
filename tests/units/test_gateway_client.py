"""The Python client, on trio and on asyncio, against the API on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import socket
import threading
from collections import UserList
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
import trio

from kowalski_node.client import Client
from kowalski_node.client.address import api_token, api_url
from kowalski_node.client.answers import problem_of
from kowalski_node.client.server_events import EVENT_SIZE_BYTES_MAX, EventReader
from kowalski_node.views import (
    ErrorView,
    EventView,
    FileView,
    OutputChunk,
    ResultView,
    TaskView,
)
from kowalski_protocol.errors import Problem
from tests.ports.api_world import Served, served
from tests.ports.scripted_node import SELF

Story = Callable[[Client, Served], Awaitable[None]]
ECHO = {"tool": "echo", "args": {"value": 5}}
SLEEP = {"tool": "sleep", "args": {"seconds": 60}}
CIRCULAR: list[Any] = []
CIRCULAR.append(CIRCULAR)


def _on_trio(story: Callable[[], Awaitable[None]]) -> None:
    trio.run(story)


def _on_asyncio(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await story()

    asyncio.run(main())


@pytest.fixture(params=[_on_trio, _on_asyncio], ids=["trio", "asyncio"])
def tell(request: pytest.FixtureRequest) -> Callable[[Story], None]:
    """Runs a story with a client on one of the two loops."""

    def run(story: Story) -> None:
        with served() as api:

            async def main() -> None:
                async with Client(api.url) as client:
                    await story(client, api)

            request.param(main)

    return run


def test_a_task_is_submitted_and_its_result_awaited(tell: Callable[[Story], None]) -> None:
    async def story(client: Client, _: Served) -> None:
        handle = await client.submit("tool", ECHO, labels={"a": "b"}, priority=3)
        assert handle.replicas == 2
        view = await handle.result(5)
        assert (view.id, view.state, view.outcome) == (handle.id, "settled", "completed")
        assert view.result is not None
        assert view.result.value == 5
        assert (view.labels, view.priority) == ({"a": "b"}, 3)
        assert (await handle.why()).steps[0].what == "TaskSubmitted"
        assert (await client.run("tool", ECHO, wait_s=5)).outcome == "completed"

    tell(story)


def test_a_wait_without_a_limit_lasts_until_the_end(tell: Callable[[Story], None]) -> None:
    async def story(client: Client, api: Served) -> None:
        handle = await client.submit("tool", SLEEP)
        asked = threading.Event()
        wait = api.node.wait

        async def wait_watched(task_id: str, wait_s: float) -> TaskView:
            asked.set()
            return await wait(task_id, wait_s)

        api.node.wait = wait_watched

        def end_it() -> None:
            assert asked.wait(5)
            api.do(lambda: api.node.settle(handle.id, ResultView(True, value=1)))

        thread = threading.Thread(target=end_it)
        thread.start()
        assert (await handle.result()).outcome == "completed"
        thread.join()

    tell(story)


def test_a_wait_with_a_limit_shows_the_task_as_it_stands(tell: Callable[[Story], None]) -> None:
    async def story(client: Client, _: Served) -> None:
        handle = await client.submit("tool", SLEEP)
        assert (await handle.result(0.01)).state == "submitted"
        assert (await handle.cancel()).outcome == "cancelled"
        assert (await client.run("tool", SLEEP, wait_s=0.01)).state == "submitted"

    tell(story)


def test_a_batch_gives_a_handle_each_and_results_as_they_settle(
    tell: Callable[[Story], None],
) -> None:
    async def story(client: Client, api: Served) -> None:
        specs = [{"kind": "tool", "payload": SLEEP}]
        specs += [
            {"kind": "tool", "payload": {"tool": "echo", "args": {"value": n}}} for n in range(1500)
        ]
        handles = await client.batch(specs)
        values: list[Any] = []
        async for view in client.results(handles):
            assert view.result is not None
            values.append(view.result.value)
            if len(values) == 1500:
                api.do(lambda: api.node.settle(handles[0].id, ResultView(True, value="last")))
        assert values == [*range(1500), "last"]

    tell(story)


def test_what_the_node_refuses_is_raised_with_its_code(tell: Callable[[Story], None]) -> None:
    async def story(client: Client, api: Served) -> None:
        with pytest.raises(Problem) as problem:
            await client.submit("dance", {})
        assert problem.value.code == "unknown_kind"
        api.node.refuse_with = Problem("disk_full", "The disk is full.", mend="kowalski status")
        with pytest.raises(Problem) as problem:
            await client.submit("tool", ECHO)
        assert (problem.value.code, problem.value.mend) == ("disk_full", "kowalski status")
        for name in ("../../x", "", "?", "#", "a/b", "%2e"):
            with pytest.raises(Problem) as problem:
                await client.result(name, 0)
            assert problem.value.code == "not_found"

    tell(story)


def test_the_cluster_its_events_invites_and_weights(tell: Callable[[Story], None]) -> None:
    async def story(client: Client, api: Served) -> None:
        assert await client.health()
        api.node.is_ready = False
        assert not await client.health()
        cluster = await client.cluster()
        assert cluster.devices[0].id == cluster.self
        handle = await client.submit("tool", ECHO)
        events: list[EventView] = []
        async with contextlib.aclosing(client.events(after=1)) as stream:
            async for event in stream:
                events.append(event)
                if event.kind == "TaskSettled":
                    break
        assert [event.position for event in events] == [2, 3, 4]
        assert events[0].body == {"task": handle.id}
        assert [event async for event in client.events(3, follow=False)] == events[-1:]
        assert (await client.invite("admin")).role == "admin"
        await client.set_weights("tool", {"cpu": 2})
        assert (await client.weights())["tool"] == {"cpu": 2.0}
        page = await client.tasks(limit=1)
        assert [view.id for view in page.tasks] == [handle.id]

    tell(story)


def test_output_is_followed_to_its_end(tell: Callable[[Story], None]) -> None:
    async def story(client: Client, api: Served) -> None:
        handle = await client.submit("tool", SLEEP)
        api.do(lambda: api.node.say(handle.id, "one\n"))
        failed = ResultView(False, error=ErrorView("tool_failed", "It failed."))
        chunks: list[OutputChunk] = []
        async for chunk in handle.output():
            chunks.append(chunk)
            if len(chunks) == 1:
                api.do(lambda: api.node.say(handle.id, "two\n", "stderr"))
                api.do(lambda: api.node.settle(handle.id, failed))
        assert [(chunk.stream, chunk.text) for chunk in chunks] == [
            ("stdout", "one\n"),
            ("stderr", "two\n"),
        ]

    tell(story)


def test_blobs_travel_by_file_and_by_bytes(tell: Callable[[Story], None], tmp_path: Path) -> None:
    blob = bytes(range(256)) * 4000
    (tmp_path / "in").write_bytes(blob)

    async def story(client: Client, api: Served) -> None:
        by_file = await client.put_blob(tmp_path / "in")
        by_bytes = await client.put_blob(blob)
        assert by_file == by_bytes == hashlib.sha256(blob).hexdigest()
        assert await client.get_blob(by_file) == blob
        assert await client.save_blob(by_file, tmp_path / "out") == len(blob)
        assert (tmp_path / "out").read_bytes() == blob
        api.node.blobs[by_file] = b"something else"
        with pytest.raises(Problem) as problem:
            await client.save_blob(by_file, tmp_path / "wrong")
        assert problem.value.code == "bad_answer"

    tell(story)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_token_is_sent_and_a_wrong_one_refused() -> None:
    async def main(url: str) -> None:
        async with Client(url, token="right") as client:
            assert await client.health()
        for token in ("wrong", None):
            async with Client(url, token=token) as client:
                with pytest.raises(Problem) as problem:
                    await client.cluster()
                assert problem.value.code == "unauthorized"

    with served(token="right") as api:
        trio.run(main, api.url)


def test_the_environment_says_which_node_is_asked_and_with_which_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ask(*given: str, **options: str) -> bool:
        async with Client(*given, **options) as client:
            return (await client.cluster()).self == SELF

    with served(token="right") as api:
        address = api.url.removeprefix("http://")
        monkeypatch.setenv("KOWALSKI_API_TOKEN", "right")
        for said in (address, api.url, api.url + "/"):
            monkeypatch.setenv("KOWALSKI_API", said)
            assert trio.run(ask)
        # What is given counts more.
        monkeypatch.setenv("KOWALSKI_API", "127.0.0.1:1")
        assert trio.run(ask, address)
        with pytest.raises(Problem) as problem:
            trio.run(partial(ask, address, token="wrong"))
        assert problem.value.code == "unauthorized"
        monkeypatch.delenv("KOWALSKI_API_TOKEN")
        assert trio.run(partial(ask, address, token="right"))


def test_without_a_word_the_node_of_this_device_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KOWALSKI_API", "KOWALSKI_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert (api_url(), api_token()) == ("http://127.0.0.1:52420", None)
    monkeypatch.setenv("KOWALSKI_API", "")
    monkeypatch.setenv("KOWALSKI_API_TOKEN", "")
    assert (api_url(), api_token()) == ("http://127.0.0.1:52420", None)


@pytest.mark.parametrize("url", ["desk:port", "ftp://desk", "http://", "[::1", "http://\x01"])
def test_what_is_no_address_is_refused_with_a_sentence(url: str) -> None:
    async def main() -> None:
        async with Client(url):
            pass

    with pytest.raises(Problem) as problem:
        trio.run(main)
    assert problem.value.code == "bad_request"
    assert "HOST:PORT" in problem.value.sentence


def test_a_node_that_is_not_there_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def main() -> None:
        async with Client(f"http://127.0.0.1:{port}") as client:
            for ask in (client.cluster, client.health, partial(client.get_blob, "0" * 64)):
                with pytest.raises(Problem) as problem:
                    await ask()
                assert problem.value.code == "node_unreachable"
                assert problem.value.mend == "kowalski-node"

    trio.run(main)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b'HTTP/1.1 500 E\r\ncontent-length: 15\r\n\r\n{"error": "no"}',
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_what_is_no_node_is_a_bad_answer(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=speak)
        thread.start()

        async def main() -> None:
            async with Client(f"http://127.0.0.1:{server.getsockname()[1]}") as client:
                with pytest.raises(Problem) as problem:
                    await client.cluster()
                assert problem.value.code == "bad_answer"

        trio.run(main)
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(409, "bad_request"), (503, "internal")])
def test_a_newer_nodes_unknown_code_keeps_its_sentence(status: int, code: str) -> None:
    body = b'{"error": {"code": "moon_wrong", "message": "The moon is wrong.", "new_field": 1}}'
    problem = problem_of(status, body, "http://127.0.0.1")
    assert problem.code == code
    assert problem.sentence == "The moon is wrong. (moon_wrong)"


def test_a_stream_is_read_the_same_however_it_is_cut() -> None:
    stream = (
        b": open\n\nid: 1\ndata: {}\n\n: keep-alive\n\nevent: end\r\ndata: a\r\ndata:b\r\n\r\n"
        b"unknown: x\n\n"
    )
    whole = EventReader().feed(stream)
    assert [(event.kind, event.data) for event in whole] == [("message", b"{}"), ("end", b"a\nb")]
    for size in range(1, 9):
        reader = EventReader()
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [event for piece in pieces for event in reader.feed(piece)] == whole


def test_a_stream_without_an_end_of_line_is_given_up() -> None:
    reader = EventReader()
    for _ in range(EVENT_SIZE_BYTES_MAX // 2**20):
        reader.feed(b"x" * 2**20)
    with pytest.raises(Problem) as problem:
        reader.feed(b"x")
    assert problem.value.code == "bad_answer"


@pytest.mark.parametrize(
    "value",
    [
        {1, 2}, object(), float("nan"), float("inf"), b"bytes", {"a": [1j]}, {(1, 2): 3}, "\ud800",
        CIRCULAR,
    ],
    ids=["set", "object", "nan", "infinity", "bytes", "complex", "key", "surrogate", "circular"],
)  # fmt: skip
def test_what_json_can_not_say_is_refused_before_it_is_sent(
    tell: Callable[[Story], None], value: Any
) -> None:
    async def story(client: Client, api: Served) -> None:
        payload = {"tool": "echo", "args": {"value": value}}
        spec = {"kind": "tool", "payload": payload}
        for ask in (
            lambda: client.submit("tool", payload),
            lambda: client.run("tool", payload),
            lambda: client.batch([spec]),
        ):
            with pytest.raises(Problem, match="can't be said in JSON") as caught:
                await ask()
            assert caught.value.code == "bad_request"
        assert api.node._tasks == {}

    tell(story)


def test_mappings_and_sequences_of_any_type_are_sent_as_what_they_hold(
    tell: Callable[[Story], None],
) -> None:
    async def story(client: Client, _: Served) -> None:
        args = MappingProxyType({"value": ("ü", UserList([1.5, None]), {"a": True})})
        view = await client.run("tool", MappingProxyType({"tool": "echo", "args": args}), wait_s=5)
        assert view.result is not None
        assert view.result.value == ["ü", [1.5, None], {"a": True}]

    tell(story)


def test_a_wait_that_is_no_time_is_refused(tell: Callable[[Story], None]) -> None:
    async def story(client: Client, _: Served) -> None:
        handle = await client.submit("tool", ECHO)
        for wait_s in (float("nan"), -1.0):
            for ask in (
                lambda s=wait_s: handle.result(s),
                lambda s=wait_s: client.run("tool", ECHO, wait_s=s),
            ):
                with pytest.raises(Problem) as caught:
                    await ask()
                assert caught.value.code == "bad_request"

    tell(story)


def test_files_go_with_a_task_and_come_back(tell: Callable[[Story], None], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_bytes(b"a" * 600_000)
    code = {"language": "python", "code": "1"}

    async def story(client: Client, api: Served) -> None:
        files = [(tmp_path / "data", "in")]
        handle = await client.submit("code", code, files=files, outputs=["*.csv"])
        payload = api.node._payloads[handle.id]
        blob = hashlib.sha256(b"a" * 600_000).hexdigest()
        assert payload["outputs"] == ["*.csv"]
        assert payload["inputs"] == [{"path": "in/a.csv", "blob": blob, "size_bytes": 600_000}]
        assert api.node.blobs == {blob: b"a" * 600_000}
        sent = len(api.node.blob_pieces)
        await client.submit("code", code, files=str(tmp_path / "data" / "*.csv"))
        assert len(api.node.blob_pieces) == sent

        left = FileView("deep/b.csv", blob, 600_000)
        api.do(lambda: api.node.settle(handle.id, ResultView(True, files=[left])))
        view = await handle.result()
        folder = tmp_path / "back"
        assert await client.save(view, folder) == [folder / "deep/b.csv"]
        assert (folder / "deep/b.csv").read_bytes() == b"a" * 600_000
        with pytest.raises(Problem, match="there already"):
            await client.save(view, folder)
        await client.save(view, folder, overwrite=True)

        with pytest.raises(Problem, match="no file"):
            await client.submit("code", code, files=["none"])
        evil = FileView("../b.csv", blob, 600_000)
        assert view.result is not None
        hostile = msgspec.structs.replace(view, result=ResultView(True, files=[evil]))
        with pytest.raises(Problem, match="can't be saved"):
            await client.save(hostile, folder, overwrite=True)
        assert not (tmp_path / "b.csv").exists()
        shutil.rmtree(folder)

    tell(story)
