"""What a graph of tasks is, and the door through which one comes in.

    {"tasks": {NAME: {"kind", "payload", "after"?: [NAME], "compensate"?: TASK, ...}, ...},
     "on_failure"?: "stop" | "continue" | "compensate"}

A graph is one task whose payload holds tasks, so it is submitted, placed and settled like any; the
executor that runs it submits its tasks as children, each when those that it depends on have
completed (`graph_run`). A task depends on those that it names in `after` and on those whose outcome
its payload refers to (`graph_references`).

All that can be told from the graph alone is told before any of it runs: names, cycles, references
and, with a stand-in at each reference, whether each child is a task that could be submitted. A
mistake in the last layer must not cost the work of the others. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, Final

from .codec import encode, nests_too_deep
from .errors import Problem
from .graph_references import (
    MARK,
    FileReference,
    Reference,
    Visit,
    as_list,
    as_object,
    bad,
    walk_references,
)
from .limits import LIMITS
from .task_files import path_flaw, shown_path

GRAPH_TASKS_MAX: Final = 1_000
"""Tasks of a graph: they share the room of one payload, and all may be under way at once."""
GRAPH_NESTING_MAX: Final = 3
"""Graphs inside of each other: each is one more attempt that waits, and that must be made again
where its device is lost."""
NAME_LENGTH_MAX: Final = 64
"""Characters of a task's name in its graph."""
ON_FAILURE: Final = ("stop", "continue", "compensate")
_CYCLE_SHOWN: Final = 8
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
_GRAPH_FIELDS: Final = ("tasks", "on_failure")
_TASK_FIELDS: Final = (
    "kind",
    "payload",
    "requires",
    "retry",
    "timeout_s",
    "priority",
    "failover",
    "device_filter",
    "labels",
)
_CHILD_FIELDS: Final = (*_TASK_FIELDS, "after", "compensate")
_ALONE_FIELDS: Final = ("session", "idempotency_key")
"""What a task may have and a graph's task may not: it has no place or name outside of its graph."""
_NO_FILES_LEFT: Final = ("tool", "graph")
_STAND_IN_BLOB: Final = "0" * 64
_STAND_IN: Final[Mapping[str, Any]] = {"tool": "graph"}
"""The payload that stands for an inner graph, which is read by itself."""


@dataclass(frozen=True, slots=True)
class GraphTask:
    """A task of a graph."""

    name: str
    task: Mapping[str, Any]
    """The object of POST /api/tasks, with its references in it."""
    after: tuple[str, ...] = ()
    """All tasks that must have completed before, by `after` or by reference."""
    refers: tuple[str, ...] = ()
    """Those of which it takes a part."""
    compensation: Mapping[str, Any] | None = None
    """The task that undoes it."""
    compensation_refers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph that has been checked: no cycle, no unknown name."""

    tasks: tuple[GraphTask, ...]
    """Each behind all that it depends on, and else in the order of writing."""
    on_failure: str = "stop"

    @property
    def sinks(self) -> frozenset[str]:
        """The tasks on which no other depends: what the graph is run for."""
        return frozenset(task.name for task in self.tasks) - {
            name for task in self.tasks for name in task.after
        }


def read_graph(payload: Mapping[str, Any]) -> Graph:
    """The graph that the payload of a `graph` task describes.

    Raises Problem with a sentence that names the task and what is wrong: `spec_too_large` for what
    is over a limit, what `parse_task` raises for a task that can't be submitted, and `bad_request`
    for everything else.
    """
    _check_size(payload)
    return _Reader("", frozenset(), 1).read(payload)


def _check_size(payload: Mapping[str, Any]) -> None:
    """Bounds all that follows: the walks through the payload follow its nesting on the stack."""
    try:
        data = encode(payload)
        is_sound = not nests_too_deep(data)
    except (TypeError, ValueError, OverflowError, RecursionError):
        data, is_sound = b"", False
    if not is_sound:
        raise bad("'payload' holds something that JSON can't say, or is nested too deep.")
    if len(data) > LIMITS.payload_size_bytes_max:
        raise Problem(
            "spec_too_large",
            f"The graph is {len(data):,} bytes; the limit is {LIMITS.payload_size_bytes_max:,}."
            " Put large inputs into blobs and name their hashes.",
        )


def _unknown(given: Iterable[object], known: Iterable[str]) -> str | None:
    names = frozenset(known)
    return next((shown_path(str(name)) for name in given if name not in names), None)


class _Child:
    """A task while its graph is read: what it says of others."""

    def __init__(self) -> None:
        self.task: dict[str, Any] = {}
        self.after: dict[str, None] = {}
        self.refers: dict[str, None] = {}
        self.files: list[tuple[FileReference, str]] = []
        self.compensation: dict[str, Any] | None = None
        self.compensation_refers: dict[str, None] = {}


class _Reader:
    """Reads one graph; a graph inside of it is read by a reader of its own.

    `path` is where the graph stands among those around it, and `around` are the names there, which
    its references may use as well.
    """

    def __init__(self, path: str, around: frozenset[str], depth: int) -> None:
        self._path = path
        self._around = around
        self._depth = depth
        self._names: frozenset[str] = frozenset()

    def _told(self, name: str, sentence: str, code: str = "bad_request") -> Problem:
        return Problem(code, f"Task '{self._path}{name}': {sentence}")

    def _wrong(self, sentence: str, code: str = "bad_request") -> Problem:
        inside = f"Task '{self._path[:-1]}': " if self._path else ""
        return Problem(code, inside + sentence)

    def read(self, payload: Mapping[str, Any]) -> Graph:
        unknown = _unknown(payload, _GRAPH_FIELDS)
        if unknown is not None:
            raise self._wrong(f"A graph's payload has no field {unknown}.")
        policy = payload.get("on_failure")
        policy = "stop" if policy is None else policy
        if policy not in ON_FAILURE:
            raise self._wrong(f"'payload.on_failure' must be one of {', '.join(ON_FAILURE)}.")
        given = as_object(payload.get("tasks"))
        if not given:
            raise self._wrong("'payload.tasks' must be an object with a task for each name.")
        if len(given) > GRAPH_TASKS_MAX:
            raise self._wrong(
                f"The graph has {len(given):,} tasks; the limit is {GRAPH_TASKS_MAX:,}.",
                "spec_too_large",
            )
        for name in given:
            self._check_name(name)
        self._names = frozenset(given)
        children = {name: self._child(name, one, policy) for name, one in given.items()}
        for name, child in children.items():
            self._check_files(name, child, children)
        order = self._sorted(children)
        self._check_compensations(children, order)
        return Graph(tuple(_frozen(name, children[name]) for name in order), policy)

    def _check_name(self, name: object) -> None:
        if not isinstance(name, str) or len(name) > NAME_LENGTH_MAX or not _NAME.fullmatch(name):
            raise self._wrong(
                f"A graph's task can't be named {shown_path(str(name))}: a name has 1 to"
                f" {NAME_LENGTH_MAX} letters (a to z), digits, '_', '-' and '.'."
            )

    def _child(self, name: str, given: Any, policy: str) -> _Child:
        fields = as_object(given)
        if fields is None:
            raise self._told(name, "it must be an object of kind, payload and options.")
        self._check_fields(name, fields, _CHILD_FIELDS)
        child = _Child()
        for other in self._after(name, fields.get("after")):
            child.after[other] = None
        child.task = {field: fields[field] for field in _TASK_FIELDS if field in fields}
        child.files = self._check_task(name, child.task, child.refers)
        child.after.update(child.refers)
        if name in child.after:
            raise self._told(name, "it depends on itself.")
        compensation = fields.get("compensate")
        if compensation is not None:
            self._read_compensation(name, child, compensation, policy)
        return child

    def _check_fields(self, name: str, fields: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for field in _ALONE_FIELDS:
            if field in fields:
                raise self._told(name, f"a task of a graph can't have '{field}'.")
        unknown = _unknown(fields, known)
        if unknown is not None:
            raise self._told(name, f"a task of a graph has no field {unknown}.")

    def _after(self, name: str, given: Any) -> Iterable[str]:
        listed = () if given is None else as_list(given)
        if listed is None:
            raise self._told(name, "'after' must be a list of names.")
        for other in listed:
            if not isinstance(other, str):
                raise self._told(name, "'after' must be a list of names.")
            if other not in self._names:
                raise self._told(
                    name, f"'after' names {shown_path(other)}, which is no task of the graph."
                )
        return listed

    def _check_task(
        self, name: str, task: Mapping[str, Any], refers: dict[str, None]
    ) -> list[tuple[FileReference, str]]:
        """Checks a task with a stand-in at each reference, and says to which tasks they lead."""
        files: list[tuple[FileReference, str]] = []

        def visit(reference: Reference | FileReference, where: str) -> Any:
            if reference.name not in self._names:
                if reference.name not in self._around:
                    shown = shown_path(reference.name)
                    raise bad(f"'{where}' refers to {shown}, which is no task of the graph.")
            else:
                refers[reference.name] = None
            if not isinstance(reference, FileReference):
                return "" if where != "payload.args" else {}
            flaw = path_flaw(reference.file)
            if flaw is not None:
                raise bad(f"'{where}.file' {flaw}: {shown_path(reference.file)}.")
            files.append((reference, where))
            return {"path": reference.place, "blob": _STAND_IN_BLOB, "size_bytes": 0}

        payload = as_object(task.get("payload"))
        if payload is None:
            raise self._told(name, "'payload' must be an object.")
        if MARK in payload:
            raise self._told(name, "'payload' can't be a reference: its parts can.")
        if task.get("kind") == "graph":
            self._read_inner(name, payload)
        try:
            _check_as_submitted(task, payload, visit)
        except Problem as problem:
            raise self._told(name, problem.sentence, problem.code) from None
        return files

    def _read_inner(self, name: str, payload: Mapping[str, Any]) -> None:
        if self._depth >= GRAPH_NESTING_MAX:
            raise self._told(name, f"graphs can be at most {GRAPH_NESTING_MAX} deep in each other.")
        around = self._around | self._names
        _Reader(f"{self._path}{name}/", around, self._depth + 1).read(payload)

    def _check_files(self, name: str, child: _Child, children: Mapping[str, _Child]) -> None:
        for reference, where in child.files:
            if reference.name not in children:
                continue  # of a graph around this one, whose reader looks at it as well
            source = children[reference.name].task
            kind, outputs = source.get("kind"), source["payload"].get("outputs")
            if kind in _NO_FILES_LEFT or (kind == "code" and not outputs):
                raise self._told(
                    name, f"'{where}' takes a file of {reference.name!r}, which has no 'outputs'."
                )

    def _read_compensation(self, name: str, child: _Child, given: Any, policy: str) -> None:
        told = f"{name}/compensate"
        fields = as_object(given)
        if fields is None:
            raise self._told(told, "it must be an object of kind, payload and options.")
        if policy != "compensate":
            raise self._told(
                name,
                "it has 'compensate', which nothing would run: 'payload.on_failure' must be"
                " compensate.",
            )
        self._check_fields(told, fields, _TASK_FIELDS)
        files = self._check_task(told, fields, child.compensation_refers)
        child.files += files
        child.compensation = dict(fields)

    def _sorted(self, children: Mapping[str, _Child]) -> list[str]:
        """The names in the order of dependence, and else of writing."""
        written = list(children)
        place = {name: at for at, name in enumerate(written)}
        left = {name: len(child.after) for name, child in children.items()}
        followers: dict[str, list[str]] = {name: [] for name in written}
        for name, child in children.items():
            for other in child.after:
                followers[other].append(name)
        free = [place[name] for name in written if not left[name]]
        heapify(free)
        order: list[str] = []
        while free:
            name = written[heappop(free)]
            order.append(name)
            for follower in followers[name]:
                left[follower] -= 1
                if not left[follower]:
                    heappush(free, place[follower])
        if len(order) < len(written):
            raise self._wrong(f"The graph has a cycle: {_cycle(children, set(order))}.")
        return order

    def _check_compensations(self, children: Mapping[str, _Child], order: list[str]) -> None:
        """A compensation may use what has completed for certain when its task has."""
        behind: dict[str, int] = {}
        bits = {name: 1 << at for at, name in enumerate(order)}
        for name in order:
            mask = bits[name]
            for other in children[name].after:
                mask |= behind[other]
            behind[name] = mask
            for other in children[name].compensation_refers:
                if not mask & bits[other]:
                    raise self._told(
                        f"{name}/compensate",
                        f"it refers to {other!r}, on which {name!r} does not depend.",
                    )


def _check_as_submitted(task: Mapping[str, Any], payload: Mapping[str, Any], visit: Visit) -> None:
    """Raises Problem where the task could not be submitted, whatever stands at its references."""
    # `parse_task` reads graphs with this module: imported above, the two would import each other.
    from .tasks import parse_task

    kind = task.get("kind")
    if kind == "code":
        _check_code(payload)
    walked = walk_references(kind, payload, visit)
    if kind == "graph":
        parse_task({**task, "kind": "tool", "payload": _STAND_IN})
        return
    parse_task({**task, "payload": walked})


def _check_code(payload: Mapping[str, Any]) -> None:
    """The parts of a program's payload that are lists and objects of what a reference may be."""
    for field in ("args", "inputs"):
        if payload.get(field) is not None and as_list(payload[field]) is None:
            raise bad(f"'payload.{field}' must be a list.")
    env = payload.get("env")
    if env is not None and (as_object(env) is None or MARK in env):
        raise bad("'payload.env' must be an object of texts.")


def _cycle(children: Mapping[str, _Child], placed: set[str]) -> str:
    """One cycle among the tasks that could not be placed, in the order of running."""
    name = next(name for name in children if name not in placed)
    path: dict[str, None] = {}
    while name not in path:
        path[name] = None
        name = next(other for other in children[name].after if other not in placed)
    backwards = list(path)
    around = backwards[backwards.index(name) :][::-1]
    place = {name: at for at, name in enumerate(children)}
    first = min(range(len(around)), key=lambda at: place[around[at]])
    around = [*around[first:], *around[:first]]
    if len(around) > _CYCLE_SHOWN:
        shown = [*around[: _CYCLE_SHOWN - 1], f"… ({len(around):,} tasks)", around[0]]
    else:
        shown = [*around, around[0]]
    return " → ".join(shown)


def _frozen(name: str, child: _Child) -> GraphTask:
    return GraphTask(
        name,
        child.task,
        tuple(child.after),
        tuple(child.refers),
        child.compensation,
        tuple(child.compensation_refers),
    )
