"""What `kowalski doctor` looks at. Each check tries the thing itself and says what it found.

A check returns `Finding(ok, sentence, mend)`: true, false, or None where there was nothing to look
at. None of them changes anything on the device.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from kowalski_node.home import KEY_FILE, LEDGER_FILE, default_home
from kowalski_protocol.errors import Problem
from kowalski_protocol.limits import LAN

from .transport import NodeApi
from .wording import size

DISK_FREE_MIN_BYTES: Final = 1024**3
FILES_MIN: Final = 1024
"""The API's 256 connections, members, the ledger and running tasks, twice over."""
PYTHON_MIN: Final[tuple[int, ...]] = (3, 11)
PROBE_S: Final = 20.0
MDNS_GROUP: Final = "224.0.0.251"
MDNS_PORT: Final = 5353


class Finding(NamedTuple):
    """What one check found."""

    ok: bool | None
    sentence: str
    mend: str | None = None


class Result(NamedTuple):
    """A finding under its name."""

    name: str
    ok: bool | None
    sentence: str
    mend: str | None


def run_checks(url: str, token: str | None) -> list[Result]:
    """All checks, in the order in which a person would ask."""
    home = default_home()
    cluster = _cluster(url, token)
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("Python", python_version),
        ("home folder", lambda: home_folder(home)),
        ("key file", lambda: key_file(home / KEY_FILE)),
        ("ledger", lambda: ledger(home / LEDGER_FILE)),
        ("disk space", lambda: disk_space(home)),
        ("node", lambda: node(url, cluster)),
        ("sandbox", sandbox),
        ("clock", lambda: clock(cluster)),
        ("discovery", discovery),
        ("open files", open_files),
    )
    return [Result(name, *check()) for name, check in checks]


def _cluster(url: str, token: str | None) -> dict[str, Any] | Problem:
    try:
        return NodeApi(url, token).get("/api/cluster")
    except Problem as problem:
        return problem


def python_version() -> Finding:
    """The version that runs this command, and so the node."""
    version = ".".join(map(str, sys.version_info[:3]))
    # As a tuple of numbers: the tools know that an older Python can't get here by installing.
    if tuple(sys.version_info[:2]) >= PYTHON_MIN:
        return Finding(True, f"{version} at {sys.executable}")
    return Finding(False, f"{version} is too old; Kowalski needs 3.11.", "sudo apt install python3")


def home_folder(home: Path) -> Finding:
    """Whether the node can keep its things, for itself."""
    if not home.exists():
        parent = next(folder for folder in home.parents if folder.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return Finding(True, f"{home} will be made at the first start")
        return Finding(False, f"{home} can't be made.", f"KOWALSKI_HOME=~/kowalski {_NODE}")
    if not home.is_dir() or not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return Finding(False, f"{home} can't be written.", f"chown -R $USER {home}")
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & 0o022:
        return Finding(False, f"Others may write into {home}.", f"chmod 700 {home}")
    return Finding(True, f"{home}, mode {mode:o}")


_NODE: Final = "kowalski-node"


def key_file(path: Path) -> Finding:
    """Whether the identity is this user's alone."""
    if not path.exists():
        return Finding(None, "none yet; drawn at the first start")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding(False, f"Others may read {path} (mode {mode:o}).", f"chmod 600 {path}")
    return Finding(True, f"{path}, mode {mode:o}")


def ledger(path: Path) -> Finding:
    """Whether the ledger can be opened and read."""
    if not path.exists():
        return Finding(None, "none yet; made at the first start")
    from kowalski_ledger.file import open_ledger

    from .ledger import ledger_size

    try:
        with open_ledger(path) as opened:
            return Finding(True, f"{opened.count:,} events, {ledger_size(path)}")
    except Problem as problem:
        return Finding(False, problem.sentence, problem.mend or f"kowalski audit --ledger {path}")


def disk_space(home: Path) -> Finding:
    """Whether the ledger has room to grow."""
    folder = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    if free < DISK_FREE_MIN_BYTES:
        return Finding(False, f"Only {size(free)} are free at {folder}.", f"du -sh {folder}/*")
    return Finding(True, f"{size(free)} free at {folder}")


def node(url: str, cluster: dict[str, Any] | Problem) -> Finding:
    """Whether our node answers, or its port is free for it."""
    if not isinstance(cluster, Problem):
        return Finding(True, f"{cluster['name']} answers at {url}")
    if cluster.code == "unauthorized":
        return Finding(False, f"A node answers at {url} and asks for a token.", cluster.mend)
    if cluster.code != "node_unreachable":
        return Finding(False, cluster.sentence, "kowalski-node --api 127.0.0.1:52430")
    host, _, port = url.rpartition("//")[2].rpartition(":")
    try:
        with socket.create_server((host.strip("[]") or "127.0.0.1", int(port))):
            return Finding(None, f"none runs; {url} is free", _NODE)
    except (OSError, ValueError, OverflowError):
        sentence = f"Something else than a node holds {url}."
        return Finding(False, sentence, "kowalski-node --api 127.0.0.1:52430")


def sandbox() -> Finding:
    """Whether code can be confined, by running some."""
    import tempfile

    import trio

    from kowalski_executors import make_executors

    async def probe() -> list[Any]:
        with tempfile.TemporaryDirectory() as folder, trio.fail_after(PROBE_S):
            executors = make_executors(work_root=Path(folder))
            return [await executor.probe_all() for executor in executors]

    try:
        found = trio.run(probe)
    except trio.TooSlowError:
        return Finding(False, "The sandbox did not answer in time.", "kowalski doctor")
    confined = [one for one in found if "code" in one.kinds]
    if confined:
        languages = ", ".join(f"{name} {v}" for name, v in confined[0].languages.items())
        return Finding(True, f"{confined[0].sandbox} runs {languages}")
    problems = [problem for one in found for problem in one.problems]
    sentence, _, mend = (problems or ["No sandbox works here."])[0].partition(" To mend it: ")
    return Finding(False, sentence, mend or "sudo apt-get install bubblewrap")


def clock(cluster: dict[str, Any] | Problem) -> Finding:
    """Whether this device's clock agrees with the members'."""
    if isinstance(cluster, Problem):
        return Finding(None, "no node to compare with members")
    offsets = sorted(
        device["clock_offset_s"]
        for device in cluster["devices"]
        if not device["self"] and device["alive"] and device.get("clock_offset_s") is not None
    )
    if not offsets:
        return Finding(None, "no other member to compare with")
    median = offsets[len(offsets) // 2]
    if abs(median) > LAN.clock_warn_s:
        sentence = f"The others' clocks are {median:+.0f} s off this one."
        return Finding(False, sentence, "sudo timedatectl set-ntp true")
    return Finding(True, f"{abs(median) * 1000:.0f} ms off the others'")


def discovery() -> Finding:
    """Whether multicast DNS can be heard on this device's networks."""
    membership = struct.pack("4s4s", socket.inet_aton(MDNS_GROUP), socket.inet_aton("0.0.0.0"))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT"):
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("", MDNS_PORT))
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    except OSError as error:
        sentence = f"Multicast DNS can't be heard ({error.strerror}); members need addresses."
        return Finding(False, sentence, "kowalski-node --no-mdns --peer HOST")
    return Finding(True, "multicast DNS can be heard")


def open_files() -> Finding:
    """Whether the system lets a node open what it needs."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES_MIN:
        sentence = f"Only {soft} files may be open; a busy node needs {FILES_MIN}."
        return Finding(False, sentence, "ulimit -n 4096")
    return Finding(True, "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft:,}")
