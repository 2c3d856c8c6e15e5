"""libp2p's gossipsub, hardened: what it must not do to us when it is called with what a peer sent.

`GuardedPubsub` and `SparingGossipSub` change public methods of libp2p's classes, for these reasons:

- a message that can't be parsed or checked would end all of pubsub (`push_msg`);
- a subscription is a queue of 32 that drops silently (`notify_subscriptions`);
- a stream is read byte by byte, with a window update after each (`stream_handler`);
- each message carries a signed list of addresses, checked anew each time (`write_msg`);
- a stream that broke is left open on the peer's side, where it counts (`write_msg`);
- own messages are checked after they were signed (`publish`);
- two connections of one peer in a row open two streams, and a connection that ends while its
  stream is being opened leaves a dead one that keeps the next from being opened
  (`_handle_new_peer`, the one method here that libp2p doesn't offer for change: there is no other
  way to hear of it);
- where all are connected to all, each message would reach each node n times (`SparingGossipSub`):
  it is passed on only where its author doesn't reach.

Every message is signed, as other gossipsub programs demand by default, though ours don't need it:
what they carry is signed by its author. The id of a message is the hash of its topic and data, so a
restarted node is heard at once; sequence numbers begin at the nanoseconds of now and so don't
repeat, since libp2p takes a repeated one for an attack.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import trio
from libp2p.abc import INetStream
from libp2p.crypto.keys import PrivateKey
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX, signature_validator

from .border import attempt
from .identity import public_key_of
from .interface import NetworkError
from .stream import BufferedStream

RESET_S: Final = 1.0

Counted = Callable[[ID, int, int], None]
"""(peer, sent bytes, received bytes)"""
Reaches = Callable[[ID, ID], bool]
"""(one peer, another) -> whether the first sends its gossip to the second itself, as it says."""


class MessageIds:
    """A message's id: the same for the same content, whoever sends it and however often."""

    def __init__(self) -> None:
        self._last: tuple[rpc_pb2.Message | None, bytes] = (None, b"")

    def __call__(self, message: rpc_pb2.Message) -> bytes:
        if self._last[0] is not message:  # libp2p asks four times in a row
            digest = hashlib.blake2b(digest_size=20)
            digest.update("|".join(message.topicIDs).encode())
            digest.update(b"\0")
            digest.update(message.data)
            self._last = (message, digest.digest())
        return self._last[1]


class GuardedPubsub(Pubsub):
    """libp2p's pubsub, hardened where it is called with what a peer sent."""

    deliver: Callable[[rpc_pb2.Message], None]
    count: Counted
    window_bytes: int
    key: PrivateKey
    opening: dict[ID, trio.Lock]

    async def stream_handler(self, stream: INetStream) -> None:
        if isinstance(stream, BufferedStream):
            await stream.widen(self.window_bytes)
        await super().stream_handler(stream)

    async def _handle_new_peer(self, peer_id: ID) -> None:
        opening = self.opening.setdefault(peer_id, trio.Lock())
        try:
            async with opening:
                await super()._handle_new_peer(peer_id)
        finally:
            if not opening.statistics().tasks_waiting:
                self.opening.pop(peer_id, None)
        self.forget_if_gone(peer_id)

    def forget_if_gone(self, peer: ID) -> None:
        """Lets go of a peer's stream and subscriptions if its connection has ended."""
        stream = self.peers.get(peer)
        if stream is not None and stream.muxed_conn.is_closed:
            self._handle_dead_peer(peer)

    async def publish(self, topic_id: str | list[str], data: bytes) -> None:
        """Signs and sends; libp2p's own way also checks the signature that it has just made."""
        assert isinstance(topic_id, str)
        self.counter += 1
        message = rpc_pb2.Message(
            data=data,
            topicIDs=[topic_id],
            from_id=self.my_id.to_bytes(),
            seqno=self.counter.to_bytes(8, "big"),
        )
        message.signature = self.key.sign(
            PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
        )
        await self.push_msg(self.my_id, message)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        try:
            await attempt("a gossip message", None, self._push, msg_forwarder, msg)
        except NetworkError:
            return

    async def _push(self, forwarder: ID, message: rpc_pb2.Message) -> None:
        if forwarder != self.my_id:
            self.count(forwarder, 0, len(message.data))
            author = ID(message.from_id)
            if len(message.topicIDs) != 1 or public_key_of(author) is None:
                return
            if self.seen_messages.has(self.get_message_id(message)):
                return
            # What comes from its author over Noise needs no second proof of who sent it.
            if author != forwarder and not signature_validator(message):
                return
        await super().push_msg(forwarder, message)

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        self.deliver(publish_message)

    async def write_msg(self, stream: INetStream, rpc_msg: rpc_pb2.RPC) -> bool:
        # A signed list of addresses with every message, of which we announce none.
        rpc_msg.ClearField("senderRecord")
        self.count(stream.muxed_conn.peer_id, sum(len(msg.data) for msg in rpc_msg.publish), 0)
        written = await super().write_msg(stream, rpc_msg)
        if not written:
            # libp2p opens another stream and leaves this one with the peer, where it counts.
            with trio.move_on_after(RESET_S, shield=True):
                await stream.reset()
        return written


class SparingGossipSub(GossipSub):
    """libp2p's router, which does not pass a message on to those whom its author reaches itself."""

    reaches: Reaches

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        assert self.pubsub is not None
        if msg_forwarder != self.pubsub.my_id:
            author = ID(pubsub_msg.from_id)
            id = self.pubsub.get_message_id(pubsub_msg)
            topic = pubsub_msg.topicIDs[0]
            anybody = False
            for peer in self.mesh.get(topic, set()) - {msg_forwarder, author}:
                if self.reaches(author, peer) or self.reaches(msg_forwarder, peer):
                    self.dont_send_message_ids.setdefault(peer, set()).add(id)
                else:
                    anybody = True
            if not anybody:
                return
        await super().publish(msg_forwarder, pubsub_msg)
