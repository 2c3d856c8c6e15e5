"""Where a task may run: requirements, filters, who is there, who is refused, and what it awaits.

The cluster is `desk` (the founder), `laptop` and `attic`. Each test says what its devices advertise
and who is alive, and asks the pure functions. Which of those that may is best is in
`test_core_placement_choice.py`.
"""

from __future__ import annotations

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
    Refused,
    Waiting,
    candidates,
    capable,
    mismatch,
    refusal,
)
from kowalski_protocol.codec import encode
from kowalski_protocol.errors import CODES
from kowalski_protocol.events import CapabilitiesAdvertised, ClusterFounded, MemberAdmitted
from kowalski_protocol.identity import Identity, peer_id
from kowalski_protocol.ids import Author
from kowalski_protocol.tasks import REQUIREMENTS, TaskSpec
from tests.units.bench import advert
from tests.units.histories import Writer

PLAIN = advert(accelerators=("NVIDIA H200",), labels={"room": "attic"}, tools=("echo",))
ECHO = TaskSpec("tool", "echo", bytes(32), 0)
PYTHON = TaskSpec("code", "python", bytes(32), 0)
STRANGER = Identity(b"s" * 32)
NAMES = ("desk", "laptop", "attic")


def like(spec: TaskSpec, **changes: Any) -> TaskSpec:
    return msgspec.structs.replace(spec, **changes)


def offers(**changes: Any) -> CapabilitiesAdvertised:
    return msgspec.structs.replace(PLAIN, **changes)


class Home:
    """A state with named members (but for `nameless`), and what each of them advertises."""

    def __init__(self, **adverts: CapabilitiesAdvertised | None) -> None:
        names = list(adverts) or list(NAMES)
        self.writers = {name: Writer(name) for name in names}
        founder = self.writers[names[0]]
        founded = ClusterFounded("home", founder.author, names[0], b"nonce")
        cluster = cluster_id(encode(founded))
        self.state = State(cluster)
        for writer in self.writers.values():
            writer.cluster = cluster
        fold(self.state, founder.write(founded))
        for name in names[1:]:
            shown = "" if name == "nameless" else name
            fold(self.state, founder.write(MemberAdmitted(self[name], shown, "member")))
        for name in names:
            body = adverts.get(name, PLAIN)
            if body is not None:
                fold(self.state, self.writers[name].write(body))

    def __getitem__(self, name: str) -> Author:
        return self.writers[name].author

    def names(self, authors: list[Author]) -> list[str]:
        return [self.state.members[author].name for author in authors]

    def able(self, spec: TaskSpec, submitter: str = "desk") -> set[str]:
        return set(self.names(capable(self.state, spec, self[submitter])[0]))

    def unable(self, spec: TaskSpec, submitter: str = "desk") -> dict[str, str]:
        unable = capable(self.state, spec, self[submitter])[1]
        return {self.state.members[author].name: why for author, why in unable.items()}

    def live(self, spec: TaskSpec, submitter: str, *alive: str) -> list[Candidate] | Waiting:
        there = [self[name] for name in alive]
        return candidates(self.state, spec, self[submitter], there, {}, {})

    def may_run(self, spec: TaskSpec, submitter: str, *alive: str) -> set[str]:
        live = self.live(spec, submitter, *alive)
        assert not isinstance(live, Waiting), live
        return set(self.names([candidate.author for candidate in live]))

    def waits(self, spec: TaskSpec, submitter: str, *alive: str) -> str:
        live = self.live(spec, submitter, *alive)
        assert isinstance(live, Waiting)
        return live.sentence

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
        ({"platform": "linux/x86_64"}, None),
        ({"platform": "darwin"}, "is linux/x86_64"),
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
        (offers(kinds=("tool",)), PYTHON, "does not run code tasks"),
        (PLAIN, like(PYTHON, need="rust"), "does not run rust"),
        (PLAIN, like(ECHO, need="saw"), "has no tool saw"),
        (PLAIN, like(ECHO, kind="chat"), "does not run chat tasks"),
        (
            offers(platform=""),
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
    nothing = offers(
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


# Who could run it.


def test_every_member_that_offers_it_could() -> None:
    assert Home().able(ECHO, "laptop") == set(NAMES)
    home = Home(desk=PLAIN, laptop=offers(tools=()), attic=None)
    assert home.able(ECHO) == {"desk"}
    assert home.unable(ECHO) == {"laptop": "has no tool echo"}, "the attic has said nothing"


def test_local_is_the_submitters_own_device() -> None:
    local = like(ECHO, device_filter="local")
    assert Home().able(local, "laptop") == {"laptop"}
    reason = "is not the submitter's device"
    assert Home().unable(local, "laptop") == {"desk": reason, "attic": reason}


def test_network_is_every_member_but_the_submitter() -> None:
    network = like(ECHO, device_filter="network")
    assert Home().able(network, "laptop") == {"desk", "attic"}
    assert Home().unable(network, "laptop") == {"laptop": "is the submitter's own device"}


def test_network_is_the_submitter_where_no_other_member_can() -> None:
    home = Home(desk=offers(tools=()), laptop=PLAIN, attic=offers(tools=()))
    network = like(ECHO, device_filter="network")
    assert home.able(network, "laptop") == {"laptop"}
    assert home.may_run(network, "laptop", *NAMES) == {"laptop"}


def test_a_device_that_is_asked_for_is_the_only_one() -> None:
    home = Home()
    pinned = like(ECHO, requires={"device": peer_id(home["attic"])})
    assert home.able(pinned) == {"attic"}
    reason = "is not the device that is asked for"
    assert home.unable(pinned) == {"desk": reason, "laptop": reason}


def test_what_names_no_device_at_all_is_no_device() -> None:
    home = Home()
    nobody = like(ECHO, requires={"device": "the one upstairs"})
    assert capable(home.state, nobody, home["desk"]) == capable(home.state, ECHO, home["desk"])


@pytest.mark.parametrize("device_filter", ["network", "all"])
def test_the_submitter_may_pin_a_task_to_its_own_device(device_filter: str) -> None:
    home = Home()
    pinned = like(ECHO, requires={"device": peer_id(home["desk"])}, device_filter=device_filter)
    assert home.may_run(pinned, "desk", "desk", "laptop") == {"desk"}


# Who is there.


@given(
    st.sampled_from(["local", "network", "all"]),
    st.sets(st.sampled_from(NAMES)),
    st.sets(st.sampled_from(NAMES)),
)
def test_a_task_only_goes_to_the_living_who_can(
    device_filter: str, able: set[str], alive: set[str]
) -> None:
    home = Home(**{name: offers(tools=("echo",) if name in able else ()) for name in NAMES})
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


def test_network_is_the_submitter_while_no_other_who_can_is_alive() -> None:
    network = like(ECHO, device_filter="network")
    home = Home()
    assert home.may_run(network, "laptop", "laptop") == {"laptop"}
    assert home.may_run(network, "laptop", "laptop", "attic") == {"attic"}
    away = "waits for desk, attic, which could run it and are away"
    assert home.waits(network, "laptop") == away


def test_network_does_not_fall_back_to_a_submitter_that_can_not_run_it() -> None:
    home = Home(desk=offers(tools=()), laptop=PLAIN, attic=PLAIN)
    network = like(ECHO, device_filter="network")
    away = "waits for laptop, attic, which could run it and are away"
    assert home.waits(network, "desk", "desk") == away


def test_a_pinned_task_never_falls_back_to_another_device() -> None:
    home = Home()
    pinned = like(ECHO, device_filter="network", requires={"device": peer_id(home["laptop"])})
    away = "waits for laptop, which could run it and is away"
    assert home.waits(pinned, "desk", "desk", "attic") == away


def test_a_local_task_of_a_device_that_is_away_waits_for_it() -> None:
    local = like(ECHO, device_filter="local")
    away = "waits for desk, which could run it and is away"
    assert Home().waits(local, "desk", "laptop", "attic") == away


def test_a_task_that_nobody_can_run_waits_for_somebody() -> None:
    saw = like(ECHO, need="saw")
    assert Home().waits(saw, "desk", *NAMES) == "waits for a device that can run it"


def test_of_those_who_are_away_three_are_named() -> None:
    home = Home(**{f"device{number}": PLAIN for number in range(5)})
    away = "waits for device0, device1, device2, which could run it and are away"
    assert home.waits(ECHO, "device0") == away


def test_a_nameless_device_is_shown_by_the_end_of_its_key() -> None:
    home = Home(desk=offers(tools=()), nameless=PLAIN)
    shown = peer_id(home["nameless"])[-8:]
    assert home.waits(ECHO, "desk") == f"waits for {shown}, which could run it and is away"
    refused = home.refused(like(ECHO, requires={"cores": 99}))
    assert refused.sentence.endswith(f"; {shown} has 4 cores, 99 are asked for.")
    home = Home(desk=PLAIN, nameless=None)
    refused = home.refused(like(ECHO, requires={"device": peer_id(home["nameless"])}))
    assert refused == Refused("not_ready", f"{shown} has not said yet what it can run.")


@pytest.mark.parametrize(("slots", "counted"), [(0, 1), (-5, 1), (3, 3), (1 << 62, SLOTS_MAX)])
def test_the_places_that_a_device_claims_are_bounded(slots: int, counted: int) -> None:
    live = Home(desk=offers(slots=slots)).live(ECHO, "desk", "desk")
    assert not isinstance(live, Waiting)
    assert [candidate.slots for candidate in live] == [counted]


# Refusals.


def test_what_some_member_could_run_is_not_refused() -> None:
    home = Home(desk=offers(tools=()), laptop=PLAIN)
    assert refusal(home.state, ECHO, home["desk"]) is None
    pinned = like(ECHO, requires={"device": peer_id(home["laptop"])})
    assert refusal(home.state, pinned, home["desk"]) is None


def test_a_task_that_asked_to_be_queued_is_never_refused() -> None:
    home = Home()
    spec = like(ECHO, need="saw", failover="queue")
    assert refusal(home.state, spec, home["desk"]) is None


def test_before_any_device_has_said_what_it_can_run_nothing_is_ready() -> None:
    refused = Home(desk=None).refused(ECHO)
    assert refused == Refused("not_ready", "No device has said yet what it can run.")


@pytest.mark.parametrize("how", ["local", "pinned"])
def test_of_a_device_that_has_not_said_what_it_offers_nothing_can_be_said(how: str) -> None:
    home = Home(desk=PLAIN, laptop=None)
    local = like(ECHO, device_filter="local")
    pinned = like(ECHO, requires={"device": peer_id(home["laptop"])})
    refused = home.refused(local if how == "local" else pinned, "laptop")
    assert refused == Refused("not_ready", "laptop has not said yet what it can run.")


def test_a_local_task_that_its_own_device_can_not_run_is_refused_with_the_reason() -> None:
    home = Home(desk=offers(cores=1), laptop=PLAIN)
    refused = home.refused(like(ECHO, device_filter="local", requires={"cores": 2}))
    assert refused == Refused(
        "impossible_requirement",
        "No device could run this task: desk has 1 cores, 2 are asked for;"
        " laptop is not the submitter's device.",
    )


def test_a_task_for_all_is_refused_although_its_submitter_has_said_nothing() -> None:
    refused = Home(desk=None, laptop=PLAIN).refused(like(ECHO, need="saw"))
    assert refused.code == "unknown_tool"


def test_code_is_refused_with_what_the_devices_lack() -> None:
    no_code = offers(kinds=("tool",), problems=("bubblewrap is missing.",))
    refused = Home(desk=no_code, laptop=no_code, attic=no_code).refused(PYTHON)
    assert refused == Refused(
        "sandbox_unavailable",
        "No device takes code. bubblewrap is missing. bubblewrap is missing.",
    )


@pytest.mark.parametrize(
    ("body", "spec", "code", "sentence"),
    [
        (
            offers(languages={"rust": "1", "python": "3"}),
            like(PYTHON, need="cobol"),
            "unknown_language",
            "No device runs 'cobol'; the cluster has python, rust.",
        ),
        (
            offers(languages={}),
            like(PYTHON, need="rust"),
            "unknown_language",
            "No device runs 'rust'; the cluster has no languages.",
        ),
        (
            offers(tools=("sleep", "echo")),
            like(ECHO, need="saw"),
            "unknown_tool",
            "No device has a tool 'saw'; the cluster has echo, sleep.",
        ),
        (
            offers(tools=()),
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
