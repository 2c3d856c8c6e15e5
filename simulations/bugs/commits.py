"""Bugs of what is durable when: the disk, the order of a commit, and what is said before it."""

from __future__ import annotations

from typing import Final

from ..options import Options
from .planting import Bug, Change

COMMITS: Final = (
    Bug(
        "fsync_dropped",
        "A commit returns before it is on the disk, which is synced once in a while.",
        Change(
            "simulations.disk:MemoryDisk.__init__",
            "self.is_synchronous = True",
            "self.is_synchronous = False",
        ),
        Change(
            "simulations.disk:MemoryStore._write",
            "if self.disk.is_synchronous:",
            "if self.disk.is_synchronous or len(self.disk.commits) % 100 == 1:",
        ),
    ),
    Bug(
        "effects_before_commit",
        "All effects of a step are carried out at once, also those that follow from a commit.",
        Change(
            "core.commits:Commits.at_once",
            "effects, self.gathered.at_once = self.gathered.at_once, []",
            "effects = self.gathered.at_once + self.gathered.then\n"
            "self.gathered.at_once, self.gathered.then = [], []",
        ),
    ),
    Bug(
        "acknowledged_before_commit",
        "A frame is acknowledged to its author when it is read, and not when it is durable.",
        Change(
            "core.sync:Sync._accept",
            "out.then.append(Acknowledge(",
            "out.at_once.append(Acknowledge(",
        ),
    ),
    Bug(
        "heartbeat_before_commit",
        "A heartbeat tells how far the own feeds are chained, and not how far they are durable.",
        Change(
            "core.heartbeats:Heartbeats.send",
            "self._book.own_committed(TASK)",
            "self._book.end(self._book.own_feed(TASK)).seq",
        ),
    ),
    Bug(
        "heads_before_commit",
        "A member that connects is told of heads that are not durable yet.",
        Change(
            "core.node:Node._connected",
            "dict(self.book.committed)",
            "{f: type(h)(self.book.ends[f].seq, self.book.ends[f].hash)"
            " for f, h in self.book.committed.items()}",
        ),
    ),
    Bug(
        "claim_told_before_commit",
        "A heartbeat names the claim that its sender follows before that one is on its disk.",
        Change(
            "core.heartbeats:Heartbeats._leader",
            "if claim is not None and known else",
            "if claim is not None else",
        ),
    ),
    Bug(
        "settled_before_commit",
        "Those who wait for a task are woken before its end is durable.",
        Change(
            "core.node:Node._settle_down", "out.then.append(Settled(", "out.at_once.append(Settled("
        ),
    ),
    Bug(
        "end_without_its_result",
        "Who waits for a task is woken by its owner's word, whether its result is there or not.",
        Change(
            "core.attempts:has_end",
            "return attempt is not None and attempt.end is not None",
            "return True",
        ),
    ),
    Bug(
        "started_before_commit",
        "A run starts before its placement is durable on its device.",
        Change(
            "core.device:Device._begin",
            "out.at_once if durable and not run.announced else out.then",
            "out.at_once",
        ),
    ),
    Bug(
        "answered_before_commit",
        "A submission is answered although its tasks are not durable yet.",
        Change(
            "core.submissions:Submissions.answer_held", "if committed < accepted.seq:", "if False:"
        ),
    ),
    Bug(
        "full_disk_answered_as_success",
        "What could not be written because the disk was full is answered as accepted.",
        Change(
            "core.submissions:Submissions.fail",
            "out.at_once.append(Answer(accepted.ticket, problem=problem))",
            "out.at_once.append(Answer(accepted.ticket, [(id, 1) for id in accepted.ids]))",
        ),
        where=Options(seed=0, faults=("full_disk", "slow_disk")),
    ),
    Bug(
        "replicas_miscounted",
        "Whoever has acknowledged anything at all counts as a holder of every task.",
        Change(
            "core.submissions:Submissions.replicas",
            "peer.acked.get(TASK, 0) >= seq",
            "peer.acked.get(TASK, 0) > 0",
        ),
    ),
    Bug(
        "frames_cut_anew",
        "Own events that came back from others after a crash are cut into frames anew.",
        Change("core.commits:cut_frames", "by_topic.pop(event.topic, None)", "pass"),
        # They must come back in the very commit in which the device begins to write.
        where=Options(seed=0, nodes=2, faults=("restored_backup", "slow_disk", "full_disk")),
    ),
    Bug(
        "clock_forgotten_by_restart",
        "A node that starts does not take its clock from its newest own event.",
        Change("core.book:Book.load", "if event.author == self.author:", "if False:"),
        where=Options(seed=0, faults=("crash", "power_cut", "clock_step_back")),
    ),
)
