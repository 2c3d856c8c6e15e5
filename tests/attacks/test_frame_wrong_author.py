"""Attack 2: a member's valid signature under another's name.

The author of a frame is the key that signed it. Whoever passes it on may be somebody else.
"""

from __future__ import annotations

import msgspec
import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_protocol.codec import decode, encode
from kowalski_protocol.events import CancelRequested, LeaderClaimed, MemberAdmitted
from kowalski_protocol.feeds import FrameHeader, event_hash, genesis, signed_message
from kowalski_protocol.topics import TASK
from tests.units.bench import Bench
from tests.units.histories import Writer

pytestmark = pytest.mark.attack

HEADERS = msgspec.msgpack.Decoder(FrameHeader)


def test_a_frame_under_another_s_name_is_refused() -> None:
    bench = Bench(3)
    victim, attacker = bench.others
    attacker.write(LeaderClaimed(1, b""))
    own = decode(bench.frame(attacker), HEADERS)
    stolen = encode(msgspec.structs.replace(own, author=victim.author))
    before = bench.state.digest()
    out = bench.give(ins.FrameReceived(attacker.author, stolen))
    assert out.append == []
    assert [e for e in out.at_once if isinstance(e, fx.Charge)]
    assert bench.state.digest() == before


def test_a_chain_made_for_another_s_feed_and_signed_by_oneself_is_refused() -> None:
    bench = Bench(3)
    victim, attacker = bench.others
    body = encode(MemberAdmitted(attacker.author, "me", "admin"))
    start = genesis(bench.history.cluster, bench.history.founder.author, TASK)
    hash = event_hash(start, 1, 1 << 60, "MemberAdmitted", body)
    for author in (bench.history.founder.author, victim.author):
        header = FrameHeader(
            1,
            bench.history.cluster,
            TASK,
            author,
            1,
            1,
            hash,
            attacker.identity.sign(signed_message(hash)),
            encode([(1 << 60, "MemberAdmitted", body, None)]),
        )
        bench.give(ins.FrameReceived(attacker.author, encode(header)))
    assert bench.state.members[attacker.author].role == "member"


def test_a_true_frame_may_be_passed_on_by_anybody() -> None:
    bench = Bench(3)
    author, forwarder = bench.others
    author.write(CancelRequested(bytes(16)))
    author.write(CancelRequested(bytes(16)))
    first, second = bench.frame(author, 1, 1), bench.frame(author, 2, 2)
    bench.give(ins.FrameReceived(forwarder.author, first), ins.FrameReceived(None, second))
    assert bench.state.folded[(author.author, TASK)] == 2
    assert bench.effects(fx.Charge) == []


def test_a_stranger_that_signs_well_is_still_a_stranger() -> None:
    bench = Bench(2)
    stranger = Writer("a stranger")
    stranger.cluster = bench.history.cluster
    stranger.write(MemberAdmitted(stranger.author, "me", "admin"))
    stranger.write(LeaderClaimed(1, b""))
    before = bench.state.digest()
    bench.receive(stranger)
    assert bench.state.digest() == before
    assert stranger.author not in bench.state.members
    assert bench.out.append == []


def test_a_heartbeat_under_another_s_name_makes_nobody_alive() -> None:
    from kowalski_protocol.telemetry import encode_datagram

    bench = Bench(3)
    victim, attacker = bench.others
    bench.give(ins.PeerDisconnected(victim.author))
    bench.pass_time(1.0, heard=False)
    said = bench.heartbeat(victim)
    forged = encode_datagram(bench.history.cluster, victim.author, attacker.identity.sign, said)
    for peer in (attacker.author, None):
        bench.give(ins.DatagramReceived(peer, forged))
    bench.tick(0.05)
    assert victim.author not in bench.node.peers.alive
    assert len(bench.effects(fx.Charge)) == 2
