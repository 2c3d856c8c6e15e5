"""NVIDIA GPUs: from the driver's own library (NVML), and where it can't be used from `nvidia-smi`.

NVML is called through ctypes: seven functions, with the layouts of the published `nvml.h`. A call
takes well under a millisecond where the program takes some hundred. Both tell null for what a card
does not have: GPUs that share the machine's memory tell no memory, and one that is cut into
instances (MIG) tells no use. A card that fell off the bus answers each question with an error and
shows as a name without values.
"""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .command import output_of
from .reading import CELSIUS, GPUS_MAX, PERCENT, WATTS, Gpu, device_name, number, whole_bytes

PACE_S: Final = 2.0
LIBRARY: Final = "libnvidia-ml.so.1"
SMI_FIELDS: Final = "name,utilization.gpu,memory.used,memory.total,temperature.gpu,power.draw"
NAME_SIZE_BYTES: Final = 96
GPU_SENSOR: Final = 0
MEBIBYTE: Final = 1024 * 1024


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _Memory(ctypes.Structure):
    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


class Nvml:
    """The driver's library, open. Raises OSError where it is missing or the driver is mute."""

    def __init__(self, library: str = LIBRARY) -> None:
        self._library = ctypes.CDLL(library)
        self._handles: list[ctypes.c_void_p] = []
        self._names: list[str] = []
        if not self._ask("nvmlInit_v2"):
            raise OSError("the NVIDIA driver does not answer")
        count = ctypes.c_uint()
        if not self._ask("nvmlDeviceGetCount_v2", ctypes.byref(count)):
            raise OSError("the NVIDIA driver does not count its devices")
        for index in range(min(count.value, GPUS_MAX)):
            handle = ctypes.c_void_p()
            if self._ask("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle)):
                name = ctypes.create_string_buffer(NAME_SIZE_BYTES)
                self._ask("nvmlDeviceGetName", handle, name, NAME_SIZE_BYTES)
                self._handles.append(handle)
                self._names.append(device_name(name.value, "NVIDIA GPU"))

    def read(self) -> tuple[Gpu, ...]:
        """Every GPU of the driver."""
        return tuple(
            self._read(handle, name)
            for handle, name in zip(self._handles, self._names, strict=True)
        )

    def _read(self, handle: ctypes.c_void_p, name: str) -> Gpu:
        use, memory = _Utilization(), _Memory()
        celsius, milliwatts = ctypes.c_uint(), ctypes.c_uint()
        has_use = self._ask("nvmlDeviceGetUtilizationRates", handle, ctypes.byref(use))
        has_memory = self._ask("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        has_heat = self._ask("nvmlDeviceGetTemperature", handle, GPU_SENSOR, ctypes.byref(celsius))
        has_power = self._ask("nvmlDeviceGetPowerUsage", handle, ctypes.byref(milliwatts))
        return Gpu(
            vendor="nvidia",
            name=name,
            use_percent=number(use.gpu, PERCENT) if has_use else None,
            vram_used_bytes=whole_bytes(memory.used) if has_memory else None,
            vram_total_bytes=(whole_bytes(memory.total) or None) if has_memory else None,
            temperature_c=number(celsius.value, CELSIUS) if has_heat else None,
            power_w=number(milliwatts.value, WATTS, scale=0.001) if has_power else None,
        )

    def _ask(self, function: str, *arguments: object) -> bool:
        """Calls one function; whether it answered with success. An older library lacks some."""
        try:
            call = getattr(self._library, function)
        except AttributeError:
            return False
        call.restype = ctypes.c_int
        return call(*arguments) == 0


class Nvidia:
    """All NVIDIA GPUs of this device, by the cheapest way that works."""

    pace_s = PACE_S

    def __init__(
        self,
        *,
        library: str = LIBRARY,
        run: Callable[[list[str]], bytes | None] = output_of,
        find: Callable[[str], str | None] = shutil.which,
    ) -> None:
        self._library = library
        self._run = run
        self._find = find
        self._nvml: Nvml | None = None
        self._tried = False

    def read(self) -> tuple[Gpu, ...]:
        if not self._tried:
            # Once: the library stays open, and what failed at the start fails for as long as the
            # driver that is loaded is.
            self._tried = True
            try:
                self._nvml = Nvml(self._library)
            except OSError:
                self._nvml = None
        if self._nvml is not None:
            return self._nvml.read()
        self.pace_s = 10 * PACE_S
        program = self._find("nvidia-smi")
        if program is None:
            return ()
        query = [program, f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader,nounits"]
        return parse_smi((self._run(query) or b"").decode("utf-8", "replace"))


def present(root: Path) -> bool:
    """Whether an NVIDIA driver is loaded: natively, or the one that Windows lends to its Linux."""
    return any(
        (root / path).exists() for path in ("dev/nvidiactl", "proc/driver/nvidia", "dev/dxg")
    )


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """The GPUs in the output of `nvidia-smi`: lines of `SMI_FIELDS`, memory in MiB."""
    gpus: list[Gpu] = []
    for line in text.splitlines():
        fields = line.rsplit(",", 5)
        if len(fields) != 6 or len(gpus) == GPUS_MAX:
            continue
        name, use, used, total, celsius, watts = fields
        gpus.append(
            Gpu(
                vendor="nvidia",
                name=device_name(name, "NVIDIA GPU"),
                use_percent=number(use, PERCENT),
                vram_used_bytes=whole_bytes(used, unit_bytes=MEBIBYTE),
                vram_total_bytes=whole_bytes(total, unit_bytes=MEBIBYTE) or None,
                temperature_c=number(celsius, CELSIUS),
                power_w=number(watts, WATTS),
            )
        )
    return tuple(gpus)
