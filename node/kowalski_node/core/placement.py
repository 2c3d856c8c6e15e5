"""Where a task may run, and where it runs best: `Placed | Waiting | Refused`.

Three questions in turn. *Could* a device ever run it (kind, language or tool, requirements)? A task
that no member could run is refused at once, unless it asked to be queued. Is one of those alive and
within the task's device filter? Otherwise it waits, and says for what. Which of those with a free
place scores best? The cost is O(devices) a task; what does not change from task to task is prepared
once a round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

import msgspec

from kowalski_ledger.state import State
from kowalski_protocol.events import CapabilitiesAdvertised
from kowalski_protocol.identity import author_of, peer_id
from kowalski_protocol.ids import Author
from kowalski_protocol.tasks import REQUIREMENTS, TaskSpec

from .scoring import cost_part, latency_part, load_part, memory_fraction, usable

SLOTS_MAX = 512
"""What a device may claim for itself: a lost device never held more."""
_OWN_DEVICE = "is the submitter's own device"


class Refused(msgspec.Struct, frozen=True):
    """No member could ever run it."""

    code: str
    sentence: str


class Waiting(msgspec.Struct, frozen=True):
    """It can't be placed now; the sentence says what it waits for."""

    sentence: str


class Placed(msgspec.Struct, frozen=True):
    """The best device, and what the others scored."""

    device: Author
    score: float
    considered: tuple[tuple[bytes, float], ...]


class Measure(msgspec.Struct, frozen=True):
    """What the leader measures of a device, beside what it advertises."""

    round_trip_ms: float = 0.0
    sample: Mapping[str, object] | None = None


class Candidate:
    """A live device that may run a class of tasks; the parts of its score that hold for a round."""

    __slots__ = ("author", "fixed", "free_memory", "load_weight", "slots")

    def __init__(
        self, author: Author, slots: int, fixed: float, free_memory: float, load_weight: float
    ) -> None:
        self.author = author
        self.slots = slots
        self.fixed = fixed
        self.free_memory = free_memory
        self.load_weight = load_weight

    def score(self, placed: int, places: int) -> float:
        """The whole score with `placed` of `places` taken."""
        return self.fixed + self.load_weight * self.free_memory * max(0.0, 1.0 - placed / places)


def mismatch(advert: CapabilitiesAdvertised, spec: TaskSpec) -> str | None:
    """Why a device with these capabilities can never run the task; None where it can."""
    if spec.kind not in advert.kinds:
        return f"does not run {spec.kind} tasks"
    if spec.kind == "code" and spec.need not in advert.languages:
        return f"does not run {spec.need}"
    if spec.kind == "tool" and spec.need not in advert.tools:
        return f"has no tool {spec.need}"
    return _unmet(advert, spec.requires) if spec.requires else None


def _unmet(advert: CapabilitiesAdvertised, requires: Mapping[str, Any]) -> str | None:
    memory_mb = requires.get("memory_mb")
    if memory_mb is not None and advert.memory_total_bytes < memory_mb * 1024 * 1024:
        return f"has {advert.memory_total_bytes // 2**20} MiB of memory, {memory_mb} are asked for"
    cores = requires.get("cores")
    if cores is not None and advert.cores < cores:
        return f"has {advert.cores} cores, {cores} are asked for"
    accelerator = requires.get("accelerator")
    if accelerator is not None and not any(
        str(accelerator).lower() in a.lower() for a in advert.accelerators
    ):
        return f"has no accelerator {accelerator}"
    platform = requires.get("platform")
    if platform is not None and not advert.platform.startswith(str(platform)):
        return f"is {advert.platform or 'of an unknown platform'}"
    sandbox = requires.get("sandbox")
    if sandbox is not None and advert.sandbox != sandbox:
        return f"has the sandbox '{advert.sandbox}'"
    labels: Mapping[str, str] = requires.get("labels") or {}
    for key, value in labels.items():
        if advert.labels.get(key) != value:
            return f"is not labelled {key}={value}"
    for name in requires:
        if name not in REQUIREMENTS:
            return f"does not know the requirement '{name[:40]}'"
    return None


def capable(
    state: State, spec: TaskSpec, submitter: Author
) -> tuple[list[Author], dict[Author, str]]:
    """The members that could run the task, alive or not, and why each of the others can't."""
    wanted = spec.requires.get("device")
    pinned = author_of(str(wanted)) if wanted is not None else None
    able: list[Author] = []
    unable: dict[Author, str] = {}
    for author, advert in state.adverts.items():
        if pinned is not None and author != pinned:
            unable[author] = "is not the device that is asked for"
        elif spec.device_filter == "local" and author != submitter:
            unable[author] = "is not the submitter's device"
        else:
            why = mismatch(advert.body, spec)
            if why is None:
                able.append(author)
            else:
                unable[author] = why
    if spec.device_filter == "network" and len(able) > 1 and submitter in able:
        able.remove(submitter)
        unable[submitter] = _OWN_DEVICE
    return able, unable


def refusal(state: State, spec: TaskSpec, submitter: Author) -> Refused | None:
    """The reason to refuse a task at submission: no member could ever run it."""
    able, unable = capable(state, spec, submitter)
    if able or spec.failover == "queue":
        return None
    if not state.adverts:
        return Refused("not_ready", "No device has said yet what it can run.")
    named = author_of(str(spec.requires.get("device") or ""))
    if named is None and spec.device_filter == "local":
        named = submitter
    if named is not None and named in state.members and named not in state.adverts:
        name = state.members[named].name or peer_id(named)[-8:]
        return Refused("not_ready", f"{name} has not said yet what it can run.")
    kinds = {k for a in state.adverts.values() for k in a.body.kinds}
    if spec.kind == "code" and "code" not in kinds:
        problems = [p for a in state.adverts.values() for p in a.body.problems]
        return Refused("sandbox_unavailable", "No device takes code. " + " ".join(problems[:2]))
    if spec.kind == "code":
        known = sorted({lang for a in state.adverts.values() for lang in a.body.languages})
        if spec.need not in known:
            return Refused(
                "unknown_language",
                f"No device runs '{spec.need}'; the cluster has"
                f" {', '.join(known) or 'no languages'}.",
            )
    if spec.kind == "tool":
        known = sorted({tool for a in state.adverts.values() for tool in a.body.tools})
        if spec.need not in known:
            return Refused(
                "unknown_tool",
                f"No device has a tool '{spec.need}'; the cluster has"
                f" {', '.join(known) or 'none'}.",
            )
    reasons = "; ".join(
        f"{state.members[author].name or peer_id(author)[-8:]} {why}"
        for author, why in list(unable.items())[:4]
    )
    return Refused("impossible_requirement", f"No device could run this task: {reasons}.")


def candidates(
    state: State,
    spec: TaskSpec,
    submitter: Author,
    alive: Iterable[Author],
    measures: Mapping[Author, Measure],
    weights: Mapping[str, float],
) -> list[Candidate] | Waiting:
    """The live devices for a class of tasks, or what it waits for."""
    able, unable = capable(state, spec, submitter)
    alive = frozenset(alive)
    live = [author for author in able if author in alive]
    if not live and submitter in alive and unable.get(submitter) == _OWN_DEVICE:
        live = [submitter]
    if not live:
        names = ", ".join(state.members[a].name or peer_id(a)[-8:] for a in able[:3])
        if able:
            return Waiting(f"waits for {names}, which could run it and {_is_are(able)} away")
        return Waiting("waits for a device that can run it")
    weights = usable(weights)
    total = sum(weights.values()) or 1.0
    load_weight = weights.get("load", 0.0) / total
    result: list[Candidate] = []
    for author in live:
        body = state.adverts[author].body
        measure = measures.get(author) or Measure()
        free = load_part(memory_fraction(measure.sample), 0.0)
        fixed = (
            weights.get("latency", 0.0) * latency_part(measure.round_trip_ms)
            + weights.get("cost", 0.0) * cost_part(body.costs.get(spec.kind, 0.0))
            + weights.get("specialization", 0.0)
        ) / total
        slots = min(max(1, body.slots), SLOTS_MAX)
        result.append(Candidate(author, slots, fixed, free, load_weight))
    return result


def _is_are(authors: list[Author]) -> str:
    return "is" if len(authors) == 1 else "are"


def choose(
    live: list[Candidate],
    placed: Mapping[Author, int],
    prefetch: Mapping[Author, int],
    shown: int,
    tried: Set[Author] = frozenset(),
) -> Placed | None:
    """The best candidate with a free place; None where all are full.

    A free slot goes before a place behind a running task, however good that device is otherwise;
    and a device that had the task before gets it again only where no other has a place.
    """
    best: Candidate | None = None
    best_score = best_standing = -2.0
    scores: list[tuple[bytes, float]] = []
    for candidate in live:
        taken = placed.get(candidate.author, 0)
        places = candidate.slots + prefetch.get(candidate.author, 0)
        value = candidate.score(taken, places)
        if len(scores) < shown:
            scores.append((candidate.author[:4], round(value, 4)))
        standing = value + (taken < candidate.slots) - 2 * (candidate.author in tried)
        if taken < places and (best is None or standing > best_standing):
            best, best_score, best_standing = candidate, value, standing
    if best is None:
        return None
    return Placed(best.author, round(best_score, 4), tuple(scores))
