"""Who leads: seniority, `home` first, who must not, and that a living leader keeps its place.

These are pure functions of the state and of who is alive. When a node really claims and begins to
place is in `test_core_leader_claims.py`.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_ledger.state import State
from kowalski_node.core.election import is_home, may_lead, next_leader, should_claim
from kowalski_protocol import events as e
from tests.units.bench import advert
from tests.units.histories import History, Writer, folded


class Home(History):
    """Four devices, most senior first: a (the founder), b, c, d."""

    def __init__(self) -> None:
        super().__init__(4)
        self.admit_all()
        self.a, self.b, self.c, self.d = self.devices

    def label(self, device: Writer, **labels: str) -> None:
        self.write(device, advert(labels=labels))

    def claim(self, device: Writer, epoch: int = 1, previous: bytes = b"") -> bytes:
        return self.write(device, e.LeaderClaimed(epoch, previous)).hash

    def state(self) -> State:
        return folded(self, self.written)

    def next(self, *alive: Writer) -> Writer | None:
        author = next_leader(self.state(), [device.author for device in alive])
        return None if author is None else self.by_author(author)

    def claimants(self, *alive: Writer) -> list[Writer]:
        """Who of these claims now, if these are all that each of them sees alive and writing."""
        state, seen = self.state(), frozenset(device.author for device in alive)
        return [device for device in alive if should_claim(state, device.author, seen)]


@pytest.fixture
def home() -> Home:
    return Home()


# Who is next.


def test_the_most_senior_who_is_alive_is_next(home: Home) -> None:
    assert home.next(*home.devices) is home.a
    assert home.next(home.d, home.c) is home.c
    assert home.next(home.d) is home.d
    assert home.next() is None


def test_a_home_device_comes_before_its_seniors(home: Home) -> None:
    home.label(home.c, home="yes")
    assert is_home(home.state(), home.c.author)
    assert not is_home(home.state(), home.d.author)
    assert home.next(*home.devices) is home.c
    assert home.next(home.a, home.b, home.d) is home.a


def test_of_two_home_devices_the_senior_is_next(home: Home) -> None:
    home.label(home.d, home="")
    home.label(home.b, home="yes")
    assert home.next(*home.devices) is home.b


def test_who_is_labelled_never_does_not_lead_not_even_at_home(home: Home) -> None:
    home.label(home.a, leader="never")
    home.label(home.b, leader="never", home="yes")
    assert not may_lead(home.state(), home.a.author)
    assert home.next(*home.devices) is home.c
    assert home.next(home.a, home.b) is None
    assert home.claimants(home.a, home.b) == []


def test_another_leader_label_forbids_nothing(home: Home) -> None:
    home.label(home.a, leader="rather not")
    assert home.next(*home.devices) is home.a


def test_a_stranger_does_not_lead(home: Home) -> None:
    stranger = Writer("stranger")
    assert not may_lead(home.state(), stranger.author)
    assert not is_home(home.state(), stranger.author)
    assert home.next(stranger) is None
    assert home.next(stranger, home.d) is home.d


# Who claims.


def test_one_of_all_claims_where_nobody_leads(home: Home) -> None:
    assert home.claimants(*home.devices) == [home.a]


def test_a_leader_that_is_alive_keeps_its_place_whoever_returns(home: Home) -> None:
    home.label(home.b, home="yes")
    home.claim(home.c)
    assert home.claimants(*home.devices) == []


def test_a_leader_that_is_gone_is_followed_by_the_next_senior(home: Home) -> None:
    home.claim(home.a)
    assert home.claimants(home.b, home.c, home.d) == [home.b]


def test_a_leader_that_is_labelled_never_meanwhile_is_replaced(home: Home) -> None:
    home.claim(home.a)
    home.label(home.a, leader="never")
    assert home.claimants(*home.devices) == [home.b]


def test_the_old_leader_claims_nothing_back_from_the_greater_claim(home: Home) -> None:
    first = home.claim(home.a)
    home.claim(home.d, 2, first)
    assert home.claimants(*home.devices) == []
    assert home.claimants(home.a, home.b, home.c) == [home.a]


@given(
    st.sets(st.integers(0, 3)),
    st.sets(st.integers(0, 3)),
    st.sets(st.integers(0, 3)),
    st.none() | st.integers(0, 3),
)
def test_who_see_the_same_alive_let_one_claim_at_most(
    alive: set[int], never: set[int], at_home: set[int], leads: int | None
) -> None:
    home = Home()
    for number, device in enumerate(home.devices):
        labels = {"leader": "never"} if number in never else {}
        home.label(device, **labels, **({"home": "yes"} if number in at_home else {}))
    if leads is not None:
        home.claim(home.devices[leads])
    claimants = home.claimants(*(home.devices[number] for number in sorted(alive)))
    eligible = alive - never
    if not eligible or leads in eligible:
        assert claimants == []
    else:
        assert claimants == [home.devices[min(eligible & at_home or eligible)]]
