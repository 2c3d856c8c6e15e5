"""Attack 19 on real nodes: hostile programs, several at once, beside the work of others.

What each kind of program can't do is shown in detail by the tests of the sandbox; here it is the
node that must not be touched: its memory, its key, its processes, and what others gave it to do.
"""

from __future__ import annotations

import psutil
import pytest
import trio

from kowalski_gateway.local_cluster import LocalCluster
from kowalski_node.client import TaskHandle
from tests.attacks.live_outlaw import WAIT_S, watched
from tests.live.evidence import assert_all_agree, assert_ledgers_agree

pytestmark = [pytest.mark.attack, pytest.mark.live, pytest.mark.needs_bubblewrap]

TIMEOUT_S = 2.0
CORES_SHARED_S = 10.0
"""Here both devices are one machine: while programs spin, honest work shares its cores with them.
"""
PROGRAMS = {
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "memory": "held = []\nwhile True: held.append(bytearray(1 << 24))",
    "output": "while True: print('x' * 65536)",
    "survivor": (
        "import os, time\n"
        "if os.fork() == 0:\n    os.setsid()\n"
        "    if os.fork() == 0: time.sleep(600)\n    os._exit(0)\n"
        "while True: pass"
    ),
    "killer": (
        "import os, signal\n"
        "for number in range(2, 70000):\n"
        "    try:\n        if number != os.getpid(): os.kill(number, signal.SIGKILL)\n"
        "    except OSError: pass\n"
        "open('/nowhere/at/all')"
    ),
}
KEY_READER = """
import os
for path in ({home!r}, os.path.dirname({home!r})):
    print(path, "FOUND" if os.path.lexists(path) else "nothing")
for root, _, names in os.walk("/proc"):
    if root.count("/") == 2 and os.path.exists(root + "/cmdline"):
        print("FOUND" if b"node_main" in open(root + "/cmdline", "rb").read() else "nothing")
"""


def below(pid: int) -> set[int]:
    """The processes that a node has started and that still run."""
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


async def test_hostile_programs_touch_neither_node_nor_the_work_of_others(
    cluster: LocalCluster,
) -> None:
    await cluster.add_all("desk", "lap")
    desk, lap = cluster.nodes
    at_first = len(below(desk.pid))

    async def give(code: str) -> TaskHandle:
        return await lap.client.submit(
            "code",
            {"language": "python", "code": code},
            requires={"device": desk.peer},
            timeout_s=TIMEOUT_S,
        )

    async with watched(lap, desk, slack_s=CORES_SHARED_S) as watch:
        handles = {name: await give(code) for name, code in PROGRAMS.items()}
        reader = await give(KEY_READER.format(home=str(desk.home)))
        ends = {name: await handle.result(3 * WAIT_S) for name, handle in handles.items()}
        read = await reader.result(3 * WAIT_S)
    assert {view.outcome for view in ends.values()} <= {"failed", "timed_out"}
    assert ends["survivor"].outcome == "timed_out"
    assert read.result is not None
    assert "FOUND" not in read.result.stdout
    assert (read.outcome, read.result.ok) == ("completed", True)
    assert read.result.stdout.count("nothing") >= 3
    with trio.fail_after(WAIT_S):
        while len(below(desk.pid)) > at_first + 1:
            await trio.sleep(0.05)  # poll: the kernel ends what is left of the programs
    ids = [*watch.ids, reader.id, *(handle.id for handle in handles.values())]
    await assert_all_agree(cluster, ids)
    await assert_ledgers_agree(cluster, ids)
