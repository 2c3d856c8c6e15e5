"""Each error that the specification names is told by the codes that the reference says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from kowalski_executors.code_executor import CodeExecutor
from kowalski_gateway.node_main import options_from
from kowalski_node.client import Client
from kowalski_node.executor import Failed
from kowalski_protocol.errors import CODES, Problem
from kowalski_protocol.tasks import parse_task
from scripts.reference.named_errors import NAMED
from scripts.reference.pages import PAGES
from tests.ports.executors import outcome_of
from tests.ports.sessions import Talk, served
from tests.stories.world import World

SPECIFIED = (
    "ExecutionError",
    "NoDevicesAvailable",
    "DeviceFailed",
    "DeviceNotFound",
    "NetworkError",
    "DiscoveryTimeout",
    "REPLError",
    "REPLTimeout",
    "ContextFoldingError",
    "ConfigError",
)
BY_NAME = {one.name: one for one in NAMED}
ECHO: Mapping[str, Any] = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}


@pytest.fixture
def executor(tmp_path: Path) -> CodeExecutor:
    """Runs programs in whatever way this machine allows."""
    return CodeExecutor(work_root=tmp_path, unsandboxed=True)


def test_every_error_of_the_specification_has_its_row() -> None:
    assert tuple(one.name for one in NAMED) == SPECIFIED
    page = PAGES["errors.md"]()
    assert [name for name in SPECIFIED if not re.search(rf"^\| `{name}` \|", page, re.M)] == []


def test_every_code_of_the_table_is_in_the_catalogue() -> None:
    assert [code for one in NAMED for code in one.codes if code not in CODES] == []


async def test_a_program_that_fails_is_an_execution_error(executor: CodeExecutor) -> None:
    outcome = await outcome_of(executor, "1 / 0")
    assert isinstance(outcome, Failed)
    assert outcome.code in BY_NAME["ExecutionError"].codes


@pytest.mark.parametrize(
    "task",
    [
        {**ECHO, "requires": {"memory_mb": 1e6}},
        {"kind": "code", "payload": {"language": "cobol", "code": "x"}},
        {"kind": "tool", "payload": {"tool": "teleport"}},
    ],
    ids=("memory", "language", "tool"),
)
def test_a_task_that_no_device_could_run_is_refused(task: dict[str, object]) -> None:
    world = World("desk", "laptop")
    ticket = world.submit("desk", task)
    world.run(0.1)
    problem = world["desk"].answers[ticket].problem
    assert problem is not None
    assert problem.code in BY_NAME["NoDevicesAvailable"].codes


def test_a_device_that_fails_under_a_task_is_told_where_the_task_may_not_move() -> None:
    world = World("desk", "laptop")
    for device in world.devices:
        device.run_s = None
    (id,) = world.accepted("desk", {**ECHO, "failover": "fail", "device_filter": "network"})
    assert world.run(1.0, until=lambda: bool(world.runs_on(id)))
    world["laptop"].crash()
    assert world.run(3.0, until=world.settled(id, outcome="failed"))
    settled = world["desk"].task(id).settled
    assert settled is not None
    assert (settled.code,) == BY_NAME["DeviceFailed"].codes


def test_a_device_that_is_no_member_is_refused() -> None:
    stranger = World("far away")["far away"].identity.peer_id
    world = World("desk", "laptop")
    ticket = world.submit("desk", {**ECHO, "requires": {"device": stranger}})
    world.run(0.1)
    problem = world["desk"].answers[ticket].problem
    assert problem is not None
    assert (problem.code,) == BY_NAME["DeviceNotFound"].codes


async def test_an_address_where_no_node_answers_is_a_network_error() -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(Problem) as raised:
            await client.cluster()
    assert raised.value.code in BY_NAME["NetworkError"].codes


def test_a_device_that_discovers_nobody_has_no_error_and_works_alone() -> None:
    assert BY_NAME["DiscoveryTimeout"].codes == ()
    world = World("desk")
    (id,) = world.accepted("desk", dict(ECHO))
    assert world.run(1.0, until=world.settled(id))


async def test_cells_fail_end_their_interpreter_or_lose_their_session(
    executor: CodeExecutor,
) -> None:
    async with served(executor):
        talk = Talk(executor)
        failed = await talk.failed("1 / 0")
        ended = await talk.failed("import os\nos._exit(0)")
        # As if it had ended well elsewhere: here it ends the interpreter when it is run again.
        talk.recorded[-1] = structs.replace(talk.recorded[-1], is_whole=True)
        lost = await talk.failed("1")
    assert (failed.code, ended.code, lost.code) == BY_NAME["REPLError"].codes


async def test_a_cell_that_takes_too_long_is_timed_out(executor: CodeExecutor) -> None:
    async with served(executor):
        outcome = await Talk(executor).failed("while True: pass", timeout_s=0.3)
    assert (outcome.code,) == BY_NAME["REPLTimeout"].codes


def test_context_folding_is_refused_as_not_built() -> None:
    with pytest.raises(Problem) as raised:
        parse_task({"kind": "rlm", "payload": {"prompt": "x"}})
    assert (raised.value.code,) == BY_NAME["ContextFoldingError"].codes


@pytest.mark.parametrize("text", ["slots = 'many'", "nonsense = 1", "slots ="])
def test_a_configuration_that_is_no_good_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    with pytest.raises(Problem) as raised:
        options_from(["--home", str(tmp_path), "--api", "127.0.0.1:0"])
    assert raised.value.code in BY_NAME["ConfigError"].codes
