"""A Byzantine member: let in like any other, and lying from then on.

It speaks the protocol without a node: its frames are well made where the attack wants that, and
anything else where it does not. What each attack sends is drawn from its own stream; what it must
not achieve is in `checks`: honest nodes go on, charge nobody honest, and show what they would have
shown without it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.codec import encode
from kowalski_protocol.events import (
    Body,
    CancelRequested,
    LeaderClaimed,
    MemberAdmitted,
    TaskCompleted,
    TaskDeclined,
    TaskFailed,
    TaskOwnershipMoved,
    TaskSettled,
    TaskStarted,
    TaskSubmitted,
    WeightsChanged,
)
from kowalski_protocol.feeds import (
    Event,
    Feed,
    Head,
    encode_frame,
    event_hash,
    genesis,
    signed_message,
)
from kowalski_protocol.identity import peer_id
from kowalski_protocol.ids import Author, ClusterId, EventHash
from kowalski_protocol.tasks import parse_task, task_id
from kowalski_protocol.telemetry import Heartbeat, encode_datagram
from kowalski_protocol.topics import FEED_TOPICS, RESULT, TASK

from .checks import Made
from .clock import START_MS
from .device import Device

if TYPE_CHECKING:
    from kowalski_ledger.state import Task

    from .world import World

ATTACKS: Final = (
    "forgery",
    "foreign_words",
    "false_leader",
    "future_clock",
    "replay",
    "unknown_kinds",
    "wrong_bodies",
    "false_heads",
    "false_heartbeats",
    "gaps",
    "bad_answers",
    "admissions",
    "fork",
)
"""What an attacker may do; each is a kind of fault, `attack_` before its name."""
DETERRED_S = 0.3
"""Between two messages of one attack, on average."""


class Attacker:
    """A member without a node."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.identity = world.notary.identity(f"{world.options.seed}/{name}")
        self.author: Author = self.identity.author
        self.chance = world.options.stream(f"attacker/{name}")
        self.is_up = True
        self.active: dict[str, int] = {}
        """Attacks that are under way, and how often each was begun."""
        self.sent = 0
        self._ends: dict[str, tuple[int, EventHash, int]] = {}
        self._frames: dict[Feed, list[bytes]] = {}
        self._made: dict[bytes, Made] = {}
        """What each of its frames is: they are well made, whatever they say."""
        self._overheard: list[bytes] = []
        self._other_cluster = ClusterId(b"another cluster".ljust(32, b"."))
        world.wire.add(self)

    def __repr__(self) -> str:
        return self.name

    @property
    def is_listening(self) -> bool:
        return self.is_up

    # As a station of the wire.

    def connected(self, peer: Author) -> None: ...

    def disconnected(self, peer: Author) -> None:
        if self.is_up:
            self.world.agenda.after(1.0, self._dial, peer)

    def give(self, input: ins.Input) -> None:
        """Keeps some of what it hears, to send it again."""
        if isinstance(input, ins.FrameReceived) and len(self._overheard) < 200:
            self._overheard.append(input.data)

    def do(self, what: Any, *details: Any) -> None:
        """It is always awake."""
        what(*details)

    def serve_blob(self, asker: Device, number: tuple[int, int], fetch: fx.FetchBlob) -> None:
        """It has none."""

    def serve(self, asker: Device, number: tuple[int, int], pull: fx.Pull) -> None:
        """A member pulls from it: its own feeds as they are, unless it answers badly."""
        if "bad_answers" in self.active:
            choice = self.chance.randrange(3)
            if choice == 0:
                return
            frames: tuple[bytes, ...] = (
                (self.chance.randbytes(60),) if choice == 1 else tuple(self._overheard[:2])
            )
        else:
            frames = tuple(self._frames.get(pull.feed, ())[pull.after_seq :][:50])
        self.world.wire.send(
            self.author, asker.author, 100, asker.requests.pull_over, number, frames
        )

    # Its life.

    def arrive(self) -> None:
        """Connects to everybody."""
        for device in self.world.devices:
            self._dial(device.author)

    def _dial(self, peer: Author) -> None:
        def over(connected: bool) -> None:
            if not connected and self.is_up:
                self.world.agenda.after(2.0, self._dial, peer)

        if self.is_up and not self.world.wire.is_connected(self.author, peer):
            self.world.wire.dial(self.author, peer, over)

    def leave(self) -> None:
        """Falls silent for ever."""
        self.is_up = False
        self.world.wire.went_down(self.author)

    def begin(self, attack: str) -> None:
        """Attacks in this way until `end`."""
        self.active[attack] = self.active.get(attack, 0) + 1
        if self.active[attack] == 1:
            self._go_on(attack)

    def end(self, attack: str) -> None:
        """Ends one `begin`."""
        self.active[attack] -= 1
        if not self.active[attack]:
            del self.active[attack]

    def _go_on(self, attack: str) -> None:
        if attack not in self.active or not self.is_up:
            return
        self.world.agenda.after(self.chance.expovariate(1.0 / DETERRED_S), self._go_on, attack)
        getattr(self, f"_{attack}")(self.chance)
        self.sent += 1

    # What it says.

    def write(
        self,
        body: Body | None = None,
        *,
        kind: str = "",
        data: bytes = b"",
        topic: str = "",
        hlc: int | None = None,
        attachment: bytes | None = None,
    ) -> bytes:
        """Its next event, as a signed frame; it keeps its own feeds whole."""
        if body is not None:
            kind, data, topic = type(body).__name__, encode(body), body.topic
        frame, end = self._sealed(kind, data, topic, hlc, attachment)
        self._ends[topic] = end
        self._frames.setdefault(Feed(self.author, topic), []).append(frame)
        return frame

    def _sealed(
        self, kind: str, data: bytes, topic: str, hlc: int | None, attachment: bytes | None = None
    ) -> tuple[bytes, tuple[int, EventHash, int]]:
        cluster = self.world.cluster
        seq, previous, last = self._ends.get(topic, (0, genesis(cluster, self.author, topic), 0))
        now = (START_MS + int(self.world.agenda.now_s * 1000)) << 16
        hlc = max(last + 1, now if hlc is None else hlc)
        hash = event_hash(previous, seq + 1, hlc, kind, data)
        event = Event(self.author, topic, seq + 1, hlc, kind, data, hash, attachment)
        event.signature = self.identity.sign(signed_message(hash))
        frame = encode_frame(cluster, [event])
        self._made[frame] = Made(Feed(self.author, topic), seq + 1, previous, hash)
        return frame, (seq + 1, hash, hlc)

    def tell(self, frame: bytes) -> None:
        """Sends a frame to everybody, or to one in three, and sometimes by gossip as well."""
        few = self.chance.random() < 0.3
        for device in self._devices():
            if not few or self.chance.random() < 0.34:
                self._to(device, ins.FrameReceived(self.author, frame))
        if self.chance.random() < 0.2:
            heard = ins.FrameReceived(None, frame)
            self.world.wire.publish(self.author, len(frame), _give, heard)

    def _to(self, device: Device, input: ins.Input) -> None:
        self.world.wire.send(self.author, device.author, 100, self._give, device, input)

    def _give(self, device: Device, input: ins.Input) -> None:
        if isinstance(input, ins.FrameReceived) and input.data in self._made:
            self.world.checks.given(device, input, self._made[input.data])
        else:
            device.give(input)

    def _devices(self) -> list[Device]:
        return [
            d for d in self.world.devices if self.world.wire.is_connected(self.author, d.author)
        ]

    def _some_task(self) -> Task | None:
        live = [d for d in self.world.devices if d.is_up]
        if not live:
            return None
        tasks = list(self.chance.choice(live).core.state.open.values())
        return self.chance.choice(tasks) if tasks else None

    # The attacks.

    def _forgery(self, chance: random.Random) -> None:
        choice = chance.randrange(5)
        if choice == 0:
            self.tell(chance.randbytes(chance.randrange(300)))
        elif self._overheard:
            frame = bytearray(chance.choice(self._overheard))
            if choice == 1:
                frame = frame[: chance.randrange(len(frame))]
            else:
                frame[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
            self.tell(bytes(frame))

    def _foreign_words(self, chance: random.Random) -> None:
        if chance.random() < 0.1:
            self._contradict(chance)
        task = self._some_task()
        if task is None:
            return
        attempt = chance.choice(task.attempts).hash if task.attempts else EventHash(bytes(32))
        bodies: list[Body] = [
            TaskSettled(task.id, task.tenure, "failed", attempt, "attack"),
            TaskSettled(task.id, task.tenure, "completed", attempt),
            TaskOwnershipMoved(((task.id, task.tenure),), self.author),
            TaskCompleted(task.id, attempt, bytes(32), 10, 1, 1),
            TaskFailed(task.id, attempt, bytes(32), 10, 1, 1, "attack"),
            TaskDeclined(task.id, attempt, "attack"),
            TaskStarted(task.id, attempt, 1),
        ]
        self.tell(self.write(chance.choice(bodies)))

    def _contradict(self, chance: random.Random) -> None:
        """It says twice how a task of its own ended, and each time something else."""
        wanted: dict[str, Any] = {"kind": "tool", "payload": {"tool": "echo", "args": {}}}
        task = parse_task({**wanted, "requires": {"device": peer_id(self.author)}})
        key = b"k" + chance.randbytes(8)
        id = task_id(self.author, key, task.spec_bytes)
        submitted = TaskSubmitted(self.author, key, task.spec_bytes)
        self.tell(self.write(submitted, attachment=task.payload))
        self.tell(self.write(TaskSettled(id, b"", "cancelled", b"", "said first")))
        self.world.agenda.after(1.0, self._say, TaskSettled(id, b"", "failed", b"", "said second"))

    def _say(self, body: Body) -> None:
        if self.is_up:
            self.tell(self.write(body))

    def _false_leader(self, chance: random.Random) -> None:
        live = [d for d in self.world.devices if d.is_up]
        leader = chance.choice(live).core.state.leader if live else None
        choice = chance.randrange(4)
        if choice == 0:
            body = LeaderClaimed((1 << 63) - 1, chance.randbytes(32))
        elif choice == 1 and leader is not None:
            body = LeaderClaimed(leader.epoch + 1000, leader.hash)
        elif choice == 2 and leader is not None and chance.random() < 0.2:
            # A claim like an honest one's; but nobody hears it, so another claims after it.
            body = LeaderClaimed(leader.epoch + 1, leader.hash)
        else:
            body = LeaderClaimed(2, EventHash(bytes(32)))
        self.tell(self.write(body))

    def _future_clock(self, chance: random.Random) -> None:
        hlc = chance.choice((4_102_444_800_000 << 16, 0, 1 << 60))
        self.tell(self.write(CancelRequested(chance.randbytes(16)), hlc=hlc))

    def _replay(self, chance: random.Random) -> None:
        if self._overheard:
            frame = chance.choice(self._overheard)
            if chance.random() < 0.3:
                frame = frame.replace(self.world.cluster, self._other_cluster)
            self.tell(frame)

    def _unknown_kinds(self, chance: random.Random) -> None:
        topic = chance.choice(sorted(FEED_TOPICS))
        size = chance.choice((0, 10, 1000, 60_000))
        self.tell(self.write(kind="SomethingNew", data=chance.randbytes(size), topic=topic))

    def _wrong_bodies(self, chance: random.Random) -> None:
        kind = chance.choice(("TaskSubmitted", "TaskPlaced", "LeaderClaimed", "TaskSettled"))
        data = chance.choice((b"", b"\xc1", b"\x91" * 500, chance.randbytes(40)))
        self.tell(self.write(kind=kind, data=data, topic=TASK))
        if chance.random() < 0.3:
            spec = chance.choice((b"", encode({"kind": "tool"}), chance.randbytes(100)))
            self.tell(self.write(TaskSubmitted(self.author, b"k" + chance.randbytes(8), spec)))

    def _false_heads(self, chance: random.Random) -> None:
        heads: dict[Feed, Head] = {}
        for _ in range(chance.randrange(1, 20)):
            made_up = chance.random() < 0.5
            author = Author(chance.randbytes(32)) if made_up else chance.choice(self._authors())
            seq = chance.choice((1, 10_000, (1 << 62)))
            heads[Feed(author, chance.choice((TASK, RESULT)))] = Head(seq, EventHash(bytes(32)))
        for device in self._devices():
            self._to(device, ins.HeadsReceived(self.author, heads, chance.random() < 0.5))
            self._to(device, ins.AckReceived(self.author, TASK, chance.choice((1, 1 << 40))))

    def _false_heartbeats(self, chance: random.Random) -> None:
        echoes = tuple(
            (author[:8], START_MS + chance.randrange(5), chance.randrange(10_000), 0)
            for author in self._authors()
        )
        heartbeat = Heartbeat(
            chance.choice((0, START_MS, 1 << 60)),
            chance.choice((0, 1, 1 << 60)),
            chance.choice((0, START_MS, 1 << 60)),
            echoes,
            chance.choice((0, 1 << 60)),
            chance.choice((0, 1 << 60)),
            chance.randbytes(16),
            chance.randbytes(32),
            1 << 30,
            0,
            chance.random() < 0.5,
        )
        # Signed by itself, or made to look like another's.
        author = self.author if chance.random() < 0.7 else chance.choice(self._authors())
        data = encode_datagram(self.world.cluster, author, self.identity.sign, heartbeat)
        for device in self._devices():
            self._to(device, ins.DatagramReceived(self.author, data))

    def _gaps(self, chance: random.Random) -> None:
        for _ in range(chance.randrange(1, 5)):
            self.write(CancelRequested(chance.randbytes(16)))
        self.tell(self.write(CancelRequested(chance.randbytes(16))))

    def _bad_answers(self, _chance: random.Random) -> None:
        # It says that it has more, so that it is asked.
        heads = {Feed(a, TASK): Head(1 << 40, EventHash(bytes(32))) for a in self._authors()}
        for device in self._devices():
            self._to(device, ins.HeadsReceived(self.author, heads, False))

    def _admissions(self, chance: random.Random) -> None:
        other = self.world.notary.identity(f"{self.world.options.seed}/stranger/{self.sent}")
        stranger = other.author
        body = chance.choice(
            (
                MemberAdmitted(stranger, "stranger", "admin"),
                MemberAdmitted(self.author, self.name, "admin"),
                WeightsChanged("tool", {"load": float("nan")}),
            )
        )
        self.tell(self.write(body))
        # What the stranger itself says is as well made as a member's.
        start = genesis(self.world.cluster, stranger, TASK)
        hlc, kind, data = 1 << 16, "CancelRequested", encode(CancelRequested(bytes(16)))
        event = Event(stranger, TASK, 1, hlc, kind, data, event_hash(start, 1, hlc, kind, data))
        event.signature = other.sign(signed_message(event.hash))
        self.tell(encode_frame(self.world.cluster, [event]))

    def _fork(self, chance: random.Random) -> None:
        """Two events in one place of its feed: some hear one, others the other, a few both."""
        one, end = self._sealed("CancelRequested", encode(CancelRequested(b"1" * 16)), TASK, None)
        other, _ = self._sealed("CancelRequested", encode(CancelRequested(b"2" * 16)), TASK, None)
        self._ends[TASK] = end
        self._frames.setdefault(Feed(self.author, TASK), []).append(one)
        for index, device in enumerate(self._devices()):
            frames = (one, other) if index % 2 else (other, one)
            for frame in frames[: chance.choice((1, 1, 2))]:
                self._to(device, ins.FrameReceived(self.author, frame))
        self.world.checks.forked.add(self.author)

    def _authors(self) -> list[Author]:
        return [device.author for device in self.world.devices]


def _give(station: Any, input: ins.Input) -> None:
    station.give(input)
