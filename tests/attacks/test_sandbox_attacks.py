"""Attack 19 of the catalogue, third part: programs that want to see or reach what is outside.

Each test runs a hostile program in the real sandbox, which says what it found; where something
outside could have been touched, the test looks at that as well.
"""

# What is read and started here are entries of /proc and small files: nothing that blocks.
# ruff: noqa: ASYNC220, ASYNC240

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from kowalski_executors.code_executor import CodeExecutor
from kowalski_executors.languages import find_languages
from kowalski_executors.seccomp import machine
from tests.ports.executors import (
    Recorder,
    answer,
    attempt,
    marked,
    marking,
    new_mark,
    python,
    until,
)

needs_filter = pytest.mark.skipif(
    machine() is None, reason="there is no system call filter for this machine's processor"
)

pytestmark = pytest.mark.needs_bubblewrap


async def test_the_devices_processes_can_not_be_seen(executor: CodeExecutor) -> None:
    code = """
import os
numbers = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
def reach(path, flags):
    try:
        os.close(os.open(path, flags))
        return True
    except OSError:
        return False
first = {name: reach(f"/proc/1/{name}", os.O_RDONLY)
         for name in ("environ", "cmdline", "mem", "maps", "fd", "root", "cwd", "exe", "stat")}
kernel = [path for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger",
          "/proc/sys/vm/overcommit_memory", "/proc/irq", "/proc/sys/kernel/hostname")
          if reach(path, os.O_WRONLY)]
secret = [path for path in ("/proc/kcore", "/proc/kmsg", "/dev/mem", "/dev/kmsg", "/sys/kernel")
          if reach(path, os.O_RDONLY)]
{"numbers": sorted(numbers), "parent": os.getppid(), "first": first,
 "kernel": kernel, "secret": secret}
"""
    found = await answer(executor, code)
    assert found["numbers"] == [1, 2]
    assert found["parent"] == 1
    assert not any(found["first"].values())
    assert found["kernel"] == []
    assert found["secret"] == []


async def test_the_nodes_home_and_key_can_not_be_read(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    executor = CodeExecutor(work_root=home / "work")
    secret = "the key of a device"
    (home / "identity.key").write_text(secret)
    (home / "identity.key").chmod(0o644)  # not even when its owner made it readable to all
    code = f"""
import glob, os
home = {str(home)!r}
key = home + "/identity.key"
paths = [key, home, home + "/work", os.path.dirname(home), "/etc/shadow", "/etc/passwd", "/home",
         "/var", "/run", "/sys", "/mnt", "/boot", "/tmp/../.." + key, "/proc/self/root" + key,
         "/proc/self/cwd/../.." + key, "/proc/1/root" + key, "/proc/self/task/2/root" + key]
os.symlink(key, "/task/link")
paths += ["/task/link", "/proc/self/map_files/x", *glob.glob("/proc/[0-9]*/root" + key)]
found = []
for path in paths:
    try:
        os.stat(path)
        found.append(path)
    except OSError:
        pass
shown = sorted(os.listdir("/"))
[found, shown]
"""
    found, shown = await answer(executor, code)
    assert found == []
    allowed = {"bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "task"}
    prefix = Path(sys.base_prefix).parts[1]
    assert set(shown) <= allowed | {"tmp", "usr", prefix}


async def test_of_the_folders_that_hold_languages_only_those_are_shown(
    executor: CodeExecutor,
) -> None:
    prefix = Path(sys.base_prefix).resolve()
    if prefix.is_relative_to("/usr"):
        pytest.skip("this Python is the distribution's, in /usr")
    code = """
import os, sys
shown = {}
folder = "/"
for part in sys.base_prefix.strip("/").split("/"):
    shown[folder] = os.listdir(folder)
    folder = os.path.join(folder, part)
shown
"""
    needed = [prefix, *(folder for language in find_languages() for folder in language.shown)]
    shown = await answer(executor, code)
    for folder, names in list(shown.items())[1:]:  # the first is the root of all
        below = {one.relative_to(folder).parts[0] for one in needed if one.is_relative_to(folder)}
        assert set(names) == below


async def test_the_nodes_environment_can_not_be_read(
    executor: CodeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOWALSKI_API_TOKEN", "canary-91ae")
    code = """
import glob, os
texts = [repr(dict(os.environ))]
for path in glob.glob("/proc/*/environ"):
    try:
        texts.append(open(path).read())
    except OSError:
        pass
repr(texts)
"""
    assert "canary-91ae" not in await answer(executor, code)


async def test_no_inherited_descriptor_is_left(executor: CodeExecutor) -> None:
    code = """
import os
names = {}
for name in os.listdir("/proc/self/fd"):
    try:
        names[name] = os.readlink(f"/proc/self/fd/{name}").split(":")[0]
    except OSError:
        pass
names
"""
    found = await answer(executor, code)
    assert set(found.values()) == {"pipe"}
    assert len(found) == 4  # the standard streams, and the way back for the value


async def test_the_devices_processes_can_not_be_signalled(executor: CodeExecutor) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        code = f"""
import errno, os, signal
results = []
for process in ({bystander.pid}, {os.getpid()}, -{os.getpgid(0)}):
    try:
        os.kill(process, signal.SIGKILL)
        results.append("sent")
    except OSError as error:
        results.append(errno.errorcode[error.errno])
os.kill(1, signal.SIGKILL)      # the namespace's first process does not mind
os.kill(1, signal.SIGTERM)
try:
    os.kill(-1, signal.SIGTERM)     # everybody else there: nobody
except ProcessLookupError:
    pass
results
"""
        assert await answer(executor, code) == ["ESRCH", "ESRCH", "ESRCH"]
        assert bystander.poll() is None
        bystander.kill()


@needs_filter
async def test_the_calls_that_lead_out_are_refused(executor: CodeExecutor) -> None:
    code = """
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def failure(name, *args):
    ctypes.set_errno(0)
    result = getattr(libc, name)(*args)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else "done"
def open_socket(family, kind):
    try:
        socket.socket(family, kind).close()
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]
child = os.fork()
if child == 0:
    while True: pass
found = {
    "ptrace": failure("ptrace", 16, child, 0, 0),
    "read another's memory": failure("process_vm_readv", child, 0, 0, 0, 0, 0),
    "user namespace": failure("unshare", 0x10000000),
    "mount namespace": failure("unshare", 0x20000),
    "mount": failure("mount", b"x", b"/task", b"tmpfs", 0, 0),
    "unmount": failure("umount2", b"/proc/1", 2),
    "chroot": failure("chroot", b"/task"),
    "keyring": failure("syscall", 250 if os.uname().machine == "x86_64" else 219, 0, 0),
    "bpf": failure("syscall", 321 if os.uname().machine == "x86_64" else 280, 0, 0, 0),
    "io_uring": failure("syscall", 425, 1, 0),
    "clone3": failure("syscall", 435, 0, 0),
    "virtual machine's host": open_socket(40, socket.SOCK_STREAM),
    "raw network": open_socket(17, socket.SOCK_RAW),
    "kernel's network settings": open_socket(16, socket.SOCK_RAW),
}
os.kill(child, 9)
found
"""
    found = await answer(executor, code)
    refusals = {"EPERM", "ENOSYS", "EAFNOSUPPORT"}
    assert {what: how for what, how in found.items() if how not in refusals} == {}


async def test_a_program_has_no_privilege_and_can_gain_none(executor: CodeExecutor) -> None:
    code = """
import os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
setuid = []
for folder in ("/usr/bin", "/usr/sbin"):
    for name in os.listdir(folder):
        mode = os.lstat(f"{folder}/{name}").st_mode
        if mode & 0o4000:
            setuid.append(name)
became_root = False
try:
    os.setuid(0)
    became_root = True
except OSError:
    pass
{name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")} \
    | {"root": became_root or os.geteuid() == 0}
"""
    found = await answer(executor, code)
    assert found.pop("NoNewPrivs") == "1"
    assert found.pop("root") is False
    assert set(found.values()) == {"0" * 16}


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary node's programs are its own user")
async def test_a_node_that_is_root_gives_programs_users_that_are_nobody(
    executor: CodeExecutor,
) -> None:
    mark = new_mark()
    context = Recorder()
    users: set[int] = set()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            code = marking(mark) + "print('up')\nimport time\ntime.sleep(60)"
            nursery.start_soon(executor.run, attempt(python(code)), context)
        await until(lambda: len(context.writes) == 2)
        for process in marked(mark):
            users.add(Path(f"/proc/{process}").stat().st_uid)
        nursery.cancel_scope.cancel()
    assert users
    assert min(users) > 1_000_000_000


async def test_there_is_no_network(executor: CodeExecutor, tmp_path: Path) -> None:
    abstract = "\0kowalski-test-" + os.urandom(4).hex()
    with (
        socket.create_server(("127.0.0.1", 0)) as on_loopback,
        socket.create_server(("0.0.0.0", 0)) as everywhere,
        socket.socket(socket.AF_UNIX) as unnamed,
        socket.socket(socket.AF_UNIX) as named,
    ):
        unnamed.bind(abstract)
        unnamed.listen()
        named.bind(str(tmp_path / "socket"))
        named.listen()
        ports = [on_loopback.getsockname()[1], everywhere.getsockname()[1]]
        code = f"""
import socket
results = {{}}
def reach(what, family, address):
    with socket.socket(family) as one:
        one.settimeout(0.5)
        try:
            one.connect(address)
            results[what] = "reached"
        except OSError:
            results[what] = "refused"
for port in {ports!r}:
    for host in ("127.0.0.1", "127.1.2.3", {own_address()!r}, "169.254.169.254", "192.0.2.1"):
        reach(f"{{host}}:{{port}}", socket.AF_INET, (host, port))
    reach("::1", socket.AF_INET6, ("::1", port))
reach("abstract", socket.AF_UNIX, {abstract!r})
reach("named", socket.AF_UNIX, {str(tmp_path / "socket")!r})
try:
    results["name"] = socket.gethostbyname("localhost.example.com")
except OSError:
    results["name"] = "refused"
[results, open("/proc/net/dev").read(), socket.gethostname()]
"""
        results, devices, host_name = await answer(executor, code)
        for listener in (on_loopback, everywhere, unnamed, named):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
    assert set(results.values()) == {"refused"}
    names = [line.split(":")[0].strip() for line in devices.splitlines()[2:]]
    assert [name for name in names if not is_template(name)] == ["lo"]
    assert host_name == "sandbox"


def own_address() -> str:
    """An address of this device that is not its loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.2"


def is_template(device: str) -> bool:
    """Whether the kernel puts such a device, unconnected, into every new network namespace."""
    return device.startswith(("sit", "tunl", "gre", "erspan", "ip_vti", "ip6", "ip6tnl", "ip6_vti"))


async def test_a_program_that_tears_its_surroundings_down_hurts_only_itself(
    executor: CodeExecutor,
) -> None:
    code = """
import os, shutil
for folder in ("/usr", "/task", "/tmp", "/dev", "/etc", "/proc"):
    shutil.rmtree(folder, ignore_errors=True)
os.chdir("/")
len(os.listdir("/usr/lib")) > 0
"""
    # All of /usr is walked, which takes a disk that has just started its time.
    assert await answer(executor, code, timeout_s=120) is True
    assert await answer(executor, "import os\nos.listdir('/task')") == []
    assert Path("/usr/lib").is_dir()


async def test_runs_leave_nothing_for_the_next_one(executor: CodeExecutor) -> None:
    code = """
import os
found = sorted(name for folder in ("/task", "/tmp", "/dev/shm") for name in os.listdir(folder))
for folder in ("/task", "/tmp", "/dev/shm"):
    open(folder + "/left", "w").close()
found
"""
    for _ in range(2):
        assert await answer(executor, code) == []
