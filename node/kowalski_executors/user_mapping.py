"""Gives each sandbox of a node that runs as root a user of its own that owns nothing.

bubblewrap maps the user who starts it into the sandbox. For an ordinary user that is right. For
root it means that the program is still the machine's user 0: every file of root's that is ever in
view is its own, and the kernel holds the number of its processes to no limit, since user 0 is
exempt from RLIMIT_NPROC. So a node that runs as root makes one user namespace in which the
sandbox's users stand for a range of high, unused numbers, and gives each sandbox that runs another
one of them: each program that starts cold, and the one sandbox in which warm ones are forked.
bubblewrap joins that namespace as user 0 (mapped to `_OWNER_ID`, so that it can still look up what
it binds), switches to the program's user and drops all capabilities. The kernel counts processes
per namespace and user, so each program has a count of its own.

Where the namespace can't be made (root in a container without CAP_SETUID), bubblewrap's ordinary
mapping is used; the watch in `usage.py` then counts the processes.
"""

from __future__ import annotations

import os
import subprocess
import weakref
from collections import deque
from pathlib import Path
from typing import Final

SANDBOX_ID: Final = 1000
"""The user and group number that a program sees as its own, where only one is mapped."""

_FIRST_HOST_ID: Final = 1_946_157_056
"""Far above the ranges that distributions, systemd and containers hand out, below 2^31."""

_USERS: Final = 1024
"""Programs that can run at once under numbers of their own."""

_OWNER_ID: Final = 65_000
"""What the machine's user 0 is called inside. It must not be 0: leaving user 0 would drop the
capabilities that bubblewrap needs for the rest of its set-up."""

_UNSHARE: Final = (
    "import ctypes, os\n"
    "os.write(1, b'y' if ctypes.CDLL(None).unshare(0x10000000) == 0 else b'n')\n"  # CLONE_NEWUSER
    "os.read(0, 1)\n"
)


class UserMapping:
    """A user namespace whose users own nothing outside it. The descriptor keeps it alive."""

    def __init__(self, namespace: int) -> None:
        self.namespace = namespace
        weakref.finalize(self, os.close, namespace)
        self._free = deque(range(SANDBOX_ID, SANDBOX_ID + _USERS))

    def take(self) -> int | None:
        """Returns a user number that no running program has, or None where all are taken."""
        return self._free.popleft() if self._free else None

    def give_back(self, user: int) -> None:
        """Makes a number free again; all processes under it must have ended."""
        self._free.append(user)


def make_user_mapping(interpreter: Path) -> UserMapping | None:
    """Makes the namespace, in about 30 ms; returns None where this process may not.

    A namespace begins with a process, so a short-lived one makes it, is given its maps, and ends.
    """
    if os.geteuid() != 0:
        return None
    process = subprocess.Popen(
        [interpreter, "-I", "-S", "-B", "-c", _UNSHARE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.read(1) != b"y":
            return None
        folder = Path("/proc", str(process.pid))
        for name in ("uid_map", "gid_map"):
            # One write: the kernel takes a map once and whole.
            (folder / name).write_text(
                f"{SANDBOX_ID} {_FIRST_HOST_ID} {_USERS}\n{_OWNER_ID} 0 1\n", encoding="ascii"
            )
        return UserMapping(os.open(folder / "ns" / "user", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return None
    finally:
        process.kill()
        process.stdin.close()
        process.stdout.close()
        process.wait()
