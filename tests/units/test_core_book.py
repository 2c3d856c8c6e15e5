"""The node's own hand in the ledger: chains, heads, what is committed, and recent hashes."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_ledger.fold import cluster_id
from kowalski_ledger.state import State
from kowalski_node.core.book import Book, FeedEnd
from kowalski_node.core.effects import Outbox
from kowalski_node.core.inputs import Now
from kowalski_protocol import clock
from kowalski_protocol.clock import HybridClock
from kowalski_protocol.codec import encode
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import (
    CancelRequested,
    ClusterFounded,
    InviteUsed,
    MemberAdmitted,
    TaskDeclined,
    WeightsChanged,
)
from kowalski_protocol.feeds import Event, Feed, Head, event_hash, genesis
from kowalski_protocol.ids import Author, EventHash
from kowalski_protocol.limits import LIMITS, Limits
from kowalski_protocol.topics import RESULT, TASK
from tests.units.histories import Writer

WALL_MS = 1_790_000_000_000
NOW = Now(1.0, WALL_MS)
DESK, LAPTOP = Writer("desk"), Writer("laptop")
FOUNDED = ClusterFounded("home", DESK.author, "desk", b"nonce")
CLUSTER = cluster_id(encode(FOUNDED))


def new_book(author: Author = DESK.author, limits: Limits = LIMITS) -> Book:
    book = Book(author, State(CLUSTER), HybridClock(max_ahead_ms=1000), limits)
    book.may_write = True
    return book


def invite(number: int) -> InviteUsed:
    return InviteUsed(number.to_bytes(32, "big"), DESK.author)


def written(book: Book, count: int = 3) -> list[Event]:
    """A founded cluster and a few more events, on both topics."""
    out = Outbox()
    book.write(FOUNDED, NOW, out)
    for number in range(count):
        book.write(invite(number), NOW, out)
        book.write(TaskDeclined(bytes(16), bytes(32), "full"), NOW, out)
    return out.append


def test_what_is_written_is_chained_dated_folded_and_appended() -> None:
    book, out = new_book(), Outbox()
    event = book.write(FOUNDED, NOW, out, b"beside")
    assert out.append == [event]
    assert (event.author, event.topic, event.seq, event.kind) == (
        DESK.author,
        TASK,
        1,
        "ClusterFounded",
    )
    assert clock.wall_ms(event.hlc) == WALL_MS
    assert event.attachment == b"beside"
    assert event.signature is None
    assert list(book.state.members) == [DESK.author]
    assert book.written == {TASK}


def test_each_feed_is_one_chain_of_event_hashes_from_its_genesis() -> None:
    events = written(new_book())
    for topic in (TASK, RESULT):
        previous = genesis(CLUSTER, DESK.author, topic)
        feed = [event for event in events if event.topic == topic]
        assert len(feed) >= 3
        for seq, event in enumerate(feed, start=1):
            expected = event_hash(previous, seq, event.hlc, event.kind, event.body)
            assert (event.seq, event.hash) == (seq, expected)
            previous = event.hash


@given(st.lists(st.integers(-(10**15), 10**15), max_size=12))
def test_own_times_rise_strictly_whatever_the_wall_clock_does(wall_ms: list[int]) -> None:
    book, out = new_book(), Outbox()
    for number, wall in enumerate(wall_ms):
        book.write(invite(number), Now(1.0, wall), out)
    times = [event.hlc for event in out.append]
    assert times == sorted(set(times))


def test_nothing_is_written_while_the_node_may_not() -> None:
    book = new_book()
    book.may_write = False
    with pytest.raises(AssertionError):
        book.write(FOUNDED, NOW, Outbox())
    assert not book.written


def test_what_others_would_refuse_is_not_written() -> None:
    book, out = new_book(), Outbox()
    book.write(FOUNDED, NOW, out)
    before = book.clock.last
    weights = WeightsChanged("tool", {f"weight {number}": 1.0 for number in range(10_000)})
    with pytest.raises(Problem, match="more than nodes take") as raised:
        book.write(weights, NOW, out)
    assert raised.value.code == "bad_request"
    assert (len(out.append), book.clock.last) == (1, before)
    assert book.end(Feed(DESK.author, TASK)).seq == 1


# Taking in.


def test_a_received_event_is_folded_and_appended() -> None:
    book, out = new_book(LAPTOP.author), Outbox()
    (founded, *_) = written(new_book())
    book.take(founded, out)
    assert out.append == [founded]
    assert list(book.state.members) == [DESK.author]
    assert book.end(Feed(DESK.author, TASK)).hash == founded.hash
    assert not book.written


def test_an_own_event_that_was_lost_here_is_older_than_what_is_written_next() -> None:
    ahead = new_book()
    out = Outbox()
    lost = ahead.write(FOUNDED, Now(1.0, WALL_MS + 10**9), out)
    book = new_book()
    book.take(lost, Outbox())
    following = book.write(invite(1), NOW, Outbox())
    assert following.seq == 2
    assert following.hlc > lost.hlc
    assert following.hash == event_hash(lost.hash, 2, following.hlc, "InviteUsed", following.body)


def test_the_time_of_another_member_does_not_move_the_own_clock() -> None:
    book = new_book(LAPTOP.author)
    before = book.clock.last
    book.take(new_book().write(FOUNDED, Now(1.0, WALL_MS + 10**9), Outbox()), Outbox())
    assert book.clock.last == before


def test_what_the_ledger_held_is_known_committed_and_continued() -> None:
    first = new_book()
    events = written(first)
    book = new_book()
    book.load(events)
    assert book.state.digest() == first.state.digest()
    assert book.own_committed(TASK) == first.end(Feed(DESK.author, TASK)).seq == 4
    assert book.own_committed(RESULT) == 3
    assert not book.written
    following = book.write(CancelRequested(bytes(16)), Now(1.0, 0), Outbox())
    assert following.seq == 5
    assert following.hlc > max(event.hlc for event in events)


# What is committed.


def test_what_is_written_is_not_committed_before_the_disk_says_so() -> None:
    book = new_book()
    event = book.write(FOUNDED, NOW, Outbox())
    feed = book.own_feed(TASK)
    assert feed == Feed(DESK.author, TASK)
    assert book.end(feed).seq == 1
    assert (book.own_committed(TASK), book.committed) == (0, {})
    assert not book.is_committed(DESK.author, TASK, 1)
    book.commit({feed: Head(1, event.hash)})
    assert book.own_committed(TASK) == 1
    assert book.is_committed(DESK.author, TASK, 1)
    assert not book.is_committed(DESK.author, TASK, 2)
    assert not book.is_committed(DESK.author, RESULT, 1)


authors = st.sampled_from([DESK.author, LAPTOP.author, Author(bytes(32))])
feeds = st.builds(Feed, authors, st.sampled_from([TASK, RESULT]))
heads = st.builds(
    lambda seq: Head(seq, EventHash(seq.to_bytes(32, "big"))), st.integers(1, 1 << 40)
)
many_heads = st.dictionaries(feeds, heads, max_size=6)


def hash_of(parts: list[dict[Feed, Head]]) -> bytes:
    book = new_book()
    for part in parts:
        book.commit(part)
        assert len(book.heads_hash()) == 16
    return book.heads_hash()


@given(many_heads, st.randoms())
def test_equal_heads_have_one_hash_whatever_the_order(
    all_heads: dict[Feed, Head], chance: random.Random
) -> None:
    parts = [{feed: head} for feed, head in all_heads.items()]
    chance.shuffle(parts)
    assert hash_of(parts) == hash_of([all_heads])


@given(many_heads, many_heads)
def test_heads_that_differ_have_another_hash(a: dict[Feed, Head], b: dict[Feed, Head]) -> None:
    assert (hash_of([a]) == hash_of([b])) == (a == b)


@given(feeds, heads, heads)
def test_the_hash_follows_a_head_that_grows(feed: Feed, old: Head, new: Head) -> None:
    assert hash_of([{feed: old}, {feed: new}]) == hash_of([{feed: new}])


def test_what_is_written_and_not_committed_is_not_in_the_hash() -> None:
    book = new_book()
    before = book.heads_hash()
    written(book)
    assert book.heads_hash() == before


# Recent hashes.


def test_hashes_are_known_from_the_place_before_the_first_event_to_the_last() -> None:
    book = new_book()
    feed = book.own_feed(TASK)
    start = genesis(CLUSTER, DESK.author, TASK)
    assert book.end(feed).hash_at(0) == start
    events = [event for event in written(book) if event.topic == TASK]
    end = book.end(feed)
    assert [end.hash_at(seq) for seq in range(5)] == [start, *(event.hash for event in events)]
    assert end.hash_at(5) is None
    assert end.hash_at(-1) is None


@given(st.integers(1, 8), st.integers(0, 20), st.integers(-30, 30))
def test_only_so_many_recent_hashes_are_kept(recent_max: int, count: int, asked: int) -> None:
    book = new_book(limits=msgspec.structs.replace(LIMITS, recent_hashes_max=recent_max))
    hashes = [genesis(CLUSTER, DESK.author, TASK)]
    hashes += [book.write(invite(number), NOW, Outbox()).hash for number in range(count)]
    end = book.end(book.own_feed(TASK))
    assert len(end.recent) == min(recent_max, count + 1)
    known = count - recent_max < asked <= count and asked >= 0
    assert end.hash_at(asked) == (hashes[asked] if known else None)


def test_an_end_knows_its_last_event() -> None:
    end = FeedEnd(0, EventHash(bytes(32)), 0, 4)
    event = Event(DESK.author, TASK, 1, 99, "InviteUsed", b"", EventHash(b"x" * 32))
    end.advance(event)
    assert (end.seq, end.hash, end.hlc) == (1, event.hash, 99)


def test_what_an_admitted_member_wrote_joins_the_book_in_its_own_feed() -> None:
    desk, out = new_book(), Outbox()
    desk.write(FOUNDED, NOW, out)
    desk.write(MemberAdmitted(LAPTOP.author, "laptop", "member"), NOW, out)
    laptop = new_book(LAPTOP.author)
    laptop.load(out.append)
    cancel = laptop.write(CancelRequested(bytes(16)), NOW, out)
    desk.take(cancel, Outbox())
    assert desk.end(Feed(LAPTOP.author, TASK)).hash == cancel.hash
    assert desk.state.digest() == laptop.state.digest()
