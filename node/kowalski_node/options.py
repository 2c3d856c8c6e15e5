"""What the owner of a device chose for its node, complete and checked."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kowalski_protocol.limits import LAN, Timers


class NodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `kowalski-node`, after flags, environment, config file and defaults."""

    home: Path
    name: str
    listen: tuple[str, ...]
    """Multiaddrs."""
    ports_tried: int = 1
    """How many port numbers may be tried, from those of `listen` upwards; 1 where the owner named
    them.
    """
    peers: tuple[str, ...] = ()
    join: str | None = None
    api_host: str = "127.0.0.1"
    api_port: int = 52420
    api_token: str | None = None
    slots: int | None = None
    labels: dict[str, str] = {}
    run: tuple[str, ...] | None = None
    """The task kinds to take; None: all that the device can."""
    costs: dict[str, float] = {}
    mdns: bool = True
    unsandboxed: bool = False
    archive: bool = False
    timers: Timers = LAN
