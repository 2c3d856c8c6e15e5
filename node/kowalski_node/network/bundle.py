"""Several items in one gossip message, and one item as it is.

py-libp2p spends about a millisecond on a gossip message whatever its size, so items that wait
together go out together. A single item travels bare, so any gossipsub program publishes one by
publishing its bytes. A bundle is told apart by its first byte, 0xC1, the one byte that msgpack
never uses; then each item with its length (4 bytes, big-endian) before it. An item that itself
begins with 0xC1, or is empty, is sent as a bundle of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

MARK: Final = b"\xc1"
LENGTH_BYTES: Final = 4


def bundled(items: Sequence[bytes]) -> bytes:
    """One gossip message with all `items`, of which there is at least one."""
    assert items
    if len(items) == 1 and items[0] and not items[0].startswith(MARK):
        return items[0]
    parts = [MARK]
    for item in items:
        parts.append(len(item).to_bytes(LENGTH_BYTES, "big"))
        parts.append(item)
    return b"".join(parts)


def unbundled(message: bytes) -> Iterator[bytes]:
    """The items of a gossip message; those before the mistake where a bundle is malformed."""
    if not message.startswith(MARK):
        yield message
        return
    position = len(MARK)
    while position + LENGTH_BYTES <= len(message):
        start = position + LENGTH_BYTES
        position = start + int.from_bytes(message[start - LENGTH_BYTES : start], "big")
        if position > len(message):
            return
        yield message[start:position]
