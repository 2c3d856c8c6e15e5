"""The three gossipsub topics of a cluster.

`task` and `result` carry feeds, one hash chain per author each; `telemetry` carries datagrams that
are never stored. The names hold the start of the cluster id, so that two clusters on one network
never meet.
"""

from __future__ import annotations

from typing import Final

from .ids import ClusterId

TASK: Final = "task"
RESULT: Final = "result"
TELEMETRY: Final = "telemetry"

FEED_TOPICS: Final = (TASK, RESULT)
TOPICS: Final = (TASK, RESULT, TELEMETRY)


def wire_name(cluster: ClusterId, topic: str) -> str:
    """The gossipsub topic string of a cluster's topic."""
    return f"/kowalski/{cluster.hex()[:16]}/{topic}"
