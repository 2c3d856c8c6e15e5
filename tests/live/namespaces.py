"""Network namespaces: nodes with a cable each, which a test can pull and put back.

Every node has a namespace of its own with two interfaces. `lan` leads to a bridge, itself in a
namespace so that no firewall of the machine has a say, and is what the nodes speak over; pulling
the cable is taking the bridge's end of it down: nothing is refused or closed, packets just end.
`control` leads to the test, which reaches the node's API over it also when the cable is pulled.
All names carry a random part, and all of it is removed when the context is left.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kowalski_gateway.local_cluster import LocalNode

TOKEN = "a token of the test"


def ip(*words: str) -> None:
    """Runs `ip`; its complaint is the error."""
    done = subprocess.run(("ip", *words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr.strip()}"


class Lan:
    """A switch with a cable to each node's namespace."""

    def __init__(self, mark: str, net: int) -> None:
        self._mark = mark
        self._net = net
        self._switch = f"{mark}s"
        self._places: list[str] = []

    def build(self) -> None:
        """Makes the switch."""
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "name", "bridge0", "type", "bridge")
        ip("-n", self._switch, "link", "set", "dev", "bridge0", "up")

    def node(self, name: str, folder: Path, options: Sequence[str] = ()) -> LocalNode:
        """A node, not started, in a namespace of its own with its cable in."""
        number = len(self._places) + 1
        place = f"{self._mark}n{number}"
        self._places.append(place)
        host = f"198.18.{self._net}.{number}"
        control = f"198.19.{self._net}.{4 * number + 2}"
        ip("netns", "add", place)
        ip("-n", place, "link", "set", "dev", "lo", "up")
        ip(
            *("-n", self._switch, "link", "add", "name", f"p{number}", "type", "veth"),
            *("peer", "name", "lan", "netns", place),
        )
        ip("-n", self._switch, "link", "set", "dev", f"p{number}", "master", "bridge0", "up")
        ip("-n", place, "address", "add", f"{host}/24", "dev", "lan")
        ip("-n", place, "link", "set", "dev", "lan", "up")
        ip("link", "add", "name", place, "type", "veth", "peer", "name", "control", "netns", place)
        ip("address", "add", f"198.19.{self._net}.{4 * number + 1}/30", "dev", place)
        ip("link", "set", "dev", place, "up")
        ip("-n", place, "address", "add", f"{control}/30", "dev", "control")
        ip("-n", place, "link", "set", "dev", "control", "up")
        return LocalNode(
            name,
            folder,
            options=options,
            prefix=("ip", "netns", "exec", place),
            host=host,
            api=f"{control}:0",
            token=TOKEN,
        )

    def pull(self, *nodes: LocalNode) -> None:
        """Pulls these nodes' cables out of the switch."""
        self._set(nodes, "down")

    def put_back(self, *nodes: LocalNode) -> None:
        """Puts them back."""
        self._set(nodes, "up")

    def _set(self, nodes: Sequence[LocalNode], state: str) -> None:
        for node in nodes:
            number = self._places.index(node.prefix[-1]) + 1
            ip("-n", self._switch, "link", "set", "dev", f"p{number}", state)

    def remove(self) -> None:
        """Takes away whatever was made; interfaces go with their namespaces."""
        for place in (*self._places, self._switch):
            subprocess.run(("ip", "link", "delete", place), capture_output=True, check=False)
            subprocess.run(("ip", "netns", "delete", place), capture_output=True, check=False)


@contextmanager
def lan() -> Iterator[Lan]:
    """A LAN for the time of a test; it is left after the nodes on it have ended."""
    made = Lan(f"kow{secrets.token_hex(4)}", secrets.randbelow(256))
    try:
        made.build()
        yield made
    finally:
        made.remove()


@contextmanager
def no_network() -> Iterator[Sequence[str]]:
    """What runs a program where there is no interface but the loopback."""
    place = f"kow{secrets.token_hex(4)}x"
    try:
        ip("netns", "add", place)
        ip("-n", place, "link", "set", "dev", "lo", "up")
        yield ("ip", "netns", "exec", place)
    finally:
        subprocess.run(("ip", "netns", "delete", place), capture_output=True, check=False)
