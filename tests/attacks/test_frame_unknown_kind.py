"""Attack 10: kinds that nobody knows, and known kinds in a newer form.

They are stored, acknowledged and served to others like any event; what is known of a newer form
counts, the rest does not, and no feed stands still because of them.
"""

from __future__ import annotations

import pytest

from kowalski_node.core import effects as fx
from kowalski_protocol.codec import encode
from kowalski_protocol.events import CancelRequested
from kowalski_protocol.topics import RESULT, TASK
from tests.units.bench import Bench

pytestmark = pytest.mark.attack

UNKNOWN = [
    ("MemberRemoved", encode([b"m" * 32, b"heir"])),
    ("Checkpointed", encode([5, b"", {}])),
    ("x", b""),
    ("K" * 64, b"\xc1"),
    ("not a name\x00\x1b[31m", b"anything"),
]


@pytest.mark.parametrize(("kind", "body"), UNKNOWN)
def test_an_unknown_kind_is_stored_and_acknowledged_and_counts_for_nothing(
    kind: str, body: bytes
) -> None:
    bench = Bench(3)
    author = bench.others[0]
    before = bench.state.digest()
    author.raw(TASK, kind, body)
    out = bench.receive(author)
    assert [event.kind for event in out.append] == [kind]
    assert out.then == [fx.Acknowledge(author.author, TASK, 1)]
    assert bench.state.digest() == before
    assert bench.effects(fx.Charge) == []
    assert bench.state.findings == []


def test_what_comes_after_an_unknown_kind_counts() -> None:
    bench = Bench(3)
    author = bench.others[0]
    for kind, body in UNKNOWN:
        author.raw(TASK, kind, body)
        author.write(CancelRequested(kind.encode()[:16].ljust(16)))
    bench.receive(author)
    assert len(bench.state.tasks) == len(UNKNOWN)


def test_a_newer_form_of_a_known_kind_counts_by_what_is_known_of_it() -> None:
    bench = Bench(3)
    author = bench.others[0]
    author.raw(TASK, "CancelRequested", encode([b"t" * 16, {"why": "a later release asks"}]))
    bench.receive(author)
    (task,) = bench.state.tasks.values()
    assert task.cancel is not None


def test_a_newer_form_that_can_not_be_read_is_stored_and_does_not_count() -> None:
    bench = Bench(3)
    author = bench.others[0]
    author.raw(TASK, "CancelRequested", encode({"task": b"t" * 16}))
    out = bench.receive(author)
    assert len(out.append) == 1
    assert bench.state.tasks == {}
    assert [f.what for f in bench.state.findings] == ["CancelRequested does not decode"]


def test_a_kind_on_the_other_topic_is_stored_and_does_not_count() -> None:
    bench = Bench(3)
    author = bench.others[0]
    before = bench.state.digest()
    author.raw(TASK, "TaskStarted", encode([b"t" * 16, b"a" * 32, 5]))
    bench.receive(author)
    assert bench.state.digest() == before
    assert author.feeds[RESULT] == []


def test_such_events_are_served_to_others_as_they_came() -> None:
    from tests.stories.world import World

    world = World("desk", "laptop")
    device = world["laptop"]
    book = device.core.book
    before = len(device.ledger)

    class FromALaterRelease(CancelRequested, frozen=True):
        """A kind that this release does not know."""

    book.write(FromALaterRelease(b"t" * 16), device.now, device.gathered)
    world.run(0.5)
    assert len(device.ledger) > before
    attic = world.join("attic")
    assert world.run(5.0, until=lambda: world.agree() and len(attic.ledger) > 5)
    kinds = [event.kind for event in attic.ledger]
    assert "FromALaterRelease" in kinds
    assert attic.charges == []
