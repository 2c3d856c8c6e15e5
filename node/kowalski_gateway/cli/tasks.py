"""`kowalski tasks`, `result`, `cancel` and `why`: looking at tasks that were submitted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from .cluster import device_names
from .files import finish
from .graph_drawing import TaskShown, draw
from .outcome import end_of, save_options, show_result
from .screen import Column, print_facts, print_json, print_table, styled, wants_json
from .settings import command
from .transport import NodeApi, node_api, part
from .waiting import Seconds, WaitCommand, wait_option
from .watching import watching
from .wording import ago, duration, peer_end, short_ids

STATES = ("submitted", "waiting", "placed", "running", "completed", "settled")
PAGE_MAX = 1000


@command(
    "tasks",
    examples=(
        "kowalski tasks",
        "kowalski tasks --state running",
        "kowalski tasks --limit 1000",
        "kowalski tasks --dead --resubmit",
    ),
)
@click.option("--state", type=click.Choice(STATES), help="Only tasks in this state.")
@click.option(
    "--dead", is_flag=True, help="Only those that used up their attempts, or whose end is unknown."
)
@click.option("--resubmit", is_flag=True, help="With --dead: submit each of them once more.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=20, help="How many [default: 20]."
)
def tasks(state: str | None, dead: bool, resubmit: bool, limit: int) -> None:
    if resubmit and not dead:
        raise click.UsageError("--resubmit goes with --dead.")
    api = node_api()
    views: list[dict[str, Any]] = []
    after = None
    while len(views) < limit:
        page_limit = min(limit - len(views), PAGE_MAX)
        page = api.get("/api/tasks", state=state, dead=dead or None, limit=page_limit, after=after)
        views += page["tasks"]
        after = page["next"]
        if after is None:
            break
    if resubmit:
        _resubmit(api, views)
        return
    if wants_json():
        print_json(views)
        return
    if not views:
        kind = "dead" if dead else state
        click.echo("No tasks." if kind is None else f"No tasks are {kind}.")
        return
    _print_tasks(api, views, more=after is not None)


def _resubmit(api: NodeApi, views: list[dict[str, Any]]) -> None:
    """Submits each once more, the oldest first, and says which new task stands for which."""
    again = {
        view["id"]: api.ask("POST", f"/api/tasks/{part(view['id'])}/resubmit")["id"]
        for view in reversed(views)
    }
    if wants_json():
        print_json(again)
        return
    for old, new in again.items():
        click.echo(f"{old[:12]} is submitted again as {new}")
    if not again:
        click.echo("No tasks are dead.")


def _print_tasks(api: NodeApi, views: list[dict[str, Any]], *, more: bool) -> None:
    names = device_names(api.get("/api/cluster"))
    now = time.time()
    shown = short_ids(view["id"] for view in views)
    rows = [
        [
            shown[view["id"]],
            view["kind"],
            end_of(view),
            names.get(view["device"], peer_end(view["device"])) if view["device"] else "–",
            view["attempt"] if view["attempt"] > 1 else "–",
            ago(view["times"].get("submitted"), now),
            duration(view["times"].get("run_s")),
            view.get("waiting") or _error_of(view),
        ]
        for view in views
    ]
    print_table(
        [
            Column("ID"),
            Column("KIND", spare=1),
            Column("STATE"),
            Column("DEVICE", cut=True),
            Column("ATTEMPT", right=True, spare=2),
            Column("SUBMITTED", right=True),
            Column("RAN", right=True),
            Column("REMARK", cut=True),
        ],
        rows,
    )
    if more:
        click.echo(f"\nThe newest {len(views)}; --limit shows more.")


def _error_of(view: dict[str, Any]) -> str:
    result: dict[str, Any] = view["result"] or {}
    return result["error"]["message"] if result.get("error") else "–"


@command(
    "result",
    cls=WaitCommand,
    examples=(
        "kowalski result 3f2a9c1d7e44",
        "kowalski result 3f2a9c1d7e44 --wait 60",
        "kowalski result 3f2a9c1d7e44 --out result.bin",
        "kowalski result 3f2a9c1d7e44 --save plots",
    ),
    details=(
        "Prints what the task printed and its value; exits with 1 where it failed or has not"
        " settled."
    ),
)
@click.argument("task_id", metavar="ID")
@wait_option("Wait until it has settled, or so many seconds.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the value (or the blob it is) to a file.",
)
@save_options("Write the files that the task left below DIR.")
def result(
    task_id: str, wait: Seconds, out: Path | None, save: Path | None, overwrite: bool
) -> int:
    api = node_api()
    if wait is None:
        view = api.get(f"/api/tasks/{part(task_id)}")
    else:
        with watching(task_id):
            view = api.wait(task_id, wait)
    return finish(
        api,
        view,
        show=lambda: show_result(api, view, out=out),
        save=save,
        overwrite=overwrite,
    )


@command(
    "cancel",
    examples=("kowalski cancel 3f2a9c1d7e44",),
    details="Its device stops it at once, with everything that it started.",
)
@click.argument("task_id", metavar="ID")
def cancel(task_id: str) -> None:
    view = node_api().ask("DELETE", f"/api/tasks/{part(task_id)}")
    if wants_json():
        print_json(view)
    else:
        click.echo(f"The end of task {view['id'][:12]} is asked for.")


@command(
    "why",
    examples=("kowalski why 3f2a9c1d7e44", "kowalski why 3f2a9c1d7e44 --json"),
    details=(
        "Who submitted it, which devices were considered, where it ran, what failed and what"
        " settled it:"
        " told from the ledger alone, so every node tells the same."
    ),
)
@click.argument("task_id", metavar="ID")
def why(task_id: str) -> None:
    api = node_api()
    story = api.get(f"/api/tasks/{part(task_id)}/why")
    if wants_json():
        print_json(story)
        return
    steps: list[dict[str, Any]] = story["steps"]
    names: dict[str, str] = {}
    if any(step["who"].startswith("12D3KooW") for step in steps):
        names = device_names(api.get("/api/cluster"))
    began = steps[0]["time"] if steps else 0.0
    facts = {"task": story["id"], "state": end_of(story)}
    if story.get("waiting"):
        facts["now"] = story["waiting"]
    print_facts(facts)
    click.echo()
    _draw_graph(api, story["graph"])
    print_table(
        [
            Column("TIME", right=True),
            Column("WHO", cut=True),
            Column("WHAT"),
            Column("", fold=True),
        ],
        [
            [
                f"+{step['time'] - began:.3f} s",
                names.get(step["who"], step["who"]),
                styled(step["what"], "bold"),
                step["sentence"],
            ]
            for step in steps
        ],
    )


def _draw_graph(api: NodeApi, graph: list[dict[str, Any]]) -> None:
    if not graph:
        return
    names = device_names(api.get("/api/cluster"))
    shown = {
        task["name"]: TaskShown(
            task["after"],
            task["state"],
            names.get(task["device"], peer_end(task["device"])) if task["device"] else "",
            task["run_s"],
        )
        for task in graph
    }
    for line in draw(shown):
        click.echo(line)
    click.echo()
