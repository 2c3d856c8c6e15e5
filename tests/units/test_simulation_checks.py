"""The checks of the simulator have teeth.

A check that never fails proves nothing, so each one is handed a world in which somebody has
tampered with exactly what it watches.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from kowalski_ledger.state import Child, Claim, Task
from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core.commits import Commit
from kowalski_protocol.feeds import Event, Feed, Head
from kowalski_protocol.ids import EventHash, TaskId
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.telemetry import Heartbeat
from kowalski_protocol.topics import RESULT, TASK
from simulations import liveness
from simulations.checks import LOOK_EVERY, Acknowledged, Broken, Made
from simulations.liveness import Liveness
from simulations.options import Options
from simulations.world import World
from tests.units.small_worlds import (
    NOBODY,
    OTHER_HASH,
    ROOT,
    a_task,
    a_world,
    lose_end_of,
    runner,
    submit,
)


@pytest.fixture
def world() -> World:
    return a_world()


# The checks have teeth.

TEETH: list[tuple[str, str, Callable[[World], object]]] = []
"""(check, part of what it says, how to make it say so)"""


def tooth(check: str, sentence: str) -> Callable[[Callable[[World], object]], None]:
    def keep(tamper: Callable[[World], object]) -> None:
        TEETH.append((check, sentence, tamper))

    return keep


def beyond(world: World) -> int:
    """A place in the first device's task feed that nobody has reached."""
    return world.devices[0].store.heads_now[Feed(world.devices[0].author, TASK)].seq + 1


def carry_out(world: World, effect: fx.Effect, device: int = 0) -> None:
    world.checks.carried_out(world.devices[device], effect)


def start_order(task: Task) -> fx.Start:
    attempt = task.attempts[0]
    return fx.Start(task.id, attempt.hash, 1, "tool", {}, 60.0, task.submitter, task.submitted_seq)


def heartbeat(world: World, *, leader: bytes = b"", task_seq: int = 0, result_seq: int = 0) -> Any:
    said = Heartbeat(1, 1, 0, (), task_seq, result_seq, b"", leader, 0, 0, False)
    return fx.SendHeartbeat(said, gossip=False)


def look(world: World, device: int = 0) -> None:
    """So many steps that each check that looks now and then has looked."""
    for _ in range(LOOK_EVERY):
        world.checks.stepped(world.devices[device], [])


@tooth("the cluster forms", "n2 lacks members")
def _(_world: World) -> None:
    world = World(Options(seed=5, nodes=3, minutes=0.1, faults=()))
    others = [device.author for device in world.devices[:2]]
    late = world.devices[2].author
    world.wire.block([(late, other) for other in others])
    world.form()


@tooth("one chain an author", "n1 holds another event")
def _(world: World) -> None:
    kept = world.devices[0].disk.events[-1]
    changed = Event(
        kept.author, kept.topic, kept.seq, kept.hlc, kept.kind, kept.body + b"!", OTHER_HASH
    )
    world.checks.committed(world.devices[1], Commit([changed], [], []))


@tooth("a frame is cut once", "n0 publishes")
def _(world: World) -> None:
    device = world.devices[0]
    kept = next(event for event in device.disk.events[::-1] if event.author == device.author)
    world.checks.committed(device, Commit([], [[kept]], []))


@tooth("only members are written down", "n0 keeps an event of 6e6f626f")
def _(world: World) -> None:
    event = Event(NOBODY, TASK, 1, 1 << 16, "CancelRequested", b"", OTHER_HASH)
    world.checks.committed(world.devices[0], Commit([event], [], []))


@tooth("what was held is taken in", "n0 forgets it")
def _(world: World) -> None:
    device, sync = world.devices[0], world.devices[0].core.sync
    feed = Feed(device.author, TASK)
    held: Any = SimpleNamespace(header=SimpleNamespace(count=1), data=b"!")
    sync._held, sync.held_size_bytes = {feed: {beyond(world): held}}, 1
    world.checks.stepped(device, [])
    sync._held, sync.held_size_bytes = {}, 0
    world.checks.stepped(device, [])


def hand(world: World, seq: int) -> None:
    """The first device is handed what it can't read, and it should have been this event."""
    feed = Feed(world.devices[1].author, TASK)
    end = world.devices[0].core.book.ends[feed]
    made = Made(feed, end.seq + seq, end.hash, OTHER_HASH)
    world.checks.given(world.devices[0], ins.FrameReceived(None, b""), made)


@tooth("what follows is taken in", "n0 does not")
def _(world: World) -> None:
    hand(world, 1)


@tooth("a fork is noticed", "n0 sees both branches")
def _(world: World) -> None:
    hand(world, 0)


@tooth("effects follow their append", "n1's Acknowledge follows from n0/task")
def _(world: World) -> None:
    author = world.devices[0].author
    carry_out(world, fx.Acknowledge(author, TASK, beyond(world)), device=1)


@tooth("effects follow their append", "n1's SendHeads follows from n0/task")
def _(world: World) -> None:
    heads = dict(world.devices[1].store.heads_now)
    heads[Feed(world.devices[0].author, TASK)] = Head(beyond(world), OTHER_HASH)
    carry_out(world, fx.SendHeads(NOBODY, heads, False), device=1)


@tooth("effects follow their append", "n0's SendHeartbeat follows from n0/task")
def _(world: World) -> None:
    carry_out(world, heartbeat(world, task_seq=beyond(world)))


@tooth("effects follow their append", "n0's SendHeartbeat follows from n0/result")
def _(world: World) -> None:
    carry_out(world, heartbeat(world, result_seq=1 << 40))


@tooth("effects follow their append", "n0 follows a claim that it lacks")
def _(world: World) -> None:
    carry_out(world, heartbeat(world, leader=OTHER_HASH))


@tooth("effects follow their append", "n2 tells a claim before its commit")
def _(world: World) -> None:
    device = world.devices[2]
    leader = device.core.state.leader
    assert leader is not None
    claim = msgspec.structs.replace(leader, hash=OTHER_HASH, seq=1 << 40)
    device.core.state.claims[OTHER_HASH] = claim
    carry_out(world, heartbeat(world, leader=OTHER_HASH), device=2)


@tooth("effects follow their append", "'s Start follows from")
def _(world: World) -> None:
    task = a_task(world)
    device = runner(world, task)
    world.checks.starts.clear()
    feed = Feed(task.attempts[0].leader, TASK)
    while device.store.heads_now[feed].seq >= task.attempts[0].placed_seq:
        lose_end_of(device, feed)
    world.checks.carried_out(device, start_order(task))


@tooth("effects follow their append", "n1's Answer follows from")
def _(world: World) -> None:
    task = a_task(world)
    del world.devices[1].store.heads_now[Feed(task.submitter, TASK)]
    carry_out(world, fx.Answer(1, [(task.id, 1)]), device=1)


@tooth("effects follow their append", "n1's Settled follows from")
def _(world: World) -> None:
    task = a_task(world)
    assert task.settled is not None
    del world.devices[1].store.heads_now[Feed(task.settled.author, TASK)]
    carry_out(world, fx.Settled(task.id), device=1)


@tooth("nobody honest is charged", "n0: n1, a bad signature")
def _(world: World) -> None:
    carry_out(world, fx.Charge(world.devices[1].author, "a bad signature"))


@tooth("a run is where it was placed", "starts it")
def _(world: World) -> None:
    task = a_task(world)
    other = next(d for d in world.devices if d is not runner(world, task))
    world.checks.carried_out(other, start_order(task))


@tooth("an attempt starts once", "starts it again")
def _(world: World) -> None:
    task = a_task(world)
    world.checks.carried_out(runner(world, task), start_order(task))


@tooth("nothing starts below the fence", "does")
def _(world: World) -> None:
    # It learns of the placement when it already follows a later claim, and starts it nevertheless.
    task = a_task(world)
    device, placed = runner(world, task), task.attempts[0].hash
    event = next(event for event in device.disk.events if event.hash == placed)
    world.checks.starts.clear()
    device.core.state.leader = Claim(OTHER_HASH, NOBODY, 99, 0, 1)
    world.checks.stepped(device, [event])
    world.checks.carried_out(device, start_order(task))


@tooth("replicas are true", "n0 says 3 and these hold it")
def _(world: World) -> None:
    task = a_task(world)
    bystander = next(d for d in world.devices[1:] if d.author != task.submitter)
    del bystander.store.heads_now[Feed(task.submitter, TASK)]
    carry_out(world, fx.Answer(1, [(task.id, 3)]))


@tooth("a task settles once", "n1 shows another end")
def _(world: World) -> None:
    task = world.devices[1].core.state.tasks[a_task(world).id]
    assert task.settled is not None
    task.settled = msgspec.structs.replace(task.settled, hash=OTHER_HASH)
    carry_out(world, fx.Settled(task.id), device=1)


@tooth("an owner settles", "n1 believes an attacker")
def _(world: World) -> None:
    task = a_task(world)
    task = world.devices[1].core.state.tasks[task.id]
    other = next(d.author for d in world.devices if d.author != task.submitter)
    assert task.settled is not None
    task.settled = msgspec.structs.replace(task.settled, author=other, seq=1)
    world.attackers.add(other)
    carry_out(world, fx.Settled(task.id), device=1)


@tooth("an end has its result", "n1 shows none")
def _(world: World) -> None:
    task = a_task(world)
    world.devices[1].core.state.tasks[task.id].attempts.clear()
    carry_out(world, fx.Settled(task.id), device=1)


@tooth("queues have bounds", "held frames")
def _(world: World) -> None:
    world.devices[0].core.sync.held_size_bytes = LIMITS.held_size_bytes_max + 1
    look(world)


@tooth("queues have bounds", "waiting attempts")
def _(world: World) -> None:
    world.devices[0].core.device.waiting.extend([OTHER_HASH] * (3 * LIMITS.prefetch_max + 10))
    look(world)


@tooth("queues have bounds", "running attempts")
def _(world: World) -> None:
    running: dict[Any, Any] = world.devices[0].core.device.running
    run = SimpleNamespace(takes_slot=True)
    running.update({EventHash(bytes([n] * 32)): run for n in range(9)})
    look(world)


@tooth("no completed step runs again", "n0 submits it anew")
def _(world: World) -> None:
    # A task that completed and the newest one are taken for the same step of a third.
    device = world.devices[0]
    state = device.core.state
    done = a_task(world)
    parent = next(
        task
        for task in state.tasks.values()
        if task is not done and any(a.device == done.submitter for a in task.attempts)
    )
    issuer = next(a for a in parent.attempts if a.device == done.submitter)
    anew = state.tasks[submit(world)]
    state.open[anew.id] = anew
    done.child = anew.child = Child(parent.id, issuer.hash, b"memo")
    state.memos[b"memo"] = {done.id: done, anew.id: anew}
    kept = next(e for e in device.disk.events if e.hash == anew.submitted_hash)
    world.checks.stepped(device, [kept])


@tooth("no clock runs away", "n0's is 1000")
def _(world: World) -> None:
    device = world.devices[0]
    device.core.book.clock.last = (device.clock.greatest_ms + 1_000_500) << 16
    look(world)


@tooth("alive is mutual", "n0 counts on n1")
def _(world: World) -> None:
    device = world.devices[0]
    device.core.peers.by_author[world.devices[1].author].echoed_at_s = -1e9
    look(world)


@tooth("same events, same state", "n1 shows")
def _(world: World) -> None:
    world.checks.check_digest(world.devices[0])
    world.devices[1].core.state.invites_used[b"once more"] = NOBODY
    world.checks.check_digest(world.devices[1])


@tooth("same events, same state", "others")
def _(world: World) -> None:
    world.checks.check_digest(world.devices[0])
    world.devices[1].core.state.leader = Claim(OTHER_HASH, NOBODY, 99, 0, 1)
    world.checks.check_digest(world.devices[1])


def judge(world: World) -> None:
    Liveness(world).check()


@tooth("who is back is heard", "n0 does not hear n1")
def _(world: World) -> None:
    world.agenda.now_s += 2 * liveness.AWARE_S
    world.devices[0].core.peers.alive -= {world.devices[1].author}
    Liveness(world)._check_aware()


@tooth("after a heal all is well", "n1 is not there")
def _(world: World) -> None:
    world.devices[1].crash()
    world.restart = lambda device: None
    judge(world)


@tooth("after a heal all is well", "not all follow one leader")
def _(world: World) -> None:
    one, other = world.devices[:2]
    one.core.state.leader = Claim(OTHER_HASH, one.author, 99, 0, 1)
    other.core.state.leader = Claim(OTHER_HASH, other.author, 99, 0, 1)
    judge(world)


@tooth("after a heal all is well", "nobody who is there leads")
def _(world: World) -> None:
    for device in world.devices:
        device.core.state.leader = Claim(OTHER_HASH, NOBODY, 99, 0, 1)
    judge(world)


@tooth("after a heal all is well", "not all hold the same events")
def _(world: World) -> None:
    feed = Feed(world.devices[0].author, TASK)
    world.devices[1].core.book.commit({feed: Head(1, OTHER_HASH)})
    judge(world)


@tooth("after a heal all is well", "not all show one digest")
def _(world: World) -> None:
    world.devices[1].core.state.invites_used[b"once more"] = NOBODY
    judge(world)


@tooth("after a heal all is well", "a task is open at n0")
def _(world: World) -> None:
    submit(world, seconds=10_000)
    judge(world)


@tooth("only an admin lets in", "takes 6e6f626f for a member")
def _(world: World) -> None:
    # The one in whose name this is done has let in nobody.
    world.devices[0].give(ins.Admit(-99, NOBODY, "nobody", "member", bytes(32)))
    world.agenda.run_until(world.agenda.now_s + 2.0)
    judge(world)


@tooth("nothing acknowledged is lost", "a task that n1 acknowledged is nowhere")
def _(world: World) -> None:
    id = TaskId(b"lost".ljust(32, b"."))
    world.checks.acknowledged[id] = Acknowledged(id, world.devices[1].author, 1, 0.0)
    judge(world)


@pytest.mark.parametrize(("check", "sentence", "tamper"), TEETH, ids=[t[1] for t in TEETH])
def test_a_violation_is_found(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    check: str,
    sentence: str,
    tamper: Callable[[World], object],
) -> None:
    # Nothing that was tampered with is mended before it is judged.
    monkeypatch.setattr(liveness, "LOOK_S", 1e-6)
    monkeypatch.setattr(liveness, "WELL_S", 1e-6)
    monkeypatch.setattr(liveness, "STALLED_S", 1e-6)
    with pytest.raises(Broken) as raised:
        tamper(world)
    assert raised.value.check == check
    assert sentence in raised.value.sentence


def test_each_check_has_a_violation_that_it_finds() -> None:
    named: set[str] = set()
    for path in sorted((ROOT / "simulations").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                first = node.args[0] if node.args else None
                if node.func.attr == "fail" and isinstance(first, ast.Constant):
                    named.add(str(first.value))
    assert named == {check for check, _, _ in TEETH}


def test_what_is_as_it_should_be_breaks_nothing(world: World) -> None:
    task = a_task(world)
    assert task.settled is not None
    feed = Feed(task.submitter, TASK)
    for number, device in enumerate(world.devices):
        heads = dict(device.store.heads_now)
        seqs = [heads[Feed(device.author, topic)].seq for topic in (TASK, RESULT)]
        leader = device.core.state.leader
        assert leader is not None
        carry_out(world, fx.Acknowledge(feed.author, TASK, heads[feed].seq), number)
        carry_out(world, fx.SendHeads(NOBODY, heads, True), number)
        carry_out(
            world,
            heartbeat(world, leader=leader.hash, task_seq=seqs[0], result_seq=seqs[1]),
            number,
        )
        carry_out(world, fx.Answer(1, [(task.id, 3)]), number)
        carry_out(world, fx.Settled(task.id), number)
        carry_out(world, fx.Charge(None, "somebody on gossip"), number)
        world.checks.committed(device, Commit(device.disk.events[-3:], [], []))
        world.checks.check_digest(device)
        look(world, number)
    world.checks.starts.clear()
    world.checks.carried_out(runner(world, task), start_order(task))
    judge(world)


def test_who_lies_or_has_lost_its_disk_may_be_charged_and_may_fork(world: World) -> None:
    liar, unlucky = (device.author for device in world.devices[:2])
    world.attackers.add(liar)
    world.disks_hurt.add(unlucky)
    for author in (liar, unlucky):
        carry_out(world, fx.Charge(author, "two events in one place"))
        kept = next(e for e in world.devices[0].disk.events if e.author == author)
        other = Event(author, kept.topic, kept.seq, kept.hlc, kept.kind, b"", OTHER_HASH)
        world.checks.committed(world.devices[2], Commit([other], [], []))
    assert world.checks.forked == {unlucky}


def test_what_only_a_lost_disk_held_may_be_lost(world: World) -> None:
    id = TaskId(b"lost".ljust(32, b"."))
    world.checks.acknowledged[id] = Acknowledged(id, world.devices[1].author, 1, 0.0)
    world.disks_hurt.add(world.devices[1].author)
    judge(world)


def test_a_task_of_which_only_traces_are_left_is_lost(world: World) -> None:
    id = TaskId(b"lost".ljust(32, b"."))
    world.checks.acknowledged[id] = Acknowledged(id, world.devices[1].author, 1, 0.0)
    for device in world.devices:
        device.core.state.tasks[id] = Task(id)
    with pytest.raises(Broken, match="nothing acknowledged is lost"):
        judge(world)


def test_a_task_stays_open_without_blame_where_nobody_is_left_who_could_end_it() -> None:
    world = a_world()
    id = submit(world, seconds=10_000)
    owner = world.devices[0].core.state.tasks[id].owner
    gone = next(device for device in world.devices if device.author == owner)
    others = [device for device in world.devices if device is not gone]
    gone.crash()
    gone.is_gone = True
    Liveness(world).check()
    assert all(id in device.core.state.open for device in others)
