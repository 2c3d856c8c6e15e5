"""What is under way, by device: counted from the ledger, so that a new leader knows it at once.

An attempt is under way from its placement until its device ends it, the leader gives its device up,
or the task settles. How long runs of a class take is learned from results; a device is given a few
attempts ahead of its slots, as many as it finishes in a short time, so that the way to the leader
and back is never waited for and a lost device never held more than moments of work.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from kowalski_ledger.state import Attempt, State, Task
from kowalski_protocol.ids import Author, EventHash, TaskId
from kowalski_protocol.limits import Limits
from kowalski_protocol.tasks import KINDS_THAT_WAIT, TaskSpec

PREFETCH_S = 0.1
"""How much work a device may hold ahead; several commits and round trips."""
OWN_PREFETCH_S = 0.016
BRIEF_RUN_S = 0.002
"""Runs shorter than this cost less than what is written about them."""
LONG_RUN_S = 0.5
"""From here on a task waiting behind another costs more than a round trip: no prefetch."""
_SMOOTHING = 0.2
_FRUITLESS_OFTEN = 3
_FRUITLESS_WAIT_S = 0.5
_FRUITLESS_WAIT_MAX_S = 10.0
"""Attempts that were declined or lost: from the third on, the next one waits, longer each time."""
_CLASSES_MAX: Final = 1000
RUNS_KEPT: Final = 200
"""Completed runs of a class that are remembered, so that a class that has changed is known soon."""
RUNS_MIN: Final = 20
"""Of fewer the 95th percentile is the longest of all, which tells nothing of the others."""

DEVICE_CODES: Final = frozenset({"disk_full", "executor_failed", "sandbox_unavailable"})
"""Failures that tell of the device and not of the task: no room for what is brought in or left, an
executor that broke, a program that could not be started.
"""
DEVICE_FAILURES_FREE: Final = 2
"""So many of them do not count against a task's attempts: as with lost devices, a third says that
it may be the task.
"""


def failure_count(spec: TaskSpec, codes: Iterable[str]) -> int:
    """How many of its `max_attempts` a task has used up, by the codes of its failures.

    What must not be run again unasked, and a cell, whose place is in the order of its session, have
    each failure counted.
    """
    count = of_device = 0
    for code in codes:
        count += 1
        of_device += code in DEVICE_CODES
    if spec.session or spec.failover == "fail":
        return count
    return count - min(of_device, DEVICE_FAILURES_FREE)


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


def retry_wait_s(task: Task) -> float:
    """How long a task waits before its next attempt, from its last one on."""
    spec = task.spec
    assert spec is not None, "what has ended does not wait for a place"
    failures = fruitless = 0
    for attempt in task.attempts:
        if attempt.end is not None and attempt.end.kind == "failed":
            failures += 1
        elif not attempt.is_open:
            fruitless += 1
    wait_s = 0.0
    if failures:
        # Jitter without randomness: from the id, so that a replay decides the same.
        seed = hashlib.sha256(task.id + bytes((failures & 255,))).digest()
        spread = 1.0 + spec.jitter * (seed[0] / 127.5 - 1.0)
        wait_s = min(86400.0, spec.backoff_s * 2.0 ** min(failures - 1, 20)) * spread
    if fruitless >= _FRUITLESS_OFTEN:
        # Two leaders that see different devices would place and give up in turns, without end.
        longer = 2.0 ** min(fruitless - _FRUITLESS_OFTEN, 20)
        wait_s = max(wait_s, min(_FRUITLESS_WAIT_MAX_S, _FRUITLESS_WAIT_S * longer))
    return wait_s


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
    # The other attempt of a task that was hedged may still bring a result.
    may_complete = spec.hedge and any(attempt.is_open for attempt in task.attempts)
    failures = failure_count(spec, [code for _, _, code in failed])
    if failures >= spec.max_attempts and not may_complete:
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


def class_of(task: Task) -> str:
    """The class of a task's runs: what they have in common that tells how long they take."""
    return f"{task.spec.kind}/{task.spec.need}" if task.spec else ""


class Ended(NamedTuple):
    """An attempt that its device has ended."""

    task: TaskId
    device: Author
    kind: str
    """The task's."""
    code: str
    """Empty where it has completed."""


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
        self._runs: dict[str, deque[float]] = {}
        """Class -> how long its last completed runs took."""
        self.ended: list[Ended] = []
        """What has ended and the breakers have not learned from yet."""

    def update(self, task: Task) -> None:
        """Takes in a task whose record has changed."""
        settled = task.settled is not None
        for attempt in task.attempts:
            known = attempt.hash in self.open
            under_way = attempt.is_open and not settled
            if under_way and not known:
                kind = class_of(task)
                self.open[attempt.hash] = (task.id, attempt.device, kind)
                self.by_device.setdefault(attempt.device, {})[attempt.hash] = task.id
                counts = self._counts(kind)
                counts[attempt.device] = counts.get(attempt.device, 0) + 1
            elif known and not under_way:
                _, _, kind = self.open.pop(attempt.hash)
                self.by_device[attempt.device].pop(attempt.hash, None)
                self._counts(kind)[attempt.device] -= 1
                self._learn(task.id, kind, attempt)
            end = attempt.end
            if end is not None and end.blobs and end.kind == "completed":
                if not settled:
                    self.kept.setdefault(attempt.device, {})[attempt.hash] = task.id
                elif attempt.device in self.kept:
                    self.kept[attempt.device].pop(attempt.hash, None)

    def _counts(self, kind: str) -> dict[Author, int]:
        waits = kind.partition("/")[0] in KINDS_THAT_WAIT
        return self.waiting_counts if waits else self.counts

    def has_any(self, device: Author, kind: str) -> bool:
        """Whether an attempt at a task of this kind is under way on a device."""
        under_way = self.by_device.get(device, ())
        return any(self.open[hash][2].startswith(f"{kind}/") for hash in under_way)

    def _learn(self, task: TaskId, kind: str, attempt: Attempt) -> None:
        end = attempt.end
        if end is None or end.kind == "declined":
            return
        self.ended.append(Ended(task, attempt.device, kind.partition("/")[0], end.code))
        if end.kind == "completed":
            runs = self._runs.get(kind)
            if runs is None and len(self._runs) < _CLASSES_MAX:
                runs = self._runs[kind] = deque(maxlen=RUNS_KEPT)
            if runs is not None:
                runs.append(end.run_us / 1e6)
        self.completed[attempt.device] = self.completed.get(attempt.device, 0) + 1
        self.learn(kind, end.run_us / 1e6)

    def learn(self, kind: str, run_s: float) -> None:
        """A run of this class took so long."""
        old = self._run_s.get(kind)
        if old is None and len(self._run_s) > _CLASSES_MAX:
            return
        self._run_s[kind] = run_s if old is None else old + _SMOOTHING * (run_s - old)

    def slow_s(self, kind: str) -> float | None:
        """How long nearly all (95 %) completed runs of a class took at most, of its last ones.

        None where too few are known.
        """
        runs = self._runs.get(kind, ())
        if len(runs) < RUNS_MIN:
            return None
        return sorted(runs)[math.ceil(0.95 * len(runs)) - 1]

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
