"""What /metrics shows: counts and times of the node, never a word of anybody's data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kowalski_ledger.port import EventStore
from kowalski_protocol.identity import peer_id

from .core.node import Node
from .pipeline import Pipeline
from .viewing import state_counts

Row = tuple[str, str, str, Mapping[str, str], float]


def rows(
    node: Node, pipeline: Pipeline, store: EventStore, network: Any, refused: int
) -> Iterator[Row]:
    """(name, type, help, labels, value) of every metric."""
    for state, count in state_counts(node).items():
        yield "kowalski_tasks", "gauge", "Tasks by state.", {"state": state}, count
    for outcome, count in sorted(node.state.settled.items()):
        yield (
            "kowalski_tasks_settled_total",
            "counter",
            "Tasks by outcome.",
            {"outcome": outcome},
            count,
        )
    yield "kowalski_events_total", "counter", "Events in the ledger.", {}, store.position
    yield "kowalski_commits_total", "counter", "Commits since start.", {}, pipeline.commits
    yield "kowalski_inputs_waiting", "gauge", "Inputs that wait for the core.", {}, pipeline.backlog
    yield (
        "kowalski_queue_depth",
        "gauge",
        "Tasks that wait for a place here.",
        {},
        len(node.leader.queue),
    )
    yield (
        "kowalski_attempts_running",
        "gauge",
        "Attempts that run here.",
        {},
        len(node.device.running),
    )
    yield (
        "kowalski_attempts_waiting",
        "gauge",
        "Attempts that wait here.",
        {},
        len(node.device.waiting),
    )
    yield "kowalski_refused_total", "counter", "What members sent that was no good.", {}, refused
    yield "kowalski_members", "gauge", "Members of the cluster.", {}, len(node.state.members)
    yield (
        "kowalski_members_alive",
        "gauge",
        "Members alive, this one included.",
        {},
        len(node.peers.alive),
    )
    leader = node.state.leader
    yield "kowalski_epoch", "gauge", "The leader's epoch.", {}, leader.epoch if leader else 0
    yield "kowalski_leading", "gauge", "Whether this node leads.", {}, float(node.leader.leading)
    for author, peer in node.peers.by_author.items():
        if peer.round_trip_s is not None:
            yield (
                "kowalski_round_trip_seconds",
                "gauge",
                "Round trip to a member.",
                {"peer": peer_id(author)},
                peer.round_trip_s,
            )
    for author, traffic in network.traffic().items():
        for purpose, t in traffic.items():
            labels = {"peer": peer_id(author), "purpose": purpose}
            yield "kowalski_sent_bytes_total", "counter", "Bytes sent.", labels, t.sent_bytes
            yield (
                "kowalski_received_bytes_total",
                "counter",
                "Bytes received.",
                labels,
                t.received_bytes,
            )
    for name, value in (node.heartbeats.sample or {}).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield f"kowalski_device_{name}", "gauge", "The newest sample of this device.", {}, value
