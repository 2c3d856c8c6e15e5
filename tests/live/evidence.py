"""What a cluster's ledgers say happened, read from the files alone, and whether they agree.

A test that asked the nodes alone would believe the code that it tests. So at the end the nodes are
stopped and each file is read by itself: audited, replayed, and searched for what must be there
once: one settlement for each task that somebody was told is accepted.
"""

from __future__ import annotations

import signal
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_ledger.audit import audit
from kowalski_ledger.replay import replay
from kowalski_node.views import TaskView
from kowalski_protocol.codec import decode_body
from kowalski_protocol.identity import peer_id

SETTLE_S = 60.0


def tool(name: str, **arguments: Any) -> dict[str, Any]:
    """A task that calls a tool, as the API takes it."""
    return {"kind": "tool", "payload": {"tool": name, "args": arguments}}


class Evidence:
    """The events of one ledger file."""

    def __init__(self, home: Path) -> None:
        self.path = home / "ledger.db"

    def bodies(self, kind: str) -> list[tuple[str, Any]]:
        """(hash, body) of all events of a kind, in order of arrival."""
        uri = f"{self.path.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as file:
            rows = file.execute(
                "SELECT hash, body FROM events WHERE kind = ? ORDER BY position", (kind,)
            ).fetchall()
        return [(hash.hex(), decode_body(kind, body)) for hash, body in rows]

    def in_order(self) -> list[tuple[str, Any]]:
        """(kind, body) of all events, in order of arrival."""
        return [(kind, decode_body(kind, data)) for _, _, _, kind, _, data in self._rows()]

    def of_task(self, kind: str, task_id: str) -> list[tuple[str, Any]]:
        """The same of one task."""
        wanted = bytes.fromhex(task_id)
        return [(hash, body) for hash, body in self.bodies(kind) if body.task == wanted]

    def story(self, task_id: str) -> str:
        """All events that name a task, and all claims, a line each: for the report of a failure."""
        wanted = bytes.fromhex(task_id)
        lines: list[str] = []
        for position, author, hlc, kind, hash, data in self._rows():
            body = decode_body(kind, data)
            moved = wanted in [task for task, _ in getattr(body, "tasks", ())]
            if getattr(body, "task", None) == wanted or moved or kind == "LeaderClaimed":
                more = [
                    f"{name} {peer_id(value)[-4:] if name == 'device' else value!s:.8}"
                    for name in ("device", "reason", "code", "outcome", "epoch")
                    if (value := getattr(body, name, None)) is not None
                ]
                attempt = getattr(body, "attempt", b"").hex()[:6]
                at_s = (hlc >> 16) / 1000 % 1000
                lines.append(
                    f"{position:6} {at_s:7.3f} {peer_id(author)[-4:]} {kind} {hash.hex()[:6]}"
                    f" {attempt} {' '.join(more)}"
                )
        return "\n".join(lines)

    def _rows(self) -> list[tuple[int, bytes, int, str, bytes, bytes]]:
        statement = (
            "SELECT position, author, hlc, kind, hash, body FROM events"
            " JOIN feeds ON feeds.id = feed ORDER BY position"
        )
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as file:
            return file.execute(statement).fetchall()

    def settlements(self) -> dict[str, list[str]]:
        """Task -> the hashes of all `TaskSettled` that name it."""
        found: dict[str, list[str]] = {}
        for hash, body in self.bodies("TaskSettled"):
            found.setdefault(body.task.hex(), []).append(hash)
        return found

    def placements(self) -> dict[str, list[tuple[str, bytes]]]:
        """Task -> (attempt, device) of all its placements."""
        found: dict[str, list[tuple[str, bytes]]] = {}
        for hash, body in self.bodies("TaskPlaced"):
            found.setdefault(body.task.hex(), []).append((hash, body.device))
        return found

    def order(self) -> list[tuple[int, int]]:
        """(feed, seq) of all events in order of arrival."""
        uri = f"{self.path.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as file:
            return file.execute("SELECT feed, seq FROM events ORDER BY position").fetchall()


async def settled(node: LocalNode, ids: Sequence[str]) -> dict[str, TaskView]:
    """The tasks as a node shows them once all have settled."""
    views: dict[str, TaskView] = {}
    async for view in node.client.results(ids):
        views[view.id] = view
    return views


def outcome(view: TaskView) -> tuple[Any, ...]:
    """What must be the same on every node."""
    result = view.result
    shown = None if result is None else (result.ok, repr(result.value), result.stdout)
    return view.outcome, view.attempt, view.device, view.owner, view.submitter, shown


async def assert_all_agree(
    cluster: LocalCluster, ids: Iterable[str], wait_s: float = SETTLE_S
) -> dict[str, TaskView]:
    """All nodes show the same end of each task, and one digest."""
    import trio

    wanted = list(dict.fromkeys(ids))
    shown: list[dict[str, TaskView]] = []
    with trio.move_on_after(wait_s) as scope:
        for node in cluster.living():
            shown.append(await settled(node, wanted))
    if scope.cancelled_caught:
        raise AssertionError(await what_is_open(cluster, wanted, wait_s))
    await cluster.one_digest()
    first = shown[0]
    assert set(first) == set(wanted)
    for node, views in zip(cluster.living(), shown, strict=True):
        for id in wanted:
            assert outcome(views[id]) == outcome(first[id]), (
                f"task {id} on {node.name}: {outcome(views[id])}, not {outcome(first[id])}\n"
                f"{Evidence(node.home).story(id)}"
            )
    return first


async def what_is_open(cluster: LocalCluster, ids: Sequence[str], wait_s: float) -> str:
    """The stories of some tasks that did not settle, for the report of a failure."""
    lines = [f"not settled within {wait_s:g} s:"]
    for node in cluster.living():
        views = [await node.client.result(id, 0) for id in ids]
        left = [view for view in views if view.state != "settled"]
        states = Counter(view.state for view in left)
        lines.append(f"{node.name}: {len(left)} open of {len(ids)}: {dict(states)}")
        for view in left[:2]:
            story = await node.client.why(view.id)
            lines += [f"  {view.id} {view.waiting}"]
            lines += [f"    {step.what} {step.who}: {step.sentence}" for step in story.steps]
    return "\n".join(lines)


async def assert_ledgers_agree(cluster: LocalCluster, ids: Iterable[str]) -> list[Evidence]:
    """Stops all nodes and reads their files: sound, equal, each task settled exactly once.

    The nodes show one digest when this is called; the files are taken as they are, without
    anything that an orderly end would write.
    """
    digest = await cluster.one_digest()
    nodes = cluster.living()
    # All at once: on a busy machine who is left would claim to lead before it is its turn.
    for node in nodes:
        node.signal(signal.SIGKILL)
    for node in nodes:
        await node.kill()
    evidence = [Evidence(node.home) for node in nodes]
    wanted = list(dict.fromkeys(ids))
    settlements = [one.settlements() for one in evidence]
    for one, ends in zip(evidence, settlements, strict=True):
        checked = audit(one.path)
        assert (checked.ok, checked.problems, checked.findings) == (True, [], []), one.path
        assert replay(one.path).digest == digest, one.path
        for id in wanted:
            assert len(ends.get(id, [])) == 1, f"settlements of {id} in {one.path}"
        assert all(len(hashes) == 1 for hashes in ends.values())
        assert ends == settlements[0], one.path
    return evidence
