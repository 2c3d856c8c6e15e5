"""What the leader does: keeps the queue and places tasks; what every node does to have a leader.

The leader's queue is not stored: it follows from the ledger (open tasks without an open attempt),
so a new leader has it at once. Before its first placement a new leader listens to the live members
for a moment and thereby adopts what runs on them. Losing the leader stops no running work; placing
twice is possible in a partition and harmless.
"""

from __future__ import annotations

from kowalski_ledger.state import Attempt, Claim, Session, SessionKey, State, Task, Tip
from kowalski_protocol.codec import encode
from kowalski_protocol.events import AttemptLost, LeaderClaimed, TaskPlaced
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.limits import Limits, Timers
from kowalski_protocol.tasks import KINDS_THAT_WAIT, TaskSpec

from .attempts import (
    Attempts,
    class_of,
    failure_count,
    is_abandoned,
    lost_with,
    retry_wait_s,
    takes_devices,
)
from .book import Book
from .breakers import Breakers
from .effects import Outbox, SendHeads
from .election import may_lead, should_claim
from .hedging import Hedges
from .inputs import Now
from .peers import Peers
from .placement import Candidate, Measure, Placed, Waiting, candidates, choose
from .queue import Arrival, Queue
from .scoring import DEFAULT_WEIGHTS
from .sessions import cell_after, is_stopping, next_cell
from .sync import Sync

WAITING_MAX = 256
"""Attempts that only wait for their children, on one device."""
_MEASURES_S = 1.0
CELL_STOPS_S = 1.0
"""How long the next cell of a session waits at most for one that is being stopped."""


class Leader:
    """Election and placement of one node."""

    def __init__(
        self,
        book: Book,
        peers: Peers,
        sync: Sync,
        attempts: Attempts,
        timers: Timers,
        limits: Limits,
    ) -> None:
        self._book = book
        self._peers = peers
        self._sync = sync
        self._attempts = attempts
        self._timers = timers
        self._limits = limits
        self.queue = Queue(timers.ageing_s)
        self.breakers = Breakers(attempts)
        self._hedges = Hedges(attempts)
        self._ending: dict[SessionKey, tuple[TaskId, float]] = {}
        """Sessions of which a device still ends a cell, and until when the next one waits for it.
        """
        self._arrivals: dict[TaskId, Arrival] = {}
        """When this leader first saw each open task want a place."""
        self._turns = 0
        self._patience_until_s = 0.0
        self._arrivals_until_s = 0.0
        self._stopping = False
        self._claims_missing = 0
        self._seen: EventHash | None = None
        self._followed: tuple[Claim | None, int, int] | None = None
        self._ready_s: float | None = None
        """When placing may begin; None while another leads."""
        self._claimed_s = 0.0
        self.is_ready = False
        self._classes: dict[tuple[bytes, Author | None], list[Candidate] | Waiting] = {}
        self._classes_of: tuple[object, ...] = ()
        self.own_sample: dict[str, object] | None = None

    @property
    def leading(self) -> bool:
        """Whether this node is the leader, as far as it knows."""
        leader = self._book.state.leader
        return leader is not None and leader.author == self._book.author

    # Who leads.

    def elect(self, now: Now, out: Outbox) -> None:
        """Claims if it is this node's turn, and notices who leads."""
        state = self._book.state
        if len(state.claims_waiting) != self._claims_missing:
            self._seek_claim(out)
        if self.is_settled(state):
            return  # As after nearly every step.
        self._notice(state.leader, now, out)
        if (
            self._book.may_write
            and not self._stopping
            and not self._is_patient(now)
            and should_claim(state, self._book.author, self._peers.writers)
        ):
            previous = state.leader
            claim = (
                LeaderClaimed(previous.epoch + 1, previous.hash)
                if previous
                else LeaderClaimed(1, b"")
            )
            self._book.write(claim, now, out)
        self._notice(state.leader, now, out)
        if self._ready_s is not None and not self.is_ready:
            self._get_ready(now, out)
        leads = state.leader is not None and may_lead(state, state.leader.author)
        versions = (state.leader, state.members_version, state.adverts_version)
        self._followed = versions if leads else None

    def is_settled(self, state: State) -> bool:
        """Whether all is as it was when the leader was last looked at, it lives, and nothing waits
        for time to pass.
        """
        leader = state.leader
        return (
            leader is not None
            and len(state.claims_waiting) == self._claims_missing
            and self._followed == (leader, state.members_version, state.adverts_version)
            and leader.author in self._peers.writers
            and (self.is_ready or self._ready_s is None)
        )

    def _notice(self, leader: Claim | None, now: Now, out: Outbox) -> None:
        if leader is None or leader.hash == self._seen:
            return
        self._seen = leader.hash
        self.is_ready = False
        self.queue.clear()
        self._ending.clear()
        self._arrivals.clear()
        self._ready_s = None
        if leader.author == self._book.author:
            self.listen(now, out)
        elif leader.author not in self._peers.writers:
            # Its claim was read before it was heard, as after a restart or a partition: it is
            # given the time to be heard, or two nodes would outbid each other.
            self.patience_until(now.mono_s + self._timers.suspect_s)

    def listen(self, now: Now, out: Outbox) -> None:
        """Places nothing before it has heard the others, for a bounded time: as a new leader, and
        where it may have slept through the end of its time as one.
        """
        if not self.leading:
            return
        self.is_ready = False
        self.queue.clear()
        self._hedges.clear()
        others = self._peers.alive - {self._book.author}
        self._claimed_s = now.mono_s
        self._ready_s = now.mono_s + (self._timers.takeover_wait_s if others else 0.0)
        for peer in sorted(others):
            out.at_once.append(SendHeads(peer, dict(self._book.committed), True))

    def _seek_claim(self, out: Outbox) -> None:
        """A claim after one that is not here can't be judged, but its author has that one: asks."""
        waiting = self._book.state.claims_waiting
        if len(waiting) > self._claims_missing:
            event, _ = waiting[next(reversed(waiting))][-1]
            peer = self._peers.by_author.get(event.author)
            if peer is not None and peer.connected:
                out.at_once.append(SendHeads(event.author, dict(self._book.committed), True))
        self._claims_missing = len(waiting)

    def stop(self) -> None:
        """Neither claims nor places any more: the node is stopping."""
        self._stopping = True

    def patience_until(self, until_s: float, *, arrivals_until_s: float = 0.0) -> None:
        """Neither claims nor begins to place before: others may be there and not heard yet.

        It lasts up to `arrivals_until_s` while connections are being made, which takes a busy
        machine seconds.
        """
        self._patience_until_s = max(self._patience_until_s, until_s)
        self._arrivals_until_s = max(self._arrivals_until_s, arrivals_until_s)

    def _is_patient(self, now: Now) -> bool:
        if now.mono_s < self._patience_until_s:
            return True
        return now.mono_s < self._arrivals_until_s and self._peers.is_anybody_arriving

    def _get_ready(self, now: Now, out: Outbox) -> None:
        assert self._ready_s is not None
        if not self._book.may_write:
            return
        patient = self._is_patient(now)
        # A node that led before it was restarted may have been followed: all must have told, and
        # be heard, or what runs on them would seem lost.
        asked = self._book.state.members if patient else self._peers.alive
        told = all(
            author in self._peers.present
            and (self._peers.peer(author).heads_at_s or 0.0) >= self._claimed_s
            for author in sorted(asked)
            if author != self._book.author
        )
        is_early = patient or now.mono_s < self._ready_s
        if is_early and not (told and not self._sync.is_behind()):
            return
        self.is_ready = True
        self.give_up_lost(now, out)
        for task in list(self._book.state.open.values()):
            self.consider(task, now, out)

    # What to place.

    def give_up_lost(self, now: Now, out: Outbox) -> None:
        """Marks the attempts of devices that are gone, and queues their tasks again."""
        if not self.is_ready or not self._book.may_write:
            return
        attempts = self._attempts
        for device in dict.fromkeys((*attempts.by_device, *attempts.kept)):
            if device in self._peers.present:
                continue
            for kept in (attempts.by_device.get(device, {}), attempts.kept.get(device, {})):
                for task_id in list(kept.values()):
                    self.consider(self._book.state.tasks[task_id], now, out)

    def consider(self, task: Task, now: Now, out: Outbox) -> None:
        """Looks at a task whose record has changed: does it need a place?"""
        if self._attempts.ended:
            self.breakers.learn(now.mono_s)
        if not self.is_ready:
            return
        self._hedges.note(task, now.mono_s)
        self._consider(task, now, out)
        if task.session is not None:
            # What it leaves behind is not known before its device has told.
            is_waited_for = self._ending.get(task.session, (None, 0.0))[0] == task.id
            if is_stopping(task, self._peers.present):
                if not is_waited_for:
                    self._ending[task.session] = (task.id, now.mono_s + CELL_STOPS_S)
            elif is_waited_for:
                del self._ending[task.session]
            self._consider_next(self._book.state.sessions[task.session], now, out)

    def _consider_next(self, session: Session, now: Now, out: Outbox) -> None:
        following = next_cell(session, self._peers.present)
        if following is not None:
            self._consider(following, now, out)

    def _consider(self, task: Task, now: Now, out: Outbox) -> None:
        if not self._wants_place(task, now, out):
            self.queue.remove(task.id)
            if task.settled is not None:
                self._arrivals.pop(task.id, None)
            return
        if task.id in self.queue and not (task.session and self.queue.is_delayed(task.id)):
            return
        wait_s = retry_wait_s(task)
        if task.session in self._ending:
            wait_s = max(wait_s, self._ending[task.session][1] - now.mono_s)
        if wait_s > 0:
            self.queue.delay(task.id, now.mono_s + wait_s)
        else:
            self._enqueue(task, now)

    def _wants_place(self, task: Task, now: Now, out: Outbox) -> bool:
        spec = task.spec
        if task.settled is not None or spec is None or task.cancel is not None:
            return False
        if is_abandoned(self._book.state, task):
            return False
        failed: list[str] = []
        lost: list[Author] = []
        under_way = False
        for attempt in task.attempts:
            end = attempt.end
            if lost_with(attempt):
                lost.append(attempt.device)
            elif end is not None:
                if end.kind == "completed":
                    if not self._is_out_of_reach(task, attempt):
                        return False
                    lost.append(attempt.device)
                if end.kind == "failed":
                    failed.append(end.code)
            elif attempt.device in self._peers.present:
                under_way = True
            elif self._book.may_write:
                body = AttemptLost(task.id, attempt.hash, "device_lost")
                self._book.write(body, now, out)
                lost.append(attempt.device)
        if under_way or failure_count(spec, failed) >= spec.max_attempts:
            return False
        if spec.failover == "fail" and lost:
            return False
        if takes_devices(lost, self._limits):
            return False
        # Cells of one session run one at a time, in the order in which they were submitted.
        return task.session is None or task is next_cell(
            self._book.state.sessions[task.session], self._peers.present
        )

    def _is_out_of_reach(self, task: Task, attempt: Attempt) -> bool:
        """Whether only a device that is gone has the result that the owner waits for.

        An owner that is away waits for nothing: its task is not run again for its sake.
        """
        end = attempt.end
        return (
            end is not None
            and bool(end.blobs)
            and attempt.device != task.owner
            and attempt.device not in self._peers.present
            and task.owner in self._peers.present
        )

    def _enqueue(self, task: Task, now: Now) -> None:
        spec = task.spec
        assert spec is not None, "what has ended does not wait for a place"
        key = (_class(spec), task.submitter)
        if not len(self.queue):
            self._attempts.begin_burst()
        # Work that was lost stands where it stood, not behind all that came with it or since.
        arrival = self._arrivals.get(task.id)
        if arrival is None:
            self._turns += 1
            arrival = self._arrivals[task.id] = Arrival(now.mono_s, self._turns)
        self.queue.add(task.id, key, spec.priority, arrival)

    # Placing.

    def place(self, now: Now, out: Outbox) -> None:
        """Gives places to waiting tasks until devices or tasks run out; then to hedges."""
        if not self.is_ready or not self._book.may_write or self._stopping:
            return
        if not len(self.queue):
            self._hedge(now, out)
            return
        state = self._book.state
        for task_id in self.queue.due(now.mono_s):
            self._enqueue(state.tasks[task_id], now)
        self._refresh_classes(now)
        blocked: set[tuple[bytes, Author]] = set()
        prefetches: dict[str, dict[Author, int]] = {}
        while (turn := self.queue.next(blocked, now.mono_s)) is not None:
            task_id, key = turn
            task = state.tasks[task_id]
            spec = task.spec
            assert spec is not None, "what has ended does not wait for a place"
            live = self._usable(spec, key, now)
            if isinstance(live, Waiting):
                blocked.add(key)
                continue
            kind = class_of(task)
            waits = spec.kind in KINDS_THAT_WAIT
            counts = self._attempts.waiting_counts if waits else self._attempts.counts
            prefetch = prefetches.setdefault(kind, {})
            for c in live:
                if c.author not in prefetch:
                    prefetch[c.author] = WAITING_MAX if waits else self._prefetch(kind, c, live)
            tip = state.sessions[task.session].tip if task.session is not None else None
            if tip is not None:
                # Where its interpreter is, even if another device has a place now.
                live = [c for c in live if c.author == tip.device] or live
            tried = frozenset(attempt.device for attempt in task.attempts)
            shown = self._limits.considered_max
            placed = choose(live, counts, prefetch, shown, tried)
            if placed is None:
                blocked.add(key)
                continue
            self._place(task, placed, tip, now, out)
            self.queue.serve(task_id)
        self._hedge(now, out)

    def _place(self, task: Task, placed: Placed, tip: Tip | None, now: Now, out: Outbox) -> None:
        claim = self._book.state.leader
        assert claim is not None
        body = TaskPlaced(
            task.id,
            len(task.attempts) + 1,
            placed.device,
            claim.hash,
            placed.score,
            placed.considered,
            *cell_after(task, tip),
        )
        self._book.write(body, now, out)
        self._attempts.update(task)

    def _hedge(self, now: Now, out: Outbox) -> None:
        """Places a second attempt at what runs too long, where another device has a free slot."""
        for task in self._hedges.due(now.mono_s):
            spec = task.spec
            assert spec is not None, "what has ended is watched no longer"
            self._refresh_classes(now)
            live = self._usable(spec, (_class(spec), task.submitter), now)
            if isinstance(live, Waiting):
                continue
            tried = {attempt.device for attempt in task.attempts}
            others = [c for c in live if c.author not in tried]
            placed = choose(others, self._attempts.counts, {}, self._limits.considered_max)
            if placed is not None:
                self._place(task, placed, None, now, out)

    def _prefetch(self, kind: str, candidate: Candidate, live: list[Candidate]) -> int:
        if candidate.author != self._book.author:
            return self._attempts.prefetch(kind, candidate.slots)
        others = [c.author for c in live if c is not candidate]
        lead = self._attempts.lead(candidate.author, others)
        return self._attempts.prefetch(kind, candidate.slots, own=True, lead=lead)

    def _refresh_classes(self, now: Now) -> None:
        state = self._book.state
        versions = (
            state.members_version,
            state.adverts_version,
            self._peers.alive_version,
            len(state.weights_choices),
            max((c.hlc for c in state.weights_choices.values()), default=0),
            int(now.mono_s / _MEASURES_S),
        )
        if versions != self._classes_of:
            self._classes_of = versions
            self._classes.clear()

    def _usable(
        self, spec: TaskSpec, key: tuple[bytes, Author], now: Now
    ) -> list[Candidate] | Waiting:
        live = self._candidates(spec, key)
        if isinstance(live, Waiting) or not self.breakers.open_count:
            return live
        return self.breakers.usable(self._book.state, live, spec.kind, now.mono_s)

    def _candidates(self, spec: TaskSpec, key: tuple[bytes, Author]) -> list[Candidate] | Waiting:
        name = (key[0], None if spec.device_filter == "all" else key[1])
        found = self._classes.get(name)
        if found is None:
            state = self._book.state
            weights = state.weights().get(spec.kind) or DEFAULT_WEIGHTS.get(spec.kind, {})
            found = candidates(state, spec, key[1], self._peers.writers, self._measures(), weights)
            self._classes[name] = found
        return found

    def _measures(self) -> dict[Author, Measure]:
        measures = {
            author: Measure((peer.round_trip_s or 0.0) * 1000.0, peer.sample)
            for author, peer in self._peers.by_author.items()
        }
        measures[self._book.author] = Measure(0.0, self.own_sample)
        return measures

    def waiting_reason(self, task: Task) -> str | None:
        """Why a task of the queue is not placed, as a sentence.

        None where it does not wait here.
        """
        if task.spec is None:
            return None
        if task.id not in self.queue:
            is_cell = task.session is not None and not task.attempts
            return "waits for the cells of its session before it" if is_cell else None
        key = self.queue.bucket_of(task.id)
        if key is None:
            return "waits before its next attempt"
        live = self._candidates(task.spec, key)
        if isinstance(live, Waiting):
            return live.sentence
        reason = self.breakers.reason(self._book.state, live, task.spec.kind)
        return reason or "waits for a free place"


def _class(spec: TaskSpec) -> bytes:
    return encode((spec.kind, spec.need, spec.requires, spec.device_filter, spec.session))
