"""The option --wait [SECONDS] of `submit` and `result`; without a number it has no end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

from .settings import NodeCommand

Seconds = float | None
WAIT_S_MAX = 30 * 86400.0


class WaitCommand(NodeCommand):
    """Reads `--wait FILE` as --wait and FILE: only a number belongs to the option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        read: list[str] = []
        for index, argument in enumerate(args):
            if argument == "--":
                read += args[index:]
                break
            if read and read[-1] == "--wait":
                if _is_number(argument):
                    read[-1] = f"--wait={argument}"
                    continue
                read[-1] = "--wait=inf"
            read.append(argument)
        if read and read[-1] == "--wait":
            read[-1] = "--wait=inf"
        return super().parse_args(ctx, read)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _seconds(ctx: click.Context, parameter: click.Parameter, value: float | None) -> Seconds:
    if value is None:
        return None
    if math.isnan(value) or value < 0:
        raise click.BadParameter("must be a number of seconds.", ctx, parameter)
    return min(value, WAIT_S_MAX)


def wait_option(meaning: str) -> Callable[[Any], Any]:
    """The option, with what waiting means here."""
    return click.option("--wait", type=float, metavar="[SECONDS]", callback=_seconds, help=meaning)
