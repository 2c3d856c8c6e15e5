"""`kowalski invite`: the token that lets one more device in, in every form that saves typing it."""

from __future__ import annotations

import sys
import time

import click

from .screen import print_json, say, tinted, wants_json
from .settings import command
from .transport import node_api
from .wording import ago, safe


@command(
    "invite",
    examples=("kowalski invite", "kowalski invite --role admin", "kowalski invite --json"),
    details=(
        "The token works once, for a few minutes, while this node runs. Whoever has it can"
        " join, so it is"
        " a secret."
    ),
)
@click.option("--role", default="member", metavar="ROLE", help="admin or member [default: member].")
@click.option("--no-qr", is_flag=True, help="Print no QR code.")
def invite(role: str, no_qr: bool) -> None:
    opened = node_api().ask("POST", "/api/invites", {"role": role})
    if wants_json():
        print_json({"token": opened["token"], "expires": opened["expires"], "role": opened["role"]})
        return
    token = safe(opened["token"])
    click.echo("On the device that is to join, run:\n")
    click.echo(tinted(f"kowalski-node --join {token}\n", bold=True))
    if sys.stdout.isatty() and not no_qr:
        import segno

        segno.make(opened["token"], error="l", boost_error=False).terminal(compact=True, border=2)
        click.echo()
    say(f"It lets one {opened['role']} in and expires {ago(opened['expires'], time.time())}.")
