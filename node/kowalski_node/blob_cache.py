"""What this device keeps of other devices' blobs: a folder with a quota, its oldest thrown away.

What lies here can be fetched again, so it may go; what this device made or was given lies one
folder up and never goes. No table says when a blob was used last: that is its file's modification
time, set anew at each use, so that it is as durable as the file and can't contradict it. The rest
of a transfer that broke (`HASH.part`) lies here too and is thrown away by the same rule, or once
it is `PART_AGE_S` old.

A file that is open can be thrown away: its reader keeps it. Who only has a path would lose it, so
whoever hands a path out holds the name for as long as the path is used. What looks through the
folder is for a worker thread; several may do so at once.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

MEBIBYTE: Final = 1024 * 1024
GIBIBYTE: Final = 1024 * MEBIBYTE
PART: Final = ".part"
QUOTA_SHARE: Final = 4
"""The cache takes a quarter of what it and the free disk are together: it gives way as the disk
fills, and leaves three times as much to whoever owns the device."""
QUOTA_BYTES_MIN: Final = 64 * MEBIBYTE
"""A few large results fit, however full the disk is."""
QUOTA_BYTES_MAX: Final = 64 * GIBIBYTE
"""One blob of the largest size; more is a mirror and not a cache."""
RESERVE_BYTES: Final = 256 * MEBIBYTE
"""Of the disk, kept free of large blobs, so that the ledger can be written on."""
PART_AGE_S: Final = 7 * 86400.0
"""The longest that an attempt may run, and so ask for its blob again."""

Held = Callable[[], bool]
"""Whether the path that was handed out is still in use."""


class Entry(NamedTuple):
    """One file of the cache."""

    used_ns: int
    name: str
    size_bytes: int


class BlobCache:
    """A folder of blobs and parts that may be thrown away. `quota_bytes` None: by the disk."""

    def __init__(self, folder: Path, quota_bytes: int | None = None) -> None:
        self._folder = folder
        self._quota_bytes = quota_bytes
        self._lock = threading.Lock()
        self._held: dict[str, list[Held]] = {}
        self._used_ns = 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def place(self, blob_hash: str) -> Path:
        """Where a blob of this name lies, if it does."""
        return self._folder / blob_hash

    def part(self, blob_hash: str) -> Path:
        """Where the beginning of a blob lies, if it does."""
        return self._folder / (blob_hash + PART)

    def use(self, path: Path) -> None:
        """The file has been used now; nothing where it isn't there."""
        with suppress(FileNotFoundError):
            # Two uses within one tick of the clock are two, and a clock that was set back is none.
            self._used_ns = max(self._used_ns + 1, time.time_ns())
            os.utime(path, ns=(self._used_ns, self._used_ns))

    def hold(self, name: str, held: Held) -> None:
        """The file of this name, here already or still to come, stays while `held` is true."""
        with self._lock:
            for other in list(self._held):
                self._is_held(other)
            self._held.setdefault(name, []).append(held)

    def _is_held(self, name: str) -> bool:
        still = [held for held in self._held.pop(name, ()) if held()]
        if still:
            self._held[name] = still
        return bool(still)

    def entries(self) -> list[Entry]:
        """All files, the least recently used first."""
        found: list[Entry] = []
        with os.scandir(self._folder) as listed:
            for item in listed:
                with suppress(FileNotFoundError):
                    stat = item.stat(follow_symlinks=False)
                    found.append(Entry(stat.st_mtime_ns, item.name, stat.st_size))
        return sorted(found)

    def quota_bytes(self, kept_bytes: int) -> int:
        """How much may lie here, where `kept_bytes` do."""
        if self._quota_bytes is not None:
            return self._quota_bytes
        share = (self.free_bytes() + kept_bytes) // QUOTA_SHARE
        return min(max(share, QUOTA_BYTES_MIN), QUOTA_BYTES_MAX)

    def free_bytes(self) -> int:
        """What the disk has for this user."""
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize

    def could_spare_bytes(self) -> int:
        """How much could be written at most, were all thrown away that may go."""
        entries = self.entries()
        with self._lock:
            may_go = sum(entry.size_bytes for entry in entries if not self._is_held(entry.name))
        return max(0, self.free_bytes() + may_go - RESERVE_BYTES)

    def sweep(self) -> None:
        """Parts that nobody will go on with are gone, and the quota is kept."""
        too_old_ns = time.time_ns() - int(PART_AGE_S * 1e9)
        for entry in self.entries():
            if entry.name.endswith(PART) and entry.used_ns < too_old_ns:
                self._remove(entry)
        self.make_room(0)

    def make_room(self, size_bytes: int) -> None:
        """So many bytes more fit into the quota, or nothing is left that may go."""
        entries = self.entries()
        kept_bytes = sum(entry.size_bytes for entry in entries)
        goal_bytes = self.quota_bytes(kept_bytes) - size_bytes
        for entry in entries:
            if kept_bytes <= goal_bytes:
                return
            if self._remove(entry):
                kept_bytes -= entry.size_bytes

    def spare(self, size_bytes: int) -> bool:
        """Whether so many bytes more leave the disk its reserve, after throwing away what it
        takes."""
        wanted_bytes = size_bytes + RESERVE_BYTES
        if self.free_bytes() < wanted_bytes:
            for entry in self.entries():
                if self._remove(entry) and self.free_bytes() >= wanted_bytes:
                    break
        return self.free_bytes() >= wanted_bytes

    def _remove(self, entry: Entry) -> bool:
        """Whether the file is gone. A reader that has it open keeps it."""
        path = self._folder / entry.name
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            with self._lock:
                if self._is_held(entry.name) or os.fstat(file).st_mtime_ns != entry.used_ns:
                    return False  # somebody has just come to need it
                path.unlink(missing_ok=True)
        finally:
            # Giving the space back takes long for a large file: here, where nobody waits for it.
            os.close(file)
        return True
