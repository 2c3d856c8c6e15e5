"""What goes wrong in a world: kinds of fault, the schedule that a seed draws, and doing it.

Each seed switches some kinds on (a swarm: rare combinations become common), and for each of them
draws how often, when, whom and for how long. The schedule is a list of values that is drawn before
the world begins, so that leaving out some of them leaves the others as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from kowalski_protocol.ids import Author

from .attackers import ATTACKS
from .newer import novelties

if TYPE_CHECKING:
    from .device import Device
    from .world import World


NEWCOMERS_MAX = 3


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong."""

    number: int
    kind: str
    at_s: float
    lasts_s: float
    whom: tuple[int, ...]
    """Indexes of devices, modulo how many there are."""
    how_much: float
    """From 0 to 1; each kind says what it means."""


class _Kind(msgspec.Struct, frozen=True):
    """How often a kind happens in ten minutes, for how long, to how many devices."""

    times: tuple[int, int]
    lasts_s: tuple[float, float]
    whom: int = 1


KINDS: Final[dict[str, _Kind]] = {
    # The network.
    "gossip_loss": _Kind((1, 4), (5, 120)),
    "delay": _Kind((1, 4), (5, 120)),
    "jitter": _Kind((1, 4), (5, 120)),
    "reorder": _Kind((1, 3), (5, 120)),
    "duplication": _Kind((1, 3), (5, 120)),
    "partition": _Kind((1, 5), (0.5, 60), whom=8),
    "one_way_partition": _Kind((1, 5), (0.5, 40), whom=8),
    "swizzle_clog": _Kind((1, 3), (5, 40), whom=8),
    "connection_reset": _Kind((2, 20), (0, 0), whom=2),
    # Processes.
    "pause": _Kind((1, 6), (0.3, 30)),
    "closed_lid": _Kind((0, 2), (30, 28_800)),
    "crash": _Kind((1, 8), (0.2, 30)),
    "crash_of_all": _Kind((0, 2), (0.5, 10)),
    "power_cut": _Kind((1, 6), (0.5, 40)),
    "graceful_stop": _Kind((1, 4), (1, 30)),
    "slow_device": _Kind((1, 3), (5, 60)),
    "straggler": _Kind((1, 3), (10, 120)),
    # Disks.
    "full_disk": _Kind((1, 3), (1, 40)),
    "slow_disk": _Kind((1, 4), (5, 60)),
    "lost_disk": _Kind((0, 1), (0, 0)),
    "bit_flip": _Kind((0, 2), (0, 0)),
    "restored_backup": _Kind((0, 2), (1, 5)),
    # Clocks.
    "clock_jump": _Kind((1, 4), (0, 0)),
    "clock_step_back": _Kind((1, 4), (0, 0)),
    "clock_drift": _Kind((1, 3), (30, 300)),
    "boot_in_1970": _Kind((1, 3), (1, 60)),
    # Members.
    "newcomer": _Kind((1, 2), (0, 0)),
    "newcomer_in_partition": _Kind((1, 1), (5, 40), whom=8),
    "founder_joins": _Kind((1, 1), (1, 10)),
    "newer_release": _Kind((1, 3), (5, 120)),
    # A member that lies.
    **{f"attack_{attack}": _Kind((1, 2), (5, 60)) for attack in ATTACKS},
    # Executors.
    "broken_executor": _Kind((1, 3), (5, 120)),
}


def drawn(chance: random.Random, length_s: float, kinds: tuple[str, ...]) -> list[Fault]:
    """The schedule of a run: faults of these kinds, in order of time."""
    faults: list[Fault] = []
    base = chance.random()
    for kind in kinds:
        # A stream for each kind: switching another one on or off changes nothing here.
        own = random.Random(f"{base}/{kind}")
        spec = KINDS[kind]
        low, high = spec.times
        times = own.randint(low, high) * length_s / 600.0
        count = int(times) + (own.random() < times % 1.0)
        for _ in range(count):
            shortest, longest = spec.lasts_s
            lasts_s = shortest * (longest / shortest) ** own.random() if shortest else 0.0
            whom = tuple(own.randrange(1 << 16) for _ in range(own.randint(1, spec.whom)))
            at_s = own.uniform(0.0, length_s)
            faults.append(Fault(0, kind, at_s, lasts_s, whom, own.random()))
    faults.sort(key=lambda fault: (fault.at_s, fault.kind))
    return [msgspec.structs.replace(fault, number=n) for n, fault in enumerate(faults)]


def swarm(chance: random.Random) -> tuple[str, ...]:
    """The kinds that a seed switches on: none, a few, or most of them."""
    share = chance.choice((0.0, 0.1, 0.2, 0.2, 0.4, 0.4, 0.7))
    attacks = chance.choice((0.0, 0.0, 0.2, 0.6))
    kinds = [
        kind
        for kind in KINDS
        if chance.random() < (attacks if kind.startswith("attack_") else share)
    ]
    # What follows from a fork is not settled yet, so most runs do without: they check more.
    if "attack_fork" in kinds and chance.random() < 0.8:
        kinds.remove("attack_fork")
    return tuple(kinds)


class Faults:
    """Does to a world what its schedule says, and ends it when that is over."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.under_way: dict[int, tuple[Fault, Callable[[], None]]] = {}
        self.happened: list[Fault] = []
        self._count = len(world.devices)
        self._climate = world.wire.weather
        self._weathers: list[dict[str, float]] = []
        self._slow_disks: dict[str, list[float]] = {}

    def plan(self, faults: list[Fault]) -> None:
        """Puts them on the agenda."""
        for fault in faults:
            if fault.number not in self._world.options.left_out:
                self._world.agenda.at(fault.at_s, self._begin, fault)

    def heal(self) -> None:
        """Ends all that is under way."""
        for fault, _ in list(self.under_way.values()):
            self._end(fault)

    def _begin(self, fault: Fault) -> None:
        end: Callable[[], None] | None
        if fault.kind.startswith("attack_"):
            end = self._attack(fault.kind.removeprefix("attack_"))
        else:
            end = getattr(self, f"_{fault.kind}")(fault)
        self.happened.append(fault)
        self._world.tell(f"fault {fault.number}: {fault.kind} {self._names(fault)}")
        if end is not None:
            self.under_way[fault.number] = (fault, end)
            self._world.agenda.after(fault.lasts_s, self._end, fault)

    def _end(self, fault: Fault) -> None:
        found = self.under_way.pop(fault.number, None)
        if found is not None:
            found[1]()
            self._world.tell(f"fault {fault.number}: {fault.kind} ends")

    def _names(self, fault: Fault) -> str:
        return ",".join(sorted({device.name for device in self._whom(fault)}))

    def _whom(self, fault: Fault) -> list[Device]:
        # Whom it meets does not depend on who came meanwhile, as long as they are there.
        devices, count = self._world.devices, self._count
        places = [index % (count + NEWCOMERS_MAX) for index in fault.whom]
        return [devices[place if place < len(devices) else place % count] for place in places]

    def _one(self, fault: Fault) -> Device:
        return self._whom(fault)[0]

    # The network.

    def _weather(self, **changes: float) -> Callable[[], None]:
        self._weathers.append(changes)
        self._blow()

        def end() -> None:
            self._weathers.remove(changes)
            self._blow()

        return end

    def _blow(self) -> None:
        """Of several bad weathers the worst is felt."""
        worst: dict[str, float] = {}
        for changes in self._weathers:
            for name, value in changes.items():
                usual: float = getattr(self._climate, name)
                worst[name] = max(value, worst.get(name, usual))
        self._world.wire.weather = self._climate._replace(**worst)

    def _gossip_loss(self, fault: Fault) -> Callable[[], None]:
        return self._weather(gossip_loss=fault.how_much * 0.9)

    def _delay(self, fault: Fault) -> Callable[[], None]:
        return self._weather(latency_s=0.005 + 0.3 * fault.how_much**3)

    def _jitter(self, fault: Fault) -> Callable[[], None]:
        return self._weather(jitter_s=0.005 + 0.2 * fault.how_much**2)

    def _reorder(self, fault: Fault) -> Callable[[], None]:
        return self._weather(reorder_s=2.0 * fault.how_much)

    def _duplication(self, fault: Fault) -> Callable[[], None]:
        return self._weather(duplicates=fault.how_much)

    def _sides(self, fault: Fault) -> list[tuple[Author, Author]]:
        one = {device.author for device in self._whom(fault)}
        all_ = list(self._world.wire.stations)
        return [(a, b) for a in all_ for b in all_ if a in one and b not in one]

    def _block(self, directions: list[tuple[Author, Author]]) -> Callable[[], None]:
        self._world.wire.block(directions)
        return lambda: self._world.wire.unblock(directions)

    def _partition(self, fault: Fault) -> Callable[[], None]:
        out = self._sides(fault)
        if fault.how_much < 0.5:
            # The network says so, as a cable that is pulled does not.
            for a, b in out:
                self._world.wire.reset(a, b)
        return self._block(out + [(b, a) for a, b in out])

    def _one_way_partition(self, fault: Fault) -> Callable[[], None]:
        return self._block(self._sides(fault))

    def _swizzle_clog(self, fault: Fault) -> Callable[[], None]:
        """Blocks devices one after the other, and lets them go in another order."""
        whom = list(dict.fromkeys(device.author for device in self._whom(fault)))
        agenda, wire = self._world.agenda, self._world.wire
        everybody = list(wire.stations)
        chance = random.Random(fault.how_much)
        blocked: dict[Author, list[tuple[Author, Author]]] = {}
        is_over = False

        def clog(author: Author) -> None:
            if not is_over:
                others = [a for a in everybody if a != author]
                blocked[author] = [(author, a) for a in others] + [(a, author) for a in others]
                wire.block(blocked[author])

        def release(author: Author) -> None:
            directions = blocked.pop(author, None)
            if directions is not None:
                wire.unblock(directions)

        for place, author in enumerate(whom):
            agenda.after(fault.lasts_s * 0.4 * place / len(whom), clog, author)
        chance.shuffle(whom)
        for place, author in enumerate(whom):
            agenda.after(fault.lasts_s * (0.5 + 0.4 * place / len(whom)), release, author)

        def end() -> None:
            nonlocal is_over
            is_over = True
            for author in list(blocked):
                release(author)

        return end

    def _connection_reset(self, fault: Fault) -> None:
        whom = self._whom(fault)
        if len(whom) > 1 and whom[0] is not whom[1]:
            self._world.wire.reset(whom[0].author, whom[1].author)

    # Processes.

    def _pause(self, fault: Fault) -> Callable[[], None]:
        device = self._one(fault)
        device.freeze()
        return device.thaw

    def _closed_lid(self, fault: Fault) -> Callable[[], None]:
        """It sleeps, with all connections; whoever opens it finds them dead."""
        device = self._one(fault)
        device.freeze()
        device.clock.suspend()
        return device.thaw

    def _crash(self, fault: Fault) -> Callable[[], None]:
        device = self._one(fault)
        device.crash()
        return lambda: self._world.restart(device)

    def _crash_of_all(self, _fault: Fault) -> Callable[[], None]:
        devices = list(self._world.devices)
        for device in devices:
            device.crash(power=True)

        def end() -> None:
            for device in devices:
                self._world.restart(device)

        return end

    def _power_cut(self, fault: Fault) -> Callable[[], None]:
        device = self._one(fault)
        device.crash(power=True)
        return lambda: self._world.restart(device)

    def _graceful_stop(self, fault: Fault) -> Callable[[], None]:
        device = self._one(fault)
        device.stop()

        def end() -> None:
            if device.is_up:
                device.crash()
            self._world.restart(device)

        return end

    def _slow_device(self, fault: Fault) -> Callable[[], None]:
        device = self._one(fault)
        device.step_s = 0.001 + 0.03 * fault.how_much

        def end() -> None:
            device.step_s = 0.0

        return end

    def _straggler(self, fault: Fault) -> Callable[[], None]:
        device = self._one(fault)
        device.speed = 1.0 + 50.0 * fault.how_much

        def end() -> None:
            device.speed = 1.0

        return end

    def _broken_executor(self, fault: Fault) -> Callable[[], None]:
        """Whatever it is given fails, for a reason of its own."""
        device = self._one(fault)
        device.is_broken = True

        def end() -> None:
            device.is_broken = False

        return end

    # Disks.

    def _full_disk(self, fault: Fault) -> Callable[[], None]:
        disk = self._one(fault).disk
        disk.is_full = True

        def end() -> None:
            disk.is_full = False

        return end

    def _slow_disk(self, fault: Fault) -> Callable[[], None]:
        device = self._one(fault)
        slow = self._slow_disks.setdefault(device.name, [device.fsync_s])
        how_slow_s = 0.02 + fault.how_much
        slow.append(how_slow_s)
        device.fsync_s = max(slow)

        def end() -> None:
            slow.remove(how_slow_s)
            device.fsync_s = max(slow)

        return end

    def _lost_disk(self, fault: Fault) -> None:
        """The device is gone for ever, and its key with it."""
        self._world.lose(self._one(fault))

    def _bit_flip(self, fault: Fault) -> None:
        """A bit of the ledger's file flips: what is read there from now on is refused by others,
        and by the node itself when it starts the next time.
        """
        device = self._one(fault)
        if not self._world.whole_besides(device):
            return  # Somebody must be left who can start.
        events = device.disk.events
        event = events[int(fault.how_much * len(events))] if events else None
        if event is None or not event.body:
            return
        at = int(fault.how_much * 1e6) % len(event.body)
        event.body = event.body[:at] + bytes((event.body[at] ^ 1,)) + event.body[at + 1 :]
        self._world.disks_hurt.add(device.author)

    def _restored_backup(self, fault: Fault) -> Callable[[], None] | None:
        """The device comes back with an older ledger, as from a backup, and its key."""
        device = self._one(fault)
        if device.is_gone:
            return None
        device.crash()
        if device.disk.set_back(0.5 + fault.how_much / 2):
            self._world.disks_hurt.add(device.author)
        return lambda: self._world.restart(device)

    # Clocks.

    def _clock_jump(self, fault: Fault) -> None:
        self._one(fault).clock.step(1000.0 * 10 ** (1 + 8 * fault.how_much))

    def _clock_step_back(self, fault: Fault) -> None:
        self._one(fault).clock.step(-1000.0 * 10 ** (1 + 9 * fault.how_much))

    def _clock_drift(self, fault: Fault) -> Callable[[], None]:
        clock = self._one(fault).clock
        clock.set_drift((fault.how_much - 0.5) / 500.0)
        return lambda: clock.set_drift(0.0)

    def _boot_in_1970(self, fault: Fault) -> Callable[[], None]:
        """A device without a battery starts, and is told the time only later."""
        device = self._one(fault)
        device.crash(power=True)
        device.clock.step(-float(1 << 62))
        self._world.restart(device)
        return device.clock.set_right

    # Members.

    def _attack(self, attack: str) -> Callable[[], None] | None:
        attacker = self._world.attacker
        if attacker is None:
            return None
        attacker.begin(attack)
        return lambda: attacker.end(attack)

    def _newer_release(self, fault: Fault) -> Callable[[], None]:
        """A device is of a later release, and writes what this one does not know."""
        device = self._one(fault)
        chance = random.Random(fault.how_much)
        is_over = False

        def write() -> None:
            if is_over:
                return
            self._world.agenda.after(chance.uniform(0.1, 5.0), write)
            if device.is_up:
                tasks = list(device.core.state.open)
                task = chance.choice(tasks) if tasks else chance.randbytes(16)
                device.do(device.write, novelties(chance, task))

        def end() -> None:
            nonlocal is_over
            is_over = True

        write()
        return end

    def _founder_joins(self, fault: Fault) -> Callable[[], None] | None:
        """A device that has had a cluster of its own is let into this one, with the same key."""
        device = self._world.found_elsewhere()
        if device is None:
            return None
        return lambda: self._world.join(device)

    def _newcomer(self, _fault: Fault) -> None:
        self._world.admit_newcomer()

    def _newcomer_in_partition(self, fault: Fault) -> Callable[[], None]:
        end = self._partition(fault)
        self._world.admit_newcomer()
        return end
