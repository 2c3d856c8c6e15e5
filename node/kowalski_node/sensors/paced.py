"""Reading slow sensors without ever waiting for them.

A driver can take seconds to answer and a wedged one never does; a file system over the network can
hang. So each slow source has a thread of its own, which reads only when somebody asked and at most
once per pace. Whoever asks gets the last value at once, until it is too old to be true, then
nothing. One source that hangs costs its own value and one sleeping thread, never the node's loop or
another's value.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

AGE_MAX_S: Final = 30.0
"""The least age bound, so that also one who asks twice a minute gets an answer."""

Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)


class Source(Protocol[Value_co]):
    """Something to read. `read` may block, and is called by one thread at a time.

    It returns None where there is nothing to say now. An OSError or ValueError that it lets through
    means the same."""

    @property
    def pace_s(self) -> float:
        """The least time between two reads."""
        ...

    def read(self) -> Value_co | None: ...


class Paced(Generic[Value]):
    """The last value of a source, kept fresh by being asked for."""

    def __init__(
        self, source: Source[Value], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._clock = clock
        self._state = threading.Condition()
        self._wanted = False
        self._closed = False
        self._reads = 0
        self._value: Value | None = None
        self._value_s = float("-inf")
        self._asked_s = float("-inf")
        self._thread: threading.Thread | None = None

    @property
    def age_max_s(self) -> float:
        """How old a value may be: after three missed reads the source hangs."""
        return max(AGE_MAX_S, 3 * self._source.pace_s)

    def latest(self) -> Value | None:
        """The newest value that is not too old, at once; asks for a newer one when it is due."""
        now_s = self._clock()
        with self._state:
            if (
                not self._wanted
                and not self._closed
                and now_s >= self._asked_s + self._source.pace_s
            ):
                self._asked_s = now_s
                self._wanted = True
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="kowalski-sensor", daemon=True
                    )
                    self._thread.start()
                self._state.notify_all()
            return self._value if now_s <= self._value_s + self.age_max_s else None

    def first(self, timeout_s: float) -> Value | None:
        """The value once it was read for the first time. Blocks, at most `timeout_s`."""
        self.latest()
        with self._state:
            self._state.wait_for(lambda: self._reads > 0 or self._closed, timeout_s)
        return self.latest()

    def close(self) -> None:
        """Lets the thread end, at once or when its read returns."""
        with self._state:
            self._closed = True
            self._state.notify_all()

    def _run(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._wanted or self._closed)
                if self._closed:
                    return
            try:
                value = self._source.read()
            except (OSError, ValueError):
                value = None
            with self._state:
                self._value, self._value_s = value, self._clock()
                self._wanted = False
                self._reads += 1
                self._state.notify_all()
