"""`kowalski sessions`: which sessions there are, and where their interpreters are."""

from __future__ import annotations

import time
from typing import Any

import click

from .cluster import device_names
from .screen import Column, print_json, print_table, wants_json
from .settings import command
from .transport import node_api
from .wording import ago, peer_end


@command(
    "sessions",
    examples=("kowalski sessions", "kowalski sessions --json"),
    details=(
        "A task that names a session runs as its next cell, in an interpreter that is kept."
        " The next cell goes to the device of the last one; where that is gone, the session is"
        " made anew elsewhere from its recorded cells."
    ),
)
def sessions() -> None:
    api = node_api()
    views: list[dict[str, Any]] = api.get("/api/sessions")
    if wants_json():
        print_json(views)
        return
    if not views:
        click.echo("No sessions. `kowalski submit FILE --session NAME` begins one.")
        return
    names = device_names(api.get("/api/cluster"))
    now = time.time()
    print_table(
        [
            Column("NAME", cut=True),
            Column("LANGUAGE"),
            Column("DEVICE", cut=True),
            Column("CELLS", right=True),
            Column("OPEN", right=True),
            Column("LAST CELL", right=True),
        ],
        [
            [
                view["name"],
                view["language"],
                names.get(view["device"], peer_end(view["device"])) if view["device"] else "–",
                view["cells"],
                view["open"] or "–",
                ago(view["last"], now),
            ]
            for view in views
        ],
    )
