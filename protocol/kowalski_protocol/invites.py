"""Invites: what the token says and what is spoken at the join door.

A token carries the inviter's public key, where it listens for newcomers, when it ends and a 128-bit
secret. The newcomer reaches the inviter over a connection that proves the inviter's key, shows the
secret, and is told the cluster's id and founder and where members are. Used and expired are judged
by the inviter alone; the ledger keeps the hash of the secret, so that a token works once.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

import msgspec

from .codec import Malformed, decode, encode
from .errors import Problem
from .limits import LIMITS

SECRET_SIZE_BYTES: Final = 16
TOKEN_PREFIX: Final = "kow1."
TOKEN_LENGTH_MAX: Final = 2048


class Invite(msgspec.Struct, frozen=True, array_like=True):
    """The content of a token."""

    inviter: bytes
    secret: bytes
    expires_ms: int
    role: str
    addresses: tuple[str, ...]


class JoinRequest(msgspec.Struct, frozen=True, array_like=True):
    """A newcomer asks to be let in; its key is that of the connection."""

    secret: bytes
    name: str


class JoinAnswer(msgspec.Struct, frozen=True, array_like=True):
    """Let in, or the code and sentence of why not."""

    cluster: bytes = b""
    founder: bytes = b""
    cluster_name: str = ""
    members: tuple[tuple[bytes, tuple[str, ...]], ...] = ()
    """(key, addresses of the main listener)"""
    code: str = ""
    sentence: str = ""


_invite_decoder: Final = msgspec.msgpack.Decoder(Invite)
_request_decoder: Final = msgspec.msgpack.Decoder(JoinRequest)
_answer_decoder: Final = msgspec.msgpack.Decoder(JoinAnswer)


def invite_hash(secret: bytes) -> bytes:
    """What the ledger keeps of a secret."""
    return hashlib.sha256(b"kowalski/invite/1" + secret).digest()


def encode_token(invite: Invite) -> str:
    """The text that a person carries to the new device."""
    body = encode(invite)
    check = hashlib.sha256(body).digest()[:4]
    return TOKEN_PREFIX + base64.urlsafe_b64encode(body + check).rstrip(b"=").decode()


def decode_token(text: str) -> Invite:
    """The invite of a token.

    Raises `Problem` bad_token for anything else, typing errors included.
    """
    text = "".join(text.split())
    problem = Problem(
        "bad_token",
        "This is not a whole Kowalski invite: copy it again, from 'kow1.' to its end.",
        mend="kowalski invite",
    )
    if not text.startswith(TOKEN_PREFIX) or len(text) > TOKEN_LENGTH_MAX:
        raise problem
    body = text[len(TOKEN_PREFIX) :]
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        invite = decode(raw[:-4], _invite_decoder)
    except (binascii.Error, ValueError):
        raise problem from None
    if hashlib.sha256(raw[:-4]).digest()[:4] != raw[-4:]:
        raise problem
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != body:
        # Base64 says some bytes in several ways; a token has one form, so that any change is seen.
        raise problem
    if len(invite.inviter) != 32 or len(invite.secret) != SECRET_SIZE_BYTES:
        raise problem
    return invite


def decode_join_request(data: bytes) -> JoinRequest:
    """What a stranger sent; raises `Malformed`."""
    request = decode(data, _request_decoder)
    if len(request.secret) != SECRET_SIZE_BYTES or len(request.name) > LIMITS.name_length_max:
        raise Malformed("join request")
    return request


def decode_join_answer(data: bytes) -> JoinAnswer:
    """What the inviter answered; raises `Malformed`."""
    return decode(data, _answer_decoder)
