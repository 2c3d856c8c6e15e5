"""What people see of a task's result, wherever its bytes are."""

from __future__ import annotations

import pytest

from kowalski_ledger.state import Attempt, End, Task
from kowalski_node.viewing import result_blob, result_view
from kowalski_node.views import ResultView
from kowalski_protocol.events import Result
from kowalski_protocol.ids import Author, EventHash, TaskId

HASH = bytes(range(32))
CLAIM = EventHash(b"c" * 32)
DEVICE = Author(b"d" * 32)


def task(kind: str, *, is_blob: bool, code: str = "") -> Task:
    """A task of one attempt that has ended."""
    attempt = Attempt(EventHash(b"a" * 32), 1, DEVICE, CLAIM, DEVICE, 1, 1)
    attempt.end = End(kind, EventHash(b"e" * 32), 2, 1, code, HASH, 70_000, is_blob)
    one = Task(TaskId(b"t" * 16))
    one.attempts.append(attempt)
    return one


@pytest.mark.parametrize(("is_blob", "blob"), [(True, HASH.hex()), (False, None)])
def test_a_result_names_the_blob_that_it_is(is_blob: bool, blob: str | None) -> None:
    completed = task("completed", is_blob=is_blob)
    assert result_blob(completed) == blob
    view = result_view(Result(True, "value", "out", "err"), completed)
    assert view == ResultView(True, "value", blob, "out", "err")
    failed = result_view(Result(False, None, "out", "", "code_failed", "No."), completed)
    assert failed is not None
    assert (failed.blob, failed.ok) == (blob, False)


def test_a_blob_that_nobody_could_send_is_named() -> None:
    completed = task("completed", is_blob=True)
    assert result_view(None, completed, HASH.hex()) == ResultView(True, blob=HASH.hex())
    view = result_view(None, task("failed", is_blob=True, code="code_failed"), HASH.hex())
    assert view is not None
    assert view.error is not None
    assert (view.ok, view.blob, view.error.code) == (False, HASH.hex(), "code_failed")


def test_what_has_no_end_has_no_result() -> None:
    waiting = Task(TaskId(b"t" * 16))
    assert (result_blob(waiting), result_view(None, waiting)) == (None, None)
    assert result_view(None, task("completed", is_blob=True)) is None
