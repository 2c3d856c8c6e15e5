"""Attack 3: the same again, the same in another cluster, and old heads and heartbeats.

What is known is nothing new; the cluster is part of every chain and frame; the newest word of a
member counts.
"""

from __future__ import annotations

import msgspec
import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.codec import decode, encode
from kowalski_protocol.events import CancelRequested, LeaderClaimed
from kowalski_protocol.feeds import Feed, FrameHeader, Head
from kowalski_protocol.ids import EventHash
from kowalski_protocol.telemetry import encode_datagram
from kowalski_protocol.topics import RESULT, TASK
from tests.units.bench import Bench

pytestmark = pytest.mark.attack


def test_a_frame_that_comes_again_and_again_is_nothing_new() -> None:
    bench = Bench(3)
    author, attacker = bench.others
    for _ in range(5):
        author.write(CancelRequested(bytes(16)))
    frames = [bench.frame(author, 1, last) for last in (1, 3, 5)]
    bench.receive(author)
    bench.commit()
    before = bench.state.digest()
    for _ in range(200):
        for data in frames:
            out = bench.give(ins.FrameReceived(attacker.author, data))
            assert (out.append, out.then) == ([], [])
    assert bench.state.digest() == before
    assert bench.effects(fx.Charge) == []


def test_a_frame_of_another_cluster_with_the_same_members_is_refused() -> None:
    bench = Bench(2)
    author = bench.others[0]
    author.cluster = type(author.cluster)(bytes(32))
    author.write(LeaderClaimed(1, b""))
    foreign = bench.frame(author)
    header = decode(foreign, msgspec.msgpack.Decoder(FrameHeader))
    relabelled = encode(msgspec.structs.replace(header, cluster=bench.history.cluster))
    before = bench.state.digest()
    for data in (foreign, relabelled):
        assert bench.give(ins.FrameReceived(author.author, data)).append == []
    assert [charge.reason for charge in bench.effects(fx.Charge)] == [
        "frame of another cluster",
        "chain does not end at the signed hash",
    ]
    assert bench.state.digest() == before


def test_a_chain_of_another_cluster_does_not_fit_even_when_it_is_signed_anew() -> None:
    bench = Bench(2)
    author = bench.others[0]
    author.cluster = type(author.cluster)(bytes(32))
    author.write(LeaderClaimed(1, b""))
    author.cluster = bench.history.cluster
    out = bench.receive(author)
    assert out.append == []
    assert [charge.reason for charge in bench.effects(fx.Charge)] == [
        "chain does not end at the signed hash"
    ]


def test_a_feed_of_one_topic_is_none_of_the_other() -> None:
    bench = Bench(2)
    author = bench.others[0]
    author.write(LeaderClaimed(1, b""))
    header = decode(bench.frame(author), msgspec.msgpack.Decoder(FrameHeader))
    moved = encode(msgspec.structs.replace(header, topic=RESULT))
    assert bench.give(ins.FrameReceived(author.author, moved)).append == []
    assert (author.author, RESULT) not in bench.state.folded


def test_old_heads_ask_for_nothing() -> None:
    bench = Bench(3)
    author, attacker = bench.others
    for _ in range(5):
        author.write(CancelRequested(bytes(16)))
    bench.receive(author)
    bench.commit()
    for seq in (1, 3, 5):
        head = {Feed(author.author, TASK): Head(seq, EventHash(bytes(32)))}
        bench.give(ins.HeadsReceived(attacker.author, head, False))
    bench.tick(1.0)
    assert bench.effects(fx.Pull) == []


def test_an_old_heartbeat_keeps_nobody_alive() -> None:
    bench = Bench(3)
    gone, attacker = bench.others
    said = bench.heartbeat(gone)
    recorded = encode_datagram(bench.history.cluster, gone.author, gone.identity.sign, said)
    bench.hear(gone)
    bench.give(ins.PeerDisconnected(gone.author))
    for _ in range(40):
        bench.give(ins.DatagramReceived(attacker.author, recorded))
        bench.hear(attacker)
        bench.tick(0.05)
    assert gone.author not in bench.node.peers.alive
