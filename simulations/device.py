"""A simulated device: one node with its disk, its clock, its executors, and its lives.

It does what the shell does, in the order that `core.commits` states, with a commit that takes time
and a process that may end at any instant. What only the disk keeps survives that. A frozen process
finishes nothing and hears everything later; a slow one takes its time for every step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from kowalski_ledger.state import State
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.commits import Commit, Commits
from kowalski_node.core.node import Node, NodeConfig
from kowalski_node.core.sessions import history
from kowalski_node.pipeline import RETRY_S
from kowalski_protocol.codec import decode_value
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import Body, CapabilitiesAdvertised, ClusterFounded
from kowalski_protocol.feeds import Feed
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.telemetry import encode_datagram
from kowalski_protocol.topics import RESULT, TASK

from .clock import START_MS, Clock
from .disk import MemoryDisk, MemoryStore, done
from .executors import Running, ended, script_of
from .graphs import Graphs
from .requests import Requests

if TYPE_CHECKING:
    from .world import World

GOSSIP_LINGER_S = 0.1
STOP_RUN_S = 0.02
TICK = ins.Tick()


class Device:
    """One device of a world; see `kowalski_node.runtime` for what it stands for."""

    def __init__(self, world: World, name: str, labels: dict[str, str] | None = None) -> None:
        self.world = world
        self.name = name
        self.identity = world.notary.identity(f"{world.options.seed}/{name}")
        self.author: Author = self.identity.author
        self.feeds = (Feed(self.author, TASK), Feed(self.author, RESULT))
        self.chance = world.options.stream(f"device/{name}")
        self.clock = Clock(world.agenda, self.chance)
        self.labels = labels or {}
        self.slots = self.chance.choice((1, 2, 4, 8))
        self.cluster = world.cluster
        # Its disk.
        self.disk = MemoryDisk()
        self.blobs: set[bytes] = set()
        self.fsync_s = self.chance.choice((0.0002, 0.001, 0.005))
        self.restarts_after_s = self.chance.choice((0.05, 5.0))
        """Whoever watches over it starts it again at once where a task ended it, or in a while."""
        # Its process, while it lives.
        self.life = 0
        self.is_up = False
        self.is_frozen = False
        self.is_gone = False
        """For ever: its disk is lost and its key with it."""
        self.step_s = 0.0
        """What a step costs a slow device."""
        self.speed = 1.0
        """How many times longer its runs take."""
        self.is_broken = False
        """Whether its executors fail whatever they are given."""
        self.node: Node | None = None
        self.store = MemoryStore(self.disk)
        self.running: dict[EventHash, Running] = {}
        self.interpreters: dict[str, bytes] = {}
        """Session -> the attempt that its interpreter here has run last."""
        self.graphs = Graphs(self)
        self._commits: Commits | None = None
        self._backlog: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_draining = False
        self._is_committing = False
        self._is_lingering = False
        self.requests = Requests(self)
        world.wire.add(self)

    def __repr__(self) -> str:
        return self.name

    @property
    def core(self) -> Node:
        """The node of the life that runs."""
        assert self.node is not None, f"{self.name} is not running"
        return self.node

    @property
    def is_listening(self) -> bool:
        return self.is_up and not self.is_frozen

    # Its lives.

    def boot(self, founder_hint: Author | None = None) -> bool:
        """Starts the node on what its disk holds; False where the ledger can't be read."""
        assert not self.is_up
        self.clock.resume()
        self.life += 1
        world = self.world
        self.store = MemoryStore(self.disk)
        config = NodeConfig(self.author, self.name, START_MS + self.life, world.timers, self.slots)
        node = Node(
            config,
            State(self.cluster),
            self.clock.now(),
            founder_hint=founder_hint,
            verifier=world.notary.verify,
        )
        try:
            chunks = self.store.load()
            while True:
                node.load(done(_next(chunks)))
        except StopAsyncIteration:
            pass
        except Problem:
            return False
        node.loaded()
        node.heartbeats.addresses = (self.name,)
        self.node = node
        self._commits = Commits(node, self.identity, node.config.limits)
        self.is_up = True
        self._is_committing = self._is_lingering = self._is_draining = False
        world.checks.booted(self)
        self.give(ins.Advertise(self._capabilities()))
        for other in world.addresses(self, founder_hint):
            self.give(ins.AddressesLearned(other.author, (other.name,), fresh=True))
        world.agenda.after(self.chance.random() * world.timers.tick_s, self._tick, self.life)
        return True

    def found(self, founded: ClusterFounded) -> None:
        """Writes the first event of the cluster, as the first start of a device does."""
        config = NodeConfig(self.author, self.name, START_MS, self.world.timers, self.slots)
        now = self.clock.now()
        node = Node(config, State(self.cluster), now, verifier=self.world.notary.verify)
        commits = Commits(node, self.identity, config.limits)
        node.found(founded, now, commits.gathered)
        done(self.store.found(self.cluster, commits.begin().events))

    def crash(self, *, power: bool = False) -> None:
        """The process ends at once; with `power` the disk loses what was not on it."""
        if not self.is_up:
            return
        self._end()
        if power:
            self.disk.cut_power()
        self.world.checks.went_down(self)

    def _end(self) -> None:
        self.is_up = self.is_frozen = False
        self.life += 1
        self.node = self._commits = None
        self._backlog.clear()
        self.running.clear()
        self.interpreters.clear()
        self.graphs.forget()
        self.requests.clear()
        self.world.wire.went_down(self.author)

    def stop(self) -> None:
        """Its owner ends it with SIGTERM."""
        self.give(ins.Stop())

    def freeze(self) -> None:
        """The process stops where it is (SIGSTOP, a closed lid)."""
        self.is_frozen = self.is_up

    def thaw(self) -> None:
        """It goes on, and hears what came meanwhile."""
        self.clock.resume()
        if self.is_frozen:
            self.is_frozen = False
            self._backlog.appendleft((self._step, (TICK,)))
            self._drain(self.life)

    def _capabilities(self) -> CapabilitiesAdvertised:
        return CapabilitiesAdvertised(
            1,
            self.name,
            ("code", "graph", "tool"),
            ("echo", "sleep"),
            {"python": "3"},
            "bubblewrap",
            self.slots,
            self.slots,
            8 << 30,
            (),
            self.labels,
        )

    def _tick(self, life: int) -> None:
        if life != self.life:
            return
        world = self.world
        world.agenda.after(world.timers.tick_s, self._tick, life)
        if not (self.is_frozen or self._backlog or self.step_s):
            self._step(TICK)
        elif not self.is_frozen:
            self.do(self._step, TICK)

    # What happens to it.

    def give(self, input: ins.Input) -> None:
        """Something happened to the node; a frozen or slow one takes it in later."""
        if self.is_up and not (self.is_frozen or self._backlog or self.step_s):
            self._step(input)
        else:
            self.do(self._step, input)

    def do(self, what: Callable[..., object], *details: Any) -> None:
        """Does something in the device's process, in its turn."""
        if not self.is_up:
            return
        if self.is_frozen or self._backlog or self.step_s:
            self._backlog.append((what, details))
            if not self.is_frozen and not self._is_draining:
                self._is_draining = True
                self.world.agenda.after(self.step_s, self._drain, self.life)
            return
        what(*details)

    def _drain(self, life: int) -> None:
        if life != self.life or self.is_frozen:
            self._is_draining = False
            return
        while self._backlog:
            what, details = self._backlog.popleft()
            what(*details)
            if not self.is_up:
                return
            if self._backlog and self.step_s:
                self._is_draining = True
                self.world.agenda.after(self.step_s, self._drain, life)
                return
        self._is_draining = False

    @property
    def backlog(self) -> int:
        """How much waits to be taken in."""
        return len(self._backlog)

    def connected(self, peer: Author) -> None:
        self.give(ins.PeerConnected(peer, "simulated"))

    def disconnected(self, peer: Author) -> None:
        self.requests.peer_gone(peer)
        self.give(ins.PeerDisconnected(peer))

    # Its pipeline.

    def _step(self, input: ins.Input) -> None:
        commits = self._commits
        assert commits is not None
        gathered = commits.gathered
        events, then = gathered.append, gathered.then
        known, known_then = len(events), len(then)
        if not commits.step(input, self.clock.now()):
            return
        grew = len(events) > known
        self.world.checks.stepped(self, events[known:] if grew else ())
        if gathered.at_once:
            for effect in commits.at_once():
                self._carry_out(effect)
        if grew or len(then) > known_then:
            # What was gathered before waits for its commit already.
            self._want_commit()

    def _want_commit(self) -> None:
        commits = self._commits
        if commits is None or self._is_committing or not commits.is_wanted:
            return
        if commits.gathered.is_awaited():
            self._begin_commit()
        elif not self._is_lingering:
            self._is_lingering = True
            wait_s = self.world.timers.commit_linger_s
            self.world.agenda.after(wait_s, self._linger_over, self.life)

    def _linger_over(self, life: int) -> None:
        if life == self.life:
            self._is_lingering = False
            if not self._is_committing and self._commits and self._commits.is_wanted:
                self._begin_commit()

    def _begin_commit(self) -> None:
        assert self._commits is not None
        commit = self._commits.begin()
        if not commit.events:
            for effect in commit.then:
                self._carry_out(effect)
            return
        self._is_committing = True
        wait_s = self.fsync_s * (0.5 + self.chance.random())
        self.world.agenda.after(wait_s, self._write, self.life, commit)

    def _write(self, life: int, commit: Commit) -> None:
        if life != self.life:
            return  # It ended in the middle: SQLite leaves none of the transaction.
        try:
            done(self.store.append(commit.events))
        except Problem as problem:
            assert problem.code == "disk_full"  # noqa: PT017
            self.give(ins.CommitFailed(problem.code))
            self.world.agenda.after(RETRY_S, self._write, life, commit)
            return
        self.world.checks.committed(self, commit)
        # The disk has it; the process learns so when it runs.
        if self.is_frozen:
            self._backlog.appendleft((self._committed, (commit,)))
        else:
            self._committed(commit)

    def _committed(self, commit: Commit) -> None:
        commits = self._commits
        assert commits is not None
        for topic, data in commit.messages(self.cluster):
            self._publish(topic, data)
        self._step(commit.committed())
        for effect in commit.then:
            if self.is_up:
                self._carry_out(effect)
        self._is_committing = False
        self._want_commit()

    def write(self, bodies: Sequence[Body]) -> None:
        """Writes facts that this release's core would not write; see `newer`."""
        commits = self._commits
        if commits is None or not self.core.book.may_write:
            return
        known = len(commits.gathered.append)
        for body in bodies:
            self.core.book.write(body, self.clock.now(), commits.gathered)
        self.world.checks.stepped(self, commits.gathered.append[known:])
        self._want_commit()

    # What its node wants done.

    def _publish(self, _topic: str, data: bytes) -> None:
        received = ins.FrameReceived(self.author, data)
        self._to_all(received, len(data))
        self.world.agenda.after(
            GOSSIP_LINGER_S, self._gossip, self.life, ins.FrameReceived(None, data), len(data)
        )

    def _to_all(self, input: ins.Input, size_bytes: int) -> None:
        wire, author = self.world.wire, self.author
        send, stations = wire.send, wire.stations
        for peer in list(wire.peers(author)):
            send(author, peer, size_bytes, stations[peer].give, input)

    def _gossip(self, life: int, input: ins.Input, size_bytes: int) -> None:
        if life == self.life and not self.is_frozen:
            self.world.wire.publish(self.author, size_bytes, self._overhear, input)

    def _overhear(self, station: Any, input: ins.Input) -> None:
        # What came by lane comes by gossip as well; most worlds spare themselves the second one.
        world = self.world
        if world.gossip_repeats or not world.wire.is_connected(self.author, station.author):
            station.give(input)

    def _carry_out(self, effect: fx.Effect) -> None:
        self.world.checks.carried_out(self, effect)
        match effect:
            case fx.SendHeartbeat():
                self._heartbeat(effect)
            case fx.Acknowledge():
                self._to(effect.peer, ins.AckReceived(self.author, effect.topic, effect.seq))
            case fx.SendHeads():
                heads = ins.HeadsReceived(self.author, effect.heads, effect.wants_answer)
                self._to(effect.peer, heads, 80 * len(effect.heads))
            case fx.Start():
                self._start(effect)
            case fx.StepEnded() | fx.StepRefused():
                self.graphs.step_over(effect)
            case fx.StopAttempt():
                self.world.agenda.after(
                    STOP_RUN_S, self._run_over, self.life, effect.attempt, "cancelled"
                )
            case fx.Pull():
                self.requests.pull(effect)
            case fx.Dial():
                self._dial(effect)
            case fx.FetchBlob():
                self.requests.fetch(effect)
            case fx.Stopped():
                self._end()
                self.world.checks.went_down(self)
            case fx.Answer() | fx.Settled() | fx.Charge():
                pass  # What people see; the checks have seen it.

    def _to(self, peer: Author, input: ins.Input, size_bytes: int = 100) -> None:
        wire = self.world.wire
        station = wire.stations.get(peer)
        if station is not None:
            wire.send(self.author, peer, size_bytes, station.give, input)

    def _heartbeat(self, effect: fx.SendHeartbeat) -> None:
        data = encode_datagram(self.cluster, self.author, self.identity.sign, effect.heartbeat)
        self._to_all(ins.DatagramReceived(self.author, data), len(data))
        if effect.gossip:
            self._gossip(self.life, ins.DatagramReceived(None, data), len(data))

    def _dial(self, dial: fx.Dial) -> None:
        life = self.life

        def over(connected: bool) -> None:
            if life == self.life:
                self.give(ins.DialEnded(dial.peer, connected))

        self.world.wire.dial(self.author, dial.peer, over)

    def serve(self, asker: Device, number: tuple[int, int], pull: fx.Pull) -> None:
        """A member asks for a range of a feed."""
        self.do(self.requests.serve, asker, number, pull)

    def serve_blob(self, asker: Device, number: tuple[int, int], fetch: fx.FetchBlob) -> None:
        """A member asks for a blob."""
        self.do(self.requests.serve_blob, asker, number, fetch)

    # Its executors.

    def _start(self, order: fx.Start) -> None:
        payload = done(self.store.attachment(Feed(order.submitter, TASK), order.submitted_seq))
        assert payload is not None, "a run starts once its payload is durable here"
        value: Any = decode_value(payload)
        script = script_of(value)
        now = self.clock.now()
        rebuilt = self._rebuild(order) if order.session else None
        self.running[order.attempt] = Running(order, script, rebuilt, now.mono_s, now.wall_ms)
        if order.kind == "graph":
            self.graphs.start(order, value)
            return
        run_s = script.seconds * self.speed
        agenda = self.world.agenda
        if script.kills:
            agenda.after(min(run_s, 0.1), self._kill, self.life)
        code = ""
        if run_s > order.timeout_s:
            run_s, code = order.timeout_s, "timed_out"
        agenda.after(run_s, self._run_over, self.life, order.attempt, code)

    def _rebuild(self, order: fx.Start) -> ins.Rebuilt | None:
        """Brings the interpreter of a session to where the cell goes on."""
        cells = history(self.core.state, order)
        assert cells is not None, "a cell starts where all before it are known"
        for task, _ in cells:
            feed = Feed(task.submitter, TASK)
            assert done(self.store.attachment(feed, task.submitted_seq)) is not None
        if self.interpreters.get(order.session, b"") == order.after:
            return None
        return ins.Rebuilt(len(cells), (), ())

    def _kill(self, life: int) -> None:
        if life == self.life:
            self.crash()
            self.world.agenda.after(self.restarts_after_s, self.world.restart, self)

    def _run_over(self, life: int, attempt: EventHash, code: str) -> None:
        if life != self.life:
            return
        self.do(self.end_run, attempt, code)

    def end_run(self, attempt: EventHash, code: str) -> None:
        """What runs as this attempt has ended: tells the node."""
        run = self.running.pop(attempt, None)
        if run is None:
            return
        order = run.order
        run_s = self.clock.now().mono_s - run.began_s
        if self.is_broken and not code:
            code = "executor_failed"
        result = ended(run, code=code, run_s=run_s)
        if order.session:
            self.interpreters[order.session] = attempt
        if result.is_blob:
            self.blobs.add(result.result_hash)
        self.give(result)

    # What people ask of it.

    def outcome(self, id: TaskId) -> str | None:
        """How a task ended, as this device knows."""
        task = self.core.state.tasks.get(id)
        return task.settled.outcome if task is not None and task.settled is not None else None


def _next(chunks: Any) -> Coroutine[Any, Any, Any]:
    async def step() -> Any:
        return await anext(chunks)

    return step()
