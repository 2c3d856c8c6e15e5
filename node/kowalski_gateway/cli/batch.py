"""`kowalski batch`: a file of tasks, one JSON object a line, and their results as they come.

The whole file is read and checked before anything is sent, so that a mistake in line 9,000 costs
nothing. Then tasks go out in chunks while no more than --max-parallel are under way, and results
are collected many at a time; each is written and flushed as it settles.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

import click
import msgspec

from kowalski_protocol.errors import Problem

from .screen import cannot_write, error_line, print_facts, print_json, progress, wants_json
from .settings import command
from .transport import NodeApi, node_api
from .wording import duration, safe

LINE_SIZE_BYTES_MAX: Final = 1024 * 1024
TASKS_MAX: Final = 1_000_000
CHUNK_TASKS: Final = 1000
CHUNK_SIZE_BYTES: Final = 4 * 1024 * 1024
"""A quarter of what one request may have."""
RESULTS_ASKED_MAX: Final = 1000
RESULTS_WAIT_S: Final = 1.0
BUSY_CODES: Final = frozenset({"too_many_tasks", "too_many_requests"})
FAILED_SHOWN_MAX: Final = 5


@command(
    "batch",
    examples=(
        "kowalski batch tasks.jsonl --out results.jsonl",
        "kowalski batch tasks.jsonl --max-parallel 100 --json",
        "kowalski batch - < tasks.jsonl",
    ),
    details=(
        "Each line is a task as POST /api/tasks takes it, such as"
        ' {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}.'
        " Each line of --out is a task with its result, and `line` says which task it was."
        " Exits with 1 where one did not complete."
    ),
)
@click.argument("file", metavar="FILE.jsonl")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the results here, one JSON object a line.",
)
@click.option(
    "--max-parallel",
    type=click.IntRange(1, 20_000),
    default=5000,
    metavar="N",
    help="How many are under way at a time [default: 5000].",
)
def batch(file: str, out: Path | None, max_parallel: int) -> int:
    if out is not None and _is_same(file, out):
        raise click.UsageError(f"The results would overwrite the tasks in {out}.")
    lines = [*_read(file)]
    api = node_api()
    began = time.monotonic()
    with _opened(out) as results:
        run = Batch(api, lines, max_parallel, results)
        try:
            with progress("tasks", "tasks") as update:
                run.run(update)
        except KeyboardInterrupt:
            click.echo(f"\n{run.interrupted(out)}", err=True)
            raise
    seconds = time.monotonic() - began
    completed = run.outcomes["completed"]
    summary: dict[str, Any] = {
        "tasks": len(lines),
        "outcomes": dict(run.outcomes),
        "seconds": round(seconds, 3),
        "tasks_per_s": round(len(lines) / seconds, 1) if seconds else 0.0,
    }
    if wants_json():
        print_json(summary)
    else:
        ends = ", ".join(f"{count:,} {outcome}" for outcome, count in run.outcomes.most_common())
        facts = {
            "tasks": f"{len(lines):,}: {ends}" if lines else "none",
            "took": f"{duration(seconds)}, {summary['tasks_per_s']:,.0f} tasks/s",
        }
        print_facts(facts | ({"results": str(out)} if out else {}))
        for failed in run.failed:
            mend = f"kowalski why {failed.task_id[:12]}"
            error_line(f"line {failed.line}: {failed.sentence}", mend, code=failed.code)
    return 0 if completed == len(lines) else 1


class Failed(NamedTuple):
    """A task that did not complete."""

    line: int
    task_id: str
    code: str | None
    sentence: str


class Batch:
    """The tasks of a file on their way: to submit, under way, settled."""

    def __init__(
        self,
        api: NodeApi,
        lines: list[tuple[int, bytes]],
        max_parallel: int,
        results: IO[str] | None,
    ) -> None:
        self._api = api
        self._to_submit = deque(lines)
        self._total = len(lines)
        self._max_parallel = max_parallel
        self._results = results
        self._under_way: dict[str, list[int]] = {}
        """The lines of each task by its id; the same key on two lines is one task."""
        self._settled = 0
        self._sending = 0
        self._accepted = 0
        self.outcomes: Counter[str] = Counter()
        self.failed: list[Failed] = []
        """The first of them."""

    def run(self, update: Callable[[int, int | None], None]) -> None:
        """Returns when all have settled; tells `update` how many have."""
        while self._to_submit or self._under_way:
            accepted = self._submit_some()
            if self._under_way:
                # With room for more, a quick look; otherwise there is nothing to do but wait.
                self._collect(0.0 if accepted and self._to_submit else RESULTS_WAIT_S)
            elif not accepted:
                time.sleep(1.0)  # others' tasks fill the node: it said so, and when to come back
            update(self._settled, self._total)

    def _submit_some(self) -> bool:
        chunk = self._next_chunk()
        if not chunk:
            return False
        body = b"[" + b",".join(spec for _, spec in chunk) + b"]"
        self._sending = len(chunk)
        try:
            ids: list[str] = self._api.ask("POST", "/api/tasks/batch", content=body)["ids"]
        except Problem as problem:
            if problem.code in BUSY_CODES:
                self._sending = 0
                return False
            sentence = f"Lines {chunk[0][0]} to {chunk[-1][0]} were refused: {problem.sentence}"
            raise Problem(problem.code, sentence, mend=problem.mend) from None
        for (line, _), task_id in zip(chunk, ids, strict=True):
            self._to_submit.popleft()
            self._under_way.setdefault(task_id, []).append(line)
        self._sending, self._accepted = 0, self._accepted + len(chunk)
        return True

    def interrupted(self, out: Path | None) -> str:
        """What goes on without this command, what is in the file, and how to get the rest."""
        unsure = f", and perhaps {self._sending:,} that were being sent" if self._sending else ""
        said = f"{self._accepted:,} of {self._total:,} tasks were accepted{unsure};"
        said += f" {self._settled:,} have settled and the others go on:"
        said += " `kowalski tasks` lists them, `kowalski result ID` shows how each ended."
        if out is not None:
            said += f" {safe(out)} holds {self._settled:,} of {self._total:,} results."
        return said

    def _next_chunk(self) -> list[tuple[int, bytes]]:
        room = min(self._max_parallel - len(self._under_way), CHUNK_TASKS)
        chunk: list[tuple[int, bytes]] = []
        size_bytes = 0
        for line in islice(self._to_submit, max(0, room)):
            size_bytes += len(line[1]) + 1
            if chunk and size_bytes > CHUNK_SIZE_BYTES:
                break
            chunk.append(line)
        return chunk

    def _collect(self, wait_s: float) -> None:
        asked = [*islice(self._under_way, RESULTS_ASKED_MAX)]
        body = {"ids": asked, "wait_s": wait_s}
        answer = self._api.ask("POST", "/api/tasks/results", body, wait_s=wait_s)
        settled: dict[str, dict[str, Any]] = {view["id"]: view for view in answer["tasks"]}
        for task_id in asked:
            numbers = self._under_way.pop(task_id)
            if task_id in settled:
                self._keep(settled[task_id], numbers)
            else:
                # Asked for again after all others, so that slow ones hide nobody.
                self._under_way[task_id] = numbers

    def _keep(self, view: dict[str, Any], numbers: list[int]) -> None:
        for line in numbers:
            if self._results is not None:
                self._results.write(json.dumps({"line": line, **view}) + "\n")
            self._settled += 1
            self.outcomes[view["outcome"]] += 1
            if view["outcome"] != "completed" and len(self.failed) < FAILED_SHOWN_MAX:
                result: dict[str, Any] = view["result"] or {}
                error: dict[str, Any] = result.get("error") or {}
                sentence = error.get("message") or f"it ended as {view['outcome']}"
                self.failed.append(Failed(line, view["id"], error.get("code"), sentence))
        if self._results is not None:
            self._results.flush()


def _read(file: str) -> Iterator[tuple[int, bytes]]:
    """(line number, task) of each line; UsageError where one is no task."""
    from kowalski_protocol.tasks import parse_task

    try:
        with _source(file) as source:
            number = 0
            while line := source.readline(LINE_SIZE_BYTES_MAX + 1):
                number += 1
                if len(line) > LINE_SIZE_BYTES_MAX:
                    raise click.UsageError(f"{file}, line {number} is longer than 1 MiB.")
                if number > TASKS_MAX:
                    raise click.UsageError(f"{file} has more than {TASKS_MAX:,} lines.")
                if not line.strip():
                    continue
                try:
                    # As the node reads it; `json` takes more, such as a byte order mark.
                    spec = msgspec.json.decode(line)
                    parse_task(_object(spec))
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                    raise click.UsageError(f"{file}, line {number} is no task: {error}.") from None
                except Problem as problem:
                    sentence = f"{file}, line {number}: {problem.sentence}"
                    raise Problem(problem.code, sentence, mend=problem.mend) from None
                yield number, line.strip()
    except (OSError, ValueError) as error:  # the latter for a name that can't be one
        reason = getattr(error, "strerror", None) or error
        raise click.UsageError(f"{file} can't be read: {reason}.") from None


def _object(spec: Any) -> dict[str, Any]:
    if isinstance(spec, dict):
        return cast("dict[str, Any]", spec)
    raise Problem("bad_request", "A task is a JSON object.")


def _is_same(file: str, out: Path) -> bool:
    """Whether the tasks come from the very file that --out names, by whatever name."""
    try:
        read = os.fstat(sys.stdin.fileno()) if file == "-" else Path(file).stat()
        return stat.S_ISREG(read.st_mode) and os.path.samestat(read, out.stat())
    except (OSError, ValueError):  # one of them isn't there, or stdin is no file
        return False


@contextmanager
def _source(file: str) -> Iterator[IO[bytes]]:
    if file == "-":
        yield sys.stdin.buffer
        return
    with Path(file).open("rb") as opened:
        yield opened


@contextmanager
def _opened(out: Path | None) -> Iterator[IO[str] | None]:
    if out is None:
        yield None
        return
    try:
        with out.open("w", encoding="utf-8") as results:
            yield results
    except OSError as error:
        raise cannot_write(str(out), error) from None
