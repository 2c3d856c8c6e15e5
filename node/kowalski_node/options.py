"""What the owner of a device chose for its node, complete and checked.

An option reaches the node as a flag, as a variable of the environment or as a key of `config.toml`,
and there as whatever TOML can say. Each reader below takes one `Given`, which knows where it was
found, and returns what the node uses or refuses it by that name: what was accepted and ignored, or
taken for false, would be a promise broken in silence. What the device advertises of this is bounded
as tasks are, since one event that is too large would stop its feed on every other device.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from kowalski_protocol.errors import Problem
from kowalski_protocol.limits import LAN, LIMITS, Timers
from kowalski_protocol.tasks import KINDS, KINDS_TO_COME

SLOTS_MAX: Final = 4096
"""More runs at a time than any device has cores."""
COST_END: Final = 1e12
"""Costs stay below, so that sums of them stay exact enough to compare."""
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LABELS_WITH_MEANING: Final = {"home": "yes", "leader": "never"}
"""Labels that the cluster itself reads, with the one value that means something."""
SHOWN_LENGTH_MAX: Final = 80
"""Characters of what was given that a refusal repeats."""

_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")
_NAMES_TO_COME: Final = frozenset({*KINDS_TO_COME, "llm"})
"""`llm` is what people call the kinds of language models."""
_OPTIONS_TO_COME: Final = frozenset({"model_server"})
"""Options that the contract names, which are refused by name."""


class NodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `kowalski-node`, after flags, environment, config file and defaults."""

    home: Path
    name: str
    listen: tuple[str, ...]
    """Multiaddrs."""
    ports_tried: int = 1
    """How many port numbers may be tried, from those of `listen` upwards; 1 where the owner named
    them.
    """
    peers: tuple[str, ...] = ()
    join: str | None = None
    api_host: str = "127.0.0.1"
    api_port: int = 52420
    api_token: str | None = None
    slots: int | None = None
    labels: dict[str, str] = {}
    run: tuple[str, ...] | None = None
    """The task kinds to take; None: all that the device can."""
    costs: dict[str, float] = {}
    mdns: bool = True
    unsandboxed: bool = False
    archive: bool = False
    timers: Timers = LAN


class Given(msgspec.Struct, frozen=True):
    """What stands for one option, and where. All readers raise Problem for what they can't use."""

    name: str
    """As a refusal names it: `--slots`, `KOWALSKI_SLOTS`, `'slots' in config.toml`."""
    content: Any
    """None where the option was not given."""

    def text(self, wanted: str = "a text") -> str | None:
        """The one text."""
        if self.content is None or _is_text(self.content):
            return self.content
        raise self.refused(wanted)

    def texts(self, wanted: str = "a text or a list of texts") -> list[str]:
        """The texts of a list, or those of one text with commas between them."""
        content = self.content
        if content is None:
            return []
        if _is_text(content):
            return [part.strip() for part in content.split(",") if part.strip()]
        if not isinstance(content, list):
            raise self.refused(wanted)
        found = cast("list[Any]", content)
        for one in found:
            if not _is_text(one):
                raise Problem("bad_request", f"{self.name} holds {_said(one)}; it takes {wanted}.")
        return found

    def one_of(self, choices: Collection[str], default: str) -> str:
        """One of a few words, however it is capitalised."""
        wanted = f"one of {', '.join(choices)}"
        word = self.text(wanted)
        if word is None:
            return default
        if word.lower() not in choices:
            raise self.refused(wanted)
        return word.lower()

    def is_true(self) -> bool:
        """A switch; off where it was not given."""
        word = self.content
        if isinstance(word, bool) or word is None:
            return bool(word)
        if isinstance(word, str) and word.lower() in (*_TRUE, *_FALSE):
            return word.lower() in _TRUE
        raise self.refused("true or false")

    def device_name(self) -> str | None:
        """What people call the device."""
        wanted = f"a text of 1 to {LIMITS.name_length_max} characters"
        name = self.text(wanted)
        if name is not None and not (name.strip() and len(name) <= LIMITS.name_length_max):
            raise self.refused(wanted)
        return name

    def slots(self) -> int | None:
        """How many runs at a time."""
        slots = self.content
        if slots is None:
            return None
        if isinstance(slots, str):
            try:
                slots = int(slots)
            except ValueError:
                slots = 0
        if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= SLOTS_MAX:
            raise self.refused(f"a whole number from 1 to {SLOTS_MAX}")
        return slots

    def kinds(self) -> tuple[str, ...] | None:
        """The task kinds to take."""
        if self.content is None:
            return None
        kinds = tuple(self.texts("task kinds, such as code,tool"))
        if not kinds:
            raise Problem("bad_request", f"{self.name} names no task kind: {', '.join(KINDS)}.")
        for kind in kinds:
            self._check_kind(kind)
        return kinds

    def labels(self) -> dict[str, str]:
        """The device's labels, bounded as those of a task are."""
        labels: dict[str, str] = {}
        for key, text in self._pairs().items():
            if not _is_text(text):
                raise Problem(
                    "bad_request",
                    f"{self.name} has {_said(text)} for {_said(key)}; a label's value is a text.",
                )
            if max(len(key), len(text)) > LIMITS.label_length_max:
                raise Problem(
                    "bad_request",
                    f"{self.name} takes keys and values of at most {LIMITS.label_length_max}"
                    f" characters; that of {_said(key)} is longer.",
                )
            meaning = LABELS_WITH_MEANING.get(key, text)
            if text != meaning:
                raise Problem(
                    "bad_request",
                    f"{self.name} has {_said(text)} for '{key}', which the cluster reads as"
                    f" {key}={meaning} alone; where that is not meant, leave the label out.",
                )
            labels[key] = text
        if len(labels) > LIMITS.labels_max:
            raise Problem(
                "bad_request",
                f"{self.name} has {len(labels)} labels; a device has at most {LIMITS.labels_max}.",
            )
        return labels

    def costs(self) -> dict[str, float]:
        """What a run of a kind costs; at most one for each kind that there is."""
        costs: dict[str, float] = {}
        for kind, number in self._pairs().items():
            self._check_kind(kind)
            try:
                # True is a number to Python, and not what anybody calls one.
                cost = float(number) if type(number) in (str, int, float) else -1.0
            except (ValueError, OverflowError):
                cost = -1.0
            if not 0 <= cost < COST_END:
                raise Problem(
                    "bad_request",
                    f"{self.name} has {_said(number)} for {_said(kind)}; a cost is a number from 0"
                    " up.",
                )
            costs[kind] = cost
        return costs

    def _pairs(self) -> dict[str, Any]:
        """K=V texts, or a table of TOML."""
        if isinstance(self.content, dict):
            table = cast("dict[str, Any]", self.content)
            if "" in table:
                raise Problem("bad_request", f"{self.name} has an empty key.")
            return table
        pairs: dict[str, Any] = {}
        for text in self.texts("K=V, a list of these, or a table"):
            key, equals, rest = text.partition("=")
            if not key or not equals:
                raise Problem("bad_request", f"{self.name} takes K=V, not {_said(text)}.")
            pairs[key] = rest
        return pairs

    def _check_kind(self, kind: str) -> None:
        if kind in _NAMES_TO_COME:
            raise Problem(
                "not_supported",
                f"{self.name} names the kind '{kind}', which is not built in this release; there"
                f" are {', '.join(KINDS)}.",
            )
        if kind not in KINDS:
            raise Problem(
                "unknown_kind",
                f"{self.name} names {_said(kind)}, which is no task kind; there are"
                f" {', '.join(KINDS)}.",
            )

    def refused(self, wanted: str) -> Problem:
        """The problem that says what was given, where, and what would be right."""
        sentence = f"{self.name} is {_said(self.content)}; it takes {wanted}."
        return Problem("bad_request", sentence, mend="kowalski-node --help")


def known_settings(settings: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """What `config.toml` says, by option: `no-mdns` and `no_mdns` are one. Raises Problem for a key
    that is no option, since what is misspelt would be ignored.
    """
    found: dict[str, Any] = {}
    for key, content in settings.items():
        option = key.replace("-", "_")
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            offered = ", ".join(sorted({*known} - _OPTIONS_TO_COME))
            hint = f"did you mean '{near[0]}'?" if near else f"it knows {offered}."
            raise Problem("bad_request", f"config.toml has no key {_said(key)}; {hint}")
        if option in found:
            raise Problem("bad_request", f"config.toml has '{option}' twice, in two spellings.")
        found[option] = content
    return found


def _is_text(content: Any) -> bool:
    """Whether it is text that others can be told: bytes of no encoding reach us as surrogates."""
    if not isinstance(content, str):
        return False
    try:
        content.encode()
    except UnicodeEncodeError:
        return False
    return True


def _said(content: Any) -> str:
    """What was given, short and without escapes."""
    if isinstance(content, bool):
        return str(content).lower()
    if isinstance(content, str):
        cut = content if len(content) <= SHOWN_LENGTH_MAX else content[:SHOWN_LENGTH_MAX] + "..."
        return repr(cut)
    if isinstance(content, int | float):
        return f"the number {content}" if abs(content) < COST_END else "a number out of all bounds"
    if isinstance(content, list):
        return "a list"
    return "a table" if isinstance(content, dict) else "a date or time"
