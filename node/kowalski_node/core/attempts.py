"""What is under way, by device: counted from the ledger, so that a new leader knows it at once.

An attempt is under way from its placement until its device ends it, the leader gives its device up,
or the task settles. How long runs of a class take is learned from results; a device is given a few
attempts ahead of its slots, as many as it finishes in a short time, so that the way to the leader
and back is never waited for and a lost device never held more than moments of work.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from kowalski_ledger.state import Attempt, State, Task
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.limits import Limits
from kowalski_protocol.tasks import KINDS_THAT_WAIT

PREFETCH_S = 0.1
"""How much work a device may hold ahead; several commits and round trips."""
OWN_PREFETCH_S = 0.016
BRIEF_RUN_S = 0.002
"""Runs shorter than this cost less than what is written about them."""
LONG_RUN_S = 0.5
"""From here on a task waiting behind another costs more than a round trip: no prefetch."""
_SMOOTHING = 0.2


def lost_with(attempt: Attempt) -> bool:
    """Whether the device was lost while it had the attempt, also where it came back since.

    A device that comes back declines what it had; had it begun that, the attempt counts among those
    that took their device with them, so that a task that kills its hosts comes to an end.
    """
    end = attempt.end
    if end is None:
        return attempt.lost is not None
    if end.kind != "declined":
        return False
    return attempt.lost is not None or (
        end.code == "restarted" and attempt.started_hash is not None
    )


def has_end(task: Task) -> bool:
    """Whether the owner's word is here, and the device's word that it goes by.

    Either may arrive first; an end without its result would be no answer.
    """
    settled = task.settled
    if settled is None or not settled.attempt:
        return settled is not None
    attempt = task.attempt(settled.attempt)
    return attempt is not None and attempt.end is not None


def took_device(attempt: Attempt) -> bool:
    """Whether its device was lost or ended before the attempt did, begun or not."""
    end = attempt.end
    return attempt.lost is not None or (
        end is not None and end.kind == "declined" and end.code == "restarted"
    )


def takes_devices(lost: Sequence[Author], limits: Limits) -> bool:
    """Whether a task has lost so many devices that it may be what takes them.

    `lost` has the device of each attempt that was lost with it. Where there are few devices, one of
    them is lost again and again.
    """
    return len(set(lost)) >= limits.device_losses_max or len(lost) >= limits.losses_max


class Verdict(NamedTuple):
    """How a task has ended, by what its devices have said."""

    outcome: str
    completed: list[Attempt]
    """The attempts that brought a result, the earliest first."""
    attempt: Attempt | None
    """The one by which it failed."""
    code: str


def verdict(task: Task, limits: Limits) -> Verdict | None:
    """What a task has come to, whoever owns it; None while it may still come to something.

    A task that has settled is judged by its evidence all the same.
    """
    completed: list[tuple[int, EventHash, Attempt]] = []
    failed: list[tuple[int, Attempt, str]] = []
    lost: list[Author] = []
    for attempt in task.attempts:
        end = attempt.end
        if lost_with(attempt):
            lost.append(attempt.device)
        elif end is None:
            continue
        elif end.kind == "completed":
            completed.append((end.hlc, end.hash, attempt))
        elif end.kind == "failed":
            failed.append((end.hlc, attempt, end.code))
    if completed:
        completed.sort(key=lambda found: found[:2])
        return Verdict("completed", [attempt for _, _, attempt in completed], None, "")
    if task.cancel is not None:
        return Verdict("cancelled", [], None, "cancelled")
    spec = task.spec
    if spec is None:
        return None
    if len(failed) >= spec.max_attempts:
        _, attempt, code = max(failed, key=lambda f: f[0])
        return Verdict("timed_out" if code == "timed_out" else "failed", [], attempt, code)
    if lost and spec.failover == "fail":
        return Verdict("failed", [], None, "device_lost")
    if takes_devices(lost, limits):
        return Verdict("dead", [], None, "device_lost")
    return None


def is_abandoned(state: State, task: Task) -> bool:
    """Whether the task of which this one is a step has ended."""
    if task.child is None:
        return False
    parent = state.tasks.get(task.child.parent)
    return parent is not None and parent.settled is not None


def uses_slot(task: Task) -> bool:
    """Whether an attempt at a task takes one of its device's slots."""
    return task.spec is None or task.spec.kind not in KINDS_THAT_WAIT


class Attempts:
    """All attempts that are under way, on all devices."""

    def __init__(self, prefetch_max: int) -> None:
        self._prefetch_max = prefetch_max
        self.open: dict[EventHash, tuple[TaskId, Author, str]] = {}
        """Attempt -> (task, device, class of runs)"""
        self.by_device: dict[Author, dict[EventHash, TaskId]] = {}
        self.kept: dict[Author, dict[EventHash, TaskId]] = {}
        """Attempts whose result is a blob that perhaps their device alone has: the task has not
        settled.
        """
        self.counts: dict[Author, int] = {}
        """How many attempts are under way on each device, of those that take a slot."""
        self.waiting_counts: dict[Author, int] = {}
        """The same of those that only wait for their children."""
        self.completed: dict[Author, int] = {}
        self._burst: dict[Author, int] = {}
        """The same when the burst began."""
        self._run_s: dict[str, float] = {}

    def update(self, task: Task) -> None:
        """Takes in a task whose record has changed."""
        settled = task.settled is not None
        for attempt in task.attempts:
            known = attempt.hash in self.open
            under_way = attempt.is_open and not settled
            if under_way and not known:
                spec = task.spec
                kind = f"{spec.kind}/{spec.need}" if spec else ""
                self.open[attempt.hash] = (task.id, attempt.device, kind)
                self.by_device.setdefault(attempt.device, {})[attempt.hash] = task.id
                counts = self._counts(kind)
                counts[attempt.device] = counts.get(attempt.device, 0) + 1
            elif known and not under_way:
                _, _, kind = self.open.pop(attempt.hash)
                self.by_device[attempt.device].pop(attempt.hash, None)
                self._counts(kind)[attempt.device] -= 1
                self._learn(kind, attempt)
            end = attempt.end
            if end is not None and end.blobs and end.kind == "completed":
                if not settled:
                    self.kept.setdefault(attempt.device, {})[attempt.hash] = task.id
                elif attempt.device in self.kept:
                    self.kept[attempt.device].pop(attempt.hash, None)

    def _counts(self, kind: str) -> dict[Author, int]:
        waits = kind.partition("/")[0] in KINDS_THAT_WAIT
        return self.waiting_counts if waits else self.counts

    def _learn(self, kind: str, attempt: Attempt) -> None:
        end = attempt.end
        if end is None or end.kind == "declined":
            return
        self.completed[attempt.device] = self.completed.get(attempt.device, 0) + 1
        self.learn(kind, end.run_us / 1e6)

    def learn(self, kind: str, run_s: float) -> None:
        """A run of this class took so long."""
        old = self._run_s.get(kind)
        if old is None and len(self._run_s) > 1000:
            return
        self._run_s[kind] = run_s if old is None else old + _SMOOTHING * (run_s - old)

    def prefetch(self, kind: str, slots: int, *, own: bool = False, lead: int = 0) -> int:
        """How many attempts of a class a device may hold beyond its slots.

        The leader's own device waits for a commit and not for a round trip, so it needs less ahead;
        with as much as the others it would take most of every burst to itself. Of brief runs it
        gets as many fewer as it is in the `lead` by: there the work is in the writing, and its own
        is to place.
        """
        run_s = self._run_s.get(kind)
        if run_s is None:
            return slots
        if run_s >= LONG_RUN_S:
            return 0
        ahead_s = OWN_PREFETCH_S if own else PREFETCH_S
        ahead = max(1, min(self._prefetch_max, math.ceil(slots * ahead_s / max(run_s, 1e-4))))
        return max(0, ahead - max(0, lead)) if own and run_s < BRIEF_RUN_S else ahead

    def begin_burst(self) -> None:
        """Work waits again after none did: what each device finishes from here on is compared."""
        self._burst = dict(self.completed)

    def lead(self, device: Author, others: Collection[Author]) -> int:
        """By how many runs a device is ahead of the mean of others in this burst."""
        if not others:
            return 0
        done = {a: self.completed.get(a, 0) - self._burst.get(a, 0) for a in (device, *others)}
        return done[device] - sum(done[a] for a in others) // len(others)
