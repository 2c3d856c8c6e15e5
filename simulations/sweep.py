"""Many worlds on all cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def spread(
    function: Callable[[T], R], items: Iterable[T], processes: int | None = None
) -> Generator[R, None, None]:
    """The function's results, each as soon as it is there; on all cores unless it is said.

    The function and its items travel to other processes. Who stops listening ends these.
    """
    count = processes or os.cpu_count() or 1
    if count == 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(count, maxtasksperchild=200) as pool:
        yield from pool.imap_unordered(function, items, chunksize=1)
