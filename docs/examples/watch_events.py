"""Watches the ledger: one line for each event, as it comes to this node.

    python watch_events.py [--api URL] [--after POSITION] [--count N]

With `--after` it goes on where an earlier run ended: positions only rise. Without `--count` it
stays until it is interrupted. Runs on trio; the client works on asyncio just as well.
"""

# ruff: noqa: T201 (printing is what an example is for)

from __future__ import annotations

import argparse
import time
from contextlib import aclosing

import trio

from kowalski_node.client import Client


async def watch(api: str, after: int, count: int | None) -> None:
    """Prints events until there were `count` of them."""
    async with Client(api) as kowalski:
        names = {device.id: device.name for device in (await kowalski.cluster()).devices}
        async with aclosing(kowalski.events(after)) as events:
            seen = 0
            async for event in events:
                when = time.strftime("%H:%M:%S", time.localtime(event.time))
                who = names.get(event.author, event.author[-8:])
                print(f"{event.position:>6}  {when}  {who:<10}  {event.kind}", flush=True)
                seen += 1
                if seen == count:
                    return


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Watch the events of the ledger.")
    parser.add_argument("--api", default="http://127.0.0.1:52420")
    parser.add_argument("--after", type=int, default=0, metavar="POSITION")
    parser.add_argument("--count", type=int, default=None, metavar="N")
    given = parser.parse_args()
    try:
        trio.run(watch, given.api, given.after, given.count)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
