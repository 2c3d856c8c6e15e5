"""One world: its devices, what is drawn for it, and its two phases.

*Safety*: people work while anything may go wrong, and every promise is checked at every step.
*Liveness*: everything heals and the attackers fall silent; within a bound all that was acknowledged
must have ended, one leader be followed, and one digest be shown.
"""

from __future__ import annotations

import hashlib

from kowalski_ledger.fold import cluster_id
from kowalski_node.core import inputs as ins
from kowalski_protocol.codec import encode
from kowalski_protocol.events import ClusterFounded
from kowalski_protocol.identity import peer_id
from kowalski_protocol.ids import Author, ClusterId
from kowalski_protocol.invites import invite_hash

from .agenda import Agenda
from .attackers import Attacker
from .checks import Checks
from .device import Device
from .disk import MemoryDisk
from .faults import NEWCOMERS_MAX, Fault, Faults, drawn, swarm
from .identities import Notary
from .liveness import Liveness
from .options import PRESETS, Options
from .wire import Weather, Wire
from .workload import Workload

FORMING_S = 20.0
"""How long the cluster may take to form before anything goes wrong."""


class World:
    """A cluster from its founding to its last check."""

    def __init__(self, options: Options) -> None:
        self.options = options
        chance = options.stream("world")
        nodes = chance.choice((2, 3, 3, 4, 5, 5, 7))
        preset = chance.choice(("local", "lan", "lan", "wan"))
        self.preset = options.preset or preset
        self.timers = PRESETS[self.preset]
        self.length_s = options.minutes * 60.0
        self.agenda = Agenda()
        self.notary = Notary()
        self.wire = Wire(self.agenda, options.stream("wire"))
        if self.preset == "wan":
            self.wire.weather = Weather(latency_s=0.03, jitter_s=0.01)
        self.gossip_repeats = chance.random() < 0.3
        self.cluster = ClusterId(b"")
        self.attackers: set[Author] = set()
        self.attacker: Attacker | None = None
        self.disks_hurt: set[Author] = set()
        """Devices whose disk was set back, altered or lost."""
        self.told: list[tuple[float, str]] = []
        """What happened to the world, for its story."""
        self.checks = Checks(self)
        homes = chance.random() < 0.4
        count = options.nodes or nodes
        self.devices: list[Device] = []
        for index in range(count):
            labels = {"home": "yes"} if homes and index == count - 1 else None
            self.devices.append(Device(self, f"n{index}", labels))
        self._newcomers = 0
        self._tickets = 0
        self.workload = Workload(self)
        self.faults = Faults(self)
        kinds = swarm(options.stream("swarm"))
        self.kinds = kinds if options.faults is None else options.faults
        self.schedule: list[Fault] = drawn(options.stream("faults"), self.length_s, self.kinds)

    # What is known of it.

    def tell(self, sentence: str) -> None:
        """Notes what happened, for the story."""
        self.told.append((self.agenda.now_s, sentence))

    def name_of(self, author: Author) -> str:
        """A device's name."""
        station = self.wire.stations.get(author)
        return getattr(station, "name", author.hex()[:8])

    def peer_id(self, device: Device) -> str:
        """How people name a device."""
        return peer_id(device.author)

    def may_be_charged(self, author: Author) -> bool:
        """Whether a device may have sent what must not be."""
        return author in self.attackers or author in self.disks_hurt

    def addresses(self, device: Device, founder_hint: Author | None) -> list[Device]:
        """Whom a device that starts knows where to find: members, or its inviter."""
        members = device.core.state.members
        return [
            other
            for other in self.devices
            if other is not device
            and not other.is_gone
            and (other.author in members or (not members and other.author == founder_hint))
        ]

    # What happens to it.

    def restart(self, device: Device) -> None:
        """A device is started again, unless it runs or is gone."""
        if device.is_up or device.is_gone:
            return
        if not device.boot(self._hint(device)):
            # Its ledger is damaged, and it says so instead of starting.
            self._gone(device)

    def _hint(self, device: Device) -> Author | None:
        return None if device.disk.events else self.devices[0].author

    def lose(self, device: Device) -> None:
        """A device's disk is gone, with all that it held and its key; one always stays."""
        if device.is_gone or not self.whole_besides(device) or device is self.devices[0]:
            return
        device.crash()
        self._gone(device)

    def _gone(self, device: Device) -> None:
        device.is_gone = True
        self.disks_hurt.add(device.author)
        self.tell(f"{device} is gone for ever")

    def whole_besides(self, device: Device) -> bool:
        """Whether another device is there whose disk is as it should be."""
        return any(
            not other.is_gone and other.author not in self.disks_hurt
            for other in self.devices
            if other is not device
        )

    def admit_newcomer(self) -> None:
        """A device that nobody knew is let in by the founder."""
        if self.devices[0].is_listening and self._newcomers < NEWCOMERS_MAX:
            self._newcomers += 1
            device = Device(self, f"new{self._newcomers}")
            device.disk.cluster = self.cluster
            self.devices.append(device)
            self._admit(device)

    def found_elsewhere(self) -> Device | None:
        """A device that nobody knows founds a cluster of its own."""
        if self._newcomers >= NEWCOMERS_MAX:
            return None
        self._newcomers += 1
        device = Device(self, f"new{self._newcomers}")
        founded = ClusterFounded("elsewhere", device.author, device.name, bytes(16))
        device.disk.cluster = device.cluster = cluster_id(encode(founded))
        device.found(founded)
        device.boot()
        return device

    def join(self, device: Device) -> None:
        """It leaves that cluster and is let into this one, with its key and an empty ledger."""
        device.crash()
        if self.devices[0].is_listening:
            device.disk = MemoryDisk()
            device.disk.cluster = device.cluster = self.cluster
            self.devices.append(device)
            self._admit(device)

    def _admit(self, device: Device) -> None:
        self._tickets += 1
        invite = invite_hash(device.name.encode())
        founder = self.devices[0]
        founder.give(ins.Admit(-self._tickets, device.author, device.name, "member", invite))
        device.boot(founder_hint=founder.author)

    def _admit_attacker(self) -> None:
        attacker = self.attacker = Attacker(self, "mallory")
        self.attackers.add(attacker.author)
        self._tickets += 1
        invite = invite_hash(b"mallory")
        admit = ins.Admit(-self._tickets, attacker.author, "mallory", "member", invite)
        self.devices[0].give(admit)
        self.agenda.after(1.0, attacker.arrive)

    # Its phases.

    def form(self) -> None:
        """The first device founds the cluster, the others join."""
        founder = self.devices[0]
        nonce = hashlib.sha256(str(self.options.seed).encode()).digest()[:16]
        founded = ClusterFounded("world", founder.author, founder.name, nonce)
        self.cluster = cluster_id(encode(founded))
        for device in self.devices:
            device.disk.cluster = device.cluster = self.cluster
        founder.found(founded)
        founder.boot()
        self.agenda.run_until(1.0)
        for device in self.devices[1:]:
            self._admit(device)
        if any(kind.startswith("attack_") for kind in self.kinds):
            self._admit_attacker()
        self.agenda.run_until(FORMING_S)
        for device in self.devices:
            if len(device.core.state.members) != len(self.devices) + len(self.attackers):
                self.checks.fail("the cluster forms", f"{device} lacks members")

    def run(self) -> None:
        """All of it; raises `Broken` where a promise does not hold."""
        self.form()
        begin_s = self.agenda.now_s
        self.faults.plan([_later(fault, begin_s) for fault in self.schedule])
        self.workload.begin(self.length_s)
        self.agenda.run_until(begin_s + self.length_s)
        self.faults.heal()
        if self.attacker is not None:
            self.attacker.leave()
        Liveness(self).check()

    def digest(self) -> str:
        """One hash of all that happened: same seed and commit, same digest."""
        hash = hashlib.sha256()
        for device in self.devices:
            for event in device.disk.events:
                hash.update(event.hash)
            hash.update(b"/")
        hash.update(f"{self.agenda.done} {self.wire.messages} {self.agenda.now_s!r}".encode())
        return hash.hexdigest()[:16]


def _later(fault: Fault, by_s: float) -> Fault:
    return Fault(
        fault.number, fault.kind, fault.at_s + by_s, fault.lasts_s, fault.whom, fault.how_much
    )
