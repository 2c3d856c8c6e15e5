"""When a node claims to lead, and when one that leads begins to place.

The rules of who is next are in `test_core_election.py`; here a whole node follows them, with others
that are heard, silent, slow to connect, or that led before.
"""

from __future__ import annotations

import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.node import ARRIVALS
from kowalski_protocol.codec import decode_body
from kowalski_protocol.events import LeaderClaimed, TaskPlaced, TaskSubmitted
from kowalski_protocol.feeds import Feed, Head
from kowalski_protocol.ids import Author
from kowalski_protocol.limits import LOCAL
from kowalski_protocol.tasks import parse_task, task_id
from kowalski_protocol.topics import TASK
from tests.units.bench import Bench, advert
from tests.units.histories import Writer

HERE = ("/ip4/192.168.1.7/tcp/52421",)
TICK_S = LOCAL.tick_s


def claims(bench: Bench) -> list[LeaderClaimed]:
    own = [*bench.own, *(e for e in bench.out.append if e.author == bench.me.author)]
    bodies = [decode_body(e.kind, e.body) for e in own]
    return [body for body in bodies if isinstance(body, LeaderClaimed)]


def leader_of(bench: Bench) -> Author | None:
    claim = bench.state.leader
    return claim.author if claim else None


# Claiming.


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


def test_a_claim_names_the_one_before_it() -> None:
    bench = Bench(3, me=1)
    first = bench.history.founder.write(LeaderClaimed(1, b""))
    bench.receive(bench.history.founder)
    bench.commit()
    bench.give(ins.PeerDisconnected(bench.history.founder.author))
    bench.pass_time(1.0, heard=False)
    assert claims(bench) == [LeaderClaimed(2, first.hash)]


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
    first = founder.write(LeaderClaimed(1, b""))
    bench.receive(founder)
    bench.commit()
    bench.hear(founder, writes=False)
    bench.hear(third)
    bench.tick(TICK_S)
    assert leader_of(bench) == bench.me.author
    assert claims(bench) == [LeaderClaimed(2, first.hash)]


def test_a_node_that_can_not_write_itself_claims_nothing() -> None:
    bench = Bench(3, me=1)
    bench.give(ins.CommitFailed("disk_full"))
    bench.give(ins.PeerDisconnected(bench.history.founder.author))
    bench.pass_time(2.0, heard=False)
    assert claims(bench) == []


def test_a_stopping_node_claims_nothing_although_it_would_be_its_turn() -> None:
    bench = Bench(3, me=1)
    founder, third = bench.others
    claim = founder.write(LeaderClaimed(1, b"")).hash
    spec = parse_task({"kind": "tool", "payload": {"tool": "echo"}}).spec_bytes
    founder.write(TaskSubmitted(founder.author, b"kone", spec))
    id = task_id(founder.author, b"kone", spec)
    founder.write(TaskPlaced(id, 1, bench.me.author, claim, 0.5))
    bench.receive(founder)
    bench.commit()
    assert bench.effects(fx.Start), "it has something to finish, so it stays for a while"
    bench.give(ins.Stop(), ins.PeerDisconnected(founder.author))
    for _ in range(40):
        bench.hear(third)
        bench.tick(TICK_S)
        bench.commit()
    assert founder.author not in bench.node.peers.alive
    assert third.author in bench.node.peers.alive
    assert claims(bench) == []
    assert bench.effects(fx.Stopped) == []


# Claims that were read before their author is heard, or before the one that they name.


def away_third() -> tuple[Bench, Writer, LeaderClaimed]:
    """A founder that leads, a third member that is away, and the claim that this one would make."""
    bench = Bench(3)
    third = bench.others[1]
    bench.give(ins.PeerDisconnected(third.author))
    bench.pass_time(bench.timers.suspect_s * 3, heard=False)
    (own,) = [e for e in bench.own if e.kind == "LeaderClaimed"]
    return bench, third, LeaderClaimed(2, own.hash)


def test_a_claim_that_is_read_before_its_author_is_heard_is_not_outbid() -> None:
    bench, third, claim = away_third()
    third.write(claim)
    bench.receive(third)
    bench.commit()
    bench.tick(TICK_S)
    assert leader_of(bench) == third.author
    assert len(claims(bench)) == 1, "it may be about to be heard"
    bench.give(ins.PeerConnected(third.author, "memory"))
    for _ in range(30):
        bench.hear(third)
        bench.hear(bench.others[0])
        bench.tick(TICK_S)
        bench.commit()
    assert leader_of(bench) == third.author
    assert len(claims(bench)) == 1


def test_a_claim_of_somebody_who_is_never_heard_is_outbid_after_a_while() -> None:
    bench, third, claim = away_third()
    written = third.write(claim)
    bench.receive(third)
    bench.pass_time(bench.timers.suspect_s - 0.1, heard=False)
    assert len(claims(bench)) == 1
    bench.pass_time(0.3, heard=False)
    assert claims(bench)[-1] == LeaderClaimed(3, written.hash)


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
    out = bench.tick(TICK_S)
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


# Patience: a node that has just started, or that may have been followed.


def started() -> Bench:
    """The founder after a start, at the instant at which it may write; nobody was heard yet."""
    bench = Bench(3, alive=False)
    while not bench.node.open:
        bench.tick(TICK_S)
        bench.commit()
    return bench


def waits_s(bench: Bench) -> float:
    """Seconds until the node claims, while nothing else happens."""
    began_s = bench.now.mono_s
    while not claims(bench):
        bench.tick(TICK_S)
        bench.commit()
        assert bench.now.mono_s - began_s < 60
    return bench.now.mono_s - began_s


def test_a_started_node_gives_the_others_time_to_be_heard() -> None:
    assert waits_s(started()) == pytest.approx(LOCAL.suspect_s, abs=2 * TICK_S)


ARRIVING_S = ARRIVALS * LOCAL.suspect_s


def test_it_waits_longer_for_a_member_whose_connection_is_up_and_who_is_not_heard_yet() -> None:
    bench = started()
    bench.give(ins.PeerConnected(bench.others[0].author, "memory"))
    assert waits_s(bench) == pytest.approx(ARRIVING_S, abs=2 * TICK_S)


def test_who_is_heard_and_does_not_hear_is_still_arriving() -> None:
    bench = started()
    other = bench.others[0]
    bench.give(ins.PeerConnected(other.author, "memory"))
    bench.hear(other, echoes=())
    assert waits_s(bench) == pytest.approx(ARRIVING_S, abs=2 * TICK_S)


def test_who_was_heard_both_ways_has_arrived() -> None:
    bench = started()
    other = bench.others[0]
    bench.give(ins.PeerConnected(other.author, "memory"))
    bench.hear(other)
    assert waits_s(bench) == pytest.approx(LOCAL.suspect_s, abs=2 * TICK_S)


def test_it_waits_while_it_dials_and_no_longer_than_the_dial_takes() -> None:
    bench = started()
    other = bench.others[0].author
    bench.give(ins.AddressesLearned(other, HERE, True))
    for _ in range(round(2.5 / TICK_S)):
        bench.tick(TICK_S)
        bench.commit()
    assert [dial.peer for dial in bench.effects(fx.Dial)] == [other]
    assert claims(bench) == []
    bench.give(ins.DialEnded(other, False))
    assert len(claims(bench)) == 1, "nobody is on the way any more"


def test_a_dial_that_never_ends_is_not_waited_for_for_ever() -> None:
    bench = started()
    bench.give(ins.AddressesLearned(bench.others[0].author, HERE, True))
    assert waits_s(bench) == pytest.approx(ARRIVING_S, abs=2 * TICK_S)


def test_patience_is_never_shortened() -> None:
    bench = started()
    other = bench.others[0].author
    now_s = bench.now.mono_s
    leader = bench.node.leader
    leader.patience_until(now_s + 8.0, arrivals_until_s=now_s + 12.0)
    leader.patience_until(now_s + 2.0)
    leader.patience_until(now_s + 2.0, arrivals_until_s=now_s + 3.0)
    assert waits_s(bench) == pytest.approx(8.0, abs=2 * TICK_S), "nobody is arriving"
    bench = started()
    leader = bench.node.leader
    bench.give(ins.PeerConnected(other, "memory"))
    leader.patience_until(bench.now.mono_s + 8.0, arrivals_until_s=bench.now.mono_s + 12.0)
    leader.patience_until(bench.now.mono_s + 2.0, arrivals_until_s=bench.now.mono_s + 3.0)
    assert waits_s(bench) == pytest.approx(12.0, abs=2 * TICK_S)


def returned() -> Bench:
    """A founder that led before its start, as its own feed, told by another, says."""
    bench = Bench(3, alive=False)
    bench.me.write(LeaderClaimed(1, b""))
    own = bench.frame(bench.me, len(bench.me.feeds[TASK]))
    bench.give(ins.FrameReceived(bench.others[0].author, own))
    bench.commit()
    assert bench.node.leader.leading
    assert not bench.node.open
    for other in bench.others:
        bench.give(ins.PeerConnected(other.author, "memory"))
        bench.give(ins.HeadsReceived(other.author, {}, False))
    assert bench.node.open
    return bench


def test_one_that_led_before_its_start_places_nothing_before_it_hears_all_members() -> None:
    bench = returned()
    assert not bench.node.leader.is_ready
    bench.hear(bench.others[0])
    bench.tick(TICK_S)
    assert not bench.node.leader.is_ready, "one of two"
    bench.hear(bench.others[1])
    bench.tick(TICK_S)
    assert bench.node.leader.is_ready
    assert len(bench.state.claims) == 1, "it leads by the claim that it made before"


def test_one_that_led_before_its_start_waits_for_the_silent_as_long_as_they_may_be_arriving() -> (
    None
):
    bench = returned()
    began_s = bench.now.mono_s
    while not bench.node.leader.is_ready:
        bench.hear(bench.others[0])
        bench.tick(TICK_S)
        bench.commit()
        assert bench.now.mono_s - began_s < 60
    assert bench.now.mono_s - began_s == pytest.approx(ARRIVING_S, abs=2 * TICK_S)


# From the claim to the first placement.


def take_over(bench: Bench) -> None:
    """The founder is gone; time passes until the node has claimed, and the third is heard."""
    third = bench.others[1]
    bench.give(ins.PeerDisconnected(bench.history.founder.author))
    while not claims(bench):
        bench.hear(third)
        bench.tick(TICK_S)


def test_a_new_leader_hears_the_others_before_it_places() -> None:
    bench = Bench(3, me=1)
    bench.history.founder.write(LeaderClaimed(1, b""))
    bench.receive(bench.history.founder)
    bench.commit()
    third = bench.others[1]
    take_over(bench)
    assert not bench.node.leader.is_ready
    asked = [e for e in bench.effects(fx.SendHeads) if e.wants_answer]
    assert [e.peer for e in asked] == [third.author]
    bench.commit()
    bench.give(ins.HeadsReceived(third.author, {}, False))
    bench.tick(0.0)
    assert bench.node.leader.is_ready, "all have told, and nothing is missing"


def test_a_new_leader_that_is_told_of_something_missing_waits_for_it() -> None:
    bench = Bench(3, me=1)
    third = bench.others[1]
    take_over(bench)
    bench.commit()
    third.write(advert(third.name))
    (missing,) = third.feeds[TASK]
    head = Head(1, missing.hash)
    bench.give(ins.HeadsReceived(third.author, {Feed(third.author, TASK): head}, False))
    bench.tick(0.0)
    assert not bench.node.leader.is_ready
    bench.receive(third)
    bench.tick(0.0)
    assert bench.node.leader.is_ready


def test_a_new_leader_waits_for_the_others_no_longer_than_it_must() -> None:
    bench = Bench(3, me=1)
    third = bench.others[1]
    take_over(bench)
    bench.commit()
    waited_s = 0.0
    while not bench.node.leader.is_ready:
        bench.hear(third)
        bench.tick(TICK_S)
        waited_s += TICK_S
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


# Losing the lead, and taking it over.

ECHO = parse_task({"kind": "tool", "payload": {"tool": "echo"}})


def test_a_leader_that_sees_a_greater_claim_places_no_more() -> None:
    bench = Bench(3)
    third = bench.others[1]
    never = parse_task({"kind": "tool", "payload": {"tool": "saw"}, "failover": "queue"})
    bench.give(ins.Submit(1, [never], [bytes(16)]))
    bench.commit()
    assert len(bench.node.leader.queue) == 1
    (own,) = [e for e in bench.own if e.kind == "LeaderClaimed"]
    third.write(LeaderClaimed(2, own.hash))
    bench.receive(third)
    bench.commit()
    assert not bench.node.leader.leading
    assert not bench.node.leader.is_ready
    assert len(bench.node.leader.queue) == 0
    bench.give(ins.Submit(2, [ECHO], [b"2" * 16]))
    bench.pass_time(1.0)
    assert "TaskPlaced" not in bench.kinds()


def test_a_new_leader_takes_over_what_waits_and_what_its_device_was_lost_with() -> None:
    bench = Bench(3, me=1)
    founder, third = bench.others
    claim = founder.write(LeaderClaimed(1, b"")).hash
    for number, key in enumerate((b"kone", b"ktwo")):
        founder.write(TaskSubmitted(third.author, key, ECHO.spec_bytes))
        if number == 0:
            id = task_id(third.author, key, ECHO.spec_bytes)
            founder.write(TaskPlaced(id, 1, founder.author, claim, 0.5))
    bench.receive(founder)
    bench.commit()
    take_over(bench)
    bench.commit()
    assert "TaskPlaced" not in bench.kinds()[bench.kinds().index("LeaderClaimed") :]
    bench.give(ins.HeadsReceived(third.author, {}, False))
    bench.tick(TICK_S)
    placed = [[attempt.device for attempt in task.attempts] for task in bench.state.tasks.values()]
    assert placed == [[founder.author, bench.me.author], [bench.me.author]]
    assert bench.kinds().count("AttemptLost") == 1
