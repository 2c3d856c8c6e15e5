"""What a `code` task's payload may say, and the program that it describes.

    {language: str, code: str, stdin?: str, args?: [str], env?: {str: str},
     inputs?: [{path: str, blob: str, size_bytes: int}], outputs?: [str]}

Everything here comes from whoever submitted the task, so everything is checked, and a wrong payload
is told which part of it is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from kowalski_executors.limits import (
    ARGUMENTS_BYTES_MAX,
    ARGUMENTS_MAX,
    CODE_BYTES_MAX,
    STDIN_BYTES_MAX,
    VARIABLES_MAX,
)
from kowalski_protocol.errors import Problem
from kowalski_protocol.task_files import NO_FILES, TaskFiles, read_files
from kowalski_protocol.tasks import LANGUAGE_ALIASES

_FIELDS: Final = frozenset({"language", "code", "stdin", "args", "env", "inputs", "outputs"})


@dataclass(frozen=True, slots=True)
class Program:
    """A program to run: its source, standard input, arguments and environment in UTF-8."""

    code: bytes
    stdin: bytes = b""
    arguments: tuple[bytes, ...] = ()
    language: str = "python"
    environment: tuple[bytes, ...] = ()
    """`NAME=VALUE` each."""
    files: TaskFiles = NO_FILES
    """What it starts with, and what is brought back of what it leaves."""


def read_payload(payload: Mapping[str, Any]) -> Program:
    """Returns the program that a payload describes.

    Raises Problem: `spec_too_large` where a part is over its limit, `bad_request` for everything
    else.
    """
    unknown = sorted(str(name) for name in payload if name not in _FIELDS)
    if unknown:
        raise Problem("bad_request", f"A code payload has no field {unknown[0][:80]!r}.")
    language = payload.get("language")
    if not isinstance(language, str):
        raise Problem("bad_request", 'A code payload needs a language, such as "python".')
    language = LANGUAGE_ALIASES.get(language, language)
    given: object = payload.get("args")
    if given is not None and not isinstance(given, list | tuple):
        raise Problem("bad_request", "args must be a list of strings.")
    arguments = cast("Sequence[object]", given or ())
    if len(arguments) > ARGUMENTS_MAX:
        raise Problem("spec_too_large", f"args are more than {ARGUMENTS_MAX}.")
    encoded = tuple(_text("args", item, ARGUMENTS_BYTES_MAX) for item in arguments)
    if sum(map(len, encoded)) > ARGUMENTS_BYTES_MAX:
        raise Problem("spec_too_large", f"args are longer than {ARGUMENTS_BYTES_MAX} bytes.")
    stdin = payload.get("stdin")
    return Program(
        code=_text("code", payload.get("code"), CODE_BYTES_MAX),
        stdin=b"" if stdin is None else _text("stdin", stdin, STDIN_BYTES_MAX),
        arguments=encoded,
        language=language,
        environment=_environment(payload.get("env")),
        files=read_files(payload),
    )


def _environment(given: object) -> tuple[bytes, ...]:
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise Problem("bad_request", "env must be an object of texts.")
    variables = cast("Mapping[object, object]", given)
    if len(variables) > VARIABLES_MAX:
        raise Problem("spec_too_large", f"env has more than {VARIABLES_MAX} variables.")
    encoded: list[bytes] = []
    for name, value in variables.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise Problem("bad_request", f"env has no variable {str(name)[:80]!r}.")
        entry = _text(f"env.{name[:80]}", value, ARGUMENTS_BYTES_MAX)
        if b"\0" in entry:
            raise Problem("bad_request", f"env.{name[:80]} holds a zero byte.")
        encoded.append(_text("env", name, ARGUMENTS_BYTES_MAX) + b"=" + entry)
    if sum(map(len, encoded)) > ARGUMENTS_BYTES_MAX:
        raise Problem("spec_too_large", f"env is longer than {ARGUMENTS_BYTES_MAX} bytes.")
    return tuple(encoded)


def _text(name: str, value: object, bytes_max: int) -> bytes:
    if not isinstance(value, str):
        raise Problem("bad_request", f"{name} must be text.")
    try:
        data = value.encode()
    except UnicodeEncodeError:
        raise Problem("bad_request", f"{name} holds half of a surrogate pair.") from None
    if len(data) > bytes_max:
        raise Problem("spec_too_large", f"{name} is longer than {bytes_max} bytes.")
    return data
