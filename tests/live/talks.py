"""What the tests of live sessions share: somebody who talks to one, and what the ledger must say.

A `Talk` is one session, cell after cell, beside a namespace of this interpreter that runs the same
cells in the plainest way. Each value is compared with the one that came there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any, Final

import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_node.client import TaskHandle
from kowalski_node.views import TaskView
from tests.live.evidence import Evidence, assert_all_agree, assert_ledgers_agree

CELL_S: Final = 40.0
"""How long a cell may take, with all that is lost on its way; far more than it should."""
POLL_S: Final = 0.01


class Plain:
    """A module's namespace, in which this interpreter runs cells."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def tell(self, code: str) -> Any:
        """Runs a cell; returns the value of its last line, if that is an expression."""
        tree = ast.parse(code)
        last = tree.body[-1]
        if isinstance(last, ast.Expr):
            tree.body.pop()
        exec(compile(tree, "<cell>", "exec"), self.names)
        if not isinstance(last, ast.Expr):
            return None
        return eval(compile(ast.Expression(last.value), "<cell>", "eval"), self.names)


class Talk:
    """One session of Python, as the person has it who types its cells."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.options: Mapping[str, Any] = options
        self.plain = Plain()
        self.views: list[TaskView] = []
        """The cells that have settled."""

    async def begin(self, node: LocalNode, code: str) -> TaskHandle:
        """Submits the next cell."""
        payload = {"language": "python", "code": code}
        return await node.client.submit("code", payload, session=self.name, **self.options)

    async def end(self, node: LocalNode, handle: TaskHandle) -> TaskView:
        """The cell once it has settled."""
        with trio.move_on_after(CELL_S) as scope:
            view = await node.client.result(handle.id)
            self.views.append(view)
            return view
        assert scope.cancelled_caught
        told = [f"{step.what} {step.who}: {step.sentence}" for step in await steps(node, handle.id)]
        raise AssertionError("\n".join([f"a cell of {self.name} did not settle:", *told]))

    async def tell(self, node: LocalNode, code: str) -> TaskView:
        """Runs the next cell, whose value must be that of plain Python."""
        view = await self.end(node, await self.begin(node, code))
        self.check(view, self.plain.tell(code))
        return view

    def check(self, view: TaskView, value: Any) -> None:
        """The cell completed with this value, in its place, and is what was recorded of it."""
        assert (view.outcome, view.result and view.result.value) == ("completed", value), view
        assert view.session is not None
        assert view.session.cell == len(self.views)
        assert view.session.rebuilt is None or view.session.rebuilt.diverged == [], view


async def steps(node: LocalNode, task_id: str) -> list[Any]:
    """The story of a task, as `kowalski why` tells it."""
    return [*(await node.client.why(task_id)).steps]


async def until_runs(node: LocalNode, handle: TaskHandle, than: str | None = None) -> str:
    """Waits until a cell runs, on another device `than` this one; returns which."""
    with trio.fail_after(CELL_S):
        while True:
            view = await node.client.result(handle.id, 0)
            assert view.state != "settled", view
            if view.state == "running" and view.device not in (None, than):
                return str(view.device)
            await trio.sleep(POLL_S)  # poll: the cell has started


def of_peer(cluster: LocalCluster, peer: str | None) -> LocalNode:
    """The node with a peer ID."""
    return next(node for node in cluster.nodes if node.peer == peer)


async def assert_chains_agree(cluster: LocalCluster, talks: Iterable[Talk]) -> list[Evidence]:
    """Ends all nodes, of which all live: they agree on all cells, and each session is one chain."""
    chosen = [*talks]
    ids = [view.id for talk in chosen for view in talk.views]
    await cluster.settle_down()
    await cluster.one_digest()
    await assert_all_agree(cluster, ids)
    ledgers = await assert_ledgers_agree(cluster, ids)
    for ledger in ledgers:
        _assert_chains(ledger, chosen)
    return ledgers


def _assert_chains(ledger: Evidence, talks: Iterable[Talk]) -> None:
    """The attempts that count are a chain: each cell once, each after the one before it."""
    placed = dict(ledger.bodies("TaskPlaced"))
    counted = {body.task.hex(): body.attempt.hex() for _, body in ledger.bodies("TaskSettled")}
    placements = ledger.placements()
    for talk in talks:
        before, task_before = "", ""
        for number, view in enumerate(talk.views, start=1):
            # What was cancelled has no attempt that counts, but a place in the chain.
            attempt = counted[view.id] or placements[view.id][-1][0]
            body = placed[attempt]
            place = (body.task.hex(), body.cell, body.after.hex(), body.after_task.hex())
            assert place == (view.id, number, before, task_before), ledger.story(view.id)
            before, task_before = attempt, view.id
