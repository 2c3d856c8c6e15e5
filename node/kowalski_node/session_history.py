"""The cells that a session has run, read from the ledger, so that they can be run again."""

from __future__ import annotations

from typing import Any, Final, cast

from kowalski_ledger.state import State
from kowalski_ledger.store import Store
from kowalski_protocol.codec import Malformed, decode_body, decode_value
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import TaskSubmitted
from kowalski_protocol.feeds import Feed
from kowalski_protocol.tasks import decode_spec
from kowalski_protocol.topics import TASK

from .core.effects import Start
from .core.sessions import history
from .executor import Recorded

REPLAY_SIZE_BYTES_MAX: Final = 64 << 20
"""Of the payloads of all cells together: they are held in memory while the session is rebuilt."""


async def recorded_cells(state: State, store: Store, start: Start) -> list[Recorded]:
    """The cells of its session that ran before an attempt's, the oldest first.

    Raises Problem `session_lost` where one of them is not all here, or they are too many.
    """
    cells = history(state, start)
    if cells is None:
        raise Problem("session_lost", "This device's ledger does not have all of its cells.")
    found: list[Recorded] = []
    size_bytes = 0
    for task, attempt in cells:
        feed = Feed(task.submitter, TASK)
        event = await store.event(feed, task.submitted_seq)
        body = decode_body(event.kind, event.body) if event is not None else None
        spec = decode_spec(body.spec) if isinstance(body, TaskSubmitted) else None
        payload = event.attachment if event is not None else None
        if spec is None or payload is None:
            raise Problem(
                "session_lost",
                f"The program of cell {attempt.cell} is no longer in this device's ledger.",
            )
        size_bytes += len(payload)
        if size_bytes > REPLAY_SIZE_BYTES_MAX:
            limit = REPLAY_SIZE_BYTES_MAX >> 20
            raise Problem(
                "session_lost", f"Its cells are more than {limit} MiB, too much to run again."
            )
        try:
            value = cast("dict[str, Any]", decode_value(payload))
        except Malformed:
            value = {}
        end = attempt.end
        assert end is not None, "nothing comes after a cell that has not ended"
        found.append(
            Recorded(
                attempt.cell,
                attempt.hash.hex(),
                value,
                spec.requires,
                end.kind == "completed" or end.code == "code_failed",
                end.result_hash,
            )
        )
    return found
