"""The line between the node and a warden (see `warden.py`): while it is whole, the program may run.

It is a pair of sockets and not a pipe, because a word goes both ways: the node asks for an
interrupt, and the warden says when the signal has been sent. Until then nothing else may run in the
program's place, or the signal could reach the wrong thing.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def new_lifeline() -> tuple[int, int]:
    """The warden's end and the node's, which never blocks. Neither is inherited by itself."""
    theirs, mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    mine.setblocking(False)
    return theirs.detach(), mine.detach()


def ask_interrupt(end: int | None) -> int | None:
    """Asks over the node's end for an interrupt; see `confinement.Cell.interrupt`."""
    if end is None:
        return None
    with suppress(OSError):
        os.write(end, b"I")
        return end
    return None
