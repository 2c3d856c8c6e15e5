"""Hostile peers of the real network: nothing that one sends ends a node or touches the others."""

from __future__ import annotations

import os
import socket
import struct
import time

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.secio.transport import ID as SECIO_ID
from libp2p.security.secio.transport import Transport as SecioTransport
from libp2p.security.tls.transport import PROTOCOL_ID as TLS_PROTOCOL_ID
from libp2p.security.tls.transport import TLSTransport
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr

from kowalski_node.network import Network, NetworkOptions
from kowalski_node.network.exchange import PULL
from kowalski_node.network.identity import key_pair, libp2p_id
from kowalski_node.network.lanes import LANE
from kowalski_node.network.stream import BufferedStream, framed, open_stream
from tests.live.network_world import CLUSTER, IDENTITIES, KEYS, Recorder, meet, network, until

TASK = f"/kowalski/{CLUSTER.hex()[:16]}/task"
MESHSUB = "/meshsub/1.1.0"


async def still_serves(victim: Network, recorder: Recorder, honest: Network) -> None:
    """The victim hears an honest member on all ways, and quickly."""
    mark = os.urandom(8)
    begun_s = time.monotonic()
    await until(lambda: honest.send(KEYS[0], mark))
    honest.publish("task", mark)
    await until(lambda: (KEYS[1], mark) in recorder.messages)
    await until(lambda: ("task", KEYS[1], mark) in recorder.gossip)
    assert await honest.request(KEYS[0], mark, 5) == b"answer to " + mark
    assert time.monotonic() - begun_s < 2


@pytest.mark.parametrize(
    "sent",
    [
        b"\x05hello",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xff\xff\xff\x7f" + bytes(1000),
        b"\x00" * 1000,
        encode_varint_prefixed(b"\x0a\xff\xff\xff\xff\x0f" + bytes(100)),
        encode_varint_prefixed(rpc_pb2.RPC(senderRecord=b"not an envelope").SerializeToString()),
    ],
)
async def test_no_bytes_on_a_gossip_stream_end_pubsub(sent: bytes) -> None:
    here = Recorder()
    async with network(0, here) as a, network(1, Recorder()) as b, network(2, Recorder()) as bad:
        await meet(b, 0, a)
        await meet(bad, 0, a)
        stream = await open_stream(bad._conn(KEYS[0]), MESHSUB)
        await stream.write(sent)
        await still_serves(a, here, b)


def message(author: ID, data: bytes, **fields: object) -> rpc_pb2.Message:
    return rpc_pb2.Message(
        **{  # type: ignore[arg-type]
            "data": data,
            "topicIDs": [TASK],
            "from_id": author.to_bytes(),
            "seqno": os.urandom(8),
            **fields,
        }
    )


async def test_forged_and_malformed_gossip_is_not_delivered() -> None:
    here = Recorder()
    other, own = libp2p_id(KEYS[3]), libp2p_id(KEYS[2])
    relayed = message(other, b"signed by another key than its author's")
    relayed.signature = key_pair(IDENTITIES[2].seed).private_key.sign(
        PUBSUB_SIGNING_PREFIX.encode() + relayed.SerializeToString()
    )
    bad_messages = [
        message(other, b"another's name, no signature"),
        message(other, b"another's name, a wrong signature", signature=bytes(64)),
        message(other, b"another's name, half a signature", signature=b"short"),
        relayed,
        message(own, b"no author", from_id=b""),
        message(own, b"a malformed author", from_id=b"\x00\x24\x08\x01\x12\x20short"),
        message(own, b"an author with an odd key", from_id=bytes(40), key=b"junk", signature=b"x"),
        message(own, b"no topic", topicIDs=[]),
        message(own, b"two topics", topicIDs=[TASK, TASK]),
        message(own, b"a foreign topic", topicIDs=["/kowalski/other/task"]),
        message(libp2p_id(KEYS[0]), b"the victim's own name"),
    ]
    async with network(0, here) as a, network(1, Recorder()) as b, network(2, Recorder()) as bad:
        await meet(b, 0, a)
        await meet(bad, 0, a)
        stream = await open_stream(bad._conn(KEYS[0]), MESHSUB)
        for bad_message in bad_messages:
            rpc = rpc_pb2.RPC(publish=[bad_message])
            await stream.write(encode_varint_prefixed(rpc.SerializeToString()))
        await still_serves(a, here, b)
        assert {source for _, source, _ in here.gossip} == {KEYS[1]}
        # One of its own is heard, signed or not: it came from its author.
        rpc = rpc_pb2.RPC(publish=[message(own, b"honest for once")])
        await stream.write(encode_varint_prefixed(rpc.SerializeToString()))
        await until(lambda: ("task", KEYS[2], b"honest for once") in here.gossip)


async def test_hundreds_of_silent_streams_of_one_member_hurt_nobody() -> None:
    here = Recorder()
    async with network(0, here) as a, network(1, Recorder()) as b, network(2, Recorder()) as bad:
        await meet(b, 0, a)
        await meet(bad, 0, a)
        conn = bad._conn(KEYS[0])
        silent = [await conn.new_stream() for _ in range(200)]
        assert silent
        await still_serves(a, here, b)
        assert a._host._streams[libp2p_id(KEYS[2])] <= 32


async def test_a_member_that_ignores_flow_control_is_cut() -> None:
    class Busy(Recorder):
        async def answer(self, peer: bytes, request: bytes) -> bytes:
            if peer == KEYS[2]:
                await trio.sleep_forever()
            return await super().answer(peer, request)

    here = Busy()
    options = NetworkOptions(connection_memory_bytes=8 * 1024 * 1024)
    async with (
        network(0, here, options) as a,
        network(1, Recorder()) as b,
        network(2, Recorder()) as bad,
    ):
        await meet(b, 0, a)
        await meet(bad, 0, a)
        stream = await open_stream(bad._conn(KEYS[0]), PULL)
        await stream.write(framed(b"keep me waiting"))
        flood = struct.pack("!BBHII", 0, 0, 0, stream._yamux_stream.stream_id, 65000)
        with trio.fail_after(20):
            while KEYS[2] in a.connected():
                try:
                    await stream._yamux._write_frame(flood + bytes(65000))
                except Exception:  # guard: the cut, in whatever form libp2p gives it
                    await until(lambda: KEYS[2] not in a.connected())
        assert here.disconnected == [KEYS[2]]
        await still_serves(a, here, b)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        bytes(100_000),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\x13/multistream/1.0.0\n" + b"\x07/noise\n" + b"\x00\x20" + bytes(32),
        b"\x13/multistream/1.0.0\n" + b"\x07/noise\n" + b"\xff\xff" + bytes(65535) * 2,
        b"\xff" * 200,
    ],
    ids=["nothing", "http", "zeros", "tls", "a weak key", "large", "a long length"],
)
async def test_no_bytes_from_a_stranger_hurt(sent: bytes) -> None:
    here = Recorder(members=KEYS[:3])
    options = NetworkOptions(handshake_timeout_s=1.0)
    async with network(0, here, options) as a, network(1, Recorder()) as b:
        await meet(b, 0, a)
        port = int(a.addresses[0].split("/")[4])
        strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        try:
            for stranger in strangers:
                stranger.setblocking(False)
                try:
                    stranger.send(sent)
                except OSError:
                    pass
            await still_serves(a, here, b)
        finally:
            for stranger in strangers:
                stranger.close()
        assert here.connected == [KEYS[1]]


@pytest.mark.parametrize("way", ["plaintext", "secio", "tls"])
async def test_a_members_public_key_is_not_enough_over_weaker_security(way: str) -> None:
    here = Recorder()
    own = create_new_key_pair(IDENTITIES[5].seed)
    offers: dict[str, object] = {
        "plaintext": {PLAINTEXT_PROTOCOL_ID: InsecureTransport(own)},
        "secio": {SECIO_ID: SecioTransport(own)},
        "tls": {TLS_PROTOCOL_ID: TLSTransport(own)},
    }
    host = new_host(key_pair=own, sec_opt=offers[way])  # type: ignore[arg-type]
    async with network(0, here) as a, host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        with trio.move_on_after(3):
            try:
                await host.connect(info_from_p2p_addr(Multiaddr(a.addresses[0])))
            except Exception:  # guard: whatever py-libp2p makes of a refusal
                pass
        assert (here.asked, here.connected, a.connected()) == ([], [], [])


async def test_lane_notes_that_lie_or_are_too_long_do_no_harm() -> None:
    here = Recorder()
    async with network(0, here) as a, network(1, Recorder()) as b, network(2, Recorder()) as bad:
        await meet(b, 0, a)
        await meet(bad, 0, a)
        for note in (b"odd", bytes(128 * 32), b"".join(KEYS)):
            stream = await open_stream(bad._conn(KEYS[0]), LANE)
            await stream.write((len(note) | 0x8000_0000).to_bytes(4, "big") + note)
        stream = await open_stream(bad._conn(KEYS[0]), LANE)
        await stream.write(b"\x80\x10\x00\x00")
        with trio.fail_after(5):
            await _ended(stream)
        await still_serves(a, here, b)


async def _ended(stream: BufferedStream) -> None:
    from libp2p.network.stream.exceptions import StreamError

    with pytest.raises(StreamError):
        await stream.read_piece()
