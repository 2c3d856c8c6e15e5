"""What sensors say, also when they lie: real-looking and hostile text, and what is believed."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_node.sensors import cgroup, nvidia
from kowalski_node.sensors.apple import Apple, parse_ioreg
from kowalski_node.sensors.command import OUTPUT_SIZE_BYTES_MAX, output_of
from kowalski_node.sensors.drm import Drm
from kowalski_node.sensors.linux import Heat, Power
from kowalski_node.sensors.nvidia import Nvidia, Nvml, parse_smi
from kowalski_node.sensors.reading import (
    BYTES,
    CELSIUS,
    GPUS_MAX,
    PERCENT,
    WATTS,
    Battery,
    Gpu,
    device_name,
    number,
    text_of,
    whole_bytes,
)

GIB = 1024**3
MIB = 1024**2


def tree(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Files of a made-up machine."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    return root


# ---------------------------------------------------------------------------- single values


@pytest.mark.parametrize(
    ("said", "plausible", "believed"),
    [
        ("42", PERCENT, 42.0),
        (" 42.125\n", PERCENT, 42.12),
        (0, PERCENT, 0.0),
        (100, PERCENT, 100.0),
        ("1e1", PERCENT, 10.0),
        ("100.01", PERCENT, None),
        (-1, PERCENT, None),
        ("nan", PERCENT, None),
        (float("nan"), PERCENT, None),
        (float("inf"), PERCENT, None),
        ("inf", WATTS, None),
        ("1e400", BYTES, None),
        (10**400, BYTES, None),
        ("", PERCENT, None),
        ("N/A", PERCENT, None),
        ("[Not Supported]", PERCENT, None),
        ("0x2a", PERCENT, None),
        ("4_2", PERCENT, None),
        ("４２", PERCENT, None),
        ("42 %", PERCENT, None),
        ("9" * 5000, BYTES, None),
        (True, PERCENT, None),
        (None, PERCENT, None),
        (b"42", PERCENT, None),
        ([42], PERCENT, None),
        (0, CELSIUS, None),
        (-273, CELSIUS, None),
        (255, CELSIUS, None),
        (2**64 - 1, BYTES, None),
        ("18446744073709551615", BYTES, None),
    ],
    ids=repr,
)
def test_a_sensor_is_believed_within_what_hardware_can_be(
    said: object, plausible: tuple[float, float], believed: float | None
) -> None:
    assert number(said, plausible) == believed


@given(st.text() | st.floats() | st.integers() | st.none() | st.binary())
def test_every_value_is_a_plausible_number_or_nothing(said: Any) -> None:
    value = number(said, PERCENT)
    assert value is None or 0 <= value <= 100
    size = whole_bytes(said)
    assert size is None or (isinstance(size, int) and 0 <= size <= 2**50)


def test_a_device_name_is_shown_clean_or_replaced() -> None:
    assert device_name("NVIDIA H200\x00\x1b[31m", "GPU") == "NVIDIA H200"
    assert device_name(b"Apple M4\xff", "GPU") == "Apple M4"
    for nothing in (None, "", b"\x00\x01", 7, "\u202e\u200b"):
        assert device_name(nothing, "GPU") == "GPU"


def test_a_file_of_any_size_is_read_in_part(tmp_path: Path) -> None:
    tree(tmp_path, {"long": "x" * 10_000_000, "odd": b"\xff\xfe"})
    assert len(text_of(tmp_path / "long") or "") <= 65536
    assert text_of(tmp_path / "odd") == "\ufffd\ufffd"
    assert text_of(tmp_path / "none") is None
    assert text_of(tmp_path) is None


# ------------------------------------------------------------------------------------ NVIDIA

SMI = {
    "NVIDIA GeForce RTX 4090, 37, 1024, 24564, 51, 122.48\n": [
        Gpu("nvidia", "NVIDIA GeForce RTX 4090", 37, 1 * GIB, 24564 * MIB, 51, 122.48)
    ],
    "NVIDIA H200, 0, 1, 143771, 27, 76.06\nNVIDIA H200, 100, 140000, 143771, 63, 699.9\n": [
        Gpu("nvidia", "NVIDIA H200", 0, 1 * MIB, 143771 * MIB, 27, 76.06),
        Gpu("nvidia", "NVIDIA H200", 100, 140000 * MIB, 143771 * MIB, 63, 699.9),
    ],
    # a card that is cut into instances, one without a power meter, one that shares memory
    "NVIDIA A100-SXM4-80GB, [N/A], 20000, 81920, 30, 60.1\n": [
        Gpu("nvidia", "NVIDIA A100-SXM4-80GB", None, 20000 * MIB, 81920 * MIB, 30, 60.1)
    ],
    "GeForce MX150, 3, 10, 2002, 44, [Not Supported]\n": [
        Gpu("nvidia", "GeForce MX150", 3, 10 * MIB, 2002 * MIB, 44, None)
    ],
    "NVIDIA GB10, 0, [N/A], [N/A], 41, 11.05\n": [
        Gpu("nvidia", "NVIDIA GB10", 0, None, None, 41, 11.05)
    ],
    # lies and noise
    "Odd, Name, 5, 1, 2, 40, 10\n": [Gpu("nvidia", "Odd, Name", 5, MIB, 2 * MIB, 40, 10)],
    ", nan, -1, 0, 0, 1e9\n": [Gpu("nvidia", "NVIDIA GPU", None, None, None, None, None)],
    "x, 200, 99999999999999, 9e99, 2147483647, inf\n": [Gpu("nvidia", "x")],
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n": [],
    "No devices were found\n": [],
    "GPU is lost, reboot\n1,2,3\n": [],
    "": [],
    "\x00" * 100: [],
}


@pytest.mark.parametrize(("text", "gpus"), SMI.items(), ids=ascii)
def test_the_program_of_the_nvidia_driver_is_read(text: str, gpus: list[Gpu]) -> None:
    assert list(parse_smi(text)) == gpus


def test_a_program_that_tells_of_a_thousand_gpus_is_read_in_part() -> None:
    assert len(parse_smi("x, 1, 1, 1, 40, 1\n" * 1000)) == GPUS_MAX


@given(st.text())
def test_no_output_of_the_program_raises(text: str) -> None:
    for gpu in parse_smi(text):
        assert gpu.name


FAKE_NVML = r"""
#include <string.h>
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned long long total, free, used; } memory_t;
static int devices[2] = {0, 1};
#ifndef INIT
#define INIT 0
#endif
int nvmlInit_v2(void) { return INIT; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = COUNT; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    if (index > 1) return 2;
    *handle = &devices[index];
    return 0;
}
int nvmlDeviceGetName(void *handle, char *name, unsigned int length) {
    if (*(int *)handle == 1) return 15;
    strncpy(name, "NVIDIA H200", length);
    return 0;
}
int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *rates) {
    if (*(int *)handle == 1) return 15;
    rates->gpu = 37; rates->memory = 12;
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    if (*(int *)handle == 1) return 15;
    memory->total = 150754820096ULL; memory->free = 100000000000ULL; memory->used = 50754820096ULL;
    return 0;
}
#ifndef OLD
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned int *celsius) {
    if (*(int *)handle == 1 || sensor != 0) return 15;
    *celsius = 41;
    return 0;
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned int *milliwatts) {
    if (*(int *)handle == 1) return 15;
    *milliwatts = 123456;
    return 0;
}
#endif
"""


def fake_nvml(folder: Path, *defines: str) -> str:
    """A library with the driver's functions, made on the spot."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform == "win32":
        pytest.skip("needs a C compiler to make a library like the driver's")
    source, library = folder / "nvml.c", folder / "libnvml.so"
    source.write_text(FAKE_NVML)
    subprocess.run(
        [compiler, "-shared", "-fPIC", *(f"-D{each}" for each in defines), "-o", library, source],
        check=True,
    )
    return str(library)


def test_the_nvidia_library_is_asked_by_its_own_layouts(tmp_path: Path) -> None:
    assert Nvml(fake_nvml(tmp_path, "COUNT=2")).read() == (
        Gpu("nvidia", "NVIDIA H200", 37.0, 50754820096, 150754820096, 41.0, 123.46),
        # fallen off the bus: every answer is an error
        Gpu("nvidia", "NVIDIA GPU"),
    )


def test_an_older_nvidia_library_tells_what_it_can(tmp_path: Path) -> None:
    assert Nvml(fake_nvml(tmp_path, "COUNT=1", "OLD")).read() == (
        Gpu("nvidia", "NVIDIA H200", 37.0, 50754820096, 150754820096),
    )


def test_a_library_that_counts_wildly_is_asked_for_few(tmp_path: Path) -> None:
    assert len(Nvml(fake_nvml(tmp_path, "COUNT=4000000000u")).read()) == 2


@pytest.mark.parametrize("how", ["missing", "refusing", "no library"])
def test_without_the_library_the_program_is_asked_more_rarely(tmp_path: Path, how: str) -> None:
    if how == "refusing":
        library = fake_nvml(tmp_path, "COUNT=1", "INIT=18")
    elif how == "no library":
        library = str(tree(tmp_path, {"text.so": "not a library"}) / "text.so")
    else:
        library = "libkowalski-no-such-library.so.1"
    asked: list[list[str]] = []

    def run(command: list[str]) -> bytes:
        asked.append(command)
        return b"NVIDIA T4, 7, 100, 15360, 40, 30.5\n"

    source = Nvidia(library=library, run=run, find=lambda name: f"/usr/bin/{name}")
    for _ in range(2):
        assert source.read() == (Gpu("nvidia", "NVIDIA T4", 7, 100 * MIB, 15360 * MIB, 40, 30.5),)
    assert source.pace_s == 20.0
    assert asked[0][0] == "/usr/bin/nvidia-smi"
    assert len(asked) == 2


def test_a_driver_without_library_and_program_has_no_gpus() -> None:
    nothing = Nvidia(library="libkowalski-no-such-library.so.1", find=lambda _: None)
    assert nothing.read() == ()
    failing = Nvidia(library="libkowalski-no-such.so", find=lambda _: "x", run=lambda _: None)
    assert failing.read() == ()


def test_an_nvidia_driver_is_noticed_by_its_device(tmp_path: Path) -> None:
    assert not nvidia.present(tmp_path)
    tree(tmp_path, {"dev/nvidiactl": ""})
    assert nvidia.present(tmp_path)


# ------------------------------------------------------------------------------ AMD and Intel

AMD = {
    "sys/class/drm/card1/device/vendor": "0x1002\n",
    "sys/class/drm/card1/device/device": "0x744c\n",
    "sys/class/drm/card1/device/gpu_busy_percent": "63\n",
    "sys/class/drm/card1/device/mem_info_vram_total": "25753026560\n",
    "sys/class/drm/card1/device/mem_info_vram_used": "1276743680\n",
    "sys/class/drm/card1/device/hwmon/hwmon4/name": "amdgpu\n",
    "sys/class/drm/card1/device/hwmon/hwmon4/temp1_input": "54000\n",
    "sys/class/drm/card1/device/hwmon/hwmon4/temp2_input": "71000\n",
    "sys/class/drm/card1/device/hwmon/hwmon4/power1_average": "97000000\n",
    # a connector, a render node and the version file, which are no cards
    "sys/class/drm/card1-DP-1/status": "connected\n",
    "sys/class/drm/renderD128/device/vendor": "0x1002\n",
    "sys/class/drm/version": "drm 1.1.0 20060810\n",
}


def test_an_amd_gpu_is_read_from_its_driver(tmp_path: Path) -> None:
    source = Drm(tree(tmp_path, dict(AMD)))
    assert source.present
    assert source.read() == (Gpu("amd", "AMD 0x744c", 63.0, 1276743680, 25753026560, 54.0, 97.0),)


def test_an_amd_gpu_with_a_product_name_has_that_name(tmp_path: Path) -> None:
    tree(tmp_path, AMD | {"sys/class/drm/card1/device/product_name": "Instinct MI300X\n"})
    assert Drm(tmp_path).read()[0].name == "Instinct MI300X"


def test_a_sleeping_gpu_is_named_and_not_woken(tmp_path: Path) -> None:
    tree(tmp_path, AMD | {"sys/class/drm/card1/device/power/runtime_status": "suspended\n"})
    assert Drm(tmp_path).read() == (Gpu("amd", "AMD 0x744c"),)


def test_a_gpu_whose_files_hold_nonsense_has_a_name_and_nulls(tmp_path: Path) -> None:
    nonsense = {name: "\x1b[31mN/A -1 nan" for name in AMD if "vendor" not in name}
    tree(tmp_path, AMD | nonsense)
    assert Drm(tmp_path).read() == (Gpu("amd", "AMD GPU"),)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    "counter",
    [
        "gt/gt0/rc6_residency_ms",
        "power/rc6_residency_ms",
        "device/tile0/gt0/gtidle/idle_residency_ms",
    ],
)
def test_an_intel_gpu_is_busy_for_as_long_as_it_did_not_idle(tmp_path: Path, counter: str) -> None:
    card = tmp_path / "sys/class/drm/card0"
    tree(card, {"device/vendor": "0x8086", "device/device": "0x9a49", counter: "1000"})
    tree(card, {"device/hwmon/hwmon2/energy1_input": "5000000"})
    clock = Clock()
    source = Drm(tmp_path, clock=clock)
    assert source.read() == (Gpu("intel", "Intel 0x9a49"),)
    clock.now_s += 5
    tree(card, {counter: "5000", "device/hwmon/hwmon2/energy1_input": "65000000"})
    # idle for 4 of 5 seconds; 60 joules in 5 seconds
    assert source.read() == (Gpu("intel", "Intel 0x9a49", use_percent=20.0, power_w=12.0),)


@pytest.mark.parametrize(
    ("second", "use"), [("900", None), ("nan", None), ("1000", 100.0), ("99000", 0.0)]
)
def test_a_counter_that_falls_says_nothing_and_one_that_runs_ahead_means_idle(
    tmp_path: Path, second: str, use: float | None
) -> None:
    card = tmp_path / "sys/class/drm/card0"
    tree(card, {"device/vendor": "0x8086", "gt/gt0/rc6_residency_ms": "1000"})
    clock = Clock()
    source = Drm(tmp_path, clock=clock)
    source.read()
    clock.now_s += 5
    tree(card, {"gt/gt0/rc6_residency_ms": second})
    assert source.read()[0].use_percent == use


def test_the_busiest_part_of_an_intel_gpu_counts(tmp_path: Path) -> None:
    card = tmp_path / "sys/class/drm/card0"
    files = {"gt/gt0/rc6_residency_ms": "0", "gt/gt1/rc6_residency_ms": "0"}
    tree(card, {"device/vendor": "0x8086", **files})
    clock = Clock()
    source = Drm(tmp_path, clock=clock)
    source.read()
    clock.now_s += 10
    tree(card, {"gt/gt0/rc6_residency_ms": "9000", "gt/gt1/rc6_residency_ms": "2500"})
    assert source.read()[0].use_percent == 75.0


def test_a_machine_without_such_gpus_has_none(tmp_path: Path) -> None:
    assert not Drm(tmp_path).present
    tree(tmp_path, {"sys/class/drm/card0/device/vendor": "0x10de\n"})
    assert Drm(tmp_path).read() == ()


# ------------------------------------------------------------------------------------- Apple


def ioreg(*entries: Any) -> bytes:
    return plistlib.dumps(list(entries))


M2 = {
    "IOClass": "AGXAcceleratorG14X",
    "model": "Apple M2 Max",
    "gpu-core-count": 38,
    "PerformanceStatistics": {
        "Device Utilization %": 23,
        "Renderer Utilization %": 22,
        "Tiler Utilization %": 9,
        "In use system memory": 1395654656,
        "In use system memory (driver)": 0,
        "Alloc system memory": 4870127616,
    },
}


def test_the_gpu_of_a_mac_shares_the_memory_of_the_machine() -> None:
    assert parse_ioreg(ioreg(M2), 64 * GIB) == (
        Gpu("apple", "Apple M2 Max", 23.0, 1395654656, 64 * GIB),
    )


def test_the_gpu_of_an_older_mac_has_its_own_memory() -> None:
    radeon = {
        "model": b"AMD Radeon Pro 5500M\x00",
        "VRAM,totalMB": 8192,
        "PerformanceStatistics": {"Device Utilization %": 5, "vramUsedBytes": 2147483648},
    }
    assert parse_ioreg(ioreg(radeon), 64 * GIB) == (
        Gpu("apple", "AMD Radeon Pro 5500M", 5.0, 2 * GIB, 8 * GIB),
    )


HOSTILE_IOREG = {
    b"": 0,
    b"ioreg: error": 0,
    b"<plist>": 0,
    b"\x00\xff" * 100: 0,
    b"bplist00" + b"\xff" * 100: 0,
    plistlib.dumps({"model": "not a list"}): 0,
    plistlib.dumps(7): 0,
    ioreg(1, "two", [M2]): 0,
    ioreg({}): 1,
    ioreg({"PerformanceStatistics": "x", "model": 7}): 1,
    ioreg({"PerformanceStatistics": {"Device Utilization %": "x" * 9999}}): 1,
    ioreg({"PerformanceStatistics": {"Device Utilization %": -5}}): 1,
    ioreg({"PerformanceStatistics": {"In use system memory": 2**63}}): 1,
    ioreg(*[M2] * 100): GPUS_MAX,
    ioreg(M2)[:-200]: 0,
    b'<?xml version="1.0"?><!DOCTYPE p [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    b"<plist><array><dict><key>model</key><string>&b;</string></dict></array></plist>": 0,
    b"<plist>" + b"<array>" * 50_000: 0,
    b"<plist><array><integer>x</integer></array></plist>": 0,
    b"<plist><array><dict><string>x</string></dict></array></plist>": 0,
    b"<plist><array><date>yesterday</date></array></plist>": 0,
    b"<plist><array><data>%%%</data></array></plist>": 0,
}


@pytest.mark.parametrize(("output", "count"), HOSTILE_IOREG.items(), ids=lambda _: "")
def test_a_registry_of_any_form_is_read_or_not(output: bytes, count: int) -> None:
    gpus = parse_ioreg(output, None)
    assert len(gpus) == count
    for gpu in gpus:
        if gpu.name == "Apple GPU":
            assert gpu == Gpu("apple", "Apple GPU")


@given(st.binary(max_size=300))
def test_no_registry_raises(noise: bytes) -> None:
    parse_ioreg(noise, None)
    parse_ioreg(b"<plist><array>" + noise + b"</array></plist>", None)


def test_a_mac_whose_registry_cannot_be_asked_has_no_gpu_readings() -> None:
    assert Apple(None, run=lambda _: None).read() == ()
    assert len(Apple(None, run=lambda _: ioreg(M2)).read()) == 1


# --------------------------------------------------------------------------- heat and battery


def hwmon(index: int, name: str, **inputs: str) -> dict[str, str]:
    base = f"sys/class/hwmon/hwmon{index}"
    return {f"{base}/name": name} | {f"{base}/{key}_input": text for key, text in inputs.items()}


def zone(index: int, kind: str, millidegrees: str) -> dict[str, str]:
    base = f"sys/class/thermal/thermal_zone{index}"
    return {f"{base}/type": kind, f"{base}/temp": millidegrees}


@pytest.mark.parametrize(
    ("files", "celsius"),
    [
        ({}, None),
        (hwmon(0, "coretemp", temp1="51000", temp2="49000", temp3="58000\n"), 58.0),
        (hwmon(0, "nvme", temp1="84000") | hwmon(1, "k10temp", temp1="47125"), 47.12),
        (hwmon(0, "cpu_thermal", temp1="38459"), 38.46),
        (hwmon(0, "coretemp", temp1="0", temp2="-128000", temp3="nan", temp4="250000"), None),
        (hwmon(0, "nvme", temp1="84000"), None),
        (hwmon(0, "iwlwifi_1", temp1="60000") | zone(0, "acpitz", "27800"), 27.8),
        (zone(0, "acpitz", "90000") | zone(1, "x86_pkg_temp", "44000"), 44.0),
        (zone(0, "cpu-0-0-usr", "44000") | zone(1, "cpu-0-1-usr", "46000"), 46.0),
        (zone(0, "battery", "31000") | zone(1, "gpu-thermal", "50000"), None),
        (zone(0, "soc-thermal", "garbage"), None),
        (hwmon(0, "coretemp", temp1="nonsense") | zone(0, "x86_pkg_temp", "40000"), 40.0),
    ],
)
def test_heat_is_the_hottest_sensor_of_the_processor(
    tmp_path: Path, files: dict[str, str], celsius: float | None
) -> None:
    assert Heat(tree(tmp_path, files)).read() == celsius


def supply(name: str, kind: str, **values: str) -> dict[str, str]:
    base = f"sys/class/power_supply/{name}"
    return {f"{base}/type": kind} | {f"{base}/{key}": text for key, text in values.items()}


@pytest.mark.parametrize(
    ("files", "battery"),
    [
        ({}, None),
        (supply("AC", "Mains", online="1"), None),
        (
            supply("BAT0", "Battery", capacity="83\n", status="Discharging\n")
            | supply("AC", "Mains", online="0\n"),
            Battery(83.0, True),
        ),
        (
            supply("BAT0", "Battery", capacity="83", status="Charging")
            | supply("AC", "Mains", online="1"),
            Battery(83.0, False),
        ),
        # held at its limit: discharging a little, but plugged in
        (
            supply("BAT0", "Battery", capacity="80", status="Discharging")
            | supply("USBC0", "USB", online="1"),
            Battery(80.0, False),
        ),
        (
            supply("BAT0", "Battery", capacity="100", status="Full")
            | supply("BAT1", "Battery", capacity="20", status="Not charging"),
            Battery(60.0, False),
        ),
        (supply("BAT0", "Battery", capacity="50", status="Unknown"), Battery(50.0, None)),
        (
            supply("BAT0", "Battery", capacity="50", status="Unknown")
            | supply("AC", "Mains", online="0"),
            Battery(50.0, True),
        ),
        (supply("BAT0", "Battery", capacity="-1", status="\x1b[31m"), Battery(None, None)),
        (supply("BAT0", "Battery", capacity="65535", status="Charging"), Battery(None, False)),
        (supply("mouse", "Battery", scope="Device", capacity="5", status="Discharging"), None),
    ],
)
def test_a_device_knows_whether_it_lives_on_its_battery(
    tmp_path: Path, files: dict[str, str], battery: Battery | None
) -> None:
    assert Power(tree(tmp_path, files)).read() == battery


# ----------------------------------------------------------------------------- control groups

V2 = "0::/user.slice/user-1000.slice/kowalski.service\n"
V1 = "9:name=systemd:/x\n5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"proc/self/cgroup": V2}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        (
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/user.slice/cpu.max": "400000 100000",
                "sys/fs/cgroup/user.slice/user-1000.slice/cpu.max": "50000 100000",
                "sys/fs/cgroup/user.slice/user-1000.slice/kowalski.service/cpu.max": "max 100000",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
            },
            2.0,
        ),
        # inside a container the own group is mounted as the root
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "0 0"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "\xff nan"}, None),
        ({"proc/self/cgroup": "garbage\n:::\n0::"}, None),
        ({"proc/self/cgroup": "0::/../../../etc\n", "sys/fs/cgroup/cpu.max": "100000 100000"}, 1.0),
        ({"proc/self/cgroup": "0::" + "/a" * 5000}, None),
    ],
)
def test_the_quota_of_the_control_groups_limits_the_cores(
    tmp_path: Path, files: dict[str, str], cores: float | None
) -> None:
    assert cgroup.cpu_quota_cores(tree(tmp_path, files)) == cores


def test_the_least_memory_limit_of_the_groups_counts_with_its_own_use(tmp_path: Path) -> None:
    slice_ = "sys/fs/cgroup/user.slice"
    tree(
        tmp_path,
        {
            "proc/self/cgroup": V2,
            f"{slice_}/memory.max": str(2 * GIB),
            f"{slice_}/memory.current": str(GIB),
            f"{slice_}/memory.stat": f"anon 5\nfile 6\ninactive_file {GIB // 4}\nactive_file 1\n",
            f"{slice_}/user-1000.slice/memory.max": "max",
            f"{slice_}/user-1000.slice/kowalski.service/memory.max": str(3 * GIB),
        },
    )
    group = cgroup.memory_group(tmp_path, 16 * GIB)
    assert group is not None
    assert group.limit_bytes == 2 * GIB
    assert cgroup.memory_used_bytes(group) == GIB - GIB // 4


@pytest.mark.parametrize(
    ("limit", "known"),
    [
        ("9223372036854771712", None),  # version 1's way to say "none"
        (str(64 * GIB), None),  # more than the machine has
        ("max", None),
        ("-1", None),
        ("0", None),
        ("", None),
        (str(GIB), GIB),
    ],
)
def test_a_memory_limit_counts_below_what_the_machine_has(
    tmp_path: Path, limit: str, known: int | None
) -> None:
    base = "sys/fs/cgroup/memory/docker/abc"
    tree(
        tmp_path,
        {
            "proc/self/cgroup": V1,
            f"{base}/memory.limit_in_bytes": limit,
            f"{base}/memory.usage_in_bytes": "1000",
            f"{base}/memory.stat": "total_inactive_file 4000\ninactive_file 1\n",
        },
    )
    group = cgroup.memory_group(tmp_path, 16 * GIB)
    assert (group.limit_bytes if group else None) == known
    if group is not None:
        # more cache than use is a race between two reads, never a negative number
        assert cgroup.memory_used_bytes(group) == 0


def test_a_group_that_went_away_has_no_use(tmp_path: Path) -> None:
    group = cgroup.MemoryGroup(GIB, str(tmp_path / "gone"), str(tmp_path / "gone"), "x")
    assert cgroup.memory_used_bytes(group) is None


# ---------------------------------------------------------------------------------- commands


def test_a_program_is_run_for_its_output() -> None:
    assert output_of(["/bin/sh", "-c", "echo hello; echo noise >&2"]) == b"hello\n"


@pytest.mark.parametrize(
    "command",
    [
        ["/no/such/program"],
        ["/bin/sh", "-c", "echo half; exit 3"],
        ["/bin/sh", "-c", "kill -9 $$"],
        ["/etc/passwd"],
    ],
)
def test_a_program_that_fails_said_nothing(command: list[str]) -> None:
    assert output_of(command) is None


@pytest.mark.parametrize("script", ["sleep 60", "sleep 60 & sleep 60", "exec >&-; sleep 60"])
def test_a_program_that_hangs_is_killed_with_what_it_started(script: str) -> None:
    start_s = time.monotonic()
    assert output_of(["/bin/sh", "-c", script], timeout_s=0.2) is None
    assert time.monotonic() - start_s < 10


def test_a_program_that_writes_without_end_is_killed() -> None:
    assert output_of(["/bin/sh", "-c", f"yes | head -c {OUTPUT_SIZE_BYTES_MAX}"]) is not None
    assert output_of(["/bin/sh", "-c", "yes"]) is None
