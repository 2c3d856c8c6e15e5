"""Where a task may run and where it runs best: requirements, filters, refusals, waits and choices.

The cluster is `desk` (the founder), `laptop` and `attic`. Each test says what its devices advertise
and who is alive, and asks the pure functions.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_ledger.fold import cluster_id, fold
from kowalski_ledger.state import State
from kowalski_node.core.placement import (
    SLOTS_MAX,
    Candidate,
    Measure,
    Placed,
    Refused,
    Waiting,
    candidates,
    capable,
    choose,
    mismatch,
    refusal,
)
from kowalski_node.core.scoring import DEFAULT_WEIGHTS
from kowalski_protocol.codec import encode
from kowalski_protocol.errors import CODES
from kowalski_protocol.events import CapabilitiesAdvertised, ClusterFounded, MemberAdmitted
from kowalski_protocol.identity import Identity, peer_id
from kowalski_protocol.ids import Author
from kowalski_protocol.tasks import REQUIREMENTS, TaskSpec
from tests.units.histories import Writer

PLAIN = CapabilitiesAdvertised(
    feature_level=1,
    device_name="device",
    kinds=("code", "tool"),
    tools=("echo",),
    languages={"python": "3.11"},
    sandbox="bubblewrap",
    slots=2,
    cores=4,
    memory_total_bytes=8 << 30,
    accelerators=("NVIDIA H200",),
    labels={"room": "attic"},
    platform="linux-x86_64",
)
ECHO = TaskSpec("tool", "echo", bytes(32), 0)
PYTHON = TaskSpec("code", "python", bytes(32), 0)
STRANGER = Identity(b"s" * 32)


def like(spec: TaskSpec, **changes: Any) -> TaskSpec:
    return msgspec.structs.replace(spec, **changes)


def advert(**changes: Any) -> CapabilitiesAdvertised:
    return msgspec.structs.replace(PLAIN, **changes)


class Home:
    """A state with named members, and what each of them advertises."""

    def __init__(self, **adverts: CapabilitiesAdvertised | None) -> None:
        names = list(adverts) or ["desk", "laptop", "attic"]
        self.writers = {name: Writer(name) for name in names}
        founder = self.writers[names[0]]
        founded = ClusterFounded("home", founder.author, names[0], b"nonce")
        cluster = cluster_id(encode(founded))
        self.state = State(cluster)
        for writer in self.writers.values():
            writer.cluster = cluster
        fold(self.state, founder.write(founded))
        for name in names[1:]:
            fold(self.state, founder.write(MemberAdmitted(self[name], name, "member")))
        for name in names:
            body = adverts.get(name, PLAIN)
            if body is not None:
                fold(self.state, self.writers[name].write(body))

    def __getitem__(self, name: str) -> Author:
        return self.writers[name].author

    def names(self, authors: list[Author]) -> list[str]:
        return [self.state.members[author].name for author in authors]

    def able(self, spec: TaskSpec, submitter: str) -> set[str]:
        return set(self.names(capable(self.state, spec, self[submitter])[0]))

    def live(
        self,
        spec: TaskSpec,
        submitter: str,
        *alive: str,
        measures: dict[str, Measure] | None = None,
        weights: dict[str, float] | None = None,
    ) -> list[Candidate] | Waiting:
        return candidates(
            self.state,
            spec,
            self[submitter],
            [self[name] for name in alive],
            {self[name]: measure for name, measure in (measures or {}).items()},
            DEFAULT_WEIGHTS[spec.kind] if weights is None else weights,
        )

    def may_run(self, spec: TaskSpec, submitter: str, *alive: str) -> set[str]:
        live = self.live(spec, submitter, *alive)
        assert not isinstance(live, Waiting), live
        return set(self.names([candidate.author for candidate in live]))

    def refused(self, spec: TaskSpec, submitter: str = "desk") -> Refused:
        refused = refusal(self.state, spec, self[submitter])
        assert refused is not None
        assert refused.code in CODES
        return refused


# What a device can run.


@pytest.mark.parametrize(
    ("requires", "why"),
    [
        ({}, None),
        ({"memory_mb": 8192}, None),
        ({"memory_mb": 8193}, "has 8192 MiB of memory, 8193 are asked for"),
        ({"memory_mb": 0}, None),
        ({"cores": 4}, None),
        ({"cores": 4.5}, "has 4 cores, 4.5 are asked for"),
        ({"accelerator": "h200"}, None),
        ({"accelerator": "nvidia"}, None),
        ({"accelerator": "amd"}, "has no accelerator amd"),
        ({"platform": "linux"}, None),
        ({"platform": "linux-x86_64"}, None),
        ({"platform": "darwin"}, "is linux-x86_64"),
        ({"sandbox": "bubblewrap"}, None),
        ({"sandbox": "none"}, "has the sandbox 'bubblewrap'"),
        ({"labels": {}}, None),
        ({"labels": {"room": "attic"}}, None),
        ({"labels": {"room": "cellar"}}, "is not labelled room=cellar"),
        ({"labels": {"room": "attic", "quiet": "yes"}}, "is not labelled quiet=yes"),
        ({"moon_phase": "full"}, "does not know the requirement 'moon_phase'"),
        ({"m" * 99: 1}, f"does not know the requirement '{'m' * 40}'"),
        ({"cores": 1, "moon_phase": "full"}, "does not know the requirement 'moon_phase'"),
    ],
)
def test_each_requirement_is_met_or_named(requires: dict[str, Any], why: str | None) -> None:
    assert mismatch(PLAIN, like(ECHO, requires=requires)) == why


@pytest.mark.parametrize(
    ("body", "spec", "why"),
    [
        (PLAIN, ECHO, None),
        (PLAIN, PYTHON, None),
        (advert(kinds=("tool",)), PYTHON, "does not run code tasks"),
        (PLAIN, like(PYTHON, need="rust"), "does not run rust"),
        (PLAIN, like(ECHO, need="saw"), "has no tool saw"),
        (PLAIN, like(ECHO, kind="chat"), "does not run chat tasks"),
        (
            advert(platform=""),
            like(ECHO, requires={"platform": "linux"}),
            "is of an unknown platform",
        ),
    ],
)
def test_a_device_says_why_it_can_never_run_a_task(
    body: CapabilitiesAdvertised, spec: TaskSpec, why: str | None
) -> None:
    assert mismatch(body, spec) == why


def test_every_known_requirement_is_looked_at() -> None:
    nothing = advert(
        accelerators=(), labels={}, platform="", sandbox="", cores=0, memory_total_bytes=0
    )
    asked: dict[str, Any] = {
        "memory_mb": 1,
        "cores": 1,
        "accelerator": "any",
        "labels": {"a": "b"},
        "platform": "linux",
        "sandbox": "bubblewrap",
    }
    assert set(asked) == REQUIREMENTS - {"device"}
    for name, wanted in asked.items():
        assert mismatch(nothing, like(ECHO, requires={name: wanted})) is not None, name


# The device filter.


def test_local_is_the_submitters_own_device() -> None:
    assert Home().able(like(ECHO, device_filter="local"), "laptop") == {"laptop"}


def test_network_is_every_member_but_the_submitter() -> None:
    assert Home().able(like(ECHO, device_filter="network"), "laptop") == {"desk", "attic"}


def test_network_is_the_submitter_where_no_other_member_can() -> None:
    home = Home(desk=advert(tools=()), laptop=PLAIN, attic=advert(tools=()))
    spec = like(ECHO, device_filter="network")
    assert home.able(spec, "laptop") == {"laptop"}
    assert home.may_run(spec, "laptop", "desk", "laptop", "attic") == {"laptop"}


def test_network_is_the_submitter_while_no_other_who_can_is_alive() -> None:
    spec = like(ECHO, device_filter="network")
    home = Home()
    assert home.may_run(spec, "laptop", "laptop") == {"laptop"}
    assert home.may_run(spec, "laptop", "laptop", "attic") == {"attic"}


def test_all_is_every_member() -> None:
    assert Home().able(ECHO, "laptop") == {"desk", "laptop", "attic"}


@given(
    st.sampled_from(["local", "network", "all"]),
    st.sets(st.sampled_from(["desk", "laptop", "attic"])),
    st.sets(st.sampled_from(["desk", "laptop", "attic"])),
)
def test_a_task_only_goes_to_the_living_who_can(
    device_filter: str, able: set[str], alive: set[str]
) -> None:
    names = ("desk", "laptop", "attic")
    home = Home(**{name: advert(tools=("echo",) if name in able else ()) for name in names})
    live = home.live(like(ECHO, device_filter=device_filter), "desk", *alive)
    wanted = able & alive
    if device_filter == "local":
        wanted &= {"desk"}
    elif device_filter == "network":
        wanted = wanted - {"desk"} or wanted
    if isinstance(live, Waiting):
        assert not wanted
    else:
        assert set(home.names([c.author for c in live])) == wanted


def test_a_pinned_task_runs_on_that_device_alone() -> None:
    home = Home()
    spec = like(ECHO, requires={"device": peer_id(home["attic"])})
    able, unable = capable(home.state, spec, home["desk"])
    assert home.names(able) == ["attic"]
    assert set(unable.values()) == {"is not the device that is asked for"}


@pytest.mark.parametrize("device_filter", ["network", "all"])
def test_the_submitter_may_pin_a_task_to_its_own_device(device_filter: str) -> None:
    home = Home()
    spec = like(ECHO, requires={"device": peer_id(home["desk"])}, device_filter=device_filter)
    assert home.may_run(spec, "desk", "desk", "laptop") == {"desk"}


# Refusals.


def test_what_some_member_could_run_is_not_refused() -> None:
    home = Home(desk=advert(tools=()), laptop=PLAIN)
    assert refusal(home.state, ECHO, home["desk"]) is None


def test_a_task_that_asked_to_be_queued_is_never_refused() -> None:
    home = Home()
    spec = like(ECHO, need="saw", failover="queue")
    assert refusal(home.state, spec, home["desk"]) is None


def test_before_any_device_has_said_what_it_can_run_nothing_is_ready() -> None:
    refused = Home(desk=None).refused(ECHO)
    assert refused == Refused("not_ready", "No device has said yet what it can run.")


def test_code_is_refused_with_what_the_devices_lack() -> None:
    no_code = advert(kinds=("tool",), problems=("bubblewrap is missing.",))
    refused = Home(desk=no_code).refused(PYTHON)
    assert refused.code == "sandbox_unavailable"
    assert refused.sentence == "No device takes code. bubblewrap is missing."


@pytest.mark.parametrize(
    ("body", "spec", "code", "sentence"),
    [
        (
            PLAIN,
            like(PYTHON, need="rust"),
            "unknown_language",
            "No device runs 'rust'; the cluster has python.",
        ),
        (
            advert(languages={}),
            like(PYTHON, need="rust"),
            "unknown_language",
            "No device runs 'rust'; the cluster has no languages.",
        ),
        (
            PLAIN,
            like(ECHO, need="saw"),
            "unknown_tool",
            "No device has a tool 'saw'; the cluster has echo.",
        ),
        (
            advert(tools=()),
            like(ECHO, need="saw"),
            "unknown_tool",
            "No device has a tool 'saw'; the cluster has none.",
        ),
        (
            PLAIN,
            like(ECHO, requires={"cores": 99}),
            "impossible_requirement",
            "No device could run this task: desk has 4 cores, 99 are asked for.",
        ),
        (
            PLAIN,
            like(PYTHON, requires={"memory_mb": 9000}),
            "impossible_requirement",
            "No device could run this task: desk has 8192 MiB of memory, 9000 are asked for.",
        ),
        (
            PLAIN,
            like(ECHO, requires={"device": STRANGER.peer_id}),
            "impossible_requirement",
            "No device could run this task: desk is not the device that is asked for.",
        ),
        (
            PLAIN,
            like(ECHO, kind="chat"),
            "impossible_requirement",
            "No device could run this task: desk does not run chat tasks.",
        ),
    ],
)
def test_a_refusal_says_what_is_missing(
    body: CapabilitiesAdvertised, spec: TaskSpec, code: str, sentence: str
) -> None:
    assert Home(desk=body).refused(spec) == Refused(code, sentence)


def test_a_refusal_names_four_devices_at_most() -> None:
    home = Home(**{f"device{number}": PLAIN for number in range(6)})
    sentence = home.refused(like(ECHO, requires={"cores": 99}), "device0").sentence
    assert sentence.count("has 4 cores") == 4


# Waits.


@pytest.mark.parametrize(
    ("adverts", "sentence"),
    [
        (
            {"desk": advert(tools=()), "laptop": PLAIN},
            "waits for laptop, which could run it and is away",
        ),
        (
            {"desk": advert(tools=()), "laptop": PLAIN, "attic": PLAIN},
            "waits for laptop, attic, which could run it and are away",
        ),
        ({"desk": advert(tools=())}, "waits for a device that can run it"),
    ],
)
def test_a_wait_says_for_whom(
    adverts: dict[str, CapabilitiesAdvertised | None], sentence: str
) -> None:
    assert Home(**adverts).live(ECHO, "desk", "desk") == Waiting(sentence)


# Scores.


def scores(live: list[Candidate] | Waiting) -> list[float]:
    assert not isinstance(live, Waiting)
    return [candidate.score(0, 2) for candidate in live]


def test_the_score_of_an_idle_device_worked_by_hand() -> None:
    home = Home(desk=advert(costs={"tool": 1.0}))
    sample: dict[str, object] = {"memory_used_bytes": 2, "memory_total_bytes": 8}
    live = home.live(ECHO, "desk", "desk", measures={"desk": Measure(50.0, sample)})
    # 0.4 x (1 - 2/8) + 0.4 x 1/(1 + 50/50) + 0.1 x 1/(1 + 1) + 0.1 x 1
    assert scores(live) == [pytest.approx(0.3 + 0.2 + 0.05 + 0.1)]


def test_a_half_taken_device_keeps_half_of_its_load_part() -> None:
    live = Home(desk=PLAIN).live(PYTHON, "desk", "desk")
    assert not isinstance(live, Waiting)
    # 0.3 x 1 x (1 - 1/2) + 0.4 x 1 + 0 x 1 + 0.3 x 1
    assert live[0].score(1, 2) == pytest.approx(0.15 + 0.4 + 0.3)
    assert live[0].score(5, 2) == pytest.approx(0.7)


def test_the_weights_are_divided_by_their_sum() -> None:
    once = {"load": 1.0, "latency": 3.0}
    thrice = {name: 3 * weight for name, weight in once.items()}
    home = Home(desk=PLAIN)
    far = {"desk": Measure(50.0)}
    assert scores(home.live(ECHO, "desk", "desk", measures=far, weights=once)) == scores(
        home.live(ECHO, "desk", "desk", measures=far, weights=thrice)
    )
    assert scores(home.live(ECHO, "desk", "desk", measures=far, weights=once)) == [0.625]


def test_without_weights_every_device_scores_nothing_and_one_is_chosen_still() -> None:
    live = Home().live(ECHO, "desk", "desk", "laptop", weights={})
    assert not isinstance(live, Waiting)
    assert scores(live) == [0.0, 0.0]
    assert choose(live, {}, {}, 8) is not None


any_number = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.dictionaries(
        st.sampled_from(["load", "latency", "cost", "specialization", "other"]), any_number
    ),
    any_number,
    any_number,
    any_number,
    st.integers(-(2**63), 2**63 - 1),
)
def test_whatever_is_advertised_measured_and_weighed_the_score_is_a_number(
    weights: dict[str, float], cost: float, round_trip_ms: float, used: float, slots: int
) -> None:
    home = Home(desk=advert(costs={"tool": cost}, slots=slots))
    sample: dict[str, object] = {"memory_used_bytes": used, "memory_total_bytes": 8}
    live = home.live(
        ECHO, "desk", "desk", measures={"desk": Measure(round_trip_ms, sample)}, weights=weights
    )
    assert not isinstance(live, Waiting)
    assert 1 <= live[0].slots <= SLOTS_MAX
    placed = choose(live, {}, {}, 8)
    assert placed is not None
    assert math.isfinite(placed.score)
    assert 0.0 <= placed.score <= 1.0001


# The choice.


A, B, C = (Author(letter * 32) for letter in (b"a", b"b", b"c"))


def candidate(author: Author, fixed: float, slots: int = 1) -> Candidate:
    return Candidate(author, slots, fixed, 1.0, 0.5)


def test_the_best_score_is_chosen_and_the_others_are_told() -> None:
    placed = choose([candidate(A, 0.1), candidate(B, 0.4), candidate(C, 0.2)], {}, {}, 8)
    assert placed == Placed(B, 0.9, ((b"aaaa", 0.6), (b"bbbb", 0.9), (b"cccc", 0.7)))


def test_between_equals_the_first_is_chosen() -> None:
    placed = choose([candidate(B, 0.4), candidate(A, 0.4)], {}, {}, 8)
    assert placed is not None
    assert placed.device == B


def test_a_full_device_is_told_and_not_chosen() -> None:
    placed = choose([candidate(A, 0.9), candidate(B, 0.1)], {A: 1}, {}, 8)
    assert placed == Placed(B, 0.6, ((b"aaaa", 0.9), (b"bbbb", 0.6)))


def test_where_all_are_full_nobody_is_chosen() -> None:
    assert choose([candidate(A, 0.9), candidate(B, 0.1)], {A: 1, B: 7}, {}, 8) is None
    assert choose([], {}, {}, 8) is None


def test_a_device_may_hold_a_few_beyond_its_slots() -> None:
    live = [candidate(A, 0.9)]
    assert choose(live, {A: 2}, {A: 2}, 8) == Placed(
        A, round(0.9 + 0.5 / 3, 4), ((b"aaaa", 1.0667),)
    )
    assert choose(live, {A: 3}, {A: 2}, 8) is None


def test_only_so_many_scores_are_told() -> None:
    placed = choose([candidate(A, 0.1), candidate(B, 0.4), candidate(C, 0.2)], {}, {}, 1)
    assert placed == Placed(B, 0.9, ((b"aaaa", 0.6),))


def test_a_device_that_had_the_task_before_is_chosen_only_where_no_other_has_a_place() -> None:
    live = [candidate(A, 0.9), candidate(B, 0.0)]
    placed = choose(live, {}, {}, 8, frozenset({A}))
    assert placed is not None
    assert (placed.device, placed.score) == (B, 0.5)
    placed = choose(live, {B: 1}, {}, 8, frozenset({A}))
    assert placed is not None
    assert (placed.device, placed.score) == (A, 1.4)


def test_of_those_who_all_had_it_before_the_best_is_chosen() -> None:
    placed = choose([candidate(A, 0.1), candidate(B, 0.4)], {}, {}, 8, frozenset({A, B}))
    assert placed is not None
    assert placed.device == B


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 4), st.integers(0, 8)), max_size=6))
def test_the_chosen_has_a_place_and_nobody_with_a_place_is_better(
    devices: list[tuple[float, int, int]],
) -> None:
    live = [candidate(Author(bytes([n]) * 32), f, s) for n, (f, s, _) in enumerate(devices)]
    taken = {c.author: count for c, (_, _, count) in zip(live, devices, strict=True)}
    free = [c for c in live if taken[c.author] < c.slots]
    placed = choose(live, taken, {}, 8)
    if placed is None:
        assert not free
    else:
        best = max(c.score(taken[c.author], c.slots) for c in free)
        assert placed.score == round(best, 4)
        assert placed.device in {c.author for c in free}


def test_many_tasks_are_shared_among_equal_devices() -> None:
    live = [candidate(A, 0.1, 4), candidate(B, 0.1, 4)]
    taken: dict[Author, int] = {A: 0, B: 0}
    for _ in range(6):
        placed = choose(live, taken, {}, 8)
        assert placed is not None
        taken[placed.device] += 1
    assert taken == {A: 3, B: 3}
