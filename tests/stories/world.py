"""A small world for stories: several cores, one clock, and a wire that does as it is told.

Nothing of the core is replaced. Time passes in steps of 10 ms, and nothing ever waits for real.
Each device has a disk that commits what a few steps gathered, as the real pipeline does, and
loses what was not committed when the device crashes. Frames go to every connected node in order.
Executors are scripted: a run ends after `run_s`, or when the story says so.

The world holds every node to the law of effects: what others can see is carried out only when
what it follows from is on that node's disk (`_assert_durable`). So each story tests that as well.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable

from kowalski_ledger.fold import cluster_id
from kowalski_ledger.state import State, Task
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.node import Node, NodeConfig
from kowalski_protocol.codec import encode
from kowalski_protocol.events import CapabilitiesAdvertised, ClusterFounded, Result
from kowalski_protocol.feeds import Event, Feed, Head, encode_frame, signed_message
from kowalski_protocol.identity import Identity
from kowalski_protocol.ids import Author, ClusterId, EventHash, TaskId
from kowalski_protocol.invites import invite_hash
from kowalski_protocol.limits import LIMITS, LOCAL, Limits, Timers
from kowalski_protocol.tasks import parse_task
from kowalski_protocol.telemetry import encode_datagram

START_MS = 1_790_000_000_000
STEP_S = 0.01
DISK_RETRY_S = 1.0
STEPS_PER_COMMIT = 8


class Device:
    """One node of the world with its ledger, which survives a crash."""

    def __init__(self, world: World, name: str, labels: dict[str, str] | None = None) -> None:
        self.world = world
        self.name = name
        self.labels = labels or {}
        self.identity = Identity(hashlib.sha256(name.encode()).digest())
        self.node: Node | None = None
        self.inbox: deque[ins.Input] = deque()
        # Its disk.
        self.ledger: list[Event] = []
        self.heads: dict[Feed, Head] = {}
        self.gathered = fx.Outbox()
        self.disk_is_full = False
        self._next_try_s = 0.0
        # Its executors.
        self.slots = 2
        self.run_s: float | None = 0.0
        """How long a run takes; None where the story ends it."""
        self.starts: list[fx.Start] = []
        self.stops: list[fx.StopAttempt] = []
        self.running: dict[EventHash, fx.Start] = {}
        # What it said.
        self.answers: dict[int, fx.Answer] = {}
        self.charges: list[fx.Charge] = []
        self.pulls: list[fx.Pull] = []
        self.dials: list[fx.Dial] = []
        self.settled: list[TaskId] = []
        self.steps: list[fx.StepEnded] = []
        self.refused: list[fx.StepRefused] = []
        self.fetches: list[fx.FetchBlob] = []
        self.stopped = False
        # What befalls it.
        self.frozen = False
        self.wall_offset_ms = 0
        self.boots = 0

    @property
    def author(self) -> Author:
        return self.identity.author

    @property
    def core(self) -> Node:
        assert self.node is not None
        return self.node

    @property
    def now(self) -> ins.Now:
        """The time as this device tells it."""
        world = self.world.now
        return ins.Now(world.mono_s, world.wall_ms + self.wall_offset_ms)

    def boot(self, founder_hint: Author | None = None) -> None:
        """Starts the node on what its disk holds."""
        self.boots += 1
        boot = START_MS + self.boots
        config = NodeConfig(
            self.author, self.name, boot, self.world.timers, self.slots, self.world.limits
        )
        self.node = Node(config, State(self.world.cluster), self.now, founder_hint=founder_hint)
        self.node.load(self.ledger)
        self.node.loaded()
        self.stopped = False
        self.inbox.append(ins.Advertise(self.capabilities()))

    def capabilities(self) -> CapabilitiesAdvertised:
        return CapabilitiesAdvertised(
            1,
            self.name,
            ("code", "graph", "tool"),
            ("echo", "sleep"),
            {"python": "3"},
            "bubblewrap",
            self.slots,
            2,
            8 << 30,
            (),
            self.labels,
        )

    def crash(self) -> None:
        """Kill -9: what was not committed is gone, and connections close."""
        self.node = None
        self.inbox.clear()
        self.gathered = fx.Outbox()
        self.running.clear()
        for other in self.world.devices:
            self.world.disconnect(self, other)

    def restart(self) -> None:
        """Starts again after a crash or a stop, and connects to whom it can reach."""
        self.boot()
        self.world.connect_all()

    def give(self, input: ins.Input) -> None:
        self.inbox.append(input)

    def task(self, id: TaskId) -> Task:
        return self.core.state.tasks[id]

    def outcome(self, id: TaskId) -> str | None:
        """How a task ended, as this device knows."""
        task = self.core.state.tasks.get(id)
        return task.settled.outcome if task is not None and task.settled is not None else None

    def finish(self, ok: bool = True, code: str = "", *, task: TaskId | None = None) -> None:
        """What runs here ends now: all of it, or what belongs to one task."""
        for order in list(self.running.values()):
            if task is None or order.task == task:
                self._end(order, ok, code)

    def _end(self, order: fx.Start, ok: bool, code: str) -> None:
        if self.running.pop(order.attempt, None) is not None:
            self.inbox.append(self.world.ended(order, ok, code))

    # What its node wants done.

    def carry_out(self, effect: fx.Effect) -> None:
        self._assert_durable(effect)
        match effect:
            case fx.Start():
                self.starts.append(effect)
                self.running[effect.attempt] = effect
                if self.run_s is not None and effect.kind != "graph":
                    self.world.later(self.run_s, lambda: self._end(effect, ok=True, code=""))
            case fx.StopAttempt():
                self.stops.append(effect)
                order = self.running.get(EventHash(effect.attempt))
                if order is not None:
                    self._end(order, ok=False, code="cancelled")
            case fx.Answer():
                assert effect.ticket not in self.answers, "a request is answered once"
                self.answers[effect.ticket] = effect
            case fx.Charge():
                self.charges.append(effect)
            case fx.Settled():
                self.settled.append(effect.task)
            case fx.StepEnded():
                self.steps.append(effect)
            case fx.StepRefused():
                self.refused.append(effect)
            case fx.Stopped():
                self.stopped = True
            case fx.Dial():
                self.dials.append(effect)
                self.world.dialled(self, effect.peer)
            case fx.FetchBlob():
                self.fetches.append(effect)
            case _:
                self.world.send(self, effect)

    def _holds(self, author: Author, topic: str, seq: int) -> bool:
        head = self.heads.get(Feed(author, topic))
        return head is not None and head.seq >= seq

    def _assert_durable(self, effect: fx.Effect) -> None:
        """Nothing that others can see comes before what it follows from is on the disk."""
        state = self.core.state
        match effect:
            case fx.Acknowledge():
                assert self._holds(effect.peer, effect.topic, effect.seq)
            case fx.SendHeads():
                for feed, head in effect.heads.items():
                    assert self._holds(feed.author, feed.topic, head.seq)
            case fx.SendHeartbeat():
                said = effect.heartbeat
                assert not said.task_seq or self._holds(self.author, "task", said.task_seq)
                assert not said.result_seq or self._holds(self.author, "result", said.result_seq)
                assert not said.leader or said.leader in {event.hash for event in self.ledger}
            case fx.Answer(value=list() as ids):
                for id, _ in ids:
                    task = state.tasks[id]
                    assert self._holds(task.submitter, "task", task.submitted_seq)
            case fx.Start():
                attempt = state.tasks[effect.task].attempt(effect.attempt)
                assert attempt is not None
                assert self._holds(attempt.leader, "task", attempt.placed_seq)
                assert self._holds(effect.submitter, "task", effect.submitted_seq)
            case fx.Settled():
                settled = state.tasks[effect.task].settled
                assert settled is not None
                assert self._holds(settled.author, "task", settled.seq)
            case fx.Stopped():
                assert not self.gathered.append
            case _:
                pass

    # Its pipeline.

    def step(self) -> None:
        """Takes in some of what waits; what depends on nothing is done at once."""
        for _ in range(min(len(self.inbox), STEPS_PER_COMMIT)):
            self.core.step(self.inbox.popleft(), self.now, self.gathered)
            at_once, self.gathered.at_once = self.gathered.at_once, []
            for effect in at_once:
                self.carry_out(effect)

    def commit(self) -> bool:
        """Commits what was gathered, publishes it, and does what waited for it."""
        gathered = self.gathered
        if not gathered.append and not gathered.then:
            return False
        if self.disk_is_full and gathered.append:
            if self.world.now.mono_s < self._next_try_s:
                return False
            self._next_try_s = self.world.now.mono_s + DISK_RETRY_S
            self.inbox.append(ins.CommitFailed("disk_full"))
            return True
        self.gathered = fx.Outbox()
        if gathered.append:
            self._write(gathered.append)
        for effect in gathered.then:
            self.carry_out(effect)
        return True

    def _write(self, events: list[Event]) -> None:
        self.ledger.extend(events)
        own: dict[str, list[Event]] = {}
        heads: dict[Feed, Head] = {}
        for event in events:
            feed = Feed(event.author, event.topic)
            before = self.heads.get(feed)
            assert event.seq == (before.seq if before else 0) + 1, "a ledger without gaps"
            self.heads[feed] = heads[feed] = Head(event.seq, event.hash)
            if event.author == self.author and event.signature is None:
                own.setdefault(event.topic, []).append(event)
            elif event.author == self.author:
                # An own frame that came back from others: what leads to its end is no news.
                own.pop(event.topic, None)
        for run in own.values():
            run[-1].signature = self.identity.sign(signed_message(run[-1].hash))
            frame = encode_frame(self.world.cluster, run)
            for other in self.world.reachable(self):
                self.world.deliver(self, other, ins.FrameReceived(self.author, frame))
        self.inbox.append(ins.Committed(heads))


class World:
    """Devices that share one cluster; `cut` says who can't reach whom."""

    def __init__(
        self,
        *names: str,
        labels: dict[str, dict[str, str]] | None = None,
        roles: dict[str, str] | None = None,
        timers: Timers = LOCAL,
        limits: Limits = LIMITS,
    ) -> None:
        self.now = ins.Now(100.0, START_MS)
        self.timers = timers
        self.limits = limits
        self.cluster = ClusterId(b"")
        self.cut: set[frozenset[str]] = set()
        self.connected: set[frozenset[str]] = set()
        self.latency_s = 0.0
        self.connecting_s = 0.0
        """How long a dial takes."""
        self.loses: Callable[[Device, Device, ins.Input], bool] = lambda _from, _to, _what: False
        self.tickets = 0
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._agenda_count = 0
        self.devices = [Device(self, name, (labels or {}).get(name)) for name in names]
        self._found(roles or {})

    def __getitem__(self, name: str) -> Device:
        return next(d for d in self.devices if d.name == name)

    def _found(self, roles: dict[str, str]) -> None:
        founder = self.devices[0]
        founded = ClusterFounded("home", founder.author, founder.name, b"nonce")
        self.cluster = cluster_id(encode(founded))
        founder.boot()
        founder.core.found(founded, founder.now, founder.gathered)
        for device in self.devices[1:]:
            self._admit(device, roles.get(device.name, "member"))
        self.connect_all()
        self.run(3.0)

    def _admit(self, device: Device, role: str) -> None:
        founder = self.devices[0]
        invite = invite_hash(device.name.encode())
        founder.give(ins.Admit(self.ticket(), device.author, device.name, role, invite))
        device.boot(founder_hint=founder.author)

    def join(self, name: str, role: str = "member") -> Device:
        """A new device is admitted by the founder and connects to everybody."""
        device = Device(self, name)
        self.devices.append(device)
        self._admit(device, role)
        self.connect_all()
        return device

    def ticket(self) -> int:
        self.tickets += 1
        return self.tickets

    # The wire.

    def connect_all(self) -> None:
        """Everybody connects to whom it can reach and is not connected to."""
        for a in self.devices:
            for b in self.devices:
                if a is not b and a.node and b.node and self.linked(a, b):
                    self._connect(a, b)

    def _connect(self, a: Device, b: Device) -> None:
        pair = frozenset((a.name, b.name))
        if pair not in self.connected:
            self.connected.add(pair)
            a.give(ins.PeerConnected(b.author, "memory"))
            b.give(ins.PeerConnected(a.author, "memory"))

    def disconnect(self, a: Device, b: Device) -> None:
        """Closes the connection of two devices, if there is one; both notice at once."""
        pair = frozenset((a.name, b.name))
        if pair in self.connected:
            self.connected.discard(pair)
            for device, peer in ((a, b), (b, a)):
                if device.node:
                    device.give(ins.PeerDisconnected(peer.author))

    def dialled(self, device: Device, peer: Author) -> None:
        self.later(self.connecting_s, lambda: self._dialled(device, peer))

    def _dialled(self, device: Device, peer: Author) -> None:
        if device.node is None:
            return
        other = self.by_author(peer)
        reached = other is not None and other.node is not None and self.linked(device, other)
        device.give(ins.DialEnded(peer, reached))
        if reached and other is not None:
            self._connect(device, other)

    def linked(self, a: Device, b: Device) -> bool:
        return frozenset((a.name, b.name)) not in self.cut

    def partition(self, *side: str) -> None:
        """Cuts all links between these devices and the others; both sides notice at once."""
        self.separate(*side)
        for a in self.devices:
            for b in self.devices:
                if not self.linked(a, b):
                    self.disconnect(a, b)

    def separate(self, *side: str) -> None:
        """Cuts the links, and nobody's connection closes: a cable that was pulled."""
        for a in self.devices:
            for b in self.devices:
                if (a.name in side) != (b.name in side):
                    self.cut.add(frozenset((a.name, b.name)))

    def heal(self) -> None:
        self.cut.clear()
        self.connect_all()

    def reachable(self, device: Device) -> list[Device]:
        """To whom a device's lanes lead."""
        return [
            d for d in self.devices if d.node and frozenset((device.name, d.name)) in self.connected
        ]

    def deliver(self, sender: Device, to: Device, input: ins.Input) -> None:
        """Puts something on the wire; it arrives unless the wire is cut or loses it."""
        if not self.linked(sender, to) or self.loses(sender, to, input):
            return
        if not self.latency_s:
            to.inbox.append(input)
            return
        node = to.node
        self.later(self.latency_s, lambda: to.inbox.append(input) if to.node is node else None)

    def by_author(self, author: Author) -> Device | None:
        return next((d for d in self.devices if d.author == author), None)

    def send(self, device: Device, effect: fx.Effect) -> None:
        """Carries what a node says to others."""
        match effect:
            case fx.SendHeartbeat():
                data = encode_datagram(
                    self.cluster, device.author, device.identity.sign, effect.heartbeat
                )
                for other in self.reachable(device):
                    self.deliver(device, other, ins.DatagramReceived(device.author, data))
            case fx.Acknowledge():
                self._to(
                    device,
                    effect.peer,
                    ins.AckReceived(device.author, effect.topic, effect.seq),
                )
            case fx.SendHeads():
                heads = ins.HeadsReceived(device.author, effect.heads, effect.wants_answer)
                self._to(device, effect.peer, heads)
            case fx.Pull():
                device.pulls.append(effect)
                self._pull(device, effect)
            case _:
                raise AssertionError(effect)

    def _to(self, device: Device, peer: Author, input: ins.Input) -> None:
        other = self.by_author(peer)
        if other is not None and other in self.reachable(device):
            self.deliver(device, other, input)

    def _pull(self, device: Device, pull: fx.Pull) -> None:
        other = self.by_author(pull.peer)
        if other is None or other not in self.reachable(device) or not self.linked(device, other):
            device.give(ins.PullEnded(pull.peer, pull.feed, None))
            return
        if other.frozen:
            return  # No answer comes, and no closed connection either.
        feed = [e for e in other.ledger if Feed(e.author, e.topic) == pull.feed]
        run = [e for e in feed if e.seq > pull.after_seq][: self.limits.frame_events_max]
        while run and run[-1].signature is None:
            run.pop()
        frames = (encode_frame(self.cluster, run),) if run else ()
        self.deliver(other, device, ins.PullEnded(pull.peer, pull.feed, frames))

    # Time.

    def later(self, seconds: float, what: Callable[[], object]) -> None:
        """Lets something happen in so many seconds."""
        self._agenda_count += 1
        entry = (self.now.mono_s + seconds, self._agenda_count, what)
        heapq.heappush(self._agenda, entry)

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Lets time pass; true as soon as `until` holds."""
        self.settle()
        if until is not None and until():
            return True
        for _ in range(round(seconds / STEP_S)):
            self.now = ins.Now(self.now.mono_s + STEP_S, self.now.wall_ms + int(STEP_S * 1000))
            if round(self.now.mono_s / STEP_S) % round(self.timers.tick_s / STEP_S) == 0:
                for device in self.devices:
                    if device.node and not device.frozen:
                        device.inbox.append(ins.Tick())
            self.settle()
            if until is not None and until():
                return True
        return until is None

    def takes(self, until: Callable[[], bool], within: float) -> float:
        """How many seconds pass until something holds; it must within so many."""
        began_s = self.now.mono_s
        assert self.run(within, until), f"not within {within:g} s"
        return self.now.mono_s - began_s

    def settle(self) -> None:
        """Delivers and commits until nothing is under way at this instant."""
        for _ in range(20_000):
            while self._agenda and self._agenda[0][0] <= self.now.mono_s:
                heapq.heappop(self._agenda)[2]()
            awake = [d for d in self.devices if d.node and not d.frozen]
            busy = [d for d in awake if d.inbox]
            for device in busy:
                device.step()
            committed = [d for d in awake if d.node and d.commit()]
            if not busy and not committed:
                return
        raise AssertionError("the world does not come to rest")

    # What stories say and ask.

    def submit(self, name: str, *tasks: dict[str, object], min_replicas: int | None = None) -> int:
        """Hands tasks in; the ticket under which the answer comes."""
        ticket = self.ticket()
        submissions = [parse_task(task) for task in tasks]
        keys = [hashlib.sha256(f"{ticket}/{n}".encode()).digest()[:16] for n in range(len(tasks))]
        self[name].give(ins.Submit(ticket, submissions, keys, min_replicas))
        return ticket

    def accepted(self, name: str, *tasks: dict[str, object]) -> list[TaskId]:
        """Hands tasks in and waits for the answer: their ids."""
        ticket = self.submit(name, *tasks)
        assert self.run(3.0, until=lambda: ticket in self[name].answers)
        answer = self[name].answers[ticket]
        assert answer.problem is None, answer.problem
        return [id for id, _ in answer.value]

    def settled(self, *ids: TaskId, outcome: str = "completed") -> Callable[[], bool]:
        """Whether every live node knows this end of these tasks."""
        return lambda: all(
            d.outcome(id) == outcome for d in self.devices if d.node and not d.frozen for id in ids
        )

    def leader(self) -> str | None:
        """Whom all live nodes follow; None where they do not agree."""
        leaders = {
            claim.author if (claim := d.core.state.leader) else None
            for d in self.devices
            if d.node and not d.frozen
        }
        author = leaders.pop() if len(leaders) == 1 else None
        device = self.by_author(author) if author else None
        return device.name if device else None

    def starts_of(self, task: TaskId) -> list[str]:
        """On which devices a task was started, each time."""
        return [d.name for d in self.devices for start in d.starts if start.task == task]

    def runs_on(self, task: TaskId) -> list[str]:
        """Where a task runs now."""
        return [
            d.name
            for d in self.devices
            if d.node and any(order.task == task for order in d.running.values())
        ]

    def ended(self, order: fx.Start, ok: bool = True, code: str = "") -> ins.AttemptEnded:
        result = encode(Result(ok, "done" if ok else None, code=code))
        return ins.AttemptEnded(
            EventHash(order.attempt),
            ok,
            code,
            result,
            hashlib.sha256(result).digest(),
            False,
            self.now.wall_ms,
            100,
        )

    def digests(self) -> set[str]:
        """The digests of all live nodes."""
        return {d.core.state.digest() for d in self.devices if d.node}

    def agree(self) -> bool:
        """Whether all live nodes hold the same events and show one state."""
        heads = {d.core.book.heads_hash() for d in self.devices if d.node}
        return len(heads) == 1 and len(self.digests()) == 1
