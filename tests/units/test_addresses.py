"""Addresses: what people may type, what is refused and why, and how a device offers its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from kowalski_node.addresses import (
    ADDRESSES_MAX,
    Address,
    InterfaceAddress,
    is_peer_id,
    listened_on,
    multiaddrs,
    offered,
    parse_api,
    parse_listen,
    parse_multiaddr,
    parse_peer,
)
from kowalski_node.interfaces import interface_addresses
from kowalski_node.resolving import RESOLVED_MAX, resolve
from kowalski_protocol.errors import Problem
from kowalski_protocol.identity import Identity

PEER = Identity(bytes(range(32))).peer_id

PEERS = {
    # host alone: the default port
    "192.168.1.7": "/ip4/192.168.1.7/tcp/52421",
    "desk": "/dns/desk/tcp/52421",
    "Desk.Local.": "/dns/desk.local/tcp/52421",
    "localhost": "/dns/localhost/tcp/52421",
    "bücher.example": "/dns/xn--bcher-kva.example/tcp/52421",
    "fd00::7": "/ip6/fd00::7/tcp/52421",
    "[fd00::7]": "/ip6/fd00::7/tcp/52421",
    "FD00:0:0::0007": "/ip6/fd00::7/tcp/52421",
    "::1": "/ip6/::1/tcp/52421",
    # host and port
    "192.168.1.7:6000": "/ip4/192.168.1.7/tcp/6000",
    " desk:6000\n": "/dns/desk/tcp/6000",
    "[fd00::7]:6000": "/ip6/fd00::7/tcp/6000",
    "[::ffff:10.0.0.1]:6000": "/ip4/10.0.0.1/tcp/6000",
    "::ffff:10.0.0.1": "/ip4/10.0.0.1/tcp/52421",
    # links
    "fe80::7%eth0": "/ip6zone/eth0/ip6/fe80::7/tcp/52421",
    "[fe80::7%4]:6000": "/ip6zone/4/ip6/fe80::7/tcp/6000",
    "[fe80::7%wlan0.2]:6000": "/ip6zone/wlan0.2/ip6/fe80::7/tcp/6000",
    # multiaddrs
    "/ip4/192.168.1.7/tcp/6000": "/ip4/192.168.1.7/tcp/6000",
    "/ip4/192.168.1.7/tcp/6000/": "/ip4/192.168.1.7/tcp/6000",
    "/ip6/FD00::7/tcp/6000": "/ip6/fd00::7/tcp/6000",
    "/ip6zone/eth0/ip6/fe80::7/tcp/6000": "/ip6zone/eth0/ip6/fe80::7/tcp/6000",
    "/dns/desk.local/tcp/6000": "/dns/desk.local/tcp/6000",
    "/dns4/desk.local/tcp/6000": "/dns4/desk.local/tcp/6000",
    "/dns6/desk.local/tcp/6000": "/dns6/desk.local/tcp/6000",
    f"/ip4/10.0.0.1/tcp/6000/p2p/{PEER}": f"/ip4/10.0.0.1/tcp/6000/p2p/{PEER}",
}


@pytest.mark.parametrize(("text", "expected"), PEERS.items())
def test_a_peer_that_a_person_types_becomes_its_one_multiaddr(text: str, expected: str) -> None:
    assert parse_peer(text) == expected
    assert parse_peer(expected) == expected


REFUSED = {
    "": "empty",
    "   ": "empty",
    ":6000": "not an IP address and not a host name",
    "desk:": "not a port",
    "desk:0": "port 0",
    "desk:65536": "not a port",
    "desk:-1": "not a port",
    "desk:+1": "not a port",
    "desk:1_0": "not a port",
    "desk:６０００": "not a port",
    "desk:99999999999999999999": "not a port",
    "http://desk:52420": "a URL is not an address: give desk:52420",
    "https://[fd00::7]/": "give [fd00::7]",
    "x://": "give HOST:PORT",
    "desk/52421": "not a host name",
    "user@desk": "not a host name",
    "desk desk": "not a host name",
    "my_pc": "not a host name",
    "-desk": "not a host name",
    "de..sk": "not a host name",
    "a" * 64: "not a host name",
    ".".join(["a" * 60] * 5): "not a host name",
    "a" * 401: "longer than",
    "desk\x1b[31m": "not a host name",
    "desk\x00": "not a host name",
    "d\u202eesk": "not a host name",
    # what the C library would take for an IPv4 address that nobody meant
    "192.168.1": "whole IPv4",
    "1": "whole IPv4",
    "0x7f000001": "whole IPv4",
    "127.0.0.0x1": "whole IPv4",
    "0300.1.1.1": "whole IPv4",
    "192.168.1.256": "whole IPv4",
    "192.168.1.07": "whole IPv4",
    # addresses of no one device
    "0.0.0.0": "one device",
    "::": "one device",
    "224.0.0.251": "one device",
    "[ff02::fb%eth0]:1": "one device",
    "255.255.255.255": "one device",
    # links
    "fe80::7": "needs its interface",
    "[fe80::7]:6000": "needs its interface",
    "fe80::7%": "name of an interface",
    "fe80::7%eth0/../x": "name of an interface",
    "fe80::7%eth0%eth1": "name of an interface",
    "fd00::7%eth0": "only a link-local",
    "10.0.0.1%eth0": "only a link-local",
    "desk%eth0": "only an IPv6",
    # brackets
    "[fd00::7": "IPv6 address with a port",
    "[fd00::7]6000": "IPv6 address with a port",
    "[10.0.0.1]:6000": "IPv6 address with a port",
    "fd00::7::1": "not an IPv6",
    "[]:1": "IPv6 address with a port",
    # multiaddrs of things that we don't speak
    "/": "only TCP",
    "/ip4": "multiaddr",
    "/ip4/10.0.0.1": "only TCP",
    "/ip4/10.0.0.1/tcp": "multiaddr",
    "/ip4/10.0.0.1/udp/1": "only TCP",
    "/ip4/10.0.0.1/udp/1/quic-v1": "multiaddr",
    "/ip4/10.0.0.1/tcp/1/ws": "multiaddr",
    "/ip4/10.0.0.1/tcp/1/p2p/x": "peer ID",
    f"/ip4/10.0.0.1/tcp/1/p2p/{PEER}/p2p-circuit": "multiaddr",
    f"/ip4/10.0.0.1/tcp/1/p2p/{PEER[:-1]}": "peer ID",
    f"/p2p/{PEER}": "only TCP",
    "/dnsaddr/desk/tcp/1": "not of the kind",
    "/ip4/desk/tcp/1": "not of the kind",
    "/ip4/fd00::7/tcp/1": "not of the kind",
    "/ip6/10.0.0.1/tcp/1": "not of the kind",
    "/ip6/::ffff:10.0.0.1/tcp/1": "not of the kind",
    "/ip6/fe80::7%eth0/tcp/1": "/ip6zone/",
    "/ip6/fe80::7/tcp/1": "needs its interface",
    "/dns/10.0.0.1/tcp/1": "not of the kind",
    "/ip4/10.0.0.1/tcp/1/ip4/10.0.0.2/tcp/1": "only TCP",
    "/" * 300: "multiaddr",
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_what_cannot_be_dialled_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_peer(text)
    assert caught.value.code == "bad_request"
    assert reason in caught.value.sentence
    assert caught.value.sentence.isprintable()
    assert len(caught.value.sentence) < 300


@given(
    st.text(max_size=60) | st.text(alphabet="/ip46tcpdnszone:.%[]0123456789abcdefx-", max_size=60)
)
def test_no_text_does_more_than_parse_or_be_refused(text: str) -> None:
    for parse in (parse_peer, parse_listen, parse_multiaddr, parse_api):
        try:
            parsed = parse(text)
        except Problem:
            continue
        if isinstance(parsed, str):
            assert parse(parsed) == parsed


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_ip_address_survives_the_round_trip(ip: Any, port: int) -> None:
    if ip.version == 6 and (ip.ipv4_mapped or ip.scope_id):
        return
    address = parse_multiaddr(f"/ip{ip.version}/{ip}/tcp/{port}")
    assert ipaddress.ip_address(address.host) == ip
    assert parse_multiaddr(str(address)) == address


def test_libp2p_reads_every_multiaddr_that_we_write() -> None:
    from multiaddr import Multiaddr

    for expected in PEERS.values():
        assert str(Multiaddr(expected)) == expected


def test_the_dialled_host_of_a_link_local_address_names_its_link() -> None:
    assert parse_multiaddr("/ip6zone/eth0/ip6/fe80::7/tcp/1").dial_host == "fe80::7%eth0"
    assert parse_multiaddr("/ip6/fd00::7/tcp/1").dial_host == "fd00::7"


def test_to_listen_takes_wildcards_and_any_port_but_no_name_and_no_peer() -> None:
    assert parse_listen("/ip4/0.0.0.0/tcp/0") == "/ip4/0.0.0.0/tcp/0"
    assert parse_listen("/ip6/::/tcp/52421") == "/ip6/::/tcp/52421"
    for text in ("/dns/desk/tcp/1", f"/ip4/0.0.0.0/tcp/1/p2p/{PEER}", "0.0.0.0:1", "/ip4/0.0.0.0"):
        with pytest.raises(Problem, match="bad_request"):
            parse_listen(text)


APIS = {
    "127.0.0.1:52420": ("127.0.0.1", 52420, True, "http://127.0.0.1:52420"),
    "127.0.0.1": ("127.0.0.1", 52420, True, "http://127.0.0.1:52420"),
    "127.9.9.9:0": ("127.9.9.9", 0, True, "http://127.9.9.9:0"),
    "localhost:80": ("localhost", 80, True, "http://localhost:80"),
    "[::1]:80": ("::1", 80, True, "http://[::1]:80"),
    "0.0.0.0:80": ("0.0.0.0", 80, False, "http://0.0.0.0:80"),
    "[::]:80": ("::", 80, False, "http://[::]:80"),
    "10.0.0.1:80": ("10.0.0.1", 80, False, "http://10.0.0.1:80"),
    "desk:80": ("desk", 80, False, "http://desk:80"),
    # a name that only looks like loopback gets no trust for it
    "localhost.evil.example:80": (
        "localhost.evil.example",
        80,
        False,
        "http://localhost.evil.example:80",
    ),
}


@pytest.mark.parametrize(("text", "expected"), APIS.items())
def test_the_api_address_knows_whether_only_this_device_reaches_it(
    text: str, expected: tuple[str, int, bool, str]
) -> None:
    api = parse_api(text)
    assert (api.host, api.port, api.is_loopback, api.url) == expected


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1:http", "::1]:80", "127.1:80", "/ip4/127.0.0.1/tcp/1"]
)
def test_a_bad_api_address_is_refused(text: str) -> None:
    with pytest.raises(Problem, match="bad_request"):
        parse_api(text)


def test_a_peer_id_has_one_spelling() -> None:
    assert is_peer_id(PEER)
    for other in (PEER + " ", PEER[:-1], PEER.lower(), "Qm" + PEER[2:], "", "1" * 52, PEER + "é"):
        assert not is_peer_id(other)


def _addresses(*entries: tuple[str, str]) -> list[InterfaceAddress]:
    return [InterfaceAddress(ip, name, index) for index, (ip, name) in enumerate(entries, 1)]


def test_a_device_offers_shared_networks_first_and_loopback_never_beside_others() -> None:
    given_order = _addresses(
        ("127.0.0.1", "lo"),
        ("::1", "lo"),
        ("fe80::1", "eth0"),
        ("172.17.0.1", "docker0"),
        ("fe80::2", "veth12ab"),
        ("100.101.1.1", "tailscale0"),
        ("10.8.0.2", "tun0"),
        ("fd00::1", "eth0"),
        ("192.168.1.7", "wlan0"),
        ("192.168.1.7", "wlan0"),
        ("169.254.3.4", "eth1"),
        ("0.0.0.0", "eth2"),
    )
    assert [address.ip for address in offered(given_order)] == [
        "192.168.1.7",
        "fd00::1",
        "100.101.1.1",
        "10.8.0.2",
        "172.17.0.1",
        "fe80::1",
        "169.254.3.4",
    ]


def test_a_device_without_a_network_offers_loopback() -> None:
    alone = _addresses(("127.0.0.1", "lo"), ("::1", "lo"))
    assert [address.ip for address in offered(alone)] == ["127.0.0.1", "::1"]
    assert offered([]) == ()


def test_a_device_of_a_thousand_addresses_offers_a_few() -> None:
    trail = _addresses(*((f"fd00::{number:x}", "eth0") for number in range(1, 9)))
    assert len(offered(trail)) == 3
    many = _addresses(
        *((f"10.0.{number // 250}.{number % 250 + 1}", f"e{number}") for number in range(999))
    )
    assert len(offered(many)) == ADDRESSES_MAX


@pytest.mark.parametrize(
    ("listen", "hosts"),
    [
        (["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1"], ["127.0.0.1", "10.0.0.7", "fd00::7", "fe80::7"]),
        (["/ip4/0.0.0.0/tcp/1"], ["127.0.0.1", "10.0.0.7"]),
        (["/ip6/::/tcp/1"], ["fd00::7", "fe80::7"]),
        (["/ip4/10.0.0.7/tcp/1"], ["10.0.0.7"]),
        (["/ip4/127.0.0.1/tcp/1"], ["127.0.0.1"]),
        (["/ip6zone/eth0/ip6/fe80::7/tcp/1"], ["fe80::7"]),
        (["/ip4/10.9.9.9/tcp/1"], []),
    ],
)
def test_a_node_offers_only_addresses_on_which_it_listens(
    listen: list[str], hosts: list[str]
) -> None:
    own = _addresses(
        ("127.0.0.1", "lo"), ("10.0.0.7", "eth0"), ("fd00::7", "eth0"), ("fe80::7", "eth0")
    )
    assert [address.ip for address in listened_on(own, listen)] == hosts


def test_an_invite_names_addresses_without_our_own_links() -> None:
    told = multiaddrs(_addresses(("192.168.1.7", "wlan0"), ("fe80::1", "wlan0")), 6000)
    assert told == ("/ip4/192.168.1.7/tcp/6000", "/ip6/fe80::1/tcp/6000")
    assert [parse_multiaddr(text).port for text in told] == [6000, 6000]


def test_this_device_lists_its_own_addresses() -> None:
    addresses = interface_addresses()
    assert any(ipaddress.ip_address(address.ip).is_loopback for address in addresses)
    for address in addresses:
        assert "%" not in address.ip
        assert address.index > 0
        ip = ipaddress.ip_address(address.ip)
        if ip.version == 6 and ip.is_link_local:
            assert ip.packed[2:8] == bytes(6)


def test_addresses_of_bsd_kernels_lose_the_interface_number_inside_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ifaddr

    listed = [
        ifaddr.Adapter("en0", "en0", [ifaddr.IP(("fe80:4::1", 0, 4), 64, "en0")], index=4),
        ifaddr.Adapter("en1", "en1", [ifaddr.IP(("fe80::2%en1", 0, 5), 64, "en1")]),
    ]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: listed)
    assert interface_addresses() == (
        InterfaceAddress("fe80::1", "en0", 4),
        InterfaceAddress("fe80::2", "en1", 5),
    )


def test_a_system_that_cannot_list_its_interfaces_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import ifaddr

    def refuse() -> None:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(ifaddr, "get_adapters", refuse)
    assert interface_addresses() == ()


class Resolver(trio.abc.HostnameResolver):
    """Answers from a table; a name that is not in it has no address."""

    def __init__(self, answer: Callable[[str], Awaitable[list[Any]]]) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []

    async def getaddrinfo(  # type: ignore[override]
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        self.asked.append((host, port, family))
        return await self.answer(host)

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise AssertionError("names are not asked for")


async def test_a_name_is_resolved_by_the_system_to_addresses_to_dial() -> None:
    async def answer(host: str) -> list[Any]:
        return [
            (10, 1, 6, "", ("fd00::7", 6000, 0, 0)),
            (10, 1, 6, "", ("fe80::7%eth0", 6000, 0, 4)),
            (2, 1, 6, "", ("192.168.1.7", 6000)),
            (2, 1, 6, "", ("192.168.1.7", 6000)),
            (10, 1, 6, "", ("::ffff:1.2.3.4", 6000, 0, 0)),
        ]

    trio.socket.set_custom_hostname_resolver(Resolver(answer))
    assert await resolve(f"/dns/desk.local/tcp/6000/p2p/{PEER}") == (
        f"/ip6/fd00::7/tcp/6000/p2p/{PEER}",
        f"/ip6zone/eth0/ip6/fe80::7/tcp/6000/p2p/{PEER}",
        f"/ip4/192.168.1.7/tcp/6000/p2p/{PEER}",
    )


async def test_a_name_of_too_many_addresses_gives_a_few() -> None:
    async def answer(host: str) -> list[Any]:
        return [(2, 1, 6, "", (f"10.0.0.{number}", 6000)) for number in range(1, 100)]

    trio.socket.set_custom_hostname_resolver(Resolver(answer))
    assert len(await resolve("/dns4/desk/tcp/6000")) == RESOLVED_MAX


async def test_an_unknown_name_leads_nowhere() -> None:
    import socket

    async def answer(host: str) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    trio.socket.set_custom_hostname_resolver(Resolver(answer))
    assert await resolve("/dns/desk/tcp/6000") == ()


async def test_a_resolver_that_hangs_is_given_up_on(autojump_clock: trio.testing.MockClock) -> None:
    async def answer(host: str) -> list[Any]:
        await trio.sleep_forever()
        raise AssertionError

    trio.socket.set_custom_hostname_resolver(Resolver(answer))
    assert await resolve("/dns/desk/tcp/6000", timeout_s=5) == ()
    assert trio.current_time() == 5


async def test_an_ip_address_asks_nobody() -> None:
    assert await resolve("/ip4/10.0.0.1/tcp/1") == ("/ip4/10.0.0.1/tcp/1",)
    with pytest.raises(Problem, match="bad_request"):
        await resolve("desk:1")


def test_addresses_are_values() -> None:
    assert Address("ip4", "10.0.0.1", 1) == parse_multiaddr("/ip4/10.0.0.1/tcp/1")
