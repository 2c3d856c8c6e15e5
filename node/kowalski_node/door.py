"""The join door: invites that this node made, and the small listener that redeems them.

The listener exists only while an invite is open. An invite is in memory alone: it is good for ten
minutes, once, at the node that made it, and a restart of that node ends it. What the ledger keeps
is that it was used.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence

import trio

from kowalski_protocol.codec import Malformed, encode
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import ROLES
from kowalski_protocol.identity import Identity, is_weak_key
from kowalski_protocol.ids import Author
from kowalski_protocol.invites import (
    SECRET_SIZE_BYTES,
    Invite,
    JoinAnswer,
    JoinRequest,
    decode_join_answer,
    decode_join_request,
    decode_token,
    encode_token,
    invite_hash,
)

from .network import JoinListener, NetworkError, ask_to_join

_log = logging.getLogger("kowalski.door")

INVITE_S = 600.0
INVITES_OPEN_MAX = 64
JOIN_TIMEOUT_S = 15.0
REPEATS_S = 30.0
"""How long an invite that was used answers the one device that used it: an answer may be lost on
its way, and the invite must not be lost with it."""

Admitter = Callable[[Author, str, str, bytes], Awaitable[None]]
"""(member, name, role, invite hash): writes the admission durably, or raises `Problem`."""


class _Open:
    __slots__ = ("expires_s", "role", "used_by")

    def __init__(self, expires_s: float, role: str) -> None:
        self.expires_s = expires_s
        self.role = role
        self.used_by: Author | None = None


class Door:
    """The open invites of this node."""

    def __init__(
        self,
        identity: Identity,
        listen: Sequence[str],
        admit: Admitter,
        welcome: Callable[[], JoinAnswer],
        reachable: Callable[[Sequence[str]], Sequence[str]],
    ) -> None:
        self._identity = identity
        self._listen = listen
        self._admit = admit
        self._welcome = welcome
        self._reachable = reachable
        self._open: dict[bytes, _Open] = {}
        self._gone: dict[bytes, str] = {}
        """Why an invite of this run is no longer open: used or expired."""
        self._wanted = trio.Event()
        self._changed = trio.Event()
        self._addresses: list[str] | None = None
        self._listening = trio.Event()
        self._redeeming = trio.Lock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the listener while an invite is open; until cancelled."""
        task_status.started()
        while True:
            await self._wanted.wait()
            async with JoinListener(
                seed=self._identity.seed, listen=self._listen, answer=self._answer
            ) as listener:
                self._addresses = list(listener.addresses)
                self._listening.set()
                while self._open:
                    with trio.move_on_at(self._next_end_s()):
                        await self._changed.wait()
                    self._changed = trio.Event()
                    self._expire()
                # Before the listener closes, which takes a moment: an invite made meanwhile must
                # wait for the next one.
                self._wanted = trio.Event()
                self._listening = trio.Event()
                self._addresses = None

    def _next_end_s(self) -> float:
        return min((invite.expires_s for invite in self._open.values()), default=0.0)

    def _expire(self) -> None:
        for hash, invite in list(self._open.items()):
            if trio.current_time() >= invite.expires_s:
                del self._open[hash]
                self._note_gone(hash, "invite_used" if invite.used_by else "invite_expired")

    def _note_gone(self, hash: bytes, code: str) -> None:
        self._gone[hash] = code
        while len(self._gone) > 1000:
            del self._gone[next(iter(self._gone))]

    async def invite(self, role: str, seconds: float = INVITE_S) -> tuple[str, float]:
        """A new token and its end in Unix seconds."""
        if role not in ROLES:
            raise Problem(
                "not_supported", f"There is no role '{role}' in this release: {', '.join(ROLES)}."
            )
        self._expire()
        if len(self._open) >= INVITES_OPEN_MAX:
            raise Problem("too_many_tasks", f"{INVITES_OPEN_MAX} invites are open already.")
        secret = secrets.token_bytes(SECRET_SIZE_BYTES)
        self._open[invite_hash(secret)] = _Open(trio.current_time() + seconds, role)
        self._wanted.set()
        self._changed.set()
        with trio.fail_after(10.0):
            await self._listening.wait()
        expires = time.time() + seconds
        invite = Invite(
            self._identity.author,
            secret,
            int(expires * 1000),
            role,
            tuple(self._reachable(self._addresses or [])),
        )
        return encode_token(invite), expires

    async def _answer(self, peer: bytes, data: bytes) -> bytes:
        try:
            request = decode_join_request(data)
            return encode(await self._redeem(Author(peer), request))
        except Malformed:
            return encode(JoinAnswer(code="bad_request", sentence="That is no join request."))
        except Problem as problem:
            _log.info("a join was refused: %s", problem.code)
            return encode(JoinAnswer(code=problem.code, sentence=problem.sentence))

    async def _redeem(self, peer: Author, request: JoinRequest) -> JoinAnswer:
        if is_weak_key(peer):
            raise Problem("invite_refused", "That key can't be a member's.")
        hash = invite_hash(request.secret)
        async with self._redeeming:
            self._expire()
            invite = self._open.get(hash)
            if invite is not None and invite.used_by == peer:
                return self._welcome()
            if invite is None or invite.used_by is not None:
                code = self._gone.get(hash, "invite_used" if invite else "invite_refused")
                sentence = {
                    "invite_used": "This invite was used before; each lets one device in.",
                    "invite_expired": "This invite is past its ten minutes.",
                }.get(
                    code, "The inviter does not know this invite; it ends when its maker restarts."
                )
                raise Problem(code, sentence, mend="kowalski invite")
            await self._admit(peer, request.name, invite.role, hash)
            invite.used_by = peer
            invite.expires_s = min(invite.expires_s, trio.current_time() + REPEATS_S)
            self._changed.set()
        return self._welcome()


async def join(identity: Identity, token: str, name: str) -> tuple[Invite, JoinAnswer]:
    """Redeems a token at its inviter; raises `Problem` with the inviter's reason."""
    invite = decode_token(token)
    if invite.inviter == identity.author:
        raise Problem("bad_token", "This invite was made on this very device.")
    request = encode(JoinRequest(invite.secret, name))
    try:
        data = await ask_to_join(
            identity.seed, invite.inviter, invite.addresses, request, JOIN_TIMEOUT_S
        )
        answer = decode_join_answer(data)
    except (NetworkError, Malformed):
        late = time.time() * 1000 > invite.expires_ms
        raise Problem(
            "invite_expired" if late else "no_inviter",
            "The invite has expired: its door is closed."
            if late
            else "The device that made the invite can't be reached at any of its addresses.",
            mend="kowalski invite",
        ) from None
    if answer.code:
        raise Problem(answer.code, answer.sentence, mend="kowalski invite")
    return invite, answer
