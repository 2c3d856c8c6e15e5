"""Ending what an answer is read from, together with the answer.

A node hands out bytes and events as asynchronous generators, which hold files and subscriptions.
One that is left in the middle would keep them until the garbage collector comes by.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from starlette.types import Send

T = TypeVar("T")


@asynccontextmanager
async def closing(source: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """The source, closed at the end of the context where it is a generator."""
    try:
        yield source
    finally:
        close: Callable[[], Awaitable[None]] | None = getattr(source, "aclose", None)
        if close is not None:
            await close()


class ClosingResponse(StreamingResponse):
    """A streamed answer that closes its source however it ends."""

    async def stream_response(self, send: Send) -> None:
        source: Any = self.body_iterator
        async with closing(source):
            await super().stream_response(send)
