"""Whether the demo's promises were kept, judged from what the nodes left behind.

When this is asked no node runs any more. The ledger files are read as anybody could read them, with
the functions behind `kowalski replay` and `kowalski audit`; what each node showed while it lived is
compared with that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from kowalski_ledger.audit import AuditReport, audit
from kowalski_ledger.replay import ReplayReport, replay

from .watch import Watch

DIGEST_SHOWN = 14
NAMED_MAX = 3
"""How many of the places where a promise was broken are named."""


@dataclass(slots=True)
class Fate:
    """What a device went through."""

    name: str
    state: str = "works"
    """works | killed | returns"""
    story: list[str] = field(default_factory=list[str])

    def add(self, what: str) -> None:
        """One more thing that happened to it."""
        self.story.append(what)


@dataclass(slots=True, kw_only=True)
class Evidence:
    """What is left of a performance."""

    watch: Watch
    fates: dict[str, Fate]
    """By peer ID."""
    submitter: str
    results: dict[str, Any]
    """What the cluster found, by source."""
    expected: dict[str, Any]
    """What the plain local run found."""
    digests: dict[str, str]
    """What each node showed at the end."""
    ledgers: dict[str, Path]
    too_large: int
    work_s: float
    """From the submission to the last settlement."""


class Promise(msgspec.Struct, frozen=True):
    """One sentence, and whether it is true."""

    sentence: str
    kept: bool
    detail: str


def judge(evidence: Evidence) -> list[Promise]:
    """All promises; reads the ledger files, which takes a moment."""
    replays = {name: replay(path) for name, path in evidence.ledgers.items()}
    audits = {name: audit(path) for name, path in evidence.ledgers.items()}
    return [
        _settled_once(evidence),
        _equal_results(evidence),
        _one_digest(evidence),
        _replayed(evidence, replays),
        _audited(audits),
    ]


def _promise(sentence: str, broken: list[str], detail: str) -> Promise:
    if not broken:
        return Promise(sentence, True, detail)
    more = f" and {len(broken) - NAMED_MAX} more" if len(broken) > NAMED_MAX else ""
    return Promise(sentence, False, "; ".join(broken[:NAMED_MAX]) + more)


def _settled_once(evidence: Evidence) -> Promise:
    watch = evidence.watch
    broken: list[str] = []
    for task in sorted(watch.tasks):
        times, outcome = watch.settlements[task], watch.outcomes.get(task)
        if times != 1 or outcome != "completed":
            broken.append(f"{task[:12]} settled {times} times, as {outcome}")
    return _promise(
        "every task settled exactly once, as completed", broken, f"{len(watch.tasks):,} tasks"
    )


def _equal_results(evidence: Evidence) -> Promise:
    results, expected = evidence.results, evidence.expected
    broken = [f"{name} differs" for name in expected if results.get(name) != expected[name]]
    broken += [f"{name} is missing there" for name in results if name not in expected]
    return _promise(
        "the results equal those of a plain local run", broken, f"{len(expected):,} sources"
    )


def _one_digest(evidence: Evidence) -> Promise:
    digests = evidence.digests
    shown = set(digests.values())
    broken = [] if len(shown) == 1 else [f"{name} shows {d}" for name, d in digests.items()]
    return _promise("all nodes show one digest", broken, min(shown, default="")[:DIGEST_SHOWN])


def _replayed(evidence: Evidence, replays: dict[str, ReplayReport]) -> Promise:
    broken: list[str] = []
    total = len(evidence.watch.tasks)
    for name, report in replays.items():
        if report.digest != evidence.digests[name]:
            broken.append(f"the file of {name} gives {report.digest}")
        if report.tasks["settled"] != total or report.tasks["open"]:
            broken.append(f"the file of {name} holds {report.tasks}")
    events = max((report.events for report in replays.values()), default=0)
    return _promise(
        "replay of each ledger file gives that digest", broken, f"{events:,} events each"
    )


def _audited(audits: dict[str, AuditReport]) -> Promise:
    broken: list[str] = []
    for name, report in audits.items():
        for remark in [*report.problems, *report.findings]:
            broken.append(f"{name}: {remark.topic}/{remark.seq} {remark.what}")
    signatures = sum(report.signatures for report in audits.values())
    return _promise(
        "audit finds nothing wrong in any file", broken, f"{signatures:,} signatures verified"
    )
