"""The system call filter, run by an interpreter of BPF as the kernel would, for each machine.

The kernel of this machine runs only its own filter (see `tests/attacks`); this shows both.
"""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from kowalski_executors.seccomp import (
    AUDIT_ARCHITECTURE,
    FIRST_UNKNOWN_CALL,
    filter_program,
    forbidden_calls,
)

ALLOW = "allow"
KILL = "kill"
MACHINES = sorted(AUDIT_ARCHITECTURE)
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
# Of calls that a program needs: read, write, openat, mmap, execve, exit_group, futex.
NEEDED = {
    "x86_64": (0, 1, 257, 9, 59, 231, 202),
    "aarch64": (63, 64, 56, 222, 221, 94, 98),
}
CLONE = {"x86_64": 56, "aarch64": 220}
SOCKET = {"x86_64": 41, "aarch64": 198}
IOCTL = {"x86_64": 16, "aarch64": 29}
THREAD_FLAGS = 0x3D0F00  # what the C library starts a thread with
FORK_FLAGS = 0x1200011


def verdict(program: bytes, number: int, machine: str | int, *arguments: int) -> str | int:
    """What a filter says to a call: ALLOW, KILL, or the error number that the call gets."""
    architecture = AUDIT_ARCHITECTURE[machine] if isinstance(machine, str) else machine
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, architecture, 0, *padded)
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator = position = 0
    for _ in range(len(instructions)):
        code, jump_true, jump_false, constant = instructions[position]
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif code == 0x06:
            action = constant & 0xFFFF0000
            return {0x7FFF0000: ALLOW, 0x80000000: KILL, 0x00050000: constant & 0xFFFF}[action]
        else:
            holds = {
                0x15: accumulator == constant,
                0x35: accumulator >= constant,
                0x45: bool(accumulator & constant),
            }[code]
            position += jump_true if holds else jump_false
    raise AssertionError("the filter ends without a verdict")


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    """Each machine that has a filter."""
    return request.param


def test_it_is_a_program_that_the_kernel_takes(machine: str) -> None:
    program = filter_program(machine)
    assert len(program) % 8 == 0
    assert len(program) // 8 <= 4096


def test_what_programs_need_is_allowed(machine: str) -> None:
    program = filter_program(machine)
    for number in NEEDED[machine]:
        assert verdict(program, number, machine) == ALLOW


def test_what_is_forbidden_is_refused(machine: str) -> None:
    program = filter_program(machine)
    calls = forbidden_calls(machine)
    assert {"ptrace", "mount", "bpf", "keyctl", "perf_event_open", "unshare", "setns"} <= set(calls)
    for name, number in calls.items():
        assert verdict(program, number, machine) in (errno.EPERM, errno.ENOSYS), name


def test_every_other_call_that_is_known_is_allowed_and_every_newer_one_unknown(
    machine: str,
) -> None:
    program = filter_program(machine)
    forbidden = set(forbidden_calls(machine).values())
    for number in range(FIRST_UNKNOWN_CALL):
        if number not in forbidden | {SOCKET[machine]}:
            assert verdict(program, number, machine) == ALLOW, number
    for number in (FIRST_UNKNOWN_CALL, 1_000, 0x40000000, 0x40000000 | 101, 0xFFFFFFFF):
        assert verdict(program, number, machine) == errno.ENOSYS


def test_calls_in_another_machines_numbers_kill(machine: str) -> None:
    program = filter_program(machine)
    for other in (0x40000003, 0x40000028, 0, *AUDIT_ARCHITECTURE.values()):  # i386, arm, ...
        if other != AUDIT_ARCHITECTURE[machine]:
            assert verdict(program, NEEDED[machine][0], other) == KILL


def test_threads_and_processes_are_allowed_and_namespaces_are_not(machine: str) -> None:
    program = filter_program(machine)
    number = CLONE[machine]
    for flags in (THREAD_FLAGS, FORK_FLAGS, 17):
        assert verdict(program, number, machine, flags) == ALLOW
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(program, number, machine, FORK_FLAGS | bit) == errno.EPERM
        assert verdict(program, number, machine, 1 << 40 | bit) == errno.EPERM


def test_only_three_kinds_of_socket_exist(machine: str) -> None:
    program = filter_program(machine)
    for family in range(64):
        expected = ALLOW if family in (1, 2, 10) else errno.EAFNOSUPPORT
        assert verdict(program, SOCKET[machine], machine, family) == expected
    assert verdict(program, SOCKET[machine], machine, 40 | 1 << 32) == errno.EAFNOSUPPORT


def test_terminals_take_no_injected_input(machine: str) -> None:
    program = filter_program(machine)
    assert verdict(program, IOCTL[machine], machine, 0, 0x5401) == ALLOW
    assert verdict(program, IOCTL[machine], machine, 0, 0x5412) == errno.EPERM
    assert verdict(program, IOCTL[machine], machine, 0, 0x541C) == errno.EPERM
    # The kernel looks at the low 32 bits only.
    assert verdict(program, IOCTL[machine], machine, 0, 1 << 32 | 0x5412) == errno.EPERM


def test_the_numbers_are_the_kernels(machine: str) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip("the kernel's headers are missing: apt-get install linux-libc-dev")
    found = re.findall(
        r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text(encoding="ascii"), re.MULTILINE
    )
    numbers = {name: int(number) for name, number in reversed(found)}
    for name, number in forbidden_calls(machine).items():
        assert numbers[name] == number, name
    assert numbers["clone"] == CLONE[machine]
    assert numbers["socket"] == SOCKET[machine]
    assert numbers["ioctl"] == IOCTL[machine]
