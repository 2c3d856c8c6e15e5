"""Opening a blob for a running attempt: it is brought once for all who ask, and stays as long as
its path is used."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from kowalski_node.blobs import Blobs
from kowalski_node.outputs import Outputs
from kowalski_node.runner import OutputWindow
from kowalski_protocol.errors import Problem
from kowalski_protocol.ids import Author
from tests.units.blob_members import Member, Members, named

ME = Author(bytes(32))
BLOBS = [os.urandom(1000) for _ in range(4)]
HAS = {named(data): data for data in BLOBS}


class Scene:
    """A device with room for one cached blob, and one member that has all of them."""

    def __init__(self, folder: Path) -> None:
        self.attempts: dict[int, OutputWindow] = {}
        self.network = Members(a=Member(HAS))
        self.blobs = Blobs(folder, quota_bytes=1000)
        runner: Any = SimpleNamespace(outputs=self.attempts)
        self.outputs = Outputs(ME, runner, self.blobs, lambda: self.network)

    def start(self, number: int) -> OutputWindow:
        self.attempts[number] = OutputWindow()
        return self.attempts[number]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_path_stays_until_the_attempts_that_ran_then_have_ended(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    one, two = scene.start(1), scene.start(2)
    path = await scene.outputs.open_blob(named(BLOBS[0]))
    later = scene.start(3)
    for ending in (one, two):
        for data in BLOBS[1:]:
            await scene.outputs.bring_blob(named(data))
            assert path.read_bytes() == BLOBS[0]
        ending.close()
    assert later.running
    await scene.outputs.bring_blob(named(BLOBS[1]))
    assert not path.exists()


async def test_what_is_asked_for_many_times_at_once_is_fetched_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(scene.outputs.open_blob, named(BLOBS[0]))
    assert scene.network.asked == [("a", 0)]


async def test_a_result_of_a_task_of_ours_is_kept_for_good(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for data in BLOBS[:2]:
        await scene.outputs.bring_blob(named(data))  # the second takes the first one's place
    for data in (BLOBS[1], BLOBS[0], BLOBS[2]):
        assert await scene.outputs.bring_blob(named(data), Author(b"a"))
    assert all(scene.blobs.path(named(data)) == tmp_path / named(data) for data in BLOBS[:3])
    await scene.outputs.bring_blob(named(BLOBS[3]))
    assert all(scene.blobs.path(named(data)) for data in BLOBS)


async def test_what_nobody_has_and_what_is_no_name_are_told(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for name, code in (("0" * 64, "not_found"), ("../key", "bad_request")):
        with pytest.raises(Problem) as problem:
            await scene.outputs.open_blob(name)
        assert problem.value.code == code
    assert not await scene.outputs.bring_blob("0" * 64)
    assert not files(tmp_path), "nothing came"
