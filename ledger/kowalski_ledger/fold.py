"""The fold: how one more event changes the state.

`fold` is total (no event makes it raise) and independent of order: feeds may arrive interleaved in
any way, each in its own order, and equal sets of events give equal states. Three things make it so.
Membership is computed first, and what an author wrote before its admission arrived waits for it. A
task's record only
collects: each slot has one writer (then the first word in that writer's feed counts) or takes the
least of several by (time, hash). And an event that names another one which has not arrived waits in
the task's record.

It reads no clock, no liveness and no order of arrival. What does not count (an unknown kind, a body
that does not decode, a result from a device that the placement does not name) changes nothing but
`findings`.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from kowalski_protocol.codec import decode_body
from kowalski_protocol.events import (
    KINDS,
    MEMBERSHIP_KINDS,
    ROLES,
    CapabilitiesAdvertised,
    ClusterFounded,
    InviteUsed,
    LeaderClaimed,
    MemberAdmitted,
    WeightsChanged,
)
from kowalski_protocol.feeds import Event
from kowalski_protocol.identity import is_weak_key
from kowalski_protocol.ids import HASH_SIZE_BYTES, Author, ClusterId, EventHash

from .membership import Admission, Member
from .state import Advert, Claim, State, WeightsChoice
from .task_fold import TASK_HANDLERS, Handler


def cluster_id(founding_body: bytes) -> ClusterId:
    """The id of the cluster that this `ClusterFounded` body founds."""
    return ClusterId(hashlib.sha256(b"kowalski/cluster/1" + founding_body).digest())


def fold(state: State, event: Event) -> None:
    """Counts one event in. Events of one feed must come in order, each once; repetitions are
    ignored.
    """
    feed = (event.author, event.topic)
    seq = state.folded.get(feed, 0)
    if event.seq <= seq:
        return
    assert event.seq == seq + 1, f"{event!r} after {seq}"
    state.folded[feed] = event.seq
    if event.kind in MEMBERSHIP_KINDS:
        _fold_membership(state, event)
    if event.author in state.members:
        _count(state, event)
    else:
        state.waiting.setdefault(event.author, []).append(event)


def _count(state: State, event: Event) -> None:
    entry = _HANDLERS.get(event.kind)
    if entry is None:
        return
    topic, handler = entry
    if event.topic != topic:
        state.find(event, f"{event.kind} on the wrong topic")
        return
    body = decode_body(event.kind, event.body)
    if body is None:
        state.find(event, f"{event.kind} does not decode")
        return
    state.counted += 1
    handler(state, event, body)


# Membership comes first: its events are read whether or not their author is known yet.


def _fold_membership(state: State, event: Event) -> None:
    body = decode_body(event.kind, event.body)
    if body is None or event.topic != body.topic:
        return
    if isinstance(body, ClusterFounded):
        if (
            event.seq != 1
            or body.founder != event.author
            or cluster_id(event.body) != state.cluster
        ):
            return
        state.name = body.name
        state.founder = Member(event.author, body.device_name, "admin", 0, event.hlc, event.hash)
    else:
        assert isinstance(body, MemberAdmitted)
        if is_weak_key(body.member) or body.role not in ROLES:
            return
        state.admissions[event.hash] = Admission(
            event.author,
            Author(body.member),
            body.device_name,
            body.role,
            event.hlc,
            event.hash,
        )
        admitter = state.members.get(event.author)
        if admitter is None or admitter.role != "admin":
            # It counts if its author is found to be an admin, and then it is looked at.
            return
    for author in state.resolve_members():
        for waiting in state.waiting.pop(author, ()):
            _count(state, waiting)


def _nothing_more(_state: State, _event: Event, _body: Any) -> None:
    """Membership events are counted; what they do was done in `_fold_membership`."""


def _invite_used(state: State, event: Event, body: InviteUsed) -> None:
    if len(body.invite) != HASH_SIZE_BYTES or len(body.member) != HASH_SIZE_BYTES:
        return
    member = Author(body.member)
    state.invites_used[body.invite] = min(member, state.invites_used.get(body.invite, member))


# Capabilities, leadership, weights.


def _capabilities(state: State, event: Event, body: CapabilitiesAdvertised) -> None:
    state.adverts[event.author] = Advert(event.hash, event.hlc, body)
    state.adverts_version += 1


def _leader_claimed(state: State, event: Event, body: LeaderClaimed) -> None:
    # A loop and no recursion: a chain of claims that came backwards may be of any length.
    claims = [(event, body)]
    for event, body in claims:
        if _claim(state, event, body):
            claims += state.claims_waiting.pop(event.hash, ())


def _claim(state: State, event: Event, body: LeaderClaimed) -> bool:
    if body.previous:
        before = state.claims.get(EventHash(body.previous))
        if before is None:
            state.claims_waiting.setdefault(body.previous, []).append((event, body))
            return False
        if body.epoch != before.epoch + 1:
            state.find(event, "a claim whose epoch does not follow the one it names")
            return False
    elif body.epoch != 1:
        state.find(event, "a claim that names no claim before it")
        return False
    state.claim(Claim(event.hash, event.author, body.epoch, event.hlc, event.seq))
    return True


def _weights_changed(state: State, event: Event, body: WeightsChanged) -> None:
    state.weights_choices[(body.kind, event.author)] = WeightsChoice(
        event.author, event.hlc, event.hash, body.weights
    )


_HANDLERS: Final[dict[str, tuple[str, Handler]]] = {
    name: (KINDS[name].topic, handler)
    for name, handler in {
        "ClusterFounded": _nothing_more,
        "MemberAdmitted": _nothing_more,
        "InviteUsed": _invite_used,
        "CapabilitiesAdvertised": _capabilities,
        "LeaderClaimed": _leader_claimed,
        "WeightsChanged": _weights_changed,
        **TASK_HANDLERS,
    }.items()
}

__all__ = ["cluster_id", "fold"]
