"""What a node may rely on of whoever gives it `Now`: run on the real clocks and on the double.

The double's clocks are also wrong on purpose: what holds of them after any steps and under any
drift is a property, over many histories.
"""

from __future__ import annotations

import random
import time
from types import SimpleNamespace
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_node import pipeline
from kowalski_node.core.inputs import Now
from simulations.agenda import Agenda
from simulations.clock import Clock

PASSING_S = 0.05
OFF = 0.001
"""By how much two clocks may run apart: the greatest drift that a simulated one gets."""
HLC_MS_MAX = 1 << 48


class Watch(Protocol):
    """A device's clocks, and a way to let time pass and to set them."""

    def now(self) -> Now: ...

    def let_pass(self, seconds: float) -> float:
        """Lets at least so many seconds pass; returns how many did."""
        ...

    def step(self, by_ms: int) -> None:
        """The owner of the device, or its time service, sets the wall clock."""
        ...


class RealWatch:
    """The clocks of this machine; its wall clock is not set, what tells it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._off_ns = 0

    def now(self) -> Now:
        return pipeline.now()

    def let_pass(self, seconds: float) -> float:
        begun_s = time.perf_counter()
        while (passed_s := time.perf_counter() - begun_s) < seconds:
            pass
        return passed_s

    def step(self, by_ms: int) -> None:
        self._off_ns += by_ms * 1_000_000
        times = SimpleNamespace(
            monotonic=time.monotonic, time_ns=lambda: time.time_ns() + self._off_ns
        )
        self._monkeypatch.setattr(pipeline, "time", times)


class SimulatedWatch:
    """A simulated device's clocks, as good as they can be or too fast or too slow."""

    def __init__(self, drift: float = 0.0, seed: int = 3) -> None:
        self._agenda = Agenda()
        self.clock = Clock(self._agenda, random.Random(seed))
        self._agenda.run_until(10.0)
        self.clock.set_drift(drift)

    def now(self) -> Now:
        return self.clock.now()

    def let_pass(self, seconds: float) -> float:
        self._agenda.run_until(self._agenda.now_s + seconds)
        return seconds

    def step(self, by_ms: int) -> None:
        self.clock.step(by_ms)


@pytest.fixture(params=["real", "simulated", "too fast", "too slow"])
def watch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Watch:
    if request.param == "real":
        return RealWatch(monkeypatch)
    return SimulatedWatch({"simulated": 0.0, "too fast": OFF, "too slow": -OFF}[request.param])


def test_the_monotonic_seconds_never_fall(watch: Watch) -> None:
    readings = [watch.now().mono_s for _ in range(1000)]
    for _ in range(20):
        watch.let_pass(0.0003)
        readings.append(watch.now().mono_s)
    assert readings == sorted(readings)
    assert readings[-1] > readings[0]


def test_both_times_advance_as_time_passes(watch: Watch) -> None:
    for _ in range(3):
        begin = watch.now()
        passed_s = watch.let_pass(PASSING_S)
        end = watch.now()
        # Whatever the machine did between two readings is time that passed as well.
        assert end.mono_s - begin.mono_s >= passed_s * (1 - 2 * OFF) - 1e-6
        assert end.mono_s - begin.mono_s < passed_s * (1 + 2 * OFF) + 30.0
        wall_ms = end.wall_ms - begin.wall_ms
        assert wall_ms == pytest.approx((end.mono_s - begin.mono_s) * 1000.0, abs=1.5)


def test_the_wall_clock_shows_whole_unix_milliseconds(watch: Watch) -> None:
    shown = watch.now()
    assert type(shown.wall_ms) is int
    assert type(shown.mono_s) is float
    # Later than this was written, and such that a hybrid clock can hold it.
    assert 1_700_000_000_000 < shown.wall_ms < HLC_MS_MAX


@pytest.mark.parametrize("by_ms", [-3_600_000, -1, 1, 86_400_000, 40 * 365 * 86_400_000])
def test_a_step_of_the_wall_clock_leaves_the_monotonic_one_as_it_is(
    watch: Watch, by_ms: int
) -> None:
    before = watch.now()
    watch.step(by_ms)
    after = watch.now()
    assert 0.0 <= after.mono_s - before.mono_s < 30.0
    passed_ms = (after.mono_s - before.mono_s) * 1000.0
    assert after.wall_ms - before.wall_ms == pytest.approx(by_ms + passed_ms, abs=1.5)
    # Both go on as before.
    watch.let_pass(PASSING_S)
    later = watch.now()
    assert later.mono_s - after.mono_s >= PASSING_S * (1 - 2 * OFF) - 1e-6
    passed_ms = (later.mono_s - after.mono_s) * 1000.0
    assert later.wall_ms - after.wall_ms == pytest.approx(passed_ms, abs=1.5)


# What goes wrong with simulated clocks only.


def test_a_step_of_a_simulated_wall_clock_takes_no_time_at_all() -> None:
    watch = SimulatedWatch(drift=0.0007)
    watch.let_pass(1234.567)
    before = watch.now()
    watch.step(-987_654)
    assert watch.now() == Now(before.mono_s, before.wall_ms - 987_654)


def test_a_simulated_clock_never_shows_a_time_before_1970() -> None:
    watch = SimulatedWatch()
    watch.step(-(10**15))
    assert watch.now().wall_ms == 0
    watch.let_pass(2.0)
    assert watch.now().wall_ms == 2000


def test_drift_changes_how_fast_both_times_go_and_neither_of_them_at_once() -> None:
    watch = SimulatedWatch()
    for drift in (OFF, -OFF, 0.0, OFF / 3):
        before = watch.now()
        watch.clock.set_drift(drift)
        assert watch.now() == before
        watch.let_pass(1000.0)
        after = watch.now()
        assert after.mono_s - before.mono_s == pytest.approx(1000.0 * (1 + drift), abs=1e-6)
        assert after.wall_ms - before.wall_ms == pytest.approx(1e6 * (1 + drift), abs=1)


def test_a_simulated_clock_knows_the_latest_that_it_ever_showed() -> None:
    watch = SimulatedWatch()
    watch.step(5_000_000)
    greatest = watch.now().wall_ms
    watch.step(-9_000_000)
    watch.let_pass(1.0)
    assert watch.now().wall_ms < greatest
    assert watch.clock.greatest_ms == greatest


def test_two_devices_begin_with_different_monotonic_times_and_one_wall_clock() -> None:
    one, other = SimulatedWatch(seed=1), SimulatedWatch(seed=2)
    assert one.now().mono_s != other.now().mono_s
    assert one.now().wall_ms == other.now().wall_ms


HISTORIES = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0.0, 1e5)),
        # What the faults do, and ten times more.
        st.tuples(st.just("step"), st.floats(-1e14, 1e13)),
        st.tuples(st.just("drift"), st.floats(-0.01, 0.01)),
    ),
    max_size=20,
)


@given(HISTORIES)
def test_whatever_is_done_to_a_simulated_clock_the_laws_hold(
    history: list[tuple[str, float]],
) -> None:
    watch = SimulatedWatch()
    last = watch.now()
    for what, amount in history:
        if what == "pass":
            watch.let_pass(amount)
        elif what == "step":
            watch.clock.step(amount)
        else:
            watch.clock.set_drift(amount)
        shown = watch.now()
        assert shown.mono_s >= last.mono_s
        assert type(shown.wall_ms) is int
        assert 0 <= shown.wall_ms < HLC_MS_MAX
        if what == "pass":
            assert shown.wall_ms >= last.wall_ms
        else:
            assert shown.mono_s == last.mono_s
        last = shown
