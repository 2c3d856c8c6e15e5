"""`kowalski weights`: how much each factor counts where tasks of a kind are placed."""

from __future__ import annotations

import math
from typing import Any

import click

from .screen import Column, print_json, print_table, wants_json
from .settings import command
from .transport import node_api


@command(
    "weights",
    examples=(
        "kowalski weights",
        "kowalski weights set code latency=0.4 load=0.2",
        "kowalski weights --json",
    ),
    details=(
        "`kowalski weights set KIND FACTOR=NUMBER...` changes the named factors of one task"
        " kind and leaves"
        " the others."
    ),
)
@click.argument("change", nargs=-1, metavar="[set KIND FACTOR=NUMBER...]")
def weights(change: tuple[str, ...]) -> None:
    api = node_api()
    current: dict[str, dict[str, float]] = api.get("/api/weights")
    if change:
        kind, wanted = _parsed(change)
        merged = {**current.get(kind, {}), **wanted}
        current = api.ask("PUT", "/api/weights", {"kind": kind, "weights": merged})
    if wants_json():
        print_json(current)
        return
    factors = sorted({factor for by_factor in current.values() for factor in by_factor})
    rows: list[list[Any]] = [
        [factor, *(_number(by_factor.get(factor)) for by_factor in current.values())]
        for factor in factors
    ]
    print_table([Column("FACTOR"), *(Column(kind, right=True) for kind in current)], rows)


def _parsed(change: tuple[str, ...]) -> tuple[str, dict[str, float]]:
    if change[0] != "set" or len(change) < 3:
        raise click.UsageError("Say: kowalski weights set KIND FACTOR=NUMBER...")
    wanted: dict[str, float] = {}
    for pair in change[2:]:
        factor, _, text = pair.partition("=")
        try:
            wanted[factor] = float(text)
        except ValueError:
            wanted[factor] = math.nan
        if not factor or not math.isfinite(wanted[factor]):
            raise click.UsageError(f"{pair!r} is not FACTOR=NUMBER.")
    return change[1], wanted


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
