"""What every `NodePort` promises, shown on the scripted double and on a real node of one device.

The surfaces are tested against the double; this suite is why that says something about the real
thing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from kowalski_node.port import NodePort
from kowalski_node.views import TaskView
from kowalski_protocol.errors import Problem
from tests.ports.scripted_node import ScriptedNode

OpenPort = Callable[[Path], AbstractAsyncContextManager[NodePort]]
PATIENCE_S = 10.0


@asynccontextmanager
async def scripted(_: Path) -> AsyncIterator[NodePort]:
    yield ScriptedNode()


@asynccontextmanager
async def real(home: Path) -> AsyncIterator[NodePort]:
    from kowalski_executors import make_executors
    from kowalski_node.options import NodeOptions
    from kowalski_node.start import open_node

    options = NodeOptions(
        home=home / "home", name="desk", listen=("/ip4/127.0.0.1/tcp/0",), mdns=False
    )
    tools = [one for one in make_executors(work_root=home / "work") if one.name == "tool"]
    async with open_node(options, tools) as runtime:
        with trio.fail_after(PATIENCE_S):
            while not runtime.service.ready():
                await trio.lowlevel.checkpoint()
        yield runtime.service


@pytest.fixture(params=[scripted, real], ids=["scripted", "real"])
def open_port(request: pytest.FixtureRequest) -> OpenPort:
    return request.param


def echo(value: Any = 1, **options: Any) -> dict[str, Any]:
    return {"kind": "tool", "payload": {"tool": "echo", "args": {"value": value}}, **options}


def slow(seconds: float = 60.0, **options: Any) -> dict[str, Any]:
    return {"kind": "tool", "payload": {"tool": "sleep", "args": {"seconds": seconds}}, **options}


async def submit(node: NodePort, *specs: dict[str, Any]) -> list[str]:
    with trio.fail_after(PATIENCE_S):
        return [accepted.id for accepted in await node.submit(specs)]


async def settled(node: NodePort, task_id: str) -> TaskView:
    view = await node.wait(task_id, PATIENCE_S)
    assert view.state == "settled"
    return view


def told(problem: pytest.ExceptionInfo[Problem]) -> str:
    return problem.value.code


async def test_an_accepted_task_has_an_id_and_runs_to_its_value(
    open_port: OpenPort, tmp_path: Path
) -> None:
    async with open_port(tmp_path) as node:
        (accepted,) = await node.submit([echo({"a": [1, "ü", None]})])
        assert re.fullmatch("[0-9a-f]{32}", accepted.id)
        assert accepted.replicas >= 1
        view = await settled(node, accepted.id)
        assert view.outcome == "completed"
        assert view.result is not None
        assert view.result.ok
        assert view.result.value == {"a": [1, "ü", None]}
        assert view.attempt == 1
        assert view.device is not None


async def test_a_settled_task_is_shown_the_same_to_who_waits_and_who_asks(
    open_port: OpenPort, tmp_path: Path
) -> None:
    async with open_port(tmp_path) as node:
        (task_id,) = await submit(node, echo(7))
        assert await settled(node, task_id) == await node.task(task_id)
        times = (await node.task(task_id)).times
        assert times["submitted"] is not None
        assert times["settled"] is not None
        assert times["submitted"] <= times["settled"]


async def test_every_wait_of_many_ends_with_its_settlement_and_soon(
    open_port: OpenPort, tmp_path: Path
) -> None:
    async with open_port(tmp_path) as node:
        for _ in range(5):
            ids = await submit(node, *(echo(n) for n in range(20)))
            with trio.fail_after(PATIENCE_S / 2):
                states = {(await node.wait(task_id, PATIENCE_S)).state for task_id in ids}
            assert states == {"settled"}


async def test_a_wait_ends_when_its_time_is_over(open_port: OpenPort, tmp_path: Path) -> None:
    async with open_port(tmp_path) as node:
        (task_id,) = await submit(node, slow())
        with trio.fail_after(PATIENCE_S):
            view = await node.wait(task_id, 0.05)
        assert view.state != "settled"
        assert view.result is None
        await node.cancel(task_id)


async def test_a_cancelled_task_settles_as_cancelled_and_only_once(
    open_port: OpenPort, tmp_path: Path
) -> None:
    async with open_port(tmp_path) as node:
        (task_id,) = await submit(node, slow())
        await node.cancel(task_id)
        view = await settled(node, task_id)
        assert view.outcome == "cancelled"
        with pytest.raises(Problem) as problem:
            await node.cancel(task_id)
        assert told(problem) == "already_settled"


async def test_all_tasks_of_a_submission_are_accepted_or_none(
    open_port: OpenPort, tmp_path: Path
) -> None:
    async with open_port(tmp_path) as node:
        with pytest.raises(Problem) as problem:
            await node.submit([echo(), echo(), {"kind": "tool"}])
        assert told(problem) == "bad_request"
        assert "2" in problem.value.sentence  # the index of the bad one
        assert await node.tasks(state=None, limit=10, after=None) == []


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"kind": "dance", "payload": {}}, "unknown_kind"),
        ({"kind": "chat", "payload": {}}, "not_supported"),
        ({"kind": "tool", "payload": {"tool": "nonesuch", "args": {}}}, "unknown_tool"),
        (echo("x" * 70_000), "spec_too_large"),
        (echo(after=["00"]), "not_supported"),
        (echo(colour="red"), "bad_request"),
    ],
)
async def test_a_bad_task_is_refused_with_its_reason(
    open_port: OpenPort, tmp_path: Path, spec: dict[str, Any], code: str
) -> None:
    async with open_port(tmp_path) as node:
        with pytest.raises(Problem) as problem:
            await node.submit([spec])
        assert told(problem) == code


async def test_a_key_makes_the_same_submission_the_same_task(
    open_port: OpenPort, tmp_path: Path
) -> None:
    async with open_port(tmp_path) as node:
        first = await submit(node, echo(1, idempotency_key="k"))
        again = await submit(node, echo(1, idempotency_key="k"))
        without = await submit(node, echo(1))
        assert first == again != without
        with pytest.raises(Problem) as problem:
            await node.submit([echo(2, idempotency_key="k")])
        assert told(problem) == "key_conflict"


async def test_tasks_are_listed_newest_first_and_page_by_page(
    open_port: OpenPort, tmp_path: Path
) -> None:
    async with open_port(tmp_path) as node:
        ids = [(await submit(node, echo(n)))[0] for n in range(5)]
        for task_id in ids:
            await settled(node, task_id)
        newest = [view.id for view in await node.tasks(state=None, limit=3, after=None)]
        assert newest == ids[:1:-1]
        rest = [view.id for view in await node.tasks(state=None, limit=3, after=newest[-1])]
        assert rest == ids[1::-1]
        assert await node.tasks(state="running", limit=3, after=None) == []
        assert len(await node.tasks(state="settled", limit=9, after=None)) == 5


async def test_a_task_is_found_by_the_beginning_of_its_id(
    open_port: OpenPort, tmp_path: Path
) -> None:
    async with open_port(tmp_path) as node:
        (task_id,) = await submit(node, echo())
        assert node.task_id(task_id[:10]) == task_id
        assert node.task_id(task_id) == task_id
        other = ("0" if task_id[0] != "0" else "1") + task_id[1:8]
        with pytest.raises(Problem) as problem:
            node.task_id(other)
        assert told(problem) == "not_found"


async def test_a_task_that_is_not_there_is_not_found(open_port: OpenPort, tmp_path: Path) -> None:
    async with open_port(tmp_path) as node:
        for method in (node.task, node.cancel, node.why):
            with pytest.raises(Problem) as problem:
                await method("0" * 32)
            assert told(problem) == "not_found"
        with pytest.raises(Problem) as problem:
            await node.wait("0" * 32, 0.1)
        assert told(problem) == "not_found"


async def test_the_story_of_a_task_begins_with_its_submission_and_ends_with_its_settlement(
    open_port: OpenPort, tmp_path: Path
) -> None:
    async with open_port(tmp_path) as node:
        (task_id,) = await submit(node, echo())
        await settled(node, task_id)
        story = await node.why(task_id)
        assert (story.id, story.state, story.outcome) == (task_id, "settled", "completed")
        assert story.steps[0].what == "TaskSubmitted"
        assert story.steps[-1].what == "TaskSettled"
        assert all(step.sentence and step.who for step in story.steps)
        times = [step.time for step in story.steps]
        assert times == sorted(times)


async def test_events_come_in_rising_positions_and_go_on_after_any_of_them(
    open_port: OpenPort, tmp_path: Path
) -> None:
    async with open_port(tmp_path) as node:
        (task_id,) = await submit(node, echo())
        await settled(node, task_id)
        seen = [event async for event in node.events(after=0, follow=False)]
        positions = [event.position for event in seen]
        assert positions == sorted(set(positions))
        kinds = [event.kind for event in seen]
        assert "ClusterFounded" in kinds
        assert kinds.index("TaskSubmitted") < kinds.index("TaskSettled")
        rest = [event async for event in node.events(after=positions[1], follow=False)]
        assert rest == seen[2:]


async def test_who_follows_the_events_sees_what_comes(open_port: OpenPort, tmp_path: Path) -> None:
    async with open_port(tmp_path) as node:
        old = [event.position async for event in node.events(after=0, follow=False)]
        seen = trio.Event()

        async def follow() -> None:
            async for event in node.events(after=old[-1], follow=True):
                if event.kind == "TaskSettled":
                    seen.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await submit(node, echo())
            with trio.fail_after(PATIENCE_S):
                await seen.wait()
            nursery.cancel_scope.cancel()


async def test_output_ends_with_its_task(open_port: OpenPort, tmp_path: Path) -> None:
    async with open_port(tmp_path) as node:
        (task_id,) = await submit(node, echo())
        with trio.fail_after(PATIENCE_S):
            assert [chunk async for chunk in node.output(task_id, follow=True)] == []
            (unsettled,) = await submit(node, slow())
            assert [chunk async for chunk in node.output(unsettled, follow=False)] == []
        await node.cancel(unsettled)


async def test_a_blob_comes_back_as_it_went_in(open_port: OpenPort, tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for n in range(5):
            await trio.lowlevel.checkpoint()
            yield bytes([n]) * 40_000

    whole = b"".join(bytes([n]) * 40_000 for n in range(5))
    async with open_port(tmp_path) as node:
        blob_hash, size_bytes = await node.store_blob(pieces())
        assert (blob_hash, size_bytes) == (hashlib.sha256(whole).hexdigest(), len(whole))
        assert node.keeps_blob(blob_hash)
        assert not node.keeps_blob("0" * 64)
        assert not node.keeps_blob("../key")
        known, chunks = await node.open_blob(blob_hash)
        assert known == len(whole)
        assert b"".join([chunk async for chunk in chunks]) == whole
        with pytest.raises(Problem) as problem:
            await node.open_blob("0" * 64)
        assert told(problem) == "not_found"


async def test_the_cluster_shows_this_device_alive(open_port: OpenPort, tmp_path: Path) -> None:
    async with open_port(tmp_path) as node:
        (task_id,) = await submit(node, echo())
        await settled(node, task_id)
        cluster = node.cluster()
        (own,) = [device for device in cluster.devices if device.self]
        assert (own.id, own.alive, own.last_heard_s) == (cluster.self, True, 0.0)
        assert re.fullmatch(r"\d+:[0-9a-f]+", cluster.digest)
        assert cluster.tasks["settled"] == 1
        assert {head.author for head in cluster.heads} >= {cluster.self}


async def test_an_invite_has_a_token_and_an_unknown_role_has_none(
    open_port: OpenPort, tmp_path: Path
) -> None:
    async with open_port(tmp_path) as node:
        invite = await node.invite("member")
        assert invite.role == "member"
        assert re.fullmatch(r"[\x21-\x7e]{20,}", invite.token)
        with pytest.raises(Problem) as problem:
            await node.invite("emperor")
        assert told(problem) in ("not_supported", "bad_request")


async def test_what_used_up_its_attempts_is_listed_and_submitted_again(
    open_port: OpenPort, tmp_path: Path
) -> None:
    async with open_port(tmp_path) as node:
        [fine] = await submit(node, echo())
        await settled(node, fine)
        assert await node.tasks(state=None, limit=10, after=None, dead=True) == []
        [task_id] = await submit(node, slow(0.0, timeout_s=60.0))
        with pytest.raises(Problem) as problem:
            await node.resubmit((await submit(node, slow()))[0])
        assert told(problem) == "not_settled"
        again = await node.resubmit(fine)
        assert again.id not in (fine, task_id)
        assert (await settled(node, again.id)).outcome == "completed"


async def test_a_session_is_listed_from_its_first_cell_on(
    open_port: OpenPort, tmp_path: Path
) -> None:
    async with open_port(tmp_path) as node:
        assert node.sessions() == []
        payload = {"language": "python", "code": "1"}
        [task_id] = await submit(
            node, {"kind": "code", "payload": payload, "session": "notes", "failover": "queue"}
        )
        cell = (await node.task(task_id)).session
        assert cell is not None
        assert (cell.name, cell.language, cell.cell) == ("notes", "python", 0)
        [session] = node.sessions()
        assert (session.name, session.language, session.cells, session.open) == (
            *("notes", "python"),
            *(0, 1),
        )


async def test_weights_change_for_one_kind(open_port: OpenPort, tmp_path: Path) -> None:
    async with open_port(tmp_path) as node:
        before = node.weights()["code"]
        factor = sorted(before)[0]
        changed = await node.set_weights("code", {**before, factor: 0.75})
        assert changed["code"] == {**before, factor: 0.75}
        assert node.weights() == changed
        with pytest.raises(Problem) as problem:
            await node.set_weights("dance", {factor: 1.0})
        assert told(problem) == "unknown_kind"


async def test_metrics_have_names_types_and_numbers(open_port: OpenPort, tmp_path: Path) -> None:
    async with open_port(tmp_path) as node:
        rows = node.metrics()
        assert rows
        for name, kind, meaning, labels, value in rows:
            assert re.fullmatch("kowalski_[a-z0-9_]+", name)
            assert kind in ("counter", "gauge")
            assert meaning
            assert all(isinstance(text, str) for text in labels.values())
            assert isinstance(value, int | float)
