"""What every executor does, whatever it runs: the contract of `kowalski_node.executor.Executor`.

Each test is one sentence of that contract. It runs on the tools, on Python code in the sandbox and
without one, and on the scripted double that other tests use in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kowalski_executors.code_executor import CodeExecutor
from kowalski_executors.tool_executor import ToolExecutor
from kowalski_node.executor import Attempt, Completed, Executor, Failed
from kowalski_protocol.errors import CODES
from tests.ports.executors import (
    CANCEL_S,
    Recorder,
    attempt,
    children,
    marked,
    marking,
    new_mark,
    open_descriptors,
    python,
    quickest,
    until,
)
from tests.ports.scripted_executor import Script, ScriptedExecutor

Payload = dict[str, Any]


@dataclass
class Subject:
    """An executor, and payloads that make it do what a test is about. None: it can't do that."""

    executor: Executor
    good: Payload
    value: object
    bad: Payload
    endless: Payload
    """Runs until it is stopped."""
    chatty: Payload | None
    """Prints "one\\n" on stdout, and then runs until it is stopped."""
    flood: Payload | None
    """Prints more than may be kept, at once."""
    left_behind: Callable[[], object]
    """What is still there of an attempt; empty when nothing is."""

    def attempt(self, payload: Payload, timeout_s: float = 20.0) -> Attempt:
        """An attempt of the executor's kind."""
        return attempt(payload, kind=self.executor.name, timeout_s=timeout_s)


def tool_subject(_folder: Path) -> Subject:
    """The built-in tools."""
    return Subject(
        executor=ToolExecutor(),
        good={"tool": "echo", "args": {"value": {"a": [1, 2.5, None, "ü"]}}},
        value={"a": [1, 2.5, None, "ü"]},
        bad={"tool": "sleep", "args": {"seconds": -1}},
        endless={"tool": "sleep", "args": {"seconds": 3600}},
        chatty=None,
        flood=None,
        left_behind=lambda: None,
    )


SURVIVORS = """
import os, signal, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            while True:
                time.sleep(1)
        os._exit(0)
"""
"""Leaves three processes that belong to no group or session of their maker's."""

FOREVER = "import time\nwhile True: time.sleep(1)"


def code_subject(folder: Path, **how: Any) -> Subject:
    """Python programs."""
    mark = new_mark()
    head = marking(mark)
    return Subject(
        executor=CodeExecutor(work_root=folder, **how),
        good=python("x = 20\n{'a': [x * 2 + 2, 2.5, None, 'ü']}"),
        value={"a": [42, 2.5, None, "ü"]},
        bad=python("[][1]"),
        endless=python(head + SURVIVORS + FOREVER),
        chatty=python(head + SURVIVORS + "print('one')\n" + FOREVER),
        flood=python(head + SURVIVORS + "while True: print('x' * 10_000)"),
        left_behind=lambda: marked(mark) or children() or list(folder.glob("run-*")),
    )


def scripted_subject(_folder: Path) -> Subject:
    """The double."""
    never = trio.Event()
    executor = ScriptedExecutor(
        {
            "good": Script(Completed({"a": 1})),
            "bad": Script(Failed("code_failed", "ZeroDivisionError: division by zero")),
            "endless": Script(cue=never),
            "chatty": Script(prints=(("stdout", b"one\n"),), cue=never),
            "flood": Script(prints=(("stdout", b"x" * 10_000),) * 1_000, cue=never),
        }
    )
    return Subject(
        executor=executor,
        good={"script": "good"},
        value={"a": 1},
        bad={"script": "bad"},
        endless={"script": "endless"},
        chatty={"script": "chatty"},
        flood={"script": "flood"},
        left_behind=lambda: executor.running,
    )


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "tool": tool_subject,
    "sandboxed code": code_subject,
    "sandboxed code, cold": lambda folder: code_subject(folder, warm=False),
    "unsandboxed code": lambda folder: code_subject(folder, unsandboxed=True),
    "scripted": scripted_subject,
}


@pytest.fixture(
    params=[
        pytest.param(
            name, marks=[pytest.mark.needs_bubblewrap] if name.startswith("sandboxed") else []
        )
        for name in SUBJECTS
    ]
)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    """Each executor in turn."""
    return SUBJECTS[request.param](tmp_path)


async def test_its_probe_offers_the_kind_that_it_runs_and_tells_the_same_again(
    subject: Subject,
) -> None:
    with trio.fail_after(5):
        offered = await subject.executor.probe()
    assert list(offered.kinds) == [subject.executor.name]
    assert not offered.problems
    assert await subject.executor.probe() == offered


async def test_a_good_attempt_completes_with_its_value(subject: Subject) -> None:
    outcome = await subject.executor.run(subject.attempt(subject.good), Recorder())
    assert isinstance(outcome, Completed)
    assert outcome.value == subject.value
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(outcome.value)) == subject.value


async def test_a_bad_attempt_fails_with_a_known_code_and_a_sentence(subject: Subject) -> None:
    outcome = await subject.executor.run(subject.attempt(subject.bad), Recorder())
    assert isinstance(outcome, Failed)
    assert outcome.code in CODES
    assert outcome.sentence.strip()


async def test_an_attempt_past_its_time_ends_as_timed_out(subject: Subject) -> None:
    with trio.fail_after(10):
        outcome = await subject.executor.run(
            subject.attempt(subject.endless, timeout_s=0.3), Recorder()
        )
    assert isinstance(outcome, Failed)
    assert outcome.code == "timed_out"
    assert not subject.left_behind()


async def test_a_cancelled_attempt_stops_within_250_ms_and_leaves_nothing(subject: Subject) -> None:
    await subject.executor.probe()

    async def cancel_one() -> float:
        context = Recorder()
        payload = subject.chatty or subject.endless
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subject.executor.run, subject.attempt(payload), context)
            if subject.chatty:
                await context.printed.wait()
            else:
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            began = trio.current_time()
        took_s = trio.current_time() - began
        assert not subject.left_behind()
        return took_s

    assert await quickest(cancel_one) < CANCEL_S


async def test_an_attempt_that_is_cancelled_before_it_began_leaves_nothing(
    subject: Subject,
) -> None:
    await subject.executor.probe()
    before = open_descriptors()
    for delay_s in (0, 0.001, 0.002, 0.004, 0.006, 0.008, 0.010, 0.015, 0.020):
        with trio.move_on_after(delay_s):
            await subject.executor.run(subject.attempt(subject.endless), Recorder())
        assert not subject.left_behind()
    assert open_descriptors() == before


async def test_output_is_passed_on_while_the_attempt_runs(subject: Subject) -> None:
    if subject.chatty is None:
        pytest.skip("tools print nothing")
    context = Recorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subject.executor.run, subject.attempt(subject.chatty), context)
        with trio.fail_after(10):
            while b"one\n" not in context.text("stdout"):
                context.printed = trio.Event()
                await context.printed.wait()
        nursery.cancel_scope.cancel()


async def test_output_is_cut_at_its_source(subject: Subject) -> None:
    if subject.flood is None:
        pytest.skip("tools print nothing")
    context = Recorder()
    with trio.fail_after(10):
        outcome = await subject.executor.run(subject.attempt(subject.flood), context)
    assert isinstance(outcome, Failed)
    assert outcome.code == "output_too_large"
    assert len(context.text("stdout")) == 1 << 20
    assert len(outcome.stdout) <= 1 << 20
    assert not subject.left_behind()


async def test_attempts_run_side_by_side_and_keep_their_results_apart(subject: Subject) -> None:
    outcomes: dict[int, object] = {}

    async def run_one(number: int) -> None:
        payload = subject.bad if number % 3 == 0 else subject.good
        outcomes[number] = await subject.executor.run(subject.attempt(payload), Recorder())

    async with trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(run_one, number)
    for number, outcome in outcomes.items():
        assert isinstance(outcome, Failed if number % 3 == 0 else Completed)
        assert number % 3 == 0 or getattr(outcome, "value", None) == subject.value
    assert not subject.left_behind()


async def test_many_attempts_leave_no_descriptor_open(subject: Subject) -> None:
    await subject.executor.run(subject.attempt(subject.good), Recorder())
    before = open_descriptors()
    for payload in (subject.good, subject.bad) * 5:
        await subject.executor.run(subject.attempt(payload), Recorder())
    assert open_descriptors() == before


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)
FIELDS = st.sampled_from(
    ["tool", "args", "language", "code", "stdin", "timeout_s", "script", "value", "", "\ud800"]
)
NAMES = st.sampled_from(["echo", "sleep", "hash", "device_info", "python", "py", "good", "x"])
PAYLOADS = st.dictionaries(FIELDS, NAMES | ANYTHING, max_size=5)
REQUIRES = st.dictionaries(st.sampled_from(["memory_mb", "x"]), ANYTHING, max_size=2)


@given(payload=PAYLOADS, requires=REQUIRES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_payload_raises_past_run(
    subject: Subject, payload: Payload, requires: Payload
) -> None:
    with trio.move_on_after(1):
        outcome = await subject.executor.run(
            attempt(payload, kind=subject.executor.name, timeout_s=0.2, requires=requires),
            Recorder(),
        )
        assert isinstance(outcome, Completed) or outcome.code in CODES
    await until(lambda: not subject.left_behind())
