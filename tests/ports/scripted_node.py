"""A node kept in memory, for tests of what stands in front of a node.

It keeps the promises of `NodePort` (the conformance suite runs on it as on the runtime) without
ledger, network or executors: specs are checked by the same door as a real node's, `echo` settles
at once, and everything else does what the test says (`start`, `say`, `settle`). Time is a counter,
so that stories are the same on every run.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec
import trio

from kowalski_node.views import (
    Accepted,
    CellView,
    ClusterView,
    DeviceView,
    ErrorView,
    EventView,
    HeadView,
    InviteView,
    LinkView,
    OutputChunk,
    PauseView,
    ResultView,
    SessionView,
    TaskView,
    WhyStep,
    WhyView,
)
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import DEAD_OUTCOMES
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.tasks import parse_task

SELF = "12D3KooWSelfSelfSelfSelfSelfSelfSelfSelfSelfSelf1111"
OTHER = "12D3KooWPeerPeerPeerPeerPeerPeerPeerPeerPeerPeer2222"
FOUNDED = 1_760_000_000.0


class ScriptedNode:
    """A `NodePort` that does what a test says."""

    def __init__(self, name: str = "desk") -> None:
        self.name = name
        self.is_ready = True
        self.refuse_with: Problem | None = None
        """Raised by the next submissions while set."""
        self.before_answer: Callable[[], None] | None = None
        """Called in `cluster`, for mistakes of our own."""
        self.extra_metrics: list[tuple[str, str, str, Mapping[str, str], float]] = []
        self.device_names: dict[str, str] = {OTHER: "laptop"}
        self.warnings: list[ErrorView] = []
        self.pauses: dict[str, list[PauseView]] = {}
        """By device."""
        self.waiting: str | None = None
        """Why the tasks that `why` is asked about wait."""
        self.blobs: dict[str, bytes] = {}
        self.blob_pieces: list[int] = []
        self._tasks: dict[str, TaskView] = {}
        self._payloads: dict[str, Mapping[str, Any]] = {}
        self._keys: dict[str, tuple[str, bytes]] = {}
        self._output: dict[str, list[OutputChunk]] = {}
        self._events: list[EventView] = []
        self._weights: dict[str, dict[str, float]] = {"code": {"cpu": 0.4, "latency": 0.2}}
        self._changed = trio.Event()
        self._ticks = itertools.count(1)
        self._note("ClusterFounded", {"name": "home"})

    # The script.

    def start(self, task_id: str, device: str = OTHER) -> None:
        """The task runs on a device."""
        view = self._tasks[task_id]
        times = view.times | {"placed": self._now(), "started": self._now()}
        self._replace(view, state="running", device=device, attempt=view.attempt + 1, times=times)
        self._note("TaskStarted", {"task": task_id})

    def say(self, task_id: str, text: str, stream: str = "stdout") -> None:
        """The task prints."""
        said = self._output.setdefault(task_id, [])
        offset = sum(len(chunk.text) for chunk in said if chunk.stream == stream)
        said.append(OutputChunk(stream, text, offset))
        self._tell()

    def settle(self, task_id: str, result: ResultView, outcome: str | None = None) -> None:
        """The task ends."""
        view = self._tasks[task_id]
        outcome = outcome or ("completed" if result.ok else "failed")
        times = view.times | {"ended": self._now(), "settled": self._now(), "run_s": 0.25}
        self._replace(view, state="settled", outcome=outcome, result=result, times=times)
        self._note("TaskSettled", {"task": task_id, "outcome": outcome})

    def _now(self) -> float:
        return FOUNDED + next(self._ticks) / 1000

    def _replace(self, view: TaskView, **fields: Any) -> None:
        self._tasks[view.id] = msgspec.structs.replace(view, **fields)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _note(self, kind: str, body: dict[str, Any]) -> None:
        position = len(self._events) + 1
        digest = hashlib.sha256(b"%d" % position).hexdigest()
        self._events.append(
            EventView(position, SELF, "task", position, digest, self._now(), kind, True, body)
        )
        self._tell()

    # The port.

    def ready(self) -> bool:
        return self.is_ready

    async def submit(
        self, specs: Sequence[Mapping[str, Any]], *, min_replicas: int | None = None
    ) -> list[Accepted]:
        await trio.lowlevel.checkpoint()
        if self.refuse_with is not None:
            raise self.refuse_with
        if len(self._tasks) + len(specs) > LIMITS.tasks_open_per_author_max:
            raise Problem("too_many_tasks", "Too many tasks are waiting.")
        parsed: list[tuple[Mapping[str, Any], Any]] = []
        for index, spec in enumerate(specs):
            try:
                submission = parse_task(spec)
                if submission.spec.kind == "tool" and submission.spec.need not in ("echo", "sleep"):
                    raise Problem("unknown_tool", f"No device has '{submission.spec.need}'.")
            except Problem as problem:
                if len(specs) > 1:
                    sentence = f"Task {index}: {problem.sentence}"
                    raise Problem(problem.code, sentence, mend=problem.mend) from None
                raise
            if submission.key is not None:
                known = self._keys.get(submission.key.decode())
                if known is not None and known[1] != submission.spec_bytes:
                    raise Problem("key_conflict", "The key was used with another task.")
            parsed.append((spec, submission))
        return [self._accept(spec, submission, min_replicas or 2) for spec, submission in parsed]

    def _accept(self, spec: Mapping[str, Any], submission: Any, replicas: int) -> Accepted:
        if submission.key is not None:
            known = self._keys.get(submission.key.decode())
            if known is not None:
                return Accepted(known[0], replicas)
        number = len(self._tasks)
        task_id = hashlib.sha256(b"task %d" % number).hexdigest()[:32]
        if submission.key is not None:
            self._keys[submission.key.decode()] = (task_id, submission.spec_bytes)
        self._payloads[task_id] = spec["payload"]
        self._tasks[task_id] = TaskView(
            id=task_id,
            kind=submission.spec.kind,
            state="submitted",
            outcome=None,
            attempt=0,
            device=None,
            replicas=replicas,
            result=None,
            times={"submitted": self._now()},
            owner=SELF,
            submitter=SELF,
            priority=submission.spec.priority,
            labels=dict(submission.spec.labels),
            session=CellView(submission.spec.session, submission.spec.need, 0)
            if submission.spec.session
            else None,
        )
        self._note("TaskSubmitted", {"task": task_id})
        if submission.spec.need == "echo":
            self.start(task_id)
            self.settle(task_id, ResultView(True, value=spec["payload"]["args"].get("value")))
        return Accepted(task_id, replicas)

    async def submit_and_wait(self, spec: Mapping[str, Any], wait_s: float) -> TaskView:
        (accepted,) = await self.submit([spec])
        return await self.wait(accepted.id, wait_s)

    async def wait(self, task_id: str, wait_s: float) -> TaskView:
        with trio.move_on_after(wait_s):
            while (await self.task(task_id)).state != "settled":
                await self._changed.wait()
        return self._task(task_id)

    def task_id(self, prefix: str) -> str:
        found = [task_id for task_id in self._tasks if task_id.startswith(prefix)]
        if len(found) > 1:
            raise Problem("ambiguous_id", f"{len(found)} tasks begin with {prefix}.")
        if not found:
            raise Problem("not_found", f"No task begins with {prefix}.")
        return found[0]

    async def task(self, task_id: str) -> TaskView:
        await trio.lowlevel.checkpoint()
        return self._task(task_id)

    def _task(self, task_id: str) -> TaskView:
        if task_id not in self._tasks:
            raise Problem("not_found", f"There is no task {task_id}.", mend="kowalski tasks")
        return self._tasks[task_id]

    def sessions(self) -> list[SessionView]:
        """The sessions of the tasks that were submitted."""
        cells: dict[tuple[str, str], list[TaskView]] = {}
        for view in self._tasks.values():
            if view.session is not None:
                cells.setdefault((view.session.name, view.session.language), []).append(view)
        return [
            SessionView(
                name,
                language,
                views[-1].device,
                sum(view.state == "settled" for view in views),
                sum(view.state != "settled" for view in views),
                views[-1].times.get("settled"),
            )
            for (name, language), views in cells.items()
        ]

    async def resubmit(self, task_id: str) -> Accepted:
        """Takes the task once more."""
        view = self._task(task_id)
        if view.state != "settled":
            raise Problem("not_settled", "The task is still under way.")
        spec = {"kind": view.kind, "payload": self._payloads[task_id], "failover": "queue"}
        return (await self.submit([spec]))[0]

    async def tasks(
        self, *, state: str | None, limit: int, after: str | None, dead: bool = False
    ) -> list[TaskView]:
        await trio.lowlevel.checkpoint()
        newest = [*reversed(self._tasks.values())]
        if after is not None:
            newest = newest[newest.index(self._task(after)) + 1 :]
        found = [view for view in newest if state in (None, view.state)]
        return [view for view in found if not dead or view.outcome in DEAD_OUTCOMES][:limit]

    async def cancel(self, task_id: str) -> TaskView:
        await trio.lowlevel.checkpoint()
        if self._task(task_id).state == "settled":
            raise Problem("already_settled", f"The task {task_id} has ended.")
        error = ErrorView("cancelled", "Somebody cancelled the task.")
        self._note("CancelRequested", {"task": task_id})
        self.settle(task_id, ResultView(False, error=error), "cancelled")
        return self._task(task_id)

    async def why(self, task_id: str) -> WhyView:
        await trio.lowlevel.checkpoint()
        view = self._task(task_id)
        steps = [
            WhyStep(
                event.time,
                event.kind,
                event.author,
                f"{self.name} wrote {event.kind}.",
                {key: value for key, value in event.body.items() if key != "task"},
            )
            for event in self._events
            if event.body.get("task") == task_id
        ]
        return WhyView(task_id, view.state, view.outcome, steps, self.waiting)

    async def output(self, task_id: str, *, follow: bool) -> AsyncIterator[OutputChunk]:
        sent = 0
        while True:
            changed = self._changed
            said = self._output.get(task_id, [])
            while sent < len(said):
                sent += 1
                yield said[sent - 1]
            if not follow or self._task(task_id).state == "settled":
                return
            await changed.wait()

    def cluster(self) -> ClusterView:
        if self.before_answer is not None:
            self.before_answer()
        states: dict[str, int] = {}
        for view in self._tasks.values():
            states[view.state] = states.get(view.state, 0) + 1
        digest = hashlib.sha256(str(len(self._events)).encode()).hexdigest()
        devices = [self._device(SELF, self.name)]
        devices += [self._device(peer, name) for peer, name in self.device_names.items()]
        links = [
            LinkView(peer, True, 0.42, {"lane": 1200}, {"lane": 3400}, "/ip4/192.168.1.7/tcp/52421")
            for peer in self.device_names
        ]
        return ClusterView(
            cluster=hashlib.sha256(b"home").hexdigest(),
            self=SELF,
            name="home",
            leader=SELF,
            epoch=3,
            digest=f"1:{digest}",
            heads=[HeadView(SELF, "task", len(self._events), digest)],
            devices=devices,
            links=links,
            tasks=states,
            warnings=self.warnings,
            version="0.1.0",
        )

    def _device(self, peer: str, name: str) -> DeviceView:
        return DeviceView(
            id=peer,
            name=name,
            role="admin" if peer == SELF else "member",
            alive=True,
            self=peer == SELF,
            leader=peer == SELF,
            last_heard_s=0.0 if peer == SELF else 0.2,
            capabilities={
                "kinds": ["code", "tool"],
                "languages": {"python": "3.11.9"},
                "tools": ["echo", "sleep"],
                "sandbox": "bubblewrap",
                "slots": 2,
                "cores": 2,
                "memory_total_bytes": 8 * 2**30,
                "accelerators": [],
                "labels": {},
                "problems": [],
            },
            sample={"cpu_fraction": 0.12, "memory_used_bytes": 2 * 2**30, "load_1m": 0.4},
            running=0,
            queued=0,
            completed=len(self._tasks),
            clock_offset_s=0.001,
            pauses=self.pauses.get(peer, []),
        )

    async def events(self, *, after: int, follow: bool) -> AsyncIterator[EventView]:
        sent = after
        while True:
            changed = self._changed
            while sent < len(self._events):
                sent += 1
                yield self._events[sent - 1]
            if not follow:
                return
            await changed.wait()

    async def store_blob(self, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
        digest = hashlib.sha256()
        kept = bytearray()
        async for chunk in chunks:
            digest.update(chunk)
            self.blob_pieces.append(len(chunk))
            kept += chunk
        self.blobs[digest.hexdigest()] = bytes(kept)
        return digest.hexdigest(), len(kept)

    def keeps_blob(self, blob_hash: str) -> bool:
        return blob_hash in self.blobs

    async def open_blob(self, blob_hash: str) -> tuple[int, AsyncIterator[bytes]]:
        await trio.lowlevel.checkpoint()
        if blob_hash not in self.blobs:
            raise Problem("not_found", "No member holds this blob.")
        blob = self.blobs[blob_hash]

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(blob), 64 * 1024):
                await trio.lowlevel.checkpoint()
                yield blob[at : at + 64 * 1024]

        return len(blob), pieces()

    async def invite(self, role: str) -> InviteView:
        await trio.lowlevel.checkpoint()
        if role not in ("admin", "member"):
            raise Problem("not_supported", f"The role '{role[:32]}' is not built in this release.")
        return InviteView("kowalski1-" + "a" * 150, FOUNDED + 600, role)

    def weights(self) -> dict[str, dict[str, float]]:
        return self._weights

    async def set_weights(
        self, kind: str, weights: Mapping[str, float]
    ) -> dict[str, dict[str, float]]:
        await trio.lowlevel.checkpoint()
        if kind not in ("code", "tool"):
            raise Problem("unknown_kind", f"There is no task kind '{kind[:32]}'.")
        self._weights[kind] = dict(weights)
        self._note("WeightsChanged", {"kind": kind, "weights": dict(weights)})
        return self._weights

    def metrics(self) -> Sequence[tuple[str, str, str, Mapping[str, str], float]]:
        row = ("kowalski_tasks", "gauge", "Tasks known here.", {}, float(len(self._tasks)))
        return [row, *self.extra_metrics]
