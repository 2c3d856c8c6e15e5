"""Which port a node listens on: the first that it can really have, or the one that it was told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kowalski_node.addresses import PEER_PORT
from kowalski_node.network.sockets import PORT_MAX, listening_address, open_listeners
from kowalski_node.ports import keep_port, listen_addresses
from kowalski_protocol.errors import Problem


def both(port: int) -> tuple[str, ...]:
    return (f"/ip4/127.0.0.1/tcp/{port}", f"/ip6/::1/tcp/{port}")


@contextmanager
def listening(port: int, tried: int = 1) -> Iterator[set[int]]:
    """The ports that a node listens on, while it does."""
    listeners = open_listeners(both(port), tried)
    try:
        yield {listening_address(listener).port for listener in listeners}
    finally:
        for listener in listeners:
            listener.close()


def free_port() -> int:
    """A port with free ones above it."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return min(found.getsockname()[1], PORT_MAX - 50)


def test_nodes_that_start_together_take_a_port_each() -> None:
    first = free_port()
    with ExitStack() as stack:
        taken = [stack.enter_context(listening(first, 50)) for _ in range(4)]
        assert all(len(ports) == 1 for ports in taken), "one number for both families"
        assert len(set.union(*taken)) == 4
        assert min(set.union(*taken)) >= first


def test_a_port_that_was_demanded_is_had_or_refused() -> None:
    with listening(free_port(), 50) as ports, pytest.raises(Problem) as problem:
        open_listeners(both(min(ports)))
    assert problem.value.code == "port_busy"


def test_where_all_that_may_be_tried_are_taken_it_says_so() -> None:
    with listening(free_port(), 50) as one:
        with listening(min(one), 50) as two, pytest.raises(Problem) as problem:
            open_listeners(both(min(one)), max(two) - min(one) + 1)
        assert problem.value.code == "port_busy"


def test_after_the_last_port_there_is_none() -> None:
    with socket.socket() as last:
        last.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            last.bind(("127.0.0.1", PORT_MAX))
            last.listen()
        except OSError:
            pass  # another program has it, which serves as well
        with pytest.raises(Problem) as problem:
            open_listeners(both(PORT_MAX), 50)
    assert problem.value.code == "port_busy"


def test_the_port_of_the_last_start_comes_first(tmp_path: Path) -> None:
    default = (f"/ip4/0.0.0.0/tcp/{PEER_PORT}", f"/ip6/::/tcp/{PEER_PORT}")
    assert listen_addresses(tmp_path) == default
    keep_port(tmp_path, 52425)
    assert listen_addresses(tmp_path) == ("/ip4/0.0.0.0/tcp/52425", "/ip6/::/tcp/52425")
    for text in ("", "desk", "0", "-1", "65536"):
        (tmp_path / "port").write_text(text, encoding="ascii")
        assert listen_addresses(tmp_path) == default
    keep_port(tmp_path / "missing", 52425)  # told in the log, and the node runs on
