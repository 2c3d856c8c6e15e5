"""A program for a place without any network: founds a cluster of one there, works, and says how.

Run as `python alone.py FOLDER`; prints one JSON document. The test runs it in a namespace that has
nothing but the loopback, where there is no name server, no peer, no multicast and no route.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import trio

from kowalski_gateway.local_cluster import LocalCluster


async def main(folder: Path) -> None:
    async with LocalCluster(folder, mdns=True) as cluster:
        node = await cluster.add("alone")
        first = await node.client.run("tool", {"tool": "echo", "args": {"value": "first"}})
        waiting = await node.client.submit("tool", {"tool": "sleep", "args": {"seconds": 0.2}})
        await node.kill()
        await node.start()
        second = await node.client.run("tool", {"tool": "echo", "args": {"value": "second"}})
        kept = await node.client.result(first.id, 0)
        after = (await node.client.result(waiting.id, 20)).outcome
        view = await node.client.cluster()
        results = [view.result.value for view in (kept, second) if view.result is not None]
        print(  # noqa: T201
            json.dumps(
                {
                    "interfaces": [name for _, name in socket.if_nameindex()],
                    "results": results,
                    "outcomes": [kept.outcome, after, second.outcome],
                    "devices": [device.name for device in view.devices],
                    "led_by_itself": view.leader == view.self,
                    "stopped": await node.stop(),
                }
            )
        )


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
