"""Running one world and saying how it went."""

from __future__ import annotations

import time
import traceback

import msgspec

from .bugs import planted
from .checks import Broken
from .options import Options
from .story import feed_story, task_story
from .world import World


class Report(msgspec.Struct, frozen=True):
    """How a run went; what does not depend on the machine is the same for the same options."""

    seed: int
    ok: bool
    check: str
    """The check that broke, or the kind of exception; empty where none did."""
    sentence: str
    digest: str
    nodes: int
    preset: str
    kinds: tuple[str, ...]
    faults: int
    tasks: int
    acknowledged: int
    simulated_s: float
    core_s: float
    events: int
    story: tuple[str, ...] = ()


def run(options: Options, *, story: str | None = None, tell: bool = True) -> Report:
    """Runs a world to its end, or to the step at which something breaks.

    `story` asks for the story of the first task whose id begins so, although nothing broke.
    """
    began_s = time.process_time()
    check = sentence = ""
    lines: list[str] = []
    with planted(options.bug):
        world = World(options)
        try:
            world.run()
        except Broken as broken:
            check, sentence = broken.check, broken.sentence
            if tell and broken.task is not None:
                lines = task_story(world, broken.task)
            elif tell and broken.feed is not None:
                lines = feed_story(world, broken.feed)
            elif tell:
                lines = [f"{at_s:10.3f} s  {text}" for at_s, text in world.told]
        except Exception as error:  # guard: whatever the core raises is what is looked for
            check = type(error).__name__
            sentence = f"at {world.agenda.now_s:.3f} s, {error}"
            lines = traceback.format_exc().splitlines() if tell else []
    if story is not None and not check:
        found = sorted({id for d in world.devices if d.node for id in d.core.state.tasks})
        ids = [id for id in found if id.hex().startswith(story)]
        lines = task_story(world, ids[0]) if ids else [f"there is no task {story}"]
    return Report(
        options.seed,
        not check,
        check,
        sentence,
        world.digest(),
        len(world.devices),
        world.preset,
        world.kinds,
        len(world.faults.happened),
        world.workload.submitted,
        len(world.checks.acknowledged),
        world.agenda.now_s,
        time.process_time() - began_s,
        sum(len(device.disk.events) for device in world.devices),
        tuple(lines),
    )
