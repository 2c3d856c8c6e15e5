"""Who leads: the greatest claim, and when to make one.

A leader only places tasks, so an election needs no votes: claims are events, ordered by (epoch,
seniority), and everybody follows the greatest that it holds. One claims when the leader is not
alive and nobody senior to oneself who may lead is. Two sides of a partition may each have a leader;
attempts are named and settlement has one writer, so that is safe, and after the heal the greater
claim leads alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from kowalski_ledger.state import State
from kowalski_protocol.ids import Author


def may_lead(state: State, author: Author) -> bool:
    """Whether a member is allowed to lead and wants to."""
    member = state.members.get(author)
    if member is None or member.role not in ("admin", "member"):
        return False
    advert = state.adverts.get(author)
    return advert is None or advert.body.labels.get("leader") != "never"


def is_home(state: State, author: Author) -> bool:
    """Whether the device is labelled `home`: always on, so preferred as leader and owner."""
    advert = state.adverts.get(author)
    return advert is not None and "home" in advert.body.labels


def next_leader(state: State, alive: Iterable[Author]) -> Author | None:
    """Who should claim if the leader is gone: a `home` device first, then by seniority."""
    alive = frozenset(alive)
    best: Author | None = None
    for author in state.members:  # Most senior first.
        if author not in alive or not may_lead(state, author):
            continue
        if is_home(state, author):
            return author
        best = best or author
    return best


def should_claim(state: State, self_: Author, alive: frozenset[Author]) -> bool:
    """Whether this node claims now. A leader that is alive keeps its place, whoever returns."""
    leader = state.leader
    if leader is not None and leader.author in alive and may_lead(state, leader.author):
        return False
    return next_leader(state, alive) == self_
