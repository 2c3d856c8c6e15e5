"""What can go wrong, told the same way everywhere.

A `Problem` is an error that a person or a program outside may see: it has a stable `code` to match
on, a sentence for a person, and, where there is one, the command that mends it. The table below is
the one list of codes; it gives each code its HTTP status, so that the API, the command line and the
logs can't disagree. A mistake of our own is an assertion, never a `Problem`.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Code(msgspec.Struct, frozen=True):
    """One row of the catalogue: what the code means and how HTTP reports it."""

    status: int
    meaning: str


CODES: Final[dict[str, Code]] = {
    # What was asked for is wrong.
    "bad_request": Code(400, "the request is not of the form that the reference gives"),
    "unknown_kind": Code(400, "no executor of this release knows the task kind"),
    "unknown_language": Code(400, "no device of the cluster runs this language"),
    "unknown_tool": Code(400, "no device of the cluster has this tool"),
    "not_supported": Code(400, "the option is named in the contract and not built in this release"),
    "impossible_requirement": Code(400, "no device of the cluster could ever run the task"),
    "spec_too_large": Code(413, "the task or its payload is larger than the limit"),
    "key_conflict": Code(409, "the idempotency key was used with another task"),
    "not_found": Code(404, "nothing in this ledger has that name"),
    "ambiguous_id": Code(409, "more than one task begins with these characters"),
    "already_settled": Code(409, "the task has ended, so it can't be changed"),
    "not_settled": Code(409, "the task is still under way, so it has no result yet"),
    "too_many_tasks": Code(429, "as many tasks as the limit allows are waiting"),
    "not_allowed": Code(403, "the role of this device does not allow it"),
    "foreign_origin": Code(
        403, "the request comes from a page or host that is not this node's own"
    ),
    "unauthorized": Code(401, "the API token is missing or wrong"),
    # What this device can't do now.
    "disk_full": Code(507, "the ledger's disk is full: nothing new is written, reading goes on"),
    "stopping": Code(503, "the node is stopping and takes nothing new"),
    "not_ready": Code(503, "the node is starting"),
    "no_inviter": Code(503, "the device that made the invite can't be reached"),
    "internal": Code(500, "a mistake of ours: the log has the details"),
    # Joining.
    "bad_token": Code(400, "the text is not a Kowalski invite"),
    "invite_expired": Code(410, "the invite is past its time"),
    "invite_used": Code(410, "the invite was used before"),
    "invite_refused": Code(403, "the inviter does not know this invite"),
    "has_own_work": Code(409, "this device has open tasks of its own, so it can't join in place"),
    # The device itself.
    "home_locked": Code(409, "another process uses this home folder"),
    "home_unusable": Code(500, "the home folder can't be read or written"),
    "key_exposed": Code(500, "others can read the identity's key file"),
    "port_busy": Code(409, "another process listens on the port"),
    "ledger_corrupt": Code(500, "the ledger file is damaged"),
    "ledger_newer": Code(409, "a newer release wrote the ledger"),
    "ledger_foreign": Code(409, "the file is not a Kowalski ledger"),
    "ledger_missing": Code(404, "there is no ledger file at this place"),
    "disk_failed": Code(500, "the ledger's disk reported an error: nothing new is written"),
    "node_unreachable": Code(503, "no node answers at this address"),
    # How an attempt ends without a value.
    "code_failed": Code(200, "the program ended with an error"),
    "tool_failed": Code(200, "the tool refused its arguments or failed"),
    "timed_out": Code(200, "the attempt ran past its time"),
    "out_of_memory": Code(200, "the attempt used more memory than it may"),
    "output_too_large": Code(200, "the attempt printed more than it may"),
    "cancelled": Code(200, "somebody cancelled the task"),
    "device_lost": Code(200, "the device was lost while it ran the attempt"),
    "sandbox_unavailable": Code(200, "the device has no working sandbox"),
    "interpreter_lost": Code(200, "the cell ended the interpreter of its session"),
    "abandoned": Code(200, "the task of which it was a step ended before it"),
    "graph_failed": Code(200, "a task of the graph failed"),
    "session_lost": Code(200, "the session can't go on: its recorded cells are not all there"),
    "executor_failed": Code(200, "the executor itself failed: the device's log has the details"),
    # At the HTTP door and on the command line.
    "method_not_allowed": Code(405, "the path exists and does not know this method"),
    "unsupported_media_type": Code(415, "the body is not of the media type that the path takes"),
    "too_large": Code(413, "the request's body is larger than the limit"),
    "too_slow": Code(408, "the request's body came slower than the limit"),
    "too_many_requests": Code(429, "as many requests as the limit allows are being served"),
    "token_required": Code(400, "an API that others can reach needs a token"),
    "bad_answer": Code(502, "what answers at this address is not a Kowalski node"),
}


class Problem(Exception):
    """An error that is told to a person or a program, with a code from `CODES`."""

    def __init__(self, code: str, sentence: str, *, mend: str | None = None) -> None:
        assert code in CODES, f"unknown error code {code!r}"
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.mend = mend

    @property
    def status(self) -> int:
        """The HTTP status of this problem's code."""
        return CODES[self.code].status

    def __str__(self) -> str:
        return f"{self.code}: {self.sentence}" + (f" Mend: {self.mend}" if self.mend else "")
