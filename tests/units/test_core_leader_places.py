"""A leader at work: attempts that come to nothing, shares of a burst, and what a wait is for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kowalski_ledger.state import Attempt, End, Task
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.attempts import retry_wait_s
from kowalski_protocol.codec import decode_body
from kowalski_protocol.events import (
    AttemptLost,
    CancelRequested,
    TaskCompleted,
    TaskDeclined,
    TaskPlaced,
    TaskStarted,
    TaskSubmitted,
)
from kowalski_protocol.feeds import Event
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.tasks import TaskSpec, parse_task
from tests.units.bench import Bench, advert, sign
from tests.units.histories import Writer

ECHO: dict[str, Any] = {"kind": "tool", "payload": {"tool": "echo"}}


def say(bench: Bench, writer: Writer, *events: Event) -> None:
    """A member writes these, and they are on the node's disk."""
    bench.give(ins.FrameReceived(writer.author, sign(writer, events)))
    bench.commit()


def submit(bench: Bench, ticket: int, count: int, task: dict[str, Any] | None = None) -> None:
    keys = [ticket.to_bytes(8, "big") + n.to_bytes(8, "big") for n in range(count)]
    bench.give(ins.Submit(ticket, [parse_task(task or ECHO)] * count, keys))
    bench.commit()


# Attempts that come to nothing.


class Fruitless(Bench):
    """A task that only `device` can run, and every placement of it so far."""

    def __init__(self, losses_max: int = 1000) -> None:
        super().__init__(3, limits=msgspec.structs.replace(LIMITS, losses_max=losses_max))
        self.device = self.others[0]
        say(self, self.device, self.device.write(advert(self.device.name)))
        submit(self, 1, 1, {**ECHO, "requires": {"device": self.device.identity.peer_id}})
        (self.task,) = self.state.tasks.values()

    def placements(self) -> list[TaskPlaced]:
        bodies = [decode_body(event.kind, event.body) for event in self.own]
        return [body for body in bodies if isinstance(body, TaskPlaced)]

    def declines(self) -> None:
        attempt = self.task.attempts[-1]
        body = TaskDeclined(self.task.id, attempt.hash, "not_offered")
        say(self, self.device, self.device.write(body))

    def given_up(self) -> None:
        """Another member, which sees it otherwise, takes the device for lost."""
        other = self.others[1]
        attempt = self.task.attempts[-1]
        say(self, other, other.write(AttemptLost(self.task.id, attempt.hash, "device_lost")))

    def wait_for(self, count: int) -> float:
        """Seconds until there are so many placements."""
        began_s = self.now.mono_s
        while len(self.placements()) < count:
            self.pass_time(self.timers.tick_s)
            assert self.now.mono_s - began_s < 60
        return self.now.mono_s - began_s


@pytest.mark.parametrize("what", ["declines", "given_up"])
def test_attempts_that_come_to_nothing_are_made_more_and_more_rarely(what: str) -> None:
    scene = Fruitless()
    waits: list[float] = []
    for count in range(2, 12):
        getattr(scene, what)()
        waits.append(scene.wait_for(count))
    assert [body.number for body in scene.placements()] == list(range(1, 12))
    assert waits[:2] == [0.0, 0.0], "at first at once: the reason may be gone"
    expected = [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert waits[2:] == pytest.approx(expected, abs=0.3)


def test_two_who_see_different_devices_can_not_fill_the_ledger() -> None:
    scene = Fruitless()
    began = len(scene.own)
    for _ in range(600):
        if scene.task.attempts[-1].is_open:
            scene.given_up()
        scene.pass_time(0.1)
    assert len(scene.own) - began < 20


def test_a_task_whose_only_device_is_lost_again_and_again_is_placed_no_more() -> None:
    scene = Fruitless(losses_max=4)
    for count in range(2, 5):
        scene.given_up()
        scene.wait_for(count)
    scene.given_up()
    scene.pass_time(30.0)
    assert len(scene.placements()) == 4
    assert scene.task.settled is not None
    assert scene.task.settled.outcome == "dead"


def test_that_end_comes_from_losses_and_not_from_declining() -> None:
    scene = Fruitless(losses_max=4)
    for count in range(2, 8):
        scene.declines()
        scene.wait_for(count)
    assert scene.task.settled is None


def tried(
    failures: int,
    *,
    fruitless: int = 0,
    name: int = 1,
    backoff_s: float = 2.0,
    jitter: float = 0.0,
) -> Task:
    """A task of which so many attempts failed and so many others came to nothing."""
    task = Task(TaskId(name.to_bytes(16, "big")))
    task.spec = TaskSpec(
        "tool", "echo", bytes(32), 0, max_attempts=100, backoff_s=backoff_s, jitter=jitter
    )
    for number in range(failures + fruitless):
        hash = EventHash(number.to_bytes(32, "big"))
        attempt = Attempt(hash, number + 1, Author(bytes(32)), hash, Author(bytes(32)), 1, 1)
        kind = "failed" if number < failures else "declined"
        attempt.end = End(kind, hash, 2, 1)
        task.attempts.append(attempt)
    return task


@pytest.mark.parametrize(
    ("failures", "fruitless", "backoff_s", "wait_s"),
    [
        (0, 0, 2.0, 0.0),
        (1, 0, 2.0, 2.0),
        (2, 0, 2.0, 4.0),
        (5, 0, 2.0, 32.0),
        (21, 0, 0.01, 0.01 * 2**20),
        (99, 0, 0.01, 0.01 * 2**20),
        (99, 0, 1.0, 86_400.0),
        (1, 0, 0.0, 0.0),
        (0, 2, 2.0, 0.0),
        (0, 3, 2.0, 0.5),
        (0, 99, 2.0, 10.0),
        (1, 2, 2.0, 2.0),
        (1, 4, 0.1, 1.0),
        (5, 4, 2.0, 32.0),
    ],
)
def test_the_wait_before_the_next_attempt_doubles_up_to_a_bound(
    failures: int, fruitless: int, backoff_s: float, wait_s: float
) -> None:
    task = tried(failures, fruitless=fruitless, backoff_s=backoff_s)
    assert retry_wait_s(task) == pytest.approx(wait_s)


def test_waits_are_spread_and_the_same_for_whoever_leads() -> None:
    waits = [retry_wait_s(tried(3, name=n, jitter=0.5)) for n in range(300)]
    assert min(waits) == pytest.approx(4.0, abs=0.1)
    assert max(waits) == pytest.approx(12.0, abs=0.1)
    assert sum(waits) / len(waits) == pytest.approx(8.0, abs=0.4)
    again = [retry_wait_s(tried(3, name=n, jitter=0.5)) for n in range(300)]
    assert waits == again
    next_ = [retry_wait_s(tried(4, name=n, backoff_s=1.0, jitter=0.5)) for n in range(300)]
    assert waits != next_, "each attempt is spread anew"


# What a place is chosen by.


class Choice(Bench):
    """The leader and one other device, which costs more; either may run a task."""

    def __init__(self) -> None:
        super().__init__(2)
        (self.other,) = self.others
        body = advert(self.other.name, slots=8, costs={"tool": 9.0})
        say(self, self.other, self.other.write(body))
        self.node.peers.peer(self.other.author).round_trip_s = 0.0

    def place(self, ticket: int, kind: str = "tool") -> Writer:
        code = {"kind": "code", "payload": {"language": "python", "code": "1"}}
        before = set(self.state.tasks)
        submit(self, ticket, 1, code if kind == "code" else ECHO)
        (id,) = set(self.state.tasks) - before
        (attempt,) = self.state.tasks[id].attempts
        return self.history.by_author(attempt.device)


FULL = {"memory_used_bytes": 8, "memory_total_bytes": 8}


def test_a_place_is_chosen_by_what_was_measured() -> None:
    choice = Choice()
    choice.node.peers.peer(choice.other.author).round_trip_s = 0.05
    assert choice.place(1) is choice.me
    (task,) = choice.state.tasks.values()
    body = decode_body("TaskPlaced", placed_body(choice, task))
    assert isinstance(body, TaskPlaced)
    # Load 0.4 x 1, latency 0.4 x 1/2 after 50 ms, cost 0.1 x 1/10, specialization 0.1.
    assert dict(body.considered)[choice.other.author[:4]] == pytest.approx(0.71)
    assert dict(body.considered)[choice.me.author[:4]] == pytest.approx(1.0) == body.score


def placed_body(bench: Bench, task: Task) -> bytes:
    return next(event.body for event in bench.own if event.hash == task.attempts[0].hash)


def test_what_is_measured_anew_counts_within_a_second() -> None:
    choice = Choice()
    assert choice.place(1) is choice.me
    choice.give(ins.SampleTaken(FULL))
    choice.pass_time(1.0)
    assert choice.place(2) is choice.other


def test_weights_that_an_admin_chose_count_at_once_and_for_their_kind_alone() -> None:
    choice = Choice()
    choice.give(ins.SampleTaken(FULL))
    assert choice.place(1) is choice.other
    choice.give(ins.SetWeights(9, "tool", {"cost": 1.0}))
    assert choice.place(2) is choice.me
    assert choice.place(3, "code") is choice.other
    choice.give(ins.SetWeights(10, "tool", {"load": 1.0}))
    assert choice.place(4) is choice.other


def test_what_a_device_offers_anew_counts_at_once() -> None:
    choice = Choice()
    choice.give(ins.SampleTaken(FULL))
    assert choice.place(1) is choice.other
    say(choice, choice.other, choice.other.write(advert(choice.other.name, tools=())))
    assert choice.place(2) is choice.me


def test_a_local_task_is_placed_on_the_device_of_its_own_submitter() -> None:
    choice = Choice()
    local = {**ECHO, "device_filter": "local"}
    submit(choice, 1, 1, local)
    spec = parse_task(local).spec_bytes
    body = TaskSubmitted(choice.other.author, b"kone", spec)
    say(choice, choice.other, choice.other.write(body))
    placed = [[attempt.device for attempt in t.attempts] for t in choice.state.tasks.values()]
    assert placed == [[choice.me.author], [choice.other.author]]


# The shares of a burst.


class Burst(Bench):
    """More brief runs wait than two devices may hold: the leader's own and another one."""

    def __init__(self, devices: int = 2) -> None:
        super().__init__(devices)
        for other in self.others:
            say(self, other, other.write(advert(other.name)))
        self.node.attempts.learn("tool/echo", 0.001)
        submit(self, 1, 300)

    def held(self, writer: Writer) -> int:
        """How many attempts a device has."""
        return self.node.attempts.counts.get(writer.author, 0)

    def runs_here(self, count: int) -> None:
        """The own device ends so many."""
        for _ in range(count):
            attempt = next(iter(self.node.device.running))
            ended = ins.AttemptEnded(attempt, True, "", b"r", bytes(32), False, 0, 1000)
            self.give(ended)
            self.commit()

    def runs_there(self, count: int) -> None:
        """The other device ends so many."""
        (other,) = self.others
        held = list(self.node.attempts.by_device[other.author].items())[:count]
        ends = [other.write(TaskCompleted(t, a, bytes(32), 1, 0, 1000)) for a, t in held]
        say(self, other, *ends)


OWN_SHARE, OTHER_SHARE = 2 + 32, 2 + 200
"""Slots, and what 16 ms and 100 ms are good for on two of them, in runs of a millisecond."""


def test_the_leaders_own_device_is_given_less_ahead_than_another() -> None:
    burst = Burst()
    assert burst.held(burst.me) == OWN_SHARE
    assert burst.held(burst.others[0]) == OTHER_SHARE


def test_the_leaders_own_device_is_refilled_only_as_fast_as_the_others_run() -> None:
    burst = Burst()
    burst.runs_here(20)
    assert burst.held(burst.me) == OWN_SHARE - 20, "it is ahead by twenty runs"
    assert len(burst.node.leader.queue) == 300 - OWN_SHARE - OTHER_SHARE
    burst.runs_there(15)
    assert burst.held(burst.me) == OWN_SHARE - 5
    assert burst.held(burst.others[0]) == OTHER_SHARE
    burst.runs_there(10)
    assert burst.held(burst.me) == OWN_SHARE, "who is behind is given no more for it"


def test_a_lead_of_one_burst_is_forgotten_in_the_next() -> None:
    burst = Burst()
    burst.runs_here(20)
    waiting = [task for task in burst.state.open.values() if not task.attempts]
    for task in waiting:
        burst.give(ins.Cancel(task.id))
    burst.commit()
    assert len(burst.node.leader.queue) == 0
    assert burst.held(burst.me) == OWN_SHARE - 20
    submit(burst, 2, 60)
    assert burst.held(burst.me) == OWN_SHARE


def test_work_that_joins_a_burst_does_not_begin_another() -> None:
    burst = Burst()
    burst.runs_here(20)
    submit(burst, 2, 60)
    assert burst.held(burst.me) == OWN_SHARE - 20


def test_a_leader_alone_is_ahead_of_nobody() -> None:
    burst = Burst(devices=1)
    assert burst.held(burst.me) == OWN_SHARE
    burst.runs_here(20)
    assert burst.held(burst.me) == OWN_SHARE


# Devices that are gone.


class Gone(Bench):
    """A task that runs on a device which then is gone; a third device could run it as well."""

    def __init__(self, **options: Any) -> None:
        super().__init__(3)
        for other in self.others:
            say(self, other, other.write(advert(other.name)))
        # The network, so that the leader's own device takes no part.
        submit(self, 1, 1, {**ECHO, "device_filter": "network", **options})
        (self.task,) = self.state.tasks.values()
        (first,) = self.task.attempts
        self.first = self.history.by_author(first.device)
        self.give(ins.PeerDisconnected(self.first.author))

    def placed_on(self) -> list[Writer]:
        return [self.history.by_author(attempt.device) for attempt in self.task.attempts]


def test_what_ran_on_a_device_that_is_gone_is_given_up_and_placed_elsewhere() -> None:
    gone = Gone()
    assert gone.task.attempts[0].lost is None, "it has a grace to come back"
    gone.tick(gone.timers.disconnect_grace_s + 0.01)
    assert gone.kinds().count("AttemptLost") == 1
    (second,) = [other for other in gone.others if other is not gone.first]
    assert gone.placed_on() == [gone.first, second]
    gone.tick(0.05)
    assert gone.kinds().count("AttemptLost") == 1


def test_what_must_not_move_is_given_up_and_placed_no_more() -> None:
    gone = Gone(failover="fail")
    gone.tick(gone.timers.disconnect_grace_s + 0.01)
    assert gone.kinds().count("AttemptLost") == 1
    assert gone.placed_on() == [gone.first]
    assert gone.task.settled is not None
    assert (gone.task.settled.outcome, gone.task.settled.code) == ("failed", "device_lost")


def test_what_another_owns_and_must_not_move_is_placed_no_more_before_its_owner_says_so() -> None:
    bench = Bench(3)
    owner, device = bench.others
    say(bench, device, device.write(advert(device.name)))
    pinned = {"device": device.identity.peer_id}
    spec = parse_task({**ECHO, "failover": "fail", "requires": pinned}).spec_bytes
    say(bench, owner, owner.write(TaskSubmitted(owner.author, b"kone", spec)))
    (task,) = bench.state.tasks.values()
    assert [attempt.device for attempt in task.attempts] == [device.author]
    bench.give(ins.PeerDisconnected(device.author))
    bench.tick(bench.timers.disconnect_grace_s + 0.01)
    bench.give(ins.PeerConnected(device.author, "memory"))
    bench.hear(device)
    bench.pass_time(1.0)
    assert device.author in bench.node.peers.alive
    assert task.settled is None
    assert len(task.attempts) == 1
    assert task.id not in bench.node.leader.queue


# A leader that can't write.


def test_a_leader_that_can_not_write_gives_nothing_up_and_does_so_when_it_can() -> None:
    bench = Bench(3)
    other, third = bench.others
    say(bench, other, other.write(advert(other.name)))
    submit(bench, 1, 3, {**ECHO, "device_filter": "network"})
    placed = [
        task
        for task in bench.state.tasks.values()
        if any(attempt.device == other.author for attempt in task.attempts)
    ]
    assert placed
    bench.give(ins.CommitFailed("disk_full"), ins.PeerDisconnected(other.author))
    for _ in range(10):
        bench.tick(0.05)
    assert other.author not in bench.node.peers.present
    third.write(CancelRequested(bytes(16)))
    bench.give(ins.FrameReceived(None, bench.frame(third)))
    for task in placed:
        bench.state.touch(task)
    bench.tick(0.05)
    assert "AttemptLost" not in bench.kinds()
    bench.give(ins.Committed({}))
    bench.tick(0.05)
    assert bench.kinds().count("AttemptLost") == len(placed)


def test_word_of_what_ran_on_a_lost_device_gives_nothing_up_before_the_leader_can_write() -> None:
    gone = Gone()
    (attempt,) = gone.task.attempts
    gone.give(ins.CommitFailed("disk_full"))
    gone.tick(gone.timers.disconnect_grace_s + 0.01)
    assert gone.first.author not in gone.node.peers.present
    # By gossip: it had begun before it was gone.
    started = gone.first.write(TaskStarted(gone.task.id, attempt.hash, 1))
    gone.give(ins.FrameReceived(None, sign(gone.first, [started])))
    assert attempt.started_hash == started.hash
    assert (attempt.lost, len(gone.task.attempts)) == (None, 1)
    gone.give(ins.Committed({}))
    assert attempt.lost is not None
    (second,) = [other for other in gone.others if other is not gone.first]
    assert gone.placed_on() == [gone.first, second]


def test_a_leader_that_stops_places_nothing_more() -> None:
    bench = Bench(2)
    (other,) = bench.others
    bench.give(ins.Stop())
    spec = parse_task(ECHO).spec_bytes
    say(bench, other, other.write(TaskSubmitted(other.author, b"kone", spec)))
    bench.tick(0.05)
    assert len(bench.state.open) == 1
    assert bench.node.leader.leading
    assert "TaskPlaced" not in bench.kinds()


# What waits says why.


def test_a_task_that_waits_says_for_what() -> None:
    bench = Bench(1)
    submit(bench, 1, 1, {**ECHO, "requires": {"cores": 99}, "failover": "queue"})
    (task,) = bench.state.tasks.values()
    leader = bench.node.leader
    assert leader.waiting_reason(task) == "waits for a device that can run it"
    submit(bench, 2, 40)
    busy = [t for t in bench.state.tasks.values() if not t.attempts and t is not task]
    assert leader.waiting_reason(busy[0]) == "waits for a free place"
    placed = next(t for t in bench.state.tasks.values() if t.attempts)
    assert leader.waiting_reason(placed) is None


def test_a_task_between_two_attempts_says_so() -> None:
    bench = Bench(1)
    submit(bench, 1, 1, {**ECHO, "retry": {"max_attempts": 2, "backoff_s": 9}})
    (start,) = bench.effects(fx.Start)
    ended = ins.AttemptEnded(start.attempt, False, "tool_failed", b"r", bytes(32), False, 0, 0)
    bench.give(ended)
    (task,) = bench.state.tasks.values()
    assert bench.node.leader.waiting_reason(task) == "waits before its next attempt"
