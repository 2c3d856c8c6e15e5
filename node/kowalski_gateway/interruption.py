"""Runs something that owns processes and folders so that nothing is left however it ends.

Ctrl-C, SIGTERM (somebody ends the program) and SIGHUP (its terminal is closed) cancel the function,
whose contexts then clean up; a second signal does not interrupt them. A folder for the run is made
and removed here, because it must outlive all that writes into it.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import trio

T = TypeVar("T")
_REMOVALS = 50
_REMOVAL_PAUSE_S = 0.02
"""A process that was killed an instant ago may still be writing."""


class Interrupted(Exception):
    """A signal ended the run; everything has been cleaned up."""


def run_interruptibly(function: Callable[[], Awaitable[T]]) -> T:
    """Runs an async function on trio to its end; raises `Interrupted` where a signal came first.

    Of several errors the first is raised, as it was.
    """
    results: list[T] = []
    try:
        trio.run(_run, function, results)
    except BaseExceptionGroup as group:
        raise first_of(group) from group
    if not results:
        raise Interrupted
    return results[0]


async def _run(function: Callable[[], Awaitable[T]], results: list[T]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def cancel_on_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_on_signal)
            results.append(await function())
            nursery.cancel_scope.cancel()


@contextmanager
def temporary_folder(prefix: str, *, keep: bool = False) -> Iterator[Path]:
    """A new folder, which is removed afterwards unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        if not keep:
            remove(folder)


def remove(folder: Path) -> None:
    """Removes a folder into which the last processes may still be writing."""
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_REMOVAL_PAUSE_S)


def first_of(error: BaseException) -> BaseException:
    """The first error in a group of groups: nurseries wrap what a person should see."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
