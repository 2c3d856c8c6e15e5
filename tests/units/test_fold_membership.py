"""Who is in: the rules of membership, one by one.

Devices are named by letters; the founder is `a`. What members do is left out here: see the other
tests of the fold.
"""

from __future__ import annotations

from itertools import permutations

import pytest

from kowalski_ledger.fold import cluster_id
from kowalski_ledger.membership import Admission, Member, resolve
from kowalski_protocol import events as e
from kowalski_protocol.codec import encode
from kowalski_protocol.ids import Author, EventHash
from kowalski_protocol.topics import RESULT, TASK
from tests.units.histories import History, Writer, folded, interleave, shown

FOUNDER = Member(Author(b"a"), "a", "admin", 0, 5, EventHash(b"0"))


def admitted(*rows: tuple[str, str, str, int]) -> list[Admission]:
    """(admitter, member, role, time) as admissions."""
    return [
        Admission(
            Author(by.encode()),
            Author(who.encode()),
            f"{who} by {by}",
            role,
            hlc,
            EventHash(f"{by}{who}{hlc}".encode()),
        )
        for by, who, role, hlc in rows
    ]


def members(*rows: tuple[str, str, str, int]) -> dict[str, tuple[str, int]]:
    """Name -> (role, depth), most senior first; the same for every order of the admissions."""
    outcomes = [resolve(FOUNDER, order) for order in permutations(admitted(*rows))]
    assert all(list(outcome.items()) == list(outcomes[0].items()) for outcome in outcomes)
    return {a.decode(): (m.role, m.depth) for a, m in outcomes[0].items()}


def test_a_cluster_begins_with_its_founder_alone() -> None:
    assert members() == {"a": ("admin", 0)}


def test_whom_an_admin_admits_is_in() -> None:
    assert members(("a", "b", "member", 9)) == {"a": ("admin", 0), "b": ("member", 1)}


def test_whom_a_member_admits_is_not_in() -> None:
    assert list(members(("a", "b", "member", 9), ("b", "c", "member", 10))) == ["a", "b"]


def test_whom_a_stranger_admits_is_not_in() -> None:
    assert list(members(("x", "b", "admin", 9), ("b", "x", "admin", 9))) == ["a"]


def test_admins_admit_admins_who_admit() -> None:
    found = members(("a", "b", "admin", 9), ("b", "c", "admin", 10), ("c", "d", "member", 11))
    assert found == {"a": ("admin", 0), "b": ("admin", 1), "c": ("admin", 2), "d": ("member", 3)}


def test_seniority_is_depth_then_time_then_hash() -> None:
    rows = [
        ("a", "late", "admin", 30),
        ("a", "early", "member", 20),
        ("late", "deep", "member", 6),
        ("a", "tied", "member", 20),
    ]
    assert list(members(*rows)) == ["a", "early", "tied", "late", "deep"]


def test_of_two_admissions_the_senior_one_gives_place_and_name() -> None:
    rows = admitted(("a", "b", "admin", 9), ("b", "c", "member", 10), ("a", "c", "member", 99))
    found = resolve(FOUNDER, rows)
    assert (found[Author(b"c")].name, found[Author(b"c")].depth) == ("c by a", 1)


def test_of_two_admissions_the_one_as_admin_gives_the_role() -> None:
    rows = [("a", "b", "admin", 9), ("a", "c", "member", 10), ("b", "c", "admin", 99)]
    assert members(*rows)["c"] == ("admin", 1)


def test_a_second_admission_takes_nobody_out() -> None:
    before = [("a", "b", "admin", 9), ("b", "c", "admin", 11), ("c", "d", "member", 12)]
    after = [*before, ("a", "c", "member", 10)]
    assert list(members(*before)) == ["a", "b", "c", "d"]
    assert sorted(members(*after)) == ["a", "b", "c", "d"]


def test_the_founder_stays_the_founder_whoever_admits_it() -> None:
    rows = [("a", "b", "admin", 1), ("b", "a", "member", 0)]
    assert members(*rows) == {"a": ("admin", 0), "b": ("admin", 1)}


def test_two_who_admit_each_other_as_admins_are_no_admins_by_that() -> None:
    rows = [("a", "b", "member", 9), ("b", "c", "admin", 10), ("c", "b", "admin", 11)]
    assert members(*rows) == {"a": ("admin", 0), "b": ("member", 1)}


# In the fold.


def test_a_founding_of_another_cluster_founds_nothing() -> None:
    history = History(2)
    other = e.ClusterFounded("other", history.founder.author, "x", b"other nonce")
    assert cluster_id(encode(other)) != history.cluster
    stranger = Writer("a stranger")
    stranger.cluster = history.cluster
    own = e.ClusterFounded("own", stranger.author, "x", b"nonce")
    state = folded(history, [stranger.write(own)])
    assert state.founder is None
    assert state.members == {}


def test_only_the_first_event_of_the_founder_founds() -> None:
    history = History(1)
    state = folded(history, [*history.written, history.write(history.founder, history.founded)])
    assert state.founder is not None
    assert state.founder.hash == history.written[0].hash


def test_a_copy_of_the_founding_makes_nobody_a_founder() -> None:
    history = History(2)
    thief = history.devices[1]
    state = folded(history, [history.write(thief, history.founded), history.written[0]])
    assert list(state.members) == [history.founder.author]


def test_a_founding_on_the_wrong_topic_founds_nothing() -> None:
    history = History(1)
    again = Writer(history.founder.name)
    again.cluster = history.cluster
    state = folded(history, [again.raw(RESULT, "ClusterFounded", encode(history.founded))])
    assert state.founder is None


def test_nothing_counts_before_the_founding_is_known_and_all_of_it_afterwards() -> None:
    history = History(3)
    history.admit_all("admin")
    history.write(history.devices[1], e.LeaderClaimed(1, b""))
    late = [event for event in history.written if event.author != history.founder.author]
    early = [event for event in history.written if event.author == history.founder.author]
    state = folded(history, late)
    assert (state.leader, state.counted) == (None, 0)
    assert shown(folded(history, [*late, *early])) == shown(folded(history, [*early, *late]))


@pytest.mark.parametrize("role", ["observer", "worker", "", "Admin", "root"])
def test_a_role_that_is_not_built_admits_nobody(role: str) -> None:
    history = History(2)
    history.admit(history.founder, history.devices[1], role)
    assert list(folded(history, history.written).members) == [history.founder.author]


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), bytes(32), b"\x01" + bytes(31)])
def test_a_key_under_which_anything_verifies_is_never_admitted(key: bytes) -> None:
    history = History(1)
    history.write(history.founder, e.MemberAdmitted(key, "x", "admin"))
    assert list(folded(history, history.written).members) == [history.founder.author]


def test_an_admission_that_does_not_decode_admits_nobody_and_holds_up_nothing() -> None:
    history = History(3)
    history.raw(history.founder, TASK, "MemberAdmitted", b"\x91\xc4")
    history.raw(history.founder, RESULT, "MemberAdmitted", encode(history.founded))
    history.admit(history.founder, history.devices[2])
    state = folded(history, history.written)
    assert list(state.members) == [history.founder.author, history.devices[2].author]
    assert [finding.what for finding in state.findings] == [
        "MemberAdmitted does not decode",
        "MemberAdmitted on the wrong topic",
    ]


def test_what_a_member_wrote_counts_although_a_senior_admission_came_later() -> None:
    # b admitted c as an admin, c admitted d, and d worked; then it turns out that the founder had
    # admitted c as a plain member before. In the other order d's work must count just the same.
    history = History(4)
    a, b, c, d = history.devices
    history.admit(a, b, "admin")
    history.admit(b, c, "admin")
    history.admit(c, d)
    history.write(d, e.LeaderClaimed(1, b""))
    history.submit(d)
    history.admit(a, c, "member")
    ways = [folded(history, interleave(history.feeds, seed)) for seed in range(40)]
    assert len({state.digest() for state in ways}) == 1
    assert {len(state.tasks) for state in ways} == {1}


def test_one_more_admission_alone_can_change_who_leads_its_epoch() -> None:
    history = History(4)
    a, x, b, c = history.devices
    history.admit(a, x, "admin")
    history.admit(x, b, "admin")
    history.admit(b, c)
    claims = [history.write(device, e.LeaderClaimed(1, b"")) for device in (b, c)]
    before = folded(history, history.written)
    assert before.leader is not None
    assert before.leader.hash == claims[0].hash
    history.admit(a, c)
    for seed in range(20):
        state = folded(history, interleave(history.feeds, seed))
        assert state.leader is not None
        assert state.leader.hash == claims[1].hash


def test_members_version_rises_when_and_only_when_members_change() -> None:
    history = History(2)
    history.admit(history.founder, history.devices[1])
    version = folded(history, history.written).members_version
    assert version == 2
    again = history.admit(history.founder, history.devices[1])
    state = folded(history, history.written)
    assert state.members_version == version
    assert again.hash in state.admissions
