"""Bugs of how nodes hear of each other: frames, pulls, heads, connections, who is alive."""

from __future__ import annotations

from typing import Final

from ..options import Options
from .planting import Bug, Change

_NEWCOMERS: Final = Options(
    seed=0,
    nodes=5,
    faults=(
        "newcomer_in_partition",
        "newcomer",
        "partition",
        "crash",
        "one_way_partition",
        "power_cut",
        "jitter",
        "delay",
    ),
)
"""Members are heard of by some who do not know yet that they were let in."""

SYNCING: Final = (
    Bug(
        "range_off_by_one",
        "A range of a feed is served from one event too far on.",
        Change(
            "simulations.disk:MemoryStore.read_range",
            "after_seq : after_seq",
            "after_seq + 1 : after_seq",
        ),
    ),
    Bug(
        "held_frame_forgotten",
        "A frame that waited for a gap is dropped when the gap is filled.",
        Change(
            "core.sync:Sync._try_held",
            "if frame.header.first_seq + frame.header.count - 1 > end.seq:",
            "if False:",
        ),
        where=_NEWCOMERS,
    ),
    Bug(
        "unknown_author_charged",
        "A frame of a member whose admission has not arrived yet is refused.",
        Change(
            "core.sync:Sync._place",
            "if author == self._book.author and header.topic in self._book.written:",
            "if end is None:\n"
            '    raise Malformed("author")\n'
            "if author == self._book.author and header.topic in self._book.written:",
        ),
        where=_NEWCOMERS,
    ),
    Bug(
        "body_refuses_frame",
        "A frame is refused because the body of one of its events does not decode.",
        Change(
            "core.sync:Sync._accept",
            "for event in events:",
            "from kowalski_protocol.codec import decode_body\n"
            "if any(decode_body(event.kind, event.body) is None for event in events):\n"
            '    raise Malformed("body")\n'
            "for event in events:",
        ),
        where=Options(seed=0, nodes=3, minutes=5.0, faults=("newer_release",)),
    ),
    Bug(
        "result_before_task_refused",
        "A frame is refused because a body names a task that has not arrived yet.",
        Change(
            "core.sync:Sync._accept",
            "for event in events:",
            "from kowalski_protocol.codec import decode_body\n"
            "for event in events:\n"
            '    task = getattr(decode_body(event.kind, event.body), "task", None)\n'
            "    if task is not None and task not in self._book.state.tasks:\n"
            '        raise Malformed("a task that does not exist")\n'
            "for event in events:",
        ),
    ),
    Bug(
        "fork_unnoticed",
        "Two events of one author and place are not noticed.",
        Change(
            "core.sync:Sync._place",
            "if known not in (None, header.last_hash) and",
            "if False and",
        ),
        Change("core.sync:Sync._accept", "if events[overlap].hash != end.hash:", "if False:"),
        where=Options(seed=0, nodes=3, minutes=5.0, faults=("attack_fork",)),
    ),
    Bug(
        "pull_never_retried",
        "A feed that was asked for and did not come is not asked for again.",
        Change("core.sync:Sync.pull_ended", "lag.pull_from = None", "pass"),
        Change("core.sync:Sync._pull_what_lags", "if now.mono_s < lag.pull_until_s:", "if True:"),
    ),
    Bug(
        "heads_never_compared",
        "Members tell their heads when they connect, and never again.",
        Change("core.sync:Sync.tick", "if differing:", "if False:"),
    ),
    Bug(
        "own_head_not_awaited",
        "A node that starts writes before it has asked how far its own feeds reach elsewhere.",
        Change(
            "core.node:Node._try_open",
            "if self.disk_full or (not told and waited_s < OWN_HEAD_WAIT_S):",
            "if self.disk_full:",
        ),
        Change(
            "core.node:Node._try_open",
            "if more_may_come and waited_s < OWN_HEAD_WAIT_MAX_S:",
            "if False:",
        ),
        where=Options(seed=0, faults=("restored_backup", "connection_reset")),
    ),
    Bug(
        "never_dialled_again",
        "After a dial that failed no other is made.",
        Change(
            "core.dialling:Dialling.ended",
            "peer.dialling = False",
            "peer.dialling = not ended.connected",
        ),
    ),
    Bug(
        "restart_not_heard",
        "The datagrams of a member that was restarted are taken for old ones.",
        Change(
            "core.peers:Peers.heard",
            "if boot < peer.boot or (boot == peer.boot and counter <= peer.counter):",
            "if counter <= peer.counter:",
        ),
        where=Options(seed=0, faults=("crash", "power_cut")),
    ),
    Bug(
        "one_sided_aliveness",
        "A member is alive when it is heard, whether or not it hears.",
        Change("core.peers:Peers._present_until_s", "if peer.echoed_at_s is None:", "if False:"),
        Change(
            "core.peers:Peers._present_until_s",
            "min(peer.heard_at_s + window_s, peer.echoed_at_s + 2.0 * window_s)",
            "peer.heard_at_s + window_s",
        ),
        where=Options(seed=0, preset="local", faults=("one_way_partition",)),
    ),
    Bug(
        "silent_member_present",
        "A member whose connection stands is present, however long it has been silent.",
        Change(
            "core.peers:Peers._present_until_s",
            "window_s = self._timers.suspect_s * self.scale",
            "window_s = math.inf if peer.connected else self._timers.suspect_s * self.scale",
        ),
    ),
)
