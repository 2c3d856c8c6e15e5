"""Turns the state into what people see (views.py). Nothing here decides anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from kowalski_ledger.state import Attempt, End, Task
from kowalski_protocol.clock import unix_s
from kowalski_protocol.errors import CODES
from kowalski_protocol.events import Result
from kowalski_protocol.feeds import Event
from kowalski_protocol.identity import peer_id
from kowalski_protocol.ids import Author
from kowalski_protocol.tasks import TaskSpec

from . import __version__
from .core.node import Node
from .core.peers import Peer
from .views import (
    CellView,
    ClusterView,
    DeviceView,
    ErrorView,
    EventView,
    FileView,
    HeadView,
    LinkView,
    PauseView,
    RebuiltView,
    ResultView,
    SessionView,
    TaskView,
)


def task_state(node: Node, task: Task) -> str:
    """The word for where a task is."""
    if node.book.is_settled(task):
        return "settled"
    ends = [a.end for a in task.attempts if a.end is not None]
    if any(end.kind == "completed" for end in ends):
        return "completed"
    open_attempts = [a for a in task.attempts if a.is_open]
    if any(a.started_hash is not None or a.hash in node.device.running for a in open_attempts):
        return "running"
    if open_attempts:
        return "placed"
    return "waiting" if task.attempts or task.id in node.leader.queue else "submitted"


def shown_attempt(task: Task) -> Attempt | None:
    """The attempt that a view speaks of: the one that settled it, else the newest."""
    if task.settled is not None and task.settled.attempt:
        return task.attempt(task.settled.attempt)
    completed = [a for a in task.attempts if a.end is not None and a.end.kind == "completed"]
    pool = completed or task.attempts
    return max(pool, key=lambda a: (a.hlc, a.hash)) if pool else None


def error_view(code: str, sentence: str = "") -> ErrorView:
    """An error of the catalogue, with its general meaning where no sentence was said."""
    meaning = CODES[code].meaning if code in CODES else code
    return ErrorView(code, sentence or f"{meaning[:1].upper()}{meaning[1:]}.")


def _shown_end(task: Task) -> End | None:
    attempt = shown_attempt(task)
    return attempt.end if attempt else None


def result_blob(task: Task) -> str | None:
    """The hash of the blob that the shown result is; None where it rides beside its event."""
    end = _shown_end(task)
    return end.result_hash.hex() if end is not None and end.is_blob else None


def result_view(result: Result | None, task: Task, missing: str | None = None) -> ResultView | None:
    """What the task brought, as far as it is here; `missing` is a blob that nobody could send."""
    settled = task.settled
    if result is not None:
        error = None if result.ok else error_view(result.code, result.sentence)
        blob = result_blob(task)
        files = [FileView(*file) for file in result.files]
        return ResultView(result.ok, result.value, blob, result.stdout, result.stderr, error, files)
    end = _shown_end(task)
    if missing is not None and end is not None:
        error = None if end.kind == "completed" else error_view(end.code)
        return ResultView(error is None, blob=missing, error=error)
    if settled is not None and settled.outcome != "completed":
        return ResultView(False, error=error_view(settled.code or settled.outcome))
    return None


def task_view(
    node: Node, task: Task, spec: TaskSpec, result: ResultView | None, replicas: int
) -> TaskView:
    """A task as GET /api/tasks/{id} shows it."""
    attempt = shown_attempt(task)
    end = attempt.end if attempt else None
    started_ms = (end.started_ms if end else 0) or (attempt.started_ms if attempt else 0)
    run_s = end.run_us / 1e6 if end and end.kind != "declined" else None
    settled = task.settled if node.book.is_settled(task) else None
    return TaskView(
        id=task.id.hex(),
        kind=spec.kind,
        state=task_state(node, task),
        outcome=settled.outcome if settled else None,
        attempt=attempt.number if attempt else 0,
        device=peer_id(attempt.device) if attempt else None,
        replicas=replicas,
        result=result,
        times={
            "submitted": unix_s(task.submitted_hlc),
            "placed": unix_s(attempt.hlc) if attempt else None,
            "started": started_ms / 1000.0 if started_ms else None,
            "ended": started_ms / 1000.0 + run_s if started_ms and run_s is not None else None,
            "settled": unix_s(settled.hlc) if settled else None,
            "run_s": run_s,
        },
        owner=peer_id(task.owner),
        submitter=peer_id(task.submitter),
        priority=spec.priority,
        labels=spec.labels,
        waiting=None if settled else node.leader.waiting_reason(task),
        session=_cell_view(task, attempt),
        parent=spec.parent.hex() or None,
        step=spec.step or None,
        trace=spec.trace or None,
    )


def _cell_view(task: Task, attempt: Attempt | None) -> CellView | None:
    if task.session is None:
        return None
    language, name = task.session
    rebuilt = attempt.rebuilt if attempt is not None else None
    return CellView(
        name,
        language,
        attempt.cell if attempt is not None else 0,
        RebuiltView(rebuilt.replayed, [*rebuilt.diverged], [*rebuilt.passed_over])
        if rebuilt is not None
        else None,
    )


def session_views(node: Node) -> list[SessionView]:
    """All sessions, the one that was used last first."""
    views = [
        SessionView(
            name,
            language,
            peer_id(session.tip.device) if session.tip is not None else None,
            session.tip.cell if session.tip is not None else 0,
            len(session.open),
            unix_s(session.tip.hlc) if session.tip is not None else None,
        )
        for (language, name), session in node.state.sessions.items()
    ]
    return sorted(views, key=lambda view: (-(view.last or math.inf), view.name))


def _device_view(node: Node, author: Author, now_s: float) -> DeviceView:
    state = node.state
    member = state.members[author]
    advert = state.adverts.get(author)
    own = author == node.config.author
    peer = node.peers.by_author.get(author)
    heartbeat = peer.heartbeat if peer else None
    heard_s = None if peer is None or peer.heard_at_s is None else max(0.0, now_s - peer.heard_at_s)
    leader = state.leader
    return DeviceView(
        id=peer_id(author),
        name=advert.body.device_name if advert else member.name,
        role=member.role,
        alive=author in node.peers.alive,
        self=own,
        leader=leader is not None and leader.author == author,
        last_heard_s=0.0 if own else heard_s,
        capabilities=msgspec.structs.asdict(advert.body) if advert else {},
        sample=node.heartbeats.sample
        if own
        else (dict(peer.sample) if peer and peer.sample else None),
        running=len(node.device.running) if own else (heartbeat.running if heartbeat else 0),
        queued=len(node.device.waiting) if own else (heartbeat.queued if heartbeat else 0),
        completed=node.attempts.completed.get(author, 0),
        clock_offset_s=None
        if own or peer is None or peer.offset_ms is None
        else peer.offset_ms / 1000,
        addresses=list(node.heartbeats.addresses if own else (peer.addresses if peer else ())),
        pauses=[
            PauseView(p.kind, p.code, p.failures, max(0.0, p.until_s - now_s))
            for p in node.leader.breakers.pauses(author)
        ],
    )


def _link_view(author: Author, peer: Peer, traffic: Mapping[str, Any]) -> LinkView:
    return LinkView(
        peer=peer_id(author),
        connected=peer.connected,
        round_trip_ms=None if peer.round_trip_s is None else round(peer.round_trip_s * 1000, 3),
        bytes_in={purpose: t.received_bytes for purpose, t in traffic.items()},
        bytes_out={purpose: t.sent_bytes for purpose, t in traffic.items()},
        address=peer.address,
    )


def state_counts(node: Node) -> dict[str, int]:
    """How many tasks are in each state."""
    counts: dict[str, int] = dict.fromkeys(
        ("submitted", "waiting", "placed", "running", "completed"), 0
    )
    for task in node.state.open.values():
        counts[task_state(node, task)] += 1
    counts["settled"] = sum(node.state.settled.values())
    return counts


def cluster_view(
    node: Node, now_s: float, traffic: Mapping[bytes, Mapping[str, Any]], warnings: list[ErrorView]
) -> ClusterView:
    """GET /api/cluster."""
    state = node.state
    return ClusterView(
        cluster=state.cluster.hex(),
        self=peer_id(node.config.author),
        name=state.name,
        leader=peer_id(state.leader.author) if state.leader else None,
        epoch=state.leader.epoch if state.leader else 0,
        digest=state.digest(),
        heads=[
            HeadView(peer_id(feed.author), feed.topic, head.seq, head.hash.hex())
            for feed, head in sorted(node.book.committed.items())
        ],
        devices=[_device_view(node, author, now_s) for author in state.members],
        links=[
            _link_view(author, peer, traffic.get(author, {}))
            for author, peer in node.peers.by_author.items()
            if author in state.members
        ],
        tasks=state_counts(node),
        warnings=warnings,
        version=__version__,
    )


def plain(value: Any) -> Any:
    """A decoded body as JSON can say it: bytes as lower-case hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, msgspec.Struct):
        return {k: plain(v) for k, v in msgspec.structs.asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def event_view(node: Node, position: int, event: Event, body: Any) -> EventView:
    """One event, as a person or program sees it."""
    return EventView(
        position=position,
        author=peer_id(event.author),
        topic=event.topic,
        seq=event.seq,
        hash=event.hash.hex(),
        time=unix_s(event.hlc),
        kind=event.kind,
        counted=body is not None and event.author in node.state.members,
        body={} if body is None else plain(body),
    )
