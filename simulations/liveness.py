"""What must come true once everything is healed, and within which time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kowalski_ledger.state import Task
from kowalski_protocol.ids import Author

if TYPE_CHECKING:
    from .world import World

LOOK_S = 1.0
SETTLE_S = 900.0
"""Whatever runs, waits and is tried again must have ended by then: the longest run takes 60 s on a
device that is no longer slow, and is tried a few times.
"""
AGREE_S = 60.0
"""How long one leader and one digest may take after the last thing that people asked for."""


class Liveness:
    """The second phase of a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def check(self) -> None:
        """Heals what is left, lets time pass, and judges the end."""
        world = self._world
        world.tell("everything heals")
        for device in world.devices:
            device.thaw()
            world.restart(device)
        began_s = world.agenda.now_s
        late = [d for d in world.devices if not d.is_up and not d.is_gone]
        if late:
            world.checks.fail("what can start starts", f"{late[0]} does not")
        why = "nothing was looked at"
        while world.agenda.now_s < began_s + SETTLE_S:
            world.agenda.run_until(world.agenda.now_s + LOOK_S)
            why = self._disagreement() or self._unfinished()
            if not why:
                break
        if why:
            world.checks.fail("after a heal all is well", why[0], **why[1])
        world.tell(f"all is well after {world.agenda.now_s - began_s:.0f} s")
        self._judge()

    def _live(self) -> list:
        return [d for d in self._world.devices if d.is_up]

    def _disagreement(self):
        world = self._world
        live = self._live()
        if not live:
            return "nobody is there", {}
        if world.checks.forked:
            return None  # What follows from a fork is not decided yet.
        leaders = {d.core.state.leader.author if d.core.state.leader else None for d in live}
        if len(leaders) > 1:
            return "not all follow one leader", {}
        (leader,) = leaders
        if leader is None or leader not in {d.author for d in live}:
            return "nobody who is there leads", {}
        heads = {d.core.book.heads_hash() for d in live}
        if len(heads) > 1:
            return "not all hold the same events", self._lacking()
        digests = {d.core.state.digest() for d in live}
        if len(digests) > 1:
            return "not all show one digest", {}
        return None

    def _lacking(self):
        live = self._live()
        for one in live:
            for other in live:
                for feed, head in one.store.heads_now.items():
                    there = other.store.heads_now.get(feed)
                    if there is None or there.seq < head.seq:
                        return {"feed": feed}
        return {}

    def _unfinished(self):
        world = self._world
        gone: set[Author] = {d.author for d in world.devices if d.is_gone}
        for device in self._live():
            for task in device.core.state.open.values():
                if not self._may_stay_open(task, gone):
                    return f"a task is open at {device}", {"task": task.id}
        return None

    def _may_stay_open(self, task: Task, gone: set[Author]) -> bool:
        if task.submitted_hash is None or task.owner in gone:
            return True
        if self._world.checks.forked:
            return True
        spec = task.spec
        named = spec.requires.get("device") if spec is not None else None
        names = {self._world.peer_id(d) for d in self._world.devices if d.is_gone}
        return named in names

    def _judge(self) -> None:
        world = self._world
        live = self._live()
        for device in live:
            world.checks.check_digest(device)
        lost_disks = len(world.disks_hurt)
        for acknowledged in world.checks.acknowledged.values():
            if any(acknowledged.id in d.core.state.tasks for d in live):
                continue
            if lost_disks >= acknowledged.replicas:
                continue
            world.checks.fail(
                "nothing acknowledged is lost",
                f"a task that {world.name_of(acknowledged.by)} acknowledged is nowhere",
                task=acknowledged.id,
            )
