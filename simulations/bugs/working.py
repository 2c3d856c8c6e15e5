"""Bugs of devices and owners: what is started, told, settled, cancelled and handed over."""

from __future__ import annotations

from typing import Final

from ..options import Options
from .planting import Bug, Change

WORKING: Final = (
    Bug(
        "no_fence",
        "A device starts what an outbid leader placed.",
        Change(
            "core.device:Device._accept",
            "elif state.leader is not None and state.leader.hash != attempt.claim:",
            "elif False:",
        ),
    ),
    Bug(
        "started_again_after_restart",
        "A node that was restarted starts anew what it had accepted before.",
        Change(
            "core.device:Device.decline_stale", "for task, hash in stale:", "for task, hash in ():"
        ),
    ),
    Bug(
        "one_run_too_many",
        "A device runs one task more than it has slots.",
        Change(
            "core.device:Device.start",
            "self.slots_taken < self.slots",
            "self.slots_taken <= self.slots",
        ),
    ),
    Bug(
        "started_twice",
        "A run that goes on is accepted again when its task's record changes.",
        Change(
            "core.device:Device._knows",
            "return hash in self.running or hash in self._accepted",
            "return hash in self._accepted",
        ),
    ),
    Bug(
        "result_lost_on_full_disk",
        "What a run brings while the disk is full is forgotten.",
        Change(
            "core.device:Device.ended",
            "self._unwritten.append(ended)",
            "self.running.pop(ended.attempt, None)",
        ),
    ),
    Bug(
        "cancel_ignored",
        "An owner does not settle what was cancelled.",
        Change("core.attempts:verdict", "if task.cancel is not None:", "if False:"),
    ),
    Bug(
        "blob_not_fetched_again",
        "A result that could not be fetched at the first attempt is never asked for again.",
        Change(
            "core.owner:Owner.blob_arrived",
            "self._again_at_s[task_id] = now.mono_s + FETCH_AGAIN_S",
            "pass",
        ),
        where=Options(
            seed=0, nodes=3, faults=("partition", "one_way_partition", "connection_reset")
        ),
    ),
    Bug(
        "handed_over_to_itself",
        "A node that stops hands its tasks to whoever is most senior, itself included.",
        Change("core.owner:Owner.hand_over", "alive - {self._book.author}", "alive"),
        where=Options(seed=0, faults=("graceful_stop",)),
    ),
    Bug(
        "open_tasks_forgotten_by_restart",
        "An owner that was restarted looks only at tasks whose record changes from then on.",
        Change(
            "core.node:Node._open", "for task in list(self.state.open.values()):", "for task in ():"
        ),
    ),
    Bug(
        "full_disk_for_ever",
        "A node whose disk has room again does not write again.",
        Change("core.node:Node._committed", "self.book.may_write = self.open", "pass"),
    ),
    Bug(
        "written_on_full_disk",
        "A node goes on writing while its disk is full.",
        Change("core.node:Node._commit_failed", "self.book.may_write = False", "pass"),
        where=Options(seed=0, faults=("full_disk",)),
    ),
    Bug(
        "opening_requests_dropped",
        "What was asked of a node while it started is neither done nor refused.",
        Change(
            "core.requests:Requests.open",
            "for request in waiting:",
            "for request in ():",
        ),
        where=Options(seed=0, faults=("crash", "power_cut")),
    ),
    Bug(
        "failover_fail_ignored",
        "A task that must not be tried again after its device was lost is not ended by its owner.",
        Change("core.attempts:verdict", 'if lost and spec.failover == "fail":', "if False:"),
        where=Options(seed=0, faults=("crash", "pause")),
    ),
    Bug(
        "completed_step_runs_again",
        "An attempt that was placed anew has each of its steps run again.",
        Change("core.children:Children._known", "known = state.memos.get(memo, {})", "known = {}"),
        where=Options(seed=0, faults=("crash", "pause", "graceful_stop")),
    ),
)
