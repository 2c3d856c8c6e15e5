"""What programs in the sandbox cost: starts, many small ones, and the end of wild ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from kowalski_executors.code_executor import CodeExecutor
from kowalski_gateway.local_cluster import LocalNode
from kowalski_node.executor import Attempt, Completed, Outcome, Recorded, StepEnd
from kowalski_node.views import TaskView

from .quantiles import median, rounded, spread
from .session import Session, Unmeasurable
from .workload import check_values, settled

SMALL_TASKS: Final = 1_000
CELLS: Final = 1_000
CELLS_WARM: Final = 20
"""The first ones, which are not counted: the interpreter starts, and code is run for once."""
LIMIT_S: Final = 1.0
LIVES_S: Final = 5.0
"""How long a program may take to be seen at work before it is cancelled."""
FUNCTIONS: Final = 24

_FUNCTION: Final = """
def step_{number}(values):
    total = sum(value * {number} for value in values)
    return [total % (value + 7) for value in values]
"""
PROGRAM: Final = (
    "import json\nimport math\nvalues = list(range(32))\n"
    + "".join(_FUNCTION.format(number=number) for number in range(FUNCTIONS))
    + "".join(f"values = step_{number}(values)\n" for number in range(1, FUNCTIONS, 3))
    + "json.loads(json.dumps([math.isqrt(sum(values)), len(values)]))[1]\n"
)
"""About a hundred lines with the imports that small programs have; its value is 32."""

WILD: Final[Mapping[str, str]] = {
    "a loop": "while True: pass",
    "a sleep in C": "import time\ntime.sleep(3600)",
    "a fork bomb": "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
    "10 GB of memory": "kept = []\nwhile True: kept.append(bytearray(b'x') * (1 << 26))",
    "1 GB of output": "import os\nfor _ in range(1 << 14): os.write(1, b'x' * (1 << 16))",
    "threads without end": (
        "import threading, time\nkept = []\nwhile True:\n"
        "  try:\n    kept.append(threading.Thread(target=time.sleep, args=(3600,)))\n"
        "    kept[-1].start()\n  except RuntimeError: time.sleep(0.01)"
    ),
}
"""Programs that go on until they are stopped."""


async def measure(session: Session) -> None:
    """Reports the figures of the group `code`."""
    if session.wants("code_warm_p50", "code_warm_sandbox_p50"):
        await _warm(session)
    if session.wants("code_cold_p50"):
        executor = CodeExecutor(work_root=session.folder / "cold", warm=False)
        samples_ms = [await _once(executor, "1 + 1", 2) for _ in range(session.times(100, 30))]
        session.report("code_cold_p50", median(samples_ms), **spread(samples_ms))
    if session.wants("code_session_p50"):
        await _session(session)
    if session.wants("code_throughput"):
        await _throughput(session)
    if session.wants("code_limits"):
        await _limits(session)
    if session.wants("code_cancel"):
        await _cancel(session)


async def _warm(session: Session) -> None:
    async with session.cluster() as cluster:
        node = await cluster.add("desk")
        samples_ms: list[float] = []
        inside_ms: list[float] = []
        for number in range(-20, session.times(500, 100)):
            began_s = time.perf_counter()
            view = await node.client.run("code", {"language": "python", "code": PROGRAM})
            took_ms = (time.perf_counter() - began_s) * 1000.0
            if view.result is None or view.result.value != 32:
                raise Unmeasurable(f"a program ended as {view.outcome or view.state}")
            if number >= 0:
                samples_ms.append(took_ms)
                inside_ms.append((view.times["run_s"] or 0.0) * 1000.0)
    lines = PROGRAM.count("\n")
    session.report("code_warm_p50", median(samples_ms), lines=lines, **spread(samples_ms))
    session.report("code_warm_sandbox_p50", median(inside_ms), **spread(inside_ms))


async def _session(session: Session) -> None:
    executor = CodeExecutor(work_root=session.folder / "sessions")
    samples_ms: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(executor.serve)
        cells = ["x = 0", *("x" if number % 2 else "x += 1" for number in range(CELLS))]
        for number, code in enumerate(cells):
            payload: dict[str, Any] = {"language": "python", "code": code}
            after = str(number - 1) if number else ""
            cell = Attempt(
                "t", str(number), 1, "code", payload, {}, 30.0, "bench", number + 1, after
            )
            began_s = time.perf_counter()
            outcome = await executor.run(cell, _NoOutput())
            took_ms = (time.perf_counter() - began_s) * 1000.0
            value = number // 2 if number and number % 2 == 0 else None
            if not isinstance(outcome, Completed) or outcome.value != value:
                raise Unmeasurable(f"a cell ended with {outcome}")
            if number > CELLS_WARM:
                samples_ms.append(took_ms)
        nursery.cancel_scope.cancel()
    session.report("code_session_p50", median(samples_ms), **spread(samples_ms))


async def _throughput(session: Session) -> None:
    rates: list[float] = []
    async with session.cluster() as cluster:
        await cluster.add_all("desk", "lap", "mini")
        client = cluster["desk"].client
        for _ in range(session.times(3, 1)):
            before = await client.cluster()
            specs = [
                {"kind": "code", "payload": {"language": "python", "code": f"{number} + 1"}}
                for number in range(SMALL_TASKS)
            ]
            began_s = time.perf_counter()
            handles = await client.batch(specs)
            await settled(client, handles, before.tasks["settled"] + SMALL_TASKS)
            rates.append(SMALL_TASKS / (time.perf_counter() - began_s))
            await check_values(client, handles, lambda number: number + 1)
            session.say(f"{rates[-1]:,.0f} programs/s")
    session.report("code_throughput", median(rates), rates=[rounded(rate, 4) for rate in rates])


async def _limits(session: Session) -> None:
    executor = CodeExecutor(work_root=session.folder / "limits")
    await executor.probe()
    over_ms: dict[str, float] = {}
    for what, code in WILD.items():
        for _ in range(session.times(3, 1)):
            began_s = time.perf_counter()
            outcome = await _run(executor, code, LIMIT_S)
            late_ms = (time.perf_counter() - began_s - LIMIT_S) * 1000.0
            if isinstance(outcome, Completed):
                raise Unmeasurable(f"{what} ended well")
            over_ms[what] = max(late_ms, over_ms.get(what, late_ms))
        await _once(executor, "1 + 1", 2)
    worst = max(over_ms.values())
    session.report("code_limits", max(0.0, worst), **{w: rounded(v) for w, v in over_ms.items()})


async def _cancel(session: Session) -> None:
    samples_ms: list[float] = []
    async with session.cluster() as cluster:
        node = await cluster.add("desk")
        for _ in range(session.times(20, 5)):
            samples_ms.append(await _cancel_one(node))
    session.report("code_cancel", max(samples_ms), **spread(samples_ms))


async def _cancel_one(node: LocalNode) -> float:
    """Milliseconds from the request to the end of a program that runs."""
    code = "print('up', flush=True)\nwhile True: pass"
    handle = await node.client.submit("code", {"language": "python", "code": code})
    with trio.move_on_after(LIVES_S):
        async for chunk in node.client.output(handle.id, follow=True):
            if "up" in chunk.text:
                break
    began_s = time.perf_counter()
    await handle.cancel()
    view: TaskView = await node.client.result(handle.id, wait_s=10.0)
    if view.outcome != "cancelled":
        raise Unmeasurable(f"a cancelled program ended as {view.outcome or view.state}")
    return (time.perf_counter() - began_s) * 1000.0


class _NoOutput:
    """A context for programs whose output nobody reads."""

    def write(self, stream: str, data: bytes) -> None:
        """Drops it."""

    async def open_blob(self, blob_hash: str) -> Path:
        raise Unmeasurable(f"no blob {blob_hash}")

    async def store_blob(self, source: Path) -> str:
        raise Unmeasurable(f"no store for {source}")

    async def recorded(self) -> Sequence[Recorded]:
        return ()

    async def step(self, name: str, task: Mapping[str, Any]) -> StepEnd:
        raise Unmeasurable(f"no step {name} of {task}")


async def _run(executor: CodeExecutor, code: str, timeout_s: float) -> Outcome:
    payload: dict[str, Any] = {"language": "python", "code": code}
    return await executor.run(Attempt("t", "a", 1, "code", payload, {}, timeout_s), _NoOutput())


async def _once(executor: CodeExecutor, code: str, value: object) -> float:
    """Milliseconds that a program takes, from the call to its outcome."""
    began_s = time.perf_counter()
    outcome = await _run(executor, code, 30.0)
    took_ms = (time.perf_counter() - began_s) * 1000.0
    if not isinstance(outcome, Completed) or outcome.value != value:
        raise Unmeasurable(f"a program ended with {outcome}")
    return took_ms
