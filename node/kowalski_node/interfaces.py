"""Which IP addresses this device has now, on all of its interfaces, VPNs included.

The operating system is asked anew on every call (about 0.2 ms): interfaces come and go with cables,
Wi-Fi and VPNs, and what was true a minute ago must not be advertised. What is worth telling others,
and in which order, is `addresses.offered`'s business.
"""

from __future__ import annotations

import ipaddress

from .addresses import InterfaceAddress

INTERFACE_ADDRESSES_MAX = 512
"""A host of containers can have thousands of virtual interfaces; the rest is not looked at."""


def interface_addresses() -> tuple[InterfaceAddress, ...]:
    """Every IP address of this device as the system lists them; empty where it can't be asked."""
    import ifaddr  # loads ctypes: 20 ms that a command line without a node need not pay

    found: list[InterfaceAddress] = []
    try:
        adapters = ifaddr.get_adapters()
    except OSError:
        return ()
    for adapter in adapters:
        for entry in adapter.ips:
            ip, scope = (entry.ip, 0) if isinstance(entry.ip, str) else (entry.ip[0], entry.ip[2])
            ip = ip.partition("%")[0]
            index = adapter.index or scope
            found.append(InterfaceAddress(_without_embedded_scope(ip), adapter.nice_name, index))
            if len(found) == INTERFACE_ADDRESSES_MAX:
                return tuple(found)
    return tuple(found)


def _without_embedded_scope(ip: str) -> str:
    """A link-local address without the interface number that BSD kernels keep in it."""
    parsed = ipaddress.ip_address(ip)
    if parsed.version == 6 and parsed.is_link_local:
        packed = parsed.packed
        return str(ipaddress.IPv6Address(packed[:2] + bytes(6) + packed[8:]))
    return str(parsed)
