"""Planted bugs: small mutations of the core that only the simulator can turn on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

BUGS: dict[str, str] = {}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Within the block the core has this bug; None: it has none of ours."""
    assert name is None
    yield
