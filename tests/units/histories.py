"""Histories that members could write: feeds of facts, right and wrong, and ways to deliver them.

A history is what a few devices wrote, each into its own two feeds. Nothing in it is arranged for
the fold: members are admitted twice or late or by those who may not admit, results come from the
wrong device, owners hand on what they no longer own, bodies do not decode. `made_up` writes one
from a seed; `interleave` delivers its feeds in another order, `cut` as frames cut elsewhere.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from kowalski_ledger.fold import cluster_id, fold
from kowalski_ledger.state import State
from kowalski_protocol import events as e
from kowalski_protocol.codec import encode
from kowalski_protocol.events import Body
from kowalski_protocol.feeds import (
    Event,
    check_signature,
    decode_header,
    encode_frame,
    event_hash,
    genesis,
    open_frame,
    signed_message,
)
from kowalski_protocol.identity import Identity
from kowalski_protocol.ids import Author, ClusterId, EventHash, TaskId
from kowalski_protocol.tasks import TaskSpec, child_key, task_id
from kowalski_protocol.topics import RESULT, TASK

FIRST_HLC = 1_790_000_000_000 << 16
OUTCOMES = ("completed", "failed", "cancelled", "dead", "of_a_later_release")
SPECS = (
    encode(TaskSpec("tool", "echo", bytes(32), 0)),
    encode(TaskSpec("code", "python", bytes(32), 0, session="notes")),
    encode(TaskSpec("code", "python", bytes(32), 1, session="notes")),
)
KEYS = (b"kone", b"r" + bytes(16))
CHILD = encode(TaskSpec("tool", "echo", bytes(32), 0, parent=bytes(16), step="one", memo=bytes(32)))


class Writer:
    """A device that writes what it is told into its own feeds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.identity = Identity(hashlib.sha256(name.encode()).digest())
        self.author: Author = self.identity.author
        self.cluster = ClusterId(bytes(32))
        self.hlc = FIRST_HLC
        self.feeds: dict[str, list[Event]] = {TASK: [], RESULT: []}

    def raw(self, topic: str, kind: str, body: bytes, *, later: int = 1) -> Event:
        """The next event of a feed, whatever it says; `later` is by how much its time rises."""
        feed = self.feeds[topic]
        self.hlc += later
        prev = feed[-1].hash if feed else genesis(self.cluster, self.author, topic)
        seq = len(feed) + 1
        hash = event_hash(prev, seq, self.hlc, kind, body)
        feed.append(Event(self.author, topic, seq, self.hlc, kind, body, hash))
        return feed[-1]

    def write(self, body: Body, *, later: int = 1) -> Event:
        """The next event of the feed that the body belongs to."""
        return self.raw(body.topic, type(body).__name__, encode(body), later=later)


class History:
    """A cluster's founder, the other devices, and all that they wrote."""

    def __init__(self, devices: int) -> None:
        self.devices = [Writer(f"device {number}") for number in range(devices)]
        self.founder = self.devices[0]
        self.founded = e.ClusterFounded("home", self.founder.author, self.founder.name, b"nonce")
        self.cluster = cluster_id(encode(self.founded))
        for device in self.devices:
            device.cluster = self.cluster
        self.written: list[Event] = []
        self.claims: list[Event] = []
        self.tasks: dict[TaskId, Author] = {}
        self.attempts: dict[EventHash, tuple[TaskId, Writer]] = {}
        self.tenures: dict[TaskId, list[tuple[bytes, Writer]]] = {}
        self.write(self.founder, self.founded)

    def __repr__(self) -> str:
        return "\n".join(["History:", *(f"  {event!r}" for event in self.written)])

    def write(self, device: Writer, body: Body, *, later: int = 1) -> Event:
        event = device.write(body, later=later)
        self.written.append(event)
        return event

    def raw(self, device: Writer, topic: str, kind: str, body: bytes) -> Event:
        event = device.raw(topic, kind, body)
        self.written.append(event)
        return event

    @property
    def feeds(self) -> list[list[Event]]:
        return [feed for device in self.devices for feed in device.feeds.values() if feed]

    def by_author(self, author: bytes) -> Writer:
        return next(device for device in self.devices if device.author == author)

    # What the tests write most.

    def admit(self, admitter: Writer, member: Writer, role: str = "member") -> Event:
        return self.write(admitter, e.MemberAdmitted(member.author, member.name, role))

    def admit_all(self, role: str = "member") -> None:
        for device in self.devices[1:]:
            self.admit(self.founder, device, role)

    def submit(
        self, device: Writer, key: bytes = b"kone", *, owner: Writer | None = None, spec: int = 0
    ) -> TaskId:
        holder = owner or device
        self.write(device, e.TaskSubmitted(holder.author, key, SPECS[spec]))
        id = task_id(holder.author, key, SPECS[spec])
        self.tasks.setdefault(id, holder.author)
        self.tenures.setdefault(id, [(b"", holder)])
        return id

    def place(
        self, leader: Writer, task: TaskId, device: Writer, claim: bytes = b"", cell: int = 0
    ) -> EventHash:
        event = self.write(leader, e.TaskPlaced(task, 1, device.author, claim, 0.5, (), cell))
        self.attempts[event.hash] = (task, device)
        return event.hash

    def complete(self, device: Writer, task: bytes, attempt: bytes) -> Event:
        return self.write(device, e.TaskCompleted(task, attempt, bytes(32), 3, 0, 100))

    def fail(self, device: Writer, task: bytes, attempt: bytes, code: str = "tool_failed") -> Event:
        return self.write(device, e.TaskFailed(task, attempt, bytes(32), 3, 0, 100, code))

    def move(self, owner: Writer, to: Writer, *tasks: tuple[TaskId, bytes]) -> EventHash:
        event = self.write(owner, e.TaskOwnershipMoved(tuple(tasks), to.author))
        for task, _ in tasks:
            self.tenures.setdefault(task, []).append((event.hash, to))
        return event.hash

    def settle(
        self, owner: Writer, task: bytes, tenure: bytes = b"", outcome: str = "completed"
    ) -> Event:
        return self.write(owner, e.TaskSettled(task, tenure, outcome))


# Making one up.


class _Scribe:
    """Makes up what comes next; right more often than not, and wrong in every way there is."""

    def __init__(self, history: History, chance: random.Random) -> None:
        self.history = history
        self.chance = chance

    def pick(self, choices: Sequence[Any]) -> Any:
        return self.chance.choice(choices)

    def rightly(self) -> bool:
        return self.chance.random() < 0.85

    def device(self) -> Writer:
        return self.pick(self.history.devices)

    def later(self) -> int:
        # Times of different devices meet, and one runs far ahead.
        return self.pick((1, 1, 2, 5, 1 << 40))

    def task(self) -> TaskId:
        known = list(self.history.tasks)[:4]
        return self.pick(known) if known and self.rightly() else TaskId(self.pick((b"x" * 16, b"")))

    def attempt(self) -> tuple[TaskId, EventHash, Writer]:
        known = list(self.history.attempts.items())[-4:]
        if known and self.rightly():
            hash, (task, device) = self.pick(known)
            return task, hash, device if self.rightly() else self.device()
        return self.task(), EventHash(b"y" * 32), self.device()

    def held(self) -> tuple[TaskId, bytes, Writer]:
        """A task, a tenure and who has it under that."""
        task = self.task()
        tenures = self.history.tenures.get(task)
        if tenures and self.rightly():
            tenure, owner = tenures[-1] if self.rightly() else self.pick(tenures)
            return task, tenure, owner if self.rightly() else self.device()
        return task, self.pick((b"", b"z" * 32)), self.device()

    def opens(self) -> None:
        """Most devices are admitted somehow, by the founder or by each other, to begin with."""
        history = self.history
        for device in history.devices[1:]:
            if self.chance.random() < 0.85:
                admitter = history.founder if self.chance.random() < 0.5 else self.device()
                history.admit(admitter, device, self.pick(("member", "admin")))

    def step(self) -> None:
        getattr(self, self.pick(_ACTIONS))()

    def admits(self) -> None:
        role = self.pick(("member", "member", "admin", "observer"))
        body = e.MemberAdmitted(self.device().author, self.pick("ab"), role)
        self.history.write(self.device(), body, later=self.later())

    def advertises(self) -> None:
        labels = self.pick(({}, {"home": "yes"}))
        body = e.CapabilitiesAdvertised(
            1, "n", ("tool",), ("echo",), {}, "none", self.pick((1, 2)), 2, 1 << 30, (), labels
        )
        self.history.write(self.device(), body)

    def claims(self) -> None:
        history = self.history
        known = [(event.hash, msgspec.msgpack.decode(event.body)[0]) for event in history.claims]
        previous, epoch = self.pick([(b"", 0), *known, *known[-1:] * 3, (b"w" * 32, 3)])
        epoch += 1 if self.rightly() else self.pick((0, 2, 1 << 62))
        body = e.LeaderClaimed(epoch, previous)
        history.claims.append(history.write(self.device(), body, later=self.later()))

    def weighs(self) -> None:
        body = e.WeightsChanged(self.pick(("tool", "code")), {"load": self.pick((0.5, 1.0))})
        self.history.write(self.device(), body, later=self.later())

    def uses_an_invite(self) -> None:
        size = 32 if self.rightly() else 5
        self.history.write(self.device(), e.InviteUsed(b"i" * size, self.device().author))

    def submits(self) -> None:
        owner = self.pick(self.history.devices[:2])
        submitter = owner if self.rightly() else self.device()
        spec = self.pick((0, 0, 1, 2))
        id = self.history.submit(submitter, self.pick(KEYS), owner=owner, spec=spec)
        assert id in self.history.tasks

    def places(self) -> None:
        claim = self.pick(self.history.claims).hash if self.history.claims else b""
        cell = self.pick((0, 1, 1, 2))
        self.history.place(self.device(), self.task(), self.device(), claim, cell)

    def starts(self) -> None:
        task, attempt, device = self.attempt()
        self.history.write(device, e.TaskStarted(task, attempt, 5), later=self.later())

    def ends(self) -> None:
        task, attempt, device = self.attempt()
        what = self.pick(("completed", "completed", "failed", "declined"))
        if what == "completed":
            self.history.complete(device, task, attempt)
        elif what == "failed":
            self.history.fail(device, task, attempt)
        else:
            self.history.write(device, e.TaskDeclined(task, attempt, "fenced"))

    def issues(self) -> None:
        """Submits a child, and says that it took one over."""
        task, attempt, device = self.attempt()
        owner = device if self.rightly() else self.device()
        key = child_key(attempt, self.pick((bytes(32), b"m" * 32)))
        self.history.write(device, e.TaskSubmitted(owner.author, key, CHILD), later=self.later())
        self.history.write(device, e.StepTaken(task, attempt, "one", self.task()))

    def rebuilds(self) -> None:
        task, attempt, device = self.attempt()
        self.history.write(device, e.SessionRebuilt(task, attempt, 2, (1,)), later=self.later())

    def loses(self) -> None:
        task, attempt, _ = self.attempt()
        self.history.write(self.device(), e.AttemptLost(task, attempt, "device_lost"))

    def cancels(self) -> None:
        self.history.write(self.device(), e.CancelRequested(self.task()), later=self.later())

    def moves(self) -> None:
        held = [self.held() for _ in range(self.pick((1, 1, 2, 3)))]
        pairs = [(task, tenure) for task, tenure, _ in held]
        self.history.move(held[0][2], self.device(), *pairs)

    def settles(self) -> None:
        task, tenure, owner = self.held()
        self.history.settle(owner, task, tenure, self.pick(OUTCOMES))

    def babbles(self) -> None:
        topic = self.pick((TASK, RESULT))
        kind = self.pick(("StepCompleted", "TaskSubmitted", "MemberAdmitted", "TaskSettled"))
        body = self.pick((b"", b"\xc1", b"\x90", b"\x93\xc4\x01", b"\x91" * 500, b"\xa1\xff"))
        self.history.raw(self.device(), topic, kind, body)

    def mistakes_the_topic(self) -> None:
        event = self.pick(self.history.written)
        topic = RESULT if event.topic == TASK else TASK
        self.history.raw(self.device(), topic, event.kind, event.body)

    def repeats(self) -> None:
        """Says once more what somebody said: a second result, a rival admission, a copied claim."""
        event = self.pick(self.history.written)
        self.history.raw(self.device(), event.topic, event.kind, event.body)


_ACTIONS = (
    *("admits",) * 3,
    *("submits",) * 4,
    *("places",) * 5,
    *("ends",) * 5,
    *("moves",) * 4,
    *("settles",) * 2,
    *("claims",) * 3,
    "advertises",
    "weighs",
    "uses_an_invite",
    "starts",
    "issues",
    "rebuilds",
    "loses",
    "cancels",
    "babbles",
    "mistakes_the_topic",
    "repeats",
)


def made_up(devices: int, steps: int, seed: int) -> History:
    """The history of this seed; the same one every time."""
    history = History(devices)
    scribe = _Scribe(history, random.Random(seed))
    scribe.opens()
    for _ in range(steps):
        scribe.step()
    return history


def histories(*, steps_max: int = 120) -> st.SearchStrategy[History]:
    """Histories of two to five devices, of which some may never be admitted."""
    devices, steps = st.sampled_from((5, 4, 3, 2)), st.integers(0, steps_max)
    return st.builds(
        lambda devices, fewer, seed: made_up(devices, steps_max - fewer, seed),
        devices,
        steps,
        st.integers(0, 2**48),
    )


# Delivering it.


def interleave(feeds: Sequence[Sequence[Event]], seed: int) -> Iterator[Event]:
    """All events, each feed in its order, the feeds in any; some come again."""
    chance = random.Random(seed)
    places = [0] * len(feeds)
    open_ = [number for number, feed in enumerate(feeds) if feed]
    # One feed at a time, evenly, or with one that lags behind all others.
    bias = chance.choice((0.0, 0.5, 0.95))
    current = 0
    while open_:
        if current not in open_ or chance.random() > bias:
            current = chance.choice(open_)
        feed = feeds[current]
        yield feed[places[current]]
        if chance.random() < 0.1:
            yield feed[chance.randrange(places[current] + 1)]
        places[current] += 1
        if places[current] == len(feed):
            open_.remove(current)


def cut(history: History, feed: Sequence[Event], seed: int) -> list[Event]:
    """The same feed after a journey as frames that are cut anywhere."""
    chance = random.Random(seed)
    identity = history.by_author(feed[0].author).identity
    prev = genesis(history.cluster, feed[0].author, feed[0].topic)
    arrived: list[Event] = []
    at = 0
    while at < len(feed):
        end = min(len(feed), at + chance.randint(1, 8))
        run = [_unsigned(event) for event in feed[at:end]]
        run[-1].signature = identity.sign(signed_message(run[-1].hash))
        header = decode_header(encode_frame(history.cluster, run), history.cluster)
        assert check_signature(header)
        arrived += open_frame(header, prev, arrived[-1].hlc if arrived else 0)
        prev, at = arrived[-1].hash, end
    return arrived


def _unsigned(event: Event) -> Event:
    return Event(
        event.author, event.topic, event.seq, event.hlc, event.kind, event.body, event.hash
    )


def folded(history: History, events: Iterator[Event] | Sequence[Event]) -> State:
    """The state after these events."""
    state = State(history.cluster)
    for event in events:
        fold(state, event)
    return state


def shown(state: State) -> dict[str, Any]:
    """All of a state that must not depend on the order in which events came."""
    leader = state.leader
    return {
        "digest": state.digest(),
        "name": state.name,
        "members": list(state.members.items()),
        "leader": (leader.hash, leader.epoch, leader.author) if leader else None,
        "claims": set(state.claims),
        "adverts": {author: advert.hash for author, advert in state.adverts.items()},
        "weights": state.weights(),
        "invites": state.invites_used,
        "keys": state.keys,
        "settled": state.settled,
        "open": set(state.open),
        "children": {parent: set(found) for parent, found in state.children.items()},
        "memos": {memo: set(found) for memo, found in state.memos.items()},
        "taken": {
            attempt.hash: attempt.taken
            for task in state.tasks.values()
            for attempt in task.attempts
            if attempt.taken
        },
        "sessions": {
            key: (session.tip, set(session.open)) for key, session in state.sessions.items()
        },
        "open by submitter": {a: n for a, n in state.open_by_submitter.items() if n},
        "counted": state.counted,
        "tasks": {id: _shown_task(task) for id, task in state.tasks.items()},
    }


def _shown_task(task: Any) -> dict[str, Any]:
    return {
        "submitted": (task.submitted_hash, task.submitted_seq, task.submitter),
        "owner": (task.owner, task.tenure, [move.hash for move in task.moves]),
        "attempts": {
            attempt.hash: (
                attempt.device,
                attempt.started_hash,
                attempt.end,
                attempt.lost and attempt.lost.hash,
            )
            for attempt in task.attempts
        },
        "cancel": task.cancel and task.cancel.hash,
        "settled": task.settled,
        "spec": task.spec,
    }
