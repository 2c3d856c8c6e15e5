"""What was compiled once is not compiled again: a folder of programs by the hash of their source.

Each was made in the sandbox from exactly the source, compiler and options that its name is the hash
of, and sent out before any of it ran, so no program can put another's here. The folder is the
node's own and is no ledger: what is lost is compiled again.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from kowalski_executors.limits import MEBIBYTE

KEPT_BYTES_MAX: Final = 512 * MEBIBYTE
"""Of all programs together; those that were not used for longest go first."""


_DIGEST_BYTES: Final = 32
"""Each file begins with the digest of the rest."""


class Compiled:
    """The compiled programs of a device."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> bytes | None:
        """The program of this key, if it is here."""
        path = self._folder / key
        with suppress(OSError):
            kept = path.read_bytes()
            program = kept[_DIGEST_BYTES:]
            if kept[:_DIGEST_BYTES] == hashlib.sha256(program).digest():
                os.utime(path)
                return program
            path.unlink()  # as a power cut leaves it
        return None

    def put(self, key: str, program: bytes) -> None:
        """Keeps a program, as far as there is room on the disk."""
        part = self._folder / f"{secrets.token_hex(8)}.part"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.write_bytes(hashlib.sha256(program).digest() + program)
            part.replace(self._folder / key)
            self._make_room()
        except OSError:
            with suppress(OSError):
                part.unlink()

    def _make_room(self) -> None:
        kept = sorted(
            ((path.stat(), path) for path in self._folder.iterdir()),
            key=lambda found: found[0].st_mtime,
        )
        size_bytes = sum(state.st_size for state, _ in kept)
        for state, path in kept:
            if size_bytes <= KEPT_BYTES_MAX:
                return
            path.unlink(missing_ok=True)
            size_bytes -= state.st_size
