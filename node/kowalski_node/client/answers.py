"""What a node's answers mean to a client: a value of a known type, or the `Problem` that the node
had, or would have with a request that can't be sent.

Shared by the async `Client` and the command line, which use different HTTP libraries. The node may
be of a newer release: unknown fields are ignored, and an unknown error code keeps its sentence.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from kowalski_node.views import ErrorView, TaskView
from kowalski_protocol.errors import CODES, Problem

T = TypeVar("T")

WAIT_SLICE_S: Final = 300.0
"""One request's wait for a task; below what the node allows, so that it never refuses."""
PATIENCE_S: Final = 30.0
"""How long an answer may take beyond what the request asked the node to wait."""


class _ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorView


class BlobStored(msgspec.Struct, frozen=True):
    """The answer to PUT /api/blobs."""

    hash: str
    size_bytes: int


class BatchAccepted(msgspec.Struct, frozen=True):
    """The answer to POST /api/tasks/batch."""

    ids: list[str]
    replicas: int = 1


class SettledTasks(msgspec.Struct, frozen=True):
    """The answer to POST /api/tasks/results."""

    tasks: list[TaskView]


def decoded(body: bytes, kind: type[T], url: str) -> T:
    """The body as its type; Problem bad_answer where something else than a node has answered."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise bad_answer(url) from None


def problem_of(status: int, body: bytes, url: str) -> Problem:
    """The problem that an answer with an error status tells of."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return bad_answer(url, status)
    if error.code in CODES:
        return Problem(error.code, error.message, mend=error.mend)
    code = "bad_request" if 400 <= status < 500 else "internal"
    return Problem(code, f"{error.message} ({error.code})", mend=error.mend)


def bad_answer(url: str, status: int | None = None) -> Problem:
    """What answers there is no node."""
    said = "" if status is None else f" (status {status})"
    return Problem("bad_answer", f"What answers at {url} is not a Kowalski node{said}.")


def not_json(error: Exception) -> Problem:
    """A request holds a value that JSON has no form for."""
    return Problem("bad_request", f"The request can't be said in JSON: {error}.")


def unreachable(url: str) -> Problem:
    """Nobody answers there."""
    return Problem("node_unreachable", f"No node answers at {url}.", mend="kowalski-node")


def cut_off(url: str) -> Problem:
    """The node stopped in the middle of a stream."""
    return Problem("node_unreachable", f"The node at {url} ended the stream: it is stopping.")
