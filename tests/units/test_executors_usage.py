"""Measuring what processes use, on real processes and on files that look like theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kowalski_executors.usage import Usage, measure

MEBIBYTE = 1 << 20
GROWN = """
import os, sys
kept = bytearray(b'x') * (64 << 20)
for _ in range(3):
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
print(*[os.getpid()], flush=True)
sys.stdin.read()
"""


def test_processes_that_share_their_memory_count_it_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", GROWN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        folders = [Path("/proc", name) for name in (str(process.pid), *children)]
        cheap = measure(folders, (), 1 << 60)
        exact = measure(folders, (), 200 * MEBIBYTE)
        process.stdin.close()
    assert len(folders) == 4
    assert cheap.tasks == exact.tasks == 4
    assert cheap.memory_bytes > 4 * 64 * MEBIBYTE
    assert 64 * MEBIBYTE < exact.memory_bytes < 100 * MEBIBYTE


def test_a_process_that_has_ended_uses_nothing(tmp_path: Path) -> None:
    assert measure([tmp_path / "gone"], (), 0) == Usage(0, 0, 0)


def test_a_process_may_be_called_what_it_likes(tmp_path: Path) -> None:
    fields = ["S", *["0"] * 16, "7", "0", "0", "0", "100", "0"]
    (tmp_path / "stat").write_text("12 (a) b) (c) S " + " ".join(fields[1:]) + "\n")
    page = os.sysconf("SC_PAGE_SIZE")
    assert measure([tmp_path], (), 1 << 60) == Usage(100 * page, 7, 0)


def test_a_process_that_hides_its_details_counts_in_full(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("12 (a) S " + "0 " * 16 + "1 0 0 0 1000 0\n")
    page = os.sysconf("SC_PAGE_SIZE")
    assert measure([tmp_path], (), 1).memory_bytes == 1000 * page


def test_a_page_of_a_file_that_is_mapped_counts_once(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("12 (a) S " + "0 " * 16 + "1 0 0 0 1000 0\n")
    (tmp_path / "smaps_rollup").write_text(
        "7f00-7f01 ---p 00000000 00:00 0 [rollup]\n"
        "Rss: 500 kB\nPss: 400 kB\nPss_Anon: 100 kB\nPss_File: 50 kB\nPss_Shmem: 250 kB\n"
    )
    assert measure([tmp_path], (), 1).memory_bytes == 350 << 10
