"""What a node may rely on of its network: run on libp2p over loopback and on the simulator's wire.

Where a law says "once" or "in order", a later message shows that nothing is still on its way: what
is sent on a lane comes after all that was sent on it before.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
import trio

from kowalski_protocol.ids import Author
from tests.ports.wires import (
    Place,
    Station,
    Wires,
    meet,
    meet_to_gossip,
    real_wires,
    simulated_wires,
)

KIBIBYTE = 1024


@pytest.fixture(params=["libp2p", "simulated"])
async def wires(request: pytest.FixtureRequest) -> AsyncIterator[Wires]:
    async with real_wires() if request.param == "libp2p" else simulated_wires() as wires:
        yield wires


async def talk(wires: Wires, a: Station, b: Station, word: bytes) -> None:
    """Both hear a new word from the other."""
    a.send(b.key, word)
    b.send(a.key, word)
    await wires.until(lambda: word in a.heard_from(b.key) and word in b.heard_from(a.key))


def assert_told_in_turn(station: Station) -> None:
    """A peer comes before it goes or is heard, and comes again only after it went."""
    there: set[Author] = set()
    for entry in station.entries:
        if entry.what == "connected":
            assert entry.peer not in there, "told twice that it is there"
            there.add(entry.peer)
        else:
            assert entry.peer in there, f"{entry.what} without being there"
            if entry.what == "disconnected":
                there.remove(entry.peer)


# Connections.


async def test_a_dial_to_one_who_listens_connects_and_tells_both_sides_once(wires: Wires) -> None:
    a, b = await wires.start(0), await wires.start(1)
    assert await a.dial(b.place)
    await wires.until(lambda: a.told_of(b.key) and b.told_of(a.key))
    await talk(wires, a, b, b"are you there")
    assert a.told_of(b.key) == b.told_of(a.key) == ["connected"]


async def test_a_dial_to_one_who_is_there_already_is_true_and_tells_nobody(wires: Wires) -> None:
    a, b = await wires.start(0), await wires.start(1)
    await meet(wires, a, b)
    words = [b"%d" % number for number in range(300)]

    async def go_on_dialling(one: Station, other: Station) -> None:
        for _ in range(20):
            assert await one.dial(other.place)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on_dialling, a, b)
        nursery.start_soon(go_on_dialling, b, a)
        # What is sent meanwhile does not notice.
        for count, word in enumerate(words, 1):
            a.send(b.key, word)
            await wires.until(lambda count=count: len(b.heard_from(a.key)) >= count - 3)
    await talk(wires, a, b, b"still there")
    assert b.heard_from(a.key) == [*words, b"still there"]
    assert a.told_of(b.key) == b.told_of(a.key) == ["connected"]


async def test_a_dial_to_nobody_ends_with_false(wires: Wires) -> None:
    a, b = await wires.start(0), await wires.start(1)
    left = b.place
    await b.end()
    for place in (wires.nobody(2), left):
        assert not await a.dial(place)
        assert a.told_of(place.key) == []


async def test_a_dial_that_failed_does_not_keep_the_next_one_from_connecting(wires: Wires) -> None:
    a = await wires.start(0)
    for _ in range(3):
        assert not await a.dial(wires.nobody(1))
    b = await wires.start(1)
    await meet(wires, a, b)
    assert a.told_of(b.key) == b.told_of(a.key) == ["connected"]


@pytest.mark.parametrize("round_", range(3))
async def test_two_who_dial_each_other_at_the_same_time_end_with_one_usable_connection(
    wires: Wires, round_: int
) -> None:
    a, b = await wires.start(0), await wires.start(1)
    ended: list[bool] = []

    async def dial(one: Station, place: Place) -> None:
        ended.append(await one.dial(place))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial, a, b.place)
        nursery.start_soon(dial, b, a.place)
    assert ended == [True, True]
    await wires.until(lambda: a.reaches(b.key) and b.reaches(a.key))
    await talk(wires, a, b, b"round %d" % round_)
    assert await a.request(b.key, b"this way") == b"answer to this way"
    assert await b.request(a.key, b"and that") == b"answer to and that"
    assert a.told_of(b.key) == b.told_of(a.key) == ["connected"]


async def test_when_a_process_goes_away_all_its_peers_are_told_once(wires: Wires) -> None:
    a, b, c = [await wires.start(number) for number in range(3)]
    await meet(wires, a, b)
    await meet(wires, a, c)
    await meet(wires, b, c)
    await b.end()
    await wires.until(lambda: len(a.told_of(b.key)) == len(c.told_of(b.key)) == 2)
    await talk(wires, a, c, b"we are left")
    assert a.told_of(b.key) == c.told_of(b.key) == ["connected", "disconnected"]
    assert a.told_of(c.key) == c.told_of(a.key) == ["connected"]


@pytest.mark.parametrize("dials", ["the one who stayed", "the one who is back"])
async def test_after_that_a_new_dial_connects_again_and_both_are_told_again(
    wires: Wires, dials: str
) -> None:
    a, b = await wires.start(0), await wires.start(1)
    await meet(wires, a, b)
    for life in range(2):
        await b.end()
        await wires.until(lambda b=b, life=life: len(a.told_of(b.key)) == 2 * (life + 1))
        b = await wires.start(1)
        one, other = (a, b) if dials == "the one who stayed" else (b, a)
        await meet(wires, one, other)
        await talk(wires, a, b, b"life %d" % life)
        assert a.told_of(b.key) == ["connected", "disconnected"] * (life + 1) + ["connected"]
        assert b.told_of(a.key) == ["connected"]


async def test_one_who_is_back_before_its_end_was_noticed_was_there_all_the_time(
    wires: Wires,
) -> None:
    a, b = await wires.start(0), await wires.start(1)
    await meet(wires, a, b)
    again = await wires.start_unnoticed(b, 1)
    with trio.fail_after(20):
        while not await again.dial(a.place):
            pass
    await wires.until(lambda: again.reaches(a.key) and a.reaches(again.key))
    await talk(wires, a, again, b"the new one")
    assert again.told_of(a.key) == ["connected"]
    assert a.told_of(b.key) == ["connected"]
    await again.end()
    await wires.until(lambda: len(a.told_of(b.key)) > 1)
    assert a.told_of(b.key) == ["connected", "disconnected"]


async def test_a_dial_connects_no_later_process_of_the_one_who_dialled(wires: Wires) -> None:
    a, b = await wires.start(0), await wires.start(1)

    begun = trio.Event()

    async def begin_to_dial(one: Station) -> None:
        begun.set()
        await one.dial(b.place)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(begin_to_dial, a)
        await begun.wait()
        await a.end()
        a = await wires.start(0)
    await wires.until(lambda: not b.believes_in(a.key))
    assert a.told_of(b.key) == []
    await meet(wires, a, b)
    await talk(wires, a, b, b"the later one")
    assert a.told_of(b.key) == ["connected"]
    assert_told_in_turn(b)


# Lanes.


async def test_what_is_sent_on_a_lane_arrives_whole_in_order_and_once_from_its_peer(
    wires: Wires,
) -> None:
    a, b, c = [await wires.start(number) for number in range(3)]
    await meet(wires, a, b)
    await meet(wires, c, b)
    sizes = [0, 1, 4, 1000, 64 * KIBIBYTE, 1024 * KIBIBYTE, 7, *(n % 50 for n in range(500))]
    sent = {
        station.key: [bytes([mark]) * size + b"%d" % n for n, size in enumerate(sizes)]
        for mark, station in ((1, a), (2, b), (3, c))
    }
    # All at once and both ways: no lane waits for another.
    for messages in zip(*sent.values(), strict=True):
        for (key, to), message in zip(((a, b), (b, a), (c, b)), messages, strict=True):
            key.send(to.key, message)
    await wires.until(lambda: len(a.heard_from(b.key)) == len(sizes))
    await wires.until(lambda: len(b.heard_from(a.key)) == len(b.heard_from(c.key)) == len(sizes))
    await talk(wires, a, b, b"the end")
    await talk(wires, b, c, b"the end")
    assert a.heard_from(b.key) == [*sent[b.key], b"the end"]
    assert b.heard_from(a.key) == [*sent[a.key], b"the end"]
    assert b.heard_from(c.key) == [*sent[c.key], b"the end"]
    assert c.heard_from(b.key) == [b"the end"]
    assert a.heard_from(c.key) == c.heard_from(a.key) == []


async def test_what_is_sent_to_one_who_is_not_connected_is_dropped_without_an_error(
    wires: Wires,
) -> None:
    a, b = await wires.start(0), await wires.start(1)
    a.send(b.key, b"before")
    a.send(wires.nobody(2).key, b"to nobody")
    await meet(wires, a, b)
    await talk(wires, a, b, b"while connected")
    assert b.heard_from(a.key) == [b"while connected"]
    await b.end()
    await wires.until(lambda: len(a.told_of(b.key)) == 2)
    a.send(b.key, b"after")
    b = await wires.start(1)
    a.send(b.key, b"not yet again")
    await meet(wires, a, b)
    await talk(wires, a, b, b"connected again")
    assert b.heard_from(a.key) == [b"connected again"]


async def test_what_arrives_of_one_who_goes_away_has_no_gap(wires: Wires) -> None:
    a, b = await wires.start(0), await wires.start(1)
    await meet(wires, a, b)
    await talk(wires, a, b, b"hello")
    words = [b"%d" % number for number in range(200)]
    for word in words:
        b.send(a.key, word)
    await b.end()
    await wires.until(lambda: len(a.told_of(b.key)) == 2)
    heard = a.heard_from(b.key)[1:]
    assert heard == words[: len(heard)]
    assert_told_in_turn(a)


@pytest.mark.parametrize("seed", [1, 2])
async def test_through_many_lives_all_is_told_in_turn_and_lanes_stay_in_order(
    wires: Wires, seed: int
) -> None:
    chance = random.Random(seed)
    stations = [await wires.start(number) for number in range(3)]
    everybody = list(stations)
    for count in range(40):
        number = chance.randrange(3)
        station, other = stations[number], stations[(number + chance.randrange(1, 3)) % 3]
        if chance.random() < 0.15:
            await station.end()
            stations[number] = await wires.start(number)
            everybody.append(stations[number])
        elif chance.random() < 0.4:
            await station.dial(other.place)
        for _ in range(5):
            station.send(other.key, b"%d" % count)
    # Then quiet: all find each other, and nobody has heard anything of an earlier life.
    for a, b in ((0, 1), (1, 2), (2, 0)):
        one, other = stations[a], stations[b]
        await wires.until(lambda a=one, b=other: a.believes_in(b.key) == b.believes_in(a.key))
        await meet(wires, one, other)
        await talk(wires, one, other, b"999")
    for station in everybody:
        assert_told_in_turn(station)
        for peer in stations:
            numbers = [int(word) for word in station.heard_from(peer.key)]
            assert numbers == sorted(numbers)
            assert all(numbers.count(number) <= 5 for number in set(numbers))


# Gossip.


async def test_gossip_reaches_those_who_are_connected_only_through_a_third(wires: Wires) -> None:
    a, b, c, alone = [await wires.start(number) for number in range(4)]
    await meet_to_gossip(wires, a, b)
    await meet_to_gossip(wires, b, c)
    a.publish(b"from one end")
    await wires.until(lambda: b"from one end" in c.gossip)
    c.publish(b"from the other")
    await wires.until(lambda: b"from the other" in a.gossip)
    b.publish(b"from the middle")
    await wires.until(lambda: b"from the middle" in a.gossip and b"from the middle" in c.gossip)
    assert set(b.gossip) == {b"from one end", b"from the other"}
    assert a.told_of(c.key) == c.told_of(a.key) == []
    assert alone.gossip == []


async def test_gossip_ends_where_the_third_goes_away(wires: Wires) -> None:
    a, b, c = [await wires.start(number) for number in range(3)]
    await meet_to_gossip(wires, a, b)
    await meet_to_gossip(wires, b, c)
    await b.end()
    await wires.until(lambda: len(a.told_of(b.key)) == len(c.told_of(b.key)) == 2)
    a.publish(b"to nobody")
    await meet_to_gossip(wires, a, c)
    a.publish(b"to the other")
    await wires.until(lambda: b"to the other" in c.gossip)
    assert b.gossip == []


# Requests.


async def test_a_request_is_answered_and_each_with_its_own_answer(wires: Wires) -> None:
    a, b = await wires.start(0), await wires.start(1)
    await meet(wires, a, b)
    answers: dict[bytes, bytes | None] = {}

    async def ask(one: Station, other: Station, data: bytes) -> None:
        answers[data] = await one.request(other.key, data)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(ask, a, b, b"a%d" % number)
            nursery.start_soon(ask, b, a, b"b%d" % number)
    assert len(answers) == 20
    assert all(answer == b"answer to " + data for data, answer in answers.items())
    assert sorted(b.asked) == [b"a%d" % number for number in range(10)]


async def test_a_request_to_one_who_is_not_connected_fails(wires: Wires) -> None:
    a, b = await wires.start(0), await wires.start(1)
    assert await a.request(b.key, b"a stranger asks") is None
    assert await a.request(wires.nobody(2).key, b"and nobody hears") is None
    assert b.asked == []


async def test_a_request_fails_when_the_peer_goes_away_meanwhile(wires: Wires) -> None:
    a, silent = await wires.start(0), await wires.start(1, answers=False)
    c = await wires.start(2)
    await meet(wires, a, silent)
    await meet(wires, a, c)
    answers: list[bytes | None] = []

    async def ask() -> None:
        answers.append(await a.request(silent.key, b"say something"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wires.until(lambda: silent.asked)
        assert answers == []
        await silent.end()
        await wires.until(lambda: answers)
    assert answers == [None]
    assert await a.request(c.key, b"others answer") == b"answer to others answer"
