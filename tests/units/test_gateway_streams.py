"""Event streams: what is sent, how it is taken up again, and when it ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import trio

from kowalski_gateway.http.bounds import HttpBounds
from kowalski_node.views import EventView, ResultView
from kowalski_protocol.errors import Problem
from tests.ports.api_world import Wire, ask, serving, sse, wire
from tests.ports.scripted_node import ScriptedNode

ECHO = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 5}}}
SLEEP = {"kind": "tool", "payload": {"tool": "sleep", "args": {"seconds": 60}}}


async def read_until(one: Wire, wanted: bytes) -> bytes:
    """What the stream sends up to and including `wanted`."""
    got = b""
    async for piece in one.pieces():
        got += piece
        if wanted in got:
            return got
    raise AssertionError(f"the stream ended with {got!r}")


async def test_a_stream_that_does_not_follow_ends_with_what_there_is() -> None:
    async with serving(ScriptedNode()) as port:
        await ask(port, "POST", "/api/tasks", ECHO)
        answer = await ask(port, "GET", "/api/events?follow=false")
        assert answer.headers["content-type"].startswith("text/event-stream")
        *events, end = sse(answer.body)
        assert end["event"] == "end"
        assert [int(event["id"]) for event in events] == [1, 2, 3, 4]
        assert json.loads(events[0]["data"])["kind"] == "ClusterFounded"


async def test_a_stream_is_taken_up_after_the_last_event_that_came() -> None:
    async with serving(ScriptedNode()) as port:
        await ask(port, "POST", "/api/tasks", ECHO)
        path = "/api/events?follow=false"
        by_query = sse((await ask(port, "GET", f"{path}&after=2")).body)
        headers = {"last-event-id": "2"}
        by_header = sse((await ask(port, "GET", path, headers=headers)).body)
        assert [event.get("id") for event in by_query] == ["3", "4", None]
        assert by_header == by_query
        both = await ask(port, "GET", f"{path}&after=3", headers=headers)
        assert sse(both.body)[0]["id"] == "4"  # what was asked for, over what a browser remembers


async def test_a_last_event_id_that_is_no_position_is_refused() -> None:
    async with serving(ScriptedNode()) as port:
        for text in ("x", "-1", "1.5", "9" * 40, "0x1"):
            answer = await ask(port, "GET", "/api/events", headers={"last-event-id": text})
            assert (answer.status, answer.code) == (400, "bad_request")


async def test_who_follows_gets_what_comes_at_once() -> None:
    node = ScriptedNode()
    async with serving(node) as port, wire(port) as one:
        await one.send("GET", "/api/events?after=1")
        assert (await one.head())[0] == 200
        task_id = (await ask(port, "POST", "/api/tasks", SLEEP)).json["id"]
        assert task_id.encode() in await read_until(one, b"TaskSubmitted")
        node.settle(task_id, ResultView(True))
        await read_until(one, b"TaskSettled")


async def test_a_quiet_stream_shows_that_it_lives() -> None:
    bounds = HttpBounds(keep_alive_s=0.01)
    async with serving(ScriptedNode(), bounds=bounds) as port, wire(port) as one:
        await one.send("GET", "/api/events?after=1")
        await one.head()
        got = await read_until(one, b": keep-alive\n\n: keep-alive\n\n")
        assert sse(got) == []


async def test_output_comes_live_and_ends_with_the_task() -> None:
    node = ScriptedNode()
    async with serving(node) as port, wire(port) as one:
        task_id = (await ask(port, "POST", "/api/tasks", SLEEP)).json["id"]
        node.start(task_id)
        node.say(task_id, "first\n")
        await one.send("GET", f"/api/tasks/{task_id[:12]}/output")
        await one.head()
        got = await read_until(one, b"first")
        node.say(task_id, "söme\nerror", "stderr")
        got += await read_until(one, b"stderr")
        node.settle(task_id, ResultView(True, value=1))
        got += b"".join([piece async for piece in one.pieces()])
        *chunks, end = sse(got)
        said = [json.loads(chunk["data"]) for chunk in chunks]
        assert [(one["stream"], one["text"]) for one in said] == [
            ("stdout", "first\n"),
            ("stderr", "söme\nerror"),
        ]
        assert end["event"] == "end"
        assert json.loads(end["data"])["outcome"] == "completed"


async def test_a_problem_in_the_middle_ends_the_stream_with_it() -> None:
    class Corrupt(ScriptedNode):
        async def events(self, *, after: int, follow: bool) -> AsyncIterator[EventView]:
            async for event in super().events(after=after, follow=False):
                yield event
            raise Problem("ledger_corrupt", "The ledger file is damaged.", mend="kowalski audit")

    async with serving(Corrupt()) as port:
        event, error = sse((await ask(port, "GET", "/api/events")).body)
        assert event["id"] == "1"
        assert error["event"] == "error"
        assert json.loads(error["data"])["error"]["code"] == "ledger_corrupt"


async def test_a_source_is_closed_when_the_client_hangs_up() -> None:
    closed = trio.Event()

    class Watched(ScriptedNode):
        async def events(self, *, after: int, follow: bool) -> AsyncIterator[EventView]:
            try:
                async for event in super().events(after=after, follow=follow):
                    yield event
            finally:
                closed.set()

    async with serving(Watched()) as port:
        async with wire(port) as one:
            await one.send("GET", "/api/events")
            await one.head()
        with trio.fail_after(5):
            await closed.wait()


async def test_a_client_that_reads_slowly_holds_up_the_source_and_not_the_node() -> None:
    produced: list[int] = []

    class Endless(ScriptedNode):
        async def events(self, *, after: int, follow: bool) -> AsyncIterator[EventView]:
            body: dict[str, Any] = {"filling": "x" * 100_000}
            for position in range(1, 100_000):
                produced.append(position)
                await trio.lowlevel.checkpoint()
                yield EventView(position, "a", "task", 1, "h", 0.0, "K", True, body)

    async with serving(Endless()) as port, wire(port) as one:
        await one.send("GET", "/api/events")
        await one.head()
        before = -1
        with trio.fail_after(10):
            while len(produced) != before:  # until the source stands still
                before = len(produced)
                for _ in range(50):
                    await ask(port, "GET", "/api/health")
        assert 0 < before < 2_000
