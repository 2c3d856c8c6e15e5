"""What a node says of itself on the local network, and what is believed of what others say.

An advert is multicast DNS: anybody on the network can send one, in anybody's name, as often as they
like. So it is a hint where to dial and never a grant: the handshake checks the peer ID, the gate
checks membership, and an address that worked is kept by whoever dials, whatever adverts say later.
The TXT record holds the peer ID, a tag of the cluster (a truncated hash, by which members find
their own and strangers learn nothing), the protocol version, a name for people, and four random
bytes drawn at each start, so that a node that was killed and came back is news although all else is
as before.

`AdvertBook` bounds what reaches the node: the last good advert per peer, for a bounded number of
peers, each told at most once a second and only when it says something new. There is no way to take
an advert back: a goodbye is unauthenticated too, so it is not even passed in here.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from kowalski_protocol.errors import Problem

from .addresses import ADDRESSES_MAX, Address, is_peer_id, parse_multiaddr
from .names import clean_name

SERVICE: Final = "_kowalski._tcp.local."
ADVERT_VERSION: Final = 1
CLUSTER_TAG_SIZE_BYTES: Final = 8
"""Enough that two clusters of one network never share it, too little to be the cluster's id."""
HOSTS_READ_MAX: Final = 64
"""Addresses looked at in one advert; what is left after checking is bounded by `ADDRESSES_MAX`."""
TEXT_VALUE_SIZE_BYTES_MAX: Final = 255
"""A TXT string can't be longer (RFC 6763)."""

PEERS_MAX: Final = 256
"""Twice the members of a full cluster, so that neighbours' clusters fit too."""
PEER_INTERVAL_S: Final = 1.0
"""A peer's adverts closer together than this are told as one, the newest."""
REPEAT_S: Final = 30.0
"""Heard anew after this long, an unchanged advert is told again: it is a sign of life."""
BURST_MAX: Final = 64
BURST_INTERVAL_S: Final = 0.25
"""All peers together: a storm of invented peers reaches the node as 256 calls a second at most."""

_TAG: Final = re.compile(rf"[0-9a-f]{{{2 * CLUSTER_TAG_SIZE_BYTES}}}")
_BOOT: Final = re.compile(r"[0-9a-f]{8}")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,3}")


class Advert(msgspec.Struct, frozen=True):
    """One node as the network tells of it: a hint where to dial, best address first."""

    peer: str
    cluster_tag: str
    addresses: tuple[str, ...]
    name: str
    version: int = ADVERT_VERSION
    boot: str = ""
    """Changes at each start of the node; empty where it sent none."""


def cluster_tag(cluster: bytes) -> str:
    """The tag by which members of one cluster recognise each other's adverts: 16 hex digits."""
    return hashlib.blake2b(
        cluster, digest_size=CLUSTER_TAG_SIZE_BYTES, person=b"kowalski-advert"
    ).hexdigest()


def text_record(*, peer: str, cluster: bytes, name: str, boot: str) -> dict[str, str]:
    """The TXT record of this node's advert."""
    return {
        "v": str(ADVERT_VERSION),
        "id": peer,
        "c": cluster_tag(cluster),
        "n": _fitting(clean_name(name)),
        "b": boot,
    }


def read_advert(
    text: Mapping[bytes, bytes | None],
    port: int | None,
    hosts: Iterable[str],
    *,
    own_hosts: Collection[str] = (),
) -> Advert | None:
    """What an advert says, or None where it is not a whole and well-formed one.

    `hosts` are the addresses of its A and AAAA records, link-local ones with `%` and their link. An
    address that this device has too is tried last: it is a container bridge's, or the other node
    runs here. Loopback counts only on a device without any other address, so that no advert makes a
    node knock on its own device's ports."""
    values = {key: _value(text, key) for key in (b"v", b"id", b"c", b"n", b"b")}
    peer, tag, version, boot = values[b"id"], values[b"c"], values[b"v"], values[b"b"]
    if not is_peer_id(peer) or not _TAG.fullmatch(tag) or not _VERSION.fullmatch(version):
        return None
    if port is None or not 1 <= port <= 65535:
        return None
    addresses = _read_hosts(hosts, port, own_hosts)
    if not addresses:
        return None
    return Advert(
        peer=peer,
        cluster_tag=tag,
        addresses=addresses,
        name=clean_name(values[b"n"]),
        version=int(version),
        boot=boot if _BOOT.fullmatch(boot) else "",
    )


class AdvertBook:
    """The last good advert per peer, and which of them the node has yet to be told.

    Not thread-safe, and without a clock: the caller locks and passes the time, in seconds of any
    clock that only goes forward."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._burst_start_s = float("-inf")
        self._burst_count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def offer(self, advert: Advert) -> None:
        """Takes in what was heard. The peer that was not heard of for longest makes room."""
        entry = self._entries.get(advert.peer)
        if entry is None:
            entry = self._entries[advert.peer] = _Entry()
            if len(self._entries) > PEERS_MAX:
                self._entries.popitem(last=False)
        self._entries.move_to_end(advert.peer)
        entry.heard = advert

    def due(self, now_s: float) -> tuple[list[Advert], float | None]:
        """The adverts to tell the node now, and when to ask again where some have to wait."""
        if now_s >= self._burst_start_s + BURST_INTERVAL_S:
            self._burst_start_s, self._burst_count = now_s, 0
        told: list[Advert] = []
        waits: list[float] = []
        for entry in self._entries.values():
            if entry.heard is None:
                continue
            repeats = entry.heard == entry.told
            if repeats and now_s < entry.told_s + REPEAT_S:
                entry.heard = None
            elif now_s < entry.told_s + PEER_INTERVAL_S:
                waits.append(entry.told_s + PEER_INTERVAL_S)
            elif self._burst_count >= BURST_MAX:
                waits.append(self._burst_start_s + BURST_INTERVAL_S)
            else:
                self._burst_count += 1
                told.append(entry.heard)
                entry.told, entry.told_s, entry.heard = entry.heard, now_s, None
        return told, min(waits, default=None)


class _Entry:
    """One peer: what was heard and not yet told, what was told, and when."""

    __slots__ = ("heard", "told", "told_s")

    def __init__(self) -> None:
        self.heard: Advert | None = None
        self.told: Advert | None = None
        self.told_s = float("-inf")


def _read_hosts(hosts: Iterable[str], port: int, own_hosts: Collection[str]) -> tuple[str, ...]:
    """The addresses worth dialling, best first: shared networks, then links, then own addresses."""
    own = {_plain(host) for host in own_hosts}
    alone = all(host is None or host.is_loopback for host in own)
    ranked: dict[str, tuple[bool, bool, bool]] = {}
    for host, _ in zip(hosts, range(HOSTS_READ_MAX), strict=False):
        ip = _plain(host)
        if ip is None or ip.is_unspecified or ip.is_multicast or ip.is_reserved:
            continue
        if ip.is_loopback and not alone:
            continue
        zone = host.partition("%")[2] if ip.version == 6 and ip.is_link_local else None
        if zone == "":
            continue  # undiallable: the record did not come over the link that it is valid on
        address = _spelled(Address("ip4" if ip.version == 4 else "ip6", str(ip), port, zone))
        if address is not None:
            ranked[address] = (ip in own, ip.is_link_local, ip.version == 6)
    return tuple(sorted(ranked, key=lambda address: ranked[address])[:ADDRESSES_MAX])


def _plain(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address of a host without its zone; None where it is none, or one inside another."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return None if ip.version == 6 and ip.ipv4_mapped is not None else ip


def _spelled(address: Address) -> str | None:
    """An address as text, checked by the same door as a person's."""
    try:
        return str(parse_multiaddr(str(address)))
    except Problem:
        return None


def _value(text: Mapping[bytes, bytes | None], key: bytes) -> str:
    raw = text.get(key) or b""
    return raw[:TEXT_VALUE_SIZE_BYTES_MAX].decode("utf-8", "replace")


def _fitting(name: str) -> str:
    """A name whose bytes fit into one TXT string together with its key."""
    return name.encode()[: TEXT_VALUE_SIZE_BYTES_MAX - len("n=")].decode("utf-8", "ignore")
