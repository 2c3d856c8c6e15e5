"""`kowalski batch`: a file of tasks, one JSON object a line, and their results as they come.

The whole file is read and checked before anything is sent, so that a mistake in line 9,000 costs
nothing; so are the results that an earlier run left. What is missing is then run (`batch_run`), and
however that ends, the same command given again goes on from there.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from .batch_display import display
from .batch_files import is_same, read_tasks
from .batch_results import Results, opened
from .batch_run import Batch
from .batch_stop import Stop
from .screen import error_line, print_facts, print_json, wants_json
from .settings import command
from .transport import node_api
from .wording import duration


@command(
    "batch",
    examples=(
        "kowalski batch tasks.jsonl --out results.jsonl",
        "kowalski batch tasks.jsonl --out results.jsonl --retry-failed",
        "kowalski batch tasks.jsonl --max-parallel 100 --json",
        "kowalski batch - < tasks.jsonl",
    ),
    details=(
        "Each line is a task as POST /api/tasks takes it, such as"
        ' {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 1}}}.'
        " Each line of --out is a task with its result, and `line` says which task it was."
        " Given again with the same --out, it runs only what is missing there. Ctrl-C waits for"
        " what is under way, a second one leaves it to the node."
        " Exits with 1 where a task did not complete, with 130 where it was stopped before the end."
    ),
)
@click.argument("file", metavar="FILE.jsonl")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the results here, one JSON object a line, and go on with those that are there.",
)
@click.option(
    "--max-parallel",
    type=click.IntRange(1, 20_000),
    default=5000,
    metavar="N",
    help="How many are under way at a time [default: 5000].",
)
@click.option("--ordered", is_flag=True, help="Write the results in the order of the tasks.")
@click.option("--retry-failed", is_flag=True, help="Run tasks again that --out says have failed.")
@click.option("--fresh", is_flag=True, help="Begin anew: overwrite what is in --out.")
def batch(
    file: str,
    out: Path | None,
    max_parallel: int,
    ordered: bool,
    retry_failed: bool,
    fresh: bool,
) -> int:
    _check_options(out, fresh=fresh, ordered=ordered, retry_failed=retry_failed)
    if out is not None and is_same(file, out):
        raise click.UsageError(f"The results would overwrite the tasks in {out}.")
    lines = {line.number: line for line in read_tasks(file)}
    api = node_api()
    stop = Stop()
    began = time.monotonic()
    with opened(out, lines, fresh=fresh, retry_failed=retry_failed) as results:
        run = Batch(api, lines, results, stop, max_parallel=max_parallel, ordered=ordered)
        try:
            with display() as (update, say), stop.listening():
                run.run(update, say)
        except KeyboardInterrupt:
            click.echo(f"\n{run.interrupted()}", err=True)
            raise
        if not run.is_complete:
            click.echo(run.stopped(), err=True)
            raise click.Abort
        results.finish(ordered=ordered)
    return _summary(results, len(lines), time.monotonic() - began)


def _check_options(out: Path | None, *, fresh: bool, **others: bool) -> None:
    for name, given in {"fresh": fresh, **others}.items():
        option = f"--{name.replace('_', '-')}"
        if given and out is None:
            raise click.UsageError(f"{option} is about the results in --out FILE.")
    if fresh and others["retry_failed"]:
        raise click.UsageError("--fresh runs all tasks, --retry-failed those that have failed.")


def _summary(results: Results, total: int, seconds: float) -> int:
    tally, before = results.tally, len(results.done)
    speed = round((total - before) / seconds, 1) if seconds else 0.0
    if wants_json():
        print_json(
            {
                "tasks": total,
                "outcomes": dict(tally.outcomes),
                "settled_before": before,
                "seconds": round(seconds, 3),
                "tasks_per_s": speed,
            }
        )
        return 0 if tally.failures == 0 else 1
    ends = ", ".join(f"{count:,} {outcome}" for outcome, count in tally.outcomes.most_common())
    facts = {"tasks": f"{total:,}: {ends}" if total else "none"}
    if before:
        facts["before"] = f"{before:,} had settled before" if before < total else "all had settled"
    if before < total or not total:
        facts["took"] = f"{duration(seconds)}, {speed:,.0f} tasks/s"
    print_facts(facts | ({"results": results.name} if results.name else {}))
    for failed in tally.failed:
        mend = f"kowalski why {failed.task_id[:12]}"
        error_line(f"line {failed.line}: {failed.sentence}", mend, code=failed.code)
    return 0 if tally.failures == 0 else 1
