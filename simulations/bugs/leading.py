"""Bugs of the leader: elections, what it takes for lost, its queue and its placements."""

from __future__ import annotations

from typing import Final

from ..options import Options
from .planting import Bug, Change

LEADING: Final = (
    Bug(
        "leader_alive_ignored",
        "The most senior member claims although the leader is there.",
        Change(
            "core.election:should_claim",
            "if leader is not None and leader.author in alive and may_lead(state, leader.author):",
            "if leader is not None and leader.author == self_:",
        ),
        Change("core.leader:Leader.is_settled", "leader is not None\n", "False\n"),
        where=Options(seed=0, faults=("crash", "graceful_stop")),
    ),
    Bug(
        "all_claim",
        "Everybody claims when the leader is gone, and not the most senior who is there.",
        Change(
            "core.election:should_claim", "return next_leader(state, alive) == self_", "return True"
        ),
        where=Options(seed=0, faults=("crash", "graceful_stop")),
    ),
    Bug(
        "no_patience",
        "A node that has just started, or just met, claims without giving others time to be heard.",
        Change(
            "core.leader:Leader.patience_until",
            "self._patience_until_s = max(self._patience_until_s, until_s)",
            "return",
        ),
        where=Options(seed=0, faults=("crash", "graceful_stop")),
    ),
    Bug(
        "losses_ignored",
        "The leader never gives up what runs on a device that is gone.",
        Change(
            "core.leader:Leader._wants_place",
            "elif attempt.device in self._peers.present:",
            "elif True:",
        ),
        where=Options(seed=0, faults=("lost_disk", "crash")),
    ),
    Bug(
        "losses_at_tick_only_by_leader_change",
        "The leader looks for lost devices when it begins to lead, and never again.",
        Change(
            "core.leader:Leader.give_up_lost",
            "if not self.is_ready or not self._book.may_write:",
            "if True:",
        ),
        where=Options(seed=0, faults=("lost_disk",)),
    ),
    Bug(
        "running_work_not_adopted",
        "A new leader gives up what its predecessors placed, and places it again at once.",
        Change(
            "core.leader:Leader._wants_place",
            "elif attempt.device in self._peers.present:",
            "elif attempt.device in self._peers.present and (\n"
            "    self._book.state.leader and attempt.claim == self._book.state.leader.hash\n"
            "):",
        ),
        where=Options(seed=0, faults=("crash", "graceful_stop")),
    ),
    Bug(
        "host_killer_unbounded",
        "A task that ends its hosts is placed again however many it has taken.",
        Change(
            "core.attempts:takes_devices",
            "return len(set(lost)) >= limits.device_losses_max or len(lost) >= limits.losses_max",
            "return False",
        ),
    ),
    Bug(
        "restarts_not_counted",
        "A device that was back before it was missed does not count as lost with its attempt.",
        Change(
            "core.attempts:lost_with",
            'end.code == "restarted" and attempt.started_hash is not None',
            "False",
        ),
        where=Options(seed=0, nodes=2, faults=()),
    ),
    Bug(
        "backoff_loses_task",
        "Of the tasks that wait before their next attempt, only the first is woken.",
        Change(
            "core.queue:Queue.delay",
            "heapq.heappush(self._delayed, (until_s, self._order, task))",
            "if not self._delayed:\n"
            "    heapq.heappush(self._delayed, (until_s, self._order, task))",
        ),
    ),
    Bug(
        "due_task_dropped",
        "A task whose wait is over leaves the queue and is not put in its bucket.",
        Change(
            "core.leader:Leader.place",
            "self._enqueue(state.tasks[task_id], now)",
            "pass",
        ),
    ),
    Bug(
        "delay_outlives_removal",
        "A task that is queued again keeps the entry of its earlier wait.",
        Change("core.queue:Queue.remove", "self._delays.pop(task, None)", "pass"),
    ),
    Bug(
        "one_blocks_all",
        "A task that waits for a certain device holds up all others.",
        Change(
            "core.leader:Leader.place",
            "if isinstance(live, Waiting):\n    blocked.add(key)\n    continue",
            "if isinstance(live, Waiting):\n    break",
        ),
    ),
    Bug(
        "attempts_off_by_one",
        "The leader and the owner differ by one in how many failures a task may have.",
        Change(
            "core.attempts:verdict",
            "if failures >= spec.max_attempts and",
            "if failures > spec.max_attempts and",
        ),
    ),
)
