"""A program's files on real nodes: sent from one device, read on another, brought back, saved."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from kowalski_gateway.local_cluster import LocalCluster
from tests.live.commands import kowalski
from tests.live.test_blobs import GROWTH, peak, resident

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "juniper")
LARGE_BYTES = 100 * 1024 * 1024

COUNTING = """
import csv, json, pathlib
from collections import Counter

counted = Counter()
rows = 0
for path in sorted(pathlib.Path("texts").rglob("*.csv")):
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            rows += 1
            counted.update(row["text"].split())
out = pathlib.Path("counts/by-length")
out.mkdir(parents=True)
for length in sorted({len(word) for word in counted}):
    with (out / f"{length}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["word", "count"])
        table.writerows(sorted((w, n) for w, n in counted.items() if len(w) == length))
file = open("counts/all.json", "w")
json.dump(counted, file)
rows
"""

HASHING = """
import hashlib
with open("large/input.bin", "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = file.tell()
with open("large.sha256", "w") as out:
    out.write(f"{digest} {size}")
"""


def texts(folder: Path) -> tuple[Counter[str], int]:
    """Writes two tables of words; returns how often each word is in them, and their rows."""
    chance = random.Random(7)
    counted: Counter[str] = Counter()
    rows = 0
    for name, length in (("one.csv", 3_000), ("below/two.csv", 2_000)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            file.write("number,text\n")
            for number in range(length):
                words = chance.choices(WORDS, k=7)
                counted.update(words)
                file.write(f"{number},{' '.join(words)}\n")
                rows += 1
    return counted, rows


@pytest.mark.needs_bubblewrap
async def test_words_of_one_device_are_counted_on_another_and_the_tables_come_back(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    counted, rows = texts(here / "texts")
    (here / "count.py").write_text(COUNTING)
    for name in ("desk", "lap"):
        await cluster.add(name)
    await cluster.settle_down()
    desk, lap = cluster.nodes

    asked = ("submit", "count.py", "--file", "texts", "--output", "counts/**", "--device", "lap")
    ended = await kowalski(desk, *asked, "--wait", "--save", "back")
    assert ended.code == 0, ended.stdout + ended.stderr
    view = ended.json()
    assert view["device"] == lap.peer
    assert view["result"]["value"] == rows
    names = {file["path"] for file in view["result"]["files"]}
    lengths = {len(word) for word in WORDS}
    assert names == {"counts/all.json"} | {f"counts/by-length/{n}.csv" for n in lengths}
    assert json.loads((here / "back/counts/all.json").read_text()) == counted
    for file in view["result"]["files"]:
        saved = (here / "back" / file["path"]).read_bytes()
        assert hashlib.sha256(saved).hexdigest() == file["blob"]
        assert len(saved) == file["size_bytes"]
    for length in lengths:
        table = (here / f"back/counts/by-length/{length}.csv").read_text().splitlines()[1:]
        shown = [f"{word},{n}" for word, n in sorted(counted.items()) if len(word) == length]
        assert table == shown

    again = await kowalski(desk, "result", view["id"], "--save", "back")
    assert again.code != 0
    assert "is there already" in again.json()["error"]["message"]
    (here / "back/counts/all.json").write_text("mine")
    again = await kowalski(desk, "result", view["id"], "--save", "back", "--overwrite")
    assert again.code == 0
    assert json.loads((here / "back/counts/all.json").read_text()) == counted


@pytest.mark.needs_bubblewrap
async def test_a_large_input_goes_through_both_nodes_in_constant_memory(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    for name in ("desk", "lap"):
        await cluster.add(name)
    await cluster.settle_down()
    desk, lap = cluster.nodes
    large = tmp_path / "input.bin"
    digest = hashlib.sha256()
    with large.open("wb") as file:
        for _ in range(LARGE_BYTES >> 20):
            piece = random.randbytes(1 << 20)
            digest.update(piece)
            file.write(piece)
    before = resident(desk), resident(lap)
    view = await desk.client.run(
        "code",
        {"language": "python", "code": HASHING},
        requires={"device": lap.peer},
        files=[(large, "large/")],
        outputs=["*.sha256"],
        wait_s=60,
    )
    assert view.outcome == "completed", view.result
    (saved,) = await desk.client.save(view, tmp_path / "saved")
    assert saved.read_text() == f"{digest.hexdigest()} {LARGE_BYTES}"
    grown = peak(desk) - before[0], peak(lap) - before[1]
    assert max(grown) < GROWTH, grown
    kept = await desk.client.run(
        "code",
        {"language": "bash", "code": "wc -c < large/input.bin"},
        requires={"device": lap.peer},
        files=[(large, "large/")],
        wait_s=60,
    )
    assert kept.result is not None
    assert kept.result.stdout.strip() == str(LARGE_BYTES)
