"""`python -m simulations`: run a world, sweep seeds, shrink a failure, plant bugs, measure."""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .bugs import BUGS, looked_for
from .faults import KINDS
from .measuring import availability_, scale_, speed_
from .options import PRESETS, Options
from .running import Report, run
from .shrinking import shrink
from .sweep import spread

console = Console(highlight=False)
progress_console = Console(stderr=True, highlight=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Whole clusters in one process: simulated network, disks, clocks and people, from one seed.

    The same seed, options and commit give the same run, to the last event.
    """


def _world_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--nodes", type=click.IntRange(1, 128), help="Devices [default: drawn]."),
        click.option(
            "--hours",
            type=click.FloatRange(0.001, 10_000),
            default=1 / 6,
            show_default="ten minutes",
            callback=_hours,
            help="Simulated time in which anything may go wrong.",
        ),
        click.option(
            "--preset", type=click.Choice(sorted(PRESETS)), help="The timers [default: drawn]."
        ),
        click.option(
            "--faults",
            metavar="KIND,...",
            callback=_kinds,
            help=f"What may go wrong, or 'none' [default: drawn]. Kinds: {', '.join(KINDS)}.",
        ),
    ):
        function = option(function)
    return function


def _kinds(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    if value is None:
        return None
    kinds = () if value == "none" else tuple(dict.fromkeys(value.split(",")))
    for kind in kinds:
        if kind not in KINDS:
            raise click.BadParameter(f"there is no fault '{kind}'; there are {', '.join(KINDS)}.")
    return kinds


def _numbers(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter("a list of numbers is wanted, such as 3,7,12.") from None


def _task(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch("[0-9a-f]{4,64}", value):
        raise click.BadParameter("the first digits of a task's id are wanted, at least four.")
    return value


def _hours(
    _context: click.Context, _parameter: click.Parameter, value: float | None
) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("a number of hours is wanted.")
    return value


def _bug(
    _context: click.Context | None, _parameter: click.Parameter | None, value: str | None
) -> str | None:
    if value is not None and value not in BUGS:
        raise click.BadParameter(f"there is no bug '{value}'; there are {', '.join(BUGS)}.")
    return value


def commit() -> str:
    """The commit of this checkout; what it is without git is not known."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def show(report: Report, options: Options) -> None:
    """Prints how a run went: a line where all held, else all that helps to find out why."""
    speed = report.simulated_s / max(report.core_s, 1e-9)
    about = (
        f"{report.nodes} nodes, {report.preset}, {report.tasks:,} tasks, {report.faults} faults,"
        f" {report.events:,} events; {report.simulated_s:,.0f} s in {report.core_s:.1f} s of a core"
        f" ({speed:,.0f} times real time)"
    )
    if report.ok:
        console.print(f"seed {report.seed}: [green]all held[/]; digest {report.digest}")
    else:
        console.print(f"seed {report.seed}: [bold red]{report.check}[/]")
        _line(report.sentence)
    _line(about)
    _line(f"faults drawn: {', '.join(report.kinds) or 'none'}")
    if not report.ok:
        _line(f"commit {commit()}; again: {options.command()}")
    for line in report.story:
        _line(line)


def _line(text: str) -> None:
    console.print(f"  {text}", markup=False, soft_wrap=True)


@main.command("run")
@click.option("--seed", type=int, required=True, help="Which world.")
@_world_options
@click.option("--leave-out", callback=_numbers, help="Faults, by number, that do not happen.")
@click.option("--bug", callback=_bug, help="A planted bug; see the command 'bugs'.")
@click.option("--story", callback=_task, help="Tell the story of the task whose id begins so.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def run_(
    seed: int,
    nodes: int | None,
    hours: float,
    preset: str | None,
    faults: tuple[str, ...] | None,
    leave_out: tuple[int, ...],
    bug: str | None,
    story: str | None,
    as_json: bool,
) -> None:
    """Run one world; where something breaks, tell its story and exit with 1."""
    options = Options(
        seed=seed,
        nodes=nodes,
        minutes=hours * 60.0,
        preset=preset,
        faults=faults,
        left_out=leave_out,
        bug=bug,
    )
    report = run(options, story=story)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(report)))
    else:
        show(report, options)
    raise SystemExit(0 if report.ok else 1)


@main.command("sweep")
@click.option("--seeds", type=click.IntRange(1), default=200, show_default=True, help="How many.")
@click.option("--first", type=int, default=0, show_default=True, help="The first seed.")
@_world_options
@click.option("--processes", type=click.IntRange(1), help="[default: one for each core]")
@click.option("--keep-going", is_flag=True, help="Do not stop at the first that breaks.")
def sweep_(
    seeds: int,
    first: int,
    nodes: int | None,
    hours: float,
    preset: str | None,
    faults: tuple[str, ...] | None,
    processes: int | None,
    keep_going: bool,
) -> None:
    """Run many seeds on all cores; exit with 1 if one breaks."""
    base = Options(seed=0, nodes=nodes, minutes=hours * 60.0, preset=preset, faults=faults)
    reports: list[Report] = []
    began_s = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=progress_console, transient=True
    ) as progress:
        bar = progress.add_task("seeds", total=seeds)

        with contextlib.closing(
            spread(run, (base.with_(seed=first + n) for n in range(seeds)), processes)
        ) as ended:
            for report in ended:
                reports.append(report)
                progress.advance(bar)
                if not report.ok:
                    show(report, base.with_(seed=report.seed))
                    if not keep_going:
                        break
    real_s = time.perf_counter() - began_s
    _summary(reports, first, real_s)
    raise SystemExit(0 if all(report.ok for report in reports) else 1)


def _summary(reports: list[Report], first: int, real_s: float) -> None:
    broken = [report for report in reports if not report.ok]
    simulated_s = sum(report.simulated_s for report in reports)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("seeds", f"{len(reports):,} from {first}, {len(broken)} broken")
    table.add_row("simulated", f"{simulated_s / 3600:,.1f} hours in {real_s:,.0f} s")
    core_s = sum(report.core_s for report in reports)
    table.add_row("speed", f"{simulated_s / max(core_s, 1e-9):,.0f} times real time on one core")
    table.add_row("tasks", f"{sum(report.tasks for report in reports):,}")
    table.add_row("faults", f"{sum(report.faults for report in reports):,}")
    console.print(table)
    for report in sorted(broken, key=lambda report: report.seed):
        console.print(
            f"  seed {report.seed}: {report.check}: {report.sentence}", markup=False, soft_wrap=True
        )


@main.command("shrink")
@click.option("--seed", type=int, required=True, help="Which world.")
@_world_options
@click.option("--bug", callback=_bug, help="A planted bug; see the command 'bugs'.")
def shrink_(
    seed: int,
    nodes: int | None,
    hours: float,
    preset: str | None,
    faults: tuple[str, ...] | None,
    bug: str | None,
) -> None:
    """Find the few faults without which a seed that breaks would not."""
    options = Options(
        seed=seed, nodes=nodes, minutes=hours * 60.0, preset=preset, faults=faults, bug=bug
    )
    report = run(options)
    if report.ok:
        show(report, options)
        raise SystemExit(0)
    with Progress(TextColumn("{task.description}"), console=progress_console) as progress:
        line = progress.add_task("shrinking")

        def told(tries: int, left: int) -> None:
            progress.update(line, description=f"shrinking: {tries} runs, {left} faults tried last")

        options, report = shrink(options, report, told=told)
    show(report, options)
    raise SystemExit(1)


@main.command("bugs")
@click.argument("names", nargs=-1)
@click.option("--seeds", type=click.IntRange(1), default=1000, show_default=True, help="At most.")
@click.option("--hours", type=click.FloatRange(0.001), callback=_hours, help="[default: the bug's]")
@click.option("--processes", type=click.IntRange(1), help="[default: one for each core]")
def bugs_(names: tuple[str, ...], seeds: int, hours: float | None, processes: int | None) -> None:
    """Plant bugs in the core, one after the other, and see whether each is caught.

    Without NAMES all of them; exit with 1 if one is not caught.
    """
    for name in names:
        _bug(None, None, name)
    wanted = names or tuple(BUGS)
    missed = 0
    width = max(map(len, wanted))
    look = partial(looked_for, seeds=range(seeds), minutes=None if hours is None else hours * 60.0)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=progress_console, transient=True
    ) as progress:
        bar = progress.add_task("bugs", total=len(wanted))
        for name, found in spread(look, wanted, processes):
            progress.advance(bar)
            if found is None:
                missed += 1
                console.print(f"{name:<{width}}  [bold red]not caught[/] in {seeds:,} seeds")
            else:
                about = f"seed {found.seed:>4}, the {found.tried}.: {found.check}: {found.sentence}"
                console.print(f"{name:<{width}}  {about}", markup=False, soft_wrap=True)
    console.print(f"{len(wanted) - missed} of {len(wanted)} caught")
    raise SystemExit(1 if missed else 0)


for command in (speed_, scale_, availability_):
    main.add_command(command)


if __name__ == "__main__":
    main()
