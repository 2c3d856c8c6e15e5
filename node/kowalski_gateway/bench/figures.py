"""What is measured, and what it must reach: the catalogue of figures.

A figure has one name, one unit and, where the project promises something, one target. How it is
measured stands beside it in a sentence, because a number without that says nothing; the code that
does so is in the module of its group. Judging is done here, so no group can be kind to itself.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

import msgspec

Comparison = Literal["at most", "at least"]


class Target(NamedTuple):
    """A bound that a figure must keep."""

    comparison: Comparison
    bound: float

    def is_met(self, value: float) -> bool:
        """Whether the value keeps the bound."""
        return value <= self.bound if self.comparison == "at most" else value >= self.bound


class Definition(NamedTuple):
    """One line of the catalogue."""

    name: str
    group: str
    what: str
    unit: str
    target: Target | None
    how: str


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured figure, as it is printed and written to the page."""

    figure: str
    value: float | None
    """None where it could not be measured; `detail` then has the reason."""
    unit: str
    target: str | None
    ok: bool | None
    """Whether the target was met; None where there is none, or no value."""
    detail: dict[str, Any] = {}


def target_text(definition: Definition) -> str | None:
    """The target as people read it."""
    if definition.target is None:
        return None
    comparison, bound = definition.target
    return f"{comparison} {bound:,g} {definition.unit}".rstrip()


def judged(name: str, value: float | None, detail: dict[str, Any]) -> Figure:
    """The figure of this name with its target's verdict."""
    definition = CATALOGUE[name]
    target = definition.target
    return Figure(
        figure=name,
        value=value,
        unit=definition.unit,
        target=target_text(definition),
        ok=None if target is None or value is None else target.is_met(value),
        detail=detail,
    )


def _most(bound: float) -> Target:
    return Target("at most", bound)


def _least(bound: float) -> Target:
    return Target("at least", bound)


_DEFINITIONS: Final = (
    Definition(
        "throughput", "throughput", "5,000 echo tasks by one batch call, 3 nodes", "tasks/s",
        _least(2500),
        "time from the HTTP call to all settled on the submitter; median of several batches on one"
        " cluster; afterwards all results are compared and all nodes hold all events and one"
        " digest",
    ),
    Definition(
        "throughput_share", "throughput", "smallest share of these tasks that a node ran", "",
        _least(0.2), "the smallest of all batches",
    ),
    Definition(
        "throughput_dask", "dask", "5,000 no-op tasks, Dask with 3 worker processes", "tasks/s",
        None, "one thread each, client.map and gather; median of several rounds, same machine and"
        " run; nothing is durable there",
    ),
    Definition(
        "throughput_times_dask", "dask", "echo tasks against Dask's", "times", _least(3),
        "the two figures above",
    ),
    Definition(
        "latency_p50", "latency", "one task at a time on another device, by HTTP: median", "ms",
        _most(8), "3 nodes; POST /api/tasks with wait_s, pinned to a device that is not the"
        " submitter; from the call to the value",
    ),
    Definition(
        "latency_p99", "latency", "one task at a time on another device, by HTTP: p99", "ms",
        _most(20), "the same samples",
    ),
    Definition(
        "latency_alone_p50", "latency", "one task at a time alone on one node: median", "ms",
        _most(3), "a cluster of one; POST /api/tasks with wait_s",
    ),
    Definition(
        "latency_dask_p50", "dask", "one no-op task at a time, Dask: median", "ms", None,
        "client.submit(...).result()",
    ),
    Definition(
        "latency_dask_p99", "dask", "one no-op task at a time, Dask: p99", "ms", None,
        "the same samples",
    ),
    Definition(
        "failover_killed", "failover", "killed device: its running task starts elsewhere, p99",
        "s", _most(1),
        "3 nodes; kill -9 of the device that runs a long task, the leader or not; from the kill to"
        " the start of the new attempt as its device records it",
    ),
    Definition(
        "failover_frozen", "failover", "frozen device: its running task starts elsewhere, p99",
        "s", _most(1.5), "the same with SIGSTOP",
    ),
    Definition(
        "leader_tasks_disturbed", "leader",
        "leader killed while 30 tasks run: running tasks lost or restarted on surviving devices",
        "tasks", _most(0),
        "of all rounds together; all tasks must settle as completed, those of the survivors in"
        " their first attempt",
    ),
    Definition(
        "leader_placements", "leader", "leader killed: placements go on within", "s", _most(1),
        "from the kill to the settlement of a task that is submitted right after it; the slowest"
        " round",
    ),
    Definition(
        "join_30000", "ledger", "a new node joins a ledger of 30,000 events", "s", _most(3),
        "from the start of the new process to equal heads and one digest; every chain and"
        " signature verified",
    ),
    Definition(
        "join_100000", "ledger", "a new node joins a ledger of 100,000 events", "s", _most(10),
        "the same",
    ),
    Definition(
        "replay", "ledger", "replay of 100,000 events", "events/s", _least(50_000),
        "the founder's file, after it was stopped; median of three",
    ),
    Definition(
        "audit", "ledger", "audit of 100,000 events", "events/s", _least(25_000),
        "the same file; every hash and signature",
    ),
    Definition(
        "burst", "burst", "burst of 1,000 events from one node reaches both others", "s",
        _most(2), "1,000 submissions that no device can run, by one batch call; from the call to"
        " both others' holding them durably; the slowest round",
    ),
    Definition(
        "start", "start", "process start to healthy", "s", _most(2.5),
        "GET /api/health; a new home each time; median",
    ),
    Definition(
        "restart", "start", "process start to healthy, a home in use", "s", None,
        "the same home; median",
    ),
    Definition(
        "idle_cpu", "idle", "processor use of an idle node with two peers", "% of a core",
        _most(3), "user and system time over 30 s; the busiest of three nodes",
    ),
    Definition(
        "idle_memory", "idle", "memory of an idle node with two peers", "MB", _most(150),
        "resident set size; the largest of three nodes",
    ),
    Definition(
        "discovery", "discovery", "a second admitted node is found by zeroconf", "ms",
        _most(500), "from its listening to the connection; neither knows an address of the other;"
        " the slowest round",
    ),
    Definition(
        "command_line", "command_line", "kowalski --help", "ms", _most(150),
        "wall time of the process; median",
    ),
    Definition(
        "simulation_speed", "simulation", "5 simulated nodes on one core", "times real time",
        _least(500), "worlds of ten minutes with the timers of a home, faults and people as their"
        " seeds draw them; simulated time of all by processor time of all",
    ),
    Definition(
        "code_warm_p50", "code", "a Python program of 100 lines, warm, by HTTP: median", "ms",
        _most(8), "a cluster of one; POST /api/tasks with wait_s; from the call to the value",
    ),
    Definition(
        "code_warm_sandbox_p50", "code", "of which the sandbox, the program's run included",
        "ms", _most(5), "from the start of the attempt to its outcome, as the device records it",
    ),
    Definition(
        "code_cold_p50", "code", "a cold start of Python in the sandbox: median", "ms",
        _most(40), "bubblewrap, interpreter, a program of one line, and the end of it all",
    ),
    Definition(
        "code_session_p50", "code", "a cell of a session, from its call to its outcome: median",
        "ms", _most(1), "at the executor, in the sandbox: `x += 1` and then `x`, in turns, in an"
        " interpreter that stays; all values are compared",
    ),
    Definition(
        "code_throughput", "code", "1,000 small Python programs by one batch call, 3 nodes",
        "tasks/s", _least(150), "every one in a sandbox of its own; from the call to all settled"
        " on the submitter; median of several batches; all values are compared",
    ),
    Definition(
        "code_limits", "code", "a program past its limit is stopped within", "ms over the limit",
        _most(250), "with a second to run: a loop, a sleep in C, a fork bomb, 10 GB of memory, 1 GB"
        " of output, threads without end; the latest of all, to the end of the last process",
    ),
    Definition(
        "code_cancel", "code", "a cancellation reaches a running program", "ms", _most(250),
        "a cluster of one; from the request to the settlement, which follows the end of the last"
        " process; the slowest",
    ),
    Definition(
        "throughput_1", "scale", "5,000 echo tasks, 1 process", "tasks/s", None,
        "as throughput",
    ),
    Definition(
        "throughput_2", "scale", "5,000 echo tasks, 2 processes", "tasks/s", None,
        "as throughput",
    ),
    Definition(
        "throughput_5", "scale", "5,000 echo tasks, 5 processes", "tasks/s", None,
        "as throughput",
    ),
    Definition(
        "throughput_8", "scale", "5,000 echo tasks, 8 processes", "tasks/s", None,
        "as throughput",
    ),
    Definition(
        "memory_100000", "scale", "memory of a node after 100,000 tasks", "MB", None,
        "3 nodes, 400,000 events; resident set size, the largest of three",
    ),
)  # fmt: skip

CATALOGUE: Final[dict[str, Definition]] = {one.name: one for one in _DEFINITIONS}

GROUPS: Final = tuple(dict.fromkeys(one.group for one in _DEFINITIONS))
"""In the order in which they are measured."""


def chosen(names: tuple[str, ...]) -> frozenset[str]:
    """The figures that are meant: by their own names or those of groups; all where none is given.

    Raises KeyError with the name that is neither.
    """
    if not names:
        return frozenset(CATALOGUE)
    wanted: set[str] = set()
    for name in names:
        if name not in CATALOGUE and name not in GROUPS:
            raise KeyError(name)
        wanted |= {one.name for one in _DEFINITIONS if name in (one.name, one.group)}
    return frozenset(wanted)
