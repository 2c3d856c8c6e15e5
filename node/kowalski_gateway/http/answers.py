"""How answers are written: JSON by msgspec, and errors in the one form that every surface shows.

An error is `{"error": {"code", "message", "mend"?}}` with the status that the catalogue gives its
code. What an exception said is never part of an answer: a mistake of ours is `internal`, and the
log has the details.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from starlette.responses import Response

from kowalski_node.views import ErrorView
from kowalski_protocol.errors import Problem

from .bounds import BOUNDS
from .exchange import Answer

JSON: Final = "application/json"
RETRY_STATUSES: Final = frozenset({429, 503})

SAFETY_HEADERS: Final = {
    # What members hold is data and never a page: no browser may guess otherwise or embed it
    # elsewhere.
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

_encoder: Final = msgspec.json.Encoder()


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorView


def json_answer(value: Any, status: int = 200) -> Response:
    """The value as JSON; structs by their field names."""
    return Response(_encoder.encode(value), status, SAFETY_HEADERS, JSON)


def error_bytes(problem: Problem) -> bytes:
    """The JSON of an error."""
    view = ErrorView(problem.code, problem.sentence, problem.mend)
    return _encoder.encode(ErrorBody(view))


def error_headers(problem: Problem, status: int) -> dict[str, str]:
    """The headers of an error: how long to wait, or which token is asked for."""
    headers = dict(SAFETY_HEADERS)
    if status in RETRY_STATUSES:
        headers["retry-after"] = str(BOUNDS.retry_after_s)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers


def http_status(problem: Problem) -> int:
    """The status of a problem; a code that tells how an attempt ended is never a request's own."""
    return problem.status if problem.status >= 400 else 500


def error_answer(problem: Problem, extra: dict[str, str] | None = None) -> Response:
    """A problem as an answer."""
    status = http_status(problem)
    return Response(
        error_bytes(problem), status, error_headers(problem, status) | (extra or {}), JSON
    )


def raw_error(problem: Problem) -> Answer:
    """The same for the places where no application has run: the connection's own refusals."""
    response = error_answer(problem)
    return response.status_code, list(response.raw_headers), bytes(response.body)
