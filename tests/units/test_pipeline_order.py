"""What the loop around the core promises to those whom it wakes, and how long a commit may wait."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kowalski_ledger.fold import cluster_id
from kowalski_ledger.state import State
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.commits import cut_frames
from kowalski_node.core.node import Node, NodeConfig
from kowalski_node.pipeline import Pipeline, now
from kowalski_protocol.codec import encode
from kowalski_protocol.events import (
    Body,
    CancelRequested,
    CapabilitiesAdvertised,
    ClusterFounded,
    LeaderClaimed,
    Result,
    TaskPlaced,
    TaskSubmitted,
)
from kowalski_protocol.feeds import Event
from kowalski_protocol.identity import Identity
from kowalski_protocol.ids import TaskId
from kowalski_protocol.limits import LIMITS, LOCAL
from kowalski_protocol.tasks import parse_task, task_id
from simulations.disk import MemoryStore
from tests.units.bench import START_MS, advert, sign
from tests.units.histories import History, Writer

IDENTITY = Identity(hashlib.sha256(b"alone").digest())
CAPABILITIES = CapabilitiesAdvertised(
    1, "alone", ("tool",), ("echo",), {}, "none", 2, 2, 8 << 30, (), {}
)
TASKS = 50


class Carrier:
    """Runs what the core starts at once, and looks at each settlement when it is told of it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.settled: dict[TaskId, bool] = {}
        """Task -> whether the core called it durably settled when its effect came."""
        self.ended = trio.Event()
        self.pipeline: Pipeline | None = None

    def carry_out(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.Start):
            assert self.pipeline is not None
            result = encode(Result(True, "done"))
            digest = hashlib.sha256(result).digest()
            self.pipeline.feed(
                ins.AttemptEnded(effect.attempt, True, "", result, digest, False, 1, 1)
            )
        elif isinstance(effect, fx.Settled):
            task = self.node.state.tasks[effect.task]
            self.settled[effect.task] = self.node.book.is_settled(task)
            if len(self.settled) == TASKS:
                self.ended.set()

    def publish(self, topic: str, frame: bytes) -> None: ...

    def committed(self, events: Sequence[Event], position: int) -> None: ...

    def received(self, events: Sequence[Event]) -> None: ...


async def test_who_is_woken_by_a_settlement_finds_it_durable() -> None:
    founded = ClusterFounded("alone", IDENTITY.author, "alone", b"nonce")
    cluster = cluster_id(encode(founded))
    node = Node(NodeConfig(IDENTITY.author, "alone", 1, LOCAL, 2), State(cluster), now())
    out = fx.Outbox()
    node.found(founded, now(), out)
    cut_frames(out.append, IDENTITY, LIMITS)
    store = MemoryStore()
    await store.found(cluster, out.append)
    loaded = Node(NodeConfig(IDENTITY.author, "alone", 1, LOCAL, 2), State(cluster), now())
    async for events in store.load():
        loaded.load(events)
    loaded.loaded()
    carrier = Carrier(loaded)
    pipeline = carrier.pipeline = Pipeline(loaded, store, IDENTITY, carrier)
    async with trio.open_nursery() as nursery:
        await nursery.start(pipeline.run)
        pipeline.feed(ins.Advertise(CAPABILITIES))
        pipeline.feed(ins.Tick())
        for number in range(TASKS):
            task = parse_task({"kind": "tool", "payload": {"tool": "echo", "args": {}}})
            pipeline.feed(ins.Submit(number, [task], [number.to_bytes(16, "big")]))
        with trio.fail_after(10):
            await carrier.ended.wait()
        nursery.cancel_scope.cancel()
    assert all(carrier.settled.values())


# Commits that nobody waits for.

LINGER_S = LOCAL.commit_linger_s
LONG_S = 10 * LINGER_S
"""Long enough for every commit; too short for the node to take the silent others for gone."""


class Witness:
    """Carries out nothing and notes what it was told, with the time."""

    def __init__(self) -> None:
        self.effects: list[tuple[float, fx.Effect]] = []

    def carry_out(self, effect: fx.Effect) -> None:
        self.effects.append((trio.current_time(), effect))

    def publish(self, topic: str, frame: bytes) -> None: ...

    def committed(self, events: Sequence[Event], position: int) -> None: ...

    def received(self, events: Sequence[Event]) -> None: ...

    def times(self, kind: type[fx.Effect]) -> list[float]:
        return [at_s for at_s, effect in self.effects if isinstance(effect, kind)]


class TimedStore(MemoryStore):
    """Notes when what was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[tuple[float, list[str]]] = []

    async def append(self, events: Sequence[Event]) -> int:
        self.commits.append((trio.current_time(), [event.kind for event in events]))
        return await super().append(events)


class Bystander:
    """A plain member of three at the pipeline; the founder leads, and writes what the test says."""

    def __init__(self, linger_s: float = LINGER_S) -> None:
        self.history = History(3)
        self.history.admit_all()
        self.founder, self.me, _ = self.history.devices
        self.claim = self.history.write(self.founder, LeaderClaimed(1, b"")).hash
        timers = msgspec.structs.replace(LOCAL, commit_linger_s=linger_s)
        config = NodeConfig(self.me.author, self.me.name, 1, timers, 2)
        self.node = Node(config, State(self.history.cluster), self.now())
        self.store = TimedStore()
        self.witness = Witness()
        self.pipeline = Pipeline(
            self.node, self.store, self.me.identity, self.witness, clock=self.now
        )

    @staticmethod
    def now() -> ins.Now:
        at_s = trio.current_time()
        return ins.Now(at_s, START_MS + int(at_s * 1000))

    async def opens(self, nursery: trio.Nursery) -> None:
        """The node has read its ledger, runs, and may write; what it wrote by then is committed."""
        sign(self.founder, self.history.written)
        await self.store.found(self.history.cluster, self.history.written)
        self.node.load(self.history.written)
        self.node.loaded()
        await nursery.start(self.pipeline.run)
        self.offers(slots=2)
        for other in self.history.devices:
            if other is not self.me:
                self.pipeline.feed(ins.HeadsReceived(other.author, {}, False))
        await wait_all_tasks_blocked()
        assert self.node.open
        self.store.commits.clear()
        self.witness.effects.clear()

    def offers(self, **changes: Any) -> None:
        """Makes the node write an event of its own."""
        self.pipeline.feed(ins.Advertise(advert(self.me.name, **changes)))

    def says(self, *bodies: Body) -> None:
        """The founder writes this, and the node hears it."""
        frame = sign(self.founder, [self.founder.write(body) for body in bodies])
        self.pipeline.feed(ins.FrameReceived(self.founder.author, frame))

    def submitted(self) -> TaskSubmitted:
        spec = parse_task({"kind": "tool", "payload": {"tool": "echo"}}).spec_bytes
        return TaskSubmitted(self.founder.author, b"kone", spec)

    def placed(self, device: Writer) -> TaskPlaced:
        body = self.submitted()
        id = task_id(body.owner, body.key, body.spec)
        return TaskPlaced(id, 1, device.author, self.claim, 0.5)


NOTHING_TO_DO = CancelRequested(bytes(16))


async def test_what_nobody_waits_for_shares_one_commit(autojump_clock: MockClock) -> None:
    by = Bystander()
    async with trio.open_nursery() as nursery:
        await by.opens(nursery)
        began_s = trio.current_time()
        for _ in range(3):
            by.says(NOTHING_TO_DO)
            await trio.sleep(LINGER_S / 4)
        assert by.store.commits == []
        await trio.sleep(LONG_S)
        ((at_s, kinds),) = by.store.commits
        assert at_s == pytest.approx(began_s + LINGER_S)
        assert kinds == ["CancelRequested"] * 3
        acknowledged = by.witness.times(fx.Acknowledge)
        assert acknowledged == [at_s] * 3, "nothing is acknowledged before it is durable"
        later_s = trio.current_time()
        by.says(NOTHING_TO_DO)
        await trio.sleep(LONG_S)
        assert [at_s for at_s, _ in by.store.commits[1:]] == [pytest.approx(later_s + LINGER_S)]
        nursery.cancel_scope.cancel()


async def test_no_event_waits_longer_however_many_follow_it(autojump_clock: MockClock) -> None:
    by = Bystander()
    heard_s: list[float] = []
    async with trio.open_nursery() as nursery:
        await by.opens(nursery)
        for _ in range(40):
            heard_s.append(trio.current_time())
            by.says(NOTHING_TO_DO)
            await trio.sleep(LINGER_S / 4)
        await trio.sleep(LONG_S)
        nursery.cancel_scope.cancel()
    committed_s = [at_s for at_s, kinds in by.store.commits for _ in kinds]
    waits_s = [after - before for before, after in zip(heard_s, committed_s, strict=True)]
    assert min(waits_s) >= 0.0
    assert max(waits_s) == pytest.approx(LINGER_S)
    assert 8 <= len(by.store.commits) <= 11


async def test_an_own_event_cuts_the_wait_short(autojump_clock: MockClock) -> None:
    by = Bystander()
    async with trio.open_nursery() as nursery:
        await by.opens(nursery)
        began_s = trio.current_time()
        by.says(NOTHING_TO_DO)
        await trio.sleep(LINGER_S / 4)
        assert by.store.commits == []
        by.offers(slots=7)
        await trio.sleep(LINGER_S / 4)
        ((at_s, kinds),) = by.store.commits
        assert at_s == began_s + LINGER_S / 4
        assert kinds == ["CancelRequested", "CapabilitiesAdvertised"]
        by.says(NOTHING_TO_DO)
        await trio.sleep(LINGER_S / 2)
        assert len(by.store.commits) == 1, "the next one lingers again"
        nursery.cancel_scope.cancel()


async def test_an_own_event_alone_is_committed_at_once(autojump_clock: MockClock) -> None:
    by = Bystander()
    async with trio.open_nursery() as nursery:
        await by.opens(nursery)
        began_s = trio.current_time()
        by.offers(slots=7)
        await trio.sleep(LONG_S)
        assert by.store.commits == [(began_s, ["CapabilitiesAdvertised"])]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("here", [True, False])
async def test_work_that_starts_here_waits_for_its_commit_alone(
    autojump_clock: MockClock, here: bool
) -> None:
    by = Bystander()
    async with trio.open_nursery() as nursery:
        await by.opens(nursery)
        began_s = trio.current_time()
        by.says(by.submitted(), by.placed(by.me if here else by.founder))
        await trio.sleep(LONG_S)
        ((at_s, kinds),) = by.store.commits
        assert kinds == ["TaskSubmitted", "TaskPlaced"]
        assert at_s == pytest.approx(began_s if here else began_s + LINGER_S)
        assert by.witness.times(fx.Start) == ([began_s] if here else [])
        nursery.cancel_scope.cancel()


async def test_without_a_time_to_linger_every_commit_is_made_at_once(
    autojump_clock: MockClock,
) -> None:
    by = Bystander(linger_s=0.0)
    async with trio.open_nursery() as nursery:
        await by.opens(nursery)
        began_s = trio.current_time()
        by.says(NOTHING_TO_DO)
        await trio.sleep(LONG_S)
        assert by.store.commits == [(began_s, ["CancelRequested"])]
        nursery.cancel_scope.cancel()
