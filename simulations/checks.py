"""What must hold at every step, and what is known of the world to judge it by.

The checks see each input, commit and effect of every device, and what people were told. They read
the nodes and change nothing. A broken one raises `Broken` at the very step, with the task or feed
whose story tells how it came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kowalski_ledger.state import Task
from kowalski_node.core import effects as fx
from kowalski_node.core.commits import Commit
from kowalski_protocol.feeds import Event, Feed
from kowalski_protocol.ids import Author, ClusterId, EventHash, TaskId
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.topics import RESULT, TASK

if TYPE_CHECKING:
    from .device import Device
    from .world import World

LOOK_EVERY = 16
"""Commits of a device between two looks at its digest, and steps between two at its queues."""
UNHELD_S = 1.0


class Broken(AssertionError):
    """A promise does not hold."""

    def __init__(
        self, check: str, sentence: str, *, task: TaskId | None = None, feed: Feed | None = None
    ) -> None:
        super().__init__(f"{check}: {sentence}")
        self.check = check
        self.sentence = sentence
        self.task = task
        self.feed = feed


class Acknowledged:
    """A task that somebody was told is accepted."""

    __slots__ = ("at_s", "by", "holders", "id", "replicas")

    def __init__(self, id: TaskId, by: Author, replicas: int, at_s: float) -> None:
        self.id = id
        self.by = by
        self.replicas = replicas
        self.at_s = at_s


class Checks:
    """The judge of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.acknowledged: dict[TaskId, Acknowledged] = {}
        self.answers = 0
        self.refused: dict[str, int] = {}
        """Requests that were answered with a problem, by its code."""
        self.charges: dict[str, int] = {}
        self.starts: dict[EventHash, list[str]] = {}
        """Attempt -> the devices that started it, each time."""
        self.forked: set[Author] = set()
        """Honest authors whose disk was set back while nobody could tell them so."""
        self.written_s: dict[EventHash, float] = {}
        """When an event was first on a disk."""
        self._hashes: dict[tuple[ClusterId, Author, str, int], EventHash] = {}
        self._followed: dict[str, list[EventHash]] = {}
        """The claims that a device followed, one after the other."""
        self._learned: dict[tuple[str, EventHash], int] = {}
        """(device, placement) -> which of these it followed when it learned of it."""
        self._settled: dict[TaskId, EventHash] = {}
        self._digests: dict[bytes, str] = {}
        self._holders: dict[tuple[Author, str], dict[str, int]] = {}
        self._commits = 0
        self._steps = 0
        self._seen_leaders: dict[str, EventHash] = {}

    def fail(self, check: str, sentence: str, **about: Any) -> None:
        """The run ends here."""
        raise Broken(check, f"at {self._world.agenda.now_s:.3f} s, {sentence}", **about)

    # What happens.

    def booted(self, device: Device) -> None:
        """A device has started."""

    def went_down(self, device: Device) -> None:
        """A device's process has ended."""

    def stepped(self, device: Device, events: list[Event]) -> None:
        """A device has taken something in, and events with it."""
        self._steps += 1
        leader = device.core.state.leader
        followed = self._followed.setdefault(device.name, [])
        if leader is not None and (not followed or followed[-1] != leader.hash):
            followed.append(leader.hash)
        for event in events:
            if event.kind == "TaskPlaced":
                self._learned[device.name, event.hash] = len(followed) - 1
        if self._steps % LOOK_EVERY == 0:
            self._check_queues(device)
            self._check_clock(device)

    def committed(self, device: Device, commit: Commit) -> None:
        """Events are on a device's disk."""
        self._commits += 1
        hashes, now_s = self._hashes, self._world.agenda.now_s
        for event in commit.events:
            place = (device.cluster, event.author, event.topic, event.seq)
            before = hashes.setdefault(place, event.hash)
            if event.author == device.author:
                self.written_s.setdefault(event.hash, now_s)
            if before != event.hash and not self._may_fork(event.author):
                if event.author in self._world.disks_hurt:
                    # Set back, and nobody could tell it in time how far it had come.
                    self.forked.add(event.author)
                    continue
                self.fail(
                    "one chain an author",
                    f"{device} holds another event than others as {event!r}",
                    feed=Feed(event.author, event.topic),
                )
        if self._commits % LOOK_EVERY == 0:
            self.check_digest(device)

    def carried_out(self, device: Device, effect: fx.Effect) -> None:
        """A device does something that its node wants done."""
        match effect:
            case fx.Acknowledge():
                self._must_hold(device, effect.peer, effect.topic, effect.seq, effect)
            case fx.SendHeads():
                heads = device.store.heads_now
                for feed, head in effect.heads.items():
                    if feed not in heads or heads[feed].seq < head.seq:
                        self._must_hold(device, feed.author, feed.topic, head.seq, effect)
            case fx.SendHeartbeat():
                said = effect.heartbeat
                self._must_hold(device, device.author, TASK, said.task_seq, effect)
                self._must_hold(device, device.author, RESULT, said.result_seq, effect)
                self._check_leader_said(device, said.leader)
            case fx.Start():
                self._started(device, effect)
            case fx.Answer():
                self._answered(device, effect)
            case fx.Settled():
                self._task_settled(device, effect.task)
            case fx.Charge():
                self.charges[effect.reason] = self.charges.get(effect.reason, 0) + 1
                # Who passes a forked feed on holds another branch than who refuses it.
                if effect.peer is not None and not (
                    self.forked or self._world.may_be_charged(effect.peer)
                ):
                    name = self._world.name_of(effect.peer)
                    self.fail("nobody honest is charged", f"{device}: {name}, {effect.reason}")
            case _:
                pass

    # What must hold.

    def _may_fork(self, author: Author) -> bool:
        return author in self.forked or author in self._world.attackers

    def _must_hold(
        self, device: Device, author: Author, topic: str, seq: int, effect: fx.Effect
    ) -> None:
        if seq == 0:
            return
        feed = Feed(author, topic)
        head = device.store.heads_now.get(feed)
        if head is None or head.seq < seq:
            has = head.seq if head else 0
            name = self._world.name_of(author)
            what = type(effect).__name__
            self.fail(
                "effects follow their append",
                f"{device}'s {what} follows from {name}/{topic}/{seq}, its disk holds {has}",
                feed=feed,
            )

    def _check_leader_said(self, device: Device, leader: bytes) -> None:
        if not leader or self._seen_leaders.get(device.name) == leader:
            return
        claim = device.core.state.claims.get(EventHash(leader))
        if claim is None:
            self.fail("effects follow their append", f"{device} follows a claim that it lacks")
            return
        head = device.store.heads_now.get(Feed(claim.author, TASK))
        if head is None or head.seq < claim.seq:
            self.fail("effects follow their append", f"{device} tells a claim before its commit")
        self._seen_leaders[device.name] = EventHash(leader)

    def _started(self, device: Device, order: fx.Start) -> None:
        task = device.core.state.tasks[order.task]
        attempt = task.attempt(order.attempt)
        assert attempt is not None
        self._must_hold(device, attempt.leader, TASK, attempt.placed_seq, order)
        self._must_hold(device, order.submitter, TASK, order.submitted_seq, order)
        if attempt.device != device.author:
            self.fail("a run is where it was placed", f"{device} starts it", task=order.task)
        started = self.starts.setdefault(order.attempt, [])
        if started and device.author not in self._world.disks_hurt:
            self.fail("an attempt starts once", f"{device} starts it again", task=order.task)
        started.append(device.name)
        # A placement counts that the device took while it followed its claim; what it had then is
        # adopted by whoever leads later.
        learned = self._learned.get((device.name, order.attempt), 0)
        if attempt.claim not in self._followed[device.name][max(0, learned) :]:
            self.fail("nothing starts below the fence", f"{device} does", task=order.task)

    def _answered(self, device: Device, answer: fx.Answer) -> None:
        self.answers += 1
        if answer.problem is not None:
            code = answer.problem.code
            self.refused[code] = self.refused.get(code, 0) + 1
            return
        now_s = self._world.agenda.now_s
        ids: list[tuple[TaskId, int]] = answer.value if answer.value is not True else []
        for id, replicas in ids:
            task = device.core.state.tasks[id]
            self._must_hold(device, task.submitter, TASK, task.submitted_seq, answer)
            self.acknowledged.setdefault(id, Acknowledged(id, device.author, replicas, now_s))
        if ids:
            self._check_replicas(device, ids[-1][0], ids[-1][1])

    def _check_replicas(self, device: Device, id: TaskId, replicas: int) -> None:
        task = device.core.state.tasks[id]
        feed = Feed(task.submitter, TASK)
        holders = [
            other.name
            for other in self._world.devices
            if (head := other.store.heads_now.get(feed)) and head.seq >= task.submitted_seq
        ]
        if len(holders) < replicas - len(self._world.disks_hurt):
            self.fail(
                "replicas are true",
                f"{device} says {replicas} and these hold it: {', '.join(holders)}",
                task=id,
            )

    def _task_settled(self, device: Device, id: TaskId) -> None:
        task = device.core.state.tasks[id]
        settled = task.settled
        assert settled is not None
        self._must_hold(device, settled.author, TASK, settled.seq, fx.Settled(id))
        if settled.attempt:
            attempt = task.attempt(settled.attempt)
            if attempt is None or attempt.end is None:
                self.fail("an end has its result", f"{device} shows none", task=id)
            else:
                self._must_hold(device, attempt.device, RESULT, attempt.end.seq, fx.Settled(id))
        self._check_settlement(device, task)

    def _check_settlement(self, device: Device, task: Task) -> None:
        settled = task.settled
        if settled is None or settled.author in self.forked:
            return
        before = self._settled.setdefault(task.id, settled.hash)
        if before != settled.hash:
            self.fail("a task settles once", f"{device} shows another end", task=task.id)
        if settled.author in self._world.attackers:
            self.fail("an owner settles", f"{device} believes an attacker", task=task.id)

    def _check_queues(self, device: Device) -> None:
        node = device.core
        sizes = {
            "held frames": (node.sync.held_size_bytes, LIMITS.held_size_bytes_max),
            "waiting attempts": (
                len(node.device.waiting),
                2 * LIMITS.prefetch_max + node.device.slots,
            ),
            "running attempts": (len(device.running), device.slots),
        }
        for name, (size, bound) in sizes.items():
            if size > bound:
                self.fail("queues have bounds", f"{device} has {size:,} {name} of {bound:,}")

    def _check_clock(self, device: Device) -> None:
        clock = device.core.book.clock
        ahead_ms = (clock.last >> 16) - device.clock.greatest_ms
        bound_ms = self._world.timers.clock_ahead_max_s * 1000.0 + 1000.0
        if ahead_ms > bound_ms and device.author not in self._world.disks_hurt:
            self.fail("no clock runs away", f"{device}'s is {ahead_ms / 1000:.0f} s ahead")

    def check_digest(self, device: Device) -> None:
        """Equal events give equal digests, whatever their order and framing."""
        state, ends = device.core.state, device.core.book.ends
        if any(map(self._may_fork, state.members)):
            return
        held = b"".join(
            feed.author + feed.topic.encode() + end.hash
            for feed, end in sorted(ends.items())
            if end.seq
        )
        digest = state.digest()
        before = self._digests.setdefault(held, digest)
        if before != digest:
            self.fail("same events, same state", f"{device} shows {digest}, others {before}")
