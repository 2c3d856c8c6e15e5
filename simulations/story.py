"""The story of one task or feed: what each node made of it, one aligned line per change.

It is read from the disks of the devices as they are when the run ends, and from what happened to
the world meanwhile, in order of time. For a task: the events that concern it, in the order in which
they were written; for a feed: how far each device holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kowalski_protocol.codec import Malformed, decode_body
from kowalski_protocol.feeds import Event, Feed
from kowalski_protocol.ids import TaskId

from .clock import START_MS

if TYPE_CHECKING:
    from .world import World

AROUND_S = 30.0
"""Of what happened to the world, a story shows what came so long before the task's first event."""


def task_story(world: World, task: TaskId) -> list[str]:
    """The lines of a task's story."""
    seen: dict[tuple[bytes, str, int], tuple[Event, list[str]]] = {}
    for device in world.devices:
        for event in device.disk.events:
            place = (event.author, event.topic, event.seq)
            if place in seen:
                seen[place][1].append(device.name)
            elif _concerns(event, task):
                seen[place] = (event, [device.name])
    lines: list[tuple[float, str]] = []
    for event, holders in seen.values():
        at_s = world.checks.written_s.get(event.hash, ((event.hlc >> 16) - START_MS) / 1000.0)
        author = world.name_of(event.author)
        held = "all" if len(holders) == len(world.devices) else ",".join(holders)
        text = f"{author:<6} {event.kind:<20} {_details(world, event):<44} held by {held}"
        lines.append((at_s, text))
    first_s = min((at_s for at_s, _ in lines), default=0.0)
    last_s = world.agenda.now_s
    lines += [
        (at_s, f"{'world':<6} {sentence}")
        for at_s, sentence in world.told
        if first_s - AROUND_S <= at_s <= last_s
    ]
    lines.sort(key=lambda line: line[0])
    return [
        f"the story of task {task.hex()[:16]}",
        *(f"{at_s:10.3f} s  {text.rstrip()}" for at_s, text in lines),
        "what each device shows",
        *(_shown(world, name, task) for name in [d.name for d in world.devices]),
    ]


def feed_story(world: World, feed: Feed) -> list[str]:
    """The lines of a feed's story: who holds how much of it, and what happened to the world."""
    lines = [f"the story of feed {world.name_of(feed.author)}/{feed.topic}"]
    for device in world.devices:
        head = device.store.heads_now.get(feed)
        state = "gone" if device.is_gone else "down" if not device.is_up else "up"
        seq, hash = (head.seq, head.hash.hex()[:8]) if head else (0, "-")
        lines.append(f"{device.name:<6} {state:<5} holds up to {seq:>6}  {hash}")
    lines.append("what happened to the world")
    lines += [f"{at_s:10.3f} s  {sentence}" for at_s, sentence in world.told]
    return lines


def _concerns(event: Event, task: TaskId) -> bool:
    return task in event.body or (event.kind == "TaskSubmitted" and _submits(event, task))


def _submits(event: Event, task: TaskId) -> bool:
    from kowalski_protocol.events import TaskSubmitted
    from kowalski_protocol.tasks import task_id

    try:
        body = decode_body(event.kind, event.body)
    except Malformed:
        return False
    return isinstance(body, TaskSubmitted) and task_id(body.owner, body.key, body.spec) == task


def _details(world: World, event: Event) -> str:
    try:
        body = decode_body(event.kind, event.body)
    except Malformed:
        return "does not decode"
    words: list[str] = []
    for name in ("device", "attempt", "number", "outcome", "code", "reason"):
        value = getattr(body, name, None)
        if value is None or value == "":
            continue
        if name == "device":
            value = world.name_of(value)
        elif isinstance(value, bytes):
            value = value.hex()[:6]
        words.append(f"{name} {value}")
    if event.kind == "TaskPlaced":
        words.append(f"as {event.hash.hex()[:6]}")
    return " ".join(words)


def _shown(world: World, name: str, task: TaskId) -> str:
    device = next(d for d in world.devices if d.name == name)
    if device.node is None:
        return f"{name:<6} {'is gone' if device.is_gone else 'is down'}"
    record = device.core.state.tasks.get(task)
    if record is None:
        return f"{name:<6} does not know it"
    settled = record.settled
    if settled is not None:
        return f"{name:<6} settled as {settled.outcome} by {world.name_of(settled.author)}"
    under_way = [world.name_of(a.device) for a in record.attempts if a.is_open]
    where = f"under way on {', '.join(under_way)}" if under_way else "waits"
    return f"{name:<6} open, {where}"
