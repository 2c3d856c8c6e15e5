"""What the payload of a `code` task says of files: those it starts with and those it brings back.

    inputs: [{"path": "data/big.csv", "blob": HEX, "size_bytes": N}]
    outputs: ["*.csv", "plots/**/*.png"]

A path leads from the program's work folder downwards and never anywhere else, on whatever device it
is read: the one that runs the program, and the one on which a person saves what came back. So one
rule serves inputs, patterns and the names of files that programs left. Pure: what is in the files
is nobody's business here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from .errors import Problem
from .limits import LIMITS

INPUTS_MAX: Final = 1_000
"""Files that a program starts with: each is a mount of its own in a sandbox. More belong in an
archive, which is one file."""
OUTPUTS_MAX: Final = 32
"""Patterns of a task: each is compared with each file that the program left."""
OUTPUT_FILES_MAX: Final = 1_000
"""Files that a program brings back: a name each in the task's result. More belong in an archive."""
PATH_SIZE_BYTES_MAX: Final = 1_024
"""A path, in UTF-8: a quarter of what systems take, so that it can be saved below any folder."""
PART_SIZE_BYTES_MAX: Final = 255
"""A part of a path, in UTF-8: what file systems take."""
PARTS_MAX: Final = 64
"""Folders below each other: comparing a path with a pattern takes the product of both."""
PROGRAM_FOLDER: Final = "program"
"""The folder of the program's own file, where it runs without a sandbox."""
_SHOWN_LENGTH: Final = 80
_HASH_LENGTH: Final = 64
_HEX: Final = frozenset("0123456789abcdef")
_INPUT_FIELDS: Final = frozenset({"path", "blob", "size_bytes"})
_CONTROL: Final = frozenset(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))


class InputFile(NamedTuple):
    """A file that a program starts with."""

    path: str
    """Where it lies in the work folder, with `/` between its parts."""
    blob: str
    """Hex SHA-256 of what is in it."""
    size_bytes: int


class TaskFiles(NamedTuple):
    """What a payload says of files."""

    inputs: tuple[InputFile, ...] = ()
    outputs: tuple[str, ...] = ()
    """Patterns of what is brought back."""


NO_FILES: Final = TaskFiles()


def check_files(payload: Mapping[str, Any]) -> None:
    """The payload of a `code` task says of files what can be done; raises as `read_files`."""
    read_files(payload)


def read_files(payload: Mapping[str, Any]) -> TaskFiles:
    """What the payload of a `code` task says of files, checked.

    Raises Problem: `spec_too_large` where there are too many, `bad_request` for everything else.
    """
    given_inputs = _listed(payload.get("inputs"), "inputs", INPUTS_MAX)
    given_outputs = _listed(payload.get("outputs"), "outputs", OUTPUTS_MAX)
    inputs = tuple(_input(one, f"inputs[{at}]") for at, one in enumerate(given_inputs))
    _check_places([one.path for one in inputs])
    outputs = tuple(_pattern(one, f"outputs[{at}]") for at, one in enumerate(given_outputs))
    return TaskFiles(inputs, outputs)


def path_flaw(path: str) -> str | None:
    """What is wrong with a path below a work folder, as the end of a sentence; None: nothing."""
    if not path:
        return "is empty"
    try:
        size_bytes = len(path.encode())
    except UnicodeEncodeError:
        return "holds what is not Unicode"
    if size_bytes > PATH_SIZE_BYTES_MAX:
        return f"is longer than {PATH_SIZE_BYTES_MAX:,} bytes"
    if "\\" in path or not _CONTROL.isdisjoint(path):
        return "holds a backslash or a control character"
    if path.startswith("/"):
        return "begins at the root, and not in the work folder"
    if path.count("/") >= PARTS_MAX:
        return f"has more than {PARTS_MAX} parts"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return f"has {part!r} for one of its parts" if part else "has an empty part"
        if len(part.encode()) > PART_SIZE_BYTES_MAX:
            return f"has a part that is longer than {PART_SIZE_BYTES_MAX} bytes"
    return None


def clash(paths: Sequence[str]) -> tuple[str, str] | None:
    """Two of the paths that can't both be files, being the same or one the other's folder."""
    files: set[str] = set()
    for path in paths:
        if path in files:
            return path, path
        files.add(path)
    for path in paths:
        folder = path
        while "/" in folder:
            folder = folder.rpartition("/")[0]
            if folder in files:
                return folder, path
    return None


def shown_path(path: str) -> str:
    """A path as a sentence can hold it: quoted, on one line, within bounds."""
    cut = path if len(path) <= _SHOWN_LENGTH else path[: _SHOWN_LENGTH - 1] + "…"
    return ascii(cut) if not cut.isprintable() else repr(cut)


def _bad(sentence: str) -> Problem:
    return Problem("bad_request", sentence)


def _listed(given: object, name: str, count_max: int) -> Sequence[object]:
    if given is None:
        return ()
    if not isinstance(given, list | tuple):
        raise _bad(f"'payload.{name}' must be a list.")
    listed = cast("Sequence[object]", given)
    if len(listed) > count_max:
        raise Problem("spec_too_large", f"'payload.{name}' has more than {count_max:,} entries.")
    return listed


def _input(given: object, name: str) -> InputFile:
    if not isinstance(given, Mapping):
        raise _bad(f"'payload.{name}' must be an object of path, blob and size_bytes.")
    entry = cast("Mapping[object, object]", given)
    unknown = sorted(str(key) for key in entry if key not in _INPUT_FIELDS)
    if unknown:
        raise _bad(f"'payload.{name}' has no field {shown_path(unknown[0])}.")
    path, blob, size_bytes = entry.get("path"), entry.get("blob"), entry.get("size_bytes")
    if not isinstance(path, str):
        raise _bad(f"'payload.{name}.path' must be a text.")
    flaw = path_flaw(path)
    if flaw is None and path.partition("/")[0] == PROGRAM_FOLDER:
        flaw = f"lies in {PROGRAM_FOLDER}/, the program's own folder"
    if flaw is not None:
        raise _bad(f"'payload.{name}.path' {flaw}: {shown_path(path)}.")
    if not isinstance(blob, str) or len(blob) != _HASH_LENGTH or not _HEX.issuperset(blob):
        raise _bad(
            f"'payload.{name}.blob' must be the {_HASH_LENGTH} lower-case hexadecimal digits of a"
            " SHA-256."
        )
    if isinstance(size_bytes, bool) or not isinstance(size_bytes, int) or size_bytes < 0:
        raise _bad(f"'payload.{name}.size_bytes' must be a whole number of bytes.")
    if size_bytes > LIMITS.blob_size_bytes_max:
        raise _bad(
            f"'payload.{name}.size_bytes' is more than a blob may have,"
            f" {LIMITS.blob_size_bytes_max:,}."
        )
    return InputFile(path, blob, size_bytes)


def _check_places(paths: Sequence[str]) -> None:
    found = clash(paths)
    if found is None:
        return
    one, other = found
    if one == other:
        raise _bad(f"'payload.inputs' has {shown_path(one)} twice.")
    raise _bad(
        f"'payload.inputs' has {shown_path(one)} as a file and, for {shown_path(other)}, as a"
        " folder."
    )


def _pattern(given: object, name: str) -> str:
    if not isinstance(given, str):
        raise _bad(f"'payload.{name}' must be a text.")
    flaw = path_flaw(given)
    if flaw is None and any("**" in part and part != "**" for part in given.split("/")):
        flaw = "has ** beside other characters, which stands alone between slashes"
    if flaw is not None:
        raise _bad(f"'payload.{name}' {flaw}: {shown_path(given)}.")
    return given
