"""Sessions on real nodes go on with their variables, whatever becomes of the device that has them.

One device asks; the cells run on the two others, sandboxed, which are killed, frozen and stopped.
"""

from __future__ import annotations

import os
import random
import time
from typing import Any

import pytest
import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode
from kowalski_node.views import TaskView
from tests.live.commands import kowalski
from tests.live.talks import Talk, assert_chains_agree, of_peer, steps, until_runs

pytestmark = pytest.mark.needs_bubblewrap

ELSEWHERE = {"device_filter": "network", "timeout_s": 60}
"""The device that asks runs nothing, so that it stays."""
KILLS = int(os.environ.get("KOWALSKI_KILLS", "5"))
"""Of devices, in the storm; 100 take some minutes."""
TALKS = 3
CELLS = 8
"""Of one session in the storm; then another one begins."""
BEFORE_KILL_S = 0.35
"""A kill comes at a random moment of this time: between cells, in one, or before it is placed."""


async def three(cluster: LocalCluster) -> LocalNode:
    """Three nodes; the one that asks."""
    cluster.options += ["--slots", "4"]
    await cluster.add_all("desk", "lap", "mini")
    return cluster["desk"]


CELLS_OF_ALL_SORTS = (
    """
def f{n}(x):
    return x * 3 + {n}
steps = [*globals().get("steps", []), f{n}]
total = f{n}(globals().get("total", 1)) % 1_000_003
""",
    """
class C{n}:
    seen = {n}
    def __call__(self, x):
        type(self).seen += x
        return self.seen
c = C{n}()
total = (total * 7 + c(total)) % 1_000_003
total
""",
    """
def count():
    at = total
    while True:
        got = yield at
        at = (at * 5 + (got or 1)) % 1_000_003
opened = globals().get("opened", []) + [count()]
[next(one) for one in opened][-1]
""",
    """
for one in opened:
    total = (total + one.send(total)) % 1_000_003
total
""",
    """
def keep(y={n}):
    global total
    for step in steps:
        total = (step(total) + y) % 1_000_003
    return total
keep()
""",
)


def made(number: int) -> str:
    """A cell that needs those before it: functions, classes, closures, generators half way."""
    sort = CELLS_OF_ALL_SORTS[number % len(CELLS_OF_ALL_SORTS)]
    return sort.replace("{n}", str(number))


async def test_a_session_of_fifty_cells_survives_the_kill_of_its_device(
    cluster: LocalCluster, chance: random.Random
) -> None:
    desk = await three(cluster)
    talk = Talk("notes", **ELSEWHERE)
    kill_at = chance.randrange(5, 45)
    killed = ""
    for number in range(50):
        handle = await talk.begin(desk, made(number))
        if number == kill_at:
            killed = str(talk.views[-1].device)
            await trio.sleep(chance.uniform(0, 0.02))  # poll: a random instant
            await of_peer(cluster, killed).kill()
        view = await talk.end(desk, handle)
        talk.check(view, talk.plain.tell(made(number)))
    assert talk.views[-1].result is not None
    assert isinstance(talk.views[-1].result.value, int)
    rebuilt = {v.session.cell: v.session.rebuilt for v in talk.views if v.session}
    # The cell in which the device died may have had its end before.
    ((cell, told),) = [(cell, told) for cell, told in rebuilt.items() if told is not None]
    assert cell - kill_at in (1, 2)
    assert (told.replayed, told.diverged, told.passed_over) == (cell - 1, [], [])
    assert {view.device for view in talk.views[cell - 1 :]} == {
        node.peer for node in cluster.living() if node is not desk
    }
    await of_peer(cluster, killed).start()
    for ledger in await assert_chains_agree(cluster, [talk]):
        assert len(ledger.bodies("SessionRebuilt")) == 1


class Storm:
    """Several sessions at once, while the devices that hold them are killed in turn."""

    def __init__(self, cluster: LocalCluster, desk: LocalNode, chance: random.Random) -> None:
        self.cluster = cluster
        self.desk = desk
        self.talks: list[Talk] = []
        self.holders: dict[int, str] = {}
        """Where each of those who talk had their last cell."""
        self.told = dict.fromkeys(range(TALKS), 0)
        """How many cells each has had."""
        self.kills = 0
        self.sessions_hit = 0
        self._starting: set[str] = set()
        self._seeds = [chance.randrange(1 << 30) for _ in range(TALKS)]
        self._chance = random.Random(chance.randrange(1 << 30))
        self._is_over = False

    async def talk(self, who: int) -> None:
        """One session after the other, until the storm is over."""
        chance = random.Random(self._seeds[who])
        while not self._is_over:
            talk = Talk(f"talk {who}.{len(self.talks)}", **ELSEWHERE)
            self.talks.append(talk)
            await self._tell(who, talk, "seen = []\ntotal = 1")
            for _ in range(CELLS - 1):
                number = chance.randrange(1_000_000)
                lasts_s = round(chance.uniform(0.0, 0.4), 3)
                code = (
                    f"import time\nseen.append({number})\ntime.sleep({lasts_s})\n"
                    f"total = (total * 31 + {number}) % 1_000_003\n(len(seen), sum(seen), total)"
                )
                await self._tell(who, talk, code)

    async def _tell(self, who: int, talk: Talk, code: str) -> None:
        view = await talk.end(self.desk, await talk.begin(self.desk, code))
        slept = code.replace("time.sleep", "float")  # the plain one need not wait
        value = talk.plain.tell(slept)
        talk.check(view, [*value] if isinstance(value, tuple) else value)
        self.holders[who] = str(view.device)
        self.told[who] += 1

    async def kill(self, nursery: trio.Nursery) -> None:
        """Kills the device of a session at some moment, and starts it again; each session that it
        had goes on meanwhile."""
        while len(self._starting) > 1:
            await trio.sleep(0.01)  # poll: two devices are there, one to kill and one to go on
        await trio.sleep(self._chance.uniform(0, BEFORE_KILL_S))  # poll: a random instant
        holder = self.holders[self._chance.randrange(TALKS)]
        hit = {who: self.told[who] for who, device in self.holders.items() if device == holder}
        node = of_peer(self.cluster, holder)
        if node.name in self._starting:  # it has a cell again before it is done with its start
            return
        self.kills += 1
        self.sessions_hit += len(hit)
        self._starting.add(node.name)
        await node.kill()
        nursery.start_soon(self._start, node)
        with trio.fail_after(60):
            # One more may have ended before the kill.
            while any(self.told[who] < cells + 2 for who, cells in hit.items()):
                await trio.sleep(0.01)  # poll: the sessions that were hit have gone on

    async def _start(self, node: LocalNode) -> None:
        await node.start()
        self._starting.remove(node.name)

    async def run(self) -> None:
        """All of it."""
        async with trio.open_nursery() as nursery:
            for who in range(TALKS):
                nursery.start_soon(self.talk, who)
            while len(self.holders) < TALKS:
                await trio.sleep(0.01)  # poll: all sessions have begun
            while self.kills < KILLS:
                await self.kill(nursery)
            self._is_over = True


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_sessions_are_right_however_often_their_devices_are_killed(
    cluster: LocalCluster, chance: random.Random
) -> None:
    # While one starts, another one can be killed, and one is there to go on.
    desk = await three(cluster)
    await cluster.add("attic")
    await cluster.settle_down()
    storm = Storm(cluster, desk, chance)
    began = time.monotonic()
    await storm.run()
    cells = [view for talk in storm.talks for view in talk.views]
    rebuilt = sum(v.session.rebuilt is not None for v in cells if v.session)
    print(  # noqa: T201
        f"{KILLS} kills, {storm.sessions_hit} times of a session's device, in"
        f" {time.monotonic() - began:.0f} s: {len(storm.talks)} sessions, {len(cells)} cells,"
        f" {rebuilt} times made anew, {sum(v.attempt > 1 for v in cells)} cells lost on the way"
    )
    assert storm.sessions_hit >= KILLS
    assert rebuilt >= KILLS // 2
    await assert_chains_agree(cluster, storm.talks)


async def test_a_frozen_device_loses_its_session_and_doubles_nothing_when_it_goes_on(
    cluster: LocalCluster,
) -> None:
    desk = await three(cluster)
    talk = Talk("notes", **ELSEWHERE)
    await talk.tell(desk, "import time\nruns = []")
    await talk.tell(desk, "runs.append('first')\nruns")
    long = "runs.append('long')\ntime.sleep(1.0)\nruns"
    handle = await talk.begin(desk, long)
    frozen = of_peer(cluster, await until_runs(desk, handle))
    frozen.freeze()
    view = await talk.end(desk, handle)
    talk.check(view, talk.plain.tell(long))
    assert view.device != frozen.peer
    assert view.session is not None
    assert view.session.rebuilt is not None
    await talk.tell(desk, "runs.append('while it is frozen')\nruns")
    frozen.thaw()
    await cluster.settle_down()
    view = await talk.tell(desk, "runs.append('after')\nruns")
    assert view.device != frozen.peer
    # Its own interpreter has run a cell that does not count, so it must not be gone on with.
    await of_peer(cluster, view.device).kill()
    view = await talk.tell(desk, "runs.append('back')\nruns")
    assert view.device == frozen.peer
    assert view.session is not None
    assert view.session.rebuilt is not None
    await next(node for node in cluster.nodes if not node.alive).start()
    for ledger in await assert_chains_agree(cluster, [talk]):
        assert len(ledger.settlements()) == len(talk.views)


async def test_what_comes_out_otherwise_or_was_stopped_is_told_when_a_session_is_made_anew(
    cluster: LocalCluster,
) -> None:
    desk = await three(cluster)
    talk = Talk("notes", **ELSEWHERE)

    async def tell(code: str) -> TaskView:
        return await talk.end(desk, await talk.begin(desk, code))

    await tell("import random, time\nx = 1")
    luck = await tell("y = random.random()\ny")
    stopped = await talk.begin(desk, "x = 2\ntime.sleep(60)\nx = 3")
    holder = of_peer(cluster, await until_runs(desk, stopped))
    await stopped.cancel()
    assert (await talk.end(desk, stopped)).outcome == "cancelled"
    kept = await tell("(x, y)")
    assert luck.result is not None
    assert kept.result is not None
    # In the interpreter that is kept, what the stopped cell did until then is done.
    assert kept.result.value == [2, luck.result.value]
    await holder.kill()
    made_anew = await tell("(x, y)")
    assert made_anew.result is not None
    assert made_anew.result.value[0] == 1
    assert made_anew.result.value[1] != luck.result.value
    told = {"replayed": 3, "diverged": [2, 4], "passed_over": [3]}
    shown: dict[str, Any] = (await kowalski(desk, "result", made_anew.id)).json()
    assert shown["session"] == {"name": "notes", "language": "python", "cell": 5, "rebuilt": told}
    why = (await kowalski(desk, "why", made_anew.id)).json()
    (step,) = [one for one in why["steps"] if one["what"] == "SessionRebuilt"]
    assert {name: step["details"][name] for name in told} == told
    assert step["sentence"] == (
        "made the session's interpreter anew from 3 cells; other results than before: cells 2, 4;"
        " not run again, being stopped before their end: cell 3"
    )
    await holder.start()
    for ledger in await assert_chains_agree(cluster, [talk]):
        ((_, body),) = ledger.of_task("SessionRebuilt", made_anew.id)
        assert (body.replayed, [*body.diverged], [*body.passed_over]) == (3, [2, 4], [3])


async def test_a_session_goes_on_elsewhere_when_its_device_stops_in_order(
    cluster: LocalCluster,
) -> None:
    desk = await three(cluster)
    talk = Talk("notes", **ELSEWHERE)
    await talk.tell(desk, "items = [1]")
    running = "import time\nitems.append(2)\ntime.sleep(0.5)\nitems"
    handle = await talk.begin(desk, running)
    holder = of_peer(cluster, await until_runs(desk, handle))
    assert await holder.stop() == 0
    view = await talk.end(desk, handle)
    talk.check(view, talk.plain.tell(running))
    assert (view.device, view.attempt) == (holder.peer, 1)
    view = await talk.tell(desk, "items.append(3)\nitems")
    assert view.device not in (holder.peer, desk.peer)
    assert [step.what for step in await steps(desk, view.id)].count("SessionRebuilt") == 1
    await holder.start()
    for ledger in await assert_chains_agree(cluster, [talk]):
        assert not ledger.bodies("AttemptLost")
