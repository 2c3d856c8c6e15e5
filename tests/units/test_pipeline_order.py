"""What the loop around the core promises to whoever is woken by one of its effects."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import trio

from kowalski_ledger.fold import cluster_id
from kowalski_ledger.state import State
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.node import Node, NodeConfig
from kowalski_node.pipeline import Pipeline, cut_frames, now
from kowalski_protocol.codec import encode
from kowalski_protocol.events import CapabilitiesAdvertised, ClusterFounded, Result
from kowalski_protocol.feeds import Event
from kowalski_protocol.identity import Identity
from kowalski_protocol.ids import TaskId
from kowalski_protocol.limits import LIMITS, LOCAL
from kowalski_protocol.tasks import parse_task
from tests.ports.memory_store import MemoryStore

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
            self.settled[effect.task] = self.node.is_settled(task)
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
