"""Which bytes an event's body speaks for.

Attachments ride beside events and are covered by no chain: what makes them the author's is that
the signed body names their hash and size. This is the one place that knows which bodies do.
"""

from __future__ import annotations

import hashlib

import msgspec

from .codec import decode_body
from .events import TaskCompleted, TaskFailed, TaskSubmitted
from .ids import HASH_SIZE_BYTES
from .tasks import decode_spec


class NamedBytes(msgspec.Struct, frozen=True):
    """What a body says of the bytes beside it."""

    hash: bytes
    size_bytes: int

    def matches(self, attachment: bytes) -> bool:
        """Whether these are the bytes."""
        return (
            len(attachment) == self.size_bytes and hashlib.sha256(attachment).digest() == self.hash
        )


CARRIERS = frozenset({"TaskSubmitted", "TaskCompleted", "TaskFailed"})
"""The kinds whose bodies name bytes."""


def named_bytes(kind: str, body: bytes) -> NamedBytes | None:
    """What the body names; None where it names nothing, names a blob, or can't be read. Never
    raises.
    """
    if kind not in CARRIERS:
        return None
    said = decode_body(kind, body)
    if isinstance(said, TaskSubmitted):
        spec = decode_spec(said.spec)
        if spec is None:
            return None
        named = NamedBytes(spec.payload_hash, spec.payload_size_bytes)
    elif isinstance(said, TaskCompleted | TaskFailed) and not said.is_blob:
        named = NamedBytes(said.result_hash, said.result_size_bytes)
    else:
        return None
    return named if len(named.hash) == HASH_SIZE_BYTES else None
