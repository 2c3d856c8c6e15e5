"""Finding a TCP port to listen on."""

from __future__ import annotations

import socket

from kowalski_protocol.errors import Problem


def is_free(port: int) -> bool:
    """Whether both IPv4 and IPv6, where the device has it, can listen on the port now."""
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((host, port))
                probe.listen(1)
        except OSError:
            if family == socket.AF_INET6 and not socket.has_ipv6:
                continue
            return False
    return True


def free_port(first: int, tried: int) -> int:
    """The first free port from `first` on; Problem port_busy where none of `tried` is free."""
    for port in range(first, min(65536, first + tried)):
        if is_free(port):
            return port
    raise Problem("port_busy", f"None of the ports {first} to {first + tried - 1} is free.")
