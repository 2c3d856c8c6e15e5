"""What a simulated device asks of others and waits for: ranges of feeds, and blobs.

Each request ends in any case, as the shell's do: by its answer, by a closed connection, by its
time. One that was made in an earlier life of the process is nobody's any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.feeds import encode_frame
from kowalski_protocol.ids import Author

from .disk import done

if TYPE_CHECKING:
    from .device import Device

BLOB_RETRY_S = 0.1
BLOB_TIMEOUT_S = 10.0

Number = tuple[int, int]
"""(life of the process, which request of it)"""


class Requests:
    """The requests of one device that have not ended."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._pulls: dict[Number, fx.Pull] = {}
        self._fetches: dict[Number, fx.FetchBlob] = {}
        self._count = 0

    def clear(self) -> None:
        """The process has ended."""
        self._pulls.clear()
        self._fetches.clear()

    def _next(self) -> Number:
        self._count += 1
        return self._device.life, self._count

    # Ranges.

    def pull(self, pull: fx.Pull) -> None:
        """Asks a member for what follows in a feed."""
        device, wire = self._device, self._device.world.wire
        number = self._next()
        self._pulls[number] = pull
        station = wire.stations.get(pull.peer)
        wait_s = device.world.timers.pull_timeout_s
        if station is None or not wire.send(
            device.author, pull.peer, 100, station.serve, device, number, pull
        ):
            wait_s = 0.0
        device.world.agenda.after(wait_s, self._pull_over, number, None)

    def serve(self, asker: Device, number: Number, pull: fx.Pull) -> None:
        """Answers a member with as much as fits one answer."""
        device = self._device
        limits = device.core.config.limits
        size_bytes_max = limits.pull_size_bytes_max // 2
        events = done(
            device.store.read_range(
                pull.feed, pull.after_seq, size_bytes_max, limits.frame_events_max
            )
        )
        frames = (encode_frame(device.world.cluster, events),) if events else ()
        size_bytes = sum(map(len, frames))
        over = asker.requests.pull_over
        device.world.wire.send(device.author, asker.author, size_bytes, over, number, frames)

    def pull_over(self, number: Number, frames: tuple[bytes, ...]) -> None:
        """An answer has come; the process takes it in when it runs."""
        self._device.do(self._pull_over, number, frames)

    def _pull_over(self, number: Number, frames: tuple[bytes, ...] | None) -> None:
        pull = self._pulls.pop(number, None)
        if pull is not None:
            self._device.give(ins.PullEnded(pull.peer, pull.feed, frames))

    def peer_gone(self, peer: Author) -> None:
        """A connection has closed, and with it what was asked on it."""
        for number, pull in list(self._pulls.items()):
            if pull.peer == peer:
                self._pull_over(number, None)
        for number, fetch in list(self._fetches.items()):
            if fetch.device == peer:
                self.fetch_over(number, False)

    # Blobs.

    def fetch(self, fetch: fx.FetchBlob) -> None:
        """Brings a blob here from the device that has it."""
        device, wire = self._device, self._device.world.wire
        number = self._next()
        self._fetches[number] = fetch
        station = wire.stations.get(fetch.device)
        wait_s = BLOB_TIMEOUT_S
        if station is None or not wire.send(
            device.author, fetch.device, 100, station.serve_blob, device, number, fetch
        ):
            wait_s = BLOB_RETRY_S
        device.world.agenda.after(wait_s, self.fetch_over, number, False)

    def serve_blob(self, asker: Device, number: Number, fetch: fx.FetchBlob) -> None:
        """Sends a blob, or that it is not here."""
        device = self._device
        has = fetch.blob in device.blobs
        over = asker.requests.fetch_over
        device.world.wire.send(device.author, asker.author, 1 << 17, over, number, has)

    def fetch_over(self, number: Number, ok: bool) -> None:
        """A fetch has ended."""
        fetch = self._fetches.pop(number, None)
        if fetch is not None:
            if ok:
                self._device.blobs.add(fetch.blob)
            self._device.give(ins.BlobArrived(fetch.blob, fetch.task, ok))
