"""The `code` executor: runs a program in a cell and says how it ended.

It is the thin layer between a task's payload and the supervisor: the payload becomes a job and
limits, the ending becomes an outcome. Nothing that a payload or a program does raises past `run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import trio
from msgspec import structs

from kowalski_executors.compiled import Compiled
from kowalski_executors.confinement import Confinement
from kowalski_executors.endings import built_of, outcome_of
from kowalski_executors.language_probe import Remembered, probe_languages
from kowalski_executors.languages import Language, python_job
from kowalski_executors.limits import Limits, limits_for
from kowalski_executors.payloads import Program, read_payload
from kowalski_executors.program_files import Files, open_files, sweep
from kowalski_executors.sandbox_probe import Probed, probe_sandbox, probe_unsandboxed
from kowalski_executors.sessions import Sessions
from kowalski_executors.supervisor import supervise
from kowalski_node.executor import Attempt, Capabilities, Context, Failed, Outcome
from kowalski_protocol.errors import Problem


class CodeExecutor:
    """Runs `code` tasks, in a bubblewrap sandbox unless the owner wants none."""

    name = "code"

    def __init__(
        self,
        *,
        work_root: Path,
        unsandboxed: bool = False,
        warm: bool = True,
        remembered: Path | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        self._work_root = work_root
        self._unsandboxed = unsandboxed
        self._warm = warm
        self._probing = trio.Lock()
        self._probed: Probed | None = None
        self._languages: dict[str, Language] = {}
        """Those besides Python that have run a program here."""
        self._remembered = Remembered(remembered)
        self._has_tried_all = False
        self._compiled = Compiled(work_root / "compiled")
        self._sessions = sessions or Sessions()

    async def probe(self) -> Capabilities:
        """Runs a program, once, and says what it may count on. Returns within 5 s."""
        async with self._probing:
            if self._probed is None:
                await trio.to_thread.run_sync(sweep, self._work_root)
                if self._unsandboxed:
                    probed = await probe_unsandboxed(self._work_root)
                else:
                    probed = await probe_sandbox(self._work_root, warm=self._warm)
                self._probed = self._with(probed, self._remembered.load(probed))
        return self._probed.capabilities

    async def probe_all(self) -> Capabilities:
        """Runs a program of each other language as well, once, which takes some seconds."""
        await self.probe()
        async with self._probing:
            assert self._probed is not None
            if not self._has_tried_all:
                known = [*self._languages.values()]
                languages, problems = await probe_languages(self._probed, known)
                if len(languages) > len(known):
                    self._remembered.save(self._probed, languages)
                self._probed = self._with(self._probed, languages, problems)
                self._has_tried_all = True
        return self._probed.capabilities

    async def serve(self) -> None:
        """Looks after the interpreters of sessions; cancelled, it has ended them all."""
        await self._sessions.serve()

    def _with(
        self, probed: Probed, languages: Sequence[Language], problems: Sequence[str] = ()
    ) -> Probed:
        self._languages = {language.name: language for language in languages}
        versions = {language.name: language.version for language in languages}
        offered = probed.capabilities
        python = {name: v for name, v in offered.languages.items() if name == "python"}
        offered = structs.replace(
            offered, languages=python | versions, problems=(*offered.problems, *problems)
        )
        return replace(probed, capabilities=offered)

    async def run(self, attempt: Attempt, context: Context) -> Outcome:
        """Runs one program to its end; when cancelled, nothing of it runs any more."""
        if self._probed is None:
            await self.probe()
        assert self._probed is not None
        confinement = self._probed.confinement
        if confinement is None:
            problems = self._probed.capabilities.problems
            return Failed("sandbox_unavailable", " ".join(problems))
        try:
            if attempt.session:
                return await self._sessions.run(confinement, self._languages, attempt, context)
            program = read_payload(attempt.payload)
            limits = limits_for(attempt.requires, attempt.timeout_s)
            if not limits.wall_s > 0:
                return Failed("timed_out", "The attempt has no time left.")
            work_root = self._work_root
            async with open_files(program.files, limits, context, work_root) as (files, limits):
                ended = await self._ended(confinement, program, limits, context, files)
                return await files.outcome(ended, context)
        except Problem as problem:
            return Failed(problem.code, problem.sentence)

    async def _ended(
        self,
        confinement: Confinement,
        program: Program,
        limits: Limits,
        context: Context,
        files: Files,
    ) -> Outcome:
        if program.language == "python":
            ending = await supervise(confinement, python_job(program), limits, context, files)
            return outcome_of(ending, limits)
        language = self._languages.get(program.language)
        if language is None:
            known = ", ".join(["python", *self._languages])
            raise Problem(
                "unknown_language",
                f"This device does not run {program.language[:80]!r}; it runs {known}.",
            )
        key = language.key(program)
        compiled = await trio.to_thread.run_sync(self._compiled.get, key) if key else None
        job = language.job(program, limits, compiled)
        ending = await supervise(confinement, job, limits, context, files)
        kept = built_of(ending) if key else None
        if key and kept is not None:
            await trio.to_thread.run_sync(self._compiled.put, key, kept)
        return outcome_of(ending, limits)
