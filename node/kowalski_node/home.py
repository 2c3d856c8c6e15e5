"""The node's folder on its device: the key, the lock, the ledger, the blobs.

One process at a time uses a home folder; the lock is the operating system's, so it goes with the
process however that ends. The key file is readable by its owner alone, and a node whose key others
can read refuses to start: the key is the device.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import sys
import tomllib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kowalski_protocol.errors import Problem
from kowalski_protocol.identity import SEED_SIZE_BYTES, Identity

KEY_FILE = "identity.key"
LEDGER_FILE = "ledger.db"
LOCK_FILE = "lock"


def home_at(text: str) -> Path:
    """The folder that a person named, as an absolute path; raises Problem home_unusable.

    Absolute from here on: running code gets folders below it as HOME and TMPDIR, and whoever
    changes the working directory must not move them.
    """
    try:
        return Path(text).expanduser().absolute()
    except (OSError, RuntimeError):  # no working directory, no such user
        raise Problem("home_unusable", f"There is no way from here to {text!r}.") from None


def default_home() -> Path:
    """KOWALSKI_HOME, else the platform's folder for user data."""
    chosen = os.environ.get("KOWALSKI_HOME")
    if chosen:
        return home_at(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "kowalski"
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    # A relative one is to be ignored, as the specification of these variables says.
    return (data if data.is_absolute() else Path.home() / ".local" / "share") / "kowalski"


class Home:
    """A home folder in use. Entering locks it; leaving lets it go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def ledger(self) -> Path:
        """The SQLite file."""
        return self.path / LEDGER_FILE

    @property
    def blobs(self) -> Path:
        """The folder of blobs."""
        return self.path / "blobs"

    @property
    def work(self) -> Path:
        """Where running code has its folders."""
        return self.path / "work"

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Problem(
                "home_unusable", f"The home folder {self.path} can't be used: {error.strerror}."
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise Problem(
                "home_locked",
                f"Another process uses {self.path}; give this node a home of its own with --home.",
                mend="kowalski status",
            ) from None
        self._lock = lock
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def identity(self) -> Identity:
        """The device's key pair, drawn at the first start."""
        path = self.path / KEY_FILE
        try:
            return self._read_key(path) if path.exists() else self._draw_key(path)
        except OSError as error:
            raise Problem(
                "home_unusable", f"The key file {path} can't be used: {error.strerror}."
            ) from None

    def _read_key(self, path: Path) -> Identity:
        found = path.stat().st_mode
        if not stat.S_ISREG(found):
            raise Problem("home_unusable", f"{path} is not a file, so it does not hold a key.")
        mode = stat.S_IMODE(found)
        if mode & 0o077:
            raise Problem(
                "key_exposed",
                f"Others on this device may read {path} (mode {mode:o}), and whoever has the key"
                " is this device.",
                mend=f"chmod 600 {path}",
            )
        text = path.read_text(encoding="ascii", errors="replace").strip()
        try:
            seed = bytes.fromhex(text)
        except ValueError:
            seed = b""
        if len(seed) != SEED_SIZE_BYTES:
            raise Problem("home_unusable", f"{path} does not hold a key of 64 hexadecimal digits.")
        return Identity(seed)

    def _draw_key(self, path: Path) -> Identity:
        seed = secrets.token_bytes(SEED_SIZE_BYTES)
        draft = path.with_suffix(".new")
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, seed.hex().encode() + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
        draft.replace(path)
        return Identity(seed)

    def settings(self) -> dict[str, Any]:
        """What `config.toml` says; empty where there is none."""
        path = self.path / "config.toml"
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:  # also what int() does not take
            raise Problem("home_unusable", f"{path} can't be read: {error}.") from None
