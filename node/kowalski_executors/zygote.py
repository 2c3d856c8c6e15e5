"""The process in the sandbox that forks one confined child for each program.

The node hands this to a bare interpreter, like the driver, in a sandbox that bubblewrap has made;
nothing of a task ever reaches it but descriptors. A request comes over a socket: the sizes of the
file systems and the driver's options, with seven descriptors, the program's five pipes, the
lifeline and the reply. What the node gets back on the reply is a pidfd of the program's process 1,
which is how it is watched and killed, and at the end the status.

A child confines itself anew: namespaces of its own (users, mounts, processes, network, IPC), new
file systems, no capability, no way to gain one, and the filter on system calls. It splits into the
warden and the process that will become the program, and one such pair stands ready at any time. The
zygote ends when the node closes its end of the socket, and as it is process 1 of the outer sandbox,
all children end with it.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import _socket
import array
import ctypes
import fcntl
import gc
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

    CONTENT: tuple[CodeType, list[CodeType], bytes]
    """This module, the warden and the driver, and the filter (empty where there is none)."""

PRELOADED = (
    "_sitebuiltins",
    "bisect",
    "collections",
    "contextlib",
    "copy",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "io",
    "itertools",
    "json",
    "linecache",
    "math",
    "operator",
    "pathlib",
    "random",
    "re",
    "resource",
    "select",
    "statistics",
    "string",
    "textwrap",
    "time",
    "traceback",
    "typing",
)
"""What small programs import most: 30 ms of imports that none of them pays for."""

NEW_MOUNTS = 0x20000
NEW_IPC = 0x8000000
NEW_USERS = 0x10000000
NEW_PROCESSES = 0x20000000
NEW_NETWORK = 0x40000000
CLONE_PIDFD = 0x1000
SYS_CLONE = {"x86_64": 56, "aarch64": 220}
MS_READ_ONLY = 1
MS_NO_SETUID = 2
MS_NO_DEVICES = 4
MS_NO_EXECUTION = 8
MS_REMOUNT = 32
MS_RECURSIVE = 0x4000
MS_PRIVATE = 0x40000
HARMLESS = MS_NO_SETUID | MS_NO_DEVICES
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522
CAPABILITIES_MAX = 64
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
SIGCHLD = 17
DESCRIPTORS = 7
TRIES = 3
"""How many children are tried for a request."""
ROOM_FOR_DESCRIPTORS = _socket.CMSG_SPACE(DESCRIPTORS * 4)
MESSAGE_SIZE_BYTES_MAX = 4096
SOL_SOCKET = 1
SCM_RIGHTS = 1
WRITABLE = ("/task", "/tmp", "/dev/shm")

KINDS = NEW_USERS | NEW_MOUNTS | NEW_PROCESSES | NEW_IPC | NEW_NETWORK | CLONE_PIDFD
USER, GROUP = os.getuid(), os.getgid()

WARDEN: dict[str, Any] = {"__name__": "warden"}
DRIVER: dict[str, Any] = {"__name__": "driver"}
"""The names of those modules, which the node hands in compiled."""

libc = ctypes.CDLL(None, use_errno=True)
python = ctypes.PyDLL(None, use_errno=True)
"""The same, without letting go of the interpreter's lock."""


def must(returned: int, what: str) -> None:
    """Raises OSError where a call of the C library has failed."""
    if returned != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(kind: str | None, place: str, flags: int, options: str = "") -> None:
    """Mounts a file system, or changes how one is mounted."""
    name = kind.encode() if kind else None
    must(libc.mount(b"none", place.encode(), name, flags, options.encode()), place)


def write_file(path: str, text: str) -> None:
    """Writes a file of the kernel in one write."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def fork_into_namespaces() -> tuple[int, int]:
    """Forks a child that is process 1 of new namespaces, in which it is its own master and no one
    else's.

    Returns its number and a pidfd, and (0, 0) in the child.
    """
    pidfd = ctypes.c_int(-1)
    python.PyOS_BeforeFork()
    # The system call itself, since fork() makes no namespaces, and one process more, which made
    # them first, would double the cost. The C library's note of the thread's number is wrong in
    # the child from then on; it only waits, and forks the program in the ordinary way.
    number = python.syscall(
        SYS_CLONE[os.uname().machine], KINDS | SIGCHLD, None, ctypes.byref(pidfd)
    )
    why = ctypes.get_errno()  # the next call has one of its own
    if number == 0:
        python.PyOS_AfterFork_Child()
        return 0, 0
    python.PyOS_AfterFork_Parent()
    if number < 0:
        raise OSError(why, os.strerror(why), "clone")
    return number, pidfd.value


def become_own_master() -> None:
    """Maps this process's user into its namespace."""
    write_file("/proc/self/setgroups", "deny")
    write_file("/proc/self/uid_map", f"{USER} {USER} 1")
    write_file("/proc/self/gid_map", f"{GROUP} {GROUP} 1")


def mount_own() -> None:
    """Lays file systems of its own over those of the outer sandbox."""
    mount(None, "/", MS_RECURSIVE | MS_PRIVATE)
    for place in WRITABLE:
        mode = "0755" if place == "/task" else "1777"
        mount("tmpfs", place, HARMLESS, f"size=4k,mode={mode}")
    mount("proc", "/proc", HARMLESS | MS_NO_EXECUTION)
    # What lies over process 1 hides its memory, its descriptors and its command line.
    mount("tmpfs", "/proc/1", HARMLESS | MS_READ_ONLY, "size=4096")


def make_room(sizes: list[str]) -> None:
    """Gives the writable file systems their sizes, in bytes."""
    for place, size in zip(WRITABLE, sizes, strict=True):
        mount("tmpfs", place, HARMLESS | MS_REMOUNT, f"size={size}")


def bring_up_loopback() -> None:
    """Gives the new network namespace the one interface that it has."""
    end = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(end.fileno(), SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    end.close()


def bind_for_good() -> None:
    """No process that comes from this one can ever gain what it does not have."""
    must(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    must(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient")
    for capability in range(CAPABILITIES_MAX):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # the first that this kernel does not know


def give_up_powers() -> None:
    """Drops all capabilities and takes the filter, if there is one."""
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    must(libc.capset(header, bytes(24)), "capset")
    filter_program = CONTENT[-1]  # noqa: F821
    if filter_program:
        kept = ctypes.create_string_buffer(filter_program, len(filter_program))
        program = struct.pack("HxxxxxxP", len(filter_program) // 8, ctypes.addressof(kept))
        taken = libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)
        must(taken, "seccomp")


def receive(socket: _socket.socket) -> tuple[bytes, list[int]]:
    """The next request: its message and descriptors; nothing where the other end was closed."""
    message, ancillary, _, _ = socket.recvmsg(MESSAGE_SIZE_BYTES_MAX, ROOM_FOR_DESCRIPTORS)
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data[: len(data) - len(data) % 4])
    return message, list(descriptors)


def pass_on(socket: _socket.socket, message: bytes, descriptors: list[int]) -> bool:
    """Sends a message with descriptors; False where nobody is there any more."""
    try:
        socket.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, array.array("i", descriptors))])
    except OSError:
        return False
    return True


def stand(orders: _socket.socket) -> None:
    """In the child: gets ready, and splits into the warden and the one program that it will run;
    never returns in the warden's half."""
    trouble = ""
    try:
        become_own_master()
        mount_own()
        bring_up_loopback()
        bind_for_good()
    except OSError as error:
        trouble = str(error)
    inner, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    _signal.signal(SIGCHLD, _signal.SIG_DFL)  # pyright: ignore
    program = os.fork()
    if program:
        orders.close()
        theirs.close()
        try:
            be_warden(program, inner)
        finally:
            os._exit(1)
    inner.close()
    await_orders(orders, theirs, trouble)


def be_warden(program: int, inner: _socket.socket) -> None:
    """In process 1: watches over the program once it has its orders; never returns."""
    give_up_powers()
    woken, wake = WARDEN["wake_on_child"]()
    inner.send(b"R")
    _, descriptors = receive(inner)
    if len(descriptors) != 2:
        os._exit(0)  # the zygote has ended, and nothing was ever to be run
    lifeline, reply = descriptors
    WARDEN["keep_open"]([lifeline, reply, woken, wake])
    status = WARDEN["watch"](program, lifeline, woken)
    try:
        os.write(reply, b"%d" % status)
    except OSError:
        pass  # the node is gone
    os._exit(status)


def await_orders(orders: _socket.socket, warden: _socket.socket, trouble: str) -> None:
    """In process 2: waits for the program's descriptors, and runs it; never returns."""
    if not warden.recv(1):
        os._exit(0)
    message, descriptors = receive(orders)
    if len(descriptors) != DESCRIPTORS:
        os._exit(0)  # the zygote has ended
    stdin, stdout, stderr, request, result, lifeline, reply = descriptors
    # From here on it ends with the node, whatever happens.
    if not pass_on(warden, b"W", [lifeline, reply]):
        os._exit(0)
    for descriptor in (lifeline, reply):
        os.close(descriptor)
    for place, descriptor in enumerate((stdin, stdout, stderr)):
        os.dup2(descriptor, place)
    try:
        if trouble:
            raise OSError(trouble)
        words = message.decode("ascii").split()
        make_room(words[:3])
        os.chdir("/task")
        give_up_powers()
    except Exception as error:  # guard: the node must learn why nothing runs
        os.write(2, f"{type(error).__name__}: {error}".encode())
        os._exit(126)
    sys.argv = ["-c", str(result), str(request), *words[3:]]
    DRIVER["main"]()


def make_ready(control: _socket.socket) -> tuple[_socket.socket, int]:
    """Forks a child that stands ready; returns the socket for its orders, and its pidfd."""
    orders, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    number, pidfd = fork_into_namespaces()
    if number == 0:
        control.close()
        orders.close()
        stand(theirs)
    theirs.close()
    return orders, pidfd


def serve(control: _socket.socket) -> None:
    """Hands each request to the child that stands ready, until the node closes its end.

    The next child gets ready while the program runs, so that nobody waits for namespaces. Where
    none can be made, that costs the one request that comes next, and no program that runs.
    """
    while True:
        ready, trouble = None, ""
        try:
            ready = make_ready(control)
        except OSError as error:
            trouble = f"{type(error).__name__}: {error}"
        message, descriptors = receive(control)
        if not message:
            os._exit(0)
        if len(descriptors) == DESCRIPTORS:
            for _ in range(TRIES):
                if ready is not None and pass_on(ready[0], message, descriptors):
                    reply = _socket.socket(fileno=descriptors[-1])
                    pass_on(reply, b"P", [ready[1]])
                    reply.detach()
                    break
                # It was ended while it stood, or could not be made: another one may be.
                trouble = trouble or "The process that stood ready for it had ended."
                give_back(ready)
                ready = None
                try:
                    ready = make_ready(control)
                except OSError as error:
                    trouble = f"{type(error).__name__}: {error}"
            else:
                os.write(descriptors[2], trouble.encode())
        for descriptor in descriptors:
            os.close(descriptor)
        give_back(ready)
        del message, descriptors  # nothing of a request is there for the next one to find


def give_back(ready: tuple[_socket.socket, int] | None) -> None:
    """Closes what was kept of a child."""
    if ready is not None:
        ready[0].close()
        os.close(ready[1])


def main() -> None:
    """Gets ready, and serves."""
    for name in PRELOADED:
        __import__(name)
    _, (warden, driver), _ = CONTENT  # noqa: F821
    exec(warden, WARDEN)
    exec(driver, DRIVER)
    # Children that have ended are not waited for.
    _signal.signal(SIGCHLD, _signal.SIG_IGN)  # pyright: ignore
    # What is here now is never garbage, and a collection in a child would only copy its pages.
    gc.collect()
    gc.freeze()
    control = _socket.socket(fileno=int(sys.argv[1]))
    control.setblocking(True)
    serve(control)


main()
