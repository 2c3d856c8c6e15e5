"""Attack 24: the ledger's disk is full, or can't be written at all. On real file systems."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports.ledgers import Story, make_ledger

ROOT = Path(__file__).resolve().parents[2]


def _in_own_mounts(script: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python program behind a shell script, in a mount namespace that ends with it."""
    folders = [str(ROOT / folder) for folder in ("protocol", "ledger", ".")]
    return subprocess.run(
        [
            *("unshare", "-m", "sh", "-ec", f'{script}\nexec "$@"', "sh"),
            *(sys.executable, "-c", program, *arguments),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@functools.cache
def lacks_mounts() -> str | None:
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return "mount namespaces are Linux's, and made by unshare"
    run = _in_own_mounts("mount -t tmpfs -o size=64k tmpfs /mnt", "print('ok')")
    if run.stdout != "ok\n":
        return f"mounting a small disk wants root: {run.stderr.strip()[:100]}"
    return None


@pytest.fixture(autouse=True)
def mounts() -> None:
    reason = lacks_mounts()
    if reason is not None:
        pytest.skip(reason)


FILL = """
import sys
from pathlib import Path
import trio
from kowalski_ledger.audit import audit
from kowalski_ledger.store import open_store
from kowalski_protocol.errors import Problem
from tests.ports.ledgers import Story

async def main(folder):
    path = folder / "ledger.db"
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(400_000))
    story = Story()
    device = story.devices[1]
    async with open_store(path) as store:
        await store.found(story.cluster, story.opening)
        refused = None
        while refused is None:
            frame = device.noise(50, size_bytes=300)
            try:
                await store.append(frame)
            except Problem as problem:
                refused = problem
        assert refused.code == "disk_full", refused
        position = store.position
        assert position > 50
        for _ in range(3):
            try:
                await store.append(frame)
            except Problem as problem:
                assert problem.code == "disk_full", problem
            else:
                raise AssertionError("there was room after all")
        seen = 0
        async for events in store.load():
            seen += len(events)
        assert seen == position == store.position
        assert await store.read_range(device.feed(), 0, 1 << 20, 4096)
        ballast.unlink()
        assert await store.append(frame) == position + 50
    async with open_store(path) as store:
        assert store.position == position + 50
    assert audit(path).ok
    print("ok", position)

trio.run(main, Path(sys.argv[1]))
"""


def test_on_a_full_disk_reading_goes_on_and_writing_once_there_is_room(tmp_path: Path) -> None:
    run = _in_own_mounts(f"mount -t tmpfs -o size=1m tmpfs '{tmp_path}'", FILL, str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("ok ")


START_FULL = """
import sys
from pathlib import Path
import trio
from kowalski_ledger.store import open_store
from kowalski_protocol.errors import Problem

async def main(folder):
    (folder / "ballast").write_bytes(bytes(60_000))
    async with open_store(folder / "ledger.db"):
        pass

try:
    trio.run(main, Path(sys.argv[1]))
except Problem as problem:
    print(problem.code)
"""


def test_a_ledger_that_can_not_be_made_on_a_full_disk_says_so(tmp_path: Path) -> None:
    run = _in_own_mounts(
        f"mount -t tmpfs -o size=64k tmpfs '{tmp_path}'", START_FULL, str(tmp_path)
    )
    assert run.stdout == "disk_full\n", run.stderr


READ = """
import sys
from pathlib import Path
from kowalski_ledger.audit import audit
from kowalski_ledger.export import export
from kowalski_ledger.replay import replay
from kowalski_protocol.errors import Problem
path = Path(sys.argv[1])
try:
    report = replay(path)
    assert audit(path).ok
    print(report.events, report.digest)
except Problem as problem:
    print(problem.code)
"""


def _read_only(folder: Path) -> str:
    return f"mount --bind '{folder}' '{folder}'\nmount -o remount,bind,ro '{folder}'"


def test_a_ledger_on_a_disk_that_can_not_be_written_is_read(tmp_path: Path) -> None:
    from kowalski_ledger.replay import replay

    events = make_ledger(tmp_path / "ledger.db", Story())
    run = _in_own_mounts(_read_only(tmp_path), READ, str(tmp_path / "ledger.db"))
    assert run.stdout == f"{len(events)} {replay(tmp_path / 'ledger.db').digest}\n", run.stderr
    # An empty log beside it, as another reader leaves one, changes nothing.
    assert (tmp_path / "ledger.db-wal").exists()
    (tmp_path / "ledger.db-shm").unlink()
    run = _in_own_mounts(_read_only(tmp_path), READ, str(tmp_path / "ledger.db"))
    assert run.stdout.startswith(f"{len(events)} "), run.stderr


def test_a_log_that_can_not_be_read_in_place_is_never_left_out_silently(tmp_path: Path) -> None:
    """Reading the file alone would show less than the node acknowledged."""
    made, copy = tmp_path / "made", tmp_path / "copy"
    made.mkdir()
    copy.mkdir()
    folders = [str(ROOT / folder) for folder in ("protocol", "ledger", ".")]
    program = (
        "import os, signal, sys, trio\n"
        "from pathlib import Path\n"
        "from kowalski_ledger.store import open_store\n"
        "from tests.ports.ledgers import Story\n"
        "async def main(path):\n"
        "    story = Story()\n"
        "    async with open_store(path) as store:\n"
        "        await store.found(story.cluster, story.opening)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "trio.run(main, Path(sys.argv[1]))\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(made / "ledger.db")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        timeout=60,
        check=False,
    )
    for name in ("ledger.db", "ledger.db-wal"):
        shutil.copy(made / name, copy / name)
    run = _in_own_mounts(_read_only(copy), READ, str(copy / "ledger.db"))
    assert run.stdout == "home_unusable\n", run.stderr
    # With the log's index beside it, as the killed node left it, the log can be read in place.
    run = _in_own_mounts(_read_only(made), READ, str(made / "ledger.db"))
    assert run.stdout.startswith("4 "), run.stderr
