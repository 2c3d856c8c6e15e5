"""From a home folder to a running node: found, join or load, probe what the device can do, and
open.

The order matters. The key comes first, because it is the device. A token is redeemed before the
ledger is opened for writing, because the answer says whose ledger it will be. Executors are probed
by running one before the node advertises anything.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio
from msgspec.structs import replace

from kowalski_ledger.fold import cluster_id, fold
from kowalski_ledger.state import State
from kowalski_ledger.store import Store, open_store
from kowalski_protocol.codec import encode
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import FEATURE_LEVEL, CapabilitiesAdvertised, ClusterFounded
from kowalski_protocol.identity import Identity
from kowalski_protocol.ids import Author, ClusterId
from kowalski_protocol.invites import decode_token, invite_hash
from kowalski_protocol.limits import LIMITS

from .blobs import Blobs
from .core.commits import cut_frames
from .core.effects import Outbox
from .core.node import Node, NodeConfig
from .door import join
from .executor import Capabilities, Executor
from .home import Home
from .options import NodeOptions
from .pipeline import now
from .runtime import ADDRESSES_META, Runtime
from .sampler import Hardware, hardware

_log = logging.getLogger("kowalski.start")

FOUNDER_META = "founder"
JOINED_META = "joined"
AUTHOR_META = "author"
"""Whose ledger the file is: the public key of the device that wrote it."""
BOOT_META = "boot"
PROBE_TIMEOUT_S = 10.0
PROBE_ALL_TIMEOUT_S = 120.0
"""Each language may take some seconds the first time, on a device that has other things to do."""
PROBLEMS_MAX = 16
"""Sentences about what does not work here: each executor has one or two."""
LANGUAGES_MAX = 16
"""More than any executor runs; with their versions cut they are 12 KiB at most."""
PROBLEM_LENGTH_MAX = 1024
"""Characters of such a sentence and the command that mends it; what a sandbox printed may be long.
"""


class Founding:
    """What a first start has to tell its owner once."""

    def __init__(self, cluster: ClusterId, recovery_code: str) -> None:
        self.cluster = cluster
        self.recovery_code = recovery_code


@asynccontextmanager
async def open_node(
    options: NodeOptions,
    executors: Sequence[Executor],
    founded: Callable[[Founding], object] = lambda _founding: None,
) -> AsyncIterator[Runtime]:
    """A node at work, for as long as the context is open.

    `founded` is called as soon as a first start has founded a cluster, whatever fails after that:
    what its owner must be told then is told never again.
    """
    with Home(options.home) as home:
        identity = home.identity()
        if options.join is not None:
            await _join(home, identity, options)
        found = await trio.to_thread.run_sync(hardware)
        slots = options.slots or found.cores_logical
        async with open_store(home.ledger) as store:
            if store.cluster is None:
                founded(await _found(store, identity, options, slots))
            node = await _load(store, identity, options, slots)
            capabilities = await probed_capabilities(options, executors, found, slots)
            runtime = Runtime(node, store, identity, options, Blobs(home.blobs), executors)
            more = partial(probed_capabilities, options, executors, found, slots, everything=True)
            async with runtime.running(capabilities, more):
                yield runtime


async def _next_boot(store: Store) -> int:
    """This run's boot id: the time, and above all before it, also after the clock was set back."""
    last = await store.get_meta(BOOT_META)
    boot = max(time.time_ns() // 1_000_000, int(last) + 1 if last else 0)
    await store.set_meta(BOOT_META, str(boot).encode())
    return boot


def _config(identity: Identity, options: NodeOptions, slots: int, boot: int = 0) -> NodeConfig:
    return NodeConfig(
        author=identity.author,
        name=options.name,
        boot=boot,
        timers=options.timers,
        slots=slots,
    )


async def _found(store: Store, identity: Identity, options: NodeOptions, slots: int) -> Founding:
    """Makes this device a cluster of one."""
    recovery_seed = secrets.token_bytes(32)
    founded = ClusterFounded(
        name=f"{options.name}'s cluster",
        founder=identity.author,
        device_name=options.name,
        nonce=secrets.token_bytes(16),
        recovery_key=Identity(recovery_seed).author,
    )
    cluster = cluster_id(encode(founded))
    node = Node(_config(identity, options, slots), State(cluster), now())
    out = Outbox()
    node.found(founded, now(), out)
    cut_frames(out.append, identity, LIMITS)
    await store.found(cluster, out.append)
    await store.set_meta(AUTHOR_META, identity.author)
    code = recovery_seed.hex()
    return Founding(cluster, "-".join(code[i : i + 8] for i in range(0, 64, 8)))


async def _load(store: Store, identity: Identity, options: NodeOptions, slots: int) -> Node:
    """The core as the ledger file leaves it."""
    assert store.cluster is not None
    author = await store.get_meta(AUTHOR_META)
    if author not in (None, identity.author):
        raise Problem(
            "home_unusable",
            "The ledger in this home folder was written by another device: its key is not the one"
            " in identity.key. Put that key back, or start with another folder.",
            mend="kowalski-node --home NEW_FOLDER",
        )
    founder = await store.get_meta(FOUNDER_META)
    node = Node(
        _config(identity, options, slots, await _next_boot(store)),
        State(store.cluster),
        now(),
        founder_hint=Author(founder) if founder else None,
    )
    async for chunk in store.load():
        node.load(chunk)
    node.loaded()
    return node


async def _join(home: Home, identity: Identity, options: NodeOptions) -> None:
    """Redeems the token.

    Where the ledger has another cluster in it, that must be alone and idle.
    """
    assert options.join is not None
    invite = decode_token(options.join)
    mark = invite_hash(invite.secret)
    if home.ledger.exists():
        async with open_store(home.ledger) as store:
            if store.cluster is not None:
                if await store.get_meta(JOINED_META) == mark:
                    return  # The same command again, after a restart.
                await _may_leave(store)
    _, answer = await join(identity, options.join, options.name)
    if home.ledger.exists():
        kept = home.ledger.with_name(time.strftime("ledger-%Y%m%d-%H%M%S.db"))
        await trio.to_thread.run_sync(home.ledger.rename, kept)
        _log.info("the ledger of the cluster before is kept as %s", kept.name)
    async with open_store(home.ledger) as store:
        await store.found(ClusterId(answer.cluster))
        await store.set_meta(AUTHOR_META, identity.author)
        await store.set_meta(FOUNDER_META, answer.founder)
        await store.set_meta(ADDRESSES_META, encode([list(m) for m in answer.members]))
        await store.set_meta(JOINED_META, mark)


async def _may_leave(store: Store) -> None:
    assert store.cluster is not None
    state = State(store.cluster)
    async for chunk in store.load():
        for event in chunk:
            fold(state, event)
    if len(state.members) > 1:
        raise Problem(
            "has_own_work",
            f"This device is a member of a cluster of {len(state.members)} devices and can't join"
            " another in place; give the new membership a home folder of its own.",
            mend="kowalski-node --home NEW_FOLDER --join TOKEN",
        )
    if state.open:
        raise Problem(
            "has_own_work",
            f"This device has {len(state.open)} unfinished tasks of its own; let them end or cancel"
            " them, then join.",
            mend="kowalski tasks",
        )


async def probed_capabilities(
    options: NodeOptions,
    executors: Sequence[Executor],
    found: Hardware,
    slots: int,
    *,
    everything: bool = False,
) -> CapabilitiesAdvertised:
    """What this device offers, found out by trying; `everything` takes seconds."""
    probed: list[Capabilities] = []
    timeout_s = PROBE_ALL_TIMEOUT_S if everything else PROBE_TIMEOUT_S

    async def probe(executor: Executor) -> None:
        with trio.move_on_after(timeout_s) as scope:
            probed.append(await (executor.probe_all() if everything else executor.probe()))
        if scope.cancelled_caught:
            problem = f"The probe of {executor.name} took longer than {timeout_s:g} s."
            probed.append(Capabilities(problems=(problem,)))

    async with trio.open_nursery() as nursery:
        for executor in executors:
            nursery.start_soon(probe, executor)
    kinds = sorted({kind for p in probed for kind in p.kinds})
    if options.run is not None:
        kinds = [kind for kind in kinds if kind in options.run]
    sandboxes = [p.sandbox for p in probed if p.sandbox != "none"]
    advert = CapabilitiesAdvertised(
        feature_level=FEATURE_LEVEL,
        device_name=options.name,
        kinds=tuple(kinds),
        tools=tuple(sorted({tool for p in probed for tool in p.tools})),
        languages=dict(sorted({k: v for p in probed for k, v in p.languages.items()}.items())),
        sandbox=sandboxes[0] if sandboxes else "none",
        slots=slots,
        cores=found.cores_logical,
        memory_total_bytes=found.memory_total_bytes or 0,
        accelerators=tuple(a.name for a in found.accelerators),
        labels=options.labels,
        problems=tuple(problem for p in probed for problem in p.problems),
        costs=options.costs,
        platform=found.platform,
    )
    return _fitting(advert)


def _fitting(advert: CapabilitiesAdvertised) -> CapabilitiesAdvertised:
    """The advert as an event may hold it: others refuse a larger one, and with it the whole feed.

    What the owner chose is bounded by the options and always fits. What was probed is cut: first
    what only people read, last what placement needs.
    """
    length_max = LIMITS.label_length_max  # of a name that a task can ask for
    fitting = replace(
        advert,
        problems=tuple(_shortened(text) for text in advert.problems[:PROBLEMS_MAX]),
        accelerators=tuple(name[:length_max] for name in advert.accelerators),
        tools=tuple(name for name in advert.tools if len(name) <= length_max),
        languages={
            name: version[: LIMITS.name_length_max]
            for name, version in [*advert.languages.items()][:LANGUAGES_MAX]
            if len(name) <= length_max
        },
    )
    for field in ("problems", "accelerators", "tools"):
        while len(encode(fitting)) > LIMITS.body_size_bytes_max and getattr(fitting, field):
            fitting = replace(fitting, **{field: getattr(fitting, field)[:-1]})
    assert len(encode(fitting)) <= LIMITS.body_size_bytes_max
    return fitting


def _shortened(text: str) -> str:
    return text if len(text) <= PROBLEM_LENGTH_MAX else text[: PROBLEM_LENGTH_MAX - 3] + "..."
