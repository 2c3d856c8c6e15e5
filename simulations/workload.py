"""What people do in a world: tasks of many sorts, cancellations, new weights.

Each seed draws how busy its people are. What a task does when it runs stands in its payload (see
`executors`), so that a later attempt does the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kowalski_node.core import inputs as ins
from kowalski_protocol.tasks import parse_task

if TYPE_CHECKING:
    from .device import Device
    from .world import World


class Workload:
    """The people of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.options.stream("workload")
        self._hedges = world.options.stream("hedges")
        self._tickets = 0
        self.submitted = 0
        chance = self._chance
        self._wait_s = chance.choice((1.0, 2.0, 4.0))
        """Between two things that people do, on average."""
        self._batch_max = chance.choice((1, 4, 4, 20))
        self._has_large_batch = chance.random() < 0.1
        slots = sum(device.slots for device in world.devices)
        tasks_per_s = (0.7 + 0.15 * (1 + self._batch_max)) / self._wait_s
        # At most a third of what the devices could run, or nothing would ever end.
        self._long_s = min(chance.choice((0.5, 5.0, 60.0)), slots / 3 / tasks_per_s / 0.15)
        self._odd = chance.choice((0.0, 0.05, 0.2))
        """The share of tasks that fail, kill, or bring much."""
        self._killers_left = 3
        """Each takes down a device for five seconds, up to nine times."""
        self._sessions = chance.choice((0, 0, 1, 4))
        """How many sessions people work in."""
        self._graphs = chance.choice((0.0, 0.0, 0.03, 0.1))
        """The share of graphs; each has several tasks."""
        self._cancels = chance.choice((0.0, 0.05, 0.2))

    def begin(self, length_s: float) -> None:
        """People work from now on, for so long."""
        self._until_s = self._world.agenda.now_s + length_s
        self._next()
        if self._has_large_batch:
            at_s = self._world.agenda.now_s + self._chance.uniform(0.0, length_s)
            self._world.agenda.at(at_s, self._submit, 1000)

    def _next(self) -> None:
        wait_s = self._chance.expovariate(1.0 / self._wait_s)
        self._world.agenda.after(wait_s, self._act)

    def _act(self) -> None:
        if self._world.agenda.now_s >= self._until_s:
            return
        self._next()
        roll = self._chance.random()
        if roll < self._cancels:
            self._cancel()
        elif roll > 0.995:
            self._weigh()
        else:
            few = self._chance.random() < 0.7
            self._submit(1 if few else self._chance.randint(1, self._batch_max))

    def _device(self) -> Device | None:
        ready = [d for d in self._world.devices if d.is_listening]
        return self._chance.choice(ready) if ready else None

    def _submit(self, count: int) -> None:
        device = self._device()
        if device is None:
            return
        chance = self._chance
        specs = [self._hedged(self._spec(is_brief=count == 1000)) for _ in range(count)]
        self._tickets += 1
        self.submitted += count
        self._world.checks.conduct.asked(device, self._tickets)
        device.give(
            ins.Submit(
                self._tickets,
                [parse_task(spec) for spec in specs],
                [chance.randbytes(16) for _ in specs],
                min_replicas=2 if chance.random() < 0.02 else None,
                wait_for_replica=chance.random() < 0.8,
            )
        )

    def _spec(self, *, is_brief: bool) -> dict[str, Any]:
        chance = self._chance
        args: dict[str, Any] = {}
        if self._sessions and not is_brief and chance.random() < 0.2:
            return self._cell()
        if not is_brief and chance.random() < self._graphs:
            return self._graph()
        if not is_brief and chance.random() < 0.3:
            args["seconds"] = round(self._long_s * chance.random(), 3)
        spec: dict[str, Any] = {"kind": "tool", "payload": {"tool": "echo", "args": args}}
        if args and chance.random() < 0.1:
            spec["failover"] = "fail"
        if chance.random() < 0.2:
            spec["priority"] = chance.randint(-5, 5)
        if chance.random() < self._odd:
            odd = chance.random()
            if odd < 0.5:
                args["fails"] = chance.randint(1, 4)
                spec["retry"] = {"max_attempts": chance.randint(1, 4), "backoff_s": 0.1}
            elif odd < 0.6 and self._killers_left:
                self._killers_left -= 1
                args["kills"] = True
            elif odd < 0.8:
                args["size"] = 100_000
            else:
                spec["timeout_s"] = 0.5 + chance.random()
                spec["failover"] = chance.choice(("redistribute", "fail", "queue"))
        elif chance.random() < 0.1:
            device = chance.choice(self._world.devices)
            spec["requires"] = {"device": self._world.peer_id(device)}
        return spec

    def _hedged(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Some tasks ask for a second attempt: brief ones, and all take about as long, so that
        those of a straggler stand out.
        """
        chance = self._hedges
        if spec["kind"] == "tool" and chance.random() < 0.15:
            spec["hedge"] = True
            spec["payload"]["tool"] = "sleep"
            spec["payload"]["args"]["seconds"] = round(chance.uniform(0.05, 0.2), 3)
        return spec

    def _graph(self) -> dict[str, Any]:
        """Two or three layers, each task after some of the layer before."""
        chance = self._chance
        tasks: dict[str, Any] = {}
        before: list[str] = []
        for layer in range(chance.randint(2, 3)):
            names = [f"{'abc'[layer]}{number}" for number in range(chance.randint(1, 3))]
            for name in names:
                args: dict[str, Any] = {"seconds": round(self._long_s * chance.random() / 10, 3)}
                if chance.random() < self._odd:
                    args["fails"] = 1
                task: dict[str, Any] = {"kind": "tool", "payload": {"tool": "echo", "args": args}}
                if before:
                    task["after"] = chance.sample(before, chance.randint(1, len(before)))
                if chance.random() < 0.1:
                    task |= {"kind": "graph", "payload": {"tasks": {"inner": dict(task)}}}
                    task["payload"]["tasks"]["inner"].pop("after", None)
                tasks[name] = task
            before = names
        policy = chance.choice(("stop", "continue", "compensate"))
        return {
            "kind": "graph",
            "payload": {"tasks": tasks, "on_failure": policy},
            "retry": {"max_attempts": chance.randint(1, 2), "backoff_s": 0.1},
        }

    def _cell(self) -> dict[str, Any]:
        """The next cell of a session: brief, as all of a session wait for each other."""
        chance = self._chance
        args: dict[str, Any] = {"seconds": round(0.2 * chance.random(), 3)}
        if chance.random() < self._odd:
            args["fails"] = 1
        return {
            "kind": "code",
            "payload": {"language": "python", "code": "x += 1", "script": args},
            "session": f"session {chance.randrange(self._sessions)}",
            "retry": {"max_attempts": chance.randint(1, 2), "backoff_s": 0.1},
        }

    def _cancel(self) -> None:
        device = self._device()
        if device is None:
            return
        tasks = list(device.core.state.open)
        if tasks:
            device.give(ins.Cancel(self._chance.choice(tasks)))

    def _weigh(self) -> None:
        device = self._device()
        if device is not None:
            self._tickets += 1
            self._world.checks.conduct.asked(device, self._tickets)
            weights = {"load": round(self._chance.random(), 3)}
            device.give(ins.SetWeights(self._tickets, "tool", weights))
