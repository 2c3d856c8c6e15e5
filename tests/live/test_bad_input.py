"""What is asked wrongly, or of a device in trouble, gets a stable code, and nothing is lost by it.

Requests go through the real API of a real node; what is wrong with the device itself (its key, its
ports, its ledger, its disk, its clock) is made so before or while a real `kowalski-node` runs.
After each case the node is shown to work as before.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time_ns
from typing import Any

import pytest
import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode, NodeFailed
from kowalski_ledger.replay import replay
from kowalski_node.door import join
from kowalski_protocol.errors import CODES, Problem
from kowalski_protocol.identity import Identity, author_of
from kowalski_protocol.tasks import KINDS_TO_COME
from tests.live.evidence import (
    Evidence,
    assert_all_agree,
    assert_ledgers_agree,
    settled,
    tool,
)

WAIT_S = 30.0
PAGE_SIZE_BYTES = 4096
ECHO: dict[str, Any] = {"tool": "echo", "args": {"value": "still here"}}
HELLO = {"language": "python", "code": "print('hello')"}


async def still_works(node: LocalNode) -> str:
    """The node runs a task to its end; its id."""
    view = await node.client.run("tool", ECHO, wait_s=WAIT_S)
    assert view.result is not None
    assert (view.outcome, view.result.value) == ("completed", "still here")
    return view.id


async def refused(node: LocalNode, code: str, task: dict[str, Any]) -> Problem:
    """The problem with which a task is refused, and that nothing of it stays."""
    before = (await node.client.cluster()).digest
    kind = task.pop("kind", "tool")
    payload = task.pop("payload", ECHO)
    with pytest.raises(Problem) as raised:
        await node.client.submit(kind, payload, **task)
    assert raised.value.code == code, raised.value
    assert raised.value.status == CODES[code].status
    assert (await node.client.cluster()).digest == before
    return raised.value


async def refused_start(node: LocalNode, *options: str) -> str:
    """What a node says when it will not start; it says it in words."""
    with pytest.raises(NodeFailed):
        await node.start(*options)
    assert node.process is not None
    assert node.process.returncode == 1
    said = node.log_end()
    assert "Traceback" not in said
    return said


# Tasks that can't be.


async def test_what_no_executor_knows_is_refused_by_name(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk", "--unsandboxed")
    problem = await refused(desk, "unknown_kind", {"kind": "dance"})
    assert "'dance'" in problem.sentence
    assert "code, tool" in problem.sentence
    for kind in KINDS_TO_COME:
        assert f"'{kind}'" in (await refused(desk, "not_supported", {"kind": kind})).sentence
    cobol = {"language": "cobol", "code": "STOP RUN."}
    problem = await refused(desk, "unknown_language", {"kind": "code", "payload": cobol})
    assert "'cobol'" in problem.sentence
    assert "python" in problem.sentence
    problem = await refused(desk, "unknown_tool", {"payload": {"tool": "telepathy"}})
    assert "'telepathy'" in problem.sentence
    assert all(name in problem.sentence for name in ("device_info", "echo", "hash", "sleep"))
    await still_works(desk)
    view = await desk.client.run("code", HELLO, wait_s=WAIT_S)
    assert view.result is not None
    assert view.result.stdout == "hello\n"


async def test_fields_that_are_to_come_are_refused_by_name(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    to_come: dict[str, Any] = {
        "after": ["0" * 32],
        "parent": "0" * 32,
        "private": True,
        "secrets": ["password"],
        "delivery": "at_most_once",
        "durability": 2,
    }
    for field, value in to_come.items():
        problem = await refused(desk, "not_supported", {field: value})
        assert f"'{field}'" in problem.sentence
    with pytest.raises(Problem) as raised:
        await desk.client.batch([tool("echo", value=1), {**tool("echo", value=2), **to_come}])
    assert raised.value.code == "not_supported"
    assert "Task 1 of the list" in raised.value.sentence
    for field, value in (("colour", "red"), ("requires", {"luck": 1}), ("timeout_s", -1)):
        assert field in (await refused(desk, "bad_request", {field: value})).sentence.lower() or (
            field == "requires"
        )
    assert (await desk.client.tasks()).tasks == []
    await still_works(desk)


async def test_what_is_too_large_is_refused_with_the_limit(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    large = {"tool": "echo", "args": {"value": "x" * 65_536}}
    problem = await refused(desk, "spec_too_large", {"payload": large})
    assert "65,536" in problem.sentence
    assert "blob" in problem.sentence
    labels = {
        f"{number:02}" + "\N{GRINNING FACE}" * 126: "\N{GRINNING FACE}" * 128
        for number in range(32)
    }
    await refused(
        desk,
        "spec_too_large",
        {"labels": labels, "requires": {"labels": labels}, "failover": "queue"},
    )
    with pytest.raises(Problem) as raised:
        await desk.client.batch([tool("echo", value=1)] * 10_001)
    assert raised.value.code == "too_large"
    assert "10,000" in raised.value.sentence
    assert (await desk.client.tasks()).tasks == []
    # What just fits is taken.
    fits = {"tool": "echo", "args": {"value": "x" * 65_000}}
    view = await desk.client.run("tool", fits, wait_s=WAIT_S)
    assert view.outcome == "completed"
    await still_works(desk)


async def test_what_no_device_could_run_is_refused_at_once_or_queued_where_asked(
    cluster: LocalCluster,
) -> None:
    desk = await cluster.add("desk")
    impossible: list[dict[str, Any]] = [
        {"memory_mb": 1e9},
        {"cores": 1_000_000},
        {"accelerator": "abacus"},
        {"platform": "plan9"},
        {"sandbox": "cellar"},
        {"labels": {"roof": "glass"}},
        {"device": Identity(bytes(range(32))).peer_id},
    ]
    for requires in impossible:
        problem = await refused(desk, "impossible_requirement", {"requires": requires})
        assert "desk " in problem.sentence
    wanted = {"labels": {"roof": "glass"}}
    handle = await desk.client.submit("tool", ECHO, requires=wanted, failover="queue")
    await still_works(desk)  # which shows that the queue was gone through
    view = await handle.result(0)
    assert view.state == "waiting"
    assert view.waiting is not None
    assert "waits for a device that can run it" in view.waiting
    # When such a device comes, it runs.
    lap = await cluster.add("lap", "--label", "roof=glass")
    view = await handle.result(WAIT_S)
    assert (view.outcome, view.device) == ("completed", lap.peer)
    await assert_all_agree(cluster, [handle.id])


async def test_a_key_stands_for_one_task(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    first = await desk.client.submit("tool", ECHO, idempotency_key="order 7")
    again = await desk.client.submit("tool", ECHO, idempotency_key="order 7")
    assert first.id == again.id
    assert (await first.result(WAIT_S)).outcome == "completed"
    problem = await refused(
        desk,
        "key_conflict",
        {"payload": {"tool": "echo", "args": {"value": 2}}, "idempotency_key": "order 7"},
    )
    assert problem.status == 409
    assert await desk.stop() == 0
    await desk.start()
    assert (await desk.client.submit("tool", ECHO, idempotency_key="order 7")).id == first.id
    assert [view.id for view in (await desk.client.tasks()).tasks] == [first.id]
    id = await still_works(desk)
    evidence = (await assert_ledgers_agree(cluster, [first.id, id]))[0]
    assert len(evidence.bodies("TaskSubmitted")) == 2


# A device that can't start.


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        yield taken.getsockname()[1]


@pytest.mark.parametrize("busy", ["listen", "api"])
async def test_a_first_start_that_finds_its_port_busy_tells_the_recovery_code(
    cluster: LocalCluster, busy: str
) -> None:
    desk = LocalNode("desk", cluster.folder, options=cluster.options)
    cluster.nodes.append(desk)
    with taken_port() as port:
        if busy == "api":
            desk.api = f"127.0.0.1:{port}"
        more = ("--listen", f"/ip4/127.0.0.1/tcp/{port}") if busy == "listen" else ()
        said = await refused_start(desk, *more)
    assert "[port_busy]" in said
    # The cluster is founded, and no later start can tell it.
    assert len(re.findall(r"recovery code .*: (?:[0-9a-f]{8}-){7}[0-9a-f]{8}", said)) == 1
    desk.api = "127.0.0.1:0"
    await desk.start()
    assert "recovery code" not in desk.log.read_text().rpartition("kowalski-node desk")[2]


async def test_a_busy_port_is_named(cluster: LocalCluster) -> None:
    desk = LocalNode("desk", cluster.folder, options=cluster.options)
    cluster.nodes.append(desk)
    await desk.start()
    id = await still_works(desk)
    assert await desk.stop() == 0
    with taken_port() as port:
        said = await refused_start(desk, "--listen", f"/ip4/127.0.0.1/tcp/{port}")
        assert "[port_busy]" in said
        assert str(port) in said
    with taken_port() as port:
        desk.api = f"127.0.0.1:{port}"
        said = await refused_start(desk)
        assert said.count("[port_busy]") == 2
        assert str(port) in said
        desk.api = "127.0.0.1:0"
    await desk.start()
    assert (await desk.client.result(id, 0)).outcome == "completed"
    await still_works(desk)


async def test_a_locked_home_has_one_node(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    twin = LocalNode("twin", cluster.folder, options=cluster.options)
    twin.home = desk.home
    cluster.nodes.append(twin)
    said = await refused_start(twin)
    assert "[home_locked]" in said
    assert "mend:" in said
    cluster.nodes.remove(twin)
    await still_works(desk)
    # The lock goes with the process, however that ends.
    await desk.kill()
    await desk.start()
    await still_works(desk)


async def test_a_key_that_others_can_read_is_not_used(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    peer = desk.peer
    assert await desk.stop() == 0
    key = desk.home / "identity.key"
    for mode in (0o644, 0o640, 0o604):
        key.chmod(mode)
        said = await refused_start(desk)
        assert "[key_exposed]" in said
        assert f"mend: chmod 600 {key}" in said
    key.chmod(0o600)
    await desk.start()
    assert desk.peer == peer
    await still_works(desk)


async def test_a_ledger_of_another_key_is_not_written_to(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    peer = desk.peer
    assert await desk.stop() == 0
    key = desk.home / "identity.key"
    kept = key.read_text(encoding="ascii")
    for other in (None, secrets.token_hex(32)):
        key.unlink()
        if other is not None:
            key.write_text(other, encoding="ascii")
            key.chmod(0o600)
        said = await refused_start(desk)
        assert "error [home_unusable]: The ledger in this home folder was written by" in said
        assert "mend: kowalski-node --home NEW_FOLDER" in said
    key.write_text(kept, encoding="ascii")
    await desk.start()
    assert desk.peer == peer
    await still_works(desk)


async def test_a_damaged_home_is_told_in_words(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    peer = desk.peer
    assert await desk.stop() == 0
    for name in ("blobs", "identity.key"):
        place, kept = desk.home / name, desk.home / f"{name}.kept"
        place.rename(kept)
        if name == "blobs":
            place.write_text("not a folder", encoding="utf-8")
        else:
            place.mkdir()
        said = await refused_start(desk)
        assert "error [home_unusable]: " in said
        assert str(place) in said
        assert "chmod" not in said
        place.unlink() if name == "blobs" else place.rmdir()
        kept.rename(place)
    await desk.start()
    assert desk.peer == peer
    await still_works(desk)


@pytest.fixture
def from_here(tmp_path: Path) -> Path:
    """The test's folder, named by where it is from the working directory."""
    return Path(os.path.relpath(tmp_path))


def within(folder: str, parent: Path) -> bool:
    """Whether a path is absolute and leads below another."""
    return Path(folder).is_absolute() and parent.resolve() in Path(folder).resolve().parents


async def test_a_home_named_by_where_one_stands_is_whole_to_a_program(
    tmp_path: Path, from_here: Path
) -> None:
    """Where the sandbox is off, a program's own folders lie in the node's home."""
    asks = "import os, tempfile\n[os.environ['HOME'], os.environ['TMPDIR'], tempfile.mkdtemp()]"
    async with LocalCluster(from_here, options=["--preset", "local", "--unsandboxed"]) as cluster:
        desk = await cluster.add("desk")
        assert not desk.home.is_absolute()
        program = {"language": "python", "code": asks}
        view = await desk.client.run("code", program, wait_s=WAIT_S)
        assert view.result is not None
        assert view.outcome == "completed", view.result.error
        assert [folder for folder in view.result.value if not within(folder, tmp_path)] == []


def kowalski(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kowalski_gateway.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_a_damaged_ledger_is_not_used_and_says_how_to_look_at_it(
    cluster: LocalCluster,
) -> None:
    desk = await cluster.add("desk")
    handles = await desk.client.batch([tool("echo", value=number) for number in range(200)])
    ids = [handle.id for handle in handles]
    await settled(desk, ids)
    assert await desk.stop() == 0
    path = desk.home / "ledger.db"
    whole = path.read_bytes()
    placed = Evidence(desk.home).bodies("TaskPlaced")
    at = whole.index(bytes.fromhex(placed[100][0])) // PAGE_SIZE_BYTES * PAGE_SIZE_BYTES
    page = whole[at : at + PAGE_SIZE_BYTES]
    one_bit = bytearray(page)
    one_bit[page.index(bytes.fromhex(placed[100][0])) + 5] ^= 1
    for rubbish in (bytes(PAGE_SIZE_BYTES), random.Random(1).randbytes(PAGE_SIZE_BYTES), one_bit):
        path.write_bytes(whole[:at] + rubbish + whole[at + PAGE_SIZE_BYTES :])
        said = await refused_start(desk)
        assert "[ledger_corrupt]" in said
        assert f"mend: kowalski audit --ledger {path}" in said
        for command in ("audit", "replay"):
            done = await trio.to_thread.run_sync(kowalski, command, "--ledger", str(path))
            said = done.stdout + done.stderr
            assert done.returncode == 1, (command, said)
            assert "Traceback" not in said
            assert "damaged" in said or "hash" in said, (command, said)
        done = await trio.to_thread.run_sync(kowalski, "replay", "--json", "--ledger", str(path))
        assert '"ledger_corrupt"' in done.stdout + done.stderr
        assert path.stat().st_size == len(whole), "looking changed the file"
    path.write_bytes(whole)
    await desk.start()
    assert (await desk.client.result(ids[100], 0)).outcome == "completed"
    assert replay(path).events >= 200
    await still_works(desk)


# A full disk.


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A disk of its own at `folder`; skips the test where that can't be made."""
    folder.mkdir()
    if not sys.platform.startswith("linux") or shutil.which("mount") is None:
        pytest.skip("a small disk is made by Linux' mount")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting a small disk wants root: {done.stderr.strip()[:100]}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def fill(ballast: Path) -> None:
    """Takes all room that is left on the disk."""
    with ballast.open("ab", buffering=0) as file:
        for size in (65_536, 4096):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


async def taken(node: LocalNode, key: str) -> str | None:
    """The id of a task that the node takes; None where its disk is full."""
    try:
        return (await node.client.submit("tool", ECHO, idempotency_key=key)).id
    except Problem as problem:
        if (problem.code, problem.status) != ("disk_full", 507):
            raise
        return None


async def until_full(node: LocalNode, ballast: Path) -> tuple[list[str], str]:
    """Fills the disk, submits until the node refuses: the ids it gave, the refused task's key."""
    ids: list[str] = []
    with trio.fail_after(WAIT_S):
        while True:
            await trio.to_thread.run_sync(fill, ballast)
            key = secrets.token_hex()
            id = await taken(node, key)
            if id is None:
                return ids, key
            ids.append(id)


async def until_room(node: LocalNode, key: str) -> str:
    """Submits what was refused until the node takes it."""
    with trio.fail_after(WAIT_S):
        while (id := await taken(node, key)) is None:
            await trio.sleep(0.05)  # poll: the node tries its disk once a second
        return id


async def warned(node: LocalNode, code: str) -> bool:
    return any(warning.code == code for warning in (await node.client.cluster()).warnings)


async def test_on_a_full_disk_authoring_stops_and_reading_goes_on(cluster: LocalCluster) -> None:
    folder = cluster.folder / "desk"
    ballast = folder / "ballast"
    with small_disk(folder, "16m"):
        desk = await cluster.add("desk")
        ids = [await still_works(desk)]
        queued = await desk.client.submit(
            "tool", ECHO, requires={"labels": {"not": "here"}}, failover="queue"
        )
        invite = await desk.client.invite()
        for _ in range(2):
            taken_ids, key = await until_full(desk, ballast)
            ids += taken_ids
            assert await warned(desk, "disk_full")
            with pytest.raises(Problem) as raised:
                await desk.client.submit("tool", ECHO)
            assert raised.value.code == "disk_full"
            with pytest.raises(Problem) as raised:
                await desk.client.cancel(queued.id)
            assert raised.value.code == "disk_full"
            with pytest.raises(Problem) as raised:
                await join(Identity(secrets.token_bytes(32)), invite.token, "late")
            assert raised.value.code == "disk_full"
            with pytest.raises(Problem) as raised:
                await desk.client.put_blob(bytes(100_000))
            assert raised.value.code == "disk_full"
            # The sampler, too, has met the full disk and left it at that.
            with trio.fail_after(WAIT_S):
                while "samples are not kept" not in desk.log_end():
                    await trio.sleep(0.05)  # poll: it samples every two seconds
            assert await desk.answers()
            assert (await desk.client.result(ids[0], 0)).outcome == "completed"
            assert (await desk.client.why(ids[0])).steps
            events = [event async for event in desk.client.events(follow=False)]
            assert len(events) > 4
            ballast.unlink()
            ids.append(await until_room(desk, key))
            await settled(desk, ids)
            assert not await warned(desk, "disk_full")
        await join(Identity(secrets.token_bytes(32)), invite.token, "in time")
        await desk.client.cancel(queued.id)
        assert (await queued.result(WAIT_S)).outcome == "cancelled"
        ids.append(await still_works(desk))
        (ledger,) = await assert_ledgers_agree(cluster, ids)
        # What was refused and asked for again was written and run once.
        assert len(ledger.bodies("TaskSubmitted")) == len(ids) + 1


async def test_a_node_that_is_killed_on_a_full_disk_loses_nothing(cluster: LocalCluster) -> None:
    folder = cluster.folder / "desk"
    ballast = folder / "ballast"
    with small_disk(folder, "16m"):
        desk = await cluster.add("desk")
        ids = [await still_works(desk)]
        ids += (await until_full(desk, ballast))[0]
        await desk.kill()
        await trio.to_thread.run_sync(fill, ballast)
        try:
            await desk.start()  # it may: what it needs at first may lie in room that it has
        except NodeFailed:
            assert "[disk_full]" in desk.log_end()
        assert "Traceback" not in desk.log_end()
        ballast.unlink()
        if not desk.alive:
            await desk.start()
        await settled(desk, ids)
        ids.append(await still_works(desk))
        await assert_ledgers_agree(cluster, ids)


# A clock that is wrong.


def faked_clock(time: str | Path) -> dict[str, str]:
    """The environment in which a node sees another time, or the one that a file says just now."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("another time wants libfaketime (Debian's package faketime)")
    environment = {"LD_PRELOAD": str(found[0]), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    if isinstance(time, Path):
        return {**environment, "FAKETIME_TIMESTAMP_FILE": str(time), "FAKETIME_CACHE_DURATION": "1"}
    return {**environment, "FAKETIME": time}


@pytest.mark.parametrize("time", ["@1970-01-02 00:00:00", "@2100-01-01 00:00:00"])
async def test_a_member_in_another_century_works_with_the_others(
    cluster: LocalCluster, time: str
) -> None:
    desk = await cluster.add("desk")
    lost = LocalNode(
        "lost",
        cluster.folder,
        options=cluster.options,
        environment=faked_clock(time),
    )
    await cluster.admit(lost)
    await cluster.settle_down()
    ids: list[str] = []
    for node in (desk, lost):
        for other in (desk, lost):
            view = await node.client.run("tool", ECHO, requires={"device": other.peer})
            assert (view.outcome, view.device) == ("completed", other.peer)
            ids.append(view.id)
    with trio.fail_after(WAIT_S):
        while not (await warned(desk, "clock_off") or await warned(lost, "clock_off")):
            await trio.sleep(0.05)  # poll: heartbeats carry the time
    assert await lost.stop() == 0
    ids.append(await still_works(desk))
    await lost.start()
    await cluster.settle_down()
    ids.append(await still_works(lost))
    await assert_all_agree(cluster, ids)
    # The other clock has dragged nobody along: the sound member's new events bear its own time.
    ledger = (await assert_ledgers_agree(cluster, ids))[0]
    assert abs(newest_ms(ledger, desk.peer) - time_ns() // 1_000_000) < 600_000
    assert abs(newest_ms(ledger, lost.peer) - time_ns() // 1_000_000) > 600_000


def newest_ms(ledger: Evidence, peer: str) -> int:
    author = author_of(peer)
    return max(hlc >> 16 for _, who, hlc, *_ in ledger._rows() if who == author)


async def test_a_node_whose_clock_is_set_back_goes_on(cluster: LocalCluster) -> None:
    clock = cluster.folder / "clock"
    clock.write_text("+0", encoding="ascii")
    environment = faked_clock(clock)
    desk = LocalNode("desk", cluster.folder, options=cluster.options, environment=environment)
    await cluster.admit(desk)
    lap = await cluster.add("lap")
    await cluster.settle_down()
    ids = [await still_works(desk)]
    for jump, is_off in (("-1d", True), ("+0", False), ("-30d", True)):
        clock.write_text(jump, encoding="ascii")
        with trio.fail_after(WAIT_S):
            while (await warned(desk, "clock_off") or await warned(lap, "clock_off")) != is_off:
                await trio.sleep(0.05)  # poll: the node's clock is another, and heartbeats say so
        ids += [await still_works(desk), await still_works(lap)]
        view = await desk.client.run("tool", tool("sleep", seconds=0.2)["payload"], wait_s=WAIT_S)
        assert view.outcome == "completed"
        ids.append(view.id)
    await assert_all_agree(cluster, ids)
    # Started with the older time it is the same author, whose events still rise.
    assert await desk.stop() == 0
    await desk.start()
    await cluster.settle_down()
    ids.append(await still_works(desk))
    await assert_all_agree(cluster, ids)
    await assert_ledgers_agree(cluster, ids)


async def test_alone_in_1970_a_node_founds_a_cluster_and_works(cluster: LocalCluster) -> None:
    environment = faked_clock("@1970-01-01 00:00:01")
    desk = LocalNode("desk", cluster.folder, options=cluster.options, environment=environment)
    await cluster.admit(desk)
    ids = [await still_works(desk)]
    assert await desk.stop() == 0
    await desk.start()
    ids.append(await still_works(desk))
    (ledger,) = await assert_ledgers_agree(cluster, ids)
    assert newest_ms(ledger, desk.peer) < 86_400_000 * 365
