"""The built-in tools: what each gives, and what each refuses with which words."""

from __future__ import annotations

import getpass
import hashlib
import json
import math
import platform
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kowalski_executors.device_facts import accelerators
from kowalski_executors.tool_executor import ToolExecutor
from kowalski_node.executor import Completed, Failed, Outcome
from tests.ports.executors import Recorder, attempt

BLOB = "ab" * 32


async def run(
    tool: object, args: object, *, timeout_s: float = 20, context: Recorder | None = None
) -> Outcome:
    """Runs one tool."""
    return await ToolExecutor().run(
        attempt({"tool": tool, "args": args}, kind="tool", timeout_s=timeout_s),
        context or Recorder(),
    )


@pytest.mark.parametrize("value", [None, 0, "", [], {"value": {"value": 1}}, "x" * 100_000])
async def test_echo_gives_back_its_value(value: object) -> None:
    assert await run("echo", {"value": value}) == Completed(value)


async def test_sleep_sleeps_as_long_as_it_was_told(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    assert await run("sleep", {"seconds": 7}) == Completed({"slept_s": 7.0})
    assert trio.current_time() - began == pytest.approx(7)
    assert await run("sleep", {"seconds": 0.0}) == Completed({"slept_s": 0.0})


async def test_sleep_ends_at_the_attempts_time(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    outcome = await run("sleep", {"seconds": 30}, timeout_s=5)
    assert isinstance(outcome, Failed)
    assert outcome.code == "timed_out"
    assert "5 s" in outcome.sentence
    assert trio.current_time() - began == pytest.approx(5)


@pytest.mark.parametrize("algorithm", [None, "sha256", "sha512", "blake2b"])
async def test_hash_is_that_of_the_standard_library(tmp_path: Path, algorithm: str | None) -> None:
    content = bytes(range(256)) * 10_000 + b"end"
    file = tmp_path / "blob"
    file.write_bytes(content)
    args = {"blob": BLOB} | ({"algorithm": algorithm} if algorithm else {})
    outcome = await run("hash", args, context=Recorder({BLOB: file}))
    name = algorithm or "sha256"
    digest = hashlib.new(name, content).hexdigest()
    assert outcome == Completed({"algorithm": name, "digest": digest, "size": len(content)})


async def test_hash_of_a_large_blob_takes_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "blob"
    with file.open("wb") as sparse:
        sparse.truncate(64 << 20)
    tracemalloc.start()
    try:
        outcome = await run("hash", {"blob": BLOB}, context=Recorder({BLOB: file}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(outcome, Completed)
    assert outcome.value["size"] == 64 << 20
    assert peak < 4 << 20


async def test_hash_stops_at_once_when_it_is_cancelled(tmp_path: Path) -> None:
    file = tmp_path / "blob"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)  # a terabyte of nothing: an hour's work
    context = Recorder({BLOB: file})
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                ToolExecutor().run,
                attempt({"tool": "hash", "args": {"blob": BLOB}}, kind="tool"),
                context,
            )
            with trio.move_on_after(0.05):
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()


async def test_hash_of_a_blob_that_nobody_has_says_so() -> None:
    outcome = await run("hash", {"blob": BLOB})
    assert isinstance(outcome, Failed)
    assert outcome.code == "not_found"


async def test_hash_of_a_file_that_can_not_be_read_fails(tmp_path: Path) -> None:
    outcome = await run("hash", {"blob": BLOB}, context=Recorder({BLOB: tmp_path}))
    assert isinstance(outcome, Failed)
    assert outcome.code == "tool_failed"


async def test_device_info_describes_the_device_without_naming_it() -> None:
    outcome = await run("device_info", {})
    assert isinstance(outcome, Completed)
    facts = outcome.value
    assert facts["machine"] == platform.machine()
    assert facts["python_version"] == platform.python_version()
    assert facts["cores"] >= facts["cores_usable"] >= 1
    assert facts["memory_bytes"] > 64 << 20
    assert isinstance(facts["accelerators"], list)
    told = json.dumps(facts).lower()
    for name in (platform.node(), str(Path.home()), getpass.getuser()):
        assert f'"{name.lower()}"' not in told


def test_accelerators_are_read_from_the_drivers_files(tmp_path: Path) -> None:
    nvidia, amd = tmp_path / "nvidia", tmp_path / "amd"
    (nvidia / "0000:01:00.0").mkdir(parents=True)
    (nvidia / "0000:01:00.0" / "information").write_text("Model: \t\t H200 NVL\nIRQ: 1\n")
    (nvidia / "0000:02:00.0").mkdir()
    for node, units in (("0", "0"), ("1", "304")):
        (amd / node).mkdir(parents=True)
        (amd / node / "properties").write_text(f"cpu_cores_count 0\nsimd_count {units}\n")
        (amd / node / "name").write_text("gfx942\n")
    assert accelerators(nvidia, amd) == [
        {"vendor": "nvidia", "model": "H200 NVL"},
        {"vendor": "nvidia", "model": "unknown"},
        {"vendor": "amd", "model": "gfx942"},
    ]
    assert accelerators(tmp_path / "none", tmp_path / "none") == []


BAD: list[tuple[object, object, str, str]] = [
    ("ehco", {}, "unknown_tool", "'ehco'"),
    ("ehco", {}, "unknown_tool", "device_info, echo, hash, sleep"),
    (None, {}, "unknown_tool", "echo"),
    ([], {}, "unknown_tool", "echo"),
    ("echo", {}, "tool_failed", "value"),
    ("echo", None, "tool_failed", "value"),
    ("echo", [1], "tool_failed", "args"),
    ("echo", "value", "tool_failed", "args"),
    ("echo", ["value"], "tool_failed", "args"),
    ("echo", {"value": 1, "other": 2}, "tool_failed", "other"),
    ("echo", {"valeu": 1}, "tool_failed", "value"),
    ("sleep", {}, "tool_failed", "seconds"),
    ("sleep", {"seconds": "1"}, "tool_failed", "seconds"),
    ("sleep", {"seconds": True}, "tool_failed", "seconds"),
    ("sleep", {"seconds": -0.1}, "tool_failed", "seconds"),
    ("sleep", {"seconds": math.nan}, "tool_failed", "seconds"),
    ("sleep", {"seconds": math.inf}, "tool_failed", "seconds"),
    ("sleep", {"seconds": 10**400}, "tool_failed", "seconds"),
    ("hash", {}, "tool_failed", "blob"),
    ("hash", {"blob": BLOB.upper()}, "tool_failed", "blob"),
    ("hash", {"blob": BLOB + "\n"}, "tool_failed", "blob"),
    ("hash", {"blob": "../../etc/passwd"}, "tool_failed", "blob"),
    ("hash", {"blob": BLOB, "algorithm": "md5"}, "tool_failed", "algorithm"),
    ("hash", {"blob": BLOB, "algorithm": ["sha256"]}, "tool_failed", "algorithm"),
    ("device_info", {"all": True}, "tool_failed", "all"),
]


@pytest.mark.parametrize(("tool", "args", "code", "named"), BAD)
async def test_what_is_wrong_is_refused_by_name(
    tool: object, args: object, code: str, named: str
) -> None:
    outcome = await run(tool, args)
    assert isinstance(outcome, Failed)
    assert outcome.code == code
    assert named in outcome.sentence


async def test_a_payload_with_another_field_is_refused() -> None:
    payload: dict[str, Any] = {"tool": "echo", "args": {"value": 1}, "shell": "rm"}
    outcome = await ToolExecutor().run(attempt(payload, kind="tool"), Recorder())
    assert isinstance(outcome, Failed)
    assert "shell" in outcome.sentence
