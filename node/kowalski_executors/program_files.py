"""The files of one attempt, from what its payload says of them to what its result does.

Around a run: the inputs are brought here before it and count against its time, and a folder of the
node's own receives what the program leaves. Programs without files pass all of this by.
"""

from __future__ import annotations

import marshal
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import trio
from msgspec import structs

from kowalski_executors.bootstrap import compiled
from kowalski_executors.input_files import Input, fetch_inputs
from kowalski_executors.languages import Job
from kowalski_executors.limits import Limits
from kowalski_executors.output_files import OutputFiles
from kowalski_node.executor import Completed, Context, Failed, Outcome
from kowalski_protocol.errors import Problem
from kowalski_protocol.task_files import NO_FILES as ASKED_NOTHING
from kowalski_protocol.task_files import TaskFiles

FOLDER_PREFIX: Final = "files-"
"""How the folders are called in which files arrive, so that those which a killed node left can be
found."""


@dataclass(frozen=True, slots=True)
class Files:
    """What a run has to do with files."""

    inputs: Sequence[Input] = ()
    outputs: OutputFiles | None = None

    def job(self, job: Job) -> Job:
        """The same job, with somebody beside the program who sends its files."""
        if self.outputs is None:
            return job
        self.outputs.built_bytes_max = job.kept_bytes_max
        environment, *parts = job.parts
        more = (environment, _collector(), self.outputs.request, *parts)
        return replace(job, mode=b"collect+" + job.mode, parts=more)

    async def outcome(self, outcome: Outcome, context: Context) -> Outcome:
        """The outcome, with the files that the program left where it ended well."""
        if self.outputs is None or not isinstance(outcome, Completed):
            return outcome
        try:
            return structs.replace(outcome, files=tuple(await self.outputs.store(context)))
        except Problem as problem:
            return Failed(problem.code, problem.sentence, outcome.stdout, outcome.stderr)


NO_FILES: Final = Files()


@asynccontextmanager
async def open_files(
    asked: TaskFiles, limits: Limits, context: Context, work_root: Path
) -> AsyncIterator[tuple[Files, Limits]]:
    """The files of a run, and what is left of its limits. Raises Problem as `fetch_inputs`."""
    if asked == ASKED_NOTHING:
        yield NO_FILES, limits
        return
    began = trio.current_time()
    inputs = await fetch_inputs(asked.inputs, context)
    left = replace(limits, wall_s=max(0.0, limits.wall_s - (trio.current_time() - began)))
    if not asked.outputs:
        yield Files(inputs), left
        return
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=work_root))
    outputs = OutputFiles(asked.outputs, folder, limits.work_folder_bytes, limits.value_bytes)
    try:
        yield Files(inputs, outputs), left
    finally:
        outputs.close()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(shutil.rmtree, folder, True)


def sweep(work_root: Path) -> None:
    """Removes what runs of a node that was killed left behind."""
    with suppress(OSError):
        for folder in work_root.glob(FOLDER_PREFIX + "*"):
            shutil.rmtree(folder, ignore_errors=True)


@cache
def _collector() -> bytes:
    """The collector's code, for the interpreter in the cell."""
    return marshal.dumps(compiled("collector"))
