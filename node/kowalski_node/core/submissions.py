"""How work comes in: accepted whole or refused with the reason, and answered once it is durable.

A request is answered when its events are committed here and, where another member is live, when one
more holds them; that wait is bounded, and the answer says how many nodes hold the task.
`min_replicas` waits for more. Nothing that was answered is ever lost with a process.
"""

from __future__ import annotations

from collections.abc import Sequence

from kowalski_protocol.errors import Problem
from kowalski_protocol.events import TaskSubmitted
from kowalski_protocol.ids import Author, TaskId
from kowalski_protocol.limits import Limits, Timers
from kowalski_protocol.tasks import Submission, TaskSpec, task_id
from kowalski_protocol.topics import TASK

from .book import Book
from .effects import Answer, Outbox
from .inputs import Now, Submit
from .owner import Owner
from .peers import Peers
from .placement import refusal

MIN_REPLICAS_WAIT_S = 30.0


class _Accepted:
    __slots__ = ("ids", "needed", "seq", "ticket", "until_s")

    def __init__(self, ticket: int, ids: Sequence[TaskId], seq: int, needed: int, until_s: float):
        self.ticket = ticket
        self.ids = ids
        self.seq = seq
        self.needed = needed
        self.until_s = until_s


class Submissions:
    """Requests to run tasks, at the node where they come in."""

    def __init__(
        self, book: Book, peers: Peers, owner: Owner, timers: Timers, limits: Limits
    ) -> None:
        self._book = book
        self._peers = peers
        self._owner = owner
        self._timers = timers
        self._limits = limits
        self._unanswered: list[_Accepted] = []

    def submit(self, request: Submit, now: Now, out: Outbox) -> None:
        """Accepts all tasks of a request, or none."""
        try:
            self._check(request.submissions)
            ids = self._write(request, now, out)
        except Problem as problem:
            out.at_once.append(Answer(request.ticket, problem=problem))
            return
        seq = self._book.end(self._book.own_feed(TASK)).seq
        others = len(self._peers.alive) - 1
        if request.min_replicas is not None:
            needed, wait_s = request.min_replicas, MIN_REPLICAS_WAIT_S
        elif request.wait_for_replica and others > 0:
            needed, wait_s = 2, self._timers.replica_wait_s
        else:
            needed, wait_s = 1, 0.0
        self._unanswered.append(_Accepted(request.ticket, ids, seq, needed, now.mono_s + wait_s))

    def _check(self, submissions: Sequence[Submission]) -> None:
        state = self._book.state
        checked: set[tuple[str, str, str, str]] = set()
        for index, submission in enumerate(submissions):
            spec = submission.spec
            plain = not spec.requires
            kind = (spec.kind, spec.need, spec.failover, spec.device_filter)
            if plain and kind in checked:
                continue
            self._check_one(spec, index if len(submissions) > 1 else None)
            if plain:
                checked.add(kind)
        for submission in submissions:
            if submission.owner is not None and submission.owner not in state.members:
                raise Problem("bad_request", "'owner' is not a member of this cluster.")

    def check(self, spec: TaskSpec) -> None:
        """Raises Problem where this node can't submit one more task, or nobody could run it."""
        self._check_one(spec, None)
        self._check_room(1)

    def _check_one(self, spec: TaskSpec, index: int | None) -> None:
        refused = refusal(self._book.state, spec, self._book.author)
        if refused is not None:
            where = "" if index is None else f"Task {index} of the list: "
            raise Problem(refused.code, where + refused.sentence)

    def _write(self, request: Submit, now: Now, out: Outbox) -> list[TaskId]:
        state = self._book.state
        if (request.min_replicas or 0) > len(state.members):
            raise Problem(
                "bad_request",
                f"'min_replicas' asks for {request.min_replicas} devices that hold the task, and"
                f" the cluster has {len(state.members)}.",
            )
        default_owner = self._owner.choose_owner(self._peers.writers)
        chosen: list[tuple[TaskId, TaskSubmitted | None, bytes]] = []
        taken: dict[tuple[bytes, bytes], TaskId] = {}
        for submission, random_key in zip(request.submissions, request.keys, strict=True):
            key = submission.key if submission.key is not None else b"r" + random_key
            owner = submission.owner or self._owner_of(submission.key) or default_owner
            id = task_id(owner, key, submission.spec_bytes)
            if submission.key is not None:
                known = state.keys.get((owner, key)) or taken.get((owner, key))
                if known is not None and known != id:
                    raise Problem(
                        "key_conflict", "The idempotency key was used before with another task."
                    )
                if known is not None:
                    chosen.append((id, None, b""))
                    continue
                taken[(owner, key)] = id
            body = TaskSubmitted(owner, key, submission.spec_bytes)
            chosen.append((id, body, submission.payload))
        self._check_room(sum(body is not None for _, body, _ in chosen))
        for _, body, payload in chosen:
            if body is not None:
                self._book.write(body, now, out, payload)
        return [id for id, _, _ in chosen]

    def _check_room(self, more: int) -> None:
        """Only what is new takes room: a request that is tried again is answered as before."""
        open_now = self._book.state.open_by_submitter.get(self._book.author, 0)
        if more and open_now + more > self._limits.tasks_open_per_author_max:
            raise Problem(
                "too_many_tasks",
                f"This device has {open_now:,} unfinished tasks; {more:,} more pass"
                f" the limit of {self._limits.tasks_open_per_author_max:,}. Try again later.",
            )

    def _owner_of(self, key: bytes | None) -> Author | None:
        """Whose task this node submitted under an idempotency key, if it did: who would own a new
        one may have changed since, and a request that is tried again is still the same.
        """
        if key is None:
            return None
        state = self._book.state
        for member in state.members:
            known = state.keys.get((member, key))
            if known is not None and state.tasks[known].submitter == self._book.author:
                return member
        return None

    def replicas(self, seq: int) -> int:
        """How many nodes hold the own task feed up to `seq`, this one included."""
        held = sum(peer.acked.get(TASK, 0) >= seq for peer in self._peers.by_author.values())
        return held + (self._book.own_committed(TASK) >= seq)

    def fail(self, problem: Problem, out: Outbox) -> None:
        """The ledger can't be written: nothing that waits for its commit can be promised."""
        committed = self._book.own_committed(TASK)
        for accepted in self._unanswered:
            if accepted.seq > committed:
                out.at_once.append(Answer(accepted.ticket, problem=problem))
        self._unanswered = [a for a in self._unanswered if a.seq <= committed]

    @property
    def is_waiting(self) -> bool:
        """Whether anybody waits for an answer."""
        return bool(self._unanswered)

    def answer_held(self, now: Now, out: Outbox) -> None:
        """Answers what is held widely enough, or has waited long enough; called when heads move."""
        if not self._unanswered:
            return
        committed = self._book.own_committed(TASK)
        left: list[_Accepted] = []
        for accepted in self._unanswered:
            if committed < accepted.seq:
                left.append(accepted)
                continue
            replicas = self.replicas(accepted.seq)
            if replicas >= accepted.needed or now.mono_s >= accepted.until_s:
                answer = [(id, replicas) for id in accepted.ids]
                out.at_once.append(Answer(accepted.ticket, answer))
            else:
                left.append(accepted)
        self._unanswered = left
