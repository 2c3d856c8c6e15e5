"""Bringing a blob here from members that break off, and from members that lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from trio.testing import MockClock

from kowalski_node import blob_fetches
from kowalski_node.blob_fetches import AVOID_S, BlobFetches
from kowalski_node.blobs import Blobs
from kowalski_protocol.errors import Problem
from kowalski_protocol.limits import LIMITS
from tests.units.blob_members import Member, Members, named

DATA = os.urandom(10_500)
NAME = named(DATA)
HAS = {NAME: DATA}
WRONG = bytes(len(DATA))


class Scene:
    """A device with an empty store, and members."""

    def __init__(self, folder: Path, **members: Member) -> None:
        self.folder = folder
        self.network = Members(**members)
        self.start()

    def start(self) -> None:
        self.blobs = Blobs(self.folder)
        self.fetches = BlobFetches(self.blobs, lambda: self.network)

    async def fetch(self, first: bytes | None = None, *, pinned: bool = False) -> bool:
        done = await self.fetches.fetch(NAME, first, pinned=pinned)
        path = self.blobs.path(NAME)
        assert (path is not None) == done
        assert path is None or path.read_bytes() == DATA
        return done

    @property
    def part_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*.part"))

    def asked(self) -> list[tuple[str, int]]:
        asked, self.network.asked = self.network.asked, []
        return asked


SceneWith = Callable[..., Scene]


@pytest.fixture
def scene(tmp_path: Path) -> SceneWith:
    return lambda **members: Scene(tmp_path, **members)


async def test_the_named_member_is_asked_first_and_who_has_nothing_is_passed(
    scene: SceneWith,
) -> None:
    here = scene(a=Member(), b=Member(HAS), c=Member(HAS))
    assert await here.fetch(b"c")
    assert here.asked() == [("c", 0)]
    again = scene(a=Member(), b=Member())
    assert not await again.fetches.fetch("0" * 64, None, pinned=False)
    assert again.asked() == [("a", 0), ("b", 0)]


async def test_what_belongs_to_a_task_of_ours_is_kept_for_good(
    scene: SceneWith, tmp_path: Path
) -> None:
    here = scene(a=Member(HAS))
    assert await here.fetch(b"a", pinned=True)
    assert here.blobs.path(NAME) == tmp_path / NAME


async def test_the_next_member_goes_on_where_one_broke(scene: SceneWith) -> None:
    here = scene(a=Member(HAS, breaks_after=4000), b=Member(HAS))
    assert await here.fetch()
    assert here.asked() == [("a", 0), ("b", 4000)]


async def test_the_same_member_goes_on_once_it_is_back(
    scene: SceneWith, autojump_clock: MockClock
) -> None:
    here = scene(a=Member(HAS, breaks_after=4000))
    assert await here.fetch()
    assert here.asked() == [("a", 0), ("a", 4000), ("a", 8000)]


async def test_after_a_restart_it_goes_on(scene: SceneWith, autojump_clock: MockClock) -> None:
    here = scene(a=Member(HAS, breaks_after=4000, left_after=1))
    assert not await here.fetch()
    assert here.part_bytes == 4000
    here.start()
    assert not await here.fetch(), "nobody is there: no wait either"
    here.network.members["a"] = Member(HAS)
    assert await here.fetch()
    assert here.asked() == [("a", 0), ("a", 4000)]
    assert here.part_bytes == 0


async def test_a_part_that_was_whole_needs_nobody(scene: SceneWith) -> None:
    here = scene()
    (here.folder / "cache" / f"{NAME}.part").write_bytes(DATA)
    assert await here.fetch()


async def test_who_sends_other_bytes_is_not_asked_again_for_a_while(
    scene: SceneWith, autojump_clock: MockClock
) -> None:
    here = scene(liar=Member(sends=WRONG))
    for _ in range(3):
        assert not await here.fetch()
    assert here.asked() == [("liar", 0)]
    assert here.part_bytes == 0
    here.network.members["honest"] = Member(HAS, breaks_after=6000)
    assert await here.fetch()
    assert here.asked() == [("honest", 0), ("honest", 6000)]
    autojump_clock.jump(AVOID_S)
    other = os.urandom(100)
    assert not await here.fetches.fetch(named(other), None, pinned=False)
    assert ("liar", 0) in here.asked()


async def test_no_more_members_are_avoided_than_the_bound(
    scene: SceneWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_fetches, "AVOIDED_MAX", 2)
    here = scene(**{name: Member(sends=WRONG) for name in "abc"})
    assert not await here.fetch()
    assert not await here.fetch()
    assert "".join(name for name, _ in here.asked()) == "abcabc"


async def test_wrong_bytes_of_one_don_t_cost_the_next_its_name(
    scene: SceneWith, autojump_clock: MockClock
) -> None:
    here = scene(liar=Member(sends=WRONG, breaks_after=4000, left_after=1), honest=Member(HAS))
    assert await here.fetch()
    assert here.asked() == [("liar", 0), ("honest", 4000), ("honest", 0)]


async def test_bytes_that_the_disk_lost_are_fetched_anew(
    scene: SceneWith, autojump_clock: MockClock
) -> None:
    for left in (bytes(4000), bytes(len(DATA)), bytes(20_000)):
        here = scene(a=Member(HAS))
        (here.folder / "cache" / f"{NAME}.part").write_bytes(left)
        assert await here.fetch(), len(left)
        (here.folder / "cache" / NAME).unlink()


@pytest.mark.parametrize("says", [-1, LIMITS.blob_size_bytes_max + 1, 2**63])
async def test_a_size_that_can_t_be_is_refused_before_a_byte(scene: SceneWith, says: int) -> None:
    here = scene(liar=Member(sends=DATA, says=says))
    assert not await here.fetch()
    assert not await here.fetch()
    assert len(here.asked()) == 1
    assert here.part_bytes == 0


async def test_never_more_is_written_than_was_said(
    scene: SceneWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, end = os.pwrite, [0]

    def watched(file: int, data: memoryview, offset: int) -> int:
        end[0] = max(end[0], offset + len(data))
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", watched)
    here = scene(liar=Member(sends=bytes(10**6), says=5000))
    assert not await here.fetch()
    assert end[0] <= 5000
    assert here.asked() == [("liar", 0)]
    here.network.members["honest"] = Member(HAS)
    assert await here.fetch()


async def test_who_says_too_much_and_ends_early_costs_its_bytes_and_no_more(
    scene: SceneWith,
    autojump_clock: MockClock,
) -> None:
    here = scene(liar=Member(sends=bytes(20_000), says=10**6, left_after=1), honest=Member(HAS))
    assert await here.fetch()
    assert here.asked()[-1] == ("honest", 0)


@pytest.mark.parametrize(
    ("liar", "lost"),
    [
        (Member(sends=bytes(3000)), False),
        (Member(sends=bytes(4000)), False),
        (Member(sends=bytes(4001), breaks_after=1), True),
    ],
    ids=["shorter", "as long as what is here", "one byte longer"],
)
async def test_a_liar_can_t_throw_away_what_came_again_and_again(
    scene: SceneWith, autojump_clock: MockClock, liar: Member, lost: bool
) -> None:
    here = scene(liar=liar, honest=Member(HAS, breaks_after=1500))
    (here.folder / "cache" / f"{NAME}.part").write_bytes(DATA[:4000])
    assert await here.fetch()
    asked = here.asked()
    assert asked.count(("honest", 0)) == lost
    assert len(asked) < 100


async def test_after_a_mishap_who_only_trickles_loses_its_turn(
    scene: SceneWith, autojump_clock: MockClock
) -> None:
    here = scene(liar=Member(sends=WRONG, breaks_after=1), honest=Member(HAS))
    (here.folder / "cache" / f"{NAME}.part").write_bytes(bytes(4000))
    assert await here.fetch()
    asked = here.asked()
    assert asked[:2] == [("liar", 4000), ("honest", 4001)]
    assert asked[-1] == ("honest", 0)
    assert len(asked) == 3 + blob_fetches.TURNS_MAX


async def test_after_a_mishap_another_takes_over_from_who_is_gone(
    scene: SceneWith, autojump_clock: MockClock
) -> None:
    gone = Member(HAS, breaks_after=4000, left_after=2)
    here = scene(a=gone, b=Member(HAS))
    (here.folder / "cache" / f"{NAME}.part").write_bytes(bytes(4000))
    assert await here.fetch()
    assert here.asked() == [("a", 4000), ("b", 8000), ("a", 0), ("b", 0)]


async def test_what_the_disk_can_t_hold_is_told_unless_another_says_less(
    scene: SceneWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = scene(liar=Member(sends=DATA, says=2**35))
    monkeypatch.setattr(here.blobs._cache, "free_bytes", lambda: 2**34)
    with pytest.raises(Problem) as problem:
        await here.fetch()
    assert problem.value.code == "disk_full"
    here.network.members["honest"] = Member(HAS)
    assert await here.fetch()
