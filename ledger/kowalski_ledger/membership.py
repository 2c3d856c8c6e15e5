"""Who is in: computed from membership events alone, before anything else counts.

Admissions form a tree with the founder at its root, in which an admin's admissions count. Seniority
is (depth in that tree, time, hash), smaller is senior; the most senior admission of a device gives
it its place and name, and one as admin, whosever it is, makes it an admin. So one more admission
never takes anybody out, and what was counted of a member stays counted. The result is a function of
the set of admissions: nodes that hold the same ones agree whatever came first. Removal and changes
of role will join here, and only here: they are read going down the same order.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from kowalski_protocol.ids import Author, EventHash


class Admission(msgspec.Struct, frozen=True):
    """One counted form of `MemberAdmitted`."""

    admitter: Author
    member: Author
    name: str
    role: str
    hlc: int
    hash: EventHash


class Member(msgspec.Struct, frozen=True):
    """A device that is in, with its place in the order of seniority."""

    author: Author
    name: str
    role: str
    depth: int
    hlc: int
    hash: EventHash

    @property
    def seniority(self) -> tuple[int, int, bytes]:
        """Smaller is senior."""
        return (self.depth, self.hlc, self.hash)


def resolve(founder: Member, admissions: Iterable[Admission]) -> dict[Author, Member]:
    """All members, most senior first."""
    by_admitter: defaultdict[Author, list[Admission]] = defaultdict(list)
    for admission in admissions:
        by_admitter[admission.admitter].append(admission)
    admins = _admins(founder.author, by_admitter)
    members: dict[Author, Member] = {}
    waiting = [(founder.seniority, founder.author, founder)]
    while waiting:
        _, author, member = heapq.heappop(waiting)
        if author in members:
            continue
        members[author] = member
        if author not in admins:
            continue
        for a in by_admitter[author]:
            role = "admin" if a.member in admins else a.role
            junior = Member(a.member, a.name, role, member.depth + 1, a.hlc, a.hash)
            heapq.heappush(waiting, (junior.seniority, a.member, junior))
    return members


def _admins(founder: Author, by_admitter: Mapping[Author, list[Admission]]) -> set[Author]:
    """Whom a chain of admissions as admin leads to from the founder."""
    admins = {founder}
    unread = [founder]
    while unread:
        for admission in by_admitter.get(unread.pop(), ()):
            if admission.role == "admin" and admission.member not in admins:
                admins.add(admission.member)
                unread.append(admission.member)
    return admins
