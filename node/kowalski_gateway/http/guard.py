"""Who may ask at all: the checks before any route is looked at, the same on loopback as elsewhere.

A browser on this device reaches loopback, so every page that a person opens could be a client.
Three headers that pages can't forge keep them out: `Host` (a page whose name was re-pointed to
127.0.0.1 still sends its own name), `Origin` and `Sec-Fetch-Site`. Programs send the first alone.
Where a token is set it is asked for in every request, and compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from kowalski_protocol.errors import Problem

_HOST: Final = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[0-9a-z._-]{1,253})(?::([0-9]{1,5}))?")
_SAME_SITE: Final = frozenset({b"same-origin", b"none"})
KNOWN_HOSTS_MAX: Final = 64
"""Names of this API found good before, remembered to be quick: a device has few, and what a client
invents is looked at each time but takes no memory."""


class Guard:
    """Says whether a request may be looked at."""

    def __init__(self, host: str, port_number: int, token: str | None) -> None:
        self._host = host.lower()
        self._port_number = port_number
        self._token_digest = None if token is None else _digest(token.encode())
        self._known: set[tuple[bytes, str]] = set()

    def refusal(
        self, headers: Iterable[tuple[bytes, bytes]], server_address: str
    ) -> Problem | None:
        """The problem with these headers on a connection to `server_address`; None where there is
        none."""
        host = b""
        origin = site = authorization = None
        for name, value in headers:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
            elif name == b"authorization":
                authorization = value
        if not self._is_own(host, server_address):
            return Problem(
                "foreign_origin", "The Host header names something else than this node's API."
            )
        if site is not None and site not in _SAME_SITE:
            return Problem("foreign_origin", "A page of another site may not use this node's API.")
        if origin is not None and not (
            origin.startswith(b"http://") and self._is_own(origin[7:], server_address)
        ):
            return Problem(
                "foreign_origin", "A page of another origin may not use this node's API."
            )
        if self._token_digest is not None and not self._has_token(authorization):
            return Problem(
                "unauthorized",
                "This API asks for its token.",
                mend="kowalski status --token TOKEN",
            )
        return None

    def _has_token(self, authorization: bytes | None) -> bool:
        scheme, _, given = (authorization or b"").partition(b" ")
        # Both sides are digests, so that neither content nor length shows in the time it takes.
        return scheme.lower() == b"bearer" and hmac.compare_digest(
            _digest(given.strip()), self._token_digest or b""
        )

    def _is_own(self, host: bytes, server_address: str) -> bool:
        if (host, server_address) in self._known:
            return True
        own = self._names_this_api(host, server_address)
        if own and len(self._known) < KNOWN_HOSTS_MAX:
            self._known.add((host, server_address))
        return own

    def _names_this_api(self, host: bytes, server_address: str) -> bool:
        match = _HOST.fullmatch(host.decode("latin-1").lower())
        if match is None or int(match[2] or 80) != self._port_number:
            return False
        name: str = match[1].strip("[]")
        if name in ("localhost", self._host):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # An address in digits is no name that somebody could re-point.
        return address.is_loopback or str(address) == server_address


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
