"""What must hold at every step, and what is known of the world to judge it by.

The checks see each input, commit and effect of every device, and what people were told. They read
the nodes and change nothing. A broken one raises `Broken` at the very step, with the task or feed
whose story tells how it came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kowalski_ledger.state import Claim, Task
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.commits import Commit
from kowalski_node.core.leader import WAITING_MAX
from kowalski_protocol.feeds import Event, Feed
from kowalski_protocol.ids import Author, ClusterId, EventHash, TaskId
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.topics import RESULT, TASK

from .conduct import Conduct

if TYPE_CHECKING:
    from .device import Device
    from .world import World

LOOK_EVERY = 16
"""Commits of a device between two looks at its digest, and steps between two at its queues."""
ALIVE_SLACK_S = 2.0
"""Until the next tick of a device, and the look that it takes then."""


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

    __slots__ = ("at_s", "by", "id", "replicas")

    def __init__(self, id: TaskId, by: Author, replicas: int, at_s: float) -> None:
        self.id = id
        self.by = by
        self.replicas = replicas
        self.at_s = at_s


class Made(NamedTuple):
    """A frame of one event that is as it should be, whatever its sender is up to."""

    feed: Feed
    seq: int
    previous: EventHash
    hash: EventHash


class Checks:
    """The judge of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.conduct = Conduct(world, self.fail)
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
        self._follows: dict[str, Claim] = {}
        self._followed: dict[str, list[EventHash]] = {}
        """The claims that a device followed, one after the other."""
        self._learned: dict[tuple[str, EventHash], int] = {}
        """(device, placement) -> which of these it followed when it learned of it."""
        self._settled: dict[TaskId, EventHash] = {}
        self._digests: dict[bytes, str] = {}
        self._held: dict[str, tuple[int, dict[Feed, dict[int, int]]]] = {}
        """What a device held after its last step: its size, and the first and last place of each
        frame.
        """
        self._forks_told = 0
        self._commits = 0
        self._steps = 0
        self._seen_leaders: dict[str, EventHash] = {}

    def fail(self, check: str, sentence: str, **about: Any) -> None:
        """The run ends here."""
        raise Broken(check, f"at {self._world.agenda.now_s:.3f} s, {sentence}", **about)

    # What happens.

    def booted(self, device: Device) -> None:
        """A device has started."""
        self._held.pop(device.name, None)
        self.conduct.booted(device)

    def went_down(self, device: Device) -> None:
        """A device's process has ended."""

    def stepped(self, device: Device, events: Sequence[Event]) -> None:
        """A device has taken something in, and events with it."""
        self._steps += 1
        core, name = device.node, device.name
        assert core is not None
        leader = core.state.leader
        if leader is not None and self._follows.get(name) is not leader:
            self._follows[name] = leader
            followed = self._followed.setdefault(name, [])
            if not followed or followed[-1] != leader.hash:
                followed.append(leader.hash)
        for event in events:
            if event.kind == "TaskPlaced":
                self._learned[name, event.hash] = len(self._followed.get(name, ())) - 1
            if event.kind == "TaskSubmitted" and event.author == device.author:
                self._check_child(device, event)
            if event.author == device.author and event.hash not in self.written_s:
                self.conduct.wrote(device, event)
        if core.sync.held_size_bytes or (self._held and name in self._held):
            self._check_held(device)
        if self._steps % LOOK_EVERY == 0:
            self._check_queues(device)
            self._check_clock(device)
            self._check_alive(device)
            if self._steps % (16 * LOOK_EVERY) == 0:
                self.conduct.look(device)

    def _check_child(self, device: Device, event: Event) -> None:
        """A step that is known to have completed is not run again."""
        task = next(
            (t for t in device.core.state.open.values() if t.submitted_hash == event.hash), None
        )
        if task is None or task.child is None:
            return
        for other in device.core.state.memos[task.child.memo].values():
            ends = [a.end.kind for a in other.attempts if a.end is not None]
            parent = device.core.state.tasks.get(other.child.parent) if other.child else None
            issued = parent.attempt(other.child.attempt) if parent and other.child else None
            if "completed" in ends and issued is not None and issued.device == other.submitter:
                what = f"{device} submits it anew, and {other.id.hex()[:16]} has completed"
                self.fail("no completed step runs again", what, task=task.id)

    def committed(self, device: Device, commit: Commit) -> None:
        """Events are on a device's disk."""
        self._commits += 1
        hashes, now_s = self._hashes, self._world.agenda.now_s
        for event in (event for frame in commit.frames for event in frame):
            # An own frame that others kept and this device lost stays as it was cut.
            if hashes.get((device.cluster, event.author, event.topic, event.seq)) == event.hash:
                feed = Feed(event.author, event.topic)
                self.fail("a frame is cut once", f"{device} publishes {event!r} again", feed=feed)
        for event in commit.events:
            place = (device.cluster, event.author, event.topic, event.seq)
            before = hashes.setdefault(place, event.hash)
            if event.author == device.author:
                self.written_s.setdefault(event.hash, now_s)
            if event.author not in device.core.state.members:
                name = self._world.name_of(event.author)
                self.fail("only members are written down", f"{device} keeps an event of {name}")
            if before != event.hash and not self._may_fork(event.author):
                if event.author in self._world.disks_hurt:
                    if event.author == device.author:
                        self.conduct.forked(device, event)
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
                self._must_hold(device, Feed(effect.peer, effect.topic), effect.seq, effect)
            case fx.SendHeads():
                heads = device.store.heads_now
                for feed, head in effect.heads.items():
                    if feed not in heads or heads[feed].seq < head.seq:
                        self._must_hold(device, feed, head.seq, effect)
            case fx.SendHeartbeat():
                said = effect.heartbeat
                tasks, results = device.feeds
                self._must_hold(device, tasks, said.task_seq, effect)
                self._must_hold(device, results, said.result_seq, effect)
                self._check_leader_said(device, said.leader)
            case fx.Start():
                self._started(device, effect)
            case fx.Answer():
                self._answered(device, effect)
            case fx.Settled():
                self._task_settled(device, effect.task)
            case fx.Stopped():
                self.conduct.stopped(device)
            case fx.Charge():
                self.charges[effect.reason] = self.charges.get(effect.reason, 0) + 1
                self._forks_told += effect.reason.startswith("fork")
                # Who passes a forked feed on holds another branch than who refuses it.
                if effect.peer is not None and not (
                    self.forked or self._world.may_be_charged(effect.peer)
                ):
                    name = self._world.name_of(effect.peer)
                    self.fail("nobody honest is charged", f"{device}: {name}, {effect.reason}")
            case _:
                pass

    def given(self, device: Device, input: ins.FrameReceived, made: Made) -> None:
        """A device takes in a well-made frame: it must see what that is."""
        waits = device.is_frozen or device.backlog or device.step_s
        if not device.is_up or waits or made.feed.author not in device.core.state.members:
            device.give(input)
            return
        end = device.core.book.ends.get(made.feed)
        seq, known = (end.seq, end.hash_at(made.seq)) if end else (0, None)
        follows = seq + 1 == made.seq and (end is None or end.hash == made.previous)
        forks_told = self._forks_told
        device.give(input)
        end = device.core.book.ends.get(made.feed)
        if follows and (end is None or end.seq < made.seq):
            self.fail("what follows is taken in", f"{device} does not", feed=made.feed)
        if known not in (None, made.hash) and self._forks_told == forks_told:
            self.fail("a fork is noticed", f"{device} sees both branches", feed=made.feed)

    # What must hold.

    def _may_fork(self, author: Author) -> bool:
        return author in self.forked or author in self._world.attackers

    def _must_hold(self, device: Device, feed: Feed, seq: int, effect: fx.Effect) -> None:
        if seq == 0:
            return
        head = device.store.heads_now.get(feed)
        if head is None or head.seq < seq:
            has = head.seq if head else 0
            name = self._world.name_of(feed.author)
            what = type(effect).__name__
            self.fail(
                "effects follow their append",
                f"{device}'s {what} follows from {name}/{feed.topic}/{seq}, its disk holds {has}",
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
        self._must_hold(device, Feed(attempt.leader, TASK), attempt.placed_seq, order)
        self._must_hold(device, Feed(order.submitter, TASK), order.submitted_seq, order)
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
        self.conduct.answered(device, answer.ticket)
        if answer.problem is not None:
            code = answer.problem.code
            self.refused[code] = self.refused.get(code, 0) + 1
            return
        now_s = self._world.agenda.now_s
        ids: list[tuple[TaskId, int]] = answer.value if answer.value is not True else []
        for id, replicas in ids:
            task = device.core.state.tasks[id]
            self._must_hold(device, Feed(task.submitter, TASK), task.submitted_seq, answer)
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
        shown = fx.Settled(id)
        self._must_hold(device, Feed(settled.author, TASK), settled.seq, shown)
        if settled.attempt:
            attempt = task.attempt(settled.attempt)
            if attempt is None or attempt.end is None:
                self.fail("an end has its result", f"{device} shows none", task=id)
            else:
                self._must_hold(device, Feed(attempt.device, RESULT), attempt.end.seq, shown)
        self._check_settlement(device, task)

    def _check_settlement(self, device: Device, task: Task) -> None:
        settled = task.settled
        if settled is None or settled.author in self.forked:
            return
        before = self._settled.setdefault(task.id, settled.hash)
        if before != settled.hash:
            self.fail("a task settles once", f"{device} shows another end", task=task.id)
        if settled.author in self._world.attackers and not self._may_own(task):
            self.fail("an owner settles", f"{device} believes an attacker", task=task.id)

    def _may_own(self, task: Task) -> bool:
        """Whether an attacker may: the task is its own, or an honest owner gave it away."""
        attackers = self._world.attackers
        return task.submitter in attackers or any(m.author not in attackers for m in task.moves)

    def _may_be_damaged(self) -> bool:
        """Whether a frame may be signed as it should be and be another inside."""
        return bool(self._world.attackers or self._world.disks_hurt)

    def _check_held(self, device: Device) -> None:
        """A frame that waited for a gap is taken in with what fills it."""
        book, sync = device.core.book, device.core.sync
        size_bytes, held = self._held.get(device.name, (0, {}))
        if sync.held_size_bytes == size_bytes:
            return
        for feed, frames in held.items():
            end = book.ends.get(feed)
            if feed.author not in book.state.members or self._may_be_damaged():
                continue
            seq = end.seq if end else 0
            for first_seq, last_seq in frames.items():
                if first_seq <= seq + 1 and seq < last_seq:
                    self.fail("what was held is taken in", f"{device} forgets it", feed=feed)
        now_held = {
            feed: {first: first + held.header.count - 1 for first, held in frames.items()}
            # Shown nowhere else.
            for feed, frames in sync._held.items()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        }
        if now_held:
            self._held[device.name] = (sync.held_size_bytes, now_held)
        else:
            self._held.pop(device.name, None)

    def _check_queues(self, device: Device) -> None:
        node = device.core
        for name, size, bound in (
            ("held frames", node.sync.held_size_bytes, LIMITS.held_size_bytes_max),
            (
                "waiting attempts",
                len(node.device.waiting),
                2 * LIMITS.prefetch_max + node.device.slots,
            ),
            ("running attempts", node.device.slots_taken, device.slots),
            ("attempts that wait", len(node.device.running), device.slots + WAITING_MAX),
        ):
            if size > bound:
                self.fail("queues have bounds", f"{device} has {size:,} {name} of {bound:,}")

    def _check_clock(self, device: Device) -> None:
        clock = device.core.book.clock
        ahead_ms = (clock.last >> 16) - device.clock.greatest_ms
        bound_ms = self._world.timers.clock_ahead_max_s * 1000.0 + 1000.0
        if ahead_ms > bound_ms and device.author not in self._world.disks_hurt:
            self.fail("no clock runs away", f"{device}'s is {ahead_ms / 1000:.0f} s ahead")

    def _check_alive(self, device: Device) -> None:
        """Alive is mutual: who is taken for it has heard this device, and not too long ago."""
        peers, timers = device.core.peers, self._world.timers
        now_s = device.clock.now().mono_s
        if device.backlog or device.step_s or peers.may_have_changed(now_s):
            return  # It looks at this itself when it comes to its next tick.
        for author in peers.alive:
            peer = peers.by_author.get(author)
            if author == device.author or peer is None:
                continue
            window_s = timers.suspect_s
            if not peer.connected:
                window_s = max(window_s, 3.0 * timers.gossip_heartbeat_s)
            bound_s = 2.0 * window_s * peers.scale + ALIVE_SLACK_S
            if peer.echoed_at_s is None or now_s - peer.echoed_at_s > bound_s:
                name = self._world.name_of(author)
                self.fail("alive is mutual", f"{device} counts on {name}, which may not hear it")

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
        leader = state.leader.hash.hex()[:8] if state.leader else "nobody"
        digest = f"{state.digest()}, led by {leader}"
        before = self._digests.setdefault(held, digest)
        if before != digest:
            self.fail("same events, same state", f"{device} shows {digest}, others {before}")
