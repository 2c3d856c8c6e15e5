"""What a device of a later release writes: kinds that this one does not know, and known ones that
have grown by a field at their end.

The rule for both stands in `kowalski_protocol.events`. Devices of this release must keep and pass
on what they do not understand, and all must show one digest.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from kowalski_protocol import events
from kowalski_protocol.events import Body
from kowalski_protocol.topics import RESULT


class StepRecorded(Body, frozen=True):
    """A kind of the task topic that this release has no word for."""

    task: bytes
    memo: dict[str, Any]


class OutputSealed(Body, frozen=True):
    """The same of the result topic."""

    topic = RESULT
    data: bytes


class CancelRequested(events.CancelRequested, frozen=True):
    """A known kind with one more field."""

    reason: str = "because"


def novelties(chance: random.Random, task: bytes) -> list[Body]:
    """Some events of a later release; `task` is one that may be asked to end."""
    choices: tuple[Callable[[], Body], ...] = (
        lambda: StepRecorded(
            task, {"step": chance.randrange(9), "value": [None, 1.5, {"a": b"b"}]}
        ),
        lambda: OutputSealed(chance.randbytes(chance.choice((0, 40, 3000)))),
        lambda: CancelRequested(task),
    )
    return [chance.choice(choices)() for _ in range(chance.randint(1, 3))]
