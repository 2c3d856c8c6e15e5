"""What counts of a task and what does not: the rules of the fold, one by one.

Device `a` founded the cluster, admitted the others and, unless said otherwise, submits and owns.
Each rule is shown with the events in the order in which they were written; that no order matters is
shown in test_fold_order.py.
"""

from __future__ import annotations

import pytest

from kowalski_ledger.fold import fold
from kowalski_ledger.state import FINDINGS_MAX, State, Task
from kowalski_protocol import events as e
from kowalski_protocol.codec import encode
from kowalski_protocol.ids import EventHash, TaskId
from kowalski_protocol.tasks import KEY_SIZE_BYTES_MAX, TaskSpec, task_id
from kowalski_protocol.topics import RESULT, TASK
from tests.units.histories import SPECS, History, Writer, folded


class Cluster(History):
    """Three members and an observer of the outcome."""

    def __init__(self) -> None:
        super().__init__(3)
        self.admit_all()
        self.a, self.b, self.c = self.devices

    def state(self) -> State:
        return folded(self, self.written)

    def task(self, id: TaskId) -> Task:
        return self.state().tasks[id]

    def findings(self) -> list[str]:
        return [finding.what for finding in self.state().findings]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


# Submissions.


def test_a_submission_opens_a_task_of_its_owner(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a, owner=cluster.b)
    state = cluster.state()
    task = state.tasks[id]
    assert (task.submitter, task.owner) == (cluster.a.author, cluster.b.author)
    assert (list(state.open), state.open_by_submitter) == ([id], {cluster.a.author: 1})
    assert state.keys == {(cluster.b.author, b"kone"): id}
    assert task.spec is not None
    assert task.spec.need == "echo"


def test_a_key_that_the_node_drew_is_no_idempotency_key(cluster: Cluster) -> None:
    cluster.submit(cluster.a, b"r" + bytes(16))
    assert cluster.state().keys == {}


def test_the_same_submission_twice_is_one_task_of_the_first_by_time(cluster: Cluster) -> None:
    cluster.b.hlc += 100
    late = cluster.submit(cluster.b, owner=cluster.a)
    early = cluster.submit(cluster.c, owner=cluster.a)
    assert late == early
    state = cluster.state()
    assert state.tasks[early].submitter == cluster.c.author
    assert {a: n for a, n in state.open_by_submitter.items() if n} == {cluster.c.author: 1}
    assert len(state.open) == 1


def test_of_two_submissions_of_one_time_the_least_hash_counts(cluster: Cluster) -> None:
    cluster.b.hlc = cluster.c.hlc
    id = cluster.submit(cluster.b, owner=cluster.a)
    cluster.submit(cluster.c, owner=cluster.a)
    hashes = [event.hash for event in cluster.written[-2:]]
    assert cluster.task(id).submitted_hash == min(hashes)


def test_a_submission_that_comes_earlier_after_the_end_opens_nothing(cluster: Cluster) -> None:
    cluster.b.hlc += 100
    id = cluster.submit(cluster.b, owner=cluster.a)
    cluster.settle(cluster.a, id)
    cluster.submit(cluster.c, owner=cluster.a)
    state = cluster.state()
    assert state.tasks[id].submitter == cluster.c.author
    assert (state.open, state.settled) == ({}, {"completed": 1})
    assert not any(state.open_by_submitter.values())


def test_two_tasks_may_have_one_key_and_the_least_id_has_it(cluster: Cluster) -> None:
    ids = [cluster.submit(cluster.a, spec=0), cluster.submit(cluster.b, owner=cluster.a, spec=1)]
    assert cluster.state().keys == {(cluster.a.author, b"kone"): min(ids)}


UNSOUND = {
    "not msgpack": b"\xc1",
    "another form": encode(["tool"]),
    "deep": encode(TaskSpec("tool", "echo", bytes(32), 0))[:-1],
    "no attempts": encode(TaskSpec("tool", "echo", bytes(32), 0, max_attempts=0)),
    "too many attempts": encode(TaskSpec("tool", "echo", bytes(32), 0, max_attempts=101)),
    "no time": encode(TaskSpec("tool", "echo", bytes(32), 0, timeout_s=0.0)),
    "time that is no number": encode(
        TaskSpec("tool", "echo", bytes(32), 0, timeout_s=float("nan"))
    ),
    "endless": encode(TaskSpec("tool", "echo", bytes(32), 0, timeout_s=float("inf"))),
    "backoff": encode(TaskSpec("tool", "echo", bytes(32), 0, backoff_s=float("nan"))),
    "jitter": encode(TaskSpec("tool", "echo", bytes(32), 0, jitter=1.5)),
    "priority": encode(TaskSpec("tool", "echo", bytes(32), 0, priority=1 << 62)),
    "failover": encode(TaskSpec("tool", "echo", bytes(32), 0, failover="pray")),
    "filter": encode(TaskSpec("tool", "echo", bytes(32), 0, device_filter="mine")),
    "memory": encode(TaskSpec("tool", "echo", bytes(32), 0, {"memory_mb": "much"})),
    "labels": encode(TaskSpec("tool", "echo", bytes(32), 0, {"labels": [1, 2]})),
    "device": encode(TaskSpec("tool", "echo", bytes(32), 0, {"device": 5})),
}


@pytest.mark.parametrize("spec", UNSOUND.values(), ids=list(UNSOUND))
def test_a_spec_that_nobody_could_act_on_is_no_task(cluster: Cluster, spec: bytes) -> None:
    cluster.write(cluster.b, e.TaskSubmitted(cluster.a.author, b"kx", spec))
    assert cluster.state().tasks == {}
    assert cluster.findings() == ["TaskSubmitted with a spec, owner or key of no known form"]


@pytest.mark.parametrize(
    ("owner", "key"),
    [(b"short", b"k"), (bytes(33), b"k"), (bytes(32), b"k" + bytes(KEY_SIZE_BYTES_MAX))],
)
def test_an_owner_or_key_of_the_wrong_size_is_no_task(
    cluster: Cluster, owner: bytes, key: bytes
) -> None:
    cluster.write(cluster.a, e.TaskSubmitted(owner, key, SPECS[0]))
    assert cluster.state().tasks == {}


def test_the_longest_key_that_can_be_asked_for_counts(cluster: Cluster) -> None:
    key = b"k" + "\U0001f600".encode() * 256
    assert len(key) == KEY_SIZE_BYTES_MAX
    id = cluster.submit(cluster.a, key)
    assert list(cluster.state().open) == [id]


# Attempts.


def test_every_placement_is_an_attempt_whoever_placed_it(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    names = [cluster.place(device, id, cluster.b) for device in cluster.devices]
    assert [attempt.hash for attempt in cluster.task(id).attempts] == names
    assert all(attempt.is_open for attempt in cluster.task(id).attempts)


def test_a_placement_of_the_wrong_form_is_none(cluster: Cluster) -> None:
    cluster.write(cluster.a, e.TaskPlaced(b"short", 1, cluster.b.author, b"", 0.5))
    cluster.write(cluster.a, e.TaskPlaced(bytes(16), 1, b"short", b"", 0.5))
    assert [task.attempts for task in cluster.state().tasks.values()] in ([], [[]])


def test_the_named_device_starts_and_ends_its_attempt(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    attempt = cluster.place(cluster.a, id, cluster.b)
    started = cluster.write(cluster.b, e.TaskStarted(id, attempt, 7))
    completed = cluster.complete(cluster.b, id, attempt)
    (found,) = cluster.task(id).attempts
    assert (found.started_hash, found.started_ms, found.started_seq) == (started.hash, 7, 1)
    assert found.end is not None
    assert (found.end.kind, found.end.hash, found.end.seq) == ("completed", completed.hash, 2)
    assert not found.is_open


def test_a_second_start_is_the_first_one(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    attempt = cluster.place(cluster.a, id, cluster.b)
    first = cluster.write(cluster.b, e.TaskStarted(id, attempt, 7))
    cluster.write(cluster.b, e.TaskStarted(id, attempt, 8))
    assert cluster.task(id).attempts[0].started_hash == first.hash


def test_another_device_ends_nothing(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    attempt = cluster.place(cluster.a, id, cluster.b)
    cluster.complete(cluster.c, id, attempt)
    cluster.write(cluster.c, e.TaskStarted(id, attempt, 7))
    assert cluster.task(id).attempts[0].is_open
    assert cluster.task(id).attempts[0].started_hash is None
    assert cluster.findings() == [
        "TaskCompleted for an attempt that was placed on another device",
        "TaskStarted for an attempt that was placed on another device",
    ]


def test_the_first_word_about_an_attempt_counts(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    attempt = cluster.place(cluster.a, id, cluster.b)
    cluster.fail(cluster.b, id, attempt, "out_of_memory")
    cluster.complete(cluster.b, id, attempt)
    end = cluster.task(id).attempts[0].end
    assert end is not None
    assert (end.kind, end.code) == ("failed", "out_of_memory")
    assert cluster.findings() == ["a second result of one attempt"]


def test_a_declined_attempt_says_why(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    attempt = cluster.place(cluster.a, id, cluster.b)
    cluster.write(cluster.b, e.TaskDeclined(id, attempt, "fenced"))
    end = cluster.task(id).attempts[0].end
    assert end is not None
    assert (end.kind, end.code) == ("declined", "fenced")


def test_of_several_who_gave_an_attempt_up_the_least_hash_stands(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    attempt = cluster.place(cluster.a, id, cluster.b)
    given_up = [
        cluster.write(device, e.AttemptLost(id, attempt, "device_lost")).hash
        for device in cluster.devices
    ]
    lost = cluster.task(id).attempts[0].lost
    assert lost is not None
    assert lost.hash == min(given_up)
    assert not cluster.task(id).attempts[0].is_open


def test_a_result_of_a_lost_attempt_is_its_end(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    attempt = cluster.place(cluster.a, id, cluster.b)
    cluster.write(cluster.a, e.AttemptLost(id, attempt, "device_lost"))
    cluster.complete(cluster.b, id, attempt)
    assert cluster.task(id).attempts[0].end is not None


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_task_id_of_the_wrong_size_names_no_task(cluster: Cluster, size: int) -> None:
    bad, attempt = bytes(size), EventHash(bytes(32))
    before = cluster.state().digest()
    cluster.write(cluster.a, e.TaskPlaced(bad, 1, cluster.b.author, b"", 0.5))
    cluster.write(cluster.a, e.AttemptLost(bad, attempt, ""))
    cluster.write(cluster.a, e.CancelRequested(bad))
    cluster.write(cluster.a, e.TaskOwnershipMoved(((bad, b""),), cluster.b.author))
    cluster.settle(cluster.a, bad)
    cluster.write(cluster.b, e.TaskStarted(bad, attempt, 0))
    cluster.complete(cluster.b, bad, attempt)
    assert cluster.state().digest() == before
    assert cluster.state().tasks == {}


def test_early_news_waits_for_what_it_names(cluster: Cluster) -> None:
    id = task_id(cluster.a.author, b"kone", SPECS[0])
    a, b = cluster.a, cluster.b
    other = Cluster()
    other.submit(other.a)
    attempt = other.place(other.a, id, other.b)
    cluster.complete(b, id, attempt)
    cluster.write(cluster.c, e.AttemptLost(id, attempt, "device_lost"))
    task = cluster.task(id)
    assert (task.attempts, task.submitted_hash, cluster.state().open) == ([], None, {})
    cluster.submit(a)
    assert cluster.task(id).attempts == []
    assert cluster.place(a, id, b) == attempt
    (found,) = cluster.task(id).attempts
    assert found.end is not None
    assert found.lost is not None


# Cancellation.


def test_of_several_who_cancel_the_first_by_time_stands(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    cluster.c.hlc += 100
    cluster.write(cluster.c, e.CancelRequested(id))
    first = cluster.write(cluster.b, e.CancelRequested(id))
    cluster.write(cluster.c, e.CancelRequested(id))
    cancel = cluster.task(id).cancel
    assert cancel is not None
    assert cancel.hash == first.hash


# Owners, and how a task ends.


def test_the_owner_settles(cluster: Cluster) -> None:
    id = cluster.submit(cluster.b, owner=cluster.a)
    word = cluster.settle(cluster.a, id, outcome="failed")
    state = cluster.state()
    settled = state.tasks[id].settled
    assert settled is not None
    assert (settled.hash, settled.author, settled.outcome) == (
        word.hash,
        cluster.a.author,
        "failed",
    )
    assert (state.open, state.settled, state.tasks[id].spec) == ({}, {"failed": 1}, None)


def test_nobody_else_settles_not_even_the_submitter(cluster: Cluster) -> None:
    id = cluster.submit(cluster.b, owner=cluster.a)
    cluster.settle(cluster.b, id)
    cluster.settle(cluster.c, id)
    assert cluster.task(id).settled is None
    assert (
        cluster.findings()
        == ["TaskSettled by one who does not own the task, or no longer does"] * 2
    )


def test_the_owner_s_first_word_stands(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    first = cluster.settle(cluster.a, id, outcome="failed")
    cluster.settle(cluster.a, id, outcome="completed")
    settled = cluster.task(id).settled
    assert settled is not None
    assert settled.hash == first.hash
    assert cluster.state().settled == {"failed": 1}


def test_an_outcome_of_a_later_release_settles_nothing(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    cluster.settle(cluster.a, id, outcome="of_a_later_release")
    assert cluster.task(id).settled is None


def test_ownership_moves_and_the_new_owner_settles(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    tenure = cluster.move(cluster.a, cluster.b, (id, b""))
    cluster.settle(cluster.a, id)
    assert cluster.task(id).settled is None
    cluster.settle(cluster.b, id)
    assert cluster.task(id).settled is None, "the new owner must name its tenure"
    word = cluster.settle(cluster.b, id, tenure)
    task = cluster.task(id)
    assert task.settled is not None
    assert task.settled.hash == word.hash
    assert (task.owner, task.tenure) == (cluster.b.author, tenure)


def test_ownership_that_comes_back_is_another_tenure(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    there = cluster.move(cluster.a, cluster.b, (id, b""))
    back = cluster.move(cluster.b, cluster.a, (id, there))
    cluster.settle(cluster.a, id, b"")
    assert cluster.task(id).settled is None, "the first tenure is over"
    cluster.settle(cluster.a, id, back)
    task = cluster.task(id)
    assert task.settled is not None
    assert [move.hash for move in task.moves] == [there, back]
    assert task.tenures_past == (b"", there)


def test_of_two_moves_by_one_owner_the_first_in_its_feed_counts(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    first = cluster.move(cluster.a, cluster.b, (id, b""))
    cluster.move(cluster.a, cluster.c, (id, b""))
    assert (cluster.task(id).owner, cluster.task(id).tenure) == (cluster.b.author, first)


def test_a_settled_task_moves_no_more(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    cluster.settle(cluster.a, id)
    cluster.move(cluster.a, cluster.b, (id, b""))
    assert cluster.task(id).owner == cluster.a.author


def test_one_event_moves_many_tasks_and_each_by_its_own_tenure(cluster: Cluster) -> None:
    ids = [cluster.submit(cluster.a, key) for key in (b"k1", b"k2", b"k3")]
    moved = cluster.move(cluster.a, cluster.b, *[(id, b"") for id in ids[:2]], (ids[2], bytes(32)))
    owners = [cluster.task(id).owner for id in ids]
    assert owners == [cluster.b.author, cluster.b.author, cluster.a.author]
    assert [cluster.task(id).tenure for id in ids] == [moved, moved, b""]


def test_a_move_to_nobody_is_none(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    cluster.write(cluster.a, e.TaskOwnershipMoved(((id, b""),), b"short"))
    assert (cluster.task(id).owner, cluster.task(id).tenure) == (cluster.a.author, b"")


def test_moves_that_came_before_the_submission_follow_on_it(cluster: Cluster) -> None:
    id = task_id(cluster.a.author, b"kone", SPECS[0])
    tenures = [cluster.move(cluster.a, cluster.b, (id, b""))]
    tenures.append(cluster.move(cluster.b, cluster.c, (id, tenures[-1])))
    cluster.settle(cluster.c, id, tenures[-1])
    state = cluster.state()
    assert state.tasks[id].settled is None
    cluster.submit(cluster.b, owner=cluster.a)
    assert [move.hash for move in cluster.task(id).moves] == tenures
    assert cluster.task(id).settled is not None


# Capabilities, leadership, weights, invites.


def test_the_newest_capabilities_of_a_device_count(cluster: Cluster) -> None:
    def advertise(slots: int) -> e.CapabilitiesAdvertised:
        return e.CapabilitiesAdvertised(1, "n", (), (), {}, "none", slots, 1, 1, (), {})

    for slots in (1, 2, 3):
        cluster.write(cluster.b, advertise(slots))
    state = cluster.state()
    assert state.adverts[cluster.b.author].body.slots == 3
    assert state.adverts_version == 3


def leads(cluster: Cluster) -> EventHash | None:
    leader = cluster.state().leader
    return leader.hash if leader else None


def claim(cluster: Cluster, device: Writer, epoch: int, previous: bytes = b"") -> EventHash:
    return cluster.write(device, e.LeaderClaimed(epoch, previous)).hash


def test_the_highest_epoch_leads_then_the_most_senior(cluster: Cluster) -> None:
    junior = claim(cluster, cluster.c, 1)
    assert leads(cluster) == junior
    senior = claim(cluster, cluster.b, 1)
    assert leads(cluster) == senior
    next_ = claim(cluster, cluster.c, 2, senior)
    assert leads(cluster) == next_


def test_an_epoch_costs_an_event(cluster: Cluster) -> None:
    first = claim(cluster, cluster.b, 1)
    claim(cluster, cluster.c, 2)
    claim(cluster, cluster.c, 1 << 62, first)
    claim(cluster, cluster.c, 0, first)
    claim(cluster, cluster.c, -1)
    assert leads(cluster) == first
    assert len(cluster.state().claims) == 1
    assert len(cluster.findings()) == 4


def test_a_claim_that_names_one_that_never_came_waits_for_ever(cluster: Cluster) -> None:
    claim(cluster, cluster.b, 2, bytes(32))
    assert cluster.state().leader is None


def test_the_newest_weights_of_an_admin_count(cluster: Cluster) -> None:
    cluster.write(cluster.b, e.WeightsChanged("tool", {"load": 1.0}))
    assert cluster.state().weights() == {}, "b is no admin"
    cluster.write(cluster.a, e.WeightsChanged("tool", {"load": 0.25}))
    cluster.write(cluster.a, e.WeightsChanged("tool", {"load": 0.5}))
    cluster.write(cluster.a, e.WeightsChanged("code", {"cost": 0.5}))
    assert cluster.state().weights() == {"code": {"cost": 0.5}, "tool": {"load": 0.5}}


def test_of_two_admins_the_newer_choice_counts() -> None:
    cluster = Cluster()
    cluster.admit(cluster.a, cluster.b, "admin")
    cluster.b.hlc += 1000
    cluster.write(cluster.b, e.WeightsChanged("tool", {"load": 0.25}))
    cluster.write(cluster.a, e.WeightsChanged("tool", {"load": 0.5}))
    assert cluster.state().weights() == {"tool": {"load": 0.25}}


def test_an_invite_is_used_by_the_least_of_those_who_used_it(cluster: Cluster) -> None:
    for member in cluster.devices:
        cluster.write(cluster.a, e.InviteUsed(b"i" * 32, member.author))
    cluster.write(cluster.a, e.InviteUsed(b"short", cluster.a.author))
    cluster.write(cluster.a, e.InviteUsed(b"j" * 32, b"short"))
    least = min(device.author for device in cluster.devices)
    assert cluster.state().invites_used == {b"i" * 32: least}


# What does not count at all.


def test_an_unknown_kind_is_carried_on_and_changes_nothing(cluster: Cluster) -> None:
    before = cluster.state().digest()
    cluster.raw(cluster.b, TASK, "StepCompleted", b"anything")
    cluster.raw(cluster.b, RESULT, "", b"")
    state = cluster.state()
    assert (state.digest(), state.findings) == (before, [])
    assert state.folded[(cluster.b.author, TASK)] == 1


def test_a_newer_form_of_a_known_kind_counts_by_what_is_known_of_it(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    body = encode([id, "a field of a later release", {"and": ["another"]}])
    cluster.raw(cluster.b, TASK, "CancelRequested", body)
    assert cluster.task(id).cancel is not None


def test_a_body_that_does_not_decode_is_a_finding(cluster: Cluster) -> None:
    cluster.raw(cluster.b, TASK, "CancelRequested", b"\x91\xc4\x10")
    assert cluster.findings() == ["CancelRequested does not decode"]


def test_a_kind_on_the_wrong_topic_is_a_finding(cluster: Cluster) -> None:
    id = cluster.submit(cluster.a)
    cluster.raw(cluster.b, RESULT, "CancelRequested", encode(e.CancelRequested(id)))
    assert cluster.task(id).cancel is None
    assert cluster.findings() == ["CancelRequested on the wrong topic"]


def test_findings_are_bounded(cluster: Cluster) -> None:
    for _ in range(FINDINGS_MAX + 10):
        cluster.raw(cluster.b, TASK, "CancelRequested", b"")
    assert len(cluster.state().findings) == FINDINGS_MAX


def test_a_repeated_event_changes_nothing_and_a_gap_is_a_mistake_of_ours(cluster: Cluster) -> None:
    state = cluster.state()
    counted = state.counted
    for event in cluster.written:
        fold(state, event)
    assert state.counted == counted
    cluster.raw(cluster.b, TASK, "A", b"")
    after_the_gap = cluster.raw(cluster.b, TASK, "B", b"")
    with pytest.raises(AssertionError):
        fold(state, after_the_gap)
