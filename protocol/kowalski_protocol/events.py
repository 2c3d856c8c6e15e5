"""The facts that members write: one frozen Struct per kind, past tense, encoded as a msgpack array.

A kind's fields only grow, at the end and with a default: a reader of an older release ignores what
it does not know, and a reader of a newer one fills in what is missing. Each kind belongs to one
topic. What an event *does* is the fold's business (kowalski_ledger.fold); here is only what it
says. Later work adds kinds (removal, roles, checkpoints, start grants, steps) to the tables at the
end of this file and nothing else.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

from .topics import RESULT, TASK

FEATURE_LEVEL: Final = 1
"""What this release understands; members advertise it, and a new kind waits until all know it."""


class Body(msgspec.Struct, frozen=True, array_like=True):
    """What every event body is: an array of plain values that belongs to one topic."""

    topic: ClassVar[str] = TASK


# Membership.


class ClusterFounded(Body, frozen=True):
    """The first event of the founder's task feed; the hash of this body is the cluster's id."""

    name: str
    founder: bytes
    device_name: str
    nonce: bytes
    recovery_key: bytes | None = None
    """The public key whose seed is the recovery code; its use comes with the trust work."""


class MemberAdmitted(Body, frozen=True):
    """An admin let a device in. The first admission by seniority counts (see membership)."""

    member: bytes
    device_name: str
    role: str


class InviteUsed(Body, frozen=True):
    """The invite with this hash has been redeemed, by this member; written beside the admission."""

    invite: bytes
    member: bytes


# What a device offers, and who places.


class CapabilitiesAdvertised(Body, frozen=True):
    """What the author's device can do; the newest of an author counts."""

    feature_level: int
    device_name: str
    kinds: tuple[str, ...]
    tools: tuple[str, ...]
    languages: dict[str, str]
    sandbox: str
    slots: int
    cores: int
    memory_total_bytes: int
    accelerators: tuple[str, ...]
    labels: dict[str, str]
    problems: tuple[str, ...] = ()
    costs: dict[str, float] = {}
    """What a run of a kind costs on this device, in the owner's unit (`--cost`)."""
    platform: str = ""


class LeaderClaimed(Body, frozen=True):
    """The author leads from epoch `epoch`, after the claim `previous` (empty for the first)."""

    epoch: int
    previous: bytes


class WeightsChanged(Body, frozen=True):
    """An admin changed the placement weights of one task kind; the newest counts."""

    kind: str
    weights: dict[str, float]


# Tasks: what is wanted, where it goes, how it ends.


class TaskSubmitted(Body, frozen=True):
    """A task was accepted. Its id is `tasks.task_id(owner, key, spec)`; `spec` is an encoded
    `TaskSpec`.
    """

    owner: bytes
    key: bytes
    spec: bytes


class TaskPlaced(Body, frozen=True):
    """The leader chose a device. This event's hash is the attempt's name."""

    task: bytes
    number: int
    device: bytes
    claim: bytes
    score: float
    considered: tuple[tuple[bytes, float], ...] = ()
    """The first 4 bytes of each device that was considered, with its score."""
    cell: int = 0
    """Which cell of its session it is, from 1; 0 for a task without a session."""
    after_task: bytes = b""
    after: bytes = b""
    """The task, and of it the attempt, that ran the session's cell before; empty for its first."""


class AttemptLost(Body, frozen=True):
    """The leader took the attempt's device for lost."""

    task: bytes
    attempt: bytes
    reason: str


class CancelRequested(Body, frozen=True):
    """A member asked for the task's end; its device stops at once, its owner decides."""

    task: bytes


class TaskOwnershipMoved(Body, frozen=True):
    """The owner handed on the right to settle. This event's hash is the tenure of `to`."""

    tasks: tuple[tuple[bytes, bytes], ...]
    """Pairs of (task, tenure under which the author held it)."""
    to: bytes


class TaskSettled(Body, frozen=True):
    """The owner's one word on how the task ended. `attempt` names what counts, where something
    does.
    """

    task: bytes
    tenure: bytes
    """The hash of the `TaskOwnershipMoved` that made the author owner; empty for the first owner.
    """
    outcome: str
    attempt: bytes = b""
    code: str = ""


# What devices report.


class TaskStarted(Body, frozen=True):
    """The attempt has begun and lasts; a short one is told by its result alone."""

    topic: ClassVar[str] = RESULT
    task: bytes
    attempt: bytes
    started_ms: int


class TaskCompleted(Body, frozen=True):
    """The attempt brought a result: the attachment (or blob) with this hash."""

    topic: ClassVar[str] = RESULT
    task: bytes
    attempt: bytes
    result_hash: bytes
    result_size_bytes: int
    started_ms: int
    run_us: int
    is_blob: bool = False
    """Whether the result itself is a blob rather than an attachment of this event."""
    files: tuple[bytes, ...] = ()
    """The blobs of the files that it left; the result has their names."""


class TaskFailed(Body, frozen=True):
    """The attempt failed with this code; output and sentence are in the result, as for a completed
    one.
    """

    topic: ClassVar[str] = RESULT
    task: bytes
    attempt: bytes
    result_hash: bytes
    result_size_bytes: int
    started_ms: int
    run_us: int
    code: str
    is_blob: bool = False


class TaskDeclined(Body, frozen=True):
    """The device will not run this attempt (or never finished it): no failure of the task."""

    topic: ClassVar[str] = RESULT
    task: bytes
    attempt: bytes
    reason: str


class StepTaken(Body, frozen=True):
    """The attempt took a child that an earlier attempt of its task had begun."""

    topic: ClassVar[str] = RESULT
    task: bytes
    attempt: bytes
    step: str
    child: bytes


class SessionRebuilt(Body, frozen=True):
    """For this attempt the device made its session's interpreter anew, from the recorded cells."""

    topic: ClassVar[str] = RESULT
    task: bytes
    attempt: bytes
    replayed: int
    """How many cells were run again."""
    diverged: tuple[int, ...] = ()
    """Those of them that brought another result than the recorded one."""
    passed_over: tuple[int, ...] = ()
    """Cells that were not run again, as they had not run to an end of their own."""


KINDS: Final[dict[str, type[Body]]] = {
    kind.__name__: kind
    for kind in (
        ClusterFounded,
        MemberAdmitted,
        InviteUsed,
        CapabilitiesAdvertised,
        LeaderClaimed,
        WeightsChanged,
        TaskSubmitted,
        TaskPlaced,
        AttemptLost,
        CancelRequested,
        TaskOwnershipMoved,
        TaskSettled,
        TaskStarted,
        TaskCompleted,
        TaskFailed,
        TaskDeclined,
        SessionRebuilt,
        StepTaken,
    )
}

MEMBERSHIP_KINDS: Final = frozenset({"ClusterFounded", "MemberAdmitted"})
"""The kinds from which membership is computed, before anything else counts."""

ROLES: Final = ("admin", "member")
"""The roles of this release; worker and observer come with the trust work."""

OUTCOMES: Final = (
    "completed",
    "failed",
    "cancelled",
    "timed_out",
    "refused",
    "outcome_unknown",
    "dead",
)


DEAD_OUTCOMES: Final = frozenset({"failed", "timed_out", "outcome_unknown", "dead"})
"""How a task ends that has used up its attempts, and that somebody may want to submit again."""


class Result(msgspec.Struct, frozen=True, array_like=True):
    """What an attempt brought: the bytes that `result_hash` names. `value` is JSON-like."""

    ok: bool
    value: Any = None
    stdout: str = ""
    stderr: str = ""
    code: str = ""
    sentence: str = ""
    files: tuple[tuple[str, str, int], ...] = ()
    """The files that it left: path, blob (hex SHA-256) and size in bytes of each."""
