"""Finds out which languages besides Python run here: each by running a program of it.

That takes seconds of a processor, so what was found is remembered in the user's cache folder, for
all nodes there, and counts as long as the commands are the same ones.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from kowalski_executors.endings import outcome_of
from kowalski_executors.languages import Language, with_version
from kowalski_executors.limits import MEBIBYTE, MEMORY_DEFAULT_MB, Limits
from kowalski_executors.payloads import Program
from kowalski_executors.sandbox_probe import NoOutput, Probed
from kowalski_executors.supervisor import supervise
from kowalski_node.executor import Completed
from kowalski_protocol.errors import Problem

_LANGUAGE_S: Final = 20.0
"""How long the first program of a language may take: a compiler's files are read from the disk."""
_LIMITS: Final = Limits(wall_s=_LANGUAGE_S, memory_bytes=MEMORY_DEFAULT_MB * MEBIBYTE)


def cache_file() -> Path | None:
    """Where this user's nodes keep what they found out; None for a user without a home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder / "kowalski" / "languages.json"


class Remembered:
    """Which languages have run here, each with its version."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self, probed: Probed) -> list[Language]:
        """Those of `probed` whose commands are as they were when they ran."""
        kept = self._read()
        return [
            with_version(language, version)
            for language in probed.languages
            for same, version in [kept.get(language.name, ("", ""))]
            if same and version and same == _same(probed, language)
        ]

    def save(self, probed: Probed, languages: Sequence[Language]) -> None:
        """Keeps what was found; without it the next start only takes longer to offer it."""
        if self._path is None:
            return
        kept = self._read() | {one.name: (_same(probed, one), one.version) for one in languages}
        part = self._path.with_name(f"{secrets.token_hex(4)}.part")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(msgspec.json.encode(kept))
            part.replace(self._path)

    def _read(self) -> dict[str, tuple[str, str]]:
        if self._path is None:
            return {}
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, tuple[str, str]])
        except (OSError, msgspec.MsgspecError):
            return {}


def _same(probed: Probed, language: Language) -> str:
    """What stays the same while a language's command and the sandbox do; empty where it is gone."""
    try:
        state = language.command.stat()
    except OSError:
        return ""
    strength = f"{version('kowalski')} {type(probed.confinement).__name__}"
    return f"{strength} {language.command} {state.st_size} {state.st_mtime_ns}"


async def probe_languages(
    probed: Probed, known: Sequence[Language]
) -> tuple[list[Language], list[str]]:
    """The languages that work, with their versions, and sentences about those that don't.

    Those that are `known` to work are not tried again. One after the other: nobody waits for it,
    and the device has other things to do.
    """
    found = [*known]
    problems: list[str] = []
    names = {language.name for language in found}
    untried = [language for language in probed.languages if language.name not in names]
    for language in untried if probed.confinement is not None else ():
        said, why = await _version(probed, language)
        if said:
            found.append(with_version(language, said))
        else:
            problems.append(f"{language.name} is here and does not run programs: {why}")
    return found, problems


async def _version(probed: Probed, language: Language) -> tuple[str, str]:
    assert probed.confinement is not None
    job = language.job(Program(language.hello.encode()), _LIMITS)
    try:
        ending = await supervise(probed.confinement, job, _LIMITS, NoOutput())
    except Problem as problem:
        return "", problem.sentence
    outcome = outcome_of(ending, _LIMITS)
    if isinstance(outcome, Completed):
        return outcome.stdout.strip(), "it printed nothing"
    return "", outcome.sentence
