"""Finds out which languages besides Python run here: each by running a program of it.

That takes seconds, so what was found is remembered in a file, and counts at the next start for the
commands that are still the same ones; then it is found out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

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


class Remembered:
    """The languages that ran here the last time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, probed: Probed) -> list[Language]:
        """Those of `probed` whose commands have not changed since, with their versions."""
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=dict[str, tuple[str, str]])
        except (OSError, msgspec.MsgspecError):
            return []
        return [
            with_version(language, version)
            for language in probed.languages
            for same, version in [kept.get(language.name, ("", ""))]
            if same and same == _same(probed, language)
        ]

    def save(self, probed: Probed, languages: Sequence[Language]) -> None:
        """Keeps what was found; without it the next start only takes longer to offer it."""
        kept = {one.name: (_same(probed, one), one.version) for one in languages}
        part = self._path.with_suffix(".part")
        with suppress(OSError):
            part.write_bytes(msgspec.json.encode(kept))
            part.replace(self._path)


def _same(probed: Probed, language: Language) -> str:
    """What stays the same while a language's command and the sandbox do; empty where it is gone."""
    try:
        state = language.command.stat()
    except OSError:
        return ""
    strength = probed.capabilities.sandbox
    return f"{strength} {language.command} {state.st_size} {state.st_mtime_ns}"


async def probe_languages(probed: Probed) -> tuple[list[Language], list[str]]:
    """The languages that work, with their versions, and sentences about those that don't.

    One after the other: nobody waits for it, and the device has other things to do.
    """
    found: list[Language] = []
    problems: list[str] = []
    for language in probed.languages if probed.confinement is not None else ():
        version, why = await _version(probed, language)
        if version:
            found.append(with_version(language, version))
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
    await trio.lowlevel.checkpoint()
    if isinstance(outcome, Completed):
        return outcome.stdout.strip(), "it printed nothing"
    return "", outcome.sentence
