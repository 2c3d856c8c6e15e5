"""Many signatures checked at once, on all cores.

Checking one takes 65 to 200 µs outside the interpreter's lock, so threads share the work while
the caller goes on reading.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from kowalski_protocol.feeds import Feed, Verify, signed_message
from kowalski_protocol.ids import EventHash

_BATCH: Final = 128
_THREADS_MAX: Final = 8

_Item = tuple[Feed, int, bytes, EventHash]


class SignatureCheck:
    """Takes signatures in and says which were not their author's."""

    def __init__(self, verifier: Verify) -> None:
        self.good = 0
        """How many verified, once `finish` was called."""
        self._verifier = verifier
        self._threads = min(_THREADS_MAX, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="signatures")
        self._batch: list[_Item] = []
        self._running: deque[Future[list[tuple[Feed, int] | None]]] = deque()
        self._bad: list[tuple[Feed, int]] = []

    def add(self, feed: Feed, seq: int, signature: bytes, hash: EventHash) -> None:
        """Takes in the signature over one event."""
        self._batch.append((feed, seq, signature, hash))
        if len(self._batch) >= _BATCH:
            self._start()

    def _start(self) -> None:
        self._running.append(self._pool.submit(self._check, self._batch))
        self._batch = []
        while len(self._running) > 4 * self._threads:
            self._collect()

    def _check(self, batch: list[_Item]) -> list[tuple[Feed, int] | None]:
        verifier = self._verifier
        return [
            None if verifier(feed.author, signature, signed_message(hash)) else (feed, seq)
            for feed, seq, signature, hash in batch
        ]

    def _collect(self) -> None:
        for bad in self._running.popleft().result():
            if bad is None:
                self.good += 1
            else:
                self._bad.append(bad)

    def finish(self) -> list[tuple[Feed, int]]:
        """Waits for all; returns where signatures are bad, in the order in which they were taken
        in.
        """
        self._start()
        while self._running:
            self._collect()
        return self._bad

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)
