"""What a commit takes of what was gathered, and how the own events in it become frames."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from kowalski_ledger.state import State
from kowalski_node.core.book import Book
from kowalski_node.core.commits import Commit, cut_frames
from kowalski_node.core.effects import Outbox
from kowalski_node.core.inputs import Now
from kowalski_protocol.clock import HybridClock
from kowalski_protocol.codec import encode
from kowalski_protocol.events import CancelRequested, ClusterFounded
from kowalski_protocol.feeds import (
    Event,
    Feed,
    check_signature,
    decode_header,
    genesis,
    open_frame,
)
from kowalski_protocol.identity import Identity
from kowalski_protocol.ids import ClusterId
from kowalski_protocol.limits import LIMITS, Limits
from kowalski_protocol.topics import TASK

ME = Identity(hashlib.sha256(b"me").digest())
CLUSTER = ClusterId(hashlib.sha256(b"cluster").digest())
FOUNDED = ClusterFounded("home", ME.author, "me", b"nonce")


def new_book() -> Book:
    book = Book(ME.author, State(CLUSTER), HybridClock(max_ahead_ms=30_000), LIMITS)
    book.may_write = True
    return book


def written(book: Book, count: int) -> list[Event]:
    out = Outbox()
    for number in range(count):
        book.write(CancelRequested(bytes(15) + bytes((number,))), Now(1.0, 1_000 + number), out)
    assert out.has_own
    return out.append


def test_one_signature_covers_all_that_a_commit_writes() -> None:
    events = written(new_book(), 5)
    (frame,) = cut_frames(events, ME, LIMITS)
    assert frame == events
    assert [event.signature is None for event in events] == [True] * 4 + [False]


def test_a_frame_that_came_back_from_others_stays_as_it_was_cut() -> None:
    # The device lost the end of its feed, is told it by others, and writes in the same commit.
    before = new_book()
    lost = written(before, 3)
    cut_frames(lost, ME, LIMITS)
    after = new_book()
    out = Outbox()
    for event in lost:
        after.take(event, out)
    new = after.write(CancelRequested(b"n" * 16), Now(2.0, 2_000), out)
    (frame,) = cut_frames(out.append, ME, LIMITS)
    assert frame == [new]
    commit = Commit(out.append, [frame], [])
    ((topic, data),) = commit.messages(CLUSTER)
    assert topic == TASK
    opened = open_frame(decode_header(data, CLUSTER), lost[-1].hash, lost[-1].hlc)
    assert [event.hash for event in opened] == [new.hash]
    assert commit.committed().heads[Feed(ME.author, TASK)].hash == new.hash
    assert lost[0].signature is None
    assert lost[1].signature is None


EVENT_BYTES = len(encode(CancelRequested(bytes(16)))) + len("CancelRequested") + 32


@pytest.mark.parametrize(
    "limits",
    [
        msgspec.structs.replace(LIMITS, frame_events_max=2),
        msgspec.structs.replace(LIMITS, frame_cut_bytes=2 * EVENT_BYTES),
        msgspec.structs.replace(LIMITS, frame_cut_bytes=3 * EVENT_BYTES - 1),
    ],
    ids=["events", "bytes", "almost"],
)
def test_what_is_too_much_for_one_frame_is_cut_and_every_part_is_signed(limits: Limits) -> None:
    events = written(new_book(), 5)
    frames = cut_frames(events, ME, limits)
    assert [len(frame) for frame in frames] == [2, 2, 1]
    assert [event for frame in frames for event in frame] == events
    assert [event.signature is not None for event in events] == [False, True, False, True, True]
    # Each part is a frame of its own, and follows the one before it.
    prev, floor = genesis(CLUSTER, ME.author, TASK), 0
    for _, data in Commit(events, frames, []).messages(CLUSTER):
        header = decode_header(data, CLUSTER)
        assert check_signature(header)
        opened = open_frame(header, prev, floor)
        prev, floor = opened[-1].hash, opened[-1].hlc
    assert prev == events[-1].hash


def test_an_attachment_counts_for_the_size_of_its_frame() -> None:
    book, out = new_book(), Outbox()
    for number in range(3):
        body = CancelRequested(bytes(15) + bytes((number,)))
        book.write(body, Now(1.0, 1_000), out, bytes(LIMITS.frame_cut_bytes // 2))
    assert [len(frame) for frame in cut_frames(out.append, ME, LIMITS)] == [1, 1, 1]
