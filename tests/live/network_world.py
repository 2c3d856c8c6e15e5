"""Nodes for the tests of the network: a handler that writes down what it is told, and processes.

`Recorder` stands where the runtime will stand. `process` starts this very file as a program, a node
of its own process that dials whom it is told to, answers, and can be killed or frozen; it prints
its address as its one line.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from kowalski_node.network import Network, NetworkOptions
from kowalski_protocol.identity import Identity

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = hashlib.sha256(b"a cluster for tests").digest()
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
IDENTITIES = [Identity(hashlib.sha256(b"node %d" % number).digest()) for number in range(12)]
KEYS = [bytes(identity.author) for identity in IDENTITIES]
WAIT_S = 10.0


class Recorder:
    """A handler whose members are the first identities, and which keeps what it is told."""

    def __init__(self, members: Sequence[bytes] = KEYS) -> None:
        self.members = set(members)
        self.asked: list[bytes] = []
        self.connected: list[bytes] = []
        self.addresses: list[str] = []
        self.disconnected: list[bytes] = []
        self.gossip: list[tuple[str, bytes | None, bytes]] = []
        self.messages: list[tuple[bytes, bytes]] = []
        self.overflowed: list[bytes] = []
        self.requests: list[bytes] = []
        self.blobs: dict[bytes, bytes] = {}

    def is_member(self, peer: bytes) -> bool:
        self.asked.append(peer)
        return peer in self.members

    def peer_connected(self, peer: bytes, address: str) -> None:
        self.connected.append(peer)
        self.addresses.append(address)

    def peer_disconnected(self, peer: bytes) -> None:
        self.disconnected.append(peer)

    def gossip_received(self, topic: str, source: bytes | None, data: bytes) -> None:
        self.gossip.append((topic, source, data))

    def lane_received(self, peer: bytes, data: bytes) -> None:
        self.messages.append((peer, data))

    def lane_overflowed(self, peer: bytes) -> None:
        self.overflowed.append(peer)

    async def answer(self, peer: bytes, request: bytes) -> bytes:
        self.requests.append(request)
        await trio.lowlevel.checkpoint()
        return b"answer to " + request

    async def serve_blob(
        self, peer: bytes, blob_hash: bytes, offset: int
    ) -> tuple[int, AsyncIterator[bytes]] | None:
        await trio.lowlevel.checkpoint()
        blob = self.blobs.get(blob_hash)
        if blob is None:
            return None

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(offset, len(blob), 65536):
                await trio.lowlevel.checkpoint()
                yield blob[start : start + 65536]

        return len(blob), chunks()


async def until(happened: Callable[[], object], wait_s: float = WAIT_S) -> None:
    """Returns when the predicate is true; fails the test when it isn't in time."""
    with trio.fail_after(wait_s):
        while not happened():
            await trio.sleep(0.002)  # poll: the predicate


def network(
    number: int, handler: Recorder, options: NetworkOptions | None = None, listen: str = LOOPBACK
) -> Network:
    """The network of the numbered identity."""
    return Network(
        seed=IDENTITIES[number].seed,
        listen=[listen],
        cluster=CLUSTER,
        handler=handler,
        options=options,
    )


async def meet(one: Network, other_number: int, other: Network) -> None:
    """Connects two networks and waits until gossip goes both ways."""
    assert await one.dial(KEYS[other_number], other.addresses, WAIT_S)
    await until(lambda: gossips(one, KEYS[other_number]))


def gossips(network: Network, peer: bytes) -> bool:
    """Whether the network's gossip reaches a peer."""
    return peer in network._gossip.reached()


class Process:
    """A node in a process of its own."""

    def __init__(self, running: subprocess.Popen[str], address: str) -> None:
        self._running = running
        self.address = address

    def kill(self) -> None:
        self._running.kill()
        self._running.wait()

    def freeze(self) -> None:
        self._running.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.thaw()
        self.kill()


@asynccontextmanager
async def process(number: int, *peers: tuple[int, str]) -> AsyncIterator[Process]:
    """Runs the numbered node as a program, which echoes lane messages and dials the given peers."""
    arguments = [str(number), *(f"{peer}={address}" for peer, address in peers)]
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("protocol", "ledger", "node", "."))
    running = subprocess.Popen(  # noqa: ASYNC220 - takes a millisecond, and is not awaited
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert running.stdout is not None
    node = Process(running, "")
    try:
        with trio.fail_after(WAIT_S):
            line = await trio.to_thread.run_sync(running.stdout.readline, abandon_on_cancel=True)
        node.address = json.loads(line)["address"]
        yield node
    finally:
        node.close()
        running.stdout.close()


class Echo(Recorder):
    """Sends small lane messages back, and publishes what it is asked to."""

    network: Network

    def lane_received(self, peer: bytes, data: bytes) -> None:
        if data.startswith(b"publish "):
            self.network.publish("task", data.removeprefix(b"publish "))
        elif len(data) <= 1024:
            self.network.send(peer, data)


async def _main(number: int, peers: Sequence[tuple[int, str]]) -> None:
    echo = Echo()
    async with network(number, echo) as echo.network:
        for peer, address in peers:
            assert await echo.network.dial(KEYS[peer], [address], WAIT_S)
        print(json.dumps({"address": echo.network.addresses[0]}), flush=True)  # noqa: T201
        await trio.sleep_forever()


if __name__ == "__main__":
    told = [argument.partition("=") for argument in sys.argv[2:]]
    with suppress(KeyboardInterrupt):
        trio.run(_main, int(sys.argv[1]), [(int(peer), address) for peer, _, address in told])
