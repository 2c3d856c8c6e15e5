"""`docs/scale.md`: how a cluster's cost grows, in tables and plots that the run writes."""

from __future__ import annotations

from collections.abc import Sequence

from .scale import CONCURRENT, TASKS, Growth

_HEAD = """# Scale: what a cluster costs as it grows

Written by `python -m simulations scale --write docs/scale.md`, which measures all of it anew, in
simulated clusters with the timers of a home network (`lan`). Counted is what devices send each
other, once for each receiver. Processor time is that of the core, the fold and the simulated wire
in one Python process: it shows growth, and says nothing of libp2p, SQLite and the sandbox, for
which [the benchmarks](benchmarks.md) use real nodes.
"""
_FINDINGS = """## What breaks first

**Heartbeats.** Every device tells every other one that it is there, whom it heard and how far its
own feeds reach. Up to 16 devices each does so four times a second; from there on the wait grows
with the number of devices, so each sends 64 heartbeats a second however many there are, and
receives as many. But a heartbeat also names everybody whom its sender heard, so its *size* grows,
and with it what each device sends and receives: linearly with the number of devices, so with its
square for the whole cluster. At 100 devices that is the first thing that a slow link feels, long
before work, elections or the ledger do. A device that is gone is missed later by the same factor.

Everything else grows as it must: each event goes to each device once, so a task costs messages and
bytes in proportion to the number of devices. Finding a new leader does not depend on the size:
whoever is next in line claims, and one message tells all.
"""


def _chart(title: str, unit: str, growths: Sequence[Growth], values: Sequence[float]) -> list[str]:
    sizes = ", ".join(f'"{growth.nodes}"' for growth in growths)
    return [
        "```mermaid",
        "xychart-beta",
        f'    title "{title}"',
        f'    x-axis "devices" [{sizes}]',
        f'    y-axis "{unit}"',
        f"    line [{', '.join(f'{value:.4g}' for value in values)}]",
        "```",
        "",
    ]


def _row(name: str, values: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(values)} |"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.1g}"


def page(growths: Sequence[Growth]) -> str:
    """The whole page, as Markdown."""

    def row(name: str, values: Sequence[float]) -> str:
        return _row(name, [_number(value) for value in values])

    idle = [growth.idle_minute for growth in growths]
    task = [growth.task for growth in growths]
    devices = [growth.nodes for growth in growths]
    lines = [
        *_HEAD.splitlines(),
        "",
        _row("Devices", [str(count) for count in devices]),
        _row("---", ["---:"] * len(growths)),
        row("an idle minute: messages", [cost.messages for cost in idle]),
        row("an idle minute: MB", [cost.size_bytes / 1e6 for cost in idle]),
        row(
            "at rest: KB sent a second by each device",
            [cost.size_bytes / 60e3 / n for cost, n in zip(idle, devices, strict=True)],
        ),
        row(
            "at rest: core time, ms a second for each device",
            [cost.core_s / 60e-3 / n for cost, n in zip(idle, devices, strict=True)],
        ),
        row(f"a task (of {TASKS} in a batch): messages", [cost.messages for cost in task]),
        row("a task: KB", [cost.size_bytes / 1e3 for cost in task]),
        row(
            "a task: core time, ms for each device",
            [cost.core_s * 1e3 / n for cost, n in zip(task, devices, strict=True)],
        ),
        row(f"{TASKS} tasks: settled everywhere, s", [g.settled_everywhere_s for g in growths]),
        row("the leader ends: another leads and places, s", [g.new_leader_s for g in growths]),
        row("a partition in halves heals: one digest, s", [g.one_digest_s for g in growths]),
        _row("slots of all devices", [f"{growth.slots:,}" for growth in growths]),
        row(
            f"{CONCURRENT:,} tasks of 10 s at once: settled everywhere, s",
            [growth.concurrent_s for growth in growths],
        ),
        "",
        *_chart(
            "KB sent a second by each device, at rest",
            "KB/s",
            growths,
            [cost.size_bytes / 60e3 / n for cost, n in zip(idle, devices, strict=True)],
        ),
        *_chart(
            "Messages a second of the whole cluster, at rest",
            "messages/s",
            growths,
            [cost.messages / 60 for cost in idle],
        ),
        *_chart(
            "KB for a task, all devices together", "KB", growths, [c.size_bytes / 1e3 for c in task]
        ),
        *_FINDINGS.splitlines(),
    ]
    return "\n".join(lines) + "\n"
