"""The tasks of a batch on their way: to submit, under way, settled, written.

Tasks go out in chunks while no more than --max-parallel are under way, and results are collected
many at a time; each is written and flushed as it settles. Every request can be repeated: each task
has an idempotency key, so a node that went away in the middle of one is asked again once it is
back, and runs nothing twice.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from kowalski_node.views import ErrorView
from kowalski_protocol.errors import Problem

from .batch_files import Line
from .batch_order import InOrder
from .batch_results import Results
from .batch_stop import Stop
from .transport import NodeApi
from .wording import safe

CHUNK_TASKS: Final = 1000
CHUNK_SIZE_BYTES: Final = 4 * 1024 * 1024
"""A quarter of what one request may have."""
RESULTS_ASKED_MAX: Final = 1000
RESULTS_WAIT_S: Final = 0.5
"""So long a Ctrl-C may wait to be answered."""
BUSY_CODES: Final = frozenset({"too_many_tasks", "too_many_requests"})
BUSY_PAUSE_S: Final = 1.0
AWAY_CODES: Final = frozenset({"node_unreachable", "stopping", "not_ready"})
AWAY_S_MAX: Final = 60.0
"""How long a node that has answered before is waited for: a restart takes seconds, and whoever is
away for longer may not come back."""
AWAY_PAUSE_S_MIN: Final = 0.1
AWAY_PAUSE_S_MAX: Final = 2.0


class Standing(NamedTuple):
    """How far a batch is."""

    settled: int
    total: int
    under_way: int
    """Submitted and not settled."""
    failed: int
    note: str = ""
    """What it waits for, where that is not tasks."""


class Batch:
    """A batch that runs through one node's API."""

    def __init__(
        self,
        api: NodeApi,
        lines: Mapping[int, Line],
        results: Results,
        stop: Stop,
        *,
        max_parallel: int,
        ordered: bool,
    ) -> None:
        missing = [line for line in lines.values() if line.number not in results.done]
        self._api = api
        self._results = results
        self._stop = stop
        self._max_parallel = max_parallel
        self._update: Callable[[Standing], None] = lambda _: None
        self._say: Callable[[str], None] = lambda _: None
        self._lines = lines
        self._total = len(lines)
        self._missing = len(missing)
        self._to_submit = deque(missing)
        numbers = (line.number for line in missing)
        self._order = InOrder(numbers, self._ask_again) if ordered else None
        self._under_way: dict[str, list[int]] = {}
        """The lines of each task by its id; the same key on two lines is one task."""
        self._open = 0
        self._sending = 0
        self._accepted = 0
        self._is_stopping = False
        self._has_answered = False

    @property
    def is_complete(self) -> bool:
        """Whether every line has settled."""
        return not self._to_submit and not self._under_way and not self._holds_back

    @property
    def _holds_back(self) -> bool:
        return self._order is not None and self._order.holds_some

    def run(self, update: Callable[[Standing], None], say: Callable[[str], None]) -> None:
        """Returns when all have settled, or when somebody wants it to stop and all have that were
        submitted; tells `update` how far it is, and `say` what a person has to know."""
        self._update, self._say = update, say
        self._tell()
        while not self.is_complete:
            accepted = False
            if self._stop.wanted:
                self._say_stopping()
            else:
                accepted = self._submit_some()
            if self._under_way:
                # With room for more, a quick look; otherwise there is nothing to do but wait.
                self._collect(0.0 if accepted and self._to_submit else RESULTS_WAIT_S)
            elif self._holds_back:
                self._write([])
            elif self._stop.wanted:
                return
            elif not accepted:
                # Others' tasks fill the node: it said so, and when to come back.
                self._tell("the node is full")
                time.sleep(BUSY_PAUSE_S)
            self._tell()

    def interrupted(self) -> str:
        """What goes on without this command, what is in the file, and how to get the rest."""
        unsure = f", and perhaps {self._sending:,} that were being sent" if self._sending else ""
        settled = self._accepted - self._open
        said = f"{self._accepted:,} of {self._missing:,} tasks were accepted{unsure};"
        said += f" {settled:,} have settled and the others go on:"
        said += " `kowalski tasks` lists them, `kowalski result ID` shows how each ended."
        return said + self.how_to_go_on()

    def stopped(self) -> str:
        """How far it came before somebody stopped it."""
        settled = self._results.tally.settled
        return f"Stopped: {settled:,} of {self._total:,} tasks have settled.{self.how_to_go_on()}"

    def how_to_go_on(self) -> str:
        """What the file holds, and how the rest gets there."""
        results = self._results
        if results.name is None:
            return ""
        said = f" {safe(results.name)} holds {results.written:,} of {self._total:,} results."
        if results.can_go_on:
            said += " The same command goes on from there."
        return said

    def _say_stopping(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            said = f"Stopping: no more is submitted, and {self._open:,} under way are waited for."
            self._say(f"{said} Once more leaves them to the node.")

    def _tell(self, note: str = "") -> None:
        tally = self._results.tally
        note = note or ("stopping" if self._is_stopping else "")
        self._update(Standing(tally.settled, self._total, self._open, tally.failures, note))

    def _submit_some(self) -> bool:
        chunk = self._next_chunk()
        if not chunk:
            return False
        body = b"[" + b",".join(task for _, task in chunk) + b"]"
        self._sending = len(chunk)
        try:
            ids: list[str] = self._ask("/api/tasks/batch", content=body)["ids"]
        except Problem as problem:
            if problem.code in BUSY_CODES:
                self._sending = 0
                return False
            if problem.code in AWAY_CODES:
                raise
            first, last = chunk[0][0].number, chunk[-1][0].number
            sentence = f"Lines {first} to {last} were refused: {problem.sentence}"
            raise Problem(problem.code, sentence, mend=problem.mend) from None
        for (line, _), task_id in zip(chunk, ids, strict=True):
            self._to_submit.popleft()
            self._under_way.setdefault(task_id, []).append(line.number)
        self._open += len(chunk)
        self._sending, self._accepted = 0, self._accepted + len(chunk)
        return True

    def _next_chunk(self) -> list[tuple[Line, bytes]]:
        room = min(self._max_parallel - len(self._under_way), CHUNK_TASKS)
        chunk: list[tuple[Line, bytes]] = []
        size_bytes = 0
        for line in islice(self._to_submit, max(0, room)):
            task = line.keyed(self._results.batch, self._results.runs.get(line.number, 1))
            size_bytes += len(task) + 1
            if chunk and size_bytes > CHUNK_SIZE_BYTES:
                break
            chunk.append((line, task))
        return chunk

    def _ask(self, path: str, body: Any = None, *, wait_s: float = 0.0, **content: Any) -> Any:
        """The node's answer; where the node is away, once it is back."""
        away_since: float | None = None
        pause_s = AWAY_PAUSE_S_MIN
        while True:
            try:
                answer = self._api.ask("POST", path, body, wait_s=wait_s, **content)
            except Problem as problem:
                self._has_answered |= problem.code != "node_unreachable"
                if not self._has_answered or problem.code not in AWAY_CODES:
                    raise
                now = time.monotonic()
                away_since = now if away_since is None else away_since
                if now - away_since >= AWAY_S_MAX:
                    sentence = f"{problem.sentence} It was waited for during {AWAY_S_MAX:.0f} s."
                    sentence += self.how_to_go_on()
                    raise Problem(problem.code, sentence, mend=problem.mend) from None
                if self._stop.wanted:
                    self._say_stopping()
                self._api.close()  # whatever is left of the old connection
                self._tell(f"no answer from the node for {now - away_since:.0f} s")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, AWAY_PAUSE_S_MAX)
            else:
                self._has_answered = True
                return answer

    def _collect(self, wait_s: float) -> None:
        asked = [*islice(self._under_way, RESULTS_ASKED_MAX)]
        settled = self._settled(asked, wait_s)
        records: list[tuple[int, str, bytes]] = []
        for task_id in asked:
            numbers = self._under_way.pop(task_id)
            if task_id in settled:
                records += self._keep(settled[task_id], numbers)
            else:
                # Asked for again after all others, so that slow ones hide nobody.
                self._under_way[task_id] = numbers
        self._write(records)

    def _settled(self, ids: list[str], wait_s: float) -> dict[str, dict[str, Any]]:
        body = {"ids": ids, "wait_s": wait_s}
        try:
            answer = self._ask("/api/tasks/results", body, wait_s=wait_s)
        except Problem as problem:
            if problem.code not in BUSY_CODES:
                raise
            time.sleep(BUSY_PAUSE_S)
            return {}
        return {view["id"]: view for view in answer["tasks"]}

    def _keep(self, view: dict[str, Any], numbers: list[int]) -> list[tuple[int, str, bytes]]:
        result: dict[str, Any] = view["result"] or {}
        error = result.get("error")
        read = None if error is None else msgspec.convert(error, ErrorView)
        for number in numbers:
            self._open -= 1
            self._results.tally.add(number, view["id"], view["outcome"], read)
        return [(number, view["id"], self._record(number, view)) for number in numbers]

    def _record(self, number: int, view: dict[str, Any]) -> bytes:
        results = self._results
        spec, run = self._lines[number].spec, results.runs.get(number, 1)
        head = {"line": number, "spec": spec, "batch": results.batch, "run": run}
        return json.dumps(head | view).encode() + b"\n"

    def _write(self, records: list[tuple[int, str, bytes]]) -> None:
        if self._order is None:
            self._results.write(record for _, _, record in records)
            return
        for record in records:
            self._order.add(*record)
        self._results.write(self._order.ready())

    def _ask_again(self, ids: dict[int, str]) -> dict[int, bytes]:
        settled = self._settled([*dict.fromkeys(ids.values())], 0.0)
        return {
            number: self._record(number, settled[task_id])
            for number, task_id in ids.items()
            if task_id in settled
        }
