"""Who leads: seniority, `home`, who must not, and when a node claims and begins to place."""

from __future__ import annotations

import msgspec
import pytest

from kowalski_ledger.state import State
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.election import is_home, may_lead, next_leader, should_claim
from kowalski_protocol.codec import decode_body
from kowalski_protocol.events import LeaderClaimed
from kowalski_protocol.ids import Author
from kowalski_protocol.topics import TASK
from tests.units.bench import Bench, advert
from tests.units.histories import History, Writer, folded


def cluster(**labels: dict[str, str]) -> tuple[History, State]:
    """Devices a, b and c, most senior first, with these labels."""
    history = History(3)
    history.admit_all()
    for name, device in zip("abc", history.devices, strict=True):
        if name in labels:
            history.write(device, advert(name, labels=labels[name]))
    return history, folded(history, history.written)


def chosen(history: History, state: State, alive: str) -> str | None:
    there = [history.devices["abc".index(name)].author for name in alive]
    author = next_leader(state, there)
    if author is None:
        return None
    return "abc"[[d.author for d in history.devices].index(author)]


@pytest.mark.parametrize(
    ("alive", "leader"), [("abc", "a"), ("bc", "b"), ("c", "c"), ("cb", "b"), ("", None)]
)
def test_the_most_senior_that_is_there_is_next(alive: str, leader: str | None) -> None:
    assert chosen(*cluster(), alive) == leader


@pytest.mark.parametrize(("alive", "leader"), [("abc", "c"), ("ab", "a"), ("bc", "c")])
def test_a_home_device_is_next_before_its_seniors(alive: str, leader: str) -> None:
    assert chosen(*cluster(c={"home": "yes"}), alive) == leader


def test_of_two_home_devices_the_senior_is_next() -> None:
    assert chosen(*cluster(b={"home": ""}, c={"home": ""}), "abc") == "b"


@pytest.mark.parametrize(("alive", "leader"), [("abc", "b"), ("a", None), ("ac", "c")])
def test_who_must_not_lead_is_never_next(alive: str, leader: str | None) -> None:
    assert chosen(*cluster(a={"leader": "never"}), alive) == leader


def test_who_must_not_lead_does_not_although_it_is_at_home() -> None:
    assert chosen(*cluster(a={"leader": "never", "home": "yes"}), "abc") == "b"


def test_strangers_do_not_lead() -> None:
    history, state = cluster()
    stranger = Writer("a stranger").author
    assert not may_lead(state, stranger)
    assert not is_home(state, stranger)
    assert next_leader(state, [stranger, history.devices[2].author]) == history.devices[2].author


def test_one_claims_when_the_leader_is_gone_and_no_senior_is_there() -> None:
    history = History(3)
    history.admit_all()
    a, b, c = (device.author for device in history.devices)
    state = folded(history, history.written)
    everybody = frozenset((a, b, c))
    assert [should_claim(state, who, everybody) for who in (a, b, c)] == [True, False, False]
    history.write(history.devices[2], LeaderClaimed(1, b""))
    state = folded(history, history.written)
    assert not any(should_claim(state, who, everybody) for who in (a, b, c)), "c leads, and stays"
    without = frozenset((a, b))
    assert [should_claim(state, who, without) for who in (a, b)] == [True, False]


def test_a_leader_that_no_longer_may_is_followed_by_another() -> None:
    history = History(2)
    history.admit_all()
    a, b = history.devices
    history.write(a, LeaderClaimed(1, b""))
    history.write(a, advert("a", labels={"leader": "never"}))
    state = folded(history, history.written)
    both = frozenset((a.author, b.author))
    assert not should_claim(state, a.author, both)
    assert should_claim(state, b.author, both)


# In a node.


def claims(bench: Bench) -> list[LeaderClaimed]:
    own = [*bench.own, *(e for e in bench.out.append if e.author == bench.me.author)]
    bodies = [decode_body(e.kind, e.body) for e in own]
    return [body for body in bodies if isinstance(body, LeaderClaimed)]


def leader_of(bench: Bench) -> Author | None:
    claim = bench.state.leader
    return claim.author if claim else None


def test_a_node_alone_leads_at_once() -> None:
    bench = Bench(1)
    assert claims(bench) == [LeaderClaimed(1, b"")]
    assert bench.node.leader.leading
    assert bench.node.leader.is_ready


def test_the_founder_leads_when_it_hears_the_others_and_a_junior_does_not() -> None:
    founder = Bench(3)
    assert claims(founder) == [LeaderClaimed(1, b"")]
    junior = Bench(3, me=1)
    assert claims(junior) == []
    assert not junior.node.leader.leading


def test_a_started_node_gives_the_others_time_to_be_heard() -> None:
    bench = Bench(3, alive=False)
    bench.pass_time(1.5, heard=False)
    assert bench.node.open
    assert claims(bench) == []
    bench.pass_time(bench.timers.suspect_s, heard=False)
    assert len(claims(bench)) == 1


def test_a_claim_names_the_one_before_it() -> None:
    bench = Bench(3, me=1)
    first = bench.history.founder.write(LeaderClaimed(1, b""))
    bench.receive(bench.history.founder)
    bench.commit()
    bench.give(ins.PeerDisconnected(bench.history.founder.author))
    bench.pass_time(1.0, heard=False)
    assert claims(bench) == [LeaderClaimed(2, first.hash)]


def test_a_claim_that_is_read_before_its_author_is_heard_is_not_outbid() -> None:
    bench = Bench(3)
    third = bench.others[1]
    bench.give(ins.PeerDisconnected(third.author))
    bench.pass_time(bench.timers.suspect_s * 3, heard=False)
    (own,) = [e for e in bench.own if e.kind == "LeaderClaimed"]
    third.write(LeaderClaimed(2, own.hash))
    bench.receive(third)
    bench.commit()
    bench.tick(0.05)
    assert leader_of(bench) == third.author
    assert len(claims(bench)) == 1, "it may be about to be heard"
    bench.give(ins.PeerConnected(third.author, "memory"))
    for _ in range(30):
        bench.hear(third)
        bench.hear(bench.others[0])
        bench.tick(0.05)
        bench.commit()
    assert leader_of(bench) == third.author
    assert len(claims(bench)) == 1


def test_a_claim_of_somebody_who_is_never_heard_is_outbid_after_a_while() -> None:
    bench = Bench(3)
    third = bench.others[1]
    bench.give(ins.PeerDisconnected(third.author))
    bench.pass_time(bench.timers.suspect_s * 3, heard=False)
    (own,) = [e for e in bench.own if e.kind == "LeaderClaimed"]
    claim = third.write(LeaderClaimed(2, own.hash))
    bench.receive(third)
    bench.pass_time(bench.timers.suspect_s + 0.2, heard=False)
    assert claims(bench)[-1] == LeaderClaimed(3, claim.hash)


def test_a_claim_after_one_that_is_missing_makes_the_node_ask_for_it() -> None:
    bench = Bench(3, me=1)
    third = bench.others[1]
    lost = bench.history.founder.write(LeaderClaimed(1, b""))
    third.write(LeaderClaimed(2, lost.hash))
    bench.done.clear()
    out = bench.receive(third)
    asked = [e for e in out.at_once if isinstance(e, fx.SendHeads)]
    assert [(e.peer, e.wants_answer) for e in asked] == [(third.author, True)]
    assert leader_of(bench) is None
    out = bench.tick(0.05)
    assert not [e for e in out.at_once if isinstance(e, fx.SendHeads)], "once is enough"
    bench.receive(bench.history.founder)
    assert leader_of(bench) == third.author


def test_a_missing_claim_is_not_asked_for_where_nobody_is_connected() -> None:
    bench = Bench(3, me=1)
    third = bench.others[1]
    bench.give(ins.PeerDisconnected(third.author))
    third.write(LeaderClaimed(2, bytes(32)))
    out = bench.give(ins.FrameReceived(None, bench.frame(third)))
    assert not [e for e in out.at_once if isinstance(e, fx.SendHeads)]


def test_a_new_leader_hears_the_others_before_it_places() -> None:
    bench = Bench(3, me=1)
    bench.history.founder.write(LeaderClaimed(1, b""))
    bench.receive(bench.history.founder)
    bench.commit()
    third = bench.others[1]
    bench.give(ins.PeerDisconnected(bench.history.founder.author))
    while not claims(bench):
        bench.hear(third)
        bench.tick(0.05)
    assert not bench.node.leader.is_ready
    asked = [e for e in bench.effects(fx.SendHeads) if e.wants_answer]
    assert [e.peer for e in asked] == [third.author]
    bench.commit()
    bench.give(ins.HeadsReceived(third.author, {}, False))
    bench.tick(0.0)
    assert bench.node.leader.is_ready, "all have told, and nothing is missing"


def test_a_new_leader_waits_for_the_others_no_longer_than_it_must() -> None:
    bench = Bench(3, me=1)
    third = bench.others[1]
    bench.give(ins.PeerDisconnected(bench.history.founder.author))
    while not claims(bench):
        bench.hear(third)
        bench.tick(0.05)
    bench.commit()
    waited_s = 0.0
    while not bench.node.leader.is_ready:
        bench.hear(third)
        bench.tick(0.05)
        waited_s += 0.05
        assert waited_s <= bench.timers.takeover_wait_s + 0.06


def test_a_node_that_slept_long_hears_the_others_before_it_goes_on_placing() -> None:
    bench = Bench(3)
    assert bench.node.leader.is_ready
    bench.tick(5.0)
    assert not bench.node.leader.is_ready
    bench.pass_time(1.0)
    assert bench.node.leader.is_ready
    follower = Bench(3, me=1)
    follower.tick(5.0)
    assert not follower.node.leader.leading


def test_a_leader_that_stops_claims_and_places_no_more() -> None:
    bench = Bench(1)
    bench.give(ins.Stop())
    assert bench.node.leader.leading
    before = len(claims(bench))
    bench.pass_time(1.0)
    assert len(claims(bench)) == before


def test_a_device_that_changes_its_mind_about_leading_is_followed_by_another() -> None:
    bench = Bench(3, me=1)
    founder = bench.history.founder
    founder.write(LeaderClaimed(1, b""))
    bench.receive(founder)
    founder.write(advert("a", labels={"leader": "never"}))
    bench.give(ins.FrameReceived(None, bench.frame(founder, len(founder.feeds[TASK]))))
    bench.pass_time(0.5)
    assert leader_of(bench) == bench.me.author


def test_a_leader_that_can_not_write_any_more_is_followed_by_another() -> None:
    bench = Bench(3, me=1)
    founder, third = bench.others
    founder.write(LeaderClaimed(1, b""))
    bench.receive(founder)
    bench.commit()
    bench.hear(founder, writes=False)
    bench.hear(third)
    bench.tick(0.05)
    assert leader_of(bench) == bench.me.author
    assert msgspec.structs.asdict(claims(bench)[0])["epoch"] == 2
