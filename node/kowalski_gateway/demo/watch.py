"""What the ledger's events tell about the demo's tasks: who ran what, what was lost, what settled.

The watch reads the event stream of one node that is never killed. All that the demo says about
failovers comes from here and so from signed events with their times, not from what the demo hoped
to see. It is a plain fold without clocks, so a test can feed it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from kowalski_node.views import EventView
from kowalski_protocol.identity import peer_id
from kowalski_protocol.ids import Author


@dataclass(slots=True)
class Placement:
    """One attempt: where a task was placed, and whether its device was lost before its end."""

    task: str
    device: str
    """A peer ID, as everywhere here."""
    at_s: float
    lost_s: float | None = None
    ended: bool = False


@dataclass(slots=True)
class Failover:
    """What a killed device's end led to, in seconds since the kill."""

    device: str
    at_s: float
    led: bool
    heir: str | None = None
    """Who leads after it, where it led."""
    leader_s: float | None = None
    moved: int = 0
    """Unfinished tasks of the device that were placed elsewhere."""
    moved_s: float | None = None
    """When the last of them was."""
    waiting: set[str] = field(default_factory=set[str])
    """Those whose loss is written and that have no new place yet."""

    @property
    def is_over(self) -> bool:
        """Whether all of it has been made good, as far as the events tell."""
        return not self.waiting and (self.heir is not None or not self.led)


class Watch:
    """The events so far, folded."""

    def __init__(self) -> None:
        self.tasks: set[str] = set()
        self.settlements: Counter[str] = Counter()
        self.outcomes: dict[str, str] = {}
        self.placements: dict[str, Placement] = {}
        self.failovers: list[Failover] = []
        self._settled_by: dict[str, str] = {}

    def expect(self, tasks: list[str]) -> None:
        """These are the tasks that count; others of the ledger are not looked at."""
        self.tasks.update(tasks)

    def killed(self, device: str, at_s: float, *, led: bool) -> Failover:
        """A device was killed at this time."""
        failover = Failover(device, at_s, led)
        self.failovers.append(failover)
        return failover

    def add(self, event: EventView) -> None:
        """Takes in the next event."""
        body = event.body
        match event.kind:
            case "TaskPlaced":
                device = peer_id(Author(bytes.fromhex(body["device"])))
                placement = Placement(body["task"], device, event.time)
                self.placements[event.hash] = placement
                self._moved(placement)
            case "TaskCompleted" | "TaskFailed" | "TaskDeclined":
                attempt = self.placements.get(body["attempt"])
                if attempt is not None:
                    attempt.ended = True
            case "AttemptLost":
                self._lost(body["attempt"], event.time)
            case "TaskSettled":
                self.settlements[body["task"]] += 1
                if body["task"] not in self.outcomes:
                    self.outcomes[body["task"]] = body["outcome"]
                    self._settled_by[body["task"]] = body["attempt"]
            case "LeaderClaimed":
                self._leads(event)
            case _:
                pass

    def _lost(self, name: str, at_s: float) -> None:
        attempt = self.placements.get(name)
        if attempt is None or attempt.lost_s is not None:
            return
        attempt.lost_s = at_s
        for failover in reversed(self.failovers):
            if failover.device == attempt.device:
                failover.waiting.add(attempt.task)
                return

    def _moved(self, placement: Placement) -> None:
        for failover in self.failovers:
            if placement.task in failover.waiting:
                failover.waiting.discard(placement.task)
                failover.moved += 1
                failover.moved_s = placement.at_s - failover.at_s

    def _leads(self, event: EventView) -> None:
        for failover in self.failovers:
            if failover.led and failover.heir is None and event.time >= failover.at_s:
                failover.heir = event.author
                failover.leader_s = event.time - failover.at_s

    @property
    def settled(self) -> int:
        """How many of the expected tasks have settled."""
        return sum(task in self.outcomes for task in self.tasks)

    def open_on(self, device: str) -> int:
        """How many attempts are placed on a device and have no end."""
        return sum(
            one.device == device and not one.ended and one.lost_s is None
            for one in self.placements.values()
        )

    def ran(self) -> Counter[str]:
        """How many of the expected tasks settled with an attempt of each device."""
        return Counter(
            self.placements[attempt].device
            for task, attempt in self._settled_by.items()
            if task in self.tasks and attempt in self.placements
        )
