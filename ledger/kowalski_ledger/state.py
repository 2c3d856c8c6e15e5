"""What all counted events add up to: members, leadership, capabilities, weights and tasks.

The state is a value that `fold` changes one event at a time, and its content depends on the set of
events alone. A task is a record of evidence: who submitted it, where it was placed, what the
devices said, what its owner decided. What state the task is *in* follows from the record
(`views.py` and the core read it); nothing here knows the time or who is alive.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from kowalski_protocol.events import Body, CapabilitiesAdvertised, LeaderClaimed
from kowalski_protocol.feeds import Event
from kowalski_protocol.ids import Author, ClusterId, EventHash, TaskId
from kowalski_protocol.tasks import TaskSpec

from .digest import SetDigest
from .membership import Admission, Member, resolve

FOLD_VERSION: Final = 1
FINDINGS_MAX: Final = 1000


class Claim(msgspec.Struct, frozen=True):
    """A counted claim of leadership."""

    hash: EventHash
    author: Author
    epoch: int
    hlc: int
    seq: int


class Finding(msgspec.Struct, frozen=True):
    """Something that a member wrote and that does not count, for `audit`."""

    author: Author
    topic: str
    seq: int
    what: str


class Advert(msgspec.Struct, frozen=True):
    """The newest capabilities of a device."""

    hash: EventHash
    hlc: int
    body: CapabilitiesAdvertised


class WeightsChoice(msgspec.Struct, frozen=True):
    """One admin's newest weights for one task kind."""

    author: Author
    hlc: int
    hash: EventHash
    weights: dict[str, float]


class Place(msgspec.Struct, frozen=True):
    """Where an event stands, for those who want to read it again."""

    hash: EventHash
    author: Author
    seq: int
    hlc: int = 0


class End(msgspec.Struct, frozen=True):
    """How a device ended an attempt; the first word in its feed."""

    kind: str
    """completed | failed | declined"""
    hash: EventHash
    hlc: int
    seq: int
    """Where in the device's result feed it stands: its attachment is the result."""
    code: str = ""
    """The error code of a failure, the reason of a declination."""
    result_hash: bytes = b""
    result_size_bytes: int = 0
    is_blob: bool = False
    started_ms: int = 0
    run_us: int = 0
    files: tuple[bytes, ...] = ()
    """The blobs of the files that the attempt left."""

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """All that its device alone may have."""
        return (self.result_hash, *self.files) if self.is_blob else self.files


class Rebuilding(msgspec.Struct, frozen=True):
    """What a device said of the session that it made anew for an attempt."""

    hash: EventHash
    seq: int
    replayed: int
    diverged: tuple[int, ...]
    passed_over: tuple[int, ...]


class Attempt:
    """One placement of a task, named by the hash of its `TaskPlaced`."""

    __slots__ = (
        "after",
        "after_task",
        "cell",
        "claim",
        "device",
        "end",
        "hash",
        "hlc",
        "leader",
        "lost",
        "number",
        "placed_seq",
        "rebuilt",
        "started_hash",
        "started_ms",
        "started_seq",
        "taken",
    )

    def __init__(
        self,
        hash: EventHash,
        number: int,
        device: Author,
        claim: EventHash,
        leader: Author,
        hlc: int,
        placed_seq: int,
        cell: int = 0,
        after_task: bytes = b"",
        after: bytes = b"",
    ) -> None:
        self.hash = hash
        self.number = number
        self.device = device
        self.claim = claim
        self.leader = leader
        self.hlc = hlc
        self.placed_seq = placed_seq
        self.cell = cell
        """Which cell of its session it is, from 1; 0 without a session."""
        self.after_task = after_task
        self.after = after
        """The attempt that ran the cell before this one, and its task; empty for a first cell."""
        self.rebuilt: Rebuilding | None = None
        self.taken: tuple[Place, ...] = ()
        """The `StepTaken` events, in their order."""
        self.started_hash: EventHash | None = None
        self.started_ms = 0
        self.started_seq = 0
        self.end: End | None = None
        self.lost: Place | None = None
        """Of the `AttemptLost` events that name it, the one with the least hash."""

    @property
    def is_open(self) -> bool:
        """Whether its device may still bring a result, as far as the ledger says."""
        return self.end is None and self.lost is None


class Settlement(msgspec.Struct, frozen=True):
    """The owner's word."""

    hash: EventHash
    hlc: int
    author: Author
    seq: int
    outcome: str
    attempt: EventHash
    code: str


class Child(msgspec.Struct, frozen=True):
    """What makes a task a step of another one's attempt."""

    parent: TaskId
    attempt: EventHash
    memo: bytes


SessionKey = tuple[str, str]
"""(language, name): a session in another language is another one."""


class Tip(msgspec.Struct, frozen=True):
    """The cell of a session that ran last."""

    cell: int
    hlc: int
    attempt: EventHash
    task: TaskId
    device: Author


class Session:
    """Cells that share an interpreter."""

    __slots__ = ("open", "tip")

    def __init__(self) -> None:
        self.open: dict[TaskId, Task] = {}
        """The cells that have not settled."""
        self.tip: Tip | None = None
        """Where a partition brought two cells of one number, the one that ended first counts."""

    def ran(self, task: Task, attempt: Attempt) -> None:
        """Takes in the end of an attempt at one of its cells."""
        end = attempt.end
        if attempt.cell < 1 or end is None or end.kind == "declined":
            return
        tip = self.tip
        if tip is None or (-attempt.cell, end.hlc, attempt.hash) < (
            -tip.cell,
            tip.hlc,
            tip.attempt,
        ):
            self.tip = Tip(attempt.cell, end.hlc, attempt.hash, task.id, attempt.device)

    def note(self, task: Task) -> None:
        """Takes in that the record of one of its cells has changed."""
        if task.settled is None:
            self.open[task.id] = task
        else:
            self.open.pop(task.id, None)


class Task:
    """All evidence about one task.

    Without a submission it is only a place where early events wait.
    """

    __slots__ = (
        "attempts",
        "cancel",
        "child",
        "early",
        "id",
        "moves",
        "owner",
        "part",
        "session",
        "settled",
        "spec",
        "submitted_hash",
        "submitted_hlc",
        "submitted_seq",
        "submitter",
        "tenure",
        "tenures_past",
    )

    def __init__(self, id: TaskId) -> None:
        self.id = id
        self.submitted_hash: EventHash | None = None
        self.submitted_hlc = 0
        self.submitted_seq = 0
        self.submitter = Author(b"")
        self.owner = Author(b"")
        """Who may settle it now."""
        self.tenure: bytes = b""
        """Empty for the first owner, else the hash of the `TaskOwnershipMoved` that made this one.
        """
        self.tenures_past: tuple[bytes, ...] = ()
        self.moves: tuple[Place, ...] = ()
        """The `TaskOwnershipMoved` that counted, in order."""
        self.spec: TaskSpec | None = None
        """Kept while the task is open; afterwards the ledger has it."""
        self.attempts: list[Attempt] = []
        self.cancel: Place | None = None
        """The earliest `CancelRequested`."""
        self.settled: Settlement | None = None
        self.early: dict[bytes, list[tuple[Event, Body]]] | None = None
        """Events that name what has not arrived yet, by the attempt or tenure that they name."""
        self.session: SessionKey | None = None
        self.child: Child | None = None
        self.part: bytes | None = None
        """What it last added to the digest."""

    def attempt(self, hash: bytes) -> Attempt | None:
        """The attempt of this name."""
        for attempt in self.attempts:
            if attempt.hash == hash:
                return attempt
        return None

    def digest_part(self) -> bytes:
        """The hash of all that counts about the task."""
        parts = [self.id, self.submitted_hash or b"-", self.owner, self.tenure]
        attempts = self.attempts
        if len(attempts) > 1:
            attempts = sorted(attempts, key=_by_hash)
        for attempt in attempts:
            parts += (
                attempt.hash,
                attempt.started_hash or b"-",
                attempt.end.hash if attempt.end else b"-",
                attempt.lost.hash if attempt.lost else b"-",
            )
            if attempt.rebuilt is not None:
                parts.append(attempt.rebuilt.hash)
            parts += [place.hash for place in attempt.taken]
        parts.append(self.cancel.hash if self.cancel else b"-")
        parts.append(self.settled.hash if self.settled else b"-")
        return hashlib.sha256(b"|".join(parts)).digest()


def _by_hash(attempt: Attempt) -> bytes:
    return attempt.hash


class State:
    """The fold's value. Everything public may be read by anybody; only the fold changes it."""

    def __init__(self, cluster: ClusterId) -> None:
        self.cluster = cluster
        self.name = ""
        self.founder: Member | None = None
        self.members: dict[Author, Member] = {}
        """Most senior first."""
        self.admissions: dict[EventHash, Admission] = {}
        self.members_version = 0
        """Rises whenever `members` changes."""
        self.invites_used: dict[bytes, Author] = {}
        self.waiting: dict[Author, list[Event]] = {}
        """Events of authors who are not admitted, as far as is known."""
        self.folded: dict[tuple[Author, str], int] = {}
        self.adverts: dict[Author, Advert] = {}
        self.adverts_version = 0
        self.claims: dict[EventHash, Claim] = {}
        self.claims_waiting: dict[bytes, list[tuple[Event, LeaderClaimed]]] = {}
        """Claims by the claim before them, which has not arrived yet."""
        self.leader: Claim | None = None
        self.weights_choices: dict[tuple[str, Author], WeightsChoice] = {}
        self.tasks: dict[TaskId, Task] = {}
        self.open: dict[TaskId, Task] = {}
        """Submitted and not settled, in order of arrival."""
        self.open_by_submitter: dict[Author, int] = {}
        self.keys: dict[tuple[bytes, bytes], TaskId] = {}
        """(owner, idempotency key) -> task."""
        self.children: dict[TaskId, dict[TaskId, Task]] = {}
        """The children of each task that has any."""
        self.memos: dict[bytes, dict[TaskId, Task]] = {}
        """The children that were asked for with the same memo key."""
        self.sessions: dict[SessionKey, Session] = {}
        self.settled: dict[str, int] = {}
        """How many tasks ended with each outcome."""
        self.findings: list[Finding] = []
        self.counted = 0
        self.touched: dict[TaskId, Task] = {}
        """Tasks whose record changed; whoever acts on the state empties it."""
        self._dirty: dict[TaskId, Task] = {}
        self._tasks_digest = SetDigest()

    def find(self, event: Event, what: str) -> None:
        """Notes something that does not count."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(event.author, event.topic, event.seq, what))

    def touch(self, task: Task) -> None:
        """Marks a task whose record changed."""
        self.touched[task.id] = task
        self._dirty[task.id] = task
        if task.session is not None:
            self.sessions[task.session].note(task)

    def resolve_members(self) -> list[Author]:
        """Computes the members anew; returns those that were not in before."""
        assert self.founder is not None
        members = resolve(self.founder, self.admissions.values())
        if members == self.members:
            return []
        new = [author for author in members if author not in self.members]
        self.members = members
        self.members_version += 1
        self.choose_leader()
        return new

    def choose_leader(self) -> None:
        """The greatest claim: the highest epoch, then the most senior claimant, then the hash."""
        self.leader = min(self.claims.values(), key=self._rank, default=None)

    def claim(self, claim: Claim) -> None:
        """One more claim counts: the greatest so far stays the leader, or it is this one."""
        self.claims[claim.hash] = claim
        if self.leader is None or self._rank(claim) < self._rank(self.leader):
            self.leader = claim

    def _rank(self, claim: Claim) -> tuple[int, tuple[int, int, bytes], bytes]:
        return (-claim.epoch, self.members[claim.author].seniority, claim.hash)

    def weights(self) -> dict[str, dict[str, float]]:
        """The weights that admins chose, per task kind: the newest choice of an admin counts."""
        best: dict[str, WeightsChoice] = {}
        for (kind, author), choice in self.weights_choices.items():
            if self.members[author].role != "admin":
                continue
            if kind not in best or (choice.hlc, choice.hash) > (best[kind].hlc, best[kind].hash):
                best[kind] = choice
        return {kind: best[kind].weights for kind in sorted(best)}

    def digest(self) -> str:
        """The digest of everything that counts, as "VERSION:HEX"."""
        for task in self._dirty.values():
            part = task.digest_part()
            if part != task.part:
                if task.part is not None:
                    self._tasks_digest.remove(task.part)
                self._tasks_digest.add(part)
                task.part = part
        self._dirty.clear()
        rest: list[bytes] = [self.cluster]
        for author in sorted(self.members):
            member = self.members[author]
            rest += (author, member.hash, member.role.encode())
        for author in sorted(self.adverts):
            rest.append(self.adverts[author].hash)
        rest += sorted(self.claims)
        rest += sorted(choice.hash for choice in self.weights_choices.values())
        rest += sorted(self.invites_used)
        return f"{FOLD_VERSION}:{self._tasks_digest.hash(b'|'.join(rest)).hex()}"
