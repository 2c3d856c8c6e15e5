"""Where a task runs best: the score of a device that may run it, and the choice among several."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_node.core.placement import Candidate, Measure, Placed, Waiting, candidates, choose
from kowalski_node.core.scoring import DEFAULT_WEIGHTS, PARTS
from kowalski_protocol.ids import Author
from kowalski_protocol.tasks import TaskSpec
from tests.units.bench import advert
from tests.units.histories import History, folded

NAN, INF = math.nan, math.inf
A, B, C = (Author(letter * 32) for letter in (b"a", b"b", b"c"))
HALF_FULL: dict[str, object] = {"memory_used_bytes": 4, "memory_total_bytes": 8}


def rated(
    weights: dict[str, float] | None = None,
    *measures: Measure | None,
    kind: str = "tool",
    **changes: Any,
) -> list[Candidate]:
    """As many devices as there are measures (one without any), as candidates for a task."""
    history = History(max(1, len(measures)))
    history.admit_all()
    for device in history.devices:
        history.write(device, advert(**changes))
    authors = [device.author for device in history.devices]
    known = {a: m for a, m in zip(authors, measures, strict=False) if m is not None}
    spec = TaskSpec(kind, {"tool": "echo", "code": "python"}[kind], bytes(32), 0)
    weights = DEFAULT_WEIGHTS[kind] if weights is None else weights
    state = folded(history, history.written)
    found = candidates(state, spec, authors[0], authors, known, weights)
    assert not isinstance(found, Waiting)
    assert [candidate.author for candidate in found] == authors
    return found


# The score.


def test_the_score_of_an_idle_device_worked_by_hand() -> None:
    sample: dict[str, object] = {"memory_used_bytes": 2, "memory_total_bytes": 8}
    (candidate,) = rated(None, Measure(50.0, sample), costs={"tool": 1.0})
    # 0.4 x (1 - 2/8) + 0.4 x 1/(1 + 50/50) + 0.1 x 1/(1 + 1) + 0.1 x 1
    assert candidate.score(0, 2) == pytest.approx(0.3 + 0.2 + 0.05 + 0.1)


def test_the_score_of_a_half_taken_device_worked_by_hand() -> None:
    weights = {"load": 0.4, "latency": 0.3, "cost": 0.2, "specialization": 0.1}
    (candidate,) = rated(weights, Measure(50.0, HALF_FULL), costs={"tool": 3.0})
    # load 1/2 of the memory x 3/4 of the places, latency 1/2, cost 1/4, specialization 1
    assert candidate.score(1, 4) == pytest.approx(0.4 * 0.375 + 0.3 * 0.5 + 0.2 * 0.25 + 0.1)
    assert candidate.score(9, 4) == pytest.approx(0.3 * 0.5 + 0.2 * 0.25 + 0.1)


def test_what_costs_nothing_has_the_whole_of_the_cost_part() -> None:
    (free,) = rated({"cost": 1.0}, costs={"code": 9.0})
    assert free.score(0, 2) == 1.0


def test_what_was_not_measured_is_near_and_idle() -> None:
    (candidate,) = rated(None, None, kind="code")
    assert candidate.score(0, 2) == pytest.approx(1.0)


def test_the_weights_are_divided_by_their_sum() -> None:
    measure = Measure(50.0, HALF_FULL)
    (once,) = rated({"load": 1.0, "latency": 3.0}, measure)
    (thrice,) = rated({"load": 3.0, "latency": 9.0}, measure)
    assert once.score(0, 4) == thrice.score(0, 4) == 0.25 * 0.5 + 0.75 * 0.5


def test_a_device_that_is_far_away_or_full_of_memory_is_less_good() -> None:
    full: dict[str, object] = {"memory_used_bytes": 9, "memory_total_bytes": 10}
    weights = {"load": 1.0, "latency": 1.0}
    found = rated(weights, None, Measure(500.0), Measure(0.0, full))
    assert [c.score(0, 2) for c in found] == pytest.approx([1.0, 0.5 + 0.5 / 11, 0.55])


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"load": 0.0},
        {"load": NAN},
        {"load": INF},
        {"load": -1.0, "latency": -5.0},
        {"load": 1e308, "latency": 1e308, "cost": 1e308, "specialization": 1e308},
        {"unheard of": 1.0},
    ],
)
def test_whatever_the_weights_are_a_device_is_chosen(weights: dict[str, float]) -> None:
    (candidate,) = rated(weights)
    for placed in (0, 1, 5, 1000):
        assert 0.0 <= candidate.score(placed, 4) <= 1.0 + 1e-9
    assert choose([candidate], {}, {}, 8) is not None


def test_without_weights_every_device_scores_nothing() -> None:
    assert [c.score(0, 2) for c in rated({}, None, None)] == [0.0, 0.0]


numbers = st.one_of(
    st.none(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(), st.text(max_size=3)
)


@given(
    st.dictionaries(st.sampled_from((*PARTS, "other")), st.floats()),
    st.floats(),
    st.dictionaries(st.sampled_from(("memory_used_bytes", "memory_total_bytes")), numbers),
    st.floats(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(0, 1 << 62),
)
def test_whatever_is_advertised_measured_and_weighed_the_score_is_a_number(
    weights: dict[str, float],
    round_trip_ms: float,
    sample: dict[str, Any],
    cost: float,
    slots: int,
    placed: int,
) -> None:
    measure = Measure(round_trip_ms, sample)
    (candidate,) = rated(weights, measure, costs={"tool": cost}, slots=slots)
    assert 0.0 <= candidate.score(placed, candidate.slots) <= 1.0 + 1e-9
    chosen = choose([candidate], {}, {}, 8)
    assert chosen is not None
    assert math.isfinite(chosen.score)


# The choice.


def candidate(author: Author, fixed: float, slots: int = 1) -> Candidate:
    """A device whose score is `fixed` and half of what of its places is free."""
    return Candidate(author, slots, fixed, 1.0, 0.5)


def device(placed: Placed | None) -> Author | None:
    return None if placed is None else placed.device


def test_the_best_score_is_chosen_and_the_others_are_told() -> None:
    placed = choose([candidate(A, 0.1), candidate(B, 0.4), candidate(C, 0.2)], {}, {}, 8)
    assert placed == Placed(B, 0.9, ((b"aaaa", 0.6), (b"bbbb", 0.9), (b"cccc", 0.7)))


def test_scores_are_told_to_four_places() -> None:
    placed = choose([candidate(A, 1 / 3)], {}, {}, 8)
    assert placed == Placed(A, 0.8333, ((b"aaaa", 0.8333),))


def test_only_so_many_scores_are_told() -> None:
    placed = choose([candidate(A, 0.1), candidate(B, 0.4), candidate(C, 0.2)], {}, {}, 1)
    assert placed == Placed(B, 0.9, ((b"aaaa", 0.6),))


def test_between_equals_the_first_is_chosen() -> None:
    assert device(choose([candidate(B, 0.4), candidate(A, 0.4)], {}, {}, 8)) == B


def test_a_full_device_is_told_and_not_chosen() -> None:
    placed = choose([candidate(A, 0.9), candidate(B, 0.1)], {A: 1}, {}, 8)
    assert placed == Placed(B, 0.6, ((b"aaaa", 0.9), (b"bbbb", 0.6)))


def test_where_all_are_full_nobody_is_chosen() -> None:
    assert choose([candidate(A, 0.9), candidate(B, 0.1)], {A: 1, B: 7}, {}, 8) is None
    assert choose([], {}, {}, 8) is None


def test_a_device_may_hold_a_few_beyond_its_slots() -> None:
    live = [candidate(A, 0.9)]
    beyond = Placed(A, round(0.9 + 0.5 / 3, 4), ((b"aaaa", 1.0667),))
    assert choose(live, {A: 2}, {A: 2}, 8) == beyond
    assert choose(live, {A: 3}, {A: 2}, 8) is None


def test_a_free_slot_goes_before_a_place_behind_a_running_task() -> None:
    # However good the busy device is otherwise: its score is the better one.
    live = [candidate(A, 0.5), candidate(B, 0.0)]
    placed = choose(live, {A: 1}, {A: 9, B: 9}, 8)
    assert placed is not None
    assert dict(placed.considered)[b"aaaa"] > placed.score
    assert placed.device == B
    assert device(choose(live, {A: 1, B: 1}, {A: 9, B: 9}, 8)) == A, "both are busy"
    assert device(choose(live, {A: 0, B: 0}, {A: 9, B: 9}, 8)) == A, "both are free"
    assert device(choose(live, {A: 1}, {A: 9}, 8)) == B


def test_a_device_that_had_the_task_before_is_chosen_only_where_no_other_has_a_place() -> None:
    live = [candidate(A, 0.9), candidate(B, 0.0)]
    placed = choose(live, {}, {}, 8, frozenset({A}))
    assert placed is not None
    assert (placed.device, placed.score) == (B, 0.5)
    placed = choose(live, {B: 1}, {}, 8, frozenset({A}))
    assert placed is not None
    assert (placed.device, placed.score) == (A, 1.4)


def test_another_is_tried_also_where_it_is_busy_and_the_first_is_free() -> None:
    live = [candidate(A, 0.5), candidate(B, 0.0)]
    assert device(choose(live, {B: 1}, {B: 1}, 8, frozenset({A}))) == B


def test_of_those_who_all_had_it_before_the_best_is_chosen() -> None:
    placed = choose([candidate(A, 0.1), candidate(B, 0.4)], {}, {}, 8, frozenset({A, B}))
    assert device(placed) == B


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


def test_the_more_a_device_has_the_less_it_gets() -> None:
    live = [candidate(A, 0.1, 4), candidate(B, 0.1, 4)]
    taken: dict[Author, int] = {A: 0, B: 0}
    order = b""
    for _ in range(8):
        placed = choose(live, taken, {}, 8)
        assert placed is not None
        taken[placed.device] += 1
        order += placed.device[:1]
    assert order == b"abababab"
    assert choose(live, taken, {}, 8) is None, "all are full"
