"""`kowalski logs`: what a task prints, or, without an id, the events of the ledger as they come."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from .cluster import device_names
from .screen import print_json, print_output, say, wants_json
from .settings import command
from .transport import NodeApi, node_api, part
from .wording import peer_end

BODY_SHOWN_LENGTH = 100


@command(
    "logs",
    examples=("kowalski logs 3f2a9c1d7e44 -f", "kowalski logs -f", "kowalski logs --after 1200"),
    details=(
        "With an id: the task's stdout and stderr, each to its own stream. Without: the"
        " ledger's events in"
        " the order in which they came to this node."
    ),
)
@click.argument("task_id", required=False, metavar="[ID]")
@click.option("-f", "--follow", is_flag=True, help="Stay and show what comes, until the task ends.")
@click.option(
    "--after", type=click.IntRange(0), default=0, metavar="POSITION", help="Events after this one."
)
def logs(task_id: str | None, follow: bool, after: int) -> None:
    api = node_api()
    if task_id is None:
        _events(api, follow, after)
    else:
        _output(api, task_id, follow)


def _output(api: NodeApi, task_id: str, follow: bool) -> None:
    chunks: list[dict[str, Any]] = []
    for event in api.stream(f"/api/tasks/{part(task_id)}/output", follow=follow):
        chunk: dict[str, Any] = json.loads(event.data)
        if event.kind == "end":
            if wants_json():
                print_json({"id": chunk["id"], "state": chunk["state"], "output": chunks})
        elif wants_json():
            chunks.append(chunk)
        else:
            print_output(chunk["text"], error=chunk["stream"] == "stderr")


def _events(api: NodeApi, follow: bool, after: int) -> None:
    if wants_json() and follow:
        raise click.UsageError("--json is one document, and -f never ends; take GET /api/events.")
    names = {} if wants_json() else device_names(api.get("/api/cluster"))
    events: list[dict[str, Any]] = []
    for event in api.stream("/api/events", after=after, follow=follow):
        if event.kind == "end":
            continue
        view: dict[str, Any] = json.loads(event.data)
        if wants_json():
            events.append(view)
        else:
            say(_line(view, names))
    if wants_json():
        print_json(events)


def _line(event: dict[str, Any], names: dict[str, str]) -> str:
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
    who = names.get(event["author"], peer_end(event["author"]))
    body = " ".join(f"{name}={_brief(value)}" for name, value in event["body"].items())
    if len(body) > BODY_SHOWN_LENGTH:
        body = body[:BODY_SHOWN_LENGTH] + "…"
    ignored = "" if event["counted"] else " (does not count)"
    return f"{event['position']:>7}  {moment}  {who:<12.12}  {event['kind']:<22} {body}{ignored}"


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] + "…" if len(text) > 24 else text
