"""Bugs of the fold, the digest and the clock: what all nodes must make of the same events."""

from __future__ import annotations

from typing import Final

from ..options import Options
from .planting import Bug, Change

_SPLIT: Final = ("partition", "one_way_partition", "swizzle_clog")
_HANDED_OVER: Final = Options(
    seed=0, nodes=4, minutes=5.0, faults=("graceful_stop", "straggler", *_SPLIT)
)
"""Owners stop and hand their tasks over while not everybody hears of it."""
_FOREIGN_WORDS: Final = Options(seed=0, nodes=3, minutes=5.0, faults=("attack_foreign_words",))
"""A member speaks of tasks that are not its own, and twice of its own."""

LEDGER: Final = (
    Bug(
        "far_future_merged",
        "The clock follows whatever time it hears, however far ahead that is.",
        Change(
            "protocol.clock:HybridClock.observe",
            "if wall_ms(hlc) > now_ms + self.max_ahead_ms:",
            "if False:",
        ),
    ),
    Bug(
        "clock_falls",
        "The own readings fall when the wall clock is set back.",
        Change(
            "protocol.clock:HybridClock.tick",
            "self.last = wall if wall > self.last else self.last + 1",
            "self.last = wall if wall != self.last else self.last + 1",
        ),
    ),
    Bug(
        "greatest_epoch_seen",
        "The fold drops a placement whose claim is below the greatest that it has seen so far.",
        Change(
            "ledger.task_fold:_placed",
            "task = _record(state, body.task)",
            "claim = state.claims.get(EventHash(body.claim))\n"
            "if claim is not None and state.leader is not None:\n"
            "    if claim.epoch < state.leader.epoch:\n"
            "        return\n"
            "task = _record(state, body.task)",
        ),
    ),
    Bug(
        "waiting_event_forgotten",
        "An event that came before the placement it names is not counted once that one comes.",
        Change(
            "ledger.task_fold:_release",
            "TASK_HANDLERS[event.kind](state, event, body)",
            "pass",
        ),
    ),
    Bug(
        "early_claim_dropped",
        "A claim that comes before the one it names is dropped.",
        Change(
            "ledger.fold:_claim",
            "state.claims_waiting.setdefault(body.previous, []).append((event, body))",
            "pass",
        ),
    ),
    Bug(
        "first_claim_seen_leads",
        "Of two claims of one epoch a node follows the one that it saw first.",
        Change(
            "ledger.state:State.claim",
            "self._rank(claim) < self._rank(self.leader)",
            "claim.epoch > self.leader.epoch",
        ),
        where=Options(seed=0, nodes=5, minutes=5.0, faults=("crash", *_SPLIT)),
    ),
    Bug(
        "last_loss_wins",
        "Of two leaders that gave an attempt up, the one heard last counts.",
        Change(
            "ledger.task_fold:_attempt_lost",
            "if attempt.lost is None or event.hash < attempt.lost.hash:",
            "if True:",
        ),
    ),
    Bug(
        "first_cancel_seen_wins",
        "Of two requests to cancel a task, the one heard first counts.",
        Change(
            "ledger.task_fold:_cancel_requested",
            "if task.cancel is None"
            " or (event.hlc, event.hash) < (task.cancel.hlc, task.cancel.hash):",
            "if task.cancel is None:",
        ),
    ),
    Bug(
        "tenure_ignored",
        "Who owns a task is judged when its end arrives, whatever tenure that names.",
        Change(
            "ledger.task_fold:_has_word",
            "if task.submitted_hash is None"
            " or (tenure != task.tenure and tenure not in task.tenures_past):",
            "if task.submitted_hash is None:",
        ),
        Change(
            "ledger.task_fold:_has_word",
            "if tenure != task.tenure or event.author",
            "if event.author",
        ),
        where=_HANDED_OVER,
    ),
    Bug(
        "settled_by_non_owner",
        "Any member's word that a task has ended counts.",
        Change("ledger.task_fold:_has_word", "or event.author != task.owner or", "or"),
        where=_FOREIGN_WORDS,
    ),
    Bug(
        "settled_by_leader",
        "The leader settles tasks as their owner does, and its word counts.",
        Change("ledger.task_fold:_has_word", "or event.author != task.owner or", "or"),
        Change(
            "core.owner:Owner.consider",
            "task.owner != self._book.author\n",
            "(self._book.state.leader is None\n"
            "or self._book.state.leader.author != self._book.author)\n",
        ),
    ),
    Bug(
        "digest_in_order",
        "The digest of all tasks is a running hash, in the order in which they changed.",
        Change(
            "ledger.digest:SetDigest.add",
            "self._sum = (self._sum + _stretch(part)) & _MASK",
            "self._sum = _stretch(self._sum.to_bytes(_SIZE_BYTES, 'big') + part)",
        ),
        Change(
            "ledger.digest:SetDigest.remove",
            "self._sum = (self._sum - _stretch(part)) & _MASK",
            "self._sum = _stretch(self._sum.to_bytes(_SIZE_BYTES, 'big') + part)",
        ),
    ),
    Bug(
        "attempts_in_order",
        "The digest of a task depends on the order in which its placements arrived.",
        Change(
            "ledger.state:Task.digest_part",
            "attempts = sorted(attempts, key=_by_hash)",
            "attempts = list(attempts)",
        ),
    ),
    Bug(
        "membership_not_first",
        "An author is a member before its admission arrives, and what it wrote until then is lost.",
        Change(
            "core.sync:Sync._is_known", "if feed.author in self._book.state.members:", "if True:"
        ),
        Change(
            "ledger.fold:fold",
            "state.waiting.setdefault(event.author, []).append(event)",
            "pass",
        ),
        where=Options(seed=0, nodes=3, faults=("attack_admissions",)),
    ),
    Bug(
        "result_of_another_device",
        "A result counts although its author is not the device of the attempt.",
        Change("ledger.task_fold:_attempt_of", "if attempt.device != event.author:", "if False:"),
        where=_FOREIGN_WORDS,
    ),
    Bug(
        "last_settlement_wins",
        "A second word of its owner about a task's end takes the place of the first.",
        Change("ledger.task_fold:_has_word", "or task.settled is not None:", "or False:"),
        Change(
            "ledger.task_fold:_settled", "del state.open[task.id]", "state.open.pop(task.id, None)"
        ),
        where=_FOREIGN_WORDS,
    ),
    Bug(
        "move_releases_nothing",
        "The end of a task that came before the move that made its author the owner is forgotten.",
        Change(
            "ledger.task_fold:_ownership_moved",
            "_release(state, task, event.hash)",
            "pass",
        ),
        where=_HANDED_OVER,
    ),
)
