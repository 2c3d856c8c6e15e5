"""Where a task of a graph stands for a part of another task's outcome, and how it is put there.

    {"$from": "make"}                                    its value
    {"$from": "make", "path": ["value", "rows", 0]}      a part of it; also stdout, stderr, files
    {"path": "in.csv", "$from": "make", "file": "out.csv"}   in a program's inputs: a file it left

A reference may stand wherever a payload holds data, and nowhere where it says what is to run: what
runs is what the submitter wrote. One walk knows these places, and what is done at each is handed to
it; so what is found when a graph is read and what is put in when it runs can't differ. In a `code`
payload the places take texts, so there what is no text becomes its JSON text, with sorted keys: the
same outcome makes the same task on whatever device the graph goes on.

In a graph inside of a graph a name means the inner task of that name, else the outer one. Data that
itself holds "$from" would be taken for a reference in there, so it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from .errors import Problem
from .limits import LIMITS
from .task_files import shown_path

MARK: Final = "$from"
ROOTS: Final = ("value", "stdout", "stderr", "files")
COMPLETED: Final = "completed"
_FILES_SHOWN: Final = 5
_PLACES: Final = {
    "code": "stdin, args, env and inputs",
    "tool": "args",
    "graph": "the payloads of its tasks",
}
"""Where a payload of each kind may hold references; other kinds: anywhere."""


class StepFile(NamedTuple):
    """A file that a step left, as a blob."""

    path: str
    blob: str
    """Hex SHA-256."""
    size_bytes: int


class StepOutcome(NamedTuple):
    """How a step of a graph ended: a task or a compensation."""

    outcome: str
    """As of a settled task: completed, failed, cancelled, timed_out, dead, ..."""
    task: str = ""
    """The task's id, in hex; empty where it could not be submitted."""
    value: Any = None
    stdout: str = ""
    stderr: str = ""
    code: str = ""
    sentence: str = ""
    files: Sequence[StepFile] = ()

    @property
    def is_completed(self) -> bool:
        """Whether it ended well."""
        return self.outcome == COMPLETED


class Reference(NamedTuple):
    """A part of a task's outcome."""

    name: str
    path: tuple[str | int, ...] = ("value",)


class FileReference(NamedTuple):
    """A file that a task left, as another's input."""

    name: str
    place: str
    """Where it lies for the program that takes it."""
    file: str


Visit = Callable[[Reference | FileReference, str], Any]
"""What is done at a reference, given where it stands; returns what stands there afterwards."""


def bad(sentence: str) -> Problem:
    """What a graph says wrong."""
    return Problem("bad_request", sentence)


def as_object(value: object) -> Mapping[str, Any] | None:
    """The value where it is an object, else None. Its keys may be anything."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else None


def as_list(value: object) -> Sequence[Any] | None:
    """The value where it is a list, else None."""
    return cast("Sequence[Any]", value) if isinstance(value, list | tuple) else None


def walk_references(kind: object, payload: Mapping[str, Any], visit: Visit) -> dict[str, Any]:
    """The payload with what `visit` returns in the place of each reference.

    Raises Problem `bad_request` where a reference is malformed or stands where none may.
    """
    return _Walk(visit).payload(kind, payload, "payload", None)


def resolve(task: Mapping[str, Any], outcomes: Mapping[str, StepOutcome]) -> dict[str, Any]:
    """The task with the parts of outcomes that it refers to, ready to be submitted.

    Raises Problem `bad_request` where a reference leads nowhere, naming where it ends.
    """

    def visit(reference: Reference | FileReference, where: str) -> Any:
        outcome = outcomes.get(reference.name)
        if outcome is None or not outcome.is_completed:
            raise bad(f"'{where}' refers to {reference.name!r}, which has not completed.")
        if isinstance(reference, FileReference):
            return _file_of(outcome, reference, where)
        return _part_of(outcome, reference, where)

    try:
        payload = walk_references(task.get("kind"), task["payload"], visit)
    except RecursionError:
        raise bad("'payload' refers to data that is nested too deep.") from None
    return {**task, "payload": payload}


def _file_of(outcome: StepOutcome, wanted: FileReference, where: str) -> dict[str, Any]:
    for file in outcome.files:
        if file.path == wanted.file:
            return {"path": wanted.place, "blob": file.blob, "size_bytes": file.size_bytes}
    left = [shown_path(file.path) for file in outcome.files[:_FILES_SHOWN]]
    more = "" if len(outcome.files) <= _FILES_SHOWN else f" and {len(outcome.files) - len(left):,}"
    raise bad(
        f"'{where}' takes the file {shown_path(wanted.file)} of {wanted.name!r}, which left"
        f" {', '.join(left) or 'no files'}{more and more + ' more'}."
    )


def _part_of(outcome: StepOutcome, reference: Reference, where: str) -> Any:
    root = reference.path[0]
    found: Any = getattr(outcome, str(root)) if root in ROOTS else None
    if root == "files":
        found = [file._asdict() for file in outcome.files]
    so_far = str(root)
    for part in reference.path[1:]:
        found = _entry(found, part, so_far, f"'{where}' refers to {reference.name!r}")
        so_far = _below(so_far, part)
    return found


def _entry(found: Any, part: str | int, so_far: str, who: str) -> Any:
    listed, named = as_list(found), as_object(found)
    if isinstance(part, int) and listed is not None:
        if part < len(listed):
            return listed[part]
        raise bad(f"{who}, whose {so_far} has {len(listed):,} entries and none at {part:,}.")
    if isinstance(part, str) and named is not None:
        if part in named:
            return named[part]
        raise bad(f"{who}, whose {so_far} has no {shown_path(part)}.")
    wanted = "a list" if isinstance(part, int) else "an object"
    raise bad(f"{who}, whose {so_far} is {_sort_of(found)} and not {wanted}.")


def _sort_of(value: Any) -> str:
    if value is None:
        return "null"
    if as_list(value) is not None:
        return "a list"
    if as_object(value) is not None:
        return "an object"
    return "a text" if isinstance(value, str) else "a number"


def _below(where: str, part: object) -> str:
    """Where a part of a value stands, in one line and within bounds."""
    if isinstance(part, int):
        return f"{where}[{part}]"
    name = str(part)
    return f"{where}.{name}" if name.isidentifier() and len(name) <= 64 else _quoted(where, name)


def _quoted(where: str, name: str) -> str:
    return f"{where}[{shown_path(name)}]"


def is_reference(value: object) -> bool:
    """Whether the value claims to be a reference, well-formed or not."""
    return isinstance(value, Mapping) and MARK in value


def _holds_mark(value: object) -> bool:
    named, listed = as_object(value), as_list(value)
    if named is not None:
        return MARK in named or any(map(_holds_mark, named.values()))
    return listed is not None and any(map(_holds_mark, listed))


def _as_text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(
            value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=True
        )
    except (TypeError, ValueError, OverflowError):
        raise bad(f"'{where}' holds what JSON can't say.") from None


def _name_in(given: Mapping[str, Any], where: str) -> str:
    name = given[MARK]
    if not isinstance(name, str):
        raise bad(f"'{where}' must have the name of a task in '{MARK}'.")
    return name


def _only(given: Mapping[str, Any], fields: tuple[str, ...], where: str) -> None:
    unknown = [str(key) for key in given if key not in fields]
    if unknown:
        raise bad(
            f"'{where}' is a reference, which has no field {shown_path(unknown[0])}; it has"
            f" {', '.join(fields)}."
        )


def _reference(given: Mapping[str, Any], where: str) -> Reference:
    _only(given, (MARK, "path"), where)
    name = _name_in(given, where)
    if given.get("path") is None:
        return Reference(name)
    path = as_list(given["path"])
    if not path or path[0] not in ROOTS:
        raise bad(f"'{where}.path' must be a list that begins with one of {', '.join(ROOTS)}.")
    if len(path) > LIMITS.nesting_max:
        raise bad(f"'{where}.path' has more than {LIMITS.nesting_max} entries.")
    for part in path:
        if isinstance(part, bool) or not isinstance(part, str | int):
            raise bad(f"'{where}.path' must be a list of names and whole numbers.")
        if isinstance(part, int) and part < 0:
            raise bad(f"'{where}.path' has a negative number, and lists are counted from 0.")
    return Reference(name, tuple(path))


def _file_reference(given: Mapping[str, Any], where: str) -> FileReference:
    _only(given, ("path", MARK, "file"), where)
    name, place, file = _name_in(given, where), given.get("path"), given.get("file")
    if not isinstance(place, str) or not isinstance(file, str):
        raise bad(f"'{where}' must have texts in path, where the file lies, and file, its name.")
    return FileReference(name, place, file)


class _Walk:
    """One way through a payload. `inner`: the names that belong to a graph inside of it, on the
    way through one; None outside of any."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit

    def payload(
        self, kind: object, payload: Mapping[str, Any], where: str, inner: frozenset[str] | None
    ) -> dict[str, Any]:
        return {
            field: self._field(kind, field, value, _below(where, field), inner)
            for field, value in payload.items()
        }

    def _field(
        self, kind: object, field: str, value: Any, where: str, inner: frozenset[str] | None
    ) -> Any:
        if kind == "code":
            return self._of_code(field, value, where, inner)
        if kind == "graph" and field == "tasks" and not is_reference(value):
            return self._of_graph(value, where, inner)
        if kind == "graph" or (kind == "tool" and field != "args"):
            return self._without(kind, value, where)
        return self._value(value, where, inner)

    def _without(self, kind: object, value: Any, where: str) -> Any:
        if _holds_mark(value):
            raise bad(
                f"'{where}' can't hold a reference: a {kind} payload may in {_PLACES[str(kind)]}."
            )
        return value

    def _of_code(self, field: str, value: Any, where: str, inner: frozenset[str] | None) -> Any:
        listed, named = as_list(value), as_object(value)
        if field == "stdin" and value is not None:
            return self._text(value, where, inner)
        if field == "args" and listed is not None:
            return [self._text(one, f"{where}[{at}]", inner) for at, one in enumerate(listed)]
        if field == "env" and named is not None and not is_reference(value):
            return {
                name: self._text(one, _below(where, name), inner) for name, one in named.items()
            }
        if field == "inputs" and listed is not None:
            return [self._input(one, f"{where}[{at}]", inner) for at, one in enumerate(listed)]
        return self._without("code", value, where)

    def _of_graph(self, tasks: Any, where: str, inner: frozenset[str] | None) -> Any:
        named = as_object(tasks)
        if named is None:
            return tasks
        names = (inner or frozenset()) | frozenset(named)
        return {
            name: self._child(child, _below(where, name), names) for name, child in named.items()
        }

    def _child(self, child: Any, where: str, inner: frozenset[str]) -> Any:
        fields = as_object(child)
        if fields is None:
            return child
        walked = dict(fields)
        payload = as_object(fields.get("payload"))
        if payload is not None:
            walked["payload"] = self.payload(fields.get("kind"), payload, f"{where}.payload", inner)
        if "compensate" in fields:
            walked["compensate"] = self._child(fields["compensate"], f"{where}.compensate", inner)
        return walked

    def _input(self, entry: Any, where: str, inner: frozenset[str] | None) -> Any:
        given = as_object(entry)
        if given is None or MARK not in given:
            return self._without("code", entry, where)
        reference = _file_reference(given, where)
        if inner is not None and reference.name in inner:
            return entry
        return self._visit(reference, where)

    def _text(self, value: Any, where: str, inner: frozenset[str] | None) -> Any:
        """What stands where a text must. In a graph inside, what is not all outer data is left to
        that graph's own walk."""
        given = as_object(value)
        if given is not None and MARK in given:
            reference = _reference(given, where)
            if inner is not None and reference.name in inner:
                return value
            return _as_text(self._visit(reference, where), where)
        walked = self._value(value, where, inner)
        return _as_text(walked, where) if inner is None else walked

    def _value(self, value: Any, where: str, inner: frozenset[str] | None) -> Any:
        named, listed = as_object(value), as_list(value)
        if named is not None and MARK in named:
            reference = _reference(named, where)
            if inner is not None and reference.name in inner:
                return value
            put = self._visit(reference, where)
            if inner is not None and _holds_mark(put):
                raise bad(
                    f"'{where}' would put data with the name '{MARK}' into a graph, which would"
                    " take it for a reference."
                )
            return put
        if named is not None:
            return {
                name: self._value(one, _below(where, name), inner) for name, one in named.items()
            }
        if listed is not None:
            return [self._value(one, f"{where}[{at}]", inner) for at, one in enumerate(listed)]
        return value
