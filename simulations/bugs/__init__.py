"""Planted bugs: whether the checks would notice, if somebody made this mistake.

A simulator that finds nothing shows nothing, unless it is known what it would find. Here are small
mistakes, each in the place where it would really be made, and each is looked for by running world
after world until one of them breaks a promise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from ..checks import Broken
from ..world import World
from .commits import COMMITS
from .leading import LEADING
from .ledger import LEDGER
from .planting import Bug, Change, CoreHasChanged
from .syncing import SYNCING
from .working import WORKING

BUGS: Final[dict[str, Bug]] = {
    bug.name: bug for bug in (*COMMITS, *LEDGER, *SYNCING, *LEADING, *WORKING)
}


class UnknownBug(LookupError):
    """There is no planted bug of this name."""


class Caught(NamedTuple):
    """A world in which a bug was noticed."""

    seed: int
    tried: int
    """How many worlds it took, this one included."""
    check: str
    """The check that broke, or the exception that the core raised."""
    sentence: str


def bug_named(name: str) -> Bug:
    """The planted bug of this name."""
    if name not in BUGS:
        raise UnknownBug(f"There is no planted bug '{name}'; there are {', '.join(BUGS)}.")
    return BUGS[name]


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Within the block the core has this bug; None: it has none of ours."""
    if name is None:
        yield
        return
    with bug_named(name).apply():
        yield


def caught(name: str, seeds: Iterable[int], minutes: float | None = None) -> Caught | None:
    """Runs world after world with a bug in the core, until one is noticed; None if none was.

    How long each lasts is the bug's own choice unless `minutes` says it.
    """
    bug = bug_named(name)
    options = bug.where if minutes is None else bug.where.with_(minutes=minutes)
    for tried, seed in enumerate(seeds, 1):
        try:
            with bug.apply():
                World(options.with_(seed=seed, bug=name)).run()
        except Broken as broken:
            return Caught(seed, tried, broken.check, broken.sentence)
        except CoreHasChanged:
            raise
        except Exception as error:  # guard: a bug may make the core raise anything
            return Caught(seed, tried, type(error).__name__, str(error))
    return None


def looked_for(
    name: str, seeds: Iterable[int], minutes: float | None = None
) -> tuple[str, Caught | None]:
    """The bug's name and what `caught` says of it, for those who look for several at once."""
    return name, caught(name, seeds, minutes)


__all__ = [
    "BUGS",
    "Bug",
    "Caught",
    "Change",
    "CoreHasChanged",
    "UnknownBug",
    "bug_named",
    "caught",
    "looked_for",
    "planted",
]
