"""What a node advertises at its start fits into one event, whatever owner and probes say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kowalski_node.executor import Attempt, Capabilities, Completed, Context, Outcome
from kowalski_node.options import NodeOptions
from kowalski_node.sampler import Accelerator, Hardware
from kowalski_node.start import PROBLEM_LENGTH_MAX, PROBLEMS_MAX, probed_capabilities
from kowalski_protocol.codec import encode
from kowalski_protocol.events import CapabilitiesAdvertised
from kowalski_protocol.limits import LIMITS

WIDE = "\N{GRINNING FACE}"
"""As many bytes as a character may take."""


class Loud:
    """An executor whose probe says what it is told to."""

    name = "tool"

    def __init__(self, said: Capabilities) -> None:
        self._said = said

    async def probe(self) -> Capabilities:
        return self._said

    async def probe_all(self) -> Capabilities:
        return self._said

    async def run(self, attempt: Attempt, context: Context) -> Outcome:
        return Completed()


async def advertised(
    said: Capabilities, *, labels: Mapping[str, str] | None = None, **more: Any
) -> CapabilitiesAdvertised:
    options = NodeOptions(
        home=Path("/nowhere"),
        name=WIDE * LIMITS.name_length_max,
        listen=(),
        labels=dict(labels or {}),
        costs={"code": 1.0, "tool": 1.0},
    )
    hardware = Hardware(1, 1, 1, more.get("accelerators", ()), "linux-x86_64", "3.11")
    return await probed_capabilities(options, [Loud(said)], hardware, slots=1)


async def test_the_longest_of_everything_fits_into_one_event() -> None:
    labels = {
        f"{number:02}" + WIDE * (LIMITS.label_length_max - 2): WIDE * LIMITS.label_length_max
        for number in range(LIMITS.labels_max)
    }
    said = Capabilities(
        kinds=("tool",),
        tools=[f"{number:03}" + WIDE * 125 for number in range(200)] + [WIDE * 100_000],
        languages={f"{number:03}" + WIDE * 125: WIDE * 100_000 for number in range(200)},
        problems=[WIDE * 100_000] * 200,
    )
    accelerators = (Accelerator("nvidia", WIDE * 100_000, None),) * 200
    advert = await advertised(said, labels=labels, accelerators=accelerators)
    assert len(encode(advert)) <= LIMITS.body_size_bytes_max
    # What the owner chose is whole.
    assert advert.labels == labels
    assert advert.kinds == ("tool",)
    assert advert.device_name == WIDE * LIMITS.name_length_max


async def test_long_sentences_of_a_probe_are_cut_and_its_tools_are_kept() -> None:
    problems = ["short", "x" * 100_000, *(["y" * 2000] * 100)]
    tools = ("echo", "hash", "x" * (LIMITS.label_length_max + 1))
    said = Capabilities(kinds=("tool",), tools=tools, languages={"py": "3"}, problems=problems)
    advert = await advertised(said)
    assert advert.problems[:2] == ("short", "x" * (PROBLEM_LENGTH_MAX - 3) + "...")
    assert len(advert.problems) == PROBLEMS_MAX
    assert {len(text) for text in advert.problems[1:]} == {PROBLEM_LENGTH_MAX}
    assert advert.tools == ("echo", "hash")
    assert advert.languages == {"py": "3"}
