"""What must come true once everything is healed, and within which time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from kowalski_ledger.state import Task
from kowalski_protocol.feeds import Feed
from kowalski_protocol.ids import Author, TaskId

from .conduct import unaware

if TYPE_CHECKING:
    from .device import Device
    from .world import World

LOOK_S = 1.0
AWARE_S = 60.0
"""Within so long of a heal all devices count on each other."""
WELL_S = 900.0
"""Whatever runs, waits and is tried again must have ended by then: the longest run takes a minute,
a task that kills its hosts takes them five seconds each time, and is tried nine times.
"""
STALLED_S = 120.0
"""Past that, as few devices as are left may take longer, while task after task ends."""


class _Fault(NamedTuple):
    sentence: str
    task: TaskId | None = None
    feed: Feed | None = None


class Liveness:
    """The second phase of a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def check(self) -> None:
        """Starts and wakes everybody, lets time pass, and judges the end."""
        world = self._world
        world.tell("everything heals")
        for device in world.devices:
            device.thaw()
            world.restart(device)
        began_s = world.agenda.now_s
        fault: _Fault | None = _Fault("nothing was looked at")
        until_s = began_s + WELL_S
        fewest = math.inf
        while fault is not None and world.agenda.now_s < until_s:
            world.agenda.run_until(world.agenda.now_s + LOOK_S)
            left = sum(len(device.core.state.open) for device in self._live())
            if left < fewest:
                fewest = left
                until_s = max(until_s, world.agenda.now_s + STALLED_S)
            fault = self._disagreement() or self._unfinished()
            if world.agenda.now_s - began_s >= AWARE_S:
                self._check_aware()
            elif unaware(self._live(), world.checks.conduct, 0.0) is not None:
                fault = fault or _Fault("not all count on each other")
        if fault is not None:
            world.checks.fail(
                "after a heal all is well", fault.sentence, task=fault.task, feed=fault.feed
            )
        world.tell(f"all is well after {world.agenda.now_s - began_s:.0f} s")
        self._judge()

    def _live(self) -> list[Device]:
        return [device for device in self._world.devices if device.is_up]

    def _disagreement(self) -> _Fault | None:
        live = self._live()
        missing = [d for d in self._world.devices if not d.is_up and not d.is_gone]
        if missing or not live:
            return _Fault(f"{(missing or self._world.devices)[0]} is not there")
        if self._world.checks.forked:
            return None  # What follows from a fork is not settled yet: two truths may stay.
        leaders = {d.core.state.leader.author if d.core.state.leader else None for d in live}
        if len(leaders) > 1:
            return _Fault("not all follow one leader")
        if not leaders <= {d.author for d in live}:
            return _Fault("nobody who is there leads")
        if len({d.core.book.heads_hash() for d in live}) > 1:
            return _Fault("not all hold the same events", feed=self._lacking(live))
        if len({d.core.state.digest() for d in live}) > 1:
            return _Fault("not all show one digest")
        return None

    def _lacking(self, live: list[Device]) -> Feed | None:
        for one in live:
            for feed, head in one.store.heads_now.items():
                for other in live:
                    there = other.store.heads_now.get(feed)
                    if there is None or there.seq < head.seq:
                        return feed
        return None

    def _check_aware(self) -> None:
        """Who is back is heard."""
        found = unaware(self._live(), self._world.checks.conduct, AWARE_S / 2)
        if found is not None:
            self._world.checks.fail("who is back is heard", f"{found[0]} does not hear {found[1]}")

    def _unfinished(self) -> _Fault | None:
        gone = [device for device in self._world.devices if device.is_gone]
        owners: set[Author] = {d.author for d in gone} | self._world.attackers
        names = {self._world.peer_id(device) for device in gone}
        for device in self._live():
            for task in device.core.state.open.values():
                if not self._may_stay_open(task, owners, names):
                    return _Fault(f"a task is open at {device}", task=task.id)
        return None

    def _may_stay_open(self, task: Task, owners: set[Author], names: set[str]) -> bool:
        """Whether nobody is left who could end it, or run it."""
        if self._world.checks.forked or task.submitted_hash is None or task.owner in owners:
            return True
        spec = task.spec
        if spec is None:
            return False
        # What must not be tried again waits for the device that has the result.
        kept = any(
            a.end is not None and a.end.is_blob and a.device in owners for a in task.attempts
        )
        return spec.requires.get("device") in names or (spec.failover == "fail" and kept)

    def _judge(self) -> None:
        world, live = self._world, self._live()
        world.checks.conduct.judge()
        admitted = {device.author for device in world.devices} | world.attackers
        for device in live:
            world.checks.check_digest(device)
            if strangers := set(device.core.state.members) - admitted:
                names = ", ".join(sorted(map(world.name_of, strangers)))
                world.checks.fail("only an admin lets in", f"{device} takes {names} for a member")
        for acknowledged in world.checks.acknowledged.values():
            records = (d.core.state.tasks.get(acknowledged.id) for d in live)
            is_known = any(record and record.submitted_hash for record in records)
            if not is_known and len(world.disks_hurt) < acknowledged.replicas:
                by = world.name_of(acknowledged.by)
                world.checks.fail(
                    "nothing acknowledged is lost",
                    f"a task that {by} acknowledged is nowhere",
                    task=acknowledged.id,
                )
