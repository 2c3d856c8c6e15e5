"""docs/reference/events.md: every kind of event, its fields and what they say."""

from __future__ import annotations

from typing import Any

from kowalski_protocol import events, tasks, telemetry
from kowalski_protocol.events import KINDS, MEMBERSHIP_KINDS, OUTCOMES, ROLES
from kowalski_protocol.topics import FEED_TOPICS

from .markdown import code, page, table
from .source import doc_of, fields

GROUPS = {
    "Membership": ("ClusterFounded", "MemberAdmitted", "InviteUsed"),
    "Devices and leadership": ("CapabilitiesAdvertised", "LeaderClaimed", "WeightsChanged"),
    "Tasks": (
        "TaskSubmitted",
        "TaskPlaced",
        "AttemptLost",
        "CancelRequested",
        "TaskOwnershipMoved",
        "TaskSettled",
    ),
    "Results": (
        "TaskStarted",
        "TaskCompleted",
        "TaskFailed",
        "TaskDeclined",
        "StepTaken",
        "SessionRebuilt",
    ),
}


def render() -> str:
    """The page."""
    assert sorted(k for kinds in GROUPS.values() for k in kinds) == sorted(KINDS)
    blocks: list[str] = []
    for title, kinds in GROUPS.items():
        blocks.append(f"## {title}")
        for kind in kinds:
            body = KINDS[kind]
            blocks += [f"### {kind}", f"Topic `{body.topic}`. {doc_of(body)}", _fields(body)]
    return page(
        "Events",
        "An event is an envelope and a body. The envelope is the same for all: `author` (the"
        " member's public key), `topic`, `seq` (its place in the author's feed of that topic, from"
        " 1), `hlc` (its time), `kind`, and the hash that covers the event before it. The body"
        " depends on the kind and is a MessagePack array of the fields below, in this order."
        f" Feeds exist on the topics {' and '.join(map(code, FEED_TOPICS))}; heartbeats travel on"
        " `telemetry` and are never stored.",
        "`kowalski export` writes events as JSON with the fields by name and bytes as hex;"
        " `GET /api/events` does the same, live. [Events, feeds and frames](../concepts/"
        "events-feeds-frames.md) explains how they hang together.",
        f"A newer release may add fields at the end of a body, and kinds. The kinds"
        f" {' and '.join(map(code, sorted(MEMBERSHIP_KINDS)))} are read first: from them alone"
        " follows who is a member.",
        *blocks,
        "## Values",
        f"Roles: {', '.join(map(code, ROLES))}. Outcomes of a settled task:"
        f" {', '.join(map(code, OUTCOMES))}.",
        "## TaskSpec",
        f"{doc_of(tasks.TaskSpec)} It is the `spec` of `TaskSubmitted`. The payload itself rides"
        " beside the event.",
        _fields(tasks.TaskSpec),
        "## Result",
        doc_of(events.Result),
        _fields(events.Result),
        "## Heartbeat",
        f"{doc_of(telemetry.Heartbeat)} It is signed, unchained, and only the newest of an author"
        " counts.",
        _fields(telemetry.Heartbeat),
    )


def _fields(cls: type[Any]) -> str:
    rows = [(code(s.name), code(s.type), code(s.default), s.doc) for s in fields(cls)]
    return table(("field", "type", "default", "meaning"), rows) if rows else "It has no fields."
