"""`kowalski replay`, `audit` and `export`: a ledger file, read without any node running."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from kowalski_protocol.errors import Problem

from .cluster import short_digest
from .screen import Column, print_facts, print_json, print_table, progress, say, styled, wants_json
from .settings import command
from .wording import peer_end, size

COUNTER_BITS: Final = 16
SHOWN_PROBLEMS_MAX: Final = 50


def ledger_option() -> Callable[[Any], Any]:
    """--ledger FILE, by default the ledger of this device's node."""
    return click.option(
        "--ledger",
        "given",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="The ledger [default: ledger.db in the node's home folder].",
    )


def ledger_size(path: Path) -> str:
    """What the ledger takes on the disk: the file and the log beside it, where what was written
    last is."""
    own = path.resolve()  # the log stands beside the file itself, not beside a link to it
    size_bytes = own.stat().st_size
    with suppress(OSError):  # there is none, or a node that stops has just folded it in
        size_bytes += own.with_name(own.name + "-wal").stat().st_size
    return size(size_bytes)


def _ledger(given: Path | None) -> Path:
    if given is None:
        from kowalski_node.home import LEDGER_FILE, default_home

        given = default_home() / LEDGER_FILE
    if not given.exists():
        raise Problem(
            "ledger_missing",
            f"There is no ledger at {given}.",
            mend="kowalski replay --ledger FILE",
        )
    return given


@command(
    "replay",
    examples=(
        "kowalski replay",
        "kowalski replay --ledger backup.db --json",
        "kowalski replay --until 2026-01-31T12:00:00Z",
    ),
    details=(
        "Every chain is verified and every event folded; the digest is the one that all"
        " nodes with the same"
        " events show. No node need run."
    ),
)
@ledger_option()
@click.option(
    "--until", metavar="HLC|TIME", help="Fold only events up to this clock reading or ISO time."
)
def replay(given: Path | None, until: str | None) -> None:
    path = _ledger(given)
    until_hlc = None if until is None else clock_reading(until)
    from kowalski_ledger.replay import replay as run_replay

    with progress("replaying", "events") as update:
        report = run_replay(path, until_hlc=until_hlc, progress=update)
    if wants_json():
        print_json(msgspec.to_builtins(report))
        return
    tasks = dict(report.tasks)
    open_count = tasks.pop("open", 0)
    submitted = tasks.pop("submitted", 0)
    settled = tasks.pop("settled", 0)
    ends = ", ".join(f"{count:,} {outcome}" for outcome, count in tasks.items())
    print_facts(
        {
            "ledger": f"{path} ({ledger_size(path)})",
            "events": f"{report.events:,} in {report.frames:,} frames of {len(report.heads)} feeds",
            "tasks": f"{submitted:,}: {open_count:,} open, {settled:,} settled"
            + (f" ({ends})" if ends else ""),
            "digest": short_digest(report.digest) if report.digest else "–",
            "took": f"{report.seconds:.2f} s, {report.events_per_s:,.0f} events/s",
        }
    )


def clock_reading(text: str) -> int:
    """A hybrid clock reading as a number, or the last one of an ISO time (UTC where it names no
    zone)."""
    if text.isascii() and text.isdigit() and len(text) <= 20:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(
            f"--until takes a clock reading or an ISO time, not {text!r}."
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return (milliseconds << COUNTER_BITS) | ((1 << COUNTER_BITS) - 1)


@command(
    "audit",
    examples=("kowalski audit", "kowalski audit --ledger backup.db --json"),
    details=(
        "Exits with 1 where the file is wrong. What members wrote that does not count (a"
        " settlement by one who does not own the task, a second result of one attempt, an"
        " admission by one who is no admin) is listed as findings and is no error of the file."
        " Forks are not among them: a ledger keeps one of two events that contradict each other,"
        " and the node that refused the other says so in its log."
    ),
)
@ledger_option()
def audit(given: Path | None) -> int:
    path = _ledger(given)
    from kowalski_ledger.audit import audit as run_audit

    with progress("auditing", "events") as update:
        report: Any = msgspec.to_builtins(run_audit(path, progress=update))
    if wants_json():
        print_json(report)
        return 0 if report["ok"] else 1
    print_facts(
        {
            "ledger": f"{path} ({ledger_size(path)})",
            "events": f"{report['events']:,}",
            "signatures": f"{report['signatures']:,}",
            "dropped": f"{report['dropped']:,} attachments" if report["dropped"] else "none",
            "verdict": styled("whole", "bold green")
            if report["ok"]
            else styled("damaged", "bold red"),
        }
    )
    _print_list("Problems", report["problems"])
    _print_list("Findings", report["findings"])
    return 0 if report["ok"] else 1


def _print_list(title: str, entries: list[dict[str, Any]]) -> None:
    if not entries:
        return
    click.echo(f"\n{title}")
    print_table(
        [Column("AUTHOR"), Column("TOPIC"), Column("SEQ", right=True), Column("WHAT", fold=True)],
        [
            [
                peer_end(entry["author"]) if entry.get("author") else "–",
                entry.get("topic") or "–",
                entry.get("seq") or "–",  # they count from 1: 0 is of the file, or of a whole feed
                entry.get("what") or "–",
            ]
            for entry in entries[:SHOWN_PROBLEMS_MAX]
        ],
    )
    if len(entries) > SHOWN_PROBLEMS_MAX:
        click.echo(f"and {len(entries) - SHOWN_PROBLEMS_MAX:,} more; --json lists all.")


@command(
    "export",
    examples=("kowalski export --out events.jsonl", "kowalski export --ledger backup.db --out -"),
)
@ledger_option()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    required=True,
    metavar="FILE",
    help="Where to write; - is stdout.",
)
def export(given: Path | None, out: Path) -> None:
    path = _ledger(given)
    from kowalski_ledger.export import export as run_export

    to_stdout = str(out) == "-"
    if to_stdout and wants_json():
        raise click.UsageError("--json is one document; export its lines to a file.")
    with progress("exporting", "events") as update:
        count = run_export(path, "-" if to_stdout else out, progress=update)
    if wants_json():
        print_json({"events": count, "out": str(out)})
    elif not to_stdout:
        # A pipe or a device has no size, and a pipe may be gone once it is read.
        written = f" ({size(out.stat().st_size)})" if out.is_file() else ""
        say(f"Wrote {count:,} events to {out}{written}.")
