"""What a node may rely on of whatever keeps its events: run on SQLite and on the double."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from kowalski_ledger.port import EventStore, Sample
from kowalski_protocol.errors import Problem
from kowalski_protocol.feeds import Event, Feed, Head, decode_header, encode_frame, open_frame
from kowalski_protocol.ids import ClusterId
from kowalski_protocol.limits import LIMITS
from tests.ports.disks import Disk, FileDisk, ListDisk
from tests.ports.ledgers import Story


@pytest.fixture(params=["sqlite", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return FileDisk(tmp_path / "ledger.db") if request.param == "sqlite" else ListDisk()


def plain(event: Event, *, with_attachment: bool = True) -> tuple[object, ...]:
    """All that an event says, for comparison."""
    attachment = event.attachment if with_attachment else None
    return (
        event.author,
        event.topic,
        event.seq,
        event.hlc,
        event.kind,
        event.body,
        event.hash,
        attachment,
        event.signature,
    )


async def everything(store: EventStore, chunk: int = 5000) -> list[Event]:
    return [event async for events in store.load(chunk) for event in events]


async def test_a_new_store_is_empty(disk: Disk) -> None:
    async with disk.open() as store:
        assert store.cluster is None
        assert store.position == 0
        assert await store.heads() == {}
        assert await everything(store) == []
        assert await store.events_after(0, 10) == []
        feed = Story().founder.feed()
        assert await store.read_range(feed, 0, 1 << 20, 100) == []
        assert await store.event(feed, 1) is None
        assert await store.hash_at(feed, 1) is None
        assert await store.attachment(feed, 1) is None


async def test_the_cluster_and_its_first_events_are_kept_together(disk: Disk) -> None:
    story = Story()
    async with disk.open() as store:
        assert await store.found(story.cluster, story.opening) == len(story.opening)
        assert store.cluster == story.cluster
    async with disk.open() as store:
        assert store.cluster == story.cluster
        assert store.position == len(story.opening)


async def test_a_store_belongs_to_one_cluster(disk: Disk) -> None:
    async with disk.open() as store:
        await store.found(Story().cluster)
        await store.found(Story().cluster)
        with pytest.raises(AssertionError):
            await store.found(ClusterId(bytes(32)))


async def test_what_was_appended_is_there_after_reopening_in_order(disk: Disk) -> None:
    story = Story()
    frames = list(story.frames(40, frame_tasks=7))
    events = [event for frame in frames for event in frame]
    async with disk.open() as store:
        await store.found(story.cluster)
        position = 0
        for frame in frames:
            position += len(frame)
            assert await store.append(frame) == position
            assert store.position == position
    async with disk.open() as store:
        assert store.position == len(events)
        stored = await everything(store)
        expected = [plain(event, with_attachment=False) for event in events]
        assert [plain(event) for event in stored] == expected
        for event in events:
            found = await store.event(Feed(event.author, event.topic), event.seq)
            assert found is not None
            assert plain(found) == plain(event)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 17, 63, 64, 65, 511, 512, 513, 1300])
async def test_groups_of_any_size_are_stored_whole(disk: Disk, count: int) -> None:
    story = Story()
    frame = story.devices[1].noise(count)
    async with disk.open() as store:
        await store.found(story.cluster)
        assert await store.append(frame) == count
        assert [plain(e) for e in await everything(store)] == [plain(e) for e in frame]
        more = story.devices[1].noise(1)
        assert await store.append(more) == count + 1


async def test_a_group_may_mix_feeds_and_frames(disk: Disk) -> None:
    story = Story()
    a, b = story.devices[1], story.devices[2]
    group = [
        *a.noise(3),
        *b.noise(2, topic="result"),
        *a.noise(1),
        *b.noise(2),
        *b.noise(4, topic="result"),
    ]
    async with disk.open() as store:
        await store.found(story.cluster)
        await store.append(group)
        heads = await store.heads()
    assert {feed: head.seq for feed, head in heads.items()} == {
        a.feed(): 4,
        b.feed("result"): 6,
        b.feed(): 2,
    }
    async with disk.open() as store:
        assert await store.heads() == heads
        assert [plain(e) for e in await everything(store)] == [plain(e) for e in group]


async def test_heads_name_the_last_event_of_each_feed(disk: Disk) -> None:
    story = Story()
    async with disk.open() as store:
        await store.found(story.cluster, story.opening)
        last = story.opening[-1]
        assert await store.heads() == {story.founder.feed(): Head(last.seq, last.hash)}
        heads = await store.heads()
        heads.clear()
        assert len(await store.heads()) == 1


async def test_an_empty_append_changes_nothing(disk: Disk) -> None:
    async with disk.open() as store:
        await store.found(Story().cluster, Story().opening)
        assert await store.append([]) == len(Story().opening)


@pytest.mark.parametrize("mistake", ["gap", "repeat", "unsigned"])
async def test_what_does_not_follow_is_never_stored(disk: Disk, mistake: str) -> None:
    story = Story()
    first, second, third = (story.devices[1].noise(2) for _ in range(3))
    wrong = {"gap": third, "repeat": first, "unsigned": second[:1]}[mistake]
    async with disk.open() as store:
        await store.found(story.cluster, first)
        with pytest.raises(AssertionError):
            await store.append([*story.devices[2].noise(3), *wrong])
        assert store.position == 2
        assert len(await everything(store)) == 2
        assert await store.append([*second, *third]) == 6


async def test_clock_readings_of_64_bits_are_kept(disk: Disk) -> None:
    story = Story()
    device = story.devices[1]
    readings = [1, (1 << 63) - 1, 1 << 63, (1 << 63) + 1, (1 << 64) - 2, (1 << 64) - 1]
    frame = [device.write_raw("task", "Odd", b"", hlc=hlc) for hlc in readings]
    device.sign(frame[-1])
    async with disk.open() as store:
        await store.found(story.cluster, frame)
        assert [event.hlc for event in await everything(store)] == readings
        assert [e.hlc for e in await store.read_range(device.feed(), 0, 9999, 99)] == readings
        assert [e.hlc for _, e in await store.events_after(0, 99)] == readings
        event = await store.event(device.feed(), 6)
        assert event is not None
        assert event.hlc == (1 << 64) - 1


async def test_bodies_and_attachments_of_any_bytes_come_back_as_they_were(disk: Disk) -> None:
    story = Story()
    device = story.devices[1]
    samples = [b"", b"\0", b"'\"\0\xff" * 50, bytes(range(256)), b"x" * LIMITS.body_size_bytes_max]
    frame = [device.write_raw("task", "Odd", body, body[::-1]) for body in samples]
    frame.append(device.write_raw("task", "Odd", b"none"))
    device.sign(frame[-1])
    async with disk.open() as store:
        await store.found(story.cluster, frame)
        got = await store.read_range(device.feed(), 0, 1 << 20, 100)
        assert [plain(event) for event in got] == [plain(event) for event in frame]
        assert [await store.attachment(device.feed(), n + 1) for n in range(6)] == [
            *(body[::-1] for body in samples),
            None,
        ]


async def test_loading_in_small_chunks_gives_the_same(disk: Disk) -> None:
    story = Story()
    events = [event for frame in story.frames(20, frame_tasks=4) for event in frame]
    async with disk.open() as store:
        await store.found(story.cluster, events)
        chunks = [events async for events in store.load(7)]
    assert max(len(chunk) for chunk in chunks) <= 7
    assert [e.hash for chunk in chunks for e in chunk] == [e.hash for e in events]


async def test_loading_is_not_disturbed_by_appends_of_new_feeds(disk: Disk) -> None:
    story = Story()
    async with disk.open() as store:
        await store.found(story.cluster, story.devices[1].noise(30))
        seen = 0
        async for events in store.load(10):
            seen += len(events)
            await store.append(story.devices[2].noise(5))
            await store.append(story.founder.noise(5, topic="result"))
        assert seen == 30


async def test_ranges_are_frames_within_their_bounds(disk: Disk) -> None:
    draw = random.Random(8)
    story = Story()
    device = story.devices[1]
    frames = [
        device.noise(draw.choice([1, 2, 5, 30]), size_bytes=draw.choice([0, 10, 300]))
        for _ in range(60)
    ]
    events = [event for frame in frames for event in frame]
    signed = [event.seq for event in events if event.signature is not None]
    async with disk.open() as store:
        await store.found(story.cluster, events)
        for _ in range(150):
            after = draw.randrange(0, len(events))
            size_bytes_max = draw.choice([400, 1000, 5000, 100_000, 1 << 20])
            events_max = draw.choice([1, 3, 10, 100, 4096])
            run = await store.read_range(device.feed(), after, size_bytes_max, events_max)
            assert [plain(e) for e in run] == [plain(e) for e in events[after : after + len(run)]]
            assert run[-1].seq in signed
            encoded = encode_frame(story.cluster, run)
            first = next(seq for seq in signed if seq > after)
            if run[-1].seq > first:
                assert len(run) <= events_max
                assert len(encoded) <= size_bytes_max
            following = [seq for seq in signed if seq > run[-1].seq]
            if following:
                # The store reckons with at most 12 bytes an event more than a frame takes.
                longer = events[after : following[0]]
                reckoned = len(encode_frame(story.cluster, longer)) + 12 * len(longer) + 320
                assert len(longer) > events_max or reckoned > size_bytes_max, "a longer one fits"


async def test_a_range_read_from_the_store_opens_as_a_frame(disk: Disk) -> None:
    story = Story()
    events = [event for frame in story.frames(12, frame_tasks=3) for event in frame]
    async with disk.open() as store:
        await store.found(story.cluster, events)
        for feed, head in (await store.heads()).items():
            own = [e for e in events if Feed(e.author, e.topic) == feed]
            run = await store.read_range(feed, 1, 1 << 20, 4096)
            assert run[-1].seq == head.seq
            header = decode_header(encode_frame(story.cluster, run), story.cluster)
            opened = open_frame(header, own[0].hash, own[0].hlc)
            assert [e.hash for e in opened] == [e.hash for e in own[1:]]
            assert [e.attachment for e in opened] == [e.attachment for e in own[1:]]


async def test_an_authors_own_frame_is_served_whole_beyond_the_askers_bounds(disk: Disk) -> None:
    story = Story()
    device = story.devices[1]
    large = device.noise(9, size_bytes=60_000)
    async with disk.open() as store:
        await store.found(story.cluster, [*large, *device.noise(1)])
        assert len(await store.read_range(device.feed(), 0, 1000, 2)) == 9
        assert len(await store.read_range(device.feed(), 4, 1000, 2)) == 5
        assert len(await store.read_range(device.feed(), 9, 1000, 2)) == 1
        assert await store.read_range(device.feed(), 10, 1000, 2) == []
        assert await store.read_range(device.feed(), -1, 1000, 2) == []


async def test_new_events_come_with_rising_positions(disk: Disk) -> None:
    story = Story()
    events = [event for frame in story.frames(20, frame_tasks=4) for event in frame]
    async with disk.open() as store:
        await store.found(story.cluster, events)
        seen: list[Event] = []
        position = 0
        while page := await store.events_after(position, 9):
            assert len(page) <= 9
            assert [at for at, _ in page] == list(range(position + 1, position + 1 + len(page)))
            position = page[-1][0]
            seen += [event for _, event in page]
        assert position == store.position
        expected = [plain(event, with_attachment=False) for event in events]
        assert [plain(event) for event in seen] == expected


async def test_dropped_attachments_are_gone_and_chains_stay(disk: Disk) -> None:
    story = Story()
    device = story.devices[1]
    frame = [device.write_raw("task", "Odd", b"%d" % n, b"beside %d" % n) for n in range(10)]
    device.sign(frame[-1])
    async with disk.open() as store:
        await store.found(story.cluster, frame)
        feed = device.feed()
        assert await store.drop_attachments(events=[(feed, 9), (feed, 9), (feed, 99)]) == 1
        assert await store.drop_attachments(before_hlc=frame[4].hlc) == 4
        assert await store.drop_attachments(before_hlc=frame[4].hlc) == 0
        kept = [await store.attachment(feed, n) is not None for n in range(1, 11)]
        assert kept == [False] * 4 + [True] * 4 + [False, True]
    async with disk.open() as store:
        assert [e.hash for e in await everything(store)] == [e.hash for e in frame]
        run = await store.read_range(feed, 0, 1 << 20, 99)
        assert [e.attachment for e in run][3:5] == [None, b"beside 4"]


async def test_meta_values_are_kept(disk: Disk) -> None:
    async with disk.open() as store:
        assert await store.get_meta("port") is None
        await store.set_meta("port", b"52421")
        await store.set_meta("port", b"\0\xff")
    async with disk.open() as store:
        assert await store.get_meta("port") == b"\0\xff"


async def test_telemetry_is_kept_newest_first_and_is_no_event(disk: Disk) -> None:
    one, two = (device.author for device in Story().devices[:2])
    samples = [Sample(one if n % 2 else two, 1000 + n, {"cpu": n / 4}) for n in range(20)]
    async with disk.open() as store:
        assert await store.add_telemetry(samples) == 20
        assert await store.telemetry(limit=3) == samples[:-4:-1]
        assert await store.telemetry(author=one, since_ms=1016) == [samples[19], samples[17]]
        assert store.position == 0
    async with disk.open() as store:
        assert len(await store.telemetry()) == 20


async def test_a_full_disk_refuses_what_is_new_and_keeps_what_is_there(disk: Disk) -> None:
    story = Story()
    device = story.devices[1]
    first = device.noise(20)
    late = device.noise(600, size_bytes=3000)
    other = story.devices[2].noise(3)
    async with disk.open() as store:
        await store.found(story.cluster, first)
        await disk.fill(store)
        for _ in range(2):
            with pytest.raises(Problem) as caught:
                await store.append([*late, *other])
            assert caught.value.code == "disk_full"
            assert store.position == 20
            assert len(await store.read_range(device.feed(), 0, 1 << 20, 99)) == 20
            assert set(await store.heads()) == {device.feed()}
        await disk.make_room(store)
        assert await store.append(late) == 620
    async with disk.open() as store:
        assert len(await everything(store)) == 620


async def test_after_the_disk_failed_nothing_is_written_until_it_is_opened_anew(disk: Disk) -> None:
    story = Story()
    device = story.devices[1]
    frame = device.noise(20)
    async with disk.open() as store:
        await store.found(story.cluster, story.opening)
        with disk.failing(), pytest.raises(Problem) as caught:
            await store.append(frame)
        assert caught.value.code == "disk_failed"
        for write in (store.append(frame), store.set_meta("a", b"b")):
            with pytest.raises(Problem) as caught:
                await write
            assert caught.value.code == "disk_failed"
        assert len(await everything(store)) == store.position == 4
    async with disk.open() as store:
        assert await store.append(frame) == 24


async def test_a_cancelled_read_harms_no_later_one(disk: Disk) -> None:
    story = Story()
    device = story.devices[1]
    async with disk.open() as store:
        await store.found(story.cluster, device.noise(500))
        for number in range(20):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(store.read_range, device.feed(), 0, 1 << 20, 4096)
                    for _ in range(number % 7):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert len(await store.read_range(device.feed(), number, 1 << 20, 4096)) == 500 - number


async def test_appends_from_many_tasks_are_stored_one_after_the_other(disk: Disk) -> None:
    story = Story(devices=6)

    async def write(store: EventStore, number: int) -> None:
        for _ in range(10):
            await store.append(story.devices[number].noise(3, topic="result"))

    async with disk.open() as store:
        await store.found(story.cluster)
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(write, store, number)
        assert store.position == 180
        assert {head.seq for head in (await store.heads()).values()} == {30}
        assert len(await everything(store)) == 180


async def test_a_cancelled_append_is_whole_or_not_there(disk: Disk) -> None:
    story = Story()
    device = story.devices[1]
    async with disk.open() as store:
        await store.found(story.cluster)
        for number in range(30):
            frame = device.noise(10)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(store.append, frame)
                    for _ in range(number % 5):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            stored = store.position
            assert stored % 10 == 0
            assert len(await everything(store)) == stored
            if (await store.heads()).get(device.feed(), Head(0, frame[0].hash)).seq < frame[-1].seq:
                await store.append(frame)
        assert store.position == 300
