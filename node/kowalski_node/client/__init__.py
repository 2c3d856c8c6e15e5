"""How a Python program talks to a node: `async with Client() as client`, on trio or asyncio.

`client` has the operations, `answers` reads what the node says back, `server_events` reads its
streams.
"""

from __future__ import annotations

from .client import Client, TaskHandle, TaskOptions

__all__ = ["Client", "TaskHandle", "TaskOptions"]
