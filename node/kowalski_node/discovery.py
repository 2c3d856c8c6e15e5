"""How nodes of one network find each other without being told: discovery, as the node sees it.

While the context is open, this node is advertised and `found` is called on trio's thread for
adverts of others: each new one, each change, each return after a restart or a silence, at a bounded
rate. An advert is a hint where to dial and grants nothing (see `adverts`), and nothing here ever
says that a node is gone: on a network without authentication, silence and goodbyes prove nothing.

Two parts do the work: a thread that speaks multicast DNS (`multicast`) puts adverts into a bounded
book (`adverts.AdvertBook`), and one task here tells the node what is due. Where multicast can't be
spoken, the context opens all the same, `problem` says why, and the thread tries again.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Final, Self

import msgspec
import trio

from .addresses import InterfaceAddress
from .adverts import Advert, AdvertBook
from .interfaces import interface_addresses
from .multicast import CHECK_S, Announcement, Multicast

STOP_S: Final = 1.0
"""How long leaving waits for the goodbye to be sent; then the thread is left to end by itself."""

__all__ = ["Advert", "Discovery"]


class Discovery:
    """Advertises this node on its networks and tells of others, for as long as its context is open.

    Args:
        peer: this node's peer ID.
        cluster: its cluster's id; only a short hash of it is sent.
        port: the TCP port on which it listens for members.
        name: what people call the device.
        found: called on trio's thread with each advert; must not block and must not raise.
        hosts: lists the addresses to advertise; all of the device's by default.
        check_s: how soon a change of these is noticed.
    """

    def __init__(
        self,
        *,
        peer: str,
        cluster: bytes,
        port: int,
        name: str,
        found: Callable[[Advert], None],
        hosts: Callable[[], tuple[InterfaceAddress, ...]] = interface_addresses,
        check_s: float = CHECK_S,
    ) -> None:
        self._announcement = Announcement(
            peer=peer, cluster=cluster, port=port, name=name, boot=secrets.token_hex(4)
        )
        self._found = found
        self._lock = threading.Lock()
        self._book = AdvertBook()
        self._multicast = Multicast(
            self._announcement,
            heard=self._hear,
            trouble=self._note,
            hosts=hosts,
            check_s=check_s,
        )
        self._problem: str | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._news = trio.Event()
        self._ended = trio.Event()
        self._context: AbstractAsyncContextManager[None] | None = None

    @property
    def problem(self) -> str | None:
        """Why this node can neither be found nor find others now, as a sentence; None if it can."""
        return self._problem

    def update(
        self, *, port: int | None = None, cluster: bytes | None = None, name: str | None = None
    ) -> None:
        """Advertises another port, cluster or name from now on; what is not given stays."""
        old = self._announcement
        self._announcement = msgspec.structs.replace(
            old,
            port=old.port if port is None else port,
            cluster=old.cluster if cluster is None else cluster,
            name=old.name if name is None else name,
        )
        self._multicast.update(self._announcement)

    async def __aenter__(self) -> Self:
        self._context = self._running()
        await self._context.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        assert self._context is not None
        return await self._context.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None, None]:
        self._token = trio.lowlevel.current_trio_token()
        thread_scope = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._speak, thread_scope)
            nursery.start_soon(self._tell)
            try:
                yield
            finally:
                self._multicast.stop()
                # Shielded, so that a cancelled node says goodbye too, and bounded, so that a
                # network that hangs can't keep it from ending.
                with trio.move_on_after(STOP_S, shield=True):
                    await self._ended.wait()
                thread_scope.cancel()
                nursery.cancel_scope.cancel()

    async def _speak(self, scope: trio.CancelScope) -> None:
        """Runs the thread. Its own limiter: it must not hold one of the threads that all share."""
        with scope:
            await trio.to_thread.run_sync(
                self._multicast.run, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
            )
        self._ended.set()

    async def _tell(self) -> None:
        """Tells the node what is due, then waits for news or for what had to wait."""
        while True:
            self._news = trio.Event()
            with self._lock:
                adverts, again_s = self._book.due(trio.current_time())
            for advert in adverts:
                self._found(advert)
            with trio.move_on_at(float("inf") if again_s is None else again_s):
                await self._news.wait()

    def _hear(self, advert: Advert) -> None:
        """Called on the thread: one entry in a bounded book, and one wake-up however many come."""
        with self._lock:
            self._book.offer(advert)
        assert self._token is not None
        try:
            self._token.run_sync_soon(self._wake, idempotent=True)
        except trio.RunFinishedError:  # trio has ended; the thread is about to
            pass

    def _wake(self) -> None:
        self._news.set()

    def _note(self, problem: str | None) -> None:
        """Called on the thread; one attribute, so a reader sees the old sentence or the new one."""
        self._problem = problem
