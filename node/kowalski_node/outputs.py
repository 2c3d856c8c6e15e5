"""What lies on other devices and is wanted here: the output of a running attempt, and blobs.

Output is asked for piece by piece from the device that runs the attempt; a blob is fetched from
whichever connected member has it, straight into this device's store, where its hash is checked.
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

from .blobs import Blobs
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
        """A local file with the blob, fetched if need be; Problem not_found where nobody has it."""
        await self.bring_blob(blob_hash)
        path = self._blobs.path(blob_hash)
        if path is None:
            raise Problem("not_found", f"No live member has the blob {blob_hash[:12]}…")
        return path

    async def bring_blob(self, blob_hash: str, first: Author | None = None) -> bool:
        """Makes sure a blob is here; asks `first`, then every connected member. False: nobody has
        it.
        """
        while True:
            if self._blobs.path(blob_hash) is not None:
                return True
            under_way = self._bringing.get(blob_hash)
            if under_way is None:
                break
            await under_way.wait()
        done = self._bringing[blob_hash] = trio.Event()
        try:
            connected: list[bytes] = list(self._network().connected())
            connected.sort(key=lambda peer: peer != first)
            for peer in connected:
                if await self._fetch(peer, blob_hash):
                    return True
            return False
        finally:
            del self._bringing[blob_hash]
            done.set()

    async def _fetch(self, peer: bytes, blob_hash: str) -> bool:
        try:
            async with self._network().fetch_blob(peer, bytes.fromhex(blob_hash), 0) as blob:
                await self._blobs.store(blob.__aiter__(), expected=blob_hash)
        except NetworkError:
            return False
        except Problem as problem:
            if problem.code == "disk_full":
                raise
            return False
        return True
