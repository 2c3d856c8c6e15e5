"""How a running batch is stopped: the first Ctrl-C or SIGTERM asks, the second leaves.

A handler only sets a flag. Where it interrupts the program is anybody's guess, so that nothing may
be printed or locked there; the run looks at the flag at least every half second.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody wants the batch to stop."""

    def __init__(self) -> None:
        self.wanted = False

    def ask(self, number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
        """Notes the first time; raises KeyboardInterrupt the second."""
        del number, frame
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hears signals; one that is ignored, as under nohup, stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python gives signals to the main thread alone
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        heard = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
        for number in heard:
            signal.signal(number, self.ask)
        try:
            yield
        finally:
            for number in heard:
                signal.signal(number, before[number])
