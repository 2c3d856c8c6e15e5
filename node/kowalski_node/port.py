"""The door through which the gateway reaches the node.

The HTTP API, the metrics and the command line know a node only by this interface: the runtime
implements it, tests use a scripted double, and one conformance suite
(tests/ports/test_node_port.py) runs on both. All methods run on trio's thread; those that wait take
their deadline as an argument. Errors are `Problem`s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from .views import (
    Accepted,
    ClusterView,
    EventView,
    InviteView,
    OutputChunk,
    SessionView,
    TaskView,
    WhyView,
)


class NodePort(Protocol):
    """What a running node offers to the surfaces of its device."""

    def ready(self) -> bool:
        """Whether the node has opened its ledger and takes work."""
        ...

    async def submit(
        self, specs: Sequence[Mapping[str, Any]], *, min_replicas: int | None = None
    ) -> list[Accepted]:
        """Accepts all of the specs or none; returns once they are durable (architecture 6.4).

        A spec is the JSON object of POST /api/tasks without `wait_s` and `min_replicas`. Raises
        `Problem` naming the index of the first bad spec.
        """
        ...

    async def submit_and_wait(self, spec: Mapping[str, Any], wait_s: float) -> TaskView:
        """Accepts one task; its view once it is settled, or when `wait_s` have passed."""
        ...

    async def wait(self, task_id: str, wait_s: float) -> TaskView:
        """The task's view once it is settled, or as it stands when `wait_s` have passed."""
        ...

    def task_id(self, prefix: str) -> str:
        """The full id of the one task that begins so.

        Problem not_found or ambiguous_id otherwise.
        """
        ...

    def sessions(self) -> list[SessionView]:
        """All sessions, the one that was used last first."""
        ...

    async def task(self, task_id: str) -> TaskView: ...

    async def resubmit(self, task_id: str) -> Accepted:
        """Submits a task that has ended once more, as a new one.

        Problem `not_settled` where it has not ended, `not_found` where its payload is gone.
        """
        ...

    async def tasks(
        self, *, state: str | None, limit: int, after: str | None, dead: bool = False
    ) -> list[TaskView]:
        """Newest first; `after` is the id of the last one of the page before; `dead` are those that
        used up their attempts."""
        ...

    async def cancel(self, task_id: str) -> TaskView:
        """Asks for the end of a task; Problem already_settled where it has ended."""
        ...

    async def why(self, task_id: str) -> WhyView: ...

    def output(self, task_id: str, *, follow: bool) -> AsyncIterator[OutputChunk]:
        """What the task printed so far (known here), then, with `follow`, what it prints until it
        ends.
        """
        ...

    def cluster(self) -> ClusterView: ...

    def events(self, *, after: int, follow: bool) -> AsyncIterator[EventView]:
        """Events in order of arrival here, from the position after `after`."""
        ...

    async def store_blob(self, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
        """Keeps a blob durably; returns its hex SHA-256 and its size in bytes."""
        ...

    def keeps_blob(self, blob_hash: str) -> bool:
        """Whether this node has the blob, and for good."""
        ...

    async def open_blob(self, blob_hash: str) -> tuple[int, AsyncIterator[bytes]]:
        """A blob's size and bytes, fetched from members where it isn't here."""
        ...

    async def invite(self, role: str) -> InviteView:
        """Opens the join door for one newcomer."""
        ...

    def weights(self) -> dict[str, dict[str, float]]:
        """The placement weights in force, per task kind."""
        ...

    async def set_weights(
        self, kind: str, weights: Mapping[str, float]
    ) -> dict[str, dict[str, float]]:
        """Changes the weights of one kind at run time; returns all."""
        ...

    def metrics(self) -> Sequence[tuple[str, str, str, Mapping[str, str], float]]:
        """Rows of (name, "counter" | "gauge", help, labels, value) for GET /metrics.

        No user data.
        """
        ...
