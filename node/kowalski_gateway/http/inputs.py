"""What requests bring: query strings and bodies, as types that check themselves and document
themselves.

A query is converted from text by msgspec (`?wait_s=2.5`), so bounds stand in the type and nowhere
else. The body of a task is the exception: it is handed to the node as it came, because
`kowalski_protocol.tasks` is the one place that knows what a task may say; `TaskRequest` only
describes it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from kowalski_node.views import TaskView

from .bounds import BOUNDS

WaitS = Annotated[float, Meta(ge=0, le=BOUNDS.wait_s_max)]


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A path without parameters."""


class WaitQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    wait_s: Annotated[WaitS, Meta(description="Seconds to wait for the task to settle.")] = 0.0


class TasksQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    state: Literal["submitted", "waiting", "placed", "running", "completed", "settled"] | None = (
        None
    )
    dead: Annotated[
        bool, Meta(description="Only those that used up their attempts, or whose end is unknown.")
    ] = False
    limit: Annotated[int, Meta(ge=1, le=BOUNDS.page_max)] = 100
    after: Annotated[
        str | None, Meta(description="The id of the last task of the page before.")
    ] = None


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    after: Annotated[
        Annotated[int, Meta(ge=0, le=2**63 - 1)] | None,
        Meta(description="Begin after this position; default: the header Last-Event-ID, or 0."),
    ] = None
    follow: Annotated[bool, Meta(description="Whether to stay for events to come.")] = True


class OutputQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    follow: Annotated[bool, Meta(description="Whether to stay until the task ends.")] = True


class Retry(msgspec.Struct, frozen=True):
    """How often a failed attempt is tried again."""

    max_attempts: int = 1
    backoff_s: float = 1.0
    jitter: float = 0.1


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is submitted. Options that are not built in this release are refused by name."""

    kind: Annotated[str, Meta(description="code or tool")]
    payload: Annotated[
        dict[str, Any],
        Meta(description='code: {"language", "code", "inputs", "outputs"}; tool: {"tool", "args"}'),
    ]
    requires: dict[str, Any] = {}
    priority: int = 0
    timeout_s: float = 300.0
    retry: Retry | None = None
    failover: Literal["redistribute", "fail", "queue"] = "redistribute"
    delivery: Literal["at_least_once", "at_most_once"] = "at_least_once"
    owner: Annotated[str | None, Meta(description="The peer ID of the member that settles it.")] = (
        None
    )
    idempotency_key: str | None = None
    device_filter: Literal["local", "network", "all"] = "all"
    labels: dict[str, str] = {}
    durability: int = 1
    trace: Annotated[
        str | None,
        Meta(description="What it belongs to, such as a W3C traceparent; shown with the task."),
    ] = None
    session: Annotated[
        str | None,
        Meta(
            description="Runs it as the next cell of this session, in an interpreter that is kept;"
            " code in python or bash."
        ),
    ] = None
    hedge: Annotated[
        bool,
        Meta(
            description="Whether it may run on a second device as well where its run takes far"
            " longer than others of its sort; the result that comes first counts. Only for work"
            " that may run twice."
        ),
    ] = False
    private: bool = False
    secrets: list[str] = []
    after: list[str] = []
    parent: str | None = None


class TaskSubmission(TaskRequest, frozen=True, kw_only=True):
    """A task, and how long the request waits."""

    wait_s: Annotated[
        WaitS | None,
        Meta(description="Answer when the task has settled, or after so many seconds."),
    ] = None
    min_replicas: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Answer when so many nodes hold the task, or after 30 s; the answer says"
            " how many do. At most as many as there are members."
        ),
    ] = None


class Waiting(msgspec.Struct, frozen=True):
    """The part of a submission that is the request's and not the task's."""

    wait_s: WaitS | None = None
    min_replicas: Annotated[int, Meta(ge=1, le=128)] | None = None


class ResultsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tasks whose results are collected together."""

    ids: Annotated[list[str], Meta(max_length=BOUNDS.page_max)]
    wait_s: Annotated[WaitS, Meta(description="Seconds to wait for the first to settle.")] = 0.0


class InviteRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom the invite lets in."""

    role: Annotated[str, Meta(min_length=1, max_length=32)] = "member"


class WeightsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """New placement weights for one task kind."""

    kind: Annotated[str, Meta(min_length=1, max_length=64)]
    weights: Annotated[dict[str, float], Meta(max_length=64)]


# Answers that are no view of the node but of the request.


class HealthAnswer(msgspec.Struct, frozen=True):
    ok: bool
    version: str


class BatchAnswer(msgspec.Struct, frozen=True):
    ids: list[str]
    replicas: Annotated[int, Meta(description="How many nodes hold each of them, at least.")]


class ResultsAnswer(msgspec.Struct, frozen=True):
    tasks: Annotated[list[TaskView], Meta(description="Those that have settled.")]
    open: Annotated[int, Meta(description="How many of the others have not, or don't fit in here.")]


class BlobAnswer(msgspec.Struct, frozen=True):
    hash: Annotated[str, Meta(description="The hex SHA-256 of the bytes.")]
    size_bytes: int
