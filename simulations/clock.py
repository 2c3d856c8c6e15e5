"""The clocks of a simulated device: they may drift, jump and be wrong by years."""

from __future__ import annotations

import random

from kowalski_node.core.inputs import Now

from .agenda import Agenda

START_MS = 1_790_000_000_000
"""The wall clock when a world begins: a day in 2026."""


class Clock:
    """A device's two clocks, which may be wrong."""

    def __init__(self, agenda: Agenda, chance: random.Random) -> None:
        self._agenda = agenda
        self._began_s = chance.uniform(0.0, 1e6)
        self.drift = 0.0
        """By how much it is too fast: 1e-4 is 100 ppm."""
        self._since_s = 0.0
        self._mono_s = self._began_s
        self._wall_ms = float(START_MS)
        self._suspended_s: float | None = None
        self.greatest_ms = 0
        """The latest that it ever showed."""

    def now(self) -> Now:
        """What it shows."""
        passed_s = self._agenda.now_s - self._since_s
        if self.drift:
            passed_s *= 1.0 + self.drift
        wall_ms = int(self._wall_ms + passed_s * 1000.0)
        if wall_ms > self.greatest_ms:
            self.greatest_ms = wall_ms
        return Now(self._mono_s + passed_s, wall_ms)

    def step(self, by_ms: float) -> None:
        """Sets the wall clock forward or back; it never shows a time before 1970."""
        self._settle()
        self._wall_ms = max(0.0, self._wall_ms + by_ms)

    def set_right(self) -> None:
        """A time server sets the wall clock."""
        self._settle()
        self._wall_ms = START_MS + self._agenda.now_s * 1000.0

    def suspend(self) -> None:
        """The device sleeps: its monotonic clock stands still, as Linux's does."""
        if self._suspended_s is None:
            self._suspended_s = self._agenda.now_s

    def resume(self) -> None:
        """It is awake; the wall clock has gone on."""
        if self._suspended_s is not None:
            self._settle()
            self._mono_s -= self._agenda.now_s - self._suspended_s
            self._suspended_s = None

    def set_drift(self, drift: float) -> None:
        """From now on it is too fast by so much, or too slow."""
        self._settle()
        self.drift = drift

    def _settle(self) -> None:
        passed_s = (self._agenda.now_s - self._since_s) * (1.0 + self.drift)
        self._mono_s += passed_s
        self._wall_ms += passed_s * 1000.0
        self._since_s = self._agenda.now_s
