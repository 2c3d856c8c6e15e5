"""The node as one function: `step(input, now, outbox)`.

An input goes to whom it concerns; then every task whose record changed is looked at by each of the
node's three hats, in an order that lets one step do all that follows from an event: the owner (has
it ended?), the device (is it mine to run or to stop?), the leader (does it need a place?). These
look at the record as it is and not at what changed, so nothing depends on the order in which events
arrived. Writing in one step may touch further tasks; the loop runs until nothing changes any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from kowalski_ledger.state import State, Task
from kowalski_protocol.clock import HybridClock
from kowalski_protocol.codec import Malformed
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import (
    CapabilitiesAdvertised,
    ClusterFounded,
)
from kowalski_protocol.feeds import Event, Feed, Verify
from kowalski_protocol.identity import verify
from kowalski_protocol.ids import Author, EventHash
from kowalski_protocol.limits import LIMITS, Limits, Timers
from kowalski_protocol.telemetry import decode_datagram
from kowalski_protocol.topics import FEED_TOPICS

from .attempts import Attempts, has_end
from .book import Book
from .children import Children
from .device import Device
from .dialling import Dialling
from .effects import Charge, Outbox, SendHeads, Settled, Stopped
from .heartbeats import Heartbeats
from .inputs import (
    AckReceived,
    AddressesLearned,
    Admit,
    Advertise,
    AttemptEnded,
    BlobArrived,
    Cancel,
    CommitFailed,
    Committed,
    DatagramReceived,
    DialEnded,
    FrameReceived,
    HeadsReceived,
    Input,
    IssueStep,
    Now,
    PeerConnected,
    PeerDisconnected,
    PullEnded,
    SampleTaken,
    SetWeights,
    Stop,
    Submit,
    Tick,
)
from .leader import Leader
from .owner import Owner
from .peers import Peers
from .requests import DISK_FULL, STOPPING, Requests
from .submissions import Submissions
from .sync import Sync

OWN_HEAD_WAIT_S = 1.0
"""How long a starting node asks the others for its own head before it writes (architecture, part
4).
"""
OWN_HEAD_WAIT_MAX_S = 10.0
"""The same where somebody is known to hold more of the own feed than this node, or is connected and
about to tell.
"""
ARRIVALS = 5.0
"""How long, in `suspect_s`, a starting node waits for members whose connections are being made
before it leads without them: a handshake takes a busy machine a second or two.
"""
UNKNOWN = Problem("not_ready", "No member can be reached who knows this device yet.")
STOP_HEARD_S = 0.25
"""How long a stopping node stays for the others to hear so: what they placed on it meanwhile is
given back and not lost.
"""


class NodeConfig(msgspec.Struct, frozen=True):
    """What the owner of the device chose; nothing in it changes while the node runs."""

    author: Author
    name: str
    boot: int
    timers: Timers
    slots: int
    limits: Limits = LIMITS


class Node:
    """One node.

    It is given its ledger by `load` and `loaded`; afterwards only `step` changes it.
    """

    def __init__(
        self,
        config: NodeConfig,
        state: State,
        now: Now,
        *,
        founder_hint: Author | None = None,
        verifier: Verify = verify,
    ) -> None:
        timers, limits = config.timers, config.limits
        clock = HybridClock(max_ahead_ms=int(timers.clock_ahead_max_s * 1000))
        self.config = config
        self.state = state
        self.book = Book(config.author, state, clock, limits)
        self.peers = Peers(config.author, config.boot, timers)
        self.sync = Sync(self.book, self.peers, timers, limits, verifier)
        self.sync.founder_hint = founder_hint
        self.attempts = Attempts(limits.prefetch_max)
        self.leader = Leader(self.book, self.peers, self.sync, self.attempts, timers, limits)
        self.device = Device(self.book, timers, limits, config.slots)
        self.heartbeats = Heartbeats(self.book, self.peers, self.device, timers, now)
        self.dialling = Dialling(self.book, self.peers, self.sync, timers)
        self.owner = Owner(self.book, limits)
        self.submissions = Submissions(self.book, self.peers, self.owner, timers, limits)
        self.children = Children(self.book, self.submissions, limits)
        self.requests = Requests(self.book, self.submissions, limits)
        self.stopping = False
        self.disk_full = False
        self._verify = verifier
        self._capabilities: CapabilitiesAdvertised | None = None
        self._started_s = now.mono_s
        self._last_tick_s = now.mono_s
        self._due_s = now.mono_s
        self._stop_by_s = 0.0
        self._stop_heard_s = 0.0
        self._stopped = False
        self._members_seen = 0
        self._stale: list[tuple[Task, EventHash]] = []
        self._handlers: dict[type[Any], Callable[[Any, Now, Outbox], None]] = {
            Tick: self._tick,
            FrameReceived: self._frame,
            PullEnded: self._pull_ended,
            HeadsReceived: self._heads,
            AckReceived: self._ack,
            DatagramReceived: self._datagram,
            PeerConnected: self._connected,
            PeerDisconnected: self._disconnected,
            DialEnded: self._dial_ended,
            AddressesLearned: self._addresses,
            Committed: self._committed,
            CommitFailed: self._commit_failed,
            Submit: self.requests.take,
            IssueStep: self._issue_step,
            Cancel: self.requests.take,
            Admit: self.requests.take,
            SetWeights: self.requests.take,
            Advertise: self._advertise,
            SampleTaken: self._sample,
            AttemptEnded: self._attempt_ended,
            BlobArrived: self._blob,
            Stop: self._stop,
        }

    def load(self, events: Sequence[Event]) -> None:
        """Takes in events of the ledger file, in their order; before the first step."""
        self.book.load(events)

    def loaded(self) -> None:
        """The ledger has been read: notes what was under way when it was written."""
        for task in self.state.open.values():
            self.attempts.update(task)
        self.state.touched.clear()
        for hash, task_id in self.attempts.by_device.get(self.config.author, {}).items():
            self._stale.append((self.state.tasks[task_id], hash))

    def step(self, input: Input, now: Now, out: Outbox) -> bool:
        """Takes in one thing that happened and adds to `out` what must be done about it; False
        where that was a tick that found nothing to do.
        """
        if type(input) is Tick and not self._is_due(now, out):
            return False
        self._handlers[type(input)](input, now, out)
        self._settle_down(now, out)
        return True

    def found(self, founded: ClusterFounded, now: Now, out: Outbox) -> None:
        """Writes the first event of a cluster of one; only on an empty ledger."""
        self.book.may_write = True
        self.book.write(founded, now, out)
        self.requests.is_open = True

    # What follows from changed records.

    def _settle_down(self, now: Now, out: Outbox) -> None:
        state = self.state
        if state.members_version != self._members_seen:
            self._members_seen = state.members_version
            self.heartbeats.members(len(state.members))
            self.sync.members_changed(now, out)
            self._refresh_alive(now, out)
        if not self.leader.is_settled(state):
            self.leader.elect(now, out)
        while state.touched:
            touched = list(state.touched.values())
            state.touched.clear()
            for task in touched:
                if task.submitted_hash is None:
                    continue
                self.attempts.update(task)
                self.owner.consider(task, now, out)
                self.device.consider(task, now, out)
                self.leader.consider(task, now, out)
                self.children.consider(task, out)
                if task.settled is not None:
                    for child in state.children.get(task.id, {}).values():
                        if child.settled is None:
                            state.touch(child)
                if has_end(task):
                    out.then.append(Settled(task.id))
            if not state.touched:
                self.leader.place(now, out)
        if self.device.waiting or self.device.waiting_without_slot:
            self.device.start(now, out)

    def _refresh_alive(self, now: Now, out: Outbox) -> None:
        came, went = self.peers.refresh(self.state.members, now.mono_s)
        if came or went:
            self.leader.elect(now, out)
        if went:
            self.leader.give_up_lost(now, out)
        if came:
            self.leader.place(now, out)

    # Time.

    def _is_due(self, now: Now, out: Outbox) -> bool:
        """Whether a tick finds anything to do, as one in four does; what is not asked for here may
        come as late as the next heartbeat.
        """
        timers, now_s = self.config.timers, now.mono_s
        late_s = now_s - self._last_tick_s - timers.tick_s
        self._last_tick_s = now_s
        if late_s > 4 * timers.tick_s:
            # Not running, this node could hear nobody: that was not their silence.
            self.peers.forgive(late_s * timers.starved_factor, now_s)
        if late_s > timers.suspect_s:
            # Others may have taken it for lost meanwhile.
            self.leader.listen(now, out)
        if not (
            now_s >= self._due_s
            or now_s >= self.heartbeats.due_s
            or now_s >= self.dialling.due_s
            or now_s >= self.leader.queue.due_s
            or self.peers.may_have_changed(now_s)
            or self.sync.is_behind()
            or self.submissions.is_waiting
            or self.device.is_waiting
            or not self.leader.is_settled(self.state)
            or not self.requests.is_open
            or self.stopping
        ):
            return False
        self._due_s = now_s + timers.heartbeat_s
        return True

    def _tick(self, _tick: Tick, now: Now, out: Outbox) -> None:
        if not self.open:
            self._try_open(now, out)
        if self.peers.may_have_changed(now.mono_s):
            self._refresh_alive(now, out)
        self.leader.give_up_lost(now, out)
        self.leader.place(now, out)
        self.device.tick(now, out)
        self.owner.tick(now, out)
        self.sync.tick(now, out)
        self.submissions.answer_held(now, out)
        self.dialling.dial(now, out)
        self.heartbeats.tick(now, out)
        if self.stopping:
            self._finish(now, out)

    def _try_open(self, now: Now, out: Outbox) -> None:
        """Begins to write once the others were asked how far the own feeds reach."""
        own = [Feed(self.config.author, topic) for topic in FEED_TOPICS]
        waited_s = now.mono_s - self._started_s
        others = [
            self.peers.by_author.get(a) for a in self.state.members if a != self.config.author
        ]
        told = all(peer is not None and peer.heads_at_s is not None for peer in others)
        if self.config.author not in self.state.members:
            if waited_s > OWN_HEAD_WAIT_MAX_S:
                self.requests.refuse_waiting(UNKNOWN, out)
            return
        if self.disk_full or (not told and waited_s < OWN_HEAD_WAIT_S):
            return
        more_may_come = any(self.sync.lagging(feed) for feed in own) or any(
            peer is not None and peer.connected and peer.heads_at_s is None for peer in others
        )
        if more_may_come and waited_s < OWN_HEAD_WAIT_MAX_S:
            return
        self._open(now, out)

    def _open(self, now: Now, out: Outbox) -> None:
        self.book.may_write = True
        self.heartbeats.hasten(now)  # The others give nothing to one that does not write.
        if len(self.state.members) > 1:
            suspect_s = self.config.timers.suspect_s
            self.leader.patience_until(
                now.mono_s + suspect_s, arrivals_until_s=now.mono_s + ARRIVALS * suspect_s
            )
        self.device.decline_stale(self._stale, now, out)
        self._stale = []
        if self._capabilities is not None:
            self._write_capabilities(now, out)
        for task in list(self.state.open.values()):
            self.state.touch(task)
        self.requests.open(now, out)

    @property
    def open(self) -> bool:
        """Whether the node takes work and writes."""
        return self.requests.is_open

    # Other nodes.

    def _frame(self, received: FrameReceived, now: Now, out: Outbox) -> None:
        self.sync.receive(received.data, received.peer, now, out)

    def _pull_ended(self, ended: PullEnded, now: Now, out: Outbox) -> None:
        self.sync.pull_ended(ended.peer, ended.feed, ended.frames, now, out)

    def _heads(self, told: HeadsReceived, now: Now, out: Outbox) -> None:
        self.sync.heads(told.peer, told.heads, told.wants_answer, now, out)
        if not self.open:
            self._try_open(now, out)

    def _ack(self, ack: AckReceived, now: Now, out: Outbox) -> None:
        if ack.topic not in FEED_TOPICS:
            return
        if ack.seq > self.book.end(self.book.own_feed(ack.topic)).seq:
            return  # Nobody can hold what was never written.
        acked = self.peers.peer(ack.peer).acked
        if ack.seq > acked.get(ack.topic, 0):
            acked[ack.topic] = ack.seq
            self.submissions.answer_held(now, out)

    def _datagram(self, received: DatagramReceived, now: Now, out: Outbox) -> None:
        try:
            author, heartbeat = decode_datagram(
                received.data,
                self.state.cluster,
                trusted_author=received.peer,
                verifier=self._verify,
                limits=self.config.limits,
            )
        except Malformed as error:
            out.at_once.append(Charge(received.peer, str(error)))
            return
        if author == self.config.author or author not in self.state.members:
            return
        if not self.peers.heard(author, heartbeat, now.mono_s, now.wall_ms):
            return
        self.sync.note_own(author, heartbeat.task_seq, heartbeat.result_seq, now)
        is_alive = author in self.peers.alive
        if not is_alive:
            peer = self.peers.peer(author)
            if peer.echoed_at_s is None or not self.peers.is_present(author, now.mono_s):
                self.heartbeats.hasten(now)
        if not is_alive or heartbeat.stopping:
            self._refresh_alive(now, out)

    def _connected(self, connected: PeerConnected, now: Now, out: Outbox) -> None:
        self.peers.connected(connected.peer, connected.address)
        out.at_once.append(SendHeads(connected.peer, dict(self.book.committed), False))
        self.heartbeats.send(now, out)

    def _disconnected(self, gone: PeerDisconnected, now: Now, out: Outbox) -> None:
        self.peers.disconnected(gone.peer, now.mono_s)
        self.dialling.dial(now, out)

    def _addresses(self, learned: AddressesLearned, now: Now, _out: Outbox) -> None:
        self.dialling.learn(learned, now)

    def _dial_ended(self, ended: DialEnded, now: Now, _out: Outbox) -> None:
        self.dialling.ended(ended, now)

    # The own disk.

    def _committed(self, committed: Committed, now: Now, out: Outbox) -> None:
        self.book.commit(dict(committed.heads))
        if self.disk_full:
            self.disk_full = False
            self.requests.refusal = STOPPING if self.stopping else None
            self.book.may_write = self.open
            for task in self.state.open.values():
                self.state.touch(task)
        self.submissions.answer_held(now, out)

    def _commit_failed(self, failed: CommitFailed, now: Now, out: Outbox) -> None:
        self.disk_full = True
        self.book.may_write = False
        self.requests.refusal = self.requests.refusal or DISK_FULL
        self.requests.refuse_waiting(DISK_FULL, out)
        # It is chained, so it is written, and runs, if there is room before this node ends.
        sentence = (
            "The ledger's disk is full, so the work is not accepted. It may still run once there is"
            " room; asked for again with the same idempotency key it does not run twice."
        )
        self.submissions.fail(Problem(failed.code, sentence), out)
        self.heartbeats.send(now, out)

    # This device.

    def _advertise(self, advertise: Advertise, now: Now, out: Outbox) -> None:
        self._capabilities = advertise.capabilities
        if self.book.may_write:
            self._write_capabilities(now, out)

    def _write_capabilities(self, now: Now, out: Outbox) -> None:
        advert = self.state.adverts.get(self.config.author)
        assert self._capabilities is not None
        if advert is None or advert.body != self._capabilities:
            self.book.write(self._capabilities, now, out)
            for task in self.state.open.values():
                self.state.touch(task)

    def _sample(self, taken: SampleTaken, _now: Now, _out: Outbox) -> None:
        self.heartbeats.sample = self.leader.own_sample = dict(taken.sample)

    def _attempt_ended(self, ended: AttemptEnded, now: Now, out: Outbox) -> None:
        self.device.ended(ended, now, out)
        self.children.forget(ended.attempt)

    def _issue_step(self, step: IssueStep, now: Now, out: Outbox) -> None:
        self.children.issue(step, self.device.task_of(step.attempt), now, out)

    def _blob(self, arrived: BlobArrived, now: Now, out: Outbox) -> None:
        self.owner.blob_arrived(arrived.blob, arrived.task, arrived.ok, now, out)

    # The end.

    def _stop(self, _stop: Stop, now: Now, out: Outbox) -> None:
        if self.stopping:
            return
        self.stopping = True
        self.requests.refusal = STOPPING
        self._stop_by_s = now.mono_s + self.config.timers.stop_s
        self._stop_heard_s = now.mono_s + STOP_HEARD_S
        self.leader.stop()
        self.device.stop(now, out)
        self.heartbeats.send(now, out)

    def _finish(self, now: Now, out: Outbox) -> None:
        if self._stopped:
            return
        if len(self.peers.alive) > 1 and now.mono_s < self._stop_heard_s:
            return
        if self.device.running:
            if now.mono_s < self._stop_by_s:
                return
            self.device.stop_running(out)
            if now.mono_s < self._stop_by_s + 1.0:
                return
        self.owner.hand_over(self.peers.writers, now, out)
        self.heartbeats.send(now, out)
        self._stopped = True
        out.then.append(Stopped())
