"""Which system calls a sandboxed program may not make, as a filter that the kernel runs on each
call.

The namespaces already leave a program nothing to reach; this filter takes away the parts of the
kernel where the ways out of namespaces have been found: mounting, new user namespaces, tracing,
BPF, keyrings, io_uring, performance counters, exotic socket families (an AF_VSOCK socket reaches a
virtual machine's host, whatever the network namespace). It also refuses memory that no account
sees: System V shared memory and anonymous memory files. It is a deny list, because a program may
use the whole standard library; calls that are newer than this table are refused as unknown, so a
new kernel opens no new door.

A filter is a classic BPF program: 8-byte instructions (code u16, jump-true u8, jump-false u8,
constant u32) over `struct seccomp_data` (nr u32, arch u32, instruction pointer u64, six arguments
u64). It is laid out as `if nr == N: return errno` pairs, so that no jump is longer than two
instructions. The kernel remembers the calls that are allowed whatever their arguments, so the
length costs an ordinary call nothing.
"""

from __future__ import annotations

import errno
import platform
import struct
import sys
from collections.abc import Iterable, Mapping
from typing import Final

_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_JUMP_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_ALLOW: Final = 0x7FFF0000  # SECCOMP_RET_ALLOW
_ERRNO: Final = 0x00050000  # SECCOMP_RET_ERRNO, the number in the low 16 bits
_KILL: Final = 0x80000000  # SECCOMP_RET_KILL_PROCESS

_OFFSET_NUMBER: Final = 0
_OFFSET_ARCHITECTURE: Final = 4
_OFFSET_ARGUMENTS: Final = 16
"""An argument's low word comes first: both machines are little-endian."""

FIRST_UNKNOWN_CALL: Final = 457
"""The first number that this table does not know (`statmount`): it and all above are refused."""

CLONE_NEW_NAMESPACES: Final = 0x7E020000
"""Every CLONE_NEW… flag that `clone` takes."""

SOCKET_FAMILIES: Final = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6: the only socket families, and they end in the sandbox's own
network."""

TERMINAL_INJECTIONS: Final = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX put characters into a terminal's input."""

AUDIT_ARCHITECTURE: Final[Mapping[str, int]] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Name, number on x86_64, number on aarch64 (None: the call does not exist there).
_FORBIDDEN: Final[tuple[tuple[str, int | None, int | None], ...]] = (
    # Looking into or steering other processes.
    ("ptrace", 101, 117),
    ("process_vm_readv", 310, 270),
    ("process_vm_writev", 311, 271),
    ("kcmp", 312, 272),
    ("pidfd_getfd", 438, 438),
    ("process_madvise", 440, 440),
    # Changing what the file system looks like.
    ("mount", 165, 40),
    ("umount2", 166, 39),
    ("pivot_root", 155, 41),
    ("chroot", 161, 51),
    ("open_tree", 428, 428),
    ("move_mount", 429, 429),
    ("fsopen", 430, 430),
    ("fsconfig", 431, 431),
    ("fsmount", 432, 432),
    ("fspick", 433, 433),
    ("mount_setattr", 442, 442),
    ("open_by_handle_at", 304, 265),
    ("name_to_handle_at", 303, 264),
    ("quotactl", 179, 60),
    ("quotactl_fd", 443, 443),
    ("fanotify_init", 300, 262),
    ("fanotify_mark", 301, 263),
    # Namespaces.
    ("unshare", 272, 97),
    ("setns", 308, 268),
    # The machine itself.
    ("swapon", 167, 224),
    ("swapoff", 168, 225),
    ("reboot", 169, 142),
    ("sethostname", 170, 161),
    ("setdomainname", 171, 162),
    ("init_module", 175, 105),
    ("finit_module", 313, 273),
    ("delete_module", 176, 106),
    ("kexec_load", 246, 104),
    ("kexec_file_load", 320, 294),
    ("acct", 163, 89),
    ("syslog", 103, 116),
    ("settimeofday", 164, 170),
    ("clock_settime", 227, 112),
    ("adjtimex", 159, 171),
    ("clock_adjtime", 305, 266),
    ("iopl", 172, None),
    ("ioperm", 173, None),
    ("modify_ldt", 154, None),
    ("personality", 135, 92),
    ("lookup_dcookie", 212, 18),
    ("vhangup", 153, 58),
    ("uselib", 134, None),
    ("ustat", 136, None),
    ("sysfs", 139, None),
    # Parts of the kernel with a long list of past holes, which no ordinary program needs.
    ("bpf", 321, 280),
    ("perf_event_open", 298, 241),
    ("userfaultfd", 323, 282),
    ("keyctl", 250, 219),
    ("add_key", 248, 217),
    ("request_key", 249, 218),
    ("mbind", 237, 235),
    ("set_mempolicy", 238, 237),
    ("set_mempolicy_home_node", 450, 450),
    ("migrate_pages", 256, 238),
    ("move_pages", 279, 239),
    # Memory that neither a process nor a file system shows.
    ("memfd_secret", 447, 447),
    ("shmget", 29, 194),
    ("shmat", 30, 196),
    ("msgget", 68, 186),
    ("semget", 64, 190),
    ("mq_open", 240, 180),
)

# Refused as unknown, so that libraries take the older way that they all have.
_ABSENT: Final[tuple[tuple[str, int, int], ...]] = (
    ("clone3", 435, 435),  # its flags lie in memory, where a filter can't read them
    ("memfd_create", 319, 279),
    ("io_uring_setup", 425, 425),
    ("io_uring_enter", 426, 426),
    ("io_uring_register", 427, 427),
)

_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_SOCKET: Final = {"x86_64": 41, "aarch64": 198}
_IOCTL: Final = {"x86_64": 16, "aarch64": 29}


def machine() -> str | None:
    """Returns the name of this machine's filter, or None where there is none.

    A 32-bit interpreter on a 64-bit kernel makes 32-bit calls, for which these numbers are wrong.
    """
    name = platform.machine()
    known = name in AUDIT_ARCHITECTURE and sys.byteorder == "little"
    return name if known and struct.calcsize("P") == 8 else None


def forbidden_calls(machine_name: str) -> dict[str, int]:
    """Returns the names and numbers of the calls that are refused on a machine, whatever their
    arguments."""
    column = 1 if machine_name == "x86_64" else 2
    rows = (*_FORBIDDEN, *_ABSENT)
    numbers = ((row[0], row[column]) for row in rows)
    return {name: number for name, number in numbers if isinstance(number, int)}


def filter_program(machine_name: str) -> bytes:
    """Returns the filter of a machine of `AUDIT_ARCHITECTURE`, in the form that `bwrap --seccomp`
    reads."""
    absent = {name for name, _, _ in _ABSENT}
    program: list[bytes] = [
        _instruction(_LOAD_WORD, _OFFSET_ARCHITECTURE),
        # Calls in another machine's numbers (32-bit ones) would be judged by the wrong table.
        _instruction(_JUMP_EQUAL, AUDIT_ARCHITECTURE[machine_name], jump_true=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD_WORD, _OFFSET_NUMBER),
        # This also catches the x32 calls of x86_64, whose numbers have bit 30 set.
        _instruction(_JUMP_AT_LEAST, FIRST_UNKNOWN_CALL, jump_false=1),
        _instruction(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    for name, number in forbidden_calls(machine_name).items():
        refusal = errno.ENOSYS if name in absent else errno.EPERM
        program.append(_instruction(_JUMP_EQUAL, number, jump_false=1))
        program.append(_instruction(_RETURN, _ERRNO | refusal))
    program += _on_call(
        _CLONE[machine_name],
        0,
        [
            _instruction(_JUMP_ANY_BIT, CLONE_NEW_NAMESPACES, jump_false=1),
            _instruction(_RETURN, _ERRNO | errno.EPERM),
        ],
    )
    program += _on_call(
        _SOCKET[machine_name],
        0,
        [
            *_returns_on(SOCKET_FAMILIES, _ALLOW),
            _instruction(_RETURN, _ERRNO | errno.EAFNOSUPPORT),
        ],
    )
    program += _on_call(
        _IOCTL[machine_name], 1, list(_returns_on(TERMINAL_INJECTIONS, _ERRNO | errno.EPERM))
    )
    program.append(_instruction(_RETURN, _ALLOW))
    return b"".join(program)


def _instruction(code: int, constant: int, *, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, constant)


def _on_call(number: int, argument: int, body: list[bytes]) -> list[bytes]:
    """Runs `body` with an argument's low word loaded if the call is `number`; allows what falls
    through."""
    inside = [
        _instruction(_LOAD_WORD, _OFFSET_ARGUMENTS + 8 * argument),
        *body,
        _instruction(_RETURN, _ALLOW),
    ]
    return [_instruction(_JUMP_EQUAL, number, jump_false=len(inside)), *inside]


def _returns_on(values: Iterable[int], action: int) -> Iterable[bytes]:
    for value in values:
        yield _instruction(_JUMP_EQUAL, value, jump_false=1)
        yield _instruction(_RETURN, action)
