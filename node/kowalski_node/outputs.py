"""What lies on other devices and is wanted here: the output of a running attempt, and blobs.

Output is asked for piece by piece from the device that runs the attempt; a blob is fetched from
whichever connected members have it, straight into this device's store (see `blob_fetches`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import trio

from kowalski_protocol.codec import Malformed, encode
from kowalski_protocol.errors import Problem
from kowalski_protocol.ids import Author, EventHash
from kowalski_protocol.messages import Output, OutputRequest, decode_output

from .blob_fetches import BlobFetches
from .blobs import Blobs, is_blob_hash
from .network import NetworkError
from .runner import Runner
from .views import OutputChunk

POLL_S = 0.2
REQUEST_TIMEOUT_S = 5.0


class Outputs:
    """Reads output and blobs, wherever they are."""

    def __init__(
        self, self_: Author, runner: Runner, blobs: Blobs, network: Callable[[], Any]
    ) -> None:
        self._self = self_
        self._runner = runner
        self._blobs = blobs
        self._network = network
        self._fetches = BlobFetches(blobs, network)
        self._bringing: dict[str, trio.Event] = {}

    def answer(self, request: OutputRequest) -> Output:
        """What is kept here of an attempt's output."""
        window = self._runner.outputs.get(EventHash(request.attempt))
        if window is None:
            return Output(False, request.offset, [], False)
        return Output(True, window.end, window.after(request.offset), window.running)

    async def read(
        self, device: Author, attempt: EventHash, *, follow: bool
    ) -> AsyncIterator[OutputChunk]:
        """An attempt's output from its beginning, as far as it is kept.

        With `follow` to its end.
        """
        offset = 0
        while True:
            output = await self._ask(device, attempt, offset)
            if output is None or not output.known:
                return
            for stream, data in output.chunks:
                yield OutputChunk(stream, data.decode("utf-8", "replace"), offset)
            offset = output.offset
            if not follow or not output.running:
                return
            window = self._runner.outputs.get(attempt)
            if window is not None:
                await window.changed()
            else:
                await trio.sleep(POLL_S)

    async def _ask(self, device: Author, attempt: EventHash, offset: int) -> Output | None:
        request = OutputRequest(attempt, offset)
        if device == self._self:
            return self.answer(request)
        try:
            data = await self._network().request(device, encode(request), REQUEST_TIMEOUT_S)
            return decode_output(data)
        except (NetworkError, Malformed):
            return None

    async def open_blob(self, blob_hash: str) -> Path:
        """A local file with the blob, fetched if need be; Problem not_found where nobody has it.

        It stays at least until every attempt that runs now has ended, whichever of them asks.
        """
        running = [window for window in self._runner.outputs.values() if window.running]
        if is_blob_hash(blob_hash):
            # Before it is brought, so that there is no moment in which it could be thrown away.
            self._blobs.hold(blob_hash, lambda: any(window.running for window in running))
        await self.bring_blob(blob_hash)
        path = self._blobs.path(blob_hash)
        if path is None:
            raise Problem("not_found", f"No live member has the blob {blob_hash[:12]}…")
        return path

    async def bring_blob(self, blob_hash: str, first: Author | None = None) -> bool:
        """Makes sure a blob is here; False: nobody has it. Raises Problem disk_full.

        `first` is the device whose result the blob is, where it belongs to a task of this device's:
        that one is asked first, and the blob is kept for good.
        """
        while True:
            if self._blobs.path(blob_hash) is not None and (
                first is None or await self._blobs.pin(blob_hash)
            ):
                return True
            under_way = self._bringing.get(blob_hash)
            if under_way is None:
                break
            await under_way.wait()
        done = self._bringing[blob_hash] = trio.Event()
        try:
            return await self._fetches.fetch(blob_hash, first, pinned=first is not None)
        finally:
            del self._bringing[blob_hash]
            done.set()
