"""The port for members, where the owner named none: the one of the last start, else the default.

It is only where the search begins. What is free is found out by listening (network/sockets.py), and
what was found is kept, so that members find a device at the address that they remember.
"""

from __future__ import annotations

import logging
from pathlib import Path

from .addresses import PEER_PORT

PORT_FILE = "port"

_log = logging.getLogger("kowalski.start")


def listen_addresses(home: Path) -> tuple[str, ...]:
    """All interfaces, on the port of the last start or the default one."""
    try:
        port = int((home / PORT_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        port = 0
    if not 0 < port < 65536:
        port = PEER_PORT
    return (f"/ip4/0.0.0.0/tcp/{port}", f"/ip6/::/tcp/{port}")


def keep_port(home: Path, port: int) -> None:
    """The next start begins with this port; where that can't be written it begins as this one."""
    try:
        (home / PORT_FILE).write_text(f"{port}\n", encoding="ascii")
    except OSError as error:
        _log.warning("the port is not kept: %s", error.strerror)
