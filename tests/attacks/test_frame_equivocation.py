"""Attack 4: two events of one author, topic and seq.

Whichever branch a node has, the other is refused: nothing of it counts, the branch that is known
goes on, and nobody is asked again and again for what can't be used. (That both branches are kept as
a proof and the feed is frozen everywhere belongs to the work on trust.)
"""

from __future__ import annotations

import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.events import LeaderClaimed, WeightsChanged
from kowalski_protocol.feeds import Feed, Head
from kowalski_protocol.topics import TASK
from tests.units.bench import Bench, sign
from tests.units.histories import Writer

pytestmark = pytest.mark.attack


def branches(bench: Bench, writer: Writer, common: int = 2) -> tuple[Writer, Writer]:
    """The same author twice, with two different stories after the same beginning."""
    twins: list[Writer] = []
    for load in (0.25, 0.75):
        twin = Writer(writer.name)
        twin.cluster = bench.history.cluster
        for _ in range(common):
            twin.write(WeightsChanged("tool", {"load": 0.5}))
        for _ in range(3):
            twin.write(WeightsChanged("tool", {"load": load}))
        twins.append(twin)
    return twins[0], twins[1]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("overlap", [1, 3])
def test_the_branch_that_came_second_is_refused(first: int, overlap: int) -> None:
    bench = Bench(3, admins=True)
    author, attacker = bench.others
    both = branches(bench, author)
    known, other = both[first], both[1 - first]
    bench.receive(known)
    before = bench.state.digest()
    data = sign(other, other.feeds[TASK][overlap - 1 :])
    out = bench.give(ins.FrameReceived(attacker.author, data))
    assert out.append == []
    assert bench.state.digest() == before
    (charge,) = [e for e in out.at_once if isinstance(e, fx.Charge)]
    assert charge.reason.startswith("fork") or charge.reason.startswith("chain")


def test_a_longer_other_branch_is_refused_as_well() -> None:
    bench = Bench(3, admins=True)
    author, attacker = bench.others
    known, other = branches(bench, author)
    bench.receive(known)
    for _ in range(10):
        other.write(LeaderClaimed(1, b""))
    before = bench.state.digest()
    for begin in (0, 2, 5, 8):
        data = sign(other, other.feeds[TASK][begin:])
        bench.give(ins.FrameReceived(attacker.author, data))
    assert bench.state.digest() == before
    assert bench.state.folded[(author.author, TASK)] == 5


def test_the_known_branch_goes_on() -> None:
    bench = Bench(3, admins=True)
    author, attacker = bench.others
    known, other = branches(bench, author)
    bench.receive(known)
    bench.give(ins.FrameReceived(attacker.author, sign(other, other.feeds[TASK])))
    known.write(LeaderClaimed(1, b""))
    bench.give(ins.FrameReceived(author.author, sign(known, known.feeds[TASK][5:])))
    assert bench.state.folded[(author.author, TASK)] == 6


def test_nobody_is_asked_for_ever_for_the_branch_that_does_not_fit() -> None:
    bench = Bench(3, admins=True)
    author, attacker = bench.others
    known, other = branches(bench, author)
    bench.receive(known)
    bench.commit()
    other.write(LeaderClaimed(1, b""))
    head = other.feeds[TASK][-1]
    feed = Feed(author.author, TASK)
    for _ in range(10):
        bench.give(ins.HeadsReceived(attacker.author, {feed: Head(6, head.hash)}, False))
        for _ in range(20):
            pulls = bench.effects(fx.Pull)
            answer = sign(other, other.feeds[TASK][5:])
            bench.give(ins.PullEnded(attacker.author, feed, (answer,)))
            bench.tick(0.05)
            assert len(pulls) <= 11, "once for each time that it is told of"
