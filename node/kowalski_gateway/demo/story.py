"""What happens in the demo, in order.

Three nodes with homes of their own join by invite. One that does not lead submits a few hundred
tasks. Half-way the leader is killed, later the other device, so that the submitter is alone for a
moment; the first one killed comes back while there is work, the other when all is done, to show
that it catches up. In the end all nodes are killed, and what they left is the evidence.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_node.client import TaskHandle
from kowalski_node.views import ClusterView
from kowalski_protocol.errors import Problem

from .evidence import Evidence, Fate
from .sources import Sources, find_sources, specs
from .stage import DeviceLine, Stage
from .watch import Failover, Watch

NAMES: Final = ("desk", "lap", "mini")
FIRST_KILL: Final = 0.5
SECOND_KILL: Final = 0.7
"""Shares of the tasks that have settled when a device is killed."""
LOOK_S: Final = 0.2
CALM_S: Final = 0.5
"""After a kill: how long until what it led to is told in one line."""
CALM_MAX_S: Final = 10.0


class Story:
    """One performance."""

    def __init__(self, stage: Stage, folder: Path, count: int) -> None:
        self._stage = stage
        self._count = count
        self._cluster = LocalCluster(folder)
        self._watch = Watch()
        self._news = trio.Event()
        self._began_s = time.monotonic()
        self._sources = Sources([], 0)
        self._expected: list[Any] = []
        self._handles: Sequence[TaskHandle] = ()
        self._fates: dict[str, Fate] = {}
        self._work_s = 0.0

    async def play(self) -> Evidence:
        """Plays it all; afterwards no node runs. Raises `Problem` where it can't begin."""
        async with self._cluster:
            async with trio.open_nursery() as beginning:
                beginning.start_soon(self._find_sources)
                beginning.start_soon(self._start_cluster)
            submitter = await self._choose_submitter()
            async with trio.open_nursery() as watching:
                watching.start_soon(self._read_events, submitter)
                watching.start_soon(self._look, submitter)
                async with trio.open_nursery() as work:
                    work.start_soon(self._plain_run)
                    work.start_soon(self._drama, submitter, work)
                await self._all_come_back()
                evidence = await self._collect(submitter)
                watching.cancel_scope.cancel()
            for node in self._cluster.living():
                await node.kill()
        return evidence

    # The beginning.

    async def _find_sources(self) -> None:
        self._sources = await trio.to_thread.run_sync(
            find_sources, self._count, abandon_on_cancel=True
        )
        if not self._sources.chosen:
            raise Problem("not_found", "The sources of the standard library are not installed.")

    async def _start_cluster(self) -> None:
        self._note("starting three nodes, each with a home folder of its own")
        await self._cluster.add(NAMES[0])
        await self._check_sandbox()
        self._note(f"{NAMES[0]} has founded a cluster and invites the others")
        async with trio.open_nursery() as joining:
            for name in NAMES[1:]:
                joining.start_soon(self._cluster.add, name)
        await self._cluster.settle_down()
        await self._check_sandbox()
        self._fates = {node.peer: Fate(node.name) for node in self._cluster.nodes}
        self._note(f"{' and '.join(NAMES[1:])} have joined")

    async def _check_sandbox(self) -> None:
        """Refuses to go on where a device can't run code in a sandbox: never without one."""
        for node in self._cluster.living():
            view = await node.client.cluster()
            own = next(device for device in view.devices if device.self)
            if own.capabilities and own.capabilities["sandbox"] == "none":
                said = " ".join(own.capabilities["problems"])
                raise Problem(
                    "sandbox_unavailable",
                    "The demo runs code in a sandbox or not at all, and here is none that works."
                    f" {said}",
                    mend="kowalski doctor",
                )

    async def _choose_submitter(self) -> LocalNode:
        """A device that does not lead: it is to see the leader's end."""
        leader = (await self._cluster.nodes[0].client.cluster()).leader
        return next(node for node in self._cluster.nodes if node.peer != leader)

    async def _plain_run(self) -> None:
        """The same analysis in one ordinary process, to compare with."""
        paths = json.dumps([str(source.path) for source in self._sources.chosen])
        done = await trio.run_process(
            [sys.executable, "-m", "kowalski_gateway.demo.plain_run"],
            stdin=paths.encode(),
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
        )
        self._expected = json.loads(done.stdout)

    # The drama.

    async def _drama(self, submitter: LocalNode, work: trio.Nursery) -> None:
        tasks = await trio.to_thread.run_sync(specs, self._sources.chosen)
        began_s = time.monotonic()
        self._handles = await submitter.client.batch(tasks)
        total = len(self._handles)
        self._watch.expect([handle.id for handle in self._handles])
        self._note(f"{submitter.name} has submitted {total:,} tasks, one per source", "bold")
        await self._until(lambda: self._watch.settled >= FIRST_KILL * total)
        first = await self._kill_leader(submitter, work)
        await self._until(lambda: self._watch.settled >= SECOND_KILL * total)
        (second,) = (one for one in self._cluster.nodes if one not in (first, submitter))
        leader = (await submitter.client.cluster()).leader
        await self._kill(second, work, led=leader == second.peer)
        await self._bring_back(first)
        await self._until(lambda: self._watch.settled == total)
        self._work_s = time.monotonic() - began_s
        self._note(f"all {total:,} tasks have settled", "bold green")

    async def _kill_leader(self, submitter: LocalNode, work: trio.Nursery) -> LocalNode:
        leader = (await submitter.client.cluster()).leader
        others = [node for node in self._cluster.nodes if node is not submitter]
        victim = next((node for node in others if node.peer == leader), others[0])
        await self._kill(victim, work, led=victim.peer == leader)
        return victim

    async def _kill(self, victim: LocalNode, work: trio.Nursery, *, led: bool) -> None:
        unfinished = self._watch.open_on(victim.peer)
        failover = self._watch.killed(victim.peer, time.time(), led=led)
        fate = self._fates[victim.peer]
        fate.state = "killed"
        await victim.kill()
        fate.add(f"{'led, ' if led else ''}killed at {self._clock_s():.1f} s")
        self._note(
            f"kill -9 {victim.name}{', the leader,' if led else ''} with {unfinished} unfinished"
            " tasks on it",
            "bold red",
        )
        work.start_soon(self._tell_failover, failover, unfinished)

    async def _tell_failover(self, failover: Failover, unfinished: int) -> None:
        """Says in one line what a kill led to, once that is known."""
        await trio.sleep(CALM_S)
        with trio.move_on_after(CALM_MAX_S):
            await self._until(lambda: failover.is_over)
        parts: list[str] = []
        if failover.heir is not None and failover.leader_s is not None:
            heir = self._fates[failover.heir].name
            parts.append(f"{heir} leads within {failover.leader_s:.2f} s")
        if failover.moved_s is not None:
            tasks = (
                "its unfinished task has" if failover.moved == 1 else "its unfinished tasks have"
            )
            parts.append(f"{tasks} a new place within {failover.moved_s:.2f} s")
        elif failover.waiting:
            parts.append(f"{len(failover.waiting)} of its tasks wait for a new place")
        elif not unfinished:
            parts.append("it had nothing unfinished")
        else:
            parts.append("what it had was finished before it was missed")
        name = self._fates[failover.device].name
        self._note(f"after {name}: {', '.join(parts)}", "yellow")

    async def _bring_back(self, node: LocalNode) -> None:
        fate = self._fates[node.peer]
        fate.state = "returns"
        began_s = time.monotonic()
        await node.start()
        fate.state = "works"
        await self._cluster.settle_down()
        fate.add(f"back at {self._clock_s():.1f} s")
        self._note(f"{node.name} is back after {time.monotonic() - began_s:.1f} s", "green")

    async def _all_come_back(self) -> None:
        for node in self._cluster.nodes:
            if not node.alive:
                await self._bring_back(node)

    # The end.

    async def _collect(self, submitter: LocalNode) -> Evidence:
        await self._cluster.one_digest()
        values: dict[str, Any] = {}
        async for view in submitter.client.results(self._handles):
            values[view.id] = view.result.value if view.result is not None else None
        views = {node: await node.client.cluster() for node in self._cluster.nodes}
        self._note("comparing results, then every ledger file is replayed and audited")
        names = [source.name for source in self._sources.chosen]
        return Evidence(
            watch=self._watch,
            fates=self._fates,
            submitter=submitter.name,
            results={n: values.get(h.id) for n, h in zip(names, self._handles, strict=True)},
            expected=dict(zip(names, self._expected, strict=True)),
            digests={node.name: view.digest for node, view in views.items()},
            ledgers={node.name: node.home / "ledger.db" for node in self._cluster.nodes},
            too_large=self._sources.too_large,
            work_s=self._work_s,
        )

    # Watching.

    async def _read_events(self, node: LocalNode) -> None:
        position = 0
        while True:
            try:
                async for event in node.client.events(position):
                    position = event.position
                    self._watch.add(event)
                    self._tell_news()
            except Problem as problem:
                # A stream may be cut at any time; its position says where to go on.
                if problem.code != "node_unreachable" or not node.alive:
                    raise
            await trio.sleep(LOOK_S)

    async def _look(self, node: LocalNode) -> None:
        while True:
            view = await node.client.cluster()
            total = len(self._watch.tasks)
            self._stage.show(self._watch.settled, total, self._device_lines(view))
            self._tell_news()
            await trio.sleep(LOOK_S)

    def _device_lines(self, view: ClusterView) -> list[DeviceLine]:
        ran = self._watch.ran()
        lines: list[DeviceLine] = []
        for device in sorted(view.devices, key=lambda device: device.name):
            state = self._fates[device.id].state
            if state == "works" and view.leader == device.id:
                state = "leads"
            lines.append(
                DeviceLine(device.name, state, device.running, device.queued, ran[device.id])
            )
        return lines

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._news.wait()

    def _tell_news(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _note(self, text: str, style: str = "") -> None:
        self._stage.note(text, style)

    def _clock_s(self) -> float:
        return time.monotonic() - self._began_s
