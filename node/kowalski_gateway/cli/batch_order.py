"""`--ordered`: results leave in the order of their lines, whichever settles first.

What waits for an earlier line is held in memory up to a bound. Beyond it only the task's id is
kept, and its result is asked for again when its turn comes: the node has it in its ledger, so
nothing has to be spilled to a disk here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

HELD_SIZE_BYTES_MAX: Final = 16 * 1024 * 1024
ASKED_AGAIN_MAX: Final = 100

AskAgain = Callable[[dict[int, str]], dict[int, bytes]]
"""Lines and their tasks' ids to their results, as far as the node sends them."""


class InOrder:
    """Results on their way into the file."""

    def __init__(self, numbers: Iterable[int], ask_again: AskAgain) -> None:
        self._to_come = deque(numbers)
        self._ask_again = ask_again
        self._held: dict[int, bytes | str] = {}
        self._size_bytes = 0

    @property
    def holds_some(self) -> bool:
        """Whether results wait here."""
        return bool(self._held)

    def add(self, line: int, task_id: str, record: bytes) -> None:
        """The line has settled; its record is kept, or the id where there is no room for it."""
        if line != self._to_come[0] and self._size_bytes + len(record) > HELD_SIZE_BYTES_MAX:
            self._held[line] = task_id
            return
        self._size_bytes += len(record)
        self._held[line] = record

    def ready(self) -> Iterator[bytes]:
        """The records whose turn has come."""
        while self._to_come and self._to_come[0] in self._held:
            if isinstance(self._held[self._to_come[0]], str) and not self._fetch():
                return
            record = self._held.pop(self._to_come.popleft())
            assert isinstance(record, bytes)
            self._size_bytes -= len(record)
            yield record

    def _fetch(self) -> bool:
        """Asks for the next results of which only the ids are here; whether the first has come."""
        wanted: dict[int, str] = {}
        for line in islice(self._to_come, ASKED_AGAIN_MAX):
            held = self._held.get(line)
            if not isinstance(held, str):
                break
            wanted[line] = held
        for line, record in self._ask_again(wanted).items():
            self._held[line] = record
            self._size_bytes += len(record)
        return isinstance(self._held[self._to_come[0]], bytes)
