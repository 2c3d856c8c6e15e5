"""How a performance is told at its end: to a person as a page, to a program as one document."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .evidence import Evidence, Promise
from .report import LibraryReport, lines_of, merged

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class DeviceSummary(msgspec.Struct, frozen=True):
    """A device's part."""

    name: str
    tasks: int
    story: list[str]


class FailoverSummary(msgspec.Struct, frozen=True):
    """A kill and how long its consequences took, in seconds since the kill."""

    device: str
    led: bool
    next_leader: str | None
    next_leader_s: float | None
    tasks_moved: int
    tasks_moved_s: float | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What `kowalski demo --json` prints."""

    ok: bool
    promises: list[Promise]
    tasks: int
    seconds: float
    """The whole demo."""
    work_s: float
    tasks_per_s: float
    submitter: str
    digest: str
    devices: list[DeviceSummary]
    failovers: list[FailoverSummary]
    sources_too_large: int
    library: LibraryReport


def summarise(evidence: Evidence, promises: Sequence[Promise], seconds: float) -> Summary:
    """All that is told."""
    watch = evidence.watch
    ran = watch.ran()
    results = {name: facts for name, facts in evidence.results.items() if facts}
    return Summary(
        ok=all(promise.kept for promise in promises),
        promises=list(promises),
        tasks=len(watch.tasks),
        seconds=round(seconds, 2),
        work_s=round(evidence.work_s, 2),
        tasks_per_s=round(len(watch.tasks) / evidence.work_s, 1),
        submitter=evidence.submitter,
        digest=evidence.digests[evidence.submitter],
        devices=[
            DeviceSummary(fate.name, ran[peer], fate.story) for peer, fate in evidence.fates.items()
        ],
        failovers=[
            FailoverSummary(
                device=evidence.fates[one.device].name,
                led=one.led,
                next_leader=evidence.fates[one.heir].name if one.heir else None,
                next_leader_s=_rounded(one.leader_s),
                tasks_moved=one.moved,
                tasks_moved_s=_rounded(one.moved_s),
            )
            for one in watch.failovers
        ],
        sources_too_large=evidence.too_large,
        library=merged(results),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def print_summary(summary: Summary, console: Console) -> None:
    """The page for people; without trailing blanks, so that it may be copied and piped."""
    with console.capture() as captured:
        for part in _parts(summary):
            console.print()
            console.print(part)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _parts(summary: Summary) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text(
        f"{summary.tasks:,} tasks on {len(summary.devices)} devices in {summary.work_s:.1f} s"
        f" ({summary.tasks_per_s:.0f} a second), {len(summary.failovers)} devices killed",
        "bold",
    )
    yield _devices(summary)
    yield _failovers(summary)
    yield _facts(lines_of(summary.library))
    yield _promises(summary.promises)
    took = f"The whole demo took {summary.seconds:.0f} s."
    if summary.ok:
        yield Text(f"Every promise was kept. {took}", "bold green")
    else:
        broken = "; ".join(one.sentence for one in summary.promises if not one.kept)
        yield Text(f"BROKEN: {broken}. {took}", "bold red")


def _grid(*titles: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for title in titles:
        table.add_column(title, justify="right" if title == "TASKS" else "left")
    return table


def _devices(summary: Summary) -> Any:
    table = _grid("DEVICE", "TASKS", "STORY")
    for device in summary.devices:
        story = ["submitted everything"] if device.name == summary.submitter else []
        table.add_row(device.name, f"{device.tasks:,}", ", ".join([*story, *device.story]))
    return table


def _failovers(summary: Summary) -> Any:
    table = _grid("KILLED", "NEXT LEADER", "UNFINISHED WORK")
    for one in summary.failovers:
        leader = "another leads" if not one.led else "none"
        if one.next_leader is not None and one.next_leader_s is not None:
            leader = f"{one.next_leader} after {one.next_leader_s:.2f} s"
        moved = "none was left"
        if one.tasks_moved_s is not None:
            moved = f"{one.tasks_moved} tasks placed anew within {one.tasks_moved_s:.2f} s"
        table.add_row(f"{one.device}{', leader' if one.led else ''}", leader, moved)
    return table


def _facts(facts: dict[str, str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(value))
    return table


def _promises(promises: Sequence[Promise]) -> Any:
    from rich.table import Table
    from rich.text import Text

    marks = ("✓", "✗") if _speaks_unicode() else ("ok", "BROKEN")
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for promise in promises:
        mark = Text(f"{marks[0]} ", "green") if promise.kept else Text(f"{marks[1]} ", "bold red")
        detail = Text(promise.detail, "dim" if promise.kept else "red")
        table.add_row(mark + Text(promise.sentence), detail)
    return table


def _speaks_unicode() -> bool:
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
