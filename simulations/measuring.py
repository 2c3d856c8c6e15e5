"""The commands that measure: `speed`, `scale` and `availability`."""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from . import availability, scale, scale_page, speed

console = Console(highlight=False)
progress_console = Console(stderr=True, highlight=False)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=progress_console, transient=True)


@click.command("speed")
@click.option("--minutes", type=click.FloatRange(0.05, 1000), default=10.0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def speed_(minutes: float, as_json: bool) -> None:
    """Measure how much faster than real time 5 devices are simulated on one core."""
    with _progress() as progress:
        line = progress.add_task("simulating")
        found = speed.measure(
            minutes, lambda r: progress.update(line, description=f"simulated seed {r.seed}")
        )
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found)))
        return
    console.print(
        f"{found.times_real:,.0f} times real time: {found.simulated_s / 3600:.1f} hours of"
        f" {speed.NODES} devices in {found.core_s:.1f} s of a core; {found.worlds} worlds, from"
        f" {found.slowest:,.0f} to {found.fastest:,.0f}",
        soft_wrap=True,
    )


def _sizes(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        sizes = tuple(sorted({int(word) for word in value.split(",")}))
    except ValueError:
        sizes = ()
    if not sizes or sizes[0] < 3 or sizes[-1] > 128:
        raise click.BadParameter("a list of numbers from 3 to 128 is wanted, such as 3,10,30.")
    return sizes


@click.command("scale")
@click.option(
    "--nodes",
    callback=_sizes,
    default=",".join(map(str, scale.SIZES)),
    show_default=True,
    help="The sizes to measure.",
)
@click.option(
    "--write",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the page with tables and plots there.",
)
def scale_(nodes: tuple[int, ...], write: Path | None) -> None:
    """Measure what clusters of several sizes cost, at rest and at work, and how they recover.

    The largest of the usual sizes takes some minutes.
    """
    growths: list[scale.Growth] = []
    with _progress() as progress:
        line = progress.add_task("scale")
        for count in nodes:
            growths.append(
                scale.measure(count, lambda text: progress.update(line, description=text))
            )
    page = scale_page.page(growths)
    if write is None:
        click.echo(page)
    else:
        write.write_text(page, encoding="utf-8")
        console.print(f"wrote {write}")


@click.command("availability")
@click.option("--days", type=click.FloatRange(0.01, 366), default=30.0, show_default=True)
@click.option("--nodes", type=click.IntRange(2, 20), default=3, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def availability_(days: float, nodes: int, seed: int) -> None:
    """Live through a month in which one device fails a day, and count how often people are served.

    Exits with 1 where a promise breaks or less than 99.9 % of them are.
    """
    with _progress() as progress:
        line = progress.add_task("day 0")
        found = availability.measure(
            days, nodes, seed, lambda day: progress.update(line, description=f"day {day:.0f}")
        )
    console.print(
        f"{found.days:g} days, {found.nodes} devices, {found.failures} failures\n"
        f"  reads        {found.reads:,}, {found.reads_refused:,} at a device that was not ready\n"
        f"  submissions  {found.submissions:,}, {found.submissions_late:,} at a second attempt,"
        f" {found.submissions_failed:,} failed\n"
        f"  served       {100 * found.available:.4f} % at once"
    )
    raise SystemExit(0 if found.available >= 0.999 and not found.submissions_failed else 1)
