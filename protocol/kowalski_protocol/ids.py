"""The names of things, as types, so that a hash can't be handed in where a key is asked for.

Everything on the wire is raw bytes; people see peer IDs and lower-case hex. A task's id is 16 bytes
of a SHA-256, all other hashes are whole.
"""

from __future__ import annotations

from typing import Final, NewType

Author = NewType("Author", bytes)
"""A member: its 32-byte Ed25519 public key. Surfaces show it as a libp2p peer ID."""

ClusterId = NewType("ClusterId", bytes)
"""32 bytes: the hash of the cluster's `ClusterFounded` body."""

EventHash = NewType("EventHash", bytes)
"""32 bytes: an event's place in its feed (see `feeds`). It names attempts, claims and tenures."""

TaskId = NewType("TaskId", bytes)
"""16 bytes: see `tasks.task_id`."""

BlobHash = NewType("BlobHash", bytes)
"""32 bytes: the SHA-256 of a blob's bytes."""

HASH_SIZE_BYTES: Final = 32
TASK_ID_SIZE_BYTES: Final = 16
