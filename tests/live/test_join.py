"""Who gets in: each way in which an invite is refused, and the few in which it works.

A refusal has a code, leaves the refused device as it was, and costs the cluster nothing: after each
of them a good invite still lets somebody in.
"""

from __future__ import annotations

import secrets
import socket
import time

import pytest
import trio

from kowalski_gateway.local_cluster import LocalCluster, LocalNode, NodeFailed
from kowalski_ledger.audit import audit
from kowalski_node.door import Door, join
from kowalski_node.network import Network, NetworkError
from kowalski_protocol.errors import Problem
from kowalski_protocol.identity import Identity, author_of
from kowalski_protocol.ids import Author
from kowalski_protocol.invites import Invite, JoinAnswer, decode_token, encode_token
from tests.live.evidence import assert_all_agree, tool
from tests.live.network_world import IDENTITIES, KEYS, LOOPBACK, Recorder

WAIT_S = 20.0


def stranger() -> Identity:
    return Identity(secrets.token_bytes(32))


async def members(node: LocalNode) -> set[str]:
    return {device.id for device in (await node.client.cluster()).devices}


async def still_lets_in(node: LocalNode) -> None:
    """A fresh invite of the node works."""
    identity = stranger()
    await join(identity, (await node.client.invite()).token, "late")
    assert identity.peer_id in await members(node)


async def refused_start(node: LocalNode, token: str) -> str:
    """The node's words when it will not start with the token."""
    with pytest.raises(NodeFailed):
        await node.start("--join", token)
    assert node.process is not None
    assert node.process.returncode in (1, 2)
    said = node.log_end()
    assert "Traceback" not in said
    return said


# The invite itself.


async def test_a_bad_token_is_refused_by_its_form(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    good = (await desk.client.invite()).token
    newcomer = LocalNode("lap", cluster.folder, options=cluster.options)
    cluster.nodes.append(newcomer)
    changed = good[:40] + ("A" if good[40] != "A" else "B") + good[41:]
    for token in ("kow1.", "hello", good[:-1], changed, good + "A", good.upper()):
        assert "[bad_token]" in await refused_start(newcomer, token), token
    assert len(await members(desk)) == 1
    # The good one is as good as before, for the same device.
    await newcomer.start("--join", good)
    await cluster.settle_down()
    assert newcomer.peer in await members(desk)


async def test_a_token_with_another_secret_is_unknown_to_the_inviter(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    real = decode_token((await desk.client.invite()).token)
    guess = Invite(
        real.inviter, secrets.token_bytes(16), real.expires_ms, real.role, real.addresses
    )
    with pytest.raises(Problem) as raised:
        await join(stranger(), encode_token(guess), "guesser")
    assert raised.value.code == "invite_refused"
    assert raised.value.mend == "kowalski invite"
    assert len(await members(desk)) == 1
    await still_lets_in(desk)


async def test_an_invite_works_once(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    token = (await desk.client.invite()).token
    other = (await desk.client.invite()).token  # keeps the door open
    first = stranger()
    await join(first, token, "first")
    with pytest.raises(Problem) as raised:
        await join(stranger(), token, "second")
    assert raised.value.code == "invite_used"
    assert await members(desk) == {desk.peer, first.peer_id}
    await join(stranger(), other, "third")
    # With the last invite the door is closed, and whoever comes late finds nobody.
    with pytest.raises(Problem) as raised:
        await join(stranger(), token, "late")
    assert raised.value.code in ("no_inviter", "invite_used")
    await still_lets_in(desk)


async def test_an_invite_ends_with_its_maker(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    token = (await desk.client.invite()).token
    await desk.kill()
    await desk.start()
    with pytest.raises(Problem) as raised:
        await join(stranger(), token, "late")
    assert raised.value.code in ("no_inviter", "invite_refused")
    await still_lets_in(desk)


async def test_of_two_devices_with_one_invite_exactly_one_gets_in(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    for _ in range(3):
        token = (await desk.client.invite()).token
        await desk.client.invite()  # keeps the door open for the one that loses
        before = await members(desk)
        pair = [stranger(), stranger()]
        outcomes: dict[str, str] = {}

        async def knock(
            identity: Identity,
            token: str = token,
            outcomes: dict[str, str] = outcomes,
        ) -> None:
            try:
                await join(identity, token, "one of two")
                outcomes[identity.peer_id] = "in"
            except Problem as problem:
                outcomes[identity.peer_id] = problem.code

        async with trio.open_nursery() as nursery:
            for identity in pair:
                nursery.start_soon(knock, identity)
        assert sorted(outcomes.values()) == ["in", "invite_used"]
        (winner,) = (peer for peer, end in outcomes.items() if end == "in")
        assert await members(desk) - before == {winner}


class Cluster:
    """What stands behind a door that a test holds itself."""

    def __init__(self) -> None:
        self.admitted: list[tuple[Author, str, str]] = []

    async def admit(self, member: Author, name: str, role: str, invite: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.admitted.append((member, name, role))

    def welcome(self) -> JoinAnswer:
        return JoinAnswer(bytes(32), KEYS[0], "a cluster")


async def test_an_expired_invite_is_refused_with_the_door_open_and_closed() -> None:
    behind = Cluster()
    door = Door(IDENTITIES[0], [LOOPBACK], behind.admit, behind.welcome, list)
    async with trio.open_nursery() as nursery:
        await nursery.start(door.run)
        token, ends = await door.invite("member", 0.3)
        long, _ = await door.invite("member", 60.0)
        with trio.fail_after(WAIT_S):
            while time.time() <= ends:
                await trio.sleep(0.01)  # poll: the invite's own end
        with pytest.raises(Problem) as raised:
            await join(stranger(), token, "late")
        assert raised.value.code == "invite_expired"
        assert behind.admitted == []
        newcomer = stranger()
        await join(newcomer, long, "in time")
        assert behind.admitted == [(newcomer.author, "in time", "member")]
        # Now nobody listens any more, and the token itself still says why.
        with pytest.raises(Problem) as raised:
            await join(stranger(), token, "later still")
        assert raised.value.code == "invite_expired"
        nursery.cancel_scope.cancel()


async def test_the_device_that_used_an_invite_may_ask_again_and_no_other_one() -> None:
    behind = Cluster()
    door = Door(IDENTITIES[0], [LOOPBACK], behind.admit, behind.welcome, list)
    async with trio.open_nursery() as nursery:
        await nursery.start(door.run)
        token, _ = await door.invite("member")
        newcomer = stranger()
        # Had the first answer been lost on its way, the invite would be lost with it.
        for _ in range(2):
            await join(newcomer, token, "once")
        with pytest.raises(Problem) as raised:
            await join(stranger(), token, "another")
        assert raised.value.code == "invite_used"
        assert behind.admitted == [(newcomer.author, "once", "member")]
        nursery.cancel_scope.cancel()


async def test_the_door_is_open_only_while_an_invite_is(autojump_clock: object) -> None:
    behind = Cluster()
    door = Door(IDENTITIES[0], [LOOPBACK], behind.admit, behind.welcome, list)
    async with trio.open_nursery() as nursery:
        await nursery.start(door.run)
        for _ in range(3):
            await door.invite("member")
            token, _ = await door.invite("member")
            (address,) = decode_token(token).addresses
            await trio.sleep(599)
            assert is_listening(address)
            await trio.sleep(2)
            assert not is_listening(address)
        nursery.cancel_scope.cancel()


def is_listening(address: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(address.split("/")[4]))) == 0


# Strangers at the main listener.


async def test_a_stranger_reaches_no_handler_and_a_members_key_does(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    view = await desk.client.cluster()
    key = author_of(desk.peer)
    assert key is not None
    addresses = view.devices[0].addresses
    member = stranger()
    await join(member, (await desk.client.invite()).token, "member")
    for identity, welcome in ((stranger(), False), (member, True)):
        recorder = Recorder(members=[key])
        async with Network(
            seed=identity.seed,
            listen=[LOOPBACK],
            cluster=bytes.fromhex(view.cluster),
            handler=recorder,
        ) as network:
            assert await network.dial(key, addresses, 5.0) is welcome
            if welcome:
                with trio.fail_after(WAIT_S):
                    while not recorder.messages:
                        await trio.sleep(0.01)  # poll: the node greets with its heads
            else:
                with pytest.raises(NetworkError):
                    await network.request(key, b"let me in", 2.0)
                assert not network.send(key, b"let me in")
                network.publish("task", b"let me in")
                assert network.connected() == recorder.connected == recorder.messages == []
    assert "refused from" not in desk.log_end(), "something of a stranger's was read"
    await desk.client.run("tool", tool("echo", value=1)["payload"])


# A device that was something before.


async def test_a_device_that_is_alone_and_idle_joins_in_place(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    lap = LocalNode("lap", cluster.folder, options=cluster.options)
    cluster.nodes.append(lap)
    await lap.start()
    old = await lap.client.cluster()
    view = await lap.client.run("tool", tool("echo", value="before")["payload"])
    assert await lap.stop() == 0
    token = (await desk.client.invite()).token
    await lap.start("--join", token)
    await cluster.settle_down()
    assert lap.peer == old.self, "the device's key is the device"
    assert (await lap.client.cluster()).cluster == (await desk.client.cluster()).cluster
    (kept,) = lap.home.glob("ledger-*.db")
    checked = audit(kept)
    assert checked.ok
    with pytest.raises(Problem) as raised:
        await lap.client.result(view.id, 0)
    assert raised.value.code == "not_found"
    handle = await lap.client.submit("tool", tool("echo", value="after")["payload"])
    await assert_all_agree(cluster, [handle.id])
    # The same command once more, as a service starts it after each boot.
    assert await lap.stop() == 0
    await lap.start("--join", token)
    await cluster.settle_down()
    assert len(list(lap.home.glob("ledger-*.db"))) == 1


async def test_a_device_with_own_work_does_not_join_in_place(cluster: LocalCluster) -> None:
    desk = await cluster.add("desk")
    lap = LocalNode("lap", cluster.folder, options=cluster.options)
    cluster.nodes.append(lap)
    await lap.start()
    handle = await lap.client.submit(
        "tool",
        tool("echo", value="later")["payload"],
        requires={"labels": {"not": "here"}},
        failover="queue",
    )
    await lap.kill()
    said = await refused_start(lap, (await desk.client.invite()).token)
    assert "[has_own_work]" in said
    assert "mend: kowalski tasks" in said
    assert len(await members(desk)) == 1
    assert not list(lap.home.glob("ledger-*.db"))
    # It is as it was, and once its work has ended it may go.
    await lap.start()
    assert (await lap.client.result(handle.id, 0)).state == "waiting"
    await lap.client.cancel(handle.id)
    assert (await lap.client.result(handle.id, WAIT_S)).outcome == "cancelled"
    assert await lap.stop() == 0
    await lap.start("--join", (await desk.client.invite()).token)
    await cluster.settle_down()


async def test_a_member_of_a_bigger_cluster_does_not_join_in_place(cluster: LocalCluster) -> None:
    await cluster.add_all("desk", "lap")
    other = LocalCluster(cluster.folder / "other", options=cluster.options)
    async with other:
        elsewhere = await other.add("elsewhere")
        lap = cluster["lap"]
        assert await lap.stop() == 0
        said = await refused_start(lap, (await elsewhere.client.invite()).token)
        assert "[has_own_work]" in said
        assert "--home" in said
        assert len(await members(elsewhere)) == 1
        await lap.start()
        await cluster.settle_down()


# Roles.


async def test_only_admins_invite_and_an_admins_invite_makes_one(cluster: LocalCluster) -> None:
    await cluster.add("desk")
    lap = await cluster.add("lap")
    mini = await cluster.add("mini", role="admin")
    await cluster.settle_down()
    with pytest.raises(Problem) as raised:
        await lap.client.invite()
    assert (raised.value.code, raised.value.status) == ("not_allowed", 403)
    with pytest.raises(Problem) as raised:
        await mini.client.invite("owner")
    assert raised.value.code == "not_supported"
    await still_lets_in(mini)
    roles = {device.name: device.role for device in (await lap.client.cluster()).devices}
    assert (roles["desk"], roles["lap"], roles["mini"]) == ("admin", "member", "admin")
    await cluster.one_digest()
