"""Where a host name leads: the IP addresses to dial for an address that has a name.

The operating system resolves, not libp2p: its resolver asks DNS servers only, so it knows nothing
of the hosts file, of `.local` names, of a VPN's names or of search domains, which is what people
type. A name is resolved anew before each dial, since what it leads to changes with the network.
Answers are hints like any address: the peer ID is checked in the handshake.
"""

from __future__ import annotations

import socket
from typing import Final

import trio

from kowalski_protocol.errors import Problem

from .addresses import parse_multiaddr

RESOLVE_TIMEOUT_S: Final = 5.0
"""A resolver that asks two servers in turn needs this long to give up on the first."""
RESOLVED_MAX: Final = 8
"""A name that leads to more addresses is not one device."""

_FAMILIES: Final = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}


async def resolve(multiaddr: str, *, timeout_s: float = RESOLVE_TIMEOUT_S) -> tuple[str, ...]:
    """The addresses to dial, each with an IP address: the given one if it has no name.

    Empty where the name is not known or nobody answers in time. Raises Problem bad_request where
    the text is not an address."""
    address = parse_multiaddr(multiaddr)
    if address.family not in _FAMILIES:
        return (str(address),)
    answers: list[tuple[object, ...]] = []
    with trio.move_on_after(timeout_s):
        try:
            answers = list(
                await trio.socket.getaddrinfo(
                    address.host, address.port, _FAMILIES[address.family], socket.SOCK_STREAM
                )
            )
        except OSError:  # gaierror: no such name, or no resolver
            return ()
    peer = f"/p2p/{address.peer}" if address.peer else ""
    found: dict[str, None] = {}
    for answer in answers:
        target = answer[-1]
        assert isinstance(target, tuple)
        host, _, zone = str(target[0]).partition("%")  # pyright: ignore[reportUnknownArgumentType]
        family = "ip6" if ":" in host else "ip4"
        prefix = f"/ip6zone/{zone}" if zone else ""
        try:
            found[str(parse_multiaddr(f"{prefix}/{family}/{host}/tcp/{address.port}{peer}"))] = None
        except Problem:
            continue  # an answer that can't be dialled, an IPv4 address in IPv6 clothes say
    return tuple(found)[:RESOLVED_MAX]
