"""The thread that speaks multicast DNS: it announces this node and listens for others.

python-zeroconf wants an asyncio loop, the node has trio's; so it gets a thread with a loop of its
own, and nothing but finished adverts and one sentence about what is wrong ever leaves it. It works
in sessions. A session holds for one set of network interfaces: it opens one IPv4 and one IPv6
sender per interface (IPv6 from the link-local address, so that the hearer learns over which link it
came), browses, announces at once without the second of probing that DNS-SD asks for (a peer ID is
unique, nobody else can want it), and repeats the announcement now and then, since multicast gets
lost. Every few seconds the interfaces are compared; when they changed, or when anything failed, the
session ends and the next one begins. So a VPN that comes up, Wi-Fi that changes and a device that
starts without any network are one and the same case.

Nothing here is vital: whatever goes wrong becomes a sentence and another try.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from .addresses import InterfaceAddress, offered
from .adverts import SERVICE, Advert, read_advert, text_record

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

CHECK_S: Final = 10.0
"""How soon a new network is noticed and a failure tried again; one look costs about 0.2 ms."""
ANNOUNCE_S: Final = 60.0
"""Between two announcements: repairs what a lossy Wi-Fi lost, at one packet a minute."""
SENDERS_MAX: Final = 16
"""The kernel's default for memberships of one socket is 20."""
NAMES_WAITING_MAX: Final = 1024
NAMES_PER_ROUND: Final = 64
ROUND_S: Final = 0.1
"""A storm is read at 640 announcements a second; in calm the first is read at once."""
REQUESTS_MAX: Final = 32
REQUEST_TIMEOUT_MS: Final = 3000
"""Announcements that came in pieces, asked for in full at one time."""

_log = logging.getLogger(__name__)


class Announcement(msgspec.Struct, frozen=True):
    """What this node says of itself."""

    peer: str
    cluster: bytes
    port: int
    name: str
    boot: str


class Multicast:
    """Announces and hears until stopped. `run` is the thread; all else may be called from others.

    `heard` gets each advert, `trouble` a sentence when multicast can't be spoken and None once it
    can; both are called on the thread. `hosts` lists this device's addresses; it is asked every
    `check_s`."""

    def __init__(
        self,
        announcement: Announcement,
        *,
        heard: Callable[[Advert], None],
        trouble: Callable[[str | None], None],
        hosts: Callable[[], tuple[InterfaceAddress, ...]],
        check_s: float = CHECK_S,
    ) -> None:
        self._announcement = announcement
        self._heard = heard
        self._trouble = trouble
        self._hosts = hosts
        self._check_s = check_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._stopping = False

    def run(self) -> None:
        """Blocks until `stop`: the body of a thread of its own."""
        # asyncio's own loop, by name: the ledger's library puts its own kind into asyncio's place
        # for the whole process, and on that one a packet's callback finds no running loop, so an
        # announcement that came in pieces could not be asked for.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._main())

    def stop(self) -> None:
        """Makes `run` say goodbye and return."""
        self._stopping = True
        self._wake()

    def update(self, announcement: Announcement) -> None:
        """Announces something else from now on."""
        self._announcement = announcement
        self._wake()

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._woken.set)
            except RuntimeError:  # the loop has closed: the thread is ending anyway
                pass

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        while not self._stopping:
            try:
                await self._session(offered(self._hosts()))
            # A foreign library reads what strangers send here, and discovery is a convenience: no
            # mistake in it may end the node. It is logged, told and tried again.
            except Exception as error:  # guard: a foreign library under hostile input
                _log.debug("multicast failed", exc_info=error)
                self._trouble(_sentence(error))
                await self._pause(self._check_s)

    async def _session(self, hosts: tuple[InterfaceAddress, ...]) -> None:
        """Speaks multicast for as long as the device's addresses stay as they are."""
        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        senders = _senders(hosts)
        if not senders:
            raise NoNetworkError
        has_ip4 = any(isinstance(sender, str) and "." in sender for sender in senders)
        has_ip6 = any(isinstance(sender, int) or ":" in sender for sender in senders)
        network = AsyncZeroconf(
            interfaces=senders,
            ip_version=(
                IPVersion.All
                if has_ip4 and has_ip6
                else IPVersion.V4Only
                if has_ip4
                else IPVersion.V6Only
            ),
        )
        reader = _Reader(network, self._announcement.peer, self._heard, hosts)
        try:
            await network.zeroconf.async_wait_for_start()
            senders_open = network.zeroconf.engine.senders
            if not senders_open:
                raise NoMulticastError
            # A hearer drops the second of two equal packets. IPv6 goes first, because only a packet
            # that came over IPv6 tells it the link on which a link-local address is valid.
            senders_open.sort(key=lambda sender: not sender.is_ipv6)
            browser = AsyncServiceBrowser(network.zeroconf, SERVICE, handlers=[reader.changed])
            self._trouble(None)
            await self._announce(network, hosts)
            await browser.async_cancel()
        finally:
            reader.close()
            # Taken off the list here, because closing would say goodbye three times and wait.
            goodbye = network.zeroconf.generate_unregister_all_services()
            if goodbye is not None and self._stopping:
                network.zeroconf.async_send(goodbye)
            await network.async_close()

    async def _announce(self, network: AsyncZeroconf, hosts: tuple[InterfaceAddress, ...]) -> None:
        """Announces, repeats and updates until the addresses change or the thread is stopped."""
        said = self._announcement
        service = _service(said, hosts)
        await network.async_register_service(service, cooperating_responders=True)  # pyright: ignore[reportUnknownMemberType]
        next_announcement_s = _now_s() + ANNOUNCE_S
        while not self._stopping:
            await self._pause(self._check_s)
            if offered(self._hosts()) != hosts:
                break
            if self._announcement != said:
                said = self._announcement
                service = _service(said, hosts)
                await network.async_update_service(service)  # pyright: ignore[reportUnknownMemberType]
            elif _now_s() >= next_announcement_s:
                network.zeroconf.async_send(
                    network.zeroconf.generate_service_broadcast(service, None)
                )
                next_announcement_s = _now_s() + ANNOUNCE_S

    async def _pause(self, timeout_s: float) -> None:
        """Waits until something was asked of this thread, at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()


class _Reader:
    """Turns what zeroconf noticed into adverts, at a bounded pace.

    zeroconf names services that appeared or changed, on every packet. A name is read at once,
    before a forged goodbye can take the records away again; in a storm names wait, and equal ones
    become one. The announcement is read from zeroconf's cache, or asked for in full where it came
    in pieces."""

    def __init__(
        self,
        network: AsyncZeroconf,
        peer: str,
        heard: Callable[[Advert], None],
        hosts: tuple[InterfaceAddress, ...],
    ) -> None:
        self._network = network
        self._own_name = _instance(peer).lower()
        self._heard = heard
        self._own_hosts = [host.ip for host in hosts]
        self._waiting: dict[str, None] = {}
        self._left = NAMES_PER_ROUND
        self._next_round: asyncio.TimerHandle | None = None
        self._requests: set[asyncio.Task[None]] = set()

    def changed(self, *, name: str, state_change: ServiceStateChange, **_: object) -> None:
        """Called by zeroconf. A removal is a goodbye, which anybody can send: it is ignored."""
        if state_change.name == "Removed" or name.lower() == self._own_name:
            return
        if self._left:
            self._left -= 1
            self._read(name)
        else:
            if len(self._waiting) >= NAMES_WAITING_MAX:
                del self._waiting[next(iter(self._waiting))]
            self._waiting[name] = None
        if self._next_round is None:
            self._next_round = asyncio.get_running_loop().call_later(ROUND_S, self._round)

    def close(self) -> None:
        """Reads nothing more."""
        if self._next_round is not None:
            self._next_round.cancel()
        for request in self._requests:
            request.cancel()

    def _round(self) -> None:
        self._next_round = None
        self._left = NAMES_PER_ROUND
        while self._waiting and self._left:
            name = next(iter(self._waiting))
            del self._waiting[name]
            self._left -= 1
            self._read(name)
        if self._left < NAMES_PER_ROUND:
            self._next_round = asyncio.get_running_loop().call_later(ROUND_S, self._round)

    def _read(self, name: str) -> None:
        from zeroconf import Error
        from zeroconf.asyncio import AsyncServiceInfo

        try:
            service = AsyncServiceInfo(SERVICE, name)
            whole = service.load_from_cache(self._network.zeroconf)
        except Error:  # a name that no service can have
            return
        if whole:
            self._tell(service)
        elif len(self._requests) < REQUESTS_MAX:
            request = asyncio.create_task(self._request(service))
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)

    async def _request(self, service: AsyncServiceInfo) -> None:
        from zeroconf import Error

        try:
            if await service.async_request(self._network.zeroconf, REQUEST_TIMEOUT_MS):
                self._tell(service)
        except Error as error:
            _log.debug("an announcement could not be asked for", exc_info=error)

    def _tell(self, service: AsyncServiceInfo) -> None:
        advert = read_advert(
            service.properties,
            service.port,
            service.parsed_scoped_addresses(),
            own_hosts=self._own_hosts,
        )
        if advert is not None:
            self._heard(advert)


class NoNetworkError(OSError):
    """No interface of this device has an address."""


class NoMulticastError(OSError):
    """No interface of this device takes part in multicast."""


def _instance(peer: str) -> str:
    return f"{peer}.{SERVICE}"


def _service(said: Announcement, hosts: tuple[InterfaceAddress, ...]) -> AsyncServiceInfo:
    """The DNS-SD service of this node: its records name the peer ID, never the host name."""
    from zeroconf.asyncio import AsyncServiceInfo

    return AsyncServiceInfo(
        SERVICE,
        _instance(said.peer),
        port=said.port,
        properties=text_record(
            peer=said.peer, cluster=said.cluster, name=said.name, boot=said.boot
        ),
        server=f"{said.peer}.local.",
        parsed_addresses=[host.ip for host in hosts],
    )


def _senders(
    hosts: tuple[InterfaceAddress, ...], *, by_address: bool = sys.platform == "linux"
) -> list[str | int]:
    """One IPv4 and one IPv6 sender per interface, IPv6 from the link-local address.

    Where the system lists link-local addresses in a form of its own (BSD kernels), the interface is
    named by its number; there its link-local address comes first anyway."""
    chosen: dict[tuple[str, int], InterfaceAddress] = {}
    for host in hosts:
        ip = ipaddress.ip_address(host.ip)
        if ip.version == 6 and ip.is_loopback:
            continue  # the loopback interface has no IPv6 multicast
        key = (host.interface, ip.version)
        if key not in chosen or (ip.version == 6 and ip.is_link_local):
            chosen[key] = host
    return [
        host.ip if version == 4 or by_address else host.index
        for (_, version), host in chosen.items()
    ][:SENDERS_MAX]


def _sentence(error: BaseException) -> str:
    """What a person is told of a failure: what is wrong, never an address or a trace."""
    if isinstance(error, NoNetworkError):
        return "No network interface of this device has an address."
    if isinstance(error, NoMulticastError):
        return "No network interface of this device takes part in multicast."
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "Another program holds UDP port 5353 (multicast DNS) and does not share it."
    if isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EACCES):
        return "The system does not allow this program to use multicast DNS (UDP port 5353)."
    if isinstance(error, OSError) and error.errno is not None:
        return f"Multicast DNS can't be used here ({errno.errorcode.get(error.errno, 'unknown')})."
    return f"Multicast DNS failed ({type(error).__name__})."


def _now_s() -> float:
    return asyncio.get_running_loop().time()
