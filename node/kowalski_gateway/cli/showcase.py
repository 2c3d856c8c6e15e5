"""`kowalski demo` and `kowalski bench`: whole clusters on this device, for looking and for
measuring."""

from __future__ import annotations

from pathlib import Path

import click

from .screen import wants_json
from .settings import command


@command(
    "demo",
    examples=("kowalski demo", "kowalski demo --keep"),
    details=(
        "Three nodes analyse real files in the sandbox while the leader is killed, then a"
        " second device, and"
        " one comes back; every promise is checked at the end. Takes about a minute and cleans up."
    ),
)
@click.option("--keep", is_flag=True, help="Leave the nodes' home folders for a look afterwards.")
@click.option(
    "--tasks",
    type=click.IntRange(12, 2000),
    metavar="N",
    help="Analyse this many sources at most [default: 400].",
)
def demo(keep: bool, tasks: int | None) -> int:
    from kowalski_gateway.demo import run_demo

    return run_demo({"keep": keep, "tasks": tasks, "json": wants_json()})


@command(
    "bench",
    examples=("kowalski bench", "kowalski bench --only replay", "kowalski bench --write bench.md"),
)
@click.option(
    "--only",
    metavar="NAME",
    multiple=True,
    help="Measure this figure or group of figures alone; may be repeated.",
)
@click.option("--quick", is_flag=True, help="Repeat less: about a third of the time.")
@click.option(
    "--write",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write the figures as a page, too.",
)
def bench(only: tuple[str, ...], quick: bool, write: Path | None) -> int:
    from kowalski_gateway.bench import run_bench

    return run_bench({"only": only, "quick": quick, "write": write, "json": wants_json()})
