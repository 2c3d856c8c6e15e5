"""Which node a client talks to: what was given, else what the environment says, else this device's.

`Client` and the command line read KOWALSKI_API and KOWALSKI_API_TOKEN here, so that a script finds
the same node as the shell that it was started from.
"""

from __future__ import annotations

import os
from typing import Final
from urllib.parse import urlsplit

DEFAULT_API: Final = "127.0.0.1:52420"


def api_url(given: str | None = None) -> str:
    """The URL of the API: `given`, else KOWALSKI_API, else this device's; HOST:PORT is enough."""
    chosen = given or os.environ.get("KOWALSKI_API") or DEFAULT_API
    return (chosen if "://" in chosen else f"http://{chosen}").rstrip("/")


def api_token(given: str | None = None) -> str | None:
    """The API's token: `given`, else KOWALSKI_API_TOKEN, else none; an empty one is none."""
    return given or os.environ.get("KOWALSKI_API_TOKEN") or None


def is_api_url(url: str) -> bool:
    """Whether there could be a node at this URL, by its form alone."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # a port that is none, brackets that don't close
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
