"""What is believed of an advert, and how many of them reach the node."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_node.addresses import ADDRESSES_MAX, is_peer_id, parse_multiaddr
from kowalski_node.adverts import (
    BURST_INTERVAL_S,
    BURST_MAX,
    PEER_INTERVAL_S,
    PEERS_MAX,
    REPEAT_S,
    Advert,
    AdvertBook,
    cluster_tag,
    read_advert,
    text_record,
)
from kowalski_node.names import clean_name
from kowalski_protocol.identity import Identity

CLUSTER = bytes(range(32))


def peer(number: int) -> str:
    return Identity(number.to_bytes(32, "big")).peer_id


def record(**changes: Any) -> dict[bytes, bytes | None]:
    text = text_record(peer=peer(1), cluster=CLUSTER, name="desk", boot="00c0ffee")
    encoded: dict[bytes, bytes | None] = {
        key.encode(): value.encode() for key, value in text.items()
    }
    return encoded | {key.encode(): value for key, value in changes.items()}


def advert(number: int, *, boot: str = "") -> Advert:
    return Advert(peer(number), cluster_tag(CLUSTER), ("/ip4/10.0.0.1/tcp/1",), "desk", boot=boot)


def test_what_a_node_says_is_what_another_reads() -> None:
    assert read_advert(record(), 52421, ["192.168.1.7", "fd00::7", "fe80::7%4"]) == Advert(
        peer=peer(1),
        cluster_tag=cluster_tag(CLUSTER),
        addresses=(
            "/ip4/192.168.1.7/tcp/52421",
            "/ip6/fd00::7/tcp/52421",
            "/ip6zone/4/ip6/fe80::7/tcp/52421",
        ),
        name="desk",
        version=1,
        boot="00c0ffee",
    )


def test_the_tag_tells_clusters_apart_and_is_no_part_of_the_id() -> None:
    assert cluster_tag(CLUSTER) != cluster_tag(CLUSTER[::-1])
    assert len(cluster_tag(CLUSTER)) == 16
    assert cluster_tag(CLUSTER) not in CLUSTER.hex()


def test_a_name_of_any_length_fits_into_the_record() -> None:
    for name in ("x" * 10_000, "\N{SNOWMAN}" * 10_000, "\N{MUSICAL SYMBOL G CLEF}" * 64):
        text = text_record(peer=peer(1), cluster=CLUSTER, name=name, boot="00000000")
        assert len(b"n=" + text["n"].encode()) <= 255
        assert 0 < len(text["n"]) <= 64
        assert text["n"] == name[: len(text["n"])]


REFUSED: list[dict[str, Any]] = [
    {"id": None},
    {"id": b""},
    {"id": b"x" * 5000},
    {"id": peer(1).encode() + b" "},
    {"id": peer(1).encode()[:-1]},
    {"id": b"QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"},
    {"id": b"\xff\xfe" * 26},
    {"id": Identity(bytes(32)).peer_id.encode().swapcase()},
    {"c": None},
    {"c": b"0" * 15},
    {"c": b"0" * 17},
    {"c": b"G" * 16},
    {"c": b"0" * 16 + b"\n"},
    {"v": None},
    {"v": b""},
    {"v": b"0"},
    {"v": b"-1"},
    {"v": b"1e9"},
    {"v": b"99999"},
]


@pytest.mark.parametrize("changes", REFUSED, ids=str)
def test_an_advert_that_is_not_whole_is_no_advert(changes: dict[str, Any]) -> None:
    assert read_advert(record(**changes), 52421, ["10.0.0.1"]) is None


@pytest.mark.parametrize("port", [None, 0, -1, 65536, 10**9])
def test_an_advert_needs_a_port(port: int | None) -> None:
    assert read_advert(record(), port, ["10.0.0.1"]) is None


def test_a_newer_version_is_still_a_hint_and_odd_extras_are_nothing() -> None:
    read = read_advert(
        record(v=b"7", b=b"\x1b[31m", extra=b"x" * 255) | {b"": b"", b"\xff": None},
        1,
        ["10.0.0.1"],
    )
    assert read is not None
    assert (read.version, read.boot) == (7, "")


def hosts_read(*hosts: str, own: tuple[str, ...] = ("192.168.1.9",)) -> list[str]:
    read = read_advert(record(), 1, hosts, own_hosts=own)
    return [] if read is None else [parse_multiaddr(text).dial_host for text in read.addresses]


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "224.0.0.251",
        "ff02::fb%4",
        "255.255.255.255",
        "240.0.0.1",
        "127.0.0.1",
        "::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "fe80::7",
        "fe80::7%",
        "fe80::7%a/b",
        "desk.local",
        "10.0.0.1 ",
        "",
        "\x00",
        "1" * 5000,
    ],
)
def test_an_address_that_no_neighbour_has_is_dropped(host: str) -> None:
    assert hosts_read(host) == []
    assert hosts_read(host, "10.0.0.1") == ["10.0.0.1"]


def test_addresses_are_ordered_by_who_can_reach_them() -> None:
    assert hosts_read(
        "fe80::7%4", "169.254.1.1", "192.168.1.9", "fd00::7", "10.0.0.2", "10.0.0.1"
    ) == ["10.0.0.2", "10.0.0.1", "fd00::7", "169.254.1.1", "fe80::7%4", "192.168.1.9"]


def test_loopback_counts_only_where_there_is_nothing_else() -> None:
    assert hosts_read("127.0.0.1", own=("127.0.0.1", "::1")) == ["127.0.0.1"]
    assert hosts_read("127.0.0.1", own=("127.0.0.1", "10.0.0.9")) == []


def test_at_most_sixteen_addresses_are_believed_and_few_are_looked_at() -> None:
    assert len(hosts_read(*(f"10.0.0.{number}" for number in range(1, 200)))) == ADDRESSES_MAX

    def endless() -> Any:
        while True:
            yield "junk"

    assert read_advert(record(), 1, endless()) is None


NAMES = {
    "desk": "desk",
    "  my   desk \n": "my desk",
    "\x1b[31mred\x1b[0m": "red",
    "\x1b]0;owned\x07title": "title",
    "\x1b]8;;http://evil\x1b\\link": "link",
    "\x9b31mred": "red",
    "\x1bPq#0;junk\x1b\\six": "six",
    "a\x1b": "a",
    "a\x1b[": "a",
    "user\u202egnp.exe": "usergnp.exe",
    "\u2066a\u2069\u200bb\u00adc\ufeff": "abc",
    "null\x00bell\x07back\x08": "nullbellback",
    "line\u2028sep\u0085x": "line sep x",
    "e\u0301": "\u00e9",
    "a" + "\u0300" * 50 + "b": "\u00e0\u0300\u0300b",
    "\ufffd": "",
    "": "",
    "x" * 100: "x" * 64,
    "日本語": "日本語",
    "\U000e0041tag": "tag",
}


@pytest.mark.parametrize(("name", "shown"), NAMES.items(), ids=ascii)
def test_a_name_is_shown_without_anything_that_a_terminal_obeys(name: str, shown: str) -> None:
    assert clean_name(name) == shown


@given(st.text(max_size=300))
def test_every_name_comes_out_printable_short_and_stable(name: str) -> None:
    shown = clean_name(name)
    assert len(shown) <= 64
    assert shown.isprintable()
    assert clean_name(shown) == shown


@given(
    st.dictionaries(
        st.sampled_from([b"v", b"id", b"c", b"n", b"b"]) | st.binary(max_size=4),
        st.none() | st.binary(max_size=300) | st.just(peer(1).encode()) | st.just(b"1"),
    ),
    st.none() | st.integers(),
    st.lists(st.text(max_size=20) | st.ip_addresses().map(str), max_size=30),
)
def test_no_advert_does_more_than_be_read_or_dropped(
    text: dict[bytes, bytes | None], port: int | None, hosts: list[str]
) -> None:
    for changed in (text, record() | text, record()):
        read = read_advert(changed, port, hosts)
        if read is not None:
            assert is_peer_id(read.peer)
            assert 1 <= len(read.addresses) <= ADDRESSES_MAX
            assert all(str(parse_multiaddr(item)) == item for item in read.addresses)


# -------------------------------------------------------------------------------- the book


def test_a_new_peer_is_told_at_once_and_the_same_again_is_not() -> None:
    book = AdvertBook()
    book.offer(advert(1))
    assert book.due(0.0) == ([advert(1)], None)
    book.offer(advert(1))
    assert book.due(5.0) == ([], None)


def test_a_restart_is_told_and_so_is_an_advert_after_a_silence() -> None:
    book = AdvertBook()
    book.offer(advert(1, boot="00000001"))
    book.due(0.0)
    book.offer(advert(1, boot="00000002"))
    assert book.due(5.0) == ([advert(1, boot="00000002")], None)
    book.offer(advert(1, boot="00000002"))
    assert book.due(5.0 + REPEAT_S) == ([advert(1, boot="00000002")], None)


def test_a_storm_of_one_peer_is_told_once_a_second_with_the_newest() -> None:
    book = AdvertBook()
    told: list[tuple[float, str]] = []
    for number in range(1000):
        now_s = number / 100
        book.offer(advert(1, boot=f"{number:08x}"))
        adverts, again_s = book.due(now_s)
        told += [(now_s, item.boot) for item in adverts]
        assert adverts or again_s == told[-1][0] + PEER_INTERVAL_S
    assert [now_s for now_s, _ in told] == [float(second) for second in range(10)]
    assert [int(boot, 16) for _, boot in told] == [second * 100 for second in range(10)]
    assert book.due(10.0) == ([advert(1, boot=f"{999:08x}")], None)


def test_a_storm_of_peers_is_bounded_in_memory_and_in_calls() -> None:
    book = AdvertBook()
    invented = [msgspec.structs.replace(advert(1), peer=f"peer{n}") for n in range(5000)]
    for item in invented:
        book.offer(item)
    assert len(book) == PEERS_MAX
    now_s, told = 0.0, []
    while True:
        adverts, again_s = book.due(now_s)
        assert len(adverts) <= BURST_MAX
        assert book.due(now_s)[0] == []
        told += adverts
        if again_s is None:
            break
        assert again_s - now_s == pytest.approx(BURST_INTERVAL_S)
        now_s = again_s
    assert told == invented[-PEERS_MAX:]


def test_the_peer_not_heard_of_for_longest_makes_room() -> None:
    book = AdvertBook()
    for number in range(PEERS_MAX):
        book.offer(msgspec.structs.replace(advert(1), peer=f"peer{number}"))
    for second in range(10):
        book.due(float(second))
    kept = msgspec.structs.replace(advert(1), peer="peer0")
    book.offer(kept)
    book.offer(msgspec.structs.replace(advert(1), peer="one more"))
    book.offer(kept)
    # Had peer0 been forgotten, it would be told as new.
    assert [item.peer for item in book.due(10.0)[0]] == ["one more"]
    assert len(book) == PEERS_MAX
