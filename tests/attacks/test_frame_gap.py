"""Attack 5: gaps, a wrong hash before, jumps, and sequence numbers at the edge of what there is.

What does not follow is held, bounded in number, bytes and time, then dropped; what can't be true is
refused at the door.
"""

from __future__ import annotations

import msgspec
import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.codec import decode, encode
from kowalski_protocol.events import CancelRequested
from kowalski_protocol.feeds import SEQ_MAX, Feed, FrameHeader
from kowalski_protocol.ids import EventHash
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.topics import TASK
from tests.units.bench import Bench
from tests.units.histories import Writer

pytestmark = pytest.mark.attack

HEADERS = msgspec.msgpack.Decoder(FrameHeader)


def feed_of(bench: Bench, writer: Writer, count: int) -> Feed:
    for _ in range(count):
        writer.write(CancelRequested(bytes(16)))
    return Feed(writer.author, TASK)


def test_a_gap_is_held_and_dropped_after_its_time() -> None:
    bench = Bench(3)
    author = bench.others[0]
    feed = feed_of(bench, author, 5)
    bench.receive(author, 3, 5)
    assert feed in bench.node.sync._held
    bench.tick(LIMITS.held_s + 1)
    assert bench.node.sync._held == {}
    bench.receive(author, 1, 2)
    assert bench.node.book.end(feed).seq == 2


def test_no_author_has_more_frames_waiting_than_it_may() -> None:
    bench = Bench(3)
    author = bench.others[0]
    feed = feed_of(bench, author, 500)
    for seq in range(2, 501):
        bench.receive(author, seq, seq)
    held = bench.node.sync._held[feed]
    assert len(held) == LIMITS.held_frames_per_author_max
    assert bench.node.sync.held_size_bytes == sum(frame.size_bytes for frame in held.values())


def test_all_authors_together_have_no_more_bytes_waiting_than_they_may() -> None:
    limits = msgspec.structs.replace(LIMITS, held_size_bytes_max=100_000)
    bench = Bench(3, limits=limits)
    for author in bench.others:
        for _ in range(40):
            author.raw(TASK, "Something", bytes(10_000))
        for seq in range(2, 41):
            bench.receive(author, seq, seq)
    strangers = [Writer(f"stranger {number}") for number in range(20)]
    for stranger in strangers:
        stranger.cluster = bench.history.cluster
        stranger.raw(TASK, "Something", bytes(10_000))
        bench.receive(stranger)
    held = [frame for frames in bench.node.sync._held.values() for frame in frames.values()]
    assert sum(frame.size_bytes for frame in held) <= 100_000
    known = {other.author for other in bench.others}
    unknown = [frame for frame in held if frame.header.author not in known]
    assert sum(frame.size_bytes for frame in unknown) <= 50_000


@pytest.mark.parametrize("first_seq", [0, -1, -(1 << 63), SEQ_MAX, 1 << 63, (1 << 64) - 1])
def test_a_sequence_number_that_can_not_be_is_refused(first_seq: int) -> None:
    bench = Bench(3)
    author, attacker = bench.others
    feed_of(bench, author, 1)
    header = decode(bench.frame(author), HEADERS)
    data = encode(msgspec.structs.replace(header, first_seq=first_seq))
    out = bench.give(ins.FrameReceived(attacker.author, data))
    assert [e.reason for e in out.at_once if isinstance(e, fx.Charge)] == ["sequence number"]
    assert bench.node.sync._held == {}


def test_a_jump_to_the_far_end_waits_and_holds_nobody_up() -> None:
    bench = Bench(3)
    author, attacker = bench.others
    feed = feed_of(bench, author, 2)
    header = decode(bench.frame(author), HEADERS)
    data = encode(msgspec.structs.replace(header, first_seq=SEQ_MAX - 2))
    bench.give(ins.FrameReceived(attacker.author, data))
    bench.tick(1.0)
    for pull in bench.effects(fx.Pull):
        assert pull.after_seq == 0
        bench.give(ins.PullEnded(pull.peer, pull.feed, ()))
    bench.receive(author)
    assert bench.node.book.end(feed).seq == 2
    bench.tick(1.0)
    assert not bench.node.sync.is_behind()


def test_an_event_that_names_another_before_it_is_refused() -> None:
    bench = Bench(3)
    author, attacker = bench.others
    feed_of(bench, author, 3)
    other = Writer(author.name)
    other.cluster = bench.history.cluster
    for _ in range(3):
        other.write(CancelRequested(b"x" * 16))
    bench.receive(author, 1, 2)
    before = bench.state.digest()
    out = bench.give(ins.FrameReceived(attacker.author, bench.frame(other, 3)))
    assert out.append == []
    assert bench.state.digest() == before
    assert [e.reason for e in out.at_once if isinstance(e, fx.Charge)] == [
        "chain does not end at the signed hash"
    ]


def test_a_last_hash_that_was_made_up_is_refused() -> None:
    bench = Bench(3)
    author = bench.others[0]
    feed_of(bench, author, 1)
    header = decode(bench.frame(author), HEADERS)
    made_up = EventHash(b"m" * 32)
    from kowalski_protocol.feeds import signed_message

    signature = author.identity.sign(signed_message(made_up))
    data = encode(msgspec.structs.replace(header, last_hash=made_up, signature=signature))
    out = bench.give(ins.FrameReceived(author.author, data))
    assert out.append == []
    assert len([e for e in out.at_once if isinstance(e, fx.Charge)]) == 1
