"""Attack 8: bytes made to hurt the reader: deep, huge, lying, ambiguous.

They come as frames, as bodies inside well signed frames, as datagrams, as specs. None raises past
its door, none changes what honest nodes show, and a well signed feed goes on after them.
"""

from __future__ import annotations

import msgspec
import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.codec import decode, encode
from kowalski_protocol.events import KINDS, CancelRequested, TaskSubmitted
from kowalski_protocol.feeds import FrameHeader, signed_message
from kowalski_protocol.ids import EventHash
from kowalski_protocol.topics import FEED_TOPICS, TASK
from tests.units.bench import Bench, sign

pytestmark = pytest.mark.attack

BOMBS = {
    "nothing": b"",
    "a byte that is never used": b"\xc1",
    "an array of four thousand million": b"\xdd\xff\xff\xff\xff",
    "bytes of four thousand million": b"\xc6\xff\xff\xff\xff",
    "deep arrays": b"\x91" * 60_000 + b"\x01",
    "deep maps": b"\x81\x01" * 30_000 + b"\x01",
    "a valid beginning and then deep": b"\x92\xc4\x10" + bytes(16) + b"\x91" * 50_000 + b"\x01",
    "text that is no UTF-8": b"\x91\xa4\xff\xfe\xfd\xfc",
    "empty maps": b"\xdc\xff\x00" + b"\x80" * 0xFF00,
    "a key twice": b"\x82\xa1a\x01\xa1a\x02",
    "no number": b"\x91\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    "two values": encode(CancelRequested(bytes(16))) * 2,
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=list(BOMBS))
def test_a_bomb_in_place_of_a_frame_or_datagram_is_charged(data: bytes) -> None:
    bench = Bench(3)
    attacker = bench.others[1]
    before = bench.state.digest()
    out = bench.give(
        ins.FrameReceived(attacker.author, data), ins.DatagramReceived(attacker.author, data)
    )
    assert [e.peer for e in out.at_once if isinstance(e, fx.Charge)] == [attacker.author] * 2
    assert bench.state.digest() == before


@pytest.mark.parametrize("data", BOMBS.values(), ids=list(BOMBS))
def test_a_bomb_in_place_of_a_frame_s_events_is_charged(data: bytes) -> None:
    bench = Bench(3)
    attacker = bench.others[1]
    last = EventHash(b"h" * 32)
    signature = attacker.identity.sign(signed_message(last))
    header = FrameHeader(
        1, bench.history.cluster, TASK, attacker.author, 1, 1, last, signature, data
    )
    out = bench.give(ins.FrameReceived(attacker.author, encode(header)))
    assert out.append == []
    assert [e.peer for e in out.at_once if isinstance(e, fx.Charge)] == [attacker.author]


@pytest.mark.parametrize("data", BOMBS.values(), ids=list(BOMBS))
def test_a_bomb_in_a_well_signed_body_is_stored_and_does_not_count(data: bytes) -> None:
    bench = Bench(3)
    attacker = bench.others[1]
    before = bench.state.digest()
    for kind in KINDS:
        attacker.raw(TASK, kind, data)
    half = len(KINDS) // 2  # all of them are more than one frame may be
    stored = [*bench.receive(attacker, 1, half).append, *bench.receive(attacker, half + 1).append]
    assert len(stored) == len(KINDS)
    assert bench.effects(fx.Charge) == []
    assert bench.state.digest() == before
    attacker.write(CancelRequested(b"t" * 16))
    seq = len(attacker.feeds[TASK])
    bench.receive(attacker, seq, seq)
    assert bench.state.digest() != before, "the feed goes on, and what is whole counts"


@pytest.mark.parametrize("data", BOMBS.values(), ids=list(BOMBS))
def test_a_bomb_in_place_of_a_spec_is_no_task(data: bytes) -> None:
    bench = Bench(3)
    attacker = bench.others[1]
    attacker.write(TaskSubmitted(bench.me.author, b"kbomb", data))
    bench.receive(attacker)
    assert bench.state.tasks == {}
    assert [finding.author for finding in bench.state.findings] == [attacker.author]


@pytest.mark.parametrize("topic", FEED_TOPICS)
def test_a_frame_in_another_form_is_refused_although_it_says_the_same(topic: str) -> None:
    # Else one frame had endless forms, and each would be passed on as if it were new.
    bench = Bench(3)
    author, attacker = bench.others
    author.raw(topic, "Anything", b"")
    good = sign(author, author.feeds[topic])
    assert good[:2] == b"\x99\x01"
    for data in (
        b"\x99\xcc\x01" + good[2:],
        b"\x99\xcd\x00\x01" + good[2:],
        b"\xdc\x00\x09\x01" + good[2:],
        b"\x9a" + good[1:] + b"\xc0",
    ):
        out = bench.give(ins.FrameReceived(attacker.author, data))
        assert out.append == []
        assert [e.reason for e in out.at_once if isinstance(e, fx.Charge)] == [
            "not in canonical form"
        ]


def test_events_in_another_form_are_refused_although_they_say_the_same() -> None:
    bench = Bench(3)
    author, attacker = bench.others
    author.raw(TASK, "Anything", b"")
    header = decode(sign(author, author.feeds[TASK]), msgspec.msgpack.Decoder(FrameHeader))
    hlc = author.feeds[TASK][0].hlc
    longer = b"\x91\x94\xcf" + hlc.to_bytes(8, "big")
    assert header.events.startswith(longer)
    other = b"\xdc\x00\x01" + header.events[1:]
    data = encode(msgspec.structs.replace(header, events=other))
    out = bench.give(ins.FrameReceived(attacker.author, data))
    assert out.append == []
    assert [e.reason for e in out.at_once if isinstance(e, fx.Charge)] == [
        "events not in canonical form"
    ]


def test_a_frame_above_the_limit_is_not_even_decoded() -> None:
    bench = Bench(3)
    attacker = bench.others[1]
    size = bench.node.config.limits.frame_size_bytes_max + 1
    out = bench.give(ins.FrameReceived(attacker.author, b"\x91" * size))
    assert [e.reason for e in out.at_once if isinstance(e, fx.Charge)] == ["frame too large"]


def test_a_datagram_above_the_limit_is_not_even_decoded() -> None:
    bench = Bench(3)
    attacker = bench.others[1]
    size = bench.node.config.limits.datagram_size_bytes_max + 1
    out = bench.give(ins.DatagramReceived(attacker.author, b"\x91" * size))
    assert [e.reason for e in out.at_once if isinstance(e, fx.Charge)] == ["datagram too large"]
