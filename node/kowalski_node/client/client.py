"""The asynchronous client of a node's HTTP API, on trio and on asyncio.

One `Client` holds a few kept-alive connections to one node; its methods may be used by many tasks
at once. What the node refuses is raised as the same `Problem` that the node had, and a node that
can't be reached is `node_unreachable`. Waiting for a task is done in slices, so it may last for
days.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypedDict

import msgspec
from typing_extensions import Unpack

from kowalski_node.views import (
    Accepted,
    ClusterView,
    EventView,
    InviteView,
    OutputChunk,
    TaskView,
    WhyView,
)
from kowalski_protocol.errors import Problem
from kowalski_protocol.task_files import check_files

from .address import api_token, api_url
from .answers import (
    WAIT_SLICE_S,
    BatchAccepted,
    BlobStored,
    SettledTasks,
    decoded,
)
from .wire import PIECE_SIZE_BYTES, Wire, file_pieces, path_part, threaded_pieces

if TYPE_CHECKING:
    from .local_files import FileSource, LocalFile

RESULTS_MAX: Final = 1000
"""Tasks asked for in one request; the node takes no more."""
RESULTS_WAIT_S: Final = 1.0
"""How long one request waits for some of so many, before it is the others' turn."""


class TaskOptions(TypedDict, total=False):
    """The options of a task besides kind and payload; the reference of POST /api/tasks explains
    them."""

    requires: Mapping[str, Any]
    priority: int
    timeout_s: float
    retry: Mapping[str, Any]
    failover: Literal["redistribute", "fail", "queue"]
    delivery: Literal["at_least_once", "at_most_once"]
    owner: str
    idempotency_key: str
    device_filter: Literal["local", "network", "all"]
    labels: Mapping[str, str]
    durability: int
    trace: str
    private: bool
    secrets: Sequence[str]
    after: Sequence[str]
    parent: str
    session: str
    hedge: bool


class TaskPage(msgspec.Struct, frozen=True):
    """One page of `Client.tasks`; `next` is the `after` of the page that follows."""

    tasks: list[TaskView]
    next: str | None


class _Health(msgspec.Struct, frozen=True):
    ok: bool


class TaskHandle:
    """A task that a node has accepted and holds durably."""

    def __init__(self, client: Client, task_id: str, replicas: int) -> None:
        self._client = client
        self.id: Final = task_id
        self.replicas: Final = replicas

    async def result(self, wait_s: float | None = None) -> TaskView:
        """See `Client.result`."""
        return await self._client.result(self.id, wait_s)

    async def cancel(self) -> TaskView:
        """See `Client.cancel`."""
        return await self._client.cancel(self.id)

    async def why(self) -> WhyView:
        """See `Client.why`."""
        return await self._client.why(self.id)

    def output(self) -> AsyncGenerator[OutputChunk, None]:
        """See `Client.output`."""
        return self._client.output(self.id)

    def __repr__(self) -> str:
        return f"TaskHandle({self.id!r}, replicas={self.replicas})"


class Client:
    """A connection to one node: `async with Client(url, token=...) as client`.

    `url` is the node's API, as a URL or as HOST:PORT; without it KOWALSKI_API says where that is,
    and without that it is this device's own, 127.0.0.1:52420. `token` is the API's token, if it has
    one; without it KOWALSKI_API_TOKEN is sent, if that is set. So a program asks the node that
    `kowalski` asks in the same shell. Raises `Problem` bad_request for a `url` that is none.
    """

    def __init__(self, url: str | None = None, *, token: str | None = None) -> None:
        self._wire = Wire(api_url(url), api_token(token))

    async def __aenter__(self) -> Self:
        await self._wire.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._wire.close()

    # Work.

    async def submit(
        self,
        kind: str,
        payload: Mapping[str, Any],
        *,
        min_replicas: int | None = None,
        files: Iterable[FileSource] = (),
        outputs: Sequence[str] = (),
        **options: Unpack[TaskOptions],
    ) -> TaskHandle:
        """The task is durable here and, where another member is live, on one more when this
        returns.

        `files` are laid into the work folder of a code task: each a file, a folder or a pattern of
        this device, as "LOCAL", "LOCAL=PATH" or a pair of the two. `outputs` are patterns of what
        is brought back (see `save`). `min_replicas` waits for more. Raises `Problem` with the code
        of the reason where it is refused.
        """
        payload = await self._with_files(payload, files, outputs)
        spec = _spec(kind, payload, options)
        if min_replicas is not None:
            spec["min_replicas"] = min_replicas
        accepted = await self._wire.json("POST", "/api/tasks", Accepted, spec)
        return TaskHandle(self, accepted.id, accepted.replicas)

    async def run(
        self,
        kind: str,
        payload: Mapping[str, Any],
        *,
        wait_s: float | None = None,
        files: Iterable[FileSource] = (),
        outputs: Sequence[str] = (),
        **options: Unpack[TaskOptions],
    ) -> TaskView:
        """Submits and waits in one request: the fastest way to one result. `files` and `outputs` as
        for `submit`."""
        payload = await self._with_files(payload, files, outputs)
        first_s = WAIT_SLICE_S if wait_s is None else min(wait_s, WAIT_SLICE_S)
        spec: dict[str, Any] = {**_spec(kind, payload, options), "wait_s": first_s}
        view = await self._wire.json("POST", "/api/tasks", TaskView, spec, wait_s=first_s)
        left_s = None if wait_s is None else wait_s - first_s
        if view.state == "settled" or left_s == 0:
            return view
        return await self.result(view.id, left_s)

    async def batch(self, specs: Iterable[Mapping[str, Any]]) -> list[TaskHandle]:
        """Submits many tasks, all or none; a spec is the JSON object of POST /api/tasks."""
        accepted = await self._wire.json("POST", "/api/tasks/batch", BatchAccepted, [*specs])
        return [TaskHandle(self, task_id, accepted.replicas) for task_id in accepted.ids]

    async def result(self, task_id: str, wait_s: float | None = None) -> TaskView:
        """The task once it has settled, or as it stands after `wait_s` (None: no limit)."""
        left_s = wait_s
        while True:
            slice_s = WAIT_SLICE_S if left_s is None else min(left_s, WAIT_SLICE_S)
            path = f"/api/tasks/{path_part(task_id)}"
            view = await self._wire.json(
                "GET", path, TaskView, query={"wait_s": slice_s}, wait_s=slice_s
            )
            if left_s is not None:
                left_s -= slice_s
            if view.state == "settled" or (left_s is not None and left_s <= 0):
                return view

    async def results(self, tasks: Iterable[str | TaskHandle]) -> AsyncGenerator[TaskView, None]:
        """Each of the tasks once it has settled, in the order in which they do."""
        ids = [one if isinstance(one, str) else one.id for one in tasks]
        waiting: deque[str] = deque(dict.fromkeys(ids))
        while waiting:
            asked = [*islice(waiting, RESULTS_MAX)]
            body = {"ids": asked, "wait_s": RESULTS_WAIT_S}
            path = "/api/tasks/results"
            answer = await self._wire.json("POST", path, SettledTasks, body, wait_s=RESULTS_WAIT_S)
            settled = {view.id for view in answer.tasks}
            for _ in asked:  # those still open are asked for again after all others
                waiting.rotate(-1)
            waiting = deque(task_id for task_id in waiting if task_id not in settled)
            for view in answer.tasks:
                yield view

    async def tasks(
        self, *, state: str | None = None, limit: int = 100, after: str | None = None
    ) -> TaskPage:
        """A page of tasks, newest first."""
        query = {"state": state, "limit": limit, "after": after}
        return await self._wire.json("GET", "/api/tasks", TaskPage, query=query)

    async def cancel(self, task_id: str) -> TaskView:
        """Asks for the end of a task; Problem already_settled where it has ended."""
        return await self._wire.json("DELETE", f"/api/tasks/{path_part(task_id)}", TaskView)

    async def why(self, task_id: str) -> WhyView:
        """The story of a task."""
        return await self._wire.json("GET", f"/api/tasks/{path_part(task_id)}/why", WhyView)

    async def output(
        self, task_id: str, *, follow: bool = True
    ) -> AsyncGenerator[OutputChunk, None]:
        """What the task prints, from its beginning and until it ends."""
        path = f"/api/tasks/{path_part(task_id)}/output"
        async for event in self._wire.stream(path, {"follow": follow}):
            yield decoded(event.data, OutputChunk, self._wire.url)

    # Blobs.

    async def put_blob(self, source: Path | str | bytes) -> str:
        """Stores a file (or bytes) and returns its hex SHA-256."""
        answer = await self._wire.send(
            "PUT", "/api/blobs", content=file_pieces(source), media="application/octet-stream"
        )
        return decoded(answer, BlobStored, self._wire.url).hash

    async def get_blob(self, blob_hash: str) -> bytes:
        """A blob's bytes, checked against its hash; `save_blob` is for those larger than memory."""
        kept = bytearray()
        async for piece in self._blob(blob_hash):
            kept += piece
        return bytes(kept)

    async def save_blob(self, blob_hash: str, path: Path | str) -> int:
        """Writes a blob to a file, which appears once it is whole and checked; returns its size."""
        import anyio

        target = Path(path)
        size_bytes = 0
        with tempfile.NamedTemporaryFile(
            dir=target.parent, prefix=target.name, delete=False
        ) as new:
            try:
                async for piece in self._blob(blob_hash):
                    size_bytes += len(piece)
                    await anyio.to_thread.run_sync(new.write, piece)
                new.close()
                await anyio.Path(new.name).replace(target)
            finally:
                await anyio.Path(new.name).unlink(missing_ok=True)
        return size_bytes

    async def save(
        self, result: TaskView, folder: Path | str, *, overwrite: bool = False
    ) -> list[Path]:
        """Writes the files that a task left below a folder, and returns where they are.

        Nothing is written through a link, and nothing that is there is replaced unless `overwrite`
        says so; each file appears once it is whole and checked.
        """
        import anyio

        from .saving import open_saving

        files = [] if result.result is None else result.result.files
        with open_saving(folder, files, overwrite=overwrite) as saving:
            for file in files:
                with saving.target(file) as target:
                    async for piece in self._blob(file.blob):
                        await anyio.to_thread.run_sync(target.write, piece)
        return [Path(folder) / file.path for file in files]

    async def _with_files(
        self, payload: Mapping[str, Any], files: Iterable[FileSource], outputs: Sequence[str]
    ) -> Mapping[str, Any]:
        """The payload with the files, which the node keeps when this returns."""
        sources = [files] if isinstance(files, str) else [*files]
        if not sources and not outputs:
            return payload
        import anyio

        from .local_files import find_files

        whole = dict(payload)
        if outputs:
            whole["outputs"] = [outputs] if isinstance(outputs, str) else [*outputs]
        if not sources:
            return whole
        found, _ = await anyio.to_thread.run_sync(find_files, sources)
        whole["inputs"] = [_entry(file, "0" * 64) for file in found]
        check_files(whole)  # before anything is read or sent
        blobs = [await anyio.to_thread.run_sync(file.blob) for file in found]
        for file, blob in zip(found, blobs, strict=True):
            if not await self._wire.has(f"/api/blobs/{blob}", {"kept": True}):
                answer = await self._wire.send(
                    "PUT",
                    "/api/blobs",
                    content=threaded_pieces(file.pieces()),
                    media="application/octet-stream",
                )
                file.check_sent(blob, decoded(answer, BlobStored, self._wire.url).hash)
        whole["inputs"] = [_entry(file, blob) for file, blob in zip(found, blobs, strict=True)]
        return whole

    async def _blob(self, blob_hash: str) -> AsyncIterator[bytes]:
        digest = hashlib.sha256()
        async with self._wire.answer(f"/api/blobs/{path_part(blob_hash)}", {}) as response:
            async for piece in response.aiter_raw(PIECE_SIZE_BYTES):
                digest.update(piece)
                yield piece
        if digest.hexdigest() != blob_hash.lower():
            raise Problem("bad_answer", "The bytes that came are not those of the blob asked for.")

    # The cluster.

    async def health(self) -> bool:
        """Whether the node takes work; Problem node_unreachable where there is none."""
        try:
            return (await self._wire.json("GET", "/api/health", _Health)).ok
        except Problem as problem:
            if problem.code in ("not_ready", "stopping"):
                return False
            raise

    async def cluster(self) -> ClusterView:
        """The cluster as the node sees it."""
        return await self._wire.json("GET", "/api/cluster", ClusterView)

    async def events(
        self, after: int = 0, *, follow: bool = True
    ) -> AsyncGenerator[EventView, None]:
        """The ledger's events after a position, in the order in which they came to the node.

        Who stops early closes it: `async with aclosing(client.events()) as events`."""
        query = {"after": after, "follow": follow}
        async for event in self._wire.stream("/api/events", query):
            yield decoded(event.data, EventView, self._wire.url)

    async def invite(self, role: str = "member") -> InviteView:
        """Opens the join door for one newcomer."""
        return await self._wire.json("POST", "/api/invites", InviteView, {"role": role})

    async def weights(self) -> dict[str, dict[str, float]]:
        """The placement weights in force."""
        return await self._wire.json("GET", "/api/weights", dict[str, dict[str, float]])

    async def set_weights(
        self, kind: str, weights: Mapping[str, float]
    ) -> dict[str, dict[str, float]]:
        """Changes the weights of one task kind; returns all."""
        body = {"kind": kind, "weights": dict(weights)}
        return await self._wire.json("PUT", "/api/weights", dict[str, dict[str, float]], body)


def _entry(file: LocalFile, blob: str) -> dict[str, Any]:
    return {"path": file.path, "blob": blob, "size_bytes": file.size_bytes}


def _spec(kind: str, payload: Mapping[str, Any], options: TaskOptions) -> dict[str, Any]:
    return {"kind": kind, "payload": payload, **options}
