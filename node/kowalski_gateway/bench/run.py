"""One run from the options to the printed figures: chooses the groups, runs them one after the
other and cleans up.

A group that can't measure does not end the run: its figures are told as not measured, with the
reason, and the exit code says so. A missed target is no error of the run.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from kowalski_gateway.interruption import (
    Interrupted,
    first_of,
    run_interruptibly,
    temporary_folder,
)
from kowalski_gateway.local_cluster import NodeFailed
from kowalski_protocol.errors import Problem

from .figures import CATALOGUE, GROUPS, Figure, chosen
from .machine import Machine, commit, describe
from .page import Document, number, page
from .session import Session, Skipped, Unmeasurable

EXIT_UNMEASURED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
REASON_LENGTH_MAX: Final = 160
"""A figure names its reason in short; all of it, with the end of a node's log, is on stderr."""

Measure = Callable[[Session], Awaitable[None]]


def run(options: Mapping[str, Any]) -> int:
    """See `run_bench`."""
    try:
        wanted = chosen(_names(options.get("only")))
    except KeyError as error:
        known = ", ".join(dict.fromkeys([*GROUPS, *CATALOGUE]))
        sys.stderr.write(f"error: There is no figure {error.args[0]!r}; there are {known}.\n")
        return EXIT_USAGE
    quick, as_json = bool(options.get("quick")), bool(options.get("json"))

    async def measure() -> tuple[Document, bool]:
        with temporary_folder("kowalski-bench-") as folder:
            return await _measure_all(folder, wanted, quick=quick, lines=not as_json)

    try:
        document, failed = run_interruptibly(measure)
    except Interrupted:
        _tell_progress("Interrupted; no process and no folder is left.")
        return EXIT_INTERRUPTED
    if as_json:
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    write = options.get("write")
    if write is not None:
        Path(write).parent.mkdir(parents=True, exist_ok=True)
        Path(write).write_text(page(document), encoding="utf-8")
        _tell_progress(f"wrote {write}")
    return EXIT_UNMEASURED if failed else 0


def _names(only: object) -> tuple[str, ...]:
    return (only,) if isinstance(only, str) else tuple(cast("Sequence[str]", only or ()))


async def _measure_all(
    folder: Path, wanted: frozenset[str], *, quick: bool, lines: bool
) -> tuple[Document, bool]:
    """The run's document, and whether a figure failed to be measured."""
    machine = describe(folder)
    when = datetime.now(UTC)
    _tell_progress(machine.line())

    def tell(figure: Figure) -> None:
        if lines:
            _tell_line(figure, machine)
        _tell_verdict(figure)

    session = Session(folder, wanted, quick=quick, tell=tell)
    for group in GROUPS:
        names = [one.name for one in CATALOGUE.values() if one.group == group]
        if session.wants(*names):
            await _measure(session, group, names)
    document = Document(
        figures=[session.figures[name] for name in CATALOGUE if name in wanted],
        machine=machine,
        commit=commit(),
        date=when,
        quick=quick,
    )
    return document, session.failed


def _tell_line(figure: Figure, machine: Machine) -> None:
    line = {**msgspec.to_builtins(figure), "machine": machine.line()}
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


def _tell_verdict(figure: Figure) -> None:
    value = f"{number(figure.value)} {figure.unit}".strip()
    if figure.value is None:
        value = f"not measured: {figure.detail.get('reason', '')}"
    verdict = {True: "met", False: "MISSED", None: ""}[figure.ok]
    told = f" ({figure.target}: {verdict})" if verdict else ""
    _tell_progress(f"{figure.figure}: {value}{told}")


def _tell_progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


async def _measure(session: Session, group: str, names: list[str]) -> None:
    module = importlib.import_module(f"{__package__}.{group}")
    measure = cast("Measure", module.measure)
    began_s = time.perf_counter()
    _tell_progress(f"{group} …")
    skipped, reason = False, "the group ended without it"
    try:
        await measure(session)
    except ExceptionGroup as errors:
        reason = _reason(first_of(errors))
    except Skipped as error:
        skipped, reason = True, str(error)
    except (Problem, Unmeasurable, NodeFailed) as error:
        reason = _reason(error)
    if any(name not in session.figures for name in names if session.wants(name)):
        session.say(reason)
        session.failed = session.failed or not skipped
    session.give_up(names, " ".join(reason.split())[:REASON_LENGTH_MAX])
    session.say(f"{group} took {time.perf_counter() - began_s:.1f} s")


def _reason(error: BaseException) -> str:
    """Why a group could not measure; raises what is no such reason but a mistake of ours."""
    match error:
        case Problem():
            return error.sentence
        case Unmeasurable() | NodeFailed():
            return str(error)
        case _:
            raise error
