"""A cluster of real `kowalski-node` processes on this machine, for the demo, the benchmarks and
live tests.

Each node has a home folder, ports and a log of its own and is joined by invite, as devices of a
person would be. Processes are ended when the context is left, however it is left; only processes
started here are touched.
"""

from __future__ import annotations

import atexit
import errno
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from kowalski_node.client import Client
from kowalski_node.views import ClusterView
from kowalski_protocol.errors import Problem

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.02
QUIET_PORTS = range(20_000, 32_000)
"""Below what Linux and macOS give to outgoing connections (32768 and 49152 upwards)."""
PORTS_TRIED = 100
PR_SET_PDEATHSIG = 1
"""From Linux' <sys/prctl.h>."""


class NodeFailed(RuntimeError):
    """A node ended or did not get ready; the text holds the end of its log."""


def _die_with_parent() -> Callable[[], None] | None:
    """What a child does before it becomes a node: it asks to be killed when this program ends.

    However this program ends, it must leave no nodes behind. Only Linux offers that; elsewhere the
    contexts and `atexit` have to do.
    """
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    control = ctypes.CDLL(None).prctl
    return lambda: control(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def quiet_port(host: str) -> int:
    """A free port that no outgoing connection takes while its node is away for a moment."""
    for _ in range(PORTS_TRIED):
        port = random.choice(QUIET_PORTS)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                # The address is of another network namespace, where nobody else listens.
            return port
    raise NodeFailed(f"no free port on {host}")


class LocalNode:
    """One node process; it may be killed, stopped, frozen and started again with the same home."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        host: str = "127.0.0.1",
        mdns: bool = False,
        api: str = "127.0.0.1:0",
        token: str | None = None,
    ) -> None:
        self.name = name
        self.home = folder / name
        self.log = folder / f"{name}.log"
        self.options = list(options)
        self.environment = dict(environment or {})
        self.prefix = list(prefix)
        """What runs the command, such as `ip netns exec NAME`."""
        self.host = host
        self.mdns = mdns
        """Whether the node looks for others by LAN discovery; off, it hears of nobody by itself."""
        self.api = api
        self.token = token
        """The API's token, where `api` is not the loopback."""
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.peer = ""
        self._client: Client | None = None
        self._port: int | None = None

    @property
    def client(self) -> Client:
        """The client of the running node's API."""
        assert self._client is not None, f"{self.name} is not running"
        return self._client

    @property
    def pid(self) -> int:
        """The process id of the running node."""
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    async def start(self, *more: str, ready: bool = True) -> None:
        """Starts the process and, with `ready`, waits until its API says that it takes work."""
        await self.close_client()
        port = self._port = self._port or quiet_port(self.host)
        command = [
            *self.prefix,
            sys.executable,
            "-m",
            "kowalski_gateway.node_main",
            "--home",
            str(self.home),
            "--name",
            self.name,
            "--listen",
            f"/ip4/{self.host}/tcp/{port}",
            "--api",
            self.api,
            *([] if self.token is None else ["--api-token", self.token]),
            *([] if self.mdns else ["--no-mdns"]),
            *self.options,
            *more,
        ]
        self._spawn(command)
        with trio.move_on_after(START_TIMEOUT_S) as scope:
            self.url = await self._wait_for_url()
            client = Client(self.url, token=self.token)
            self._client = await client.__aenter__()
            if ready:
                await self._wait_until_ready()
        if scope.cancelled_caught:
            raise NodeFailed(
                f"{self.name} was not ready in {START_TIMEOUT_S:g} s\n{self.log_end()}"
            )

    def _spawn(self, command: Sequence[str]) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )

    async def _wait_for_url(self) -> str:
        marker = f"pid={self.pid}"
        while True:
            if self.process is not None and self.process.poll() is not None:
                raise NodeFailed(
                    f"{self.name} ended with {self.process.returncode}\n{self.log_end()}"
                )
            text = self.log.read_text(encoding="utf-8", errors="replace")
            _, found, rest = text.rpartition(marker)
            for line in rest.splitlines() if found else ():
                if line.strip().startswith("ready"):
                    return next(
                        part.partition(" ")[2].strip()
                        for part in map(str.strip, rest.splitlines())
                        if part.startswith("API")
                    )
            await trio.sleep(POLL_S)

    async def _wait_until_ready(self) -> None:
        assert self.process is not None
        while True:
            try:
                if await self.client.health():
                    self.peer = (await self.client.cluster()).self
                    return
            except Problem:
                await self._gone()  # Whose API stops answering is ending.
            if not self.alive:
                raise NodeFailed(
                    f"{self.name} ended with {self.process.returncode}\n{self.log_end()}"
                )
            await trio.sleep(POLL_S)

    def log_end(self, size: int = 3000) -> str:
        """The end of the node's log."""
        return (
            self.log.read_text(encoding="utf-8", errors="replace")[-size:]
            if self.log.exists()
            else ""
        )

    def forget_port(self) -> None:
        """Lets the next start take another port, as a device that others can't find as before."""
        self._port = None

    def signal(self, number: int) -> None:
        """Sends a signal to the node's process."""
        if self.alive:
            os.kill(self.pid, number)

    def freeze(self) -> None:
        """Stops the process where it is (SIGSTOP)."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen process go on."""
        self.signal(signal.SIGCONT)

    async def kill(self) -> None:
        """`kill -9`."""
        self.signal(signal.SIGKILL)
        await self._gone()

    async def stop(self) -> int:
        """SIGTERM, and the exit code of the orderly end."""
        self.signal(signal.SIGTERM)
        with trio.move_on_after(STOP_TIMEOUT_S) as scope:
            await self._gone()
        if scope.cancelled_caught:
            await self.kill()
            raise NodeFailed(f"{self.name} did not stop\n{self.log_end()}")
        assert self.process is not None
        return self.process.returncode

    async def ended(self) -> None:
        """Waits until the process has ended, however."""
        while self.alive:  # noqa: ASYNC110
            await trio.sleep(POLL_S)

    async def answers(self) -> bool:
        """Whether the node runs and takes work."""
        try:
            return self.alive and self._client is not None and await self.client.health()
        except Problem:
            return False

    async def _gone(self) -> None:
        await self.ended()
        await self.close_client()

    async def close_client(self) -> None:
        """Ends the connection to the API."""
        if self._client is not None:
            client, self._client = self._client, None
            with trio.CancelScope(shield=True):
                await client.__aexit__(None, None, None)

    def kill_now(self) -> None:
        """Ends the process at once, frozen or not; for the end of everything."""
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()


class LocalCluster:
    """Some local nodes of one cluster; the first one founds it."""

    def __init__(
        self,
        folder: Path,
        *,
        options: Sequence[str] = (),
        host: str = "127.0.0.1",
        mdns: bool = False,
    ) -> None:
        self.folder = folder
        self.options = list(options)
        self.host = host
        self.mdns = mdns
        self.nodes: list[LocalNode] = []

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        # A test that runs out of time ends without leaving its contexts; its processes must not
        # stay.
        atexit.register(self._kill_all)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kill_all()
        atexit.unregister(self._kill_all)
        for node in self.nodes:
            await node.close_client()

    def _kill_all(self) -> None:
        for node in self.nodes:
            node.kill_now()

    def __getitem__(self, name: str) -> LocalNode:
        return next(node for node in self.nodes if node.name == name)

    async def add(self, name: str, *options: str, role: str = "member") -> LocalNode:
        """Starts one more node.

        The founder, or one that joins by an invite of the first live node.
        """
        node = LocalNode(
            name,
            self.folder,
            options=[*self.options, *options],
            host=self.host,
            mdns=self.mdns,
        )
        await self.admit(node, role)
        return node

    async def admit(self, node: LocalNode, role: str = "member") -> None:
        """Starts a node that was prepared elsewhere, as `add` does."""
        inviter = next((n for n in self.nodes if n.alive), None)
        self.nodes.append(node)
        if inviter is None:
            await node.start()
        else:
            invite = await inviter.client.invite(role)
            await node.start("--join", invite.token)

    async def add_all(self, *names: str) -> None:
        """Starts several nodes: the first, then all others at once."""
        await self.add(names[0])
        async with trio.open_nursery() as nursery:
            for name in names[1:]:
                nursery.start_soon(self.add, name)
        await self.settle_down()

    def living(self) -> list[LocalNode]:
        """The nodes whose process runs."""
        return [node for node in self.nodes if node.alive]

    async def settle_down(
        self, timeout_s: float = 15.0, among: Sequence[LocalNode] | None = None
    ) -> None:
        """Waits until all live nodes see each other, one leader and each other's capabilities."""
        living = self.living() if among is None else among
        await self.until(
            lambda views: (
                all(
                    sum(d.alive for d in v.devices) >= len(living)
                    and v.leader is not None
                    and all(d.capabilities for d in v.devices if d.alive)
                    for v in views
                )
                and len({v.leader for v in views}) == 1
            ),
            timeout_s,
            among,
        )

    async def one_digest(
        self, timeout_s: float = 20.0, among: Sequence[LocalNode] | None = None
    ) -> str:
        """Waits until all live nodes show one digest; returns it."""
        views = await self.until(
            lambda views: len({v.digest for v in views}) == 1, timeout_s, among
        )
        return views[0].digest

    async def until(
        self,
        condition: Callable[[list[ClusterView]], bool],
        timeout_s: float,
        among: Sequence[LocalNode] | None = None,
    ) -> list[ClusterView]:
        """Waits for a condition over the views of all live nodes, or of these alone."""
        views: list[ClusterView] = []
        with trio.move_on_after(timeout_s):
            while True:
                asked = self.living() if among is None else among
                views = [await node.client.cluster() for node in asked]
                if condition(views):
                    return views
                await trio.sleep(POLL_S)
        shown = "\n".join(
            f"{n.name}: leader {v.leader and v.leader[-6:]} epoch {v.epoch} digest {v.digest[:14]}"
            f" alive {[d.name for d in v.devices if d.alive]} tasks {v.tasks}"
            for n, v in zip(self.living() if among is None else among, views, strict=False)
        )
        raise NodeFailed(f"not within {timeout_s:g} s:\n{shown}")
