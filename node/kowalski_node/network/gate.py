"""Who gets a connection: the membership gate and the choice between two connections to one peer.

py-libp2p has no gating by peer ID, so the gate sits where a peer ID is first known and nothing
else has happened yet: at the end of the Noise handshake, in both directions, before a muxer or a
stream exists. A stranger costs one handshake and reaches no handler.

The same place keeps two nodes at one connection. When both dial at once there are two handshakes,
and later, when one side lost its connection unnoticed, a new one meets an old. Streams of one
peer spread over two connections are trouble in libp2p (its pubsub forgets a peer's subscriptions
when one of them closes), so the gate decides before the second one is used, and both sides decide
alike: of two young connections that were dialled from opposite sides the one dialled by the
smaller public key stays; otherwise the newer one, because a node only dials what it has no
connection to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import Transport

from .identity import public_key_of

SIMULTANEOUS_S: Final = 3.0
"""Two dials of one pair within this time are one event: far longer than a handshake takes."""

Admission = Callable[[bytes, IRawConnection, bool], Awaitable[str | None]]
"""(peer, connection, dialled by us) -> None to admit, or the reason to refuse."""


class GatedNoise(Transport):
    """Noise alone, with an admission check of the authenticated peer in both directions."""

    def __init__(self, identity: KeyPair, admit: Admission) -> None:
        super().__init__(
            libp2p_keypair=identity,
            noise_privkey=create_new_key_pair().private_key,
            early_data=None,
            early_data_handler=None,
            rekey_policy=None,
        )
        self._admit = admit

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return await self._gated(await super().secure_inbound(conn), conn, dialled=False)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return await self._gated(await super().secure_outbound(conn, peer_id), conn, dialled=True)

    async def _gated(
        self, secured: ISecureConn, conn: IRawConnection, *, dialled: bool
    ) -> ISecureConn:
        peer = public_key_of(secured.get_remote_peer())
        reason = "not an Ed25519 peer"
        if peer is not None:
            reason = await self._admit(peer, conn, dialled)
            if reason is None:
                return secured
        await conn.close()
        raise HandshakeFailure(f"refused: {reason}")


class Claim:
    """One connection to one peer, from the end of its handshake until libp2p has let go of it."""

    def __init__(self, raw: IRawConnection, *, dialled: bool) -> None:
        self.raw = raw
        self.dialled = dialled
        self.since_s = trio.current_time()
        self.lost = False
        """The connection has ended; libp2p is still clearing it away."""
        self.replaced = False
        """It was closed in favour of another connection to the same peer."""
        self.decided = trio.Event()
        """It is up, or won't be."""
        self.released = trio.Event()

    def yields_to(self, *, dialled: bool, own_dials_win: bool) -> bool:
        """Whether a second connection to the same peer takes this one's place."""
        young = trio.current_time() - self.since_s < SIMULTANEOUS_S
        if young and dialled != self.dialled and not self.lost:
            return dialled == own_dials_win
        return True
