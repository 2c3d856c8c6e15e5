"""Samples: what they hold, what they never hold, and that taking one never waits."""

from __future__ import annotations

import getpass
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

import kowalski_node.sampler as sampler_module
from kowalski_node.sampler import (
    Accelerator,
    Hardware,
    Sample,
    Sampler,
    gpu_sources,
    hardware,
    processor_percent,
    usable_cores,
)
from kowalski_node.sensors.paced import AGE_MAX_S, Paced
from kowalski_node.sensors.reading import GPUS_MAX, Gpu

WAIT_S = 20.0
GIB = 1024**3


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Scripted:
    """A source that counts its reads, says what it is told to, and blocks while told to."""

    def __init__(self, pace_s: float = 5.0) -> None:
        self.pace_s = pace_s
        self.reads = 0
        self.says: Callable[[], Any] = lambda: self.reads
        self.free = threading.Event()
        self.free.set()
        self.read_again = threading.Condition()

    def read(self) -> Any:
        assert self.free.wait(WAIT_S)
        with self.read_again:
            self.reads += 1
            self.read_again.notify_all()
        return self.says()

    def until(self, reads: int) -> None:
        with self.read_again:
            assert self.read_again.wait_for(lambda: self.reads >= reads, WAIT_S)


def until(wanted: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not wanted():
        assert time.monotonic() < end_s, "never came true"
        time.sleep(0.001)  # poll: what a sampler's thread has read


# --------------------------------------------------------------------------- paced sources


def test_a_slow_source_is_read_by_its_thread_and_at_its_pace() -> None:
    source, clock = Scripted(), Clock()
    paced: Paced[int] = Paced(source, clock=clock)
    assert paced.latest() is None
    until(lambda: paced.latest() == 1)
    for passed_s in (0.0, 0.0, 4.9):
        clock.now_s += passed_s
        assert paced.latest() == 1
        until(lambda: not paced._wanted)
        assert source.reads == 1
    clock.now_s += 0.1
    until(lambda: paced.latest() == 2)
    assert source.reads == 2
    paced.close()


def test_a_source_that_hangs_costs_its_value_and_nobodys_time() -> None:
    source, clock = Scripted(), Clock()
    paced: Paced[int] = Paced(source, clock=clock)
    assert paced.first(WAIT_S) == 1
    source.free.clear()
    clock.now_s += 6
    start_s = time.monotonic()
    for _ in range(1000):
        assert paced.latest() == 1
    clock.now_s += AGE_MAX_S
    assert paced.latest() is None
    assert time.monotonic() - start_s < 5
    # It comes back: so does its value.
    source.free.set()
    source.until(2)
    until(lambda: paced.latest() is not None)
    paced.close()


def test_a_source_that_nobody_asks_is_not_read() -> None:
    source = Scripted(pace_s=0.0)
    paced: Paced[int] = Paced(source)
    assert source.reads == 0
    paced.first(WAIT_S)
    reads = source.reads
    paced.close()
    assert paced.latest() is not None
    assert source.reads <= reads + 1


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), ValueError("odd")])
def test_a_source_that_fails_says_nothing_and_is_asked_again(error: Exception) -> None:
    source, clock = Scripted(), Clock()

    def fail() -> Any:
        raise error

    source.says = fail
    paced: Paced[int] = Paced(source, clock=clock)
    assert paced.first(WAIT_S) is None
    source.says = lambda: 7
    clock.now_s += 5
    until(lambda: paced.latest() == 7)
    paced.close()


def test_waiting_for_the_first_word_is_bounded() -> None:
    source = Scripted()
    source.free.clear()
    paced: Paced[int] = Paced(source)
    start_s = time.monotonic()
    assert paced.first(0.05) is None
    assert time.monotonic() - start_s < 5
    paced.close()
    source.free.set()


def test_closing_ends_the_thread() -> None:
    paced: Paced[int] = Paced(Scripted())
    paced.first(WAIT_S)
    thread = paced._thread
    assert thread is not None
    paced.close()
    thread.join(WAIT_S)
    assert not thread.is_alive()


# ---------------------------------------------------------------------------------- samples


def test_this_device_gives_a_sample(tmp_path: Path) -> None:
    with Sampler(tmp_path) as sampler:
        sampler.warm_up(WAIT_S)
        until(lambda: sampler.sample().cpu_percent is not None)
        sample = sampler.sample()
    assert sample.memory_total_bytes is not None
    assert sample.memory_used_bytes is not None
    assert 0 < sample.memory_used_bytes < sample.memory_total_bytes
    assert sample.memory_total_bytes <= psutil.virtual_memory().total
    assert sample.disk_free_bytes is not None
    assert sample.disk_total_bytes is not None
    assert 0 < sample.disk_free_bytes <= sample.disk_total_bytes
    assert sample.load1 is not None
    assert sample.load1 >= 0
    assert sample.swap_total_bytes is not None


def test_a_sample_travels_as_json_and_back(tmp_path: Path) -> None:
    with Sampler(tmp_path) as sampler:
        sampler.warm_up(WAIT_S)
        sample = sampler.sample()
    assert msgspec.json.decode(msgspec.json.encode(sample), type=Sample) == sample


def test_a_busy_processor_shows(tmp_path: Path) -> None:
    with Sampler(tmp_path) as sampler:
        end_s = time.process_time() + 0.3
        while time.process_time() < end_s:
            pass
        percent = sampler.sample().cpu_percent
    assert percent is not None
    assert percent > 50 / (psutil.cpu_count() or 1)


def test_a_sample_never_waits_for_a_wedged_driver_and_tells_all_else(tmp_path: Path) -> None:
    wedged, well = Scripted(), Scripted()
    wedged.free.clear()
    gpu = Gpu("amd", "AMD 0x744c", use_percent=5.0)
    well.says = lambda: (gpu,)
    with Sampler(tmp_path, gpus=[wedged, well]) as sampler:
        start_s = time.monotonic()
        sampler.warm_up(0.2)
        assert time.monotonic() - start_s < 5
        until(lambda: sampler.sample().gpus == (gpu,))
        assert sampler.sample().disk_free_bytes is not None
    wedged.free.set()


def test_a_sample_holds_a_bounded_number_of_gpus(tmp_path: Path) -> None:
    many = Scripted()
    many.says = lambda: (Gpu("amd", "x" * 64),) * 1000
    with Sampler(tmp_path, gpus=[many]) as sampler:
        sampler.warm_up(WAIT_S)
        sample = sampler.sample()
    assert len(sample.gpus) == GPUS_MAX
    assert len(msgspec.msgpack.encode(sample)) < 8 * 1024


def test_a_home_that_went_away_has_no_disk(tmp_path: Path) -> None:
    with Sampler(tmp_path / "gone", gpus=[]) as sampler:
        sampler.warm_up(WAIT_S)
        sample = sampler.sample()
    assert sample.disk_free_bytes is None
    assert sample.disk_total_bytes is None


def test_a_machine_without_any_sensor_gives_nulls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(13, "Permission denied")

    for name in ("cpu_times", "virtual_memory", "swap_memory"):
        monkeypatch.setattr(psutil, name, refuse)
    monkeypatch.setattr(sampler_module.os, "getloadavg", refuse)
    with Sampler(tmp_path / "gone", root=tmp_path) as sampler:
        sampler.warm_up(WAIT_S)
        sample = sampler.sample()
    told = msgspec.structs.asdict(sample)
    assert told.pop("gpus") == ()
    assert set(told.values()) == {None}


def test_a_container_is_told_by_its_own_limit(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": str(GIB),
        "sys/fs/cgroup/memory.current": str(GIB // 2),
        "sys/fs/cgroup/memory.stat": f"inactive_file {GIB // 4}\n",
        "sys/fs/cgroup/cpu.max": "100000 100000",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with Sampler(tmp_path, root=tmp_path, gpus=[]) as sampler:
        sample = sampler.sample()
    assert (sample.memory_used_bytes, sample.memory_total_bytes) == (GIB // 4, GIB)
    found = hardware(root=tmp_path, gpus=[])
    assert (found.cores_logical, found.cores_physical) == (1, 1)
    assert found.memory_total_bytes == GIB


def test_no_sample_names_the_host_a_user_or_a_path(tmp_path: Path) -> None:
    canary = tmp_path / "canary-7f3a9"
    canary.mkdir()
    with Sampler(canary) as sampler:
        sampler.warm_up(WAIT_S)
        told = msgspec.json.encode(sampler.sample()).decode()
    told += msgspec.json.encode(hardware()).decode()
    assert "/" not in told
    for private in ("canary-7f3a9", socket.gethostname(), getpass.getuser(), Path.home().name):
        if len(private) > 3:
            assert private not in told


@pytest.mark.parametrize(
    ("before", "after", "percent"),
    [
        ((0.0, 0.0), (50.0, 100.0), 50.0),
        ((10.0, 100.0), (10.0, 200.0), 100.0),
        ((10.0, 100.0), (110.0, 200.0), 0.0),
        # no time passed; counters fell; more idle than time; nothing known
        ((10.0, 100.0), (10.0, 100.0), None),
        ((10.0, 100.0), (5.0, 200.0), None),
        ((10.0, 200.0), (20.0, 100.0), None),
        ((10.0, 100.0), (210.0, 200.0), 0.0),
        (None, (1.0, 1.0), None),
        ((1.0, 1.0), None, None),
        ((0.0, 0.0), (float("nan"), 1.0), None),
    ],
)
def test_processor_time_becomes_a_share(
    before: tuple[float, float] | None, after: tuple[float, float] | None, percent: float | None
) -> None:
    assert processor_percent(before, after) == percent


# --------------------------------------------------------------------------------- hardware


@pytest.mark.parametrize(
    ("affinity", "quota", "cores"),
    [(8, None, 8), (8, 1.5, 2), (8, 0.5, 1), (2, 100.0, 2), (1, None, 1), (8, 8.0, 8)],
)
def test_cores_are_those_that_the_process_may_use(
    affinity: int, quota: float | None, cores: int
) -> None:
    assert usable_cores(affinity, quota) == cores


def test_this_device_tells_its_hardware() -> None:
    found = hardware()
    assert 1 <= found.cores_physical <= found.cores_logical <= (psutil.cpu_count() or 1)
    assert found.memory_total_bytes is not None
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    system, _, processor = found.platform.partition("-")
    assert system in ("linux", "darwin")
    assert processor
    assert msgspec.json.decode(msgspec.json.encode(found), type=Hardware) == found


def test_accelerators_are_told_without_what_changes() -> None:
    source = Scripted()
    source.says = lambda: (Gpu("nvidia", "NVIDIA H200", 55.0, 1, 150754820096, 41.0, 300.0),)
    assert hardware(gpus=[source]).accelerators == (
        Accelerator("nvidia", "NVIDIA H200", 150754820096),
    )


def test_a_driver_that_hangs_at_the_start_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampler_module, "FIRST_READ_S", 0.1)
    wedged = Scripted()
    wedged.free.clear()
    assert hardware(gpus=[wedged]).accelerators == ()
    wedged.free.set()


def test_a_machine_without_gpus_has_no_gpu_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module.sys, "platform", "linux")
    assert gpu_sources(tmp_path, None) == []


def test_the_program_prints_one_sample_as_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kowalski_node.sampler"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path), "HOME": str(Path.home())},
    )
    assert set(json.loads(done.stdout)) == set(Sample.__struct_fields__)
    assert done.stderr == ""
