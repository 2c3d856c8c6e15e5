"""How an address is written: what a person types, what a node advertises, what a dialer is given.

Between nodes an address is the text of a multiaddr over TCP: `/ip4/192.168.1.7/tcp/52421`,
`/ip6/fd00::7/tcp/52421`, `/ip6zone/eth0/ip6/fe80::7/tcp/52421` where an address is only valid on
one link, or `/dns/desk.local/tcp/52421` for a name, each with `/p2p/PEER_ID` behind it where the
peer is known. A name stays a name until it is dialled (see `resolving`), because what it leads to
changes with the network. The grammar is small and strict on purpose: an address comes from a
stranger's advert as often as from a person, and what was not understood in full must not be dialled
in part.

Everything here is pure. The order in which a device's own addresses are offered is decided here
too: networks that other devices share come first, bridges of containers late (every machine has the
same ones), then addresses that need a link, and loopback last.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from kowalski_protocol.errors import Problem
from kowalski_protocol.identity import author_of, peer_id

PEER_PORT: Final = 52421
API_PORT: Final = 52420
ADDRESS_LENGTH_MAX: Final = 400
"""Longer than the longest name (253) with zone, port and peer ID; bounds work on hostile text."""
ADDRESSES_MAX: Final = 16
"""Addresses offered or believed per device: real devices have about six."""
GLOBAL_IP6_PER_INTERFACE_MAX: Final = 3
"""Privacy extensions leave a trail of old addresses on an interface; the newest few are enough."""

Family = Literal["ip4", "ip6", "dns", "dns4", "dns6"]

_PORT: Final = re.compile(r"[0-9]{1,5}")
_ZONE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BRIDGE: Final = re.compile(
    r"(docker|br-|virbr|veth|cni|flannel|podman|lxc|lxd|vmnet|vboxnet|vEthernet|cali|bridge1)", re.I
)
_VPN: Final = re.compile(r"(tun|tap|wg|tailscale|utun|zt|ppp|ipsec|nebula|nordlynx|proton)", re.I)
_SHARED_IP4: Final = ipaddress.IPv4Network("100.64.0.0/10")
"""Carrier-grade addresses: in a house these are a mesh VPN's."""


class Address(msgspec.Struct, frozen=True):
    """One way to reach a node over TCP. `zone` names the link of a link-local address."""

    family: Family
    host: str
    port: int
    zone: str | None = None
    peer: str | None = None

    @property
    def dial_host(self) -> str:
        """The host as name resolution and sockets take it, the zone behind a percent sign."""
        return f"{self.host}%{self.zone}" if self.zone else self.host

    def __str__(self) -> str:
        zone = f"/ip6zone/{self.zone}" if self.zone else ""
        peer = f"/p2p/{self.peer}" if self.peer else ""
        return f"{zone}/{self.family}/{self.host}/tcp/{self.port}{peer}"


class ApiAddress(msgspec.Struct, frozen=True):
    """Where the HTTP API listens. `host` is an IP address or a name, without brackets."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this device reach it; any other address needs a token."""
        try:
            return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class InterfaceAddress(msgspec.Struct, frozen=True):
    """An IP address of this device, the interface that has it, and the interface's number."""

    ip: str
    interface: str
    index: int


def parse_peer(text: str, *, default_port: int = PEER_PORT) -> str:
    """The multiaddr of what a person gave as a peer: HOST, HOST:PORT, [IPV6]:PORT or a multiaddr.

    Raises Problem bad_request for anything that can't be dialled, with the reason."""
    text = _bounded(text, "peer")
    address = parse_multiaddr(text) if text.startswith("/") else _parse_host(text, default_port)
    if address.port == 0:
        raise _refused(text, "port 0 can't be dialled")
    if address.family in ("ip4", "ip6"):
        ip = ipaddress.ip_address(address.host)
        if ip.is_unspecified or ip.is_multicast or address.host == "255.255.255.255":
            raise _refused(text, "it is not the address of one device")
        if ip.version == 6 and ip.is_link_local and address.zone is None:
            raise _refused(text, f"a link-local address needs its interface: {ip}%eth0")
    return str(address)


def parse_listen(text: str) -> str:
    """The multiaddr to listen on: an IP address (0.0.0.0 and :: mean all) and a port (0: any)."""
    text = _bounded(text, "listen address")
    address = parse_multiaddr(text)
    if address.family not in ("ip4", "ip6") or address.peer is not None:
        raise _refused(text, "to listen takes an IP address and a port: /ip4/0.0.0.0/tcp/52421")
    return str(address)


def parse_api(text: str, *, default_port: int = API_PORT) -> ApiAddress:
    """Where the API shall listen: HOST, HOST:PORT or [IPV6]:PORT; port 0 means any free one."""
    address = _parse_host(_bounded(text, "API address"), default_port)
    return ApiAddress(address.dial_host, address.port)


def parse_multiaddr(text: str) -> Address:
    """An address from its multiaddr text; Problem bad_request where it is not one that we speak.

    Port 0 and wildcard hosts are let through: they are right for listening."""
    text = _bounded(text, "address")
    parts = text.removesuffix("/").split("/")
    if parts[0] or len(parts) % 2 == 0 or len(parts) > 9:
        raise _refused(text, "a multiaddr looks like /ip4/192.168.1.7/tcp/52421")
    pairs = list(zip(parts[1::2], parts[2::2], strict=True))
    zone = peer = None
    if pairs and pairs[0][0] == "ip6zone":
        zone = _zone(text, pairs.pop(0)[1])
    if pairs and pairs[-1][0] == "p2p":
        peer = pairs.pop()[1]
        if not is_peer_id(peer):
            raise _refused(text, "what stands after /p2p/ is not an Ed25519 peer ID")
    if len(pairs) != 2 or pairs[1][0] != "tcp":
        raise _refused(text, "only TCP is spoken: /ip4/192.168.1.7/tcp/52421")
    (family, host), (_, port) = pairs
    address = _address(text, host, _port(text, port), zone)
    if family in ("dns", "dns4", "dns6") and address.family == "dns":
        address = msgspec.structs.replace(address, family=family)
    if address.family != family:
        raise _refused(text, f"{_shown(host)} is not of the kind {_shown(family)}")
    return msgspec.structs.replace(address, peer=peer)


def is_peer_id(text: str) -> bool:
    """Whether a text is the one spelling of an Ed25519 peer ID."""
    author = author_of(text) if text.isascii() else None
    return author is not None and peer_id(author) == text


def offered(addresses: Iterable[InterfaceAddress]) -> tuple[InterfaceAddress, ...]:
    """The addresses that a device tells others, best first and at most `ADDRESSES_MAX`.

    Loopback is offered only by a device that has nothing else."""
    kept: list[tuple[int, InterfaceAddress]] = []
    per_interface: dict[str, int] = {}
    for address in addresses:
        rank = _rank(address)
        if rank is None or any(address.ip == other.ip for _, other in kept):
            continue
        if ":" in address.ip and rank < _LINK_LOCAL:
            seen = per_interface.get(address.interface, 0)
            if seen >= GLOBAL_IP6_PER_INTERFACE_MAX:
                continue
            per_interface[address.interface] = seen + 1
        kept.append((rank, address))
    best = min((rank for rank, _ in kept), default=_LOOPBACK)
    kept = [entry for entry in kept if entry[0] != _LOOPBACK or best == _LOOPBACK]
    kept.sort(key=lambda entry: entry[0])
    return tuple(address for _, address in kept[:ADDRESSES_MAX])


def listened_on(
    addresses: Iterable[InterfaceAddress], listen: Iterable[str]
) -> tuple[InterfaceAddress, ...]:
    """Those of the device's addresses on which it listens, by the multiaddrs that it listens on.

    A node that listens on one address must not advertise the others."""
    hosts = {parse_multiaddr(text).host for text in listen}
    return tuple(
        address
        for address in addresses
        if address.ip in hosts or ("::" if ":" in address.ip else "0.0.0.0") in hosts
    )


def multiaddrs(addresses: Iterable[InterfaceAddress], port: int) -> tuple[str, ...]:
    """Addresses as others are told them, in an invite say: without zones, which are ours alone."""
    return tuple(
        str(Address("ip6" if ":" in address.ip else "ip4", address.ip, port))
        for address in addresses
    )


_LAN, _LAN6, _OVER_VPN, _OVER_BRIDGE, _LINK_LOCAL, _LOOPBACK = range(6)


def _rank(address: InterfaceAddress) -> int | None:
    """How early an own address is offered; None for one that nobody could dial."""
    ip = ipaddress.ip_address(address.ip)
    if ip.is_unspecified or ip.is_multicast:
        return None
    if ip.is_loopback:
        return _LOOPBACK
    if _BRIDGE.match(address.interface):
        # A bridge's own link ends in this device.
        return None if ip.is_link_local else _OVER_BRIDGE
    if ip.is_link_local:
        return _LINK_LOCAL
    if _VPN.match(address.interface) or (ip.version == 4 and ip in _SHARED_IP4):
        return _OVER_VPN
    return _LAN if ip.version == 4 else _LAN6


def _parse_host(text: str, default_port: int) -> Address:
    """HOST, HOST:PORT, [IPV6], [IPV6]:PORT; with two colons or more and no brackets, bare IPv6."""
    if "://" in text:
        inside = text.partition("://")[2].partition("/")[0]
        raise _refused(text, f"a URL is not an address: give {_plain(inside) or 'HOST:PORT'}")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise _refused(text, "an IPv6 address with a port looks like [fd00::7]:52421")
    elif text.count(":") == 1:
        host, _, rest = text.partition(":")
        rest = f":{rest}"
    else:
        host, rest = text, ""
    port = _port(text, rest[1:]) if rest else default_port
    host, percent, zone = host.partition("%")
    return _address(text, host, port, _zone(text, zone) if percent else None)


def _address(text: str, host: str, port: int, zone: str | None) -> Address:
    """The address of a host in its one spelling; an IPv4 address inside IPv6 becomes IPv4."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        if ":" in host:
            raise _refused(text, f"{_shown(host)} is not an IPv6 address") from None
        if zone is not None:
            raise _refused(text, "only an IPv6 address has an interface behind it") from None
        return Address("dns", _host_name(text, host), port)
    if ip.version == 6 and ip.scope_id is not None:
        raise _refused(text, "the interface belongs into /ip6zone/ before the address")
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if zone is not None and not (ip.version == 6 and (ip.is_link_local or ip.is_multicast)):
        raise _refused(text, "only a link-local address (fe80::...) has an interface")
    return Address("ip4" if ip.version == 4 else "ip6", str(ip), port, zone)


def _host_name(text: str, host: str) -> str:
    """A host name in ASCII and lower case, of letters, digits and hyphens (RFC 1123)."""
    name = host.removesuffix(".").lower()
    if not name.isascii():
        import idna  # trio's own dependency; only for names that need it

        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except UnicodeError:  # idna's errors are UnicodeErrors
            raise _refused(text, f"{_shown(host)} is not a host name") from None
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused(text, f"{_shown(host)} is not an IP address and not a host name")
    if _NUMBER_LABEL.fullmatch(labels[-1]):
        # The C library would read 192.168.1 or 0x7f.1 as an IPv4 address that nobody meant to give.
        raise _refused(text, f"{_shown(host)} is not a whole IPv4 address")
    return name


def _zone(text: str, zone: str) -> str:
    if not _ZONE.fullmatch(zone):
        raise _refused(text, f"{_shown(zone)} is not the name of an interface")
    return zone


def _port(text: str, port: str) -> int:
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise _refused(text, f"{_shown(port)} is not a port from 1 to 65535")
    return int(port)


def _bounded(text: str, what: str) -> str:
    """The text without the space around it, if it is short enough to be looked at."""
    if len(text) > ADDRESS_LENGTH_MAX:
        raise Problem("bad_request", f"The {what} is longer than {ADDRESS_LENGTH_MAX} characters.")
    text = text.strip()
    if not text:
        raise Problem("bad_request", f"The {what} is empty.")
    return text


def _refused(text: str, reason: str) -> Problem:
    return Problem("bad_request", f"{_shown(text)} is not an address: {reason}.")


def _plain(text: str) -> str:
    """The text if nothing in it needs quoting, as a suggestion to type; empty otherwise."""
    return text if re.fullmatch(r"[A-Za-z0-9.:\[\]-]{1,80}", text) else ""


def _shown(text: str) -> str:
    """Foreign text as it may stand in a message: short and without escapes."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
