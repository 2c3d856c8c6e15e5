"""The libp2p layer: the only place in Kowalski that imports libp2p.

What the rest of the node sees is `Network` (members' connections, lanes, gossip, pulls, blobs),
the small `JoinListener` with `ask_to_join`, and the plain types of `interface`. Importing this
package costs nothing: libp2p itself takes about half a second and 60 MiB, so what needs it is
loaded when it is first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .interface import (
    Blob,
    BlobTooShort,
    Handler,
    NetworkError,
    NetworkOptions,
    PeerLied,
    Traffic,
)

if TYPE_CHECKING:
    from .join_listener import JoinListener, ask_to_join
    from .network import Network

__all__ = [
    "Blob",
    "BlobTooShort",
    "Handler",
    "JoinListener",
    "Network",
    "NetworkError",
    "NetworkOptions",
    "PeerLied",
    "Traffic",
    "ask_to_join",
]


def __getattr__(name: str) -> Any:
    if name == "Network":
        from .network import Network

        return Network
    if name in ("JoinListener", "ask_to_join"):
        from . import join_listener

        return getattr(join_listener, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
