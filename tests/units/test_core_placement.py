"""Where a task may run: who could, who is there, who is refused and why, and who is best."""

from __future__ import annotations

from typing import Any

import pytest

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
from kowalski_protocol.ids import Author
from kowalski_protocol.tasks import REQUIREMENTS, TaskSpec
from tests.units.bench import advert
from tests.units.histories import History, Writer, folded

WEIGHTS = {"load": 1.0, "latency": 1.0}


def spec(kind: str = "tool", need: str = "echo", **changes: Any) -> TaskSpec:
    return TaskSpec(kind, need, bytes(32), 0, **changes)


class House:
    """Three devices, `a` the submitter, each offering what an ordinary one does."""

    def __init__(self, **changes: dict[str, Any]) -> None:
        self.history = History(3)
        self.history.admit_all()
        self.a, self.b, self.c = self.history.devices
        for name in "abc":
            changed = changes.get(name, {})
            if changed is not None:
                self.history.write(self.of(name), advert(name, **changed))
        self.state: State = folded(self.history, self.history.written)

    def of(self, name: str) -> Writer:
        return {"a": self.a, "b": self.b, "c": self.c}[name]

    def names(self, authors: list[Author]) -> str:
        return "".join(sorted(n for n in "abc" if self.of(n).author in authors))

    def able(self, task: TaskSpec, submitter: str = "a") -> str:
        return self.names(capable(self.state, task, self.of(submitter).author)[0])

    def unable(self, task: TaskSpec, name: str) -> str:
        return capable(self.state, task, self.a.author)[1][self.of(name).author]

    def live(self, task: TaskSpec, alive: str, submitter: str = "a") -> str:
        there = [self.of(name).author for name in alive]
        found = candidates(self.state, task, self.of(submitter).author, there, {}, WEIGHTS)
        if isinstance(found, Waiting):
            sentence = found.sentence
            for name in "abc":
                sentence = sentence.replace(self.of(name).name, name)
            return sentence
        return self.names([candidate.author for candidate in found])


# Who could.


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (spec(), None),
        (spec("code", "python"), None),
        (spec("rlm", "x"), "does not run rlm tasks"),
        (spec("code", "rust"), "does not run rust"),
        (spec("tool", "teleport"), "has no tool teleport"),
        (spec(requires={"memory_mb": 8192}), None),
        (spec(requires={"memory_mb": 8193}), "has 8192 MiB of memory, 8193 are asked for"),
        (spec(requires={"cores": 4}), None),
        (spec(requires={"cores": 4.5}), "has 4 cores, 4.5 are asked for"),
        (spec(requires={"accelerator": "RTX"}), None),
        (spec(requires={"accelerator": "metal"}), "has no accelerator metal"),
        (spec(requires={"platform": "linux"}), None),
        (spec(requires={"platform": "darwin"}), "is linux/x86_64"),
        (spec(requires={"sandbox": "bubblewrap"}), None),
        (spec(requires={"sandbox": "landlock"}), "has the sandbox 'bubblewrap'"),
        (spec(requires={"labels": {"room": "attic"}}), None),
        (spec(requires={"labels": {}}), None),
        (spec(requires={"labels": {"room": "cellar"}}), "is not labelled room=cellar"),
        (spec(requires={"labels": {"floor": "1"}}), "is not labelled floor=1"),
        (spec(requires={"quantum": True}), "does not know the requirement 'quantum'"),
    ],
)
def test_a_device_fits_a_task_or_says_why_not(task: TaskSpec, why: str | None) -> None:
    device = advert(accelerators=("NVIDIA RTX 4090",), labels={"room": "attic"})
    assert mismatch(device, task) == why


def test_a_device_that_does_not_tell_its_platform_is_of_an_unknown_one() -> None:
    task = spec(requires={"platform": "linux"})
    assert mismatch(advert(platform=""), task) == "is of an unknown platform"


def test_every_requirement_that_can_be_asked_for_is_looked_at() -> None:
    bad: dict[str, Any] = {
        "memory_mb": 1e9,
        "cores": 1e9,
        "accelerator": "none such",
        "labels": {"no": "such"},
        "platform": "none",
        "sandbox": "none such",
    }
    assert set(bad) | {"device"} == REQUIREMENTS
    for name, value in bad.items():
        assert mismatch(advert(), spec(requires={name: value})) is not None


def test_every_member_that_offers_it_can_run_a_task() -> None:
    assert House().able(spec()) == "abc"
    assert House(b={"tools": ()}).able(spec()) == "ac"


def test_a_device_that_is_asked_for_is_the_only_one() -> None:
    house = House()
    pinned = spec(requires={"device": house.b.identity.peer_id})
    assert house.able(pinned) == "b"
    assert house.unable(pinned, "c") == "is not the device that is asked for"


def test_local_is_the_submitter_s_device() -> None:
    house = House()
    local = spec(device_filter="local")
    assert house.able(local) == "a"
    assert house.able(local, submitter="c") == "c"
    assert house.unable(local, "b") == "is not the submitter's device"


def test_network_is_the_others_unless_none_of_them_can() -> None:
    network = spec(device_filter="network")
    assert House().able(network) == "bc"
    assert House().unable(network, "a") == "is the submitter's own device"
    assert House(b={"tools": ()}, c={"tools": ()}).able(network) == "a"


# Who is there.


def test_only_the_live_ones_are_candidates() -> None:
    assert House().live(spec(), "ac") == "ac"
    assert House().live(spec(), "") == "waits for a, b, c, which could run it and are away"


def test_network_falls_back_to_the_submitter_while_the_others_are_away() -> None:
    network = spec(device_filter="network")
    house = House()
    assert house.live(network, "abc") == "bc"
    assert house.live(network, "ab") == "b"
    assert house.live(network, "a") == "a"
    assert house.live(network, "") == "waits for b, c, which could run it and are away"


def test_a_pinned_task_never_falls_back_to_another_device() -> None:
    house = House()
    pinned = spec(device_filter="network", requires={"device": house.b.identity.peer_id})
    assert house.live(pinned, "ac") == "waits for b, which could run it and is away"


def test_network_does_not_fall_back_to_a_submitter_that_can_not_run_it() -> None:
    house = House(a={"tools": ()})
    task = spec(device_filter="network")
    assert house.live(task, "a") == "waits for b, c, which could run it and are away"


def test_a_task_that_nobody_can_run_waits_for_somebody() -> None:
    assert House().live(spec(need="teleport"), "abc") == "waits for a device that can run it"


def test_a_local_task_of_a_device_that_is_away_waits_for_it() -> None:
    task = spec(device_filter="local")
    assert House().live(task, "bc") == "waits for a, which could run it and is away"


def test_what_was_not_advertised_is_not_counted_on() -> None:
    house = House(b=None)  # type: ignore[arg-type]
    assert house.live(spec(), "abc") == "ac"


@pytest.mark.parametrize(("slots", "counted"), [(0, 1), (-5, 1), (3, 3), (1 << 62, SLOTS_MAX)])
def test_the_places_that_a_device_claims_are_bounded(slots: int, counted: int) -> None:
    history = History(1)
    history.write(history.founder, advert(slots=slots))
    author = history.founder.author
    found = candidates(folded(history, history.written), spec(), author, [author], {}, WEIGHTS)
    assert not isinstance(found, Waiting)
    assert found[0].slots == counted


# Who is refused.


def refused(house: House, task: TaskSpec) -> tuple[str, str] | None:
    found = refusal(house.state, task, house.a.author)
    return (found.code, found.sentence) if isinstance(found, Refused) else None


def test_a_task_that_somebody_could_run_is_not_refused() -> None:
    assert refused(House(), spec()) is None
    house = House()
    assert refused(house, spec(requires={"device": house.c.identity.peer_id})) is None


def test_a_task_that_may_wait_is_never_refused() -> None:
    assert refused(House(), spec(need="teleport", failover="queue")) is None


def test_before_any_device_has_said_what_it_offers_nothing_can_be_said() -> None:
    history = History(1)
    found = refusal(folded(history, history.written), spec(), history.founder.author)
    assert found is not None
    assert found.code == "not_ready"


def test_without_a_sandbox_anywhere_code_is_refused_with_the_cause() -> None:
    none: dict[str, Any] = {"kinds": ("tool",), "problems": ("Install bubblewrap.",)}
    assert refused(House(a=none, b=none, c=none), spec("code", "python")) == (
        "sandbox_unavailable",
        "No device takes code. Install bubblewrap. Install bubblewrap.",
    )


def test_an_unknown_language_is_refused_and_the_known_ones_are_named() -> None:
    house = House(b={"languages": {"rust": "1"}})
    assert refused(house, spec("code", "cobol")) == (
        "unknown_language",
        "No device runs 'cobol'; the cluster has python, rust.",
    )
    none: dict[str, Any] = {"languages": {}}
    assert refused(House(a=none, b=none, c=none), spec("code", "cobol")) == (
        "unknown_language",
        "No device runs 'cobol'; the cluster has no languages.",
    )


def test_an_unknown_tool_is_refused_and_the_known_ones_are_named() -> None:
    assert refused(House(), spec(need="teleport")) == (
        "unknown_tool",
        "No device has a tool 'teleport'; the cluster has echo, sleep.",
    )
    none: dict[str, Any] = {"tools": ()}
    assert refused(House(a=none, b=none, c=none), spec(need="x")) == (
        "unknown_tool",
        "No device has a tool 'x'; the cluster has none.",
    )


@pytest.mark.parametrize("kind", ["code", "tool"])
def test_what_no_device_meets_is_refused_with_each_one_s_reason(kind: str) -> None:
    task = spec(kind, {"code": "python", "tool": "echo"}[kind], requires={"cores": 64})
    found = refused(House(b={"kinds": ()}), task)
    assert found is not None
    code, sentence = found
    assert code == "impossible_requirement"
    assert "64 are asked for" in sentence
    assert f"does not run {kind} tasks" in sentence


def test_a_kind_that_no_device_runs_is_refused_with_each_one_s_reason() -> None:
    found = refused(House(), spec("graph", "x"))
    assert found is not None
    assert found[0] == "impossible_requirement"


def test_a_device_that_is_no_member_is_refused() -> None:
    stranger = Writer("a stranger").identity.peer_id
    found = refused(House(), spec(requires={"device": stranger}))
    assert found is not None
    assert found[0] == "impossible_requirement"


@pytest.mark.parametrize("how", ["local", "pinned"])
def test_for_a_device_that_has_not_said_what_it_offers_nothing_can_be_said(how: str) -> None:
    history = History(2)
    history.admit_all()
    history.write(history.founder, advert("a"))
    silent = history.devices[1]
    local = spec(device_filter="local")
    task = local if how == "local" else spec(requires={"device": silent.identity.peer_id})
    found = refusal(folded(history, history.written), task, silent.author)
    assert found == Refused("not_ready", f"{silent.name} has not said yet what it can run.")


def test_a_nameless_device_is_shown_by_its_key() -> None:
    history = History(2)
    nameless = history.devices[1]
    history.write(history.founder, advert("a", tools=()))
    from kowalski_protocol.events import MemberAdmitted

    history.write(history.founder, MemberAdmitted(nameless.author, "", "member"))
    history.write(nameless, advert(""))
    state = folded(history, history.written)
    found = candidates(state, spec(), history.founder.author, [], {}, WEIGHTS)
    assert isinstance(found, Waiting)
    assert nameless.identity.peer_id[-8:] in found.sentence


def test_who_is_no_member_any_more_is_not_counted_on() -> None:
    house = House()
    del house.state.members[house.b.author]
    assert house.able(spec()) == "ac"


# Who is best.


def candidate(name: bytes, fixed: float = 0.5, load: float = 0.5, slots: int = 2) -> Candidate:
    return Candidate(Author(name * 32), slots, fixed, 1.0, load)


A, B = Author(b"a" * 32), Author(b"b" * 32)


def test_the_best_score_wins_and_all_scores_are_told() -> None:
    placed = choose([candidate(b"a", 0.2), candidate(b"b", 0.4)], {}, {}, 8)
    assert placed == Placed(B, 0.9, ((b"aaaa", 0.7), (b"bbbb", 0.9)))


def test_the_more_a_device_has_the_less_it_gets() -> None:
    live = [candidate(b"a"), candidate(b"b")]
    taken: dict[Author, int] = {}
    order = b""
    for _ in range(4):
        placed = choose(live, taken, {}, 8)
        assert placed is not None
        taken[placed.device] = taken.get(placed.device, 0) + 1
        order += placed.device[:1]
    assert order == b"abab"
    assert choose(live, taken, {}, 8) is None, "all are full"


def test_a_prefetch_adds_places() -> None:
    live = [candidate(b"a", slots=1)]
    assert choose(live, {A: 1}, {}, 8) is None
    assert choose(live, {A: 1}, {A: 1}, 8) is not None


def test_only_so_many_scores_are_told() -> None:
    placed = choose([candidate(b"a"), candidate(b"b")], {}, {}, 1)
    assert placed is not None
    assert len(placed.considered) == 1


def test_who_had_the_task_before_gets_it_again_only_where_nobody_else_has_a_place() -> None:
    live = [candidate(b"a", 0.9), candidate(b"b", 0.0)]
    placed = choose(live, {}, {}, 8, tried={A})
    assert placed is not None
    assert placed.device == B
    placed = choose(live, {B: 2}, {}, 8, tried={A})
    assert placed is not None
    assert (placed.device, placed.score) == (A, 1.4)


def test_a_score_that_is_no_number_loses_against_any_other() -> None:
    odd = Candidate(A, 2, float("nan"), 1.0, 0.0)
    placed = choose([candidate(b"b", 0.0, 0.0), odd], {}, {}, 8)
    assert placed is not None
    assert placed.device == B


def test_a_device_that_is_far_away_or_full_of_memory_is_less_good() -> None:
    house = House()
    near, far, full = house.a.author, house.b.author, house.c.author
    measures = {
        far: Measure(500.0),
        full: Measure(0.0, {"memory_used_bytes": 9, "memory_total_bytes": 10}),
    }
    found = candidates(house.state, spec(), near, [near, far, full], measures, WEIGHTS)
    assert not isinstance(found, Waiting)
    scores = {c.author: c.score(0, c.slots) for c in found}
    assert scores[near] == pytest.approx(1.0)
    assert scores[far] == pytest.approx(0.5 + 0.5 / 11)
    assert scores[full] == pytest.approx(0.55)
