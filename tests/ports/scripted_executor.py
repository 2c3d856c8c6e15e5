"""An executor that does nothing but what was written down before.

It is for tests of what stands above executors (placement, retries, streaming, cancelling): a task
names a script by `payload["script"]`, and the script says what is printed, when it may end, and how
it ends. It passes the same conformance suite as the real ones, so a test that runs on it tells
something about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from kowalski_node.executor import Attempt, Capabilities, Completed, Context, Failed, Outcome


@dataclass
class Script:
    """What one attempt does: prints, waits for its cue if it has one, ends."""

    outcome: Outcome = field(default_factory=Completed)
    prints: tuple[tuple[str, bytes], ...] = ()
    cue: trio.Event | None = None


class ScriptedExecutor:
    """Runs scripts; `started`, `cancelled` and `running` say what has become of which attempt."""

    output_bytes_max = 1 << 20

    def __init__(self, scripts: Mapping[str, Script], *, name: str = "code") -> None:
        self.name = name
        self.scripts = dict(scripts)
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.running: set[str] = set()

    async def probe(self) -> Capabilities:
        """Everything that a script could need is there."""
        return Capabilities(kinds=(self.name,), languages={"python": "3.11.0"}, sandbox="none")

    async def probe_all(self) -> Capabilities:
        """There is nothing more."""
        return await self.probe()

    async def run(self, attempt: Attempt, context: Context) -> Outcome:
        """Plays one script."""
        self.started.append(attempt.attempt)
        script = None
        name = attempt.payload.get("script")
        if isinstance(name, str) and len(attempt.payload) == 1:
            script = self.scripts.get(name)
        if script is None:
            return Failed("bad_request", "There is no such script.")
        self.running.add(attempt.attempt)
        try:
            with trio.move_on_after(attempt.timeout_s):
                return await self._play(script, context)
            return Failed("timed_out", f"The script ran past its {attempt.timeout_s:g} s.")
        except trio.Cancelled:
            self.cancelled.append(attempt.attempt)
            raise
        finally:
            self.running.discard(attempt.attempt)

    async def _play(self, script: Script, context: Context) -> Outcome:
        await trio.lowlevel.checkpoint()
        room: dict[str, int] = dict.fromkeys(("stdout", "stderr"), self.output_bytes_max)
        for stream, data in script.prints:
            if room[stream] > 0:
                context.write(stream, data[: room[stream]])
            room[stream] -= len(data)
            if room[stream] < 0:
                return Failed("output_too_large", f"The script printed too much on {stream}.")
        if script.cue is not None:
            await script.cue.wait()
        return script.outcome
