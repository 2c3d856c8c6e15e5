"""Attack 1: forged, cut, empty and swapped signatures, and keys under which anything verifies.

A frame is refused by its header: what it carries is not even decoded, nothing is held, and whoever
sent it is charged.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kowalski_node.core import effects as fx
from kowalski_node.core import inputs as ins
from kowalski_node.core import sync as sync_module
from kowalski_protocol.codec import decode, encode
from kowalski_protocol.events import CancelRequested, MemberAdmitted
from kowalski_protocol.feeds import FrameHeader, signed_message
from kowalski_protocol.ids import Author, EventHash
from tests.units.bench import Bench
from tests.units.histories import Writer

pytestmark = pytest.mark.attack

HEADERS = msgspec.msgpack.Decoder(FrameHeader)


class Scene(Bench):
    """A member with one event that the node has not heard of, and a place to forge its frame."""

    def __init__(self) -> None:
        super().__init__(3)
        self.victim, self.attacker = self.others
        self.victim.write(CancelRequested(bytes(16)))
        self.header = decode(self.frame(self.victim), HEADERS)
        self.done.clear()

    def forged(self, **changes: Any) -> bytes:
        return encode(msgspec.structs.replace(self.header, **changes))

    def attack(self, data: bytes) -> list[str]:
        """The reasons for which the attacker was charged; nothing else may have come of it."""
        before = (self.state.digest(), dict(self.state.folded))
        out = self.give(ins.FrameReceived(self.attacker.author, data))
        assert (self.state.digest(), dict(self.state.folded)) == before
        assert out.append == []
        assert self.node.sync._held == {}
        charges = [e for e in out.at_once if isinstance(e, fx.Charge)]
        assert {charge.peer for charge in charges} == {self.attacker.author}
        return [charge.reason for charge in charges]


def signatures(scene: Scene) -> dict[str, bytes]:
    good, last = scene.header.signature, EventHash(scene.header.last_hash)
    own = scene.victim.identity.sign
    return {
        "zero": bytes(64),
        "ones": b"\xff" * 64,
        "empty": b"",
        "cut": good[:63],
        "longer": good + b"\0",
        "one bit": good[:-1] + bytes([good[-1] ^ 1]),
        "halves swapped": good[32:] + good[:32],
        "by another member": scene.attacker.identity.sign(signed_message(last)),
        "over another event": own(signed_message(scene.history.written[0].hash)),
        "over the bare hash": own(last),
        "over a heartbeat": own(b"kowalski/datagram/1" + scene.history.cluster + last),
    }


NAMES = list(signatures(Scene()))


@pytest.mark.parametrize("name", NAMES)
def test_a_forged_signature_is_refused_before_anything_is_decoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene()
    opened: list[object] = []
    monkeypatch.setattr(sync_module, "open_frame", lambda *_args: opened.append(1))
    reasons = scene.attack(scene.forged(signature=signatures(scene)[name]))
    assert reasons in (["signature"], ["signature size"])
    assert opened == []


@pytest.mark.parametrize("name", NAMES)
def test_a_forged_frame_takes_no_place_among_those_that_wait(name: str) -> None:
    scene = Scene()
    forged = scene.forged(signature=signatures(scene)[name], first_seq=7)
    assert scene.attack(forged) in (["signature"], ["signature size"])


def test_the_true_frame_is_as_welcome_as_before() -> None:
    scene = Scene()
    for name in NAMES:
        scene.attack(scene.forged(signature=signatures(scene)[name]))
    scene.receive(scene.victim)
    assert scene.state.folded[(scene.victim.author, "task")] == 1


# Keys of small order: y = 1 is the point with which a signature of nothing verifies.
WEAK = [(n | sign << 255).to_bytes(32, "little") for n in (0, 1) for sign in (0, 1)]


@pytest.mark.parametrize("key", WEAK, ids=[key.hex()[:4] + key.hex()[-2:] for key in WEAK])
def test_a_key_under_which_anything_verifies_never_becomes_a_member(key: bytes) -> None:
    bench = Bench(1)
    bench.give(ins.Admit(1, Author(key), "weak", "member", b"i" * 32))
    bench.node.book.write(MemberAdmitted(key, "weak", "admin"), bench.now, bench.out)
    assert Author(key) not in bench.state.members


@pytest.mark.parametrize("key", WEAK, ids=[key.hex()[:4] + key.hex()[-2:] for key in WEAK])
def test_a_frame_under_such_a_key_is_refused(key: bytes) -> None:
    scene = Scene()
    signature = (1).to_bytes(32, "little") + bytes(32)
    for first_seq in (1, 5):
        forged = scene.forged(author=key, signature=signature, first_seq=first_seq)
        assert scene.attack(forged) == ["signature"]


def test_a_flood_of_forged_frames_leaves_nothing_behind() -> None:
    scene = Scene()
    stranger = Writer("made up")
    for number in range(500):
        key = number.to_bytes(32, "big")
        scene.give(
            ins.FrameReceived(None, scene.forged(author=key, first_seq=1 + number)),
            ins.FrameReceived(None, scene.forged(author=stranger.author, first_seq=1 + number)),
        )
    assert scene.node.sync._held == {}
    assert scene.node.sync.held_size_bytes == 0
    assert scene.node.sync._lags == scene.node.sync._later == {}
