"""A month in the life of a home cluster: how often people are served while one device fails a day.

Devices crash, lose power, freeze or sleep with a closed lid, one of them each day and for up to an
hour. People look at the cluster and submit work at devices that are up, once a minute on average.
What is counted is whether a device that is up serves them: a read needs a node that is ready, a
submission is answered with its task within `ANSWER_S`. Where a device ends before it answers, its
people submit the same work again elsewhere, with the same key, and are counted as served late.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.tasks import parse_task

from .checks import Checks
from .device import Device
from .faults import Fault
from .options import Options
from .workload import Workload
from .world import World

DAY_S = 86_400.0
KINDS = ("crash", "power_cut", "pause", "closed_lid", "graceful_stop")
EVERY_S = 60.0
ANSWER_S = 5.0


class Availability(msgspec.Struct, frozen=True):
    """What was counted."""

    days: float
    nodes: int
    failures: int
    reads: int
    reads_refused: int
    """At devices that were up, but not ready."""
    submissions: int
    submissions_late: int
    """Accepted at a second attempt or later: the first device ended, or was not ready in time."""
    submissions_failed: int
    """That ended in an error, or were never answered by anybody."""
    settled: int

    @property
    def available(self) -> float:
        """The share of reads and submissions that were served at once."""
        asked = self.reads + self.submissions
        return 1.0 - (self.reads_refused + self.submissions_late + self.submissions_failed) / asked


class _Request(msgspec.Struct):
    """One thing that somebody wants done, wherever."""

    key: bytes
    tries: int = 0
    is_done: bool = False


class _People(Workload):
    """Somebody asks something once in a while, and tries again elsewhere where nobody answers."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.world = world
        self.chance = world.options.stream("people")
        self.open: dict[tuple[str, int, int], _Request] = {}
        """(device, its life, ticket) -> what it was asked for."""
        self.requests: list[_Request] = []
        self.reads = 0
        self.refused = 0

    def begin(self, length_s: float) -> None:
        self.until_s = self.world.agenda.now_s + length_s
        self._wait()

    def _wait(self) -> None:
        self.world.agenda.after(self.chance.expovariate(1.0 / EVERY_S), self._ask)

    def _ask(self) -> None:
        if self.world.agenda.now_s >= self.until_s:
            return
        self._wait()
        up = [device for device in self.world.devices if device.is_listening]
        if not up:
            return
        self.reads += 1
        if not self.chance.choice(up).core.open:
            self.refused += 1
        request = _Request(self.chance.randbytes(16))
        self.requests.append(request)
        self.submitted += 1
        self._try(request)

    def _try(self, request: _Request) -> None:
        up = [device for device in self.world.devices if device.is_listening]
        if request.is_done or request.tries >= 5 or not up:
            return
        request.tries += 1
        device = self.chance.choice(up)
        self._tickets += 1
        spec = {"kind": "tool", "payload": {"tool": "sleep", "args": {"seconds": 2.0}}}
        self.open[device.name, device.life, self._tickets] = request
        device.give(ins.Submit(self._tickets, [parse_task(spec)], [request.key]))
        self.world.agenda.after(ANSWER_S, self._try, request)

    def answered(self, device: Device, answer: fx.Answer) -> None:
        """A device has answered."""
        request = self.open.pop((device.name, device.life, answer.ticket), None)
        if request is not None and answer.problem is None:
            request.is_done = True


class _Listening(Checks):
    """The checks, and people who hear what they are told."""

    people: _People

    def carried_out(self, device: Device, effect: fx.Effect) -> None:
        super().carried_out(device, effect)
        if isinstance(effect, fx.Answer):
            self.people.answered(device, effect)


def failures(chance: random.Random, days: float, nodes: int) -> list[Fault]:
    """One a day, of any kind, at any time, for a minute to an hour."""
    faults: list[Fault] = []
    for day in range(int(days)):
        at_s = (day + chance.random()) * DAY_S
        lasts_s = 60.0 * 60.0 ** chance.random()
        whom = (chance.randrange(nodes),)
        faults.append(Fault(day, chance.choice(KINDS), at_s, lasts_s, whom, chance.random()))
    return faults


def measure(
    days: float,
    nodes: int,
    seed: int = 0,
    told: Callable[[float], object] = lambda _days: None,
) -> Availability:
    """Lives through so many days; raises `Broken` where a promise does not hold."""
    world = World(
        Options(seed=seed, nodes=nodes, minutes=days * DAY_S / 60.0, preset="wan", faults=())
    )
    people = _People(world)
    checks = _Listening(world)
    checks.people = people
    world.checks, world.workload = checks, people
    world.schedule = failures(world.options.stream("failures"), days, nodes)
    for day in range(int(days) + 1):
        world.agenda.at(day * DAY_S, told, float(day))
    world.run()
    late = sum(request.is_done and request.tries > 1 for request in people.requests)
    return Availability(
        days,
        nodes,
        len(world.faults.happened),
        people.reads,
        people.refused,
        len(people.requests),
        late,
        sum(not request.is_done for request in people.requests),
        sum(world.devices[0].core.state.settled.values()),
    )
