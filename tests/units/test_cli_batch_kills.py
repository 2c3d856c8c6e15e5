"""`kowalski batch`: wherever it is killed, the same command goes on, and nothing is run twice.

A kill takes place at a request (before it or after it had its effect), at a write, or between any
two steps of what is done to the files; the files are then put back as they were at that instant,
as a killed process leaves them, perhaps with a piece of one more record. The node keeps one task
for each idempotency key, as a real one does.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kowalski_gateway.cli import batch, batch_order, batch_results, batch_run
from kowalski_gateway.cli.main import run

FAILING = 7
"""A task with this value fails."""


class Killed(BaseException):
    """The process ends here, and runs nothing any more."""


class Knife:
    """Kills at a step, and keeps the folder as it is then."""

    def __init__(self, folder: Path, at: int | None) -> None:
        self.folder = folder
        self.left: dict[str, bytes] = {}
        self._steps_left = at

    def step(self) -> None:
        if self._steps_left is None:
            return
        self._steps_left -= 1
        if self._steps_left == 0:
            self.left = {path.name: path.read_bytes() for path in self.folder.iterdir()}
            raise Killed


class KeyedNode:
    """The API of a node with one task for each key, of which some have settled when asked."""

    def __init__(self, chance: random.Random) -> None:
        self.knife = Knife(Path(), None)
        self.chance = chance
        self.by_key: dict[str, str] = {}
        self.values: dict[str, int] = {}

    def close(self) -> None:
        pass

    def ask(
        self, method: str, path: str, body: Any = None, *, content: bytes = b"", wait_s: float = 0
    ) -> Any:
        del method, wait_s
        self.knife.step()
        if path.endswith("/batch"):
            answer: Any = {"ids": [self._submitted(spec) for spec in json.loads(content)]}
        else:
            assert set(body["ids"]) <= set(self.values)
            some = [one for one in body["ids"] if self.chance.random() < 0.4]
            answer = {"tasks": [self._view(one) for one in some]}
        self.knife.step()
        return answer

    def _submitted(self, spec: Any) -> str:
        key = spec["idempotency_key"]
        if key not in self.by_key:
            self.by_key[key] = f"{len(self.by_key):032x}"
            self.values[self.by_key[key]] = spec["payload"]["args"]["value"]
        return self.by_key[key]

    def _view(self, task_id: str) -> dict[str, Any]:
        value = self.values[task_id]
        if value == FAILING:
            error = {"code": "tool_failed", "message": "It broke."}
            result: dict[str, Any] = {"ok": False, "error": error}
            return {"id": task_id, "outcome": "failed", "result": result}
        return {"id": task_id, "outcome": "completed", "result": {"ok": True, "value": value}}


class Round(NamedTuple):
    """One call of the command."""

    killed_at: int
    torn_bytes: int
    added: list[int]
    ordered: bool
    retry_failed: bool


VALUES = st.lists(st.integers(0, 9), max_size=12)
ROUNDS = st.lists(
    st.builds(
        Round,
        st.integers(1, 30),
        st.integers(0, 60),
        st.lists(st.integers(0, 9), max_size=2),
        st.booleans(),
        st.booleans(),
    ),
    max_size=5,
)


@contextmanager
def stepping(node: KeyedNode) -> Iterator[None]:
    """Every step that changes a file is one at which the command may be killed."""

    def stepped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            node.knife.step()
            return function(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "node_api", lambda: node)
        patch.setattr(batch_run, "CHUNK_TASKS", 3)
        patch.setattr(batch_run.time, "sleep", lambda _: None)
        patch.setattr(batch_order, "HELD_SIZE_BYTES_MAX", 400)
        patch.setattr(os, "fsync", stepped(os.fsync))
        patch.setattr(Path, "unlink", stepped(Path.unlink))
        patch.setattr(Path, "replace", stepped(Path.replace))
        write = stepped(batch_results.ResultsFile.write)
        patch.setattr(batch_results.ResultsFile, "write", write)
        yield


def put_back(folder: Path, files: dict[str, bytes], torn_bytes: int) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if "out.jsonl.batch" in files and files.get("out.jsonl", b"?")[-1:] in (b"", b"\n"):
        torn = b'{"line": 1, "spec": "0123456789abcdef0123456789abcdef", "ba'[:torn_bytes]
        (folder / "out.jsonl").write_bytes(files["out.jsonl"] + torn)


def call(node: KeyedNode, folder: Path, values: list[int], one: Round, *, kill: bool) -> int | None:
    tasks = [{"kind": "tool", "payload": {"tool": "echo", "args": {"value": v}}} for v in values]
    text = "".join(json.dumps(task) + "\n" for task in tasks)
    (folder / "tasks.jsonl").write_text(text, encoding="utf-8")
    words = ["batch", str(folder / "tasks.jsonl"), "--out", str(folder / "out.jsonl")]
    words += ["--max-parallel", "4", "--json"]
    words += ["--ordered"] * one.ordered + ["--retry-failed"] * one.retry_failed
    node.knife = Knife(folder, one.killed_at if kill else None)
    try:
        with stepping(node):
            return run(words)
    except Killed:
        put_back(folder, node.knife.left, one.torn_bytes)
        return None


@settings(max_examples=120, deadline=None)
@given(VALUES, ROUNDS, st.booleans(), st.integers(0, 2**32))
def test_after_any_interruptions_there_is_one_result_for_each_line(
    values: list[int], rounds: list[Round], ordered: bool, seed: int
) -> None:
    node = KeyedNode(random.Random(seed))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for one in rounds:
            call(node, folder, values, one, kill=True)
            values = values + one.added
        last = Round(0, 0, [], ordered, retry_failed=False)
        code = call(node, folder, values, last, kill=False)
        assert code == (1 if FAILING in values else 0)
        out = folder / "out.jsonl"
        results = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        leftovers = {path.name for path in folder.iterdir()} - {"out.jsonl.batch-new"}
        assert leftovers == {"tasks.jsonl", "out.jsonl"}
        before = Counter(node.values.values())
        again = Round(0, 0, [], ordered, retry_failed=True)
        assert call(node, folder, values, again, kill=False) == code
        assert Counter(node.values.values()) - before == Counter(
            {FAILING: values.count(FAILING)} if FAILING in values else {}
        )
    lines = [one["line"] for one in results]
    assert sorted(lines) == [*range(1, len(values) + 1)]
    if ordered:
        assert lines == sorted(lines)
    for one in results:
        assert node.values[one["id"]] == values[one["line"] - 1]
    assert len({one["id"] for one in results}) == len(values)  # equal lines are different tasks
    ran, wanted = before, Counter(values)
    if any(one.retry_failed for one in rounds):
        assert ran.pop(FAILING, 0) >= wanted.pop(FAILING, 0)
    assert ran == wanted
